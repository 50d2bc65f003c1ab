"""When a source is asked, whom for, and what becomes of tickers that fail.

A `LoopingCall` asks the source for every ticker that is due and hands the answers on in groups. Its
body lets no exception out, and the next run never begins before the last one has ended. Only
tickers that fail have a state of their own: while none does, a refresh costs nothing per ticker.

Tickers that are wanted since a moment do not wait for the next refresh: they are asked for at once,
or, while the source is being asked for others, between two of its answers.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from twisted.application.service import Service
from twisted.internet import defer, task
from twisted.logger import Logger

from quoteshm.service.backoff import backoff_s
from quoteshm.service.change_log import ChangeLog
from quoteshm.sources.base import (
    Failure,
    Fetched,
    Reason,
    Request,
    TickerBars,
    TickerTicks,
    Unchanged,
)
from quoteshm.text import printable

if TYPE_CHECKING:
    import random
    from collections.abc import (
        AsyncIterator,
        Callable,
        Collection,
        Coroutine,
        Iterable,
        Sequence,
    )

    from twisted.internet.interfaces import IReactorTime
    from twisted.python.failure import Failure as TwistedFailure

    from quoteshm.clock import Clock
    from quoteshm.model import SeriesKind
    from quoteshm.service.hours import Hours
    from quoteshm.service.publisher import Publisher
    from quoteshm.sources.base import Source

#: Answers of one commit: so many, or so many bars, keep the reactor for some milliseconds.
GROUP_ANSWERS: Final = 64
GROUP_BARS: Final = 60_000
#: What a slow source has answered is not held back for longer.
HOLD_S: Final = 0.25


class Patience(NamedTuple):
    """The longest time, in seconds, that a failing ticker is left alone.

    The first wait is a refresh, that of a symbol that does not exist `quarantine_s`; each failure
    doubles it.
    """

    failing_s: float
    unreachable_s: float  # where nothing was reached: asking costs nobody anything
    quarantine_s: float
    max_quarantine_s: float


#: For a vendor: each attempt is a request of somebody else's server, or many.
PATIENT: Final = Patience(900.0, 120.0, 3600.0, 86_400.0)
#: For what is on this machine: a file that was mended is read with the next refresh.
EAGER: Final = Patience(0.0, 0.0, 0.0, 0.0)

#: How long a stop waits for a running refresh.
STOP_WAIT_S: Final = 2.0


@dataclass(slots=True)
class Trouble:
    """A ticker that fails: why, since when, and when it is asked for again."""

    reason: Reason
    message: str
    since_ms: int
    attempts: int
    last_attempt_ms: int | None  # None before the first
    next_s: float  # by the reactor's clock


class RefreshService(Service):
    """Asks a source on a schedule and publishes what it answers.

    Parameters
    ----------
    source : Source
        Where bars come from.
    publisher : Publisher
        Where they go.
    tickers : sequence of str
        The wanted ones.
    kinds : sequence of SeriesKind
        The series of each.
    refresh_s : float
        Seconds from the start of one refresh to that of the next.
    failures : dict of str to str
        Filled with the reason of each failing ticker, in words: the quote cache's.
    reactor : IReactorTime
        What the schedule goes by.
    clock : Clock
        What attempts and successes are dated by.
    rng : random.Random
        Where the jitter comes from.
    patience : Patience
        How long failing tickers are left alone.
    hours : Hours, optional
        Which tickers are not worth asking for, as their exchange is closed.

    """

    log = Logger()

    def __init__(  # noqa: PLR0913 (it is where all of them meet)
        self,
        source: Source,
        publisher: Publisher,
        tickers: Sequence[str],
        kinds: Sequence[SeriesKind],
        *,
        refresh_s: float,
        failures: dict[str, str],
        reactor: IReactorTime,
        clock: Clock,
        rng: random.Random,
        patience: Patience = PATIENT,
        hours: Hours | None = None,
    ) -> None:
        self.source, self.publisher = source, publisher
        self.refresh_s, self.failures = refresh_s, failures
        self.troubles: dict[str, Trouble] = {}
        self.failed: Counter[Reason] = Counter()  # attempts so far
        self.last_attempt_ms: int | None = None  # of any ticker
        self.last_success_ms: int | None = None
        self.error: str | None = None  # why the last refresh broke off as a whole
        self._reactor, self._clock, self._rng, self._patience = reactor, clock, rng, patience
        self._seconds: Callable[[], float] = reactor.seconds  # type: ignore[misc]
        self._changes = ChangeLog(self.log)
        self._kinds = tuple(kinds)
        self._wanted = {ticker: self._request(ticker) for ticker in tickers}
        self._all = tuple(self._wanted.values())
        self._due_now = self._due_of = self._all
        self._new: dict[str, Request] = {}  # wanted since a moment, and not asked for yet
        self._runs: list[_Run] = []  # that are under way: at most two, one within the other
        self._turn = defer.DeferredLock()
        self._ticked_s = 0.0  # when the last refresh began
        self._put_off: frozenset[str] = frozenset()
        self._hours = hours
        self._closed: frozenset[str] = frozenset()  # those whose exchange is
        # When tickers were last heard of, by group; a group's members only where asked for.
        self._heard: dict[str, int] = {}
        self._heard_ticks: dict[int, tuple[tuple[str, ...], int]] = {}
        self._running: defer.Deferred[None] | None = None
        self._stopping = False
        self._loop = task.LoopingCall(self._tick)
        self._loop.clock = reactor

    def startService(self) -> None:
        """Begin at once, then every `refresh_s`."""
        super().startService()  # type: ignore[no-untyped-call]
        self._stopping = False
        self._loop.start(self.refresh_s).addErrback(self._log_bug)

    def stopService(self) -> defer.Deferred[None]:
        """Stop the source, and wait a moment for what is under way."""
        super().stopService()  # type: ignore[no-untyped-call]
        return defer.Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._stopping = True
        if self._loop.running:
            self._loop.stop()
        ended: list[defer.Deferred[None]] = [
            defer.Deferred.fromCoroutine(self.source.stop()),
        ]
        if self._running is not None:
            waiter: defer.Deferred[None] = defer.Deferred()
            self._running.addBoth(lambda _: waiter.callback(None))
            ended.append(waiter)
        both = defer.DeferredList(ended, consumeErrors=True)
        both.addTimeout(STOP_WAIT_S, self._reactor, onTimeoutCancel=self._log_slow_stop)
        await both

    def _log_slow_stop(self, _result: object, timeout_s: float) -> None:
        self.log.warn("the source did not stop within {seconds} s", seconds=timeout_s)

    # -- which tickers are wanted ------------------------------------------------------------

    @property
    def wanted(self) -> Collection[str]:
        """The tickers that are asked for; the same object for good."""
        return self._wanted.keys()

    def add(self, tickers: Iterable[str]) -> None:
        """Ask for more tickers, soon."""
        for ticker in tickers:
            if ticker not in self._wanted:
                self._forget(ticker)
                self._wanted[ticker] = self._new[ticker] = self._request(ticker)
        self._all = tuple(self._wanted.values())
        if self._loop.running and not self._runs:
            self._reactor.callLater(0, self._ask_for_new)  # type: ignore[arg-type]

    def remove(self, tickers: Iterable[str]) -> None:
        """Ask for tickers no more; what is still answered for them is not published."""
        gone = [ticker for ticker in tickers if self._wanted.pop(ticker, None) is not None]
        self._fold_heard()
        for ticker in gone:
            self._new.pop(ticker, None)
            self._forget(ticker)
        for run in self._runs:
            run.gone.update(gone)
        self.source.forget(gone)
        self._all = tuple(self._wanted.values())

    def _request(self, ticker: str) -> Request:
        return Request(ticker, self._kinds, self.publisher.known, self._is_wanted)

    def _is_wanted(self, request: Request) -> bool:
        return self._wanted.get(request.ticker) is request

    def _forget(self, ticker: str) -> None:
        """Begin with a ticker as if it had never been there."""
        self._heard.pop(ticker, None)
        self.troubles.pop(ticker, None)
        self.failures.pop(ticker, None)

    def _ask_for_new(self) -> None:
        if self._new and not self._stopping:
            self._running = self._in_turn(self._ask_all_new)

    # -- one refresh -------------------------------------------------------------------------

    def _tick(self) -> defer.Deferred[None]:
        """Run one refresh; the loop waits for it. What escapes would end the loop for good."""
        self._running = self._in_turn(self._refresh)
        return self._running

    def _in_turn(self, body: Callable[[], Coroutine[Any, Any, None]]) -> defer.Deferred[None]:
        """Do something when nothing of its kind is under way."""
        running = self._turn.run(lambda: defer.Deferred.fromCoroutine(body()))
        running.addErrback(self._log_bug)
        return running

    def _log_bug(self, failure: TwistedFailure) -> None:
        self.log.failure("a refresh failed", failure)

    async def _refresh(self) -> None:
        self._ticked_s = self._seconds()
        wanted = self._due()
        self._new.clear()  # they are among them
        await self._ask(wanted)
        await self._ask_all_new()  # those since its last answer

    async def _ask_all_new(self) -> None:
        while self._new:
            await self._ask_new()

    async def _ask_new(self) -> None:
        new = tuple(self._new.values())
        self._new.clear()
        await self._ask(new)

    async def _ask(self, wanted: tuple[Request, ...]) -> None:
        """Ask the source for tickers, and publish what it answers."""
        if not wanted or self._stopping:
            return
        self.last_attempt_ms = self._clock.wall_ms()
        run = _Run()
        self._runs.append(run)
        try:
            await self._ask_source(wanted, run)
        finally:
            self._runs.remove(run)
            self._changes.close()

    async def _ask_source(self, wanted: tuple[Request, ...], run: _Run) -> None:
        try:
            answers = self.source.fetch(wanted)
            try:
                await self._take(answers, run)
            except Exception:
                await _close(answers)
                raise
            finally:
                run.cancel_timer()
        except Exception as error:  # noqa: BLE001 (a source that breaks is asked again next time)
            self._flush(run)
            self._broke_off(error)
            return
        if self._stopping:
            return
        self._flush(run)
        if self.error is not None:
            self.log.info("{source} answers again", source=self.source.name)
            self.error = None
        if run.answered < len(wanted):
            self._miss(wanted, run)

    async def _take(self, answers: AsyncIterator[Fetched], run: _Run) -> None:
        """Publish answers in groups, with a turn for the reactor after each."""
        async for result in answers:
            if self._stopping:
                await _close(answers)
                return
            run.add(result)
            if run.is_full:
                self._flush(run)
                await task.deferLater(self._reactor, 0)
            elif run.timer is None:
                run.timer = self._reactor.callLater(HOLD_S, self._flush_held, run)  # type: ignore[arg-type]
            # Within this one, and none within that: those that come meanwhile wait for it.
            while self._new and not self._stopping and self._runs[0] is run:
                await self._ask_new()

    def _flush_held(self, run: _Run) -> None:
        """Publish what has come while the source is busy with the next answer."""
        run.timer = None
        try:
            if not self._stopping:
                self._flush(run)
        except Exception:  # noqa: BLE001 (as for what a refresh does itself)
            self.log.failure("answers were not published")

    def _broke_off(self, error: Exception) -> None:
        """Log that the source itself failed, once for each thing it says."""
        said = printable(f"{type(error).__name__}: {error}")
        if said != self.error:
            self.log.failure("{source} broke off", source=self.source.name)
        self.error = said

    def _flush(self, run: _Run) -> None:
        """Publish what has come, and note who failed and who does again."""
        results, failures = run.take()
        if run.gone:
            results = [r for r in results if not run.gone.issuperset(_names(r))]
            failures = [failure for failure in failures if failure.ticker not in run.gone]
        now_ms = self._clock.wall_ms()
        refused: dict[str, str] = {}
        if results:
            refused = self.publisher.publish(results).refused
            if not refused or any(not refused.keys() >= set(_names(r)) for r in results):
                self.last_success_ms = now_ms
        for result in results:
            self._heard_of(result, refused, now_ms)
        for ticker, why in refused.items():
            self._failed(Failure(ticker, Reason.REFUSED, why), now_ms)
        for failure in failures:
            self._failed(failure, now_ms)

    def _heard_of(
        self, result: TickerBars | TickerTicks | Unchanged, refused: dict[str, str], now_ms: int
    ) -> None:
        if isinstance(result, TickerBars):
            if result.ticker.symbol not in refused:
                self._heard[result.ticker.symbol] = now_ms
                self._recovered(result.ticker.symbol)
            return
        self._heard_ticks[id(result.tickers)] = (result.tickers, now_ms)
        if len(self._heard_ticks) > GROUP_ANSWERS:  # a source that makes new tuples all the time
            self._fold_heard()
        if self.troubles:
            for ticker in self.troubles.keys() & set(result.tickers) - refused.keys():
                self._recovered(ticker)

    def _fold_heard(self) -> None:
        for tickers, at_ms in sorted(self._heard_ticks.values(), key=lambda group: group[1]):
            self._heard.update(dict.fromkeys(tickers, at_ms))
        self._heard_ticks.clear()

    def _miss(self, wanted: Sequence[Request], run: _Run) -> None:
        """Take tickers without any answer for failed."""
        now_ms, known = self._clock.wall_ms(), run.names | run.gone
        for request in wanted:
            if request.ticker not in known:
                failure = Failure(request.ticker, Reason.EMPTY, "the source gave no answer")
                self._failed(failure, now_ms)

    # -- tickers that fail -------------------------------------------------------------------

    def _due(self) -> tuple[Request, ...]:
        """Give the tickers to ask for: the same tuple as long as they are the same."""
        closed: frozenset[str] = frozenset()
        if self._hours is not None:
            self._fold_heard()
            closed = self._hours.put_off(self._all, self._heard)
        now_s = self._seconds()
        put_off = frozenset(ticker for ticker, one in self.troubles.items() if one.next_s > now_s)
        is_other = self._due_of is not self._all
        if put_off != self._put_off or closed is not self._closed or is_other:
            self._put_off, self._closed, self._due_of = put_off, closed, self._all
            leave = put_off | closed
            self._due_now = tuple(one for one in self._all if one.ticker not in leave)
        return self._due_now if put_off or closed else self._all

    def _failed(self, failure: Failure, now_ms: int) -> None:
        if failure.reason is Reason.STOPPED:
            return
        failure = dataclasses.replace(failure, message=printable(failure.message))
        if failure.retry_s is not None:
            self._put_off_for(failure, failure.retry_s, now_ms)
            return
        self.failed[failure.reason] += 1
        ticker, before = failure.ticker, self.troubles.get(failure.ticker)
        attempts = (
            1 if before is None or before.reason is not failure.reason else before.attempts + 1
        )
        self.troubles[ticker] = Trouble(
            failure.reason,
            failure.message,
            before.since_ms if before is not None else now_ms,
            attempts,
            now_ms,
            self._seconds() + self._backoff_s(failure.reason, attempts),
        )
        self.failures[ticker] = failure.message
        # One that was put off, without having been asked for, has not failed before.
        if before is None or before.reason is not failure.reason or not before.attempts:
            self._changes.failed(failure)

    def _put_off_for(self, failure: Failure, wait_s: float, now_ms: int) -> None:
        """Note a ticker that the source has not asked for: no attempt, and no line of the log."""
        ticker, before = failure.ticker, self.troubles.get(failure.ticker)
        self.troubles[ticker] = Trouble(
            failure.reason,
            failure.message,
            now_ms if before is None else before.since_ms,
            0 if before is None else before.attempts,
            self._heard.get(ticker) if before is None else before.last_attempt_ms,
            self._seconds() + wait_s,
        )
        self.failures[ticker] = failure.message

    def _backoff_s(self, reason: Reason, attempts: int) -> float:
        """Say how long to leave a ticker alone: longer with each attempt, never quite the same."""
        patience, first_s = self._patience, self.refresh_s
        longest_s = patience.failing_s
        if reason is Reason.NOT_FOUND:
            first_s, longest_s = patience.quarantine_s, patience.max_quarantine_s
        elif reason is Reason.UNREACHABLE:
            longest_s = patience.unreachable_s
        return backoff_s(first_s, longest_s, attempts, self._rng)

    def _recovered(self, ticker: str) -> None:
        trouble = self.troubles.pop(ticker, None)
        self.failures.pop(ticker, None)
        if trouble is not None and trouble.attempts:
            self._changes.recovered(ticker)

    # -- what others want to know ------------------------------------------------------------

    @property
    def closed(self) -> frozenset[str]:
        """The tickers that are not asked for until their exchange opens."""
        return self._closed

    def status(self) -> dict[str, dict[str, object]]:
        """Tell, for every wanted ticker, how its last attempt and its last success went.

        Returns
        -------
        dict
            By ticker: ``state`` ("ok", "waiting", or the reason of its failure),
            ``last_attempt_ms`` and ``last_success_ms`` (None before the first),
            ``next_attempt_s`` from now, ``bars`` by interval, ``restatements`` (bars that the
            vendor changed since the start), for one that is not asked for until its exchange opens
            ``market_opens_ms``, and for one that fails ``message``, ``since_ms`` and ``attempts``;
            ``quarantined_until_ms`` if it does as there is no such symbol.

        """
        self._fold_heard()
        now_s, now_ms = self._seconds(), self._clock.wall_ms()
        # A refresh that takes longer than its time is followed by the next at once.
        refresh_s = round(max(0.0, self._ticked_s + self.refresh_s - now_s), 3)
        counts = self.publisher.bar_counts(tuple(self._wanted))
        bars = [dict(zip(counts, held, strict=True)) for held in zip(*counts.values(), strict=True)]
        restated = self.publisher.restated
        told: dict[str, dict[str, object]] = {}
        for ticker, held in zip(self._wanted, bars, strict=True):
            heard_ms, trouble = self._heard.get(ticker), self.troubles.get(ticker)
            one: dict[str, object] = {
                "state": "waiting" if heard_ms is None else "ok",
                "last_attempt_ms": heard_ms,
                "last_success_ms": heard_ms,
                "next_attempt_s": 0.0 if ticker in self._new else refresh_s,
                "bars": held,
                "restatements": restated.get(ticker, 0),
            }
            told[ticker] = one
            if trouble is None:
                opens_ms = None if self._hours is None else self._hours.opens_ms(ticker)
                if opens_ms is not None:
                    one["market_opens_ms"] = opens_ms
                    one["next_attempt_s"] = max(refresh_s, round((opens_ms - now_ms) / 1000, 3))
                continue
            wait_s = max(0.0, trouble.next_s - now_s)
            one |= {
                "state": trouble.reason.value,
                "last_attempt_ms": trouble.last_attempt_ms,
                "next_attempt_s": round(wait_s, 3),
                "message": trouble.message,
                "since_ms": trouble.since_ms,
                "attempts": trouble.attempts,
            }
            if trouble.reason is Reason.NOT_FOUND and wait_s:
                one["quarantined_until_ms"] = now_ms + round(wait_s * 1000)
        return told


class _Run:
    """What has come of one refresh, and is not published yet."""

    def __init__(self) -> None:
        self.gone: set[str] = set()  # tickers that are wanted no more since it began
        self.answered = 0  # tickers, at least: one that comes twice counts twice
        self._groups: list[Sequence[str]] = []
        self._results: list[TickerBars | TickerTicks | Unchanged] = []
        self._failures: list[Failure] = []
        self._bars = 0
        self.timer: Any = None  # an IDelayedCall

    def add(self, result: Fetched) -> None:
        if isinstance(result, Failure):
            self._failures.append(result)
        else:
            self._results.append(result)
        if isinstance(result, TickerBars):
            self._bars += sum(len(series.bars) for series in result.series.values())
        names = (result.ticker,) if isinstance(result, Failure) else _names(result)
        # The ticks of several intervals are one answer.
        if not self._groups or self._groups[-1] is not names:
            self._groups.append(names)
            self.answered += len(names)

    @property
    def is_full(self) -> bool:
        """Whether it is time to publish, and to let the reactor have a turn."""
        waiting = len(self._results) + len(self._failures)
        return waiting >= GROUP_ANSWERS or self._bars >= GROUP_BARS

    @property
    def names(self) -> set[str]:
        """The tickers that have been answered for."""
        return set().union(*self._groups)

    def cancel_timer(self) -> None:
        """Hold nothing back by time any more."""
        timer, self.timer = self.timer, None
        if timer is not None:
            timer.cancel()

    def take(self) -> tuple[list[TickerBars | TickerTicks | Unchanged], list[Failure]]:
        """Give what is waiting, and begin anew."""
        self.cancel_timer()
        taken = self._results, self._failures
        self._results, self._failures, self._bars = [], [], 0
        return taken


def _names(result: TickerBars | TickerTicks | Unchanged) -> tuple[str, ...]:
    return (result.ticker.symbol,) if isinstance(result, TickerBars) else result.tickers


async def _close(answers: AsyncIterator[Fetched]) -> None:
    """End a generator that was left early; without this, only the garbage collector would."""
    close = getattr(answers, "aclose", None)
    if close is not None:
        await close()
