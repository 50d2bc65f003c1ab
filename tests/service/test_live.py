"""Live quotes: many in one commit, connections tried again, and one that is mute noticed."""
# mypy: allow-untyped-calls
# Twisted is typed only in part, and `untyped_calls_exclude` does not reach what we inherit.

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from twisted.internet import defer, task
from twisted.internet.threads import deferToThread
from twisted.logger import LogLevel, globalLogPublisher
from twisted.trial import unittest

from quoteshm.clock import SystemClock
from quoteshm.model import DAY_MS, Bars, SeriesKind, Ticker
from quoteshm.service.backoff import JITTER
from quoteshm.service.live import (
    COMMIT_S,
    DEAD_S,
    LONGEST_WAIT_S,
    MUTE_S,
    REMIND_S,
    STEADY_S,
    Condition,
    LiveService,
)
from quoteshm.service.publisher import Publisher
from quoteshm.shm.segment import SegmentSpec
from quoteshm.shm.writer import SegmentWriter
from quoteshm.sources.base import LastPrice, Series, TickerBars
from quoteshm.sources.yahoo_live import LivePrice, YahooFeed
from tests.published import NOW_MS, FakeClock
from tests.yahoo_streamer import Streamer, message

if TYPE_CHECKING:
    from collections.abc import Callable

    from quoteshm.sources.yahoo_live import Ears

NAN = math.nan


