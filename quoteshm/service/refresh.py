"""When a source is asked, whom for, and what becomes of tickers that fail.

A `LoopingCall` asks the source for every ticker that is due and hands the answers on in groups. Its
body lets no exception out, and the next run never begins before the last one has ended. Only
tickers that fail have a state of their own: while none does, a refresh costs nothing per ticker.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from twisted.application.service import Service
from twisted.internet import defer, task
from twisted.logger import Logger

from quoteshm.sources.base import (
    Failure,
    Fetched,
    Reason,
    Request,
    TickerBars,
    TickerTicks,
    Unchanged,
)

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator, Callable, Sequence

    from twisted.internet.interfaces import IReactorTime
    from twisted.python.failure import Failure as TwistedFailure

    from quoteshm.clock import Clock
    from quoteshm.model import SeriesKind
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
#: How far, either way, chance moves the next attempt.
JITTER: Final = 0.25

#: How long a stop waits for a running refresh.
STOP_WAIT_S: Final = 2.0


@dataclass(slots=True)
class Trouble:
    """A ticker that fails: why, since when, and when it is asked for again."""

    reason: Reason
    message: str
    since_ms: int
    attempts: int
    last_attempt_ms: int
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
    ) -> None:
        self.source, self.publisher = source, publisher
        self.refresh_s, self.failures = refresh_s, failures
        self.troubles: dict[str, Trouble] = {}
        self.last_attempt_ms: int | None = None  # of any ticker
        self.last_success_ms: int | None = None
        self.error: str | None = None  # why the last refresh broke off as a whole
        self._reactor, self._clock, self._rng, self._patience = reactor, clock, rng, patience
        self._seconds: Callable[[], float] = reactor.seconds  # type: ignore[misc]
        asked = (
            Request(ticker, tuple(kinds), publisher.known) for ticker in dict.fromkeys(tickers)
        )
        self._all = tuple(asked)
        self._due_now = self._all
        self._put_off: frozenset[str] = frozenset()
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
            defer.Deferred.fromCoroutine(_stop_source(self.source)),
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

    # -- one refresh -------------------------------------------------------------------------

    def _tick(self) -> defer.Deferred[None]:
        """Run one refresh; the loop waits for it. What escapes would end the loop for good."""
        running = defer.Deferred.fromCoroutine(self._refresh())
        running.addErrback(self._log_bug)
        self._running = running
        return running

    def _log_bug(self, failure: TwistedFailure) -> None:
        self.log.failure("a refresh failed", failure)

    async def _refresh(self) -> None:
        wanted = self._due()
        if not wanted or self._stopping:
            return
        self.last_attempt_ms = self._clock.wall_ms()
        run = _Run()
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
        said = f"{type(error).__name__}: {error}"
        if said != self.error:
            self.log.failure("{source} broke off", source=self.source.name)
        self.error = said

    def _flush(self, run: _Run) -> None:
        """Publish what has come, and note who failed and who does again."""
        results, failures = run.take()
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
        now_ms = self._clock.wall_ms()
        for request in wanted:
            if request.ticker not in run.names:
                failure = Failure(request.ticker, Reason.EMPTY, "the source gave no answer")
                self._failed(failure, now_ms)

    # -- tickers that fail -------------------------------------------------------------------

    def _due(self) -> tuple[Request, ...]:
        """Give the tickers to ask for: the same tuple as long as they are the same."""
        if not self.troubles:
            self._put_off, self._due_now = frozenset(), self._all
            return self._all
        now_s = self._seconds()
        put_off = frozenset(ticker for ticker, one in self.troubles.items() if one.next_s > now_s)
        if put_off != self._put_off:
            self._put_off = put_off
            self._due_now = tuple(one for one in self._all if one.ticker not in put_off)
        return self._due_now if put_off else self._all

    def _failed(self, failure: Failure, now_ms: int) -> None:
        if failure.reason is Reason.STOPPED:
            return
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
        if before is None or before.reason is not failure.reason:
            self.log.warn(
                "{ticker}: {reason}, {message}",
                ticker=ticker,
                reason=failure.reason.value,
                message=failure.message,
            )

    def _backoff_s(self, reason: Reason, attempts: int) -> float:
        """Say how long to leave a ticker alone: longer with each attempt, never quite the same."""
        patience, doublings = self._patience, min(attempts - 1, 16)
        if reason is Reason.NOT_FOUND:
            wait_s = min(patience.max_quarantine_s, patience.quarantine_s * 2**doublings)
        else:
            longest_s = patience.failing_s
            if reason is Reason.UNREACHABLE:
                longest_s = patience.unreachable_s
            wait_s = min(longest_s, self.refresh_s * 2**doublings)
        return float(wait_s * self._rng.uniform(1 - JITTER, 1 + JITTER))

    def _recovered(self, ticker: str) -> None:
        trouble = self.troubles.pop(ticker, None)
        self.failures.pop(ticker, None)
        if trouble is not None:
            self.log.info("{ticker}: works again", ticker=ticker)

    # -- what others want to know ------------------------------------------------------------

    def status(self) -> dict[str, dict[str, object]]:
        """Tell, for every wanted ticker, how its last attempt and its last success went.

        Returns
        -------
        dict
            By ticker: ``state`` ("ok", "waiting", or the reason of its failure),
            ``last_attempt_ms`` and ``last_success_ms`` (None before the first), and for one that
            fails ``message``, ``since_ms``, ``attempts`` and ``next_attempt_s`` from now.

        """
        self._fold_heard()
        now_s = self._seconds()
        told: dict[str, dict[str, object]] = {}
        for request in self._all:
            heard_ms = self._heard.get(request.ticker)
            trouble = self.troubles.get(request.ticker)
            if trouble is None:
                told[request.ticker] = {
                    "state": "waiting" if heard_ms is None else "ok",
                    "last_attempt_ms": self.last_attempt_ms,
                    "last_success_ms": heard_ms,
                }
                continue
            told[request.ticker] = {
                "state": trouble.reason.value,
                "last_attempt_ms": trouble.last_attempt_ms,
                "last_success_ms": heard_ms,
                "message": trouble.message,
                "since_ms": trouble.since_ms,
                "attempts": trouble.attempts,
                "next_attempt_s": round(max(0.0, trouble.next_s - now_s), 3),
            }
        return told


class _Run:
    """What has come of one refresh, and is not published yet."""

    def __init__(self) -> None:
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


async def _stop_source(source: Source) -> None:
    await source.stop()
