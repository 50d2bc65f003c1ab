"""The schedule: it outlives every failure, never overlaps, and leaves healthy tickers alone."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from twisted.internet import defer, task
from twisted.logger import LogLevel, globalLogPublisher
from twisted.trial import unittest

from quoteshm.model import DAY_MS, Bars, SeriesKind, Ticker
from quoteshm.service.backoff import JITTER
from quoteshm.service.publisher import Publisher
from quoteshm.service.refresh import (
    EAGER,
    HOLD_S,
    PATIENT,
    STOP_WAIT_S,
    Patience,
    RefreshService,
)
from quoteshm.shm.segment import SegmentSpec
from quoteshm.shm.writer import SegmentWriter
from quoteshm.sources.base import (
    Failure,
    Fetched,
    Reason,
    Request,
    Series,
    Source,
    TickerBars,
    TickerTicks,
    Unchanged,
)
from tests.published import NOW_MS, FakeClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

KINDS = (SeriesKind("1d", 10),)
TODAY = NOW_MS // DAY_MS * DAY_MS
REFRESH_S = 10.0


def bars(ticker: str, close: float = 1.0) -> TickerBars:
    """Answer with one bar."""
    values = np.full((5, 1), close)
    one = Bars(np.array([TODAY], np.int64), values)
    return TickerBars(Ticker(ticker), {"1d": Series(one, forming=True)})


def failure(ticker: str, reason: Reason = Reason.TIMED_OUT) -> Failure:
    """Answer with a failure."""
    return Failure(ticker, reason, f"{ticker} did not answer")


class Scripted(Source):
    """A source that answers as the test says, and notes what it was asked for."""

    name = "scripted"
    adjustment = "none"

    def __init__(self) -> None:
        self.asked: list[Sequence[Request]] = []
        self.answer: Callable[[str], Fetched] = bars
        self.gate: defer.Deferred[None] | None = None
        self.error: Exception | None = None
        self.stopped = self.closed = False

    async def fetch(self, wanted: Sequence[Request]) -> AsyncIterator[Fetched]:
        """Answer for each, then wait at the gate or break."""
        self.asked.append(wanted)
        try:
            for request in wanted:
                yield self.answer(request.ticker)
            if self.gate is not None:
                await self.gate
            if self.error is not None:
                raise self.error
        finally:
            self.closed = True

    async def stop(self) -> None:
        """Note it, and open the gate if there is one that opens."""
        self.stopped = True


class Case(unittest.TestCase):
    """A refresh service on anonymous memory, a scripted source, and time in the test's hands."""

    def setUp(self) -> None:
        """Start nothing yet."""
        self.time, self.clock, self.source = task.Clock(), FakeClock(), Scripted()
        spec = SegmentSpec(
            max_tickers=200,
            kinds=KINDS,
            source="scripted",
            freshness_ms=1000,
            directory=Path(),
        )
        self.writer = SegmentWriter.anonymous(spec, self.clock)
        self.failures: dict[str, str] = {}
        self.events: list[dict[str, Any]] = []
        observer: Any = self.events.append
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def start(self, *tickers: str, patience: Patience = PATIENT) -> RefreshService:
        """Start the service for these tickers."""
        self.service = RefreshService(
            self.source,
            Publisher(self.writer, self.clock),
            tickers,
            KINDS,
            refresh_s=REFRESH_S,
            failures=self.failures,
            reactor=self.time,  # type: ignore[arg-type]
            clock=self.clock,
            rng=random.Random(1),  # noqa: S311 (for jitter)
            patience=patience,
        )
        self.service.startService()
        self.addCleanup(self.stop)
        return self.service

    def stop(self) -> None:
        """Stop the service, whatever it waits for."""
        if self.service.running:
            self.service.stopService()
            self.time.advance(STOP_WAIT_S)

    def advance(self, seconds: float = REFRESH_S) -> None:
        """Let time pass."""
        self.clock.now_ms += round(seconds * 1000)
        self.time.advance(seconds)

    def logged(self, level: LogLevel) -> list[str]:
        """Give the tickers of what was logged at a level."""
        return [
            event["ticker"]
            for event in self.events
            if event.get("log_level") is level and "ticker" in event
        ]

    def price(self, ticker: str) -> float:
        """Give the published price."""
        return float(self.writer.quotes()["price"][self.writer.row_of[ticker]])


