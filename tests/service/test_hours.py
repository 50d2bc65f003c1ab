"""Which tickers are worth asking for: by exchange, and not worked out anew all the time."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure

from quoteshm.model import DAY_MS, MINUTE_MS, SeriesKind
from quoteshm.service.hours import (
    LATE_MS,
    RETRY_MS,
    SETTLED_MS,
    Hours,
    Now,
    Sessions,
    calendar_of,
    is_always_open,
)
from quoteshm.sources.base import Request
from tests.published import FakeClock

HOUR_MS = 60 * MINUTE_MS
NEW_YORK = "America/New_York"
LONDON = "Europe/London"
ZONES = {"IBM": NEW_YORK, "F": NEW_YORK, "VOD.L": LONDON, "EURUSD=X": LONDON, "X": "Mars/Base"}


def ms(text: str, zone: str = NEW_YORK) -> int:
    """Give a moment of local time."""
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()) * 1000


def sessions(zone: str, *days: str) -> Sessions:
    """Trade from 9:30 to 16:00."""
    return Sessions(
        tuple(ms(f"{day} 09:30", zone) for day in days),
        tuple(ms(f"{day} 16:00", zone) for day in days),
    )


#: A Friday, Monday and Tuesday, and much later.
DAYS = ("2026-11-20", "2026-11-23", "2026-11-24", "2027-06-01")
FRIDAY = sessions(NEW_YORK, *DAYS)


class World:
    """Hours of two exchanges, and a clock."""

    def __init__(self, text: str) -> None:
        self.clock, self.asked = FakeClock(), list[str]()
        self.loading: dict[str, Deferred[Sessions]] = {}
        self.heard: dict[str, int] = {}
        self.zones = dict(ZONES)
        self.wanted = self.requests("IBM", "F", "VOD.L", "EURUSD=X", "X")
        self.hours = Hours(self.clock, self.zones.get, self.load)
        self.at(text)

    @staticmethod
    def requests(*tickers: str) -> tuple[Request, ...]:
        """Want tickers."""
        return tuple(Request(one, (SeriesKind("1d", 5),), lambda *_: None) for one in tickers)

    def load(self, name: str, _now_ms: int) -> Deferred[Sessions]:
        """Note what is to be loaded."""
        self.asked.append(name)
        self.loading[name] = Deferred()
        return self.loading[name]

    def loaded(self) -> None:
        """Have all hours."""
        self.put_off()
        self.loading.pop("XNYS").callback(FRIDAY)
        self.loading.pop("XLON").callback(sessions(LONDON, *DAYS))

    def at(self, text: str) -> None:
        """Set the clock by New York."""
        self.clock.now_ms = ms(text)

    def put_off(self) -> frozenset[str]:
        """Ask which tickers to leave alone."""
        return self.hours.put_off(self.wanted, self.heard)

    def hear(self, *tickers: str) -> None:
        """Note that tickers answered."""
        self.heard |= dict.fromkeys(tickers, self.clock.now_ms)


@pytest.mark.parametrize(
    ("text", "now"),
    [
        ("2026-11-20 09:29", (False, 0, "2026-11-20 09:30", "2026-11-20 09:30")),
        ("2026-11-20 09:30", (True, 0, "2026-11-20 16:30", "2026-11-23 09:30")),
        ("2026-11-20 16:29", (True, 0, "2026-11-20 16:30", "2026-11-23 09:30")),
        ("2026-11-20 16:30", (False, 0, "2026-11-20 17:30", "2026-11-23 09:30")),
        ("2026-11-20 17:30", (False, 1, "2026-11-23 09:30", "2026-11-23 09:30")),
        ("2026-11-22 12:00", (False, 1, "2026-11-23 09:30", "2026-11-23 09:30")),
        ("2026-11-23 09:30", (True, 1, "2026-11-23 16:30", "2026-11-24 09:30")),
    ],
)
def test_a_day_at_an_exchange(text: str, now: tuple[bool, int, str, str]) -> None:
    """Each change comes at the moment that was told before."""
    is_open, is_settled, until, opens = now
    settled_ms = FRIDAY.closes[0] + SETTLED_MS if is_settled else 0
    assert FRIDAY.at(ms(text)) == Now(is_open, settled_ms, ms(until), ms(opens))


def test_sessions_that_touch_are_open_throughout() -> None:
    """As those of futures are, which begin as the one before ends."""
    opens = tuple(range(0, 10 * DAY_MS, DAY_MS))
    all_day = Sessions(opens, tuple(one + DAY_MS for one in opens))
    for now_ms in range(1, 9 * DAY_MS, HOUR_MS):
        now = all_day.at(now_ms)
        assert now is not None
        assert now.is_open
        assert now.until_ms > now_ms


def test_nothing_is_known_behind_the_last_session() -> None:
    """So that its tickers are asked for rather than not."""
    assert FRIDAY.at(FRIDAY.opens[-1]) is None
    assert Sessions((), ()).at(0) is None


def test_symbols_that_trade_around_the_clock() -> None:
    """A share's class is no currency."""
    for symbol in ("EURUSD=X", "ES=F", "BTC-USD", "ETH-EUR"):
        assert is_always_open(symbol)
    for symbol in ("IBM", "BRK-B", "BAC-PL", "VOD.L", "^GSPC", "=X"):
        assert not is_always_open(symbol)


def test_an_exchange_follows_from_zone_and_symbol() -> None:
    """Where one zone has several, from the ending."""
    assert calendar_of("IBM", NEW_YORK) == "XNYS"
    assert calendar_of("SAP.DE", "Europe/Berlin") == "XETR"
    assert calendar_of("SAP.SG", "Europe/Berlin") == "XSTU"
    assert calendar_of("X", "Mars/Base") is None


