"""Which tickers are worth asking for now: those whose exchange trades, or has closed since.

A ticker is due while its exchange is open, and until it has been heard of once since the last
session settled: that brings the day's last bar, closed. It is left alone for the rest of the night,
the weekend and the holidays. One that was never heard of is due at any time, and so is whatever
nobody knows the hours of.

The exchange follows from what is known of a ticker: the time zone that came with its first bars,
and the ending of its symbol where exchanges of one zone differ. Currencies, futures and
cryptocurrencies are told by their symbols, and are always due.

Nothing here loops over all tickers while nothing changes: what is put off is worked out by
exchange, at the next opening or closing, and for tickers that a closing has left to be asked once.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from twisted.logger import Logger

from quoteshm.model import DAY_MS, MINUTE_MS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from twisted.internet.defer import Deferred
    from twisted.python.failure import Failure

    from quoteshm.clock import Clock
    from quoteshm.sources.base import Request

#: Yahoo's prices of some exchanges are a quarter of an hour late, and so are closing auctions.
LATE_MS: Final = 30 * MINUTE_MS
#: Then a day's bar has settled; half an hour behind `yahoo_plan`, for a calendar that ends early.
SETTLED_MS: Final = 90 * MINUTE_MS
#: Sessions that are loaded, before now and after; and when more of them are.
BEFORE_MS: Final = 30 * DAY_MS
AHEAD_MS: Final = 90 * DAY_MS
RELOAD_MS: Final = 30 * DAY_MS
#: How soon hours that could not be loaded are asked for again.
RETRY_MS: Final = DAY_MS

#: Trading hours that hold for a time zone, by the name of their calendar; of several, the longest.
CALENDARS: Final = {
    "Africa/Johannesburg": "XJSE",
    "America/Argentina/Buenos_Aires": "XBUE",
    "America/Bogota": "XBOG",
    "America/Buenos_Aires": "XBUE",
    "America/Chicago": "CMES",
    "America/Lima": "XLIM",
    "America/Mexico_City": "XMEX",
    "America/New_York": "XNYS",
    "America/Santiago": "XSGO",
    "America/Sao_Paulo": "BVMF",
    "America/Toronto": "XTSE",
    "Asia/Bangkok": "XBKK",
    "Asia/Calcutta": "XBOM",
    "Asia/Hong_Kong": "XHKG",
    "Asia/Jakarta": "XIDX",
    "Asia/Jerusalem": "XTAE",
    "Asia/Karachi": "XKAR",
    "Asia/Kolkata": "XBOM",
    "Asia/Kuala_Lumpur": "XKLS",
    "Asia/Manila": "XPHS",
    "Asia/Riyadh": "XSAU",
    "Asia/Seoul": "XKRX",
    "Asia/Shanghai": "XSHG",
    "Asia/Singapore": "XSES",
    "Asia/Taipei": "XTAI",
    "Asia/Tel_Aviv": "XTAE",
    "Asia/Tokyo": "XTKS",
    "Atlantic/Reykjavik": "XICE",
    "Australia/Sydney": "XASX",
    "Europe/Amsterdam": "XAMS",
    "Europe/Athens": "ASEX",
    "Europe/Berlin": "XSTU",
    "Europe/Brussels": "XBRU",
    "Europe/Bucharest": "XBSE",
    "Europe/Budapest": "XBUD",
    "Europe/Copenhagen": "XCSE",
    "Europe/Dublin": "XDUB",
    "Europe/Helsinki": "XHEL",
    "Europe/Istanbul": "XIST",
    "Europe/Lisbon": "XLIS",
    "Europe/London": "XLON",
    "Europe/Madrid": "XMAD",
    "Europe/Oslo": "XOSL",
    "Europe/Paris": "XPAR",
    "Europe/Prague": "XPRA",
    "Europe/Riga": "XRIS",
    "Europe/Rome": "XMIL",
    "Europe/Stockholm": "XSTO",
    "Europe/Tallinn": "XTAL",
    "Europe/Vienna": "XWBO",
    "Europe/Vilnius": "XLIT",
    "Europe/Warsaw": "XWAR",
    "Europe/Zurich": "XSWX",
    "Pacific/Auckland": "XNZE",
}
#: Symbols whose exchange keeps other hours than the longest of its zone.
_SUFFIXES: Final = {"DE": "XETR"}
#: EURUSD=X, ES=F, BTC-USD: one class of a share (BRK-B, BAC-PL) has fewer letters.
_ALWAYS: Final = re.compile(r".+(=[A-Z]+|-[A-Z]{3})")


def is_always_open(symbol: str) -> bool:
    """Tell a currency, a future or a cryptocurrency by its symbol."""
    return _ALWAYS.fullmatch(symbol) is not None


def calendar_of(symbol: str, time_zone: str) -> str | None:
    """Name the trading hours of a symbol, None where nobody knows them."""
    suffix = symbol.rpartition(".")[2]
    return _SUFFIXES.get(suffix) or CALENDARS.get(time_zone)


class Now(NamedTuple):
    """How things stand at an exchange, all moments in milliseconds UTC."""

    is_open: bool
    settled_ms: int  # when the last session that has settled did; 0 before the first
    until_ms: int  # nothing of this changes before
    opens_ms: int  # the next opening


@dataclass(frozen=True, slots=True)
class Sessions:
    """When an exchange opens and closes, in milliseconds UTC, oldest first."""

    opens: tuple[int, ...]
    closes: tuple[int, ...]

    @property
    def end_ms(self) -> int:
        """When the last session has settled: nothing is known of later."""
        return self.closes[-1] + SETTLED_MS if self.closes else 0

    def at(self, now_ms: int) -> Now | None:
        """Tell how things stand; nothing from the last session on."""
        begun = bisect_right(self.opens, now_ms)
        if begun == len(self.opens):
            return None
        settled = bisect_right(self.closes, now_ms - SETTLED_MS)
        changes = [self.opens[begun], self.closes[settled] + SETTLED_MS]
        is_open = bool(begun) and now_ms < self.closes[begun - 1] + LATE_MS
        if is_open:
            changes.append(self.closes[begun - 1] + LATE_MS)
        settled_ms = self.closes[settled - 1] + SETTLED_MS if settled else 0
        return Now(is_open, settled_ms, min(changes), self.opens[begun])


@dataclass(slots=True)
class _Exchange:
    """The tickers of one calendar."""

    name: str
    tickers: list[str] = field(default_factory=list)
    sessions: Sessions | None = None
    load_ms: int | None = 0  # when its sessions are to be loaded; None while they are
    asked_ms: int = 0  # when they last were, by the clock of then
    now: Now | None = None
    left: list[str] = field(default_factory=list)  # to be asked once, though it is closed


class Hours:
    """Says which tickers are not worth asking for at the moment. In the reactor's thread only.

    Parameters
    ----------
    clock : Clock
        What time it is.
    time_zone : callable
        Gives the time zone of a ticker's exchange, None while it is not known.
    load : callable
        Given the name of a calendar and the time in milliseconds, gives its `Sessions`, later.

    """

    log = Logger()

    def __init__(
        self,
        clock: Clock,
        time_zone: Callable[[str], str | None],
        load: Callable[[str, int], Deferred[Sessions]],
    ) -> None:
        self._clock, self._time_zone, self._load = clock, time_zone, load
        self._wanted: Sequence[Request] = ()
        self._exchanges: dict[str, _Exchange] = {}
        self._unplaced: list[str] = []
        self._home: dict[str, _Exchange] = {}
        self._closed: frozenset[str] = frozenset()
        # What was worked out holds from one moment to another; not where the clock is set back.
        self._since_ms = self._until_ms = 0

    def put_off(self, wanted: Sequence[Request], heard: Mapping[str, int]) -> frozenset[str]:
        """Name the tickers not to ask for: the same object as long as they are the same.

        Parameters
        ----------
        wanted : sequence of Request
            All tickers; the same object as long as they are the same.
        heard : mapping of str to int
            When each last succeeded, milliseconds UTC.

        """
        now_ms = self._clock.wall_ms()
        if wanted is not self._wanted:
            self._wanted, self._unplaced = wanted, []
            self._exchanges = {
                name: _Exchange(name, [], one.sessions, one.load_ms, one.asked_ms)
                for name, one in self._exchanges.items()
            }
            self._home.clear()
            self._unplaced = [one.ticker for one in wanted if not is_always_open(one.ticker)]
            self._since_ms = self._until_ms = 0
        if self._unplaced:
            self._place(now_ms)
        if not self._since_ms <= now_ms < self._until_ms:
            self._look(now_ms)
        self._cross_off(heard, now_ms)
        return self._closed

    def opens_ms(self, ticker: str) -> int | None:
        """Tell when the exchange of a ticker that is put off opens again."""
        if ticker not in self._closed:
            return None
        now = self._home[ticker].now
        return None if now is None else now.opens_ms

    def _place(self, now_ms: int) -> None:
        """Find the exchange of tickers that have none; most come with their first bars."""
        unplaced = []
        for ticker in self._unplaced:
            zone = self._time_zone(ticker)
            name = None if zone is None else calendar_of(ticker, zone)
            if name is None:
                unplaced.append(ticker)
                continue
            home = self._exchanges.get(name)
            if home is None:
                home = self._exchanges[name] = _Exchange(name)
            home.tickers.append(ticker)
            self._home[ticker] = home
            home.left.append(ticker)
            if home.sessions is None and home.load_ms is not None and home.load_ms <= now_ms:
                self._until_ms = 0
        self._unplaced = unplaced

    def _look(self, now_ms: int) -> None:
        """Work out anew which exchanges are closed, and until when that holds."""
        closed: set[str] = set()
        until_ms = now_ms + DAY_MS
        for one in self._exchanges.values():
            if one.load_ms is not None and now_ms < one.asked_ms - DAY_MS:
                one.sessions, one.load_ms = None, now_ms  # the clock was set right since
            if one.load_ms is not None and one.load_ms <= now_ms:
                self._begin_load(one, now_ms)
            if one.load_ms is not None:
                until_ms = min(until_ms, one.load_ms)
            before, one.now = one.now, None if one.sessions is None else one.sessions.at(now_ms)
            if one.now is None or one.now.is_open:
                one.left = []
            elif before is None or before.settled_ms != one.now.settled_ms or before.is_open:
                one.left = list(one.tickers)
            if one.now is not None:
                until_ms = min(until_ms, one.now.until_ms)
                if not one.now.is_open:
                    closed.update(one.tickers)
                    closed.difference_update(one.left)
        self._since_ms, self._until_ms = now_ms, until_ms
        if closed != self._closed:
            self._closed = frozenset(closed)

    def _cross_off(self, heard: Mapping[str, int], now_ms: int) -> None:
        """Put off what has been heard of since its exchange closed, and not in times to come."""
        done: list[str] = []
        for one in self._exchanges.values():
            if one.now is None or one.now.is_open or not one.left:
                continue
            settled_ms = max(1, one.now.settled_ms)
            fresh = {ticker for ticker in one.left if settled_ms <= heard.get(ticker, 0) <= now_ms}
            if fresh:
                one.left = [ticker for ticker in one.left if ticker not in fresh]
                done += fresh
        if done:
            self._closed |= frozenset(done)

    # -- trading hours -----------------------------------------------------------------------

    def _begin_load(self, one: _Exchange, now_ms: int) -> None:
        one.load_ms, one.asked_ms = None, now_ms
        loading = self._load(one.name, now_ms)
        loading.addCallbacks(
            self._loaded, self._failed, callbackArgs=(one.name,), errbackArgs=(one.name,)
        )

    def _loaded(self, sessions: Sessions, name: str) -> None:
        one, now_ms = self._exchanges[name], self._clock.wall_ms()
        one.sessions = sessions
        one.load_ms = max(now_ms + RETRY_MS, sessions.end_ms - RELOAD_MS)
        self._until_ms = 0

    def _failed(self, failure: Failure, name: str) -> None:
        one = self._exchanges[name]
        one.load_ms = self._clock.wall_ms() + RETRY_MS
        self._until_ms = 0
        said = (
            "{name}: its trading hours are not known, its tickers are asked for at any time: {why}"
        )
        self.log.warn(said, name=name, why=failure.getErrorMessage())