class TestSchedule(Case):
    """When the source is asked."""

    def test_the_first_refresh_is_at_once_and_the_next_in_their_time(self) -> None:
        """Every interval, and once at the start."""
        self.start("A", "B")
        assert len(self.source.asked) == 1
        self.advance(REFRESH_S / 2)
        assert len(self.source.asked) == 1
        self.advance(REFRESH_S / 2)
        assert len(self.source.asked) == 2
        assert self.price("B") == 1.0

    def test_a_ticker_that_was_not_asked_for_waits_as_long_as_the_source_says(self) -> None:
        """It is no failure of its own: nothing is counted, nothing logged, nothing doubled."""
        service = self.start("A", "B")
        asked_ms = self.clock.now_ms
        why = "not asked for, as B failed"
        self.source.answer = lambda ticker: Failure(ticker, Reason.RATE_LIMITED, why, 25.0)
        self.advance()
        told = service.status()["A"]
        assert (told["state"], told["message"]) == ("rate limited", why)
        assert (told["attempts"], told["next_attempt_s"]) == (0, 25.0)
        assert told["last_attempt_ms"] == told["last_success_ms"] == asked_ms
        self.source.answer = bars
        self.advance(2 * REFRESH_S)
        assert len(self.source.asked) == 2
        self.advance()
        assert len(self.source.asked) == 3
        assert service.status()["A"]["state"] == "ok"
        assert self.logged(LogLevel.warn) == []
        assert self.failures == {}

    def test_it_ticks_on_after_a_source_that_breaks(self) -> None:
        """What had come before is published; the next refresh is as if nothing had been."""
        self.source.error = ZeroDivisionError("so it goes")
        self.start("A")
        assert self.price("A") == 1.0
        assert "so it goes" in str(self.service.error)
        self.advance()
        assert len(self.source.asked) == 2
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 1

        self.source.error = None
        self.advance()
        assert len(self.source.asked) == 3
        assert self.service.error is None

    def test_it_ticks_on_after_a_fault_of_its_own(self) -> None:
        """Whatever is raised in the body of the loop."""
        service = self.start("A")
        self.patch(service.publisher, "publish", lambda _: 1 / 0)
        self.advance()
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 1
        self.patch(service, "_due", lambda: 1 / 0)
        self.advance()
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 1
        self.patch(service, "_due", lambda: ())
        self.advance()
        assert service.running

    def test_a_refresh_does_not_begin_before_the_last_one_has_ended(self) -> None:
        """A slow source is asked again at the next of its times."""
        self.source.gate = defer.Deferred()
        self.start("A")
        self.advance(3 * REFRESH_S)
        assert len(self.source.asked) == 1

        gate, self.source.gate = self.source.gate, None
        gate.callback(None)
        self.advance()
        assert len(self.source.asked) == 2

    def test_answers_are_published_in_groups_with_turns_for_the_reactor(self) -> None:
        """A long answer is seen in part before it has ended."""
        self.start(*(f"T{i}" for i in range(150)))
        assert self.writer.epoch == 2
        self.time.advance(0)
        assert self.writer.epoch == 6
        assert self.price("T149") == 1.0

    def test_what_a_slow_source_has_answered_is_not_held_back(self) -> None:
        """It is published while the next answer is under way."""
        self.source.gate = defer.Deferred()
        self.start("A", "B")
        assert self.writer.epoch == 0
        self.advance(HOLD_S)
        assert self.writer.epoch == 2
        assert self.price("B") == 1.0
        self.source.gate.callback(None)
        assert self.writer.epoch == 2
        assert self.service.status()["B"]["state"] == "ok"

    def test_while_nothing_fails_the_source_gets_the_same_tuple(self) -> None:
        """It may take the tuple's identity for that of its tickers."""
        self.start("A", "B", "A")
        self.advance()
        assert self.source.asked[0] is self.source.asked[1]
        assert [request.ticker for request in self.source.asked[0]] == ["A", "B"]


class TestStop(Case):
    """The end of it."""

    def test_a_stop_ends_source_and_loop(self) -> None:
        """At once, where nothing is under way."""
        service = self.start("A")
        stopped = service.stopService()
        self.successResultOf(stopped)
        assert self.source.stopped
        self.advance()
        assert len(self.source.asked) == 1

    def test_a_stop_waits_for_what_is_under_way(self) -> None:
        """But what comes then is not published."""
        self.source.gate = defer.Deferred()
        service = self.start("A")
        stopped = service.stopService()
        self.assertNoResult(stopped)
        self.source.gate.callback(None)
        self.successResultOf(stopped)
        assert self.source.closed
        assert "A" not in self.writer.row_of

    def test_a_stop_does_not_wait_for_ever(self) -> None:
        """A source that hangs is left behind."""
        self.source.gate = defer.Deferred()
        service = self.start("A")
        stopped = service.stopService()
        self.time.advance(STOP_WAIT_S)
        self.successResultOf(stopped)