def polled(ticker: str, price: float, ts_ms: int) -> TickerBars:
    """Answer as a refresh does: one bar, and the last price."""
    bars = Bars(np.array([NOW_MS // DAY_MS * DAY_MS]), np.full((5, 1), price))
    last = LastPrice(price, ts_ms, price, price, price, price, NAN)
    return TickerBars(Ticker(ticker, "USD"), {"1d": Series(bars, forming=True)}, last)


class Scripted:
    """A feed whose connections do as the test says; a message is JSON: ticker, time, price."""

    def __init__(self, reactor: task.Clock) -> None:
        self.reactor = reactor
        self.made: list[Wire] = []
        self.loading: defer.Deferred[Any] = defer.Deferred()

    def connect(self, ears: Ears) -> Wire:
        """Begin a connection."""
        self.made.append(Wire(ears, self.reactor))
        return self.made[-1]

    def read(self, text: str, decode: Any, now_ms: int) -> LivePrice | None:
        """Read a message."""
        said = json.loads(text)
        if said is None:
            return None
        ticker, ts_ms, price = said
        return LivePrice(ticker, ts_ms, (NAN, NAN, NAN, price, NAN, NAN))

    def load(self) -> defer.Deferred[Any]:
        """Load when the test says so."""
        return self.loading


class Wire:
    """A scripted connection."""

    def __init__(self, ears: Ears, reactor: task.Clock) -> None:
        self.ears, self.pings, self.aborted = ears, 0, False
        self.asked: list[tuple[str, ...]] = []
        self.last_alive_s: float = reactor.seconds()

    def subscribe(self, tickers: Any) -> None:
        """Note it."""
        self.asked.append(tuple(tickers))

    def ping(self) -> None:
        """Note it."""
        self.pings += 1

    def abort(self) -> None:
        """Note it."""
        self.aborted = True


class LiveTests(unittest.TestCase):
    """The service on a scripted feed, on clocks of the test's."""

    def setUp(self) -> None:
        """Publish two tickers, and start."""
        self.reactor, self.clock = task.Clock(), FakeClock()
        self.feed = Scripted(self.reactor)
        spec = SegmentSpec(
            max_tickers=16,
            kinds=(SeriesKind("1d", 10),),
            source="yahoo",
            freshness_ms=1000,
            directory=Path(),
        )
        self.writer = SegmentWriter.anonymous(spec, self.clock)
        self.addCleanup(self.writer.close)
        self.publisher = Publisher(self.writer, self.clock)
        self.publisher.publish([polled("A", 1.0, NOW_MS - 1), polled("B", 1.0, NOW_MS - 1)])
        self.service = LiveService(
            self.feed,
            self.publisher,
            ("A", "B", "A"),
            reactor=self.reactor,
            clock=self.clock,
            rng=random.Random(1),  # noqa: S311 - jitter
        )
        self.service.startService()
        self.addCleanup(lambda: self.service.running and self.service.stopService())
        self.lines: list[tuple[LogLevel, str]] = []
        observer: Any = self.note
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def note(self, event: Any) -> None:
        """Keep what the service logs."""
        if event["log_namespace"] == "quoteshm.service.live.LiveService":
            self.lines.append((event["log_level"], event["log_format"].format(**event)))

    def wire(self) -> Wire:
        """Give the last connection."""
        return self.feed.made[-1]

    def open(self) -> Wire:
        """Load the decoder if need be, and open a connection."""
        if not self.feed.loading.called:
            self.feed.loading.callback(object())
        self.wire().last_alive_s = self.reactor.seconds()
        self.wire().ears.opened()
        return self.wire()

    def say(self, ticker: str, price: float, ts_ms: int | None = None) -> None:
        """Send a price of now."""
        ts_ms = self.clock.now_ms if ts_ms is None else ts_ms
        self.wire().ears.heard(json.dumps([ticker, ts_ms, price]))

    def price(self, ticker: str) -> float:
        """Give a published price."""
        return float(self.writer.quotes()["price"][self.writer.row_of[ticker]])

    def pass_s(self, seconds: float, step_s: float = 0.5) -> None:
        """Let time pass, on both clocks, while connections answer pings."""
        for _ in range(round(seconds / step_s)):
            self.clock.now_ms += round(step_s * 1000)
            for wire in self.feed.made:
                if wire.pings:
                    wire.pings, wire.last_alive_s = 0, self.reactor.seconds()
            self.reactor.advance(step_s)

    def test_it_connects_once_messages_can_be_decoded(self) -> None:
        """And asks for each ticker once."""
        assert not self.feed.made
        assert self.open().asked == [("A", "B")]
        assert self.service.condition is Condition.STARTING

    def test_what_cannot_be_decoded_is_not_asked_for(self) -> None:
        """The refreshes go on, and the log says why there is no more."""
        self.feed.loading.errback(ImportError("no yfinance"))
        assert not self.feed.made
        assert self.service.describe()["state"] == "down"
        assert "no yfinance" in self.lines[0][1]

    def test_many_prices_are_one_commit(self) -> None:
        """The latest of each ticker, and no more than twenty a second."""
        self.open()
        epoch = self.writer.epoch
        for i in range(50):
            self.say("A", i + 2.0)
            self.say("B", i + 3.0)
        self.reactor.advance(0)
        assert (self.price("A"), self.price("B")) == (51.0, 52.0)
        assert self.writer.epoch == epoch + 2
        self.say("A", 60.0)
        self.reactor.advance(COMMIT_S / 2)
        assert self.price("A") == 51.0
        self.reactor.advance(COMMIT_S / 2)
        assert self.price("A") == 60.0
        assert self.writer.epoch == epoch + 4

    def test_prices_never_go_back_in_time(self) -> None:
        """Within a commit, and from one to the next; those of others are none of ours."""
        self.open()
        self.say("A", 5.0)
        self.say("A", 4.0, self.clock.now_ms - 1)
        self.say("Z", 9.0)
        self.reactor.advance(0)
        self.say("A", 3.0, self.clock.now_ms - 2)
        self.reactor.advance(1)
        assert self.price("A") == 5.0
        assert self.service.describe()["late"] == 2
        assert "Z" not in self.writer.row_of

    def test_bad_messages_are_counted_and_logged_once(self) -> None:
        """They can come a thousand times a second, and harm nobody."""
        wire = self.open()
        for _ in range(10):
            wire.ears.heard("garbage {ticker}")
        wire.ears.heard("null")
        self.say("A", 5.0)
        self.reactor.advance(0)
        assert self.price("A") == 5.0
        told = self.service.describe()
        assert (told["messages"], told["bad"]) == (12, 10)
        assert [level for level, _ in self.lines] == [LogLevel.warn, LogLevel.info]

    def test_a_lost_connection_is_tried_again_after_ever_longer_waits(self) -> None:
        """With one line in the log, and one when prices come again."""
        self.open()
        self.say("A", 5.0)
        waits = []
        for _ in range(12):
            self.wire().ears.lost("it was cut")
            retry: Any = self.service._retry
            waits.append(retry.getTime() - self.reactor.seconds())
            self.pass_s(math.ceil(waits[-1]))
        for i, wait_s in enumerate(waits):
            exact = min(LONGEST_WAIT_S, 2**i)
            assert exact * (1 - JITTER) <= wait_s <= exact * (1 + JITTER)
        assert len(self.feed.made) == 13
        assert self.open().asked == [("A", "B")]
        self.say("A", 6.0)
        said = [line for _, line in self.lines]
        assert len(said) == 3
        assert said[0] == said[2] == "live quotes of 2 tickers"
        assert said[1].endswith("are down, quotes come with the refreshes: it was cut")

    def test_one_that_was_well_for_long_is_tried_again_soon(self) -> None:
        """However often it was not before."""
        self.open()
        for _ in range(8):
            self.wire().ears.lost("it was cut")
            self.pass_s(2 * LONGEST_WAIT_S)
        self.open()
        for _ in range(round(STEADY_S)):
            self.say("A", 5.0)
            self.pass_s(1)
        self.wire().ears.lost("it was cut")
        self.pass_s(2)
        assert not self.wire().asked
        assert len(self.feed.made) == 10

    def test_it_subscribes_again_now_and_then(self) -> None:
        """As yfinance does, and asks for a sign of life."""
        wire = self.open()
        self.pass_s(REMIND_S + 1)
        assert wire.asked == [("A", "B")] * 2
        self.service.set_tickers(["A", "C"])
        assert wire.asked[-1] == ("A", "C")
        self.say("B", 9.0)
        self.reactor.advance(1)
        assert self.price("B") == 1.0

    def test_a_dead_connection_is_given_up(self) -> None:
        """One that does not even answer pings, at whatever hour."""
        wire = self.open()
        for _ in range(round(DEAD_S) + 1):
            self.reactor.advance(1)
        assert wire.aborted
        assert self.service.condition is Condition.DOWN
        self.pass_s(2)
        assert len(self.feed.made) == 2

    def test_a_mute_connection_is_given_up_when_the_refreshes_show_that_prices_move(self) -> None:
        """One line says so, and one when it speaks again."""
        wire = self.open()
        self.say("A", 5.0)
        self.pass_s(MUTE_S + 1)
        assert not wire.aborted  # nothing moves: the exchange may be closed
        self.publisher.publish([polled("A", 2.0, self.clock.now_ms)])
        self.pass_s(1)
        assert wire.aborted
        assert self.service.describe()["state"] == "mute"
        self.pass_s(2)
        self.open()
        self.wire().ears.lost("it was cut")
        assert self.service.condition is Condition.MUTE
        self.pass_s(4)
        self.open()
        self.say("A", 6.0)
        assert self.service.condition is Condition.LIVE
        states = [line.partition(":")[0] for _, line in self.lines]
        assert states == [
            "live quotes of 2 tickers",
            "live quotes are mute, quotes come with the refreshes",
            "live quotes of 2 tickers",
        ]

    def test_one_that_is_never_streamed_makes_nobody_mute(self) -> None:
        """A fund, say, while the others' exchange is closed; but where none was ever streamed."""
        wire = self.open()
        self.say("A", 5.0)
        for price in range(5):
            self.publisher.publish([polled("B", price, self.clock.now_ms)])
            self.pass_s(MUTE_S)
        assert not wire.aborted
        self.service.set_tickers(["B"])
        self.publisher.publish([polled("B", 9.0, self.clock.now_ms)])
        self.pass_s(1)
        assert wire.aborted
        assert self.service.condition is Condition.MUTE

    def test_a_polled_price_of_times_to_come_makes_nobody_mute(self) -> None:
        """It does not say that prices move."""
        wire = self.open()
        self.publisher.publish([polled("B", 2.0, self.clock.now_ms + DAY_MS)])
        self.pass_s(3 * MUTE_S)
        assert not wire.aborted

    def test_a_price_ahead_of_this_machines_clock_makes_nobody_mute(self) -> None:
        """It came over the stream."""
        wire = self.open()
        self.say("A", 5.0, self.clock.now_ms + 3000)
        self.reactor.advance(0)
        self.pass_s(2 * MUTE_S)
        assert not wire.aborted

    def test_a_connection_at_night_is_quiet(self) -> None:
        """It was down, and is not any more, though nothing comes."""
        self.open()
        self.wire().ears.lost("it was cut")
        self.pass_s(2)
        self.open()
        self.pass_s(STEADY_S + 1)
        assert self.service.condition is Condition.QUIET
        assert [level for level, _ in self.lines] == [LogLevel.warn, LogLevel.info]

    def test_a_stop_ends_all_of_it(self) -> None:
        """And publishes what has come."""
        wire = self.open()
        self.say("A", 5.0)
        self.reactor.advance(0)
        self.say("A", 6.0)
        self.service.stopService()
        assert self.price("A") == 6.0
        assert wire.aborted
        assert not self.reactor.getDelayedCalls()

    def test_a_stop_while_it_waits_ends_that_too(self) -> None:
        """Before and after the decoder is loaded."""
        self.open()
        self.wire().ears.lost("it was cut")
        self.service.stopService()
        assert not self.reactor.getDelayedCalls()

    def test_a_stop_before_it_is_loaded(self) -> None:
        """It comes too late."""
        self.service.stopService()
        self.feed.loading.callback(object())
        assert not self.feed.made

    def test_prices_that_cannot_be_published_do_not_end_it(self) -> None:
        """The next ones may be better."""
        self.open()
        publish: Callable[..., Any] = self.publisher.publish
        self.patch(self.publisher, "publish", lambda _: 1 / 0)
        self.say("A", 5.0)
        self.reactor.advance(0)
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 1
        self.patch(self.publisher, "publish", publish)
        self.say("A", 6.0)
        self.reactor.advance(1)
        assert self.price("A") == 6.0


class StreamedTests(unittest.TestCase):
    """The service on Yahoo's feed, with yfinance's decoder, and a streamer."""

    timeout = 60

    async def test_it_comes_back_after_everything_that_a_streamer_does(self) -> None:
        """Each time, what comes next is published."""
        from twisted.internet import reactor  # noqa: PLC0415 - installs it

        one: Any = reactor
        clock = SystemClock()
        spec = SegmentSpec(
            max_tickers=16,
            kinds=(SeriesKind("1d", 10),),
            source="yahoo",
            freshness_ms=1000,
            directory=Path(),
        )
        writer = SegmentWriter.anonymous(spec, clock)
        self.addCleanup(writer.close)
        waiting: list[defer.Deferred[None]] = []

        def announce(_: object) -> None:
            for done in waiting:
                done.callback(None)
            waiting.clear()

        publisher = Publisher(writer, clock, announce)
        publisher.publish([polled("A", 1.0, NOW_MS)])
        streamer = Streamer()
        streamer.__enter__()
        self.addCleanup(deferToThread, streamer.__exit__)
        feed = YahooFeed(one, deferToThread, streamer.url)
        rng = random.Random(1)  # noqa: S311 - jitter
        service = LiveService(feed, publisher, ["A"], reactor=one, clock=clock, rng=rng)
        self.patch(service, "_rng", type("Soon", (), {"uniform": lambda *_: 0.01})())
        service.startService()
        self.addCleanup(service.stopService)

        def garbage() -> None:
            streamer.send("garbage", "{}")
            streamer.send_raw(b"\xff" * 64)

        price = 1.0
        for act in (streamer.close, streamer.drop, garbage, streamer.close):
            assert await deferToThread(streamer.asked) == ["A"]
            price += 0.25
            done: defer.Deferred[None] = defer.Deferred()
            waiting.append(done)
            streamer.send(message("A", price, clock.wall_ms()), message("A", 99, 5))
            await done
            assert writer.quotes()["price"].tolist() == [price]
            await deferToThread(act)
        assert service.describe()["late"] == 4
        assert service.bad <= 2  # what came before the connection was cut