def test_all_are_due_until_the_hours_are_known() -> None:
    """And each calendar is loaded once."""
    world = World("2026-11-21 12:00")
    assert world.put_off() == world.put_off() == frozenset()
    assert world.asked == ["XNYS", "XLON"]


def test_all_are_due_while_the_exchange_is_open() -> None:
    """Heard of or not."""
    world = World("2026-11-23 10:00")
    world.hear(*ZONES)
    world.loaded()
    assert world.put_off() == set()  # it is 15:00 in London
    assert world.hours.opens_ms("IBM") is None


def test_each_is_asked_once_after_the_close_and_then_not_before_the_next_opening() -> None:
    """Not at a weekend; currencies, and what is of no known exchange, always."""
    world = World("2026-11-20 16:20")
    world.hear(*ZONES)
    world.loaded()
    assert world.put_off() == {"VOD.L"}
    world.at("2026-11-20 16:31")
    assert world.put_off() == {"IBM", "F", "VOD.L"}
    world.at("2026-11-20 17:30")
    assert world.put_off() == {"VOD.L"}
    world.hear("IBM")
    assert world.put_off() == {"IBM", "VOD.L"}
    world.hear("F")
    before = world.put_off()
    assert before == {"IBM", "F", "VOD.L"}
    world.at("2026-11-22 12:00")
    assert world.put_off() is before
    assert world.hours.opens_ms("IBM") == ms("2026-11-23 09:30")
    world.at("2026-11-23 09:30")
    assert world.put_off() == set()


def test_one_that_was_never_heard_of_is_due_at_a_weekend() -> None:
    """Its history is wanted, and so is what a daemon has missed while it did not run."""
    world = World("2026-11-22 12:00")
    world.loaded()
    assert world.put_off() == set()
    world.hear("IBM")
    assert world.put_off() == {"IBM"}


def test_a_ticker_is_placed_once_its_zone_is_known() -> None:
    """With its first bars."""
    world = World("2026-11-22 12:00")
    world.zones.clear()
    assert world.put_off() == set()
    assert world.asked == []
    world.zones |= ZONES
    world.hear("IBM")
    world.loaded()
    assert world.put_off() == {"IBM"}


def test_tickers_that_come_and_go() -> None:
    """No calendar is loaded again for them."""
    world = World("2026-11-22 12:00")
    world.hear(*ZONES)
    world.loaded()
    assert world.put_off() == {"IBM", "F", "VOD.L"}
    world.wanted = world.requests("IBM", "GE")
    world.zones["GE"] = NEW_YORK
    assert world.put_off() == {"IBM"}
    world.hear("GE")
    assert world.put_off() == {"IBM", "GE"}
    assert world.asked == ["XNYS", "XLON"]


def test_a_calendar_that_fails_is_said_once_and_tried_again_a_day_later() -> None:
    """Until then its tickers are asked for at any time."""
    world, events = World("2026-11-22 12:00"), list[Any]()
    observer: Any = events.append
    world.hear(*ZONES)
    world.put_off()
    globalLogPublisher.addObserver(observer)
    try:
        world.loading.pop("XNYS").errback(Failure(ValueError("no such day")))
    finally:
        globalLogPublisher.removeObserver(observer)
    world.loading.pop("XLON").callback(sessions(LONDON, *DAYS))
    assert world.put_off() == {"VOD.L"}
    assert [one["why"] for one in events] == ["no such day"]
    world.clock.now_ms += RETRY_MS
    world.put_off()
    assert world.asked == ["XNYS", "XLON", "XNYS"]


def test_hours_of_another_year_are_loaded_anew() -> None:
    """The clock was wrong by months when they were loaded: nothing of then holds."""
    world = World("2026-11-23 12:00")
    now_ms = world.clock.now_ms
    world.clock.now_ms += 200 * DAY_MS
    world.put_off()
    world.loading.pop("XNYS").callback(FRIDAY)
    world.loading.pop("XLON").errback(OSError("no calendar"))
    world.hear("IBM")
    world.put_off()
    assert world.asked == ["XNYS", "XLON"]
    world.clock.now_ms = now_ms
    assert world.put_off() == frozenset()
    assert world.asked == ["XNYS", "XLON"] * 2
    world.loading.pop("XNYS").callback(FRIDAY)
    assert world.put_off() == frozenset()
    world.at("2026-11-23 18:00")
    world.hear("F")
    assert world.put_off() == {"F"}  # what was heard in times to come was not the close
    world.hear("IBM")
    assert world.put_off() == {"F", "IBM"}


def test_a_first_start_while_closed_asks_once() -> None:
    """At a weekend too: the zone comes with the first bars, which are then those of the close."""
    world = World("2026-11-22 12:00")
    world.zones.clear()
    assert world.put_off() == frozenset()
    world.zones |= ZONES
    world.hear(*ZONES)
    assert world.put_off() == frozenset()
    world.loaded()
    assert world.put_off() == {"IBM", "F", "VOD.L"}


def test_a_clock_that_is_set_back_changes_what_is_put_off() -> None:
    """From a weekend into a session."""
    world = World("2026-11-22 12:00")
    world.hear(*ZONES)
    world.loaded()
    assert "IBM" in world.put_off()
    world.at("2026-11-20 12:00")
    assert "IBM" not in world.put_off()


def test_the_closing_auction_is_waited_for() -> None:
    """And the day's bar settles later than that."""
    assert LATE_MS < SETTLED_MS