class TestFailures(Case):
    """Tickers that fail, each on its own."""

    def test_a_ticker_that_fails_leaves_the_others_alone(self) -> None:
        """They are published; it says why it is not."""
        self.source.answer = lambda t: failure(t) if t == "B" else bars(t)
        service = self.start("A", "B", "C")
        assert (self.price("A"), self.price("C")) == (1.0, 1.0)
        assert self.failures == {"B": "B did not answer"}
        status = service.status()
        assert status["A"]["state"] == "ok"
        assert status["B"]["state"] == "timed out"
        assert status["B"]["attempts"] == 1
        assert status["B"]["last_success_ms"] is None

    def test_what_is_said_of_a_failure_can_be_printed(self) -> None:
        """Wherever it goes: to a log, a terminal, or as JSON to a client."""
        said = "no file \udcff\n\x1b[31m caf\xe9"
        self.source.answer = lambda t: Failure(t, Reason.EMPTY, said)
        service = self.start("A")
        printed = "no file \\udcff\\n\\x1b[31m caf\xe9"
        assert self.failures == {"A": printed}
        assert service.status()["A"]["message"] == printed
        self.source.answer = lambda t: Failure(t, Reason.EMPTY, said, retry_s=1.0)
        self.advance()
        assert self.failures == {"A": printed}

    def test_what_a_broken_source_says_can_be_printed(self) -> None:
        """As a whole, too."""
        self.source.error = ZeroDivisionError("so \udcff")
        self.start("A")
        assert self.service.error == "ZeroDivisionError: so \\udcff"
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 1

    def test_a_failing_ticker_is_asked_for_less_and_less(self) -> None:
        """The others with every refresh."""
        self.source.answer = lambda t: failure(t) if t == "B" else bars(t)
        self.start("A", "B")
        for _ in range(199):
            self.advance()
        asked = [any(r.ticker == "B" for r in wanted) for wanted in self.source.asked]
        times = [i for i, was in enumerate(asked) if was]
        assert len(asked) == 200
        assert len(times) < 12
        gaps = np.diff(times)
        assert gaps[0] < 3
        longest = PATIENT.failing_s * (1 + JITTER) / REFRESH_S + 1
        assert gaps[0] < gaps[-1] <= longest
        assert all(len(wanted) for wanted in self.source.asked)

    def test_a_symbol_that_does_not_exist_is_left_alone_for_long(self) -> None:
        """It costs requests each time."""
        self.source.answer = lambda t: failure(t, Reason.NOT_FOUND) if t == "B" else bars(t)
        self.start("A", "B")
        first = int(PATIENT.quarantine_s * (1 - JITTER) / REFRESH_S)
        for _ in range(first - 1):
            self.advance()
        assert sum(len(wanted) == 2 for wanted in self.source.asked) == 1
        for _ in range(int(2 * JITTER * PATIENT.quarantine_s / REFRESH_S) + 2):
            self.advance()
        assert sum(len(wanted) == 2 for wanted in self.source.asked) == 2

    def test_when_nothing_can_be_reached_it_is_tried_more_often(self) -> None:
        """An outage has ended soon after it has ended."""
        self.source.answer = lambda t: failure(t, Reason.UNREACHABLE)
        service = self.start("A")
        for _ in range(100):
            self.advance()
        assert service.troubles["A"].attempts > 100 * REFRESH_S / PATIENT.unreachable_s / 2

    def test_what_is_on_this_machine_is_asked_for_each_time(self) -> None:
        """A file that was mended is read at once; a missing one too, when it comes."""
        self.source.answer = lambda t: failure(t, Reason.NOT_FOUND if t == "A" else Reason.BAD_DATA)
        self.start("A", "B", patience=EAGER)
        for _ in range(10):
            self.advance()
        assert [len(wanted) for wanted in self.source.asked] == [2] * 11
        assert self.logged(LogLevel.warn) == ["A", "B"]

    def test_a_change_of_state_is_one_line(self) -> None:
        """Not one for each failure."""
        self.source.answer = failure
        self.start("A")
        for _ in range(50):
            self.advance()
        assert self.logged(LogLevel.warn) == ["A"]
        self.source.answer = lambda t: failure(t, Reason.RATE_LIMITED)
        for _ in range(100):
            self.advance()
        assert self.logged(LogLevel.warn) == ["A", "A"]

    def test_a_ticker_that_works_again_is_as_the_others(self) -> None:
        """Its reason is gone, and the source gets the tuple of all again."""
        self.source.answer = lambda t: failure(t) if t == "B" else bars(t)
        service = self.start("A", "B")
        self.source.answer = bars
        self.advance()
        self.advance()
        assert self.failures == {}
        assert self.logged(LogLevel.info) == ["B"]
        self.advance()
        assert self.source.asked[-1] is self.source.asked[0]
        assert service.status()["B"]["state"] == "ok"

    def test_last_attempt_and_last_success_are_kept_apart(self) -> None:
        """A ticker that worked once says when."""
        service = self.start("A")
        worked_ms = self.clock.now_ms
        self.source.answer = failure
        self.advance()
        status = service.status()["A"]
        assert status["last_success_ms"] == worked_ms
        assert status["last_attempt_ms"] == worked_ms + 10000
        assert self.price("A") == 1.0

    def test_what_the_writer_refuses_is_a_failure_of_the_ticker(self) -> None:
        """It says so, and is asked again."""
        self.source.answer = lambda t: bars(t, float("nan")) if t == "B" else bars(t)
        service = self.start("A", "B")
        assert service.status()["B"]["state"] == "not published"
        assert "B" in self.failures

    def test_a_ticker_that_is_not_answered_for_is_a_failure(self) -> None:
        """A source that forgets one does not leave its readers guessing."""

        class Forgetful(Scripted):
            async def fetch(self, wanted: Sequence[Request]) -> AsyncIterator[Fetched]:
                yield bars(wanted[0].ticker)

        self.source = Forgetful()
        service = self.start("A", "B")
        assert list(service.troubles) == ["B"]

    def test_a_stopped_source_is_no_failure_of_a_ticker(self) -> None:
        """It was ours to stop."""
        self.source.answer = lambda t: failure(t, Reason.STOPPED)
        service = self.start("A")
        assert service.troubles == {}

    def test_ticks_and_confirmations_are_successes(self) -> None:
        """Known to the status without a cost for each refresh."""
        everything = ("A", "B")
        ohlcv = np.ones((2, 5))
        ticks = TickerTicks(everything, "1d", np.full(2, TODAY), ohlcv, NOW_MS)

        class Ticking(Scripted):
            async def fetch(self, wanted: Sequence[Request]) -> AsyncIterator[Fetched]:
                self.asked.append(wanted)
                yield ticks if len(self.asked) < 3 else Unchanged(everything)

        self.source = Ticking()
        service = self.start("A", "B")
        for _ in range(3):
            self.advance()
        assert service.troubles == {}
        assert service.status()["B"]["last_success_ms"] == self.clock.now_ms
        assert service.last_success_ms == self.clock.now_ms


class Slow(Scripted):
    """Answers for one ticker after the other, each when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.gates: dict[str, defer.Deferred[None]] = {}

    async def fetch(self, wanted: Sequence[Request]) -> AsyncIterator[Fetched]:
        """Wait before each answer."""
        self.asked.append(wanted)
        for request in wanted:
            self.gates[request.ticker] = defer.Deferred()
            await self.gates[request.ticker]
            yield self.answer(request.ticker)


class TestChanges(Case):
    """Tickers that are wanted since a moment, or no more."""

    def names(self) -> list[list[str]]:
        """Give the tickers of each time that the source was asked."""
        return [[one.ticker for one in wanted] for wanted in self.source.asked]

    def test_a_new_ticker_is_asked_for_at_once_and_alone(self) -> None:
        """Then with all the others, in their time."""
        service = self.start("A")
        service.add(["B", "A"])
        service.add(["C"])
        assert len(self.source.asked) == 1
        self.time.advance(0)
        assert self.names() == [["A"], ["B", "C"]]
        self.advance()
        assert self.names()[2:] == [["A", "B", "C"]]
        self.advance()
        assert self.source.asked[2] is self.source.asked[3]

    def test_it_does_not_wait_for_the_end_of_a_long_refresh(self) -> None:
        """But for the answer that is under way; the others go on after it."""
        self.source = slow = Slow()
        service = self.start("A", "B")
        service.add(["C"])
        self.time.advance(0)
        assert self.names() == [["A", "B"]]
        slow.gates["A"].callback(None)
        assert self.names() == [["A", "B"], ["C"]]
        slow.gates["C"].callback(None)
        slow.gates["B"].callback(None)
        self.time.advance(HOLD_S)
        assert service.troubles == {}
        assert {self.price(ticker) for ticker in "ABC"} == {1.0}

    def test_one_that_comes_behind_the_last_answer_is_not_forgotten(self) -> None:
        """It follows at once."""
        gate: defer.Deferred[None] = defer.Deferred()
        self.source.gate = gate
        service = self.start("A")
        service.add(["B"])
        self.source.gate = None
        gate.callback(None)
        assert self.names() == [["A"], ["B"]]

    def test_a_refresh_waits_for_those_that_are_new(self) -> None:
        """The source is asked one thing at a time."""
        self.source = slow = Slow()
        service = self.start("A")
        slow.gates["A"].callback(None)
        service.add(["B"])
        self.time.advance(0)
        self.advance(2 * REFRESH_S)
        assert self.names() == [["A"], ["B"]]
        slow.gates["B"].callback(None)
        assert self.names() == [["A"], ["B"], ["A", "B"]]

    def test_one_that_comes_before_the_start_is_asked_for_with_the_others(self) -> None:
        """As while an archive is being loaded."""
        service = self.start("A")
        self.stop()
        service.add(["B"])
        service.startService()
        assert self.names() == [["A"], ["A", "B"]]
        self.time.advance(0)
        assert len(self.source.asked) == 2

    def test_however_many_come_one_by_one_two_rounds_are_under_way(self) -> None:
        """Those that come while others are asked for are next, and nothing nests."""
        self.source = slow = Slow()
        service = self.start("A", "B")
        service.add(["N0"])
        slow.gates["A"].callback(None)
        for number in range(1200):
            service.add([f"N{number + 1}"])
            assert len(service._runs) == 2
            slow.gates[f"N{number}"].callback(None)
        service.remove(["N1200"])
        slow.gates["N1200"].callback(None)
        assert self.names() == [["A", "B"], *([f"N{number}"] for number in range(1201))]
        slow.gates["B"].callback(None)
        self.time.advance(HOLD_S)
        assert service.error is None
        assert service.troubles == {}
        assert self.price("N1199") == 1.0

    def test_a_request_says_whether_it_is_still_wanted(self) -> None:
        """Of one that came back there is another."""
        self.source = slow = Slow()
        service = self.start("A", "B", "C")
        wanted = slow.asked[0]
        assert all(one.is_wanted for one in wanted)
        service.remove(["B", "C"])
        service.add(["B"])
        assert [one.is_wanted for one in wanted] == [True, False, False]

    def test_a_source_that_remembers_who_failed_is_told_who_is_gone(self) -> None:
        """Such as one with a breaker."""
        gone: list[str] = []
        self.patch(self.source, "forget", gone.extend)
        service = self.start("A", "B")
        service.remove(["B", "X"])
        assert gone == ["B"]

    def test_what_is_answered_for_a_ticker_that_is_gone_is_not_published(self) -> None:
        """Nor is it a failure when nothing is; nor, had it come back, is it half a history."""
        self.source = slow = Slow()
        service = self.start("A", "B", "C")
        slow.gates["A"].callback(None)
        service.remove(["A", "B"])
        service.add(["B"])
        slow.gates["B"].callback(None)
        assert self.names() == [["A", "B", "C"], ["B"]]
        assert "B" not in self.writer.row_of
        slow.answer = failure
        service.remove(["C"])
        slow.gates["B"].callback(None)
        slow.gates["C"].callback(None)
        assert "A" not in self.writer.row_of
        assert list(service.troubles) == ["B"]
        assert list(service.wanted) == ["B"]

    def test_a_ticker_that_is_gone_leaves_nothing_behind(self) -> None:
        """It comes back as one that was never heard of."""
        self.source.answer = lambda t: failure(t) if t == "B" else bars(t)
        service = self.start("A", "B")
        service.remove(["A", "B"])
        assert (self.failures, service.troubles, service.status()) == ({}, {}, {})
        service.add(["A", "B"])
        assert [one["state"] for one in service.status().values()] == ["waiting", "waiting"]
        self.time.advance(0)
        assert self.names()[-1] == ["A", "B"]

    def test_a_stop_ends_what_was_about_to_be_asked(self) -> None:
        """Nothing is asked after it."""
        service = self.start("A")
        service.add(["B"])
        self.stop()
        self.time.advance(0)
        assert self.names() == [["A"]]


class TestStatus(Case):
    """What is told of each ticker."""

    def test_it_says_what_there_is_and_when_more_is_asked_for(self) -> None:
        """Bars by interval, what the vendor changed, attempts."""
        service = self.start("A")
        self.time.advance(REFRESH_S / 4)
        service.publisher.restated["A"] = 3
        service.add(["B"])
        told = service.status()
        assert told["A"] == {
            "state": "ok",
            "last_attempt_ms": NOW_MS,
            "last_success_ms": NOW_MS,
            "next_attempt_s": 0.75 * REFRESH_S,
            "bars": {"1d": 1},
            "restatements": 3,
        }
        assert told["B"] == {
            "state": "waiting",
            "last_attempt_ms": None,
            "last_success_ms": None,
            "next_attempt_s": 0.0,
            "bars": {"1d": 0},
            "restatements": 0,
        }

    def test_quarantine_says_until_when(self) -> None:
        """Where there is any."""
        self.source.answer = lambda t: failure(t, Reason.NOT_FOUND)
        told: dict[str, Any] = self.start("A").status()["A"]
        assert told["quarantined_until_ms"] == NOW_MS + round(told["next_attempt_s"] * 1000)
        self.stop()
        assert "quarantined_until_ms" not in self.start("A", patience=EAGER).status()["A"]

    def test_one_whose_exchange_is_closed_is_asked_for_when_it_opens(self) -> None:
        """Not with the next refresh."""
        service, hours = self.start("A"), ClosedExchange()
        hours.closed, hours.opens_at_ms = frozenset({"A"}), NOW_MS + 3_600_000
        service._hours = hours  # type: ignore[assignment]
        assert service.status()["A"]["next_attempt_s"] == 3600.0

    def test_hundreds_that_fail_at_once_are_some_lines(self) -> None:
        """And so are those that work again."""
        self.source.answer = failure
        self.start(*(f"T{i}" for i in range(150)))
        self.time.pump([0] * 9)
        assert len([e for e in self.events if e.get("log_level") is LogLevel.warn]) == 6
        self.source.answer = bars
        before = len(self.events)
        self.advance(2 * REFRESH_S)
        self.time.pump([0] * 9)
        lines = [e for e in self.events[before:] if "again" in (e.get("log_format") or "")]
        assert len(lines) == 6

    def test_a_failure_of_one_that_was_put_off_is_told(self) -> None:
        """That it was not asked for was nobody's fault."""
        self.source.answer = lambda t: Failure(t, Reason.TIMED_OUT, "not asked", 5.0)
        self.start("A")
        assert self.logged(LogLevel.warn) == []
        self.source.answer = failure
        self.advance()
        assert self.logged(LogLevel.warn) == ["A"]


class ClosedExchange:
    """Stands for `quoteshm.service.hours.Hours`: says which tickers to leave alone."""

    def __init__(self) -> None:
        self.closed: frozenset[str] = frozenset()
        self.opens_at_ms = NOW_MS + 1

    def put_off(self, _wanted: object, _heard: object) -> frozenset[str]:
        """Give what the test says."""
        return self.closed

    def opens_ms(self, ticker: str) -> int | None:
        """Give a moment for what is closed."""
        return self.opens_at_ms if ticker in self.closed else None


class HoursTest(Case):
    """Tickers whose exchange is closed are not asked for."""

    def test_what_is_closed_is_left_alone_and_says_until_when(self) -> None:
        """Together with what fails; and all of it is asked for again."""
        hours = ClosedExchange()
        service = self.start("A", "B", "C")
        service._hours = hours  # type: ignore[assignment]
        self.source.answer = lambda ticker: failure(ticker) if ticker == "B" else bars(ticker)
        self.time.advance(REFRESH_S)
        hours.closed = frozenset({"A"})
        self.time.advance(REFRESH_S)
        assert [one.ticker for one in self.source.asked[-1]] in (["B", "C"], ["C"])
        assert service.closed == {"A"}
        assert service.status()["A"]["market_opens_ms"] == NOW_MS + 1
        assert "market_opens_ms" not in service.status()["C"]
        hours.closed = frozenset()
        self.source.answer = bars
        self.time.pump([REFRESH_S] * 100)
        assert service.closed == frozenset()
        assert [one.ticker for one in self.source.asked[-1]] == ["A", "B", "C"]
