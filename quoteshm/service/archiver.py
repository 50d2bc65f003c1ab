"""When the archive is written: little by little, whatever has changed.

Once a second it is seen which closed bars are not those on disk. What is due is copied in the
reactor's thread, a group at a time, and written in another thread; the quotes go into one
file, which is written anew every few seconds. A disk that is full, or that may not be written, is
told of once, and tried again; nothing else depends on it.

At the start the archive is loaded first (`warm_start`), and until that is done nothing is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from twisted.application.service import Service
from twisted.internet import defer, task
from twisted.logger import Logger

from quoteshm.errors import SegmentError, WriterRunningError
from quoteshm.market.archive import NEVER, Archive, FormingBars, MarketRecord, Record, SeriesRecord
from quoteshm.model import FIELDS, QUOTE_VALUES, SeriesKind
from quoteshm.service.warm_start import GROUP_BARS, GROUP_TICKERS, Run, WarmStart
from quoteshm.shm import layout
from quoteshm.shm.lock import WriterLock

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quoteshm.clock import Clock
    from quoteshm.shm.batch import History
    from quoteshm.shm.writer import SegmentWriter

#: How often it is looked what has changed.
LOOK_S: Final = 1.0
#: The least time between two files of quotes, and between two files of one series. Each bar of a
#: series rewrites its file: at a bar a minute, so often would be hard on a disk.
QUOTES_S: Final = 5.0
SERIES_S: Final = 60.0
INTRADAY_S: Final = 600.0
#: After a failure nothing is written for so long.
RETRY_S: Final = 30.0
#: How long a stop may take for the bars that are not written yet, and in all.
FLUSH_S: Final = 3.0
STOP_S: Final = 5.0

_STANDING: Final = ("rewrites", "start", "count")
_COUNT: Final = _STANDING.index("count")


@dataclass(slots=True, eq=False)
class _Saved:
    """How the series of one interval stood, by row, when they were written last."""

    state: NDArray[np.uint64] = field(default_factory=lambda: np.zeros((0, 3), np.uint64))
    closed_ms: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    at_s: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))

    def grow(self, count: int) -> None:
        """Make room for new rows: without bars, and never written."""
        more = count - len(self.at_s)
        if more > 0:
            self.state = np.append(self.state, np.zeros((more, 3), np.uint64), axis=0)
            self.closed_ms = np.append(self.closed_ms, np.full(more, NEVER))
            self.at_s = np.append(self.at_s, np.full(more, -np.inf))


class _Copy(NamedTuple):
    """A series as it was copied, to be written."""

    interval: str
    row: int
    state: NDArray[np.uint64]
    record: SeriesRecord


class ArchiveService(Service):
    """Loads the archive into the segment at the start, and keeps it up to date.

    Parameters
    ----------
    archive : Archive
        The files.
    writer : SegmentWriter
        Whose bars and quotes they are.
    wanted : sequence of str
        The tickers to load.
    run : Run
        Does things in other threads.
    reactor
        Twisted's.
    clock : Clock
    committed : callable, optional
        Told of each commit of what was loaded.

    Attributes
    ----------
    loaded : Deferred
        Fires once everything that could be loaded has been published.
    stopped : Deferred
        Fires once nothing more is going to be written.

    """

    log = Logger()

    def __init__(  # noqa: PLR0913 (it is where all of them meet)
        self,
        archive: Archive,
        writer: SegmentWriter,
        wanted: Sequence[str],
        *,
        run: Run,
        reactor: Any,  # noqa: ANN401 (one of Twisted's, of several interfaces)
        clock: Clock,
        committed: Callable[[], object] = lambda: None,
    ) -> None:
        self.archive, self.writer = archive, writer
        self.loaded: defer.Deferred[None] = defer.Deferred()
        self.stopped: defer.Deferred[None] = defer.Deferred()
        self.written_ms: int | None = None
        self._run, self._reactor, self._clock = run, reactor, clock
        self._start = WarmStart(
            archive,
            writer,
            wanted,
            run=run,
            reactor=reactor,
            clock=clock,
            restored=self._take_as_saved,
            committed=committed,
        )
        self._is_loading = False
        self._kinds = writer.spec.kinds
        self._saved = {kind.interval: _Saved() for kind in self._kinds}
        self._quotes_epoch = -1  # of the last file of quotes
        self._quotes_s = self._retry_s = -np.inf
        self._failing: dict[object, str] = {}  # file -> why it cannot be written
        self._lock: WriterLock | None = None
        self._is_stopping = False
        self._looking = task.LoopingCall(self._look)
        self._looking.clock = reactor
        self._round: defer.Deferred[None] | None = None

    def startService(self) -> None:
        """Take the archive's lock, and begin to load.

        Raises
        ------
        WriterRunningError
            Another process writes this archive.

        """
        super().startService()  # type: ignore[no-untyped-call]
        self._take_lock()
        self._is_loading = True
        loading = defer.Deferred.fromCoroutine(self._start.load())
        loading.addErrback(lambda failure: self.log.failure("the archive was not loaded", failure))
        loading.addBoth(self._begin_to_look)

    def drop(self, tickers: Iterable[str]) -> None:
        """Load nothing of tickers that are wanted no more."""
        self._start.drop(tickers)

    def _begin_to_look(self, _result: object) -> None:
        self._is_loading = False
        if not self._is_stopping:
            self._looking.start(LOOK_S).addErrback(self._log_bug)
        self.loaded.callback(None)

    def stopService(self) -> defer.Deferred[None]:
        """Write what has changed, as far as that is done in time, and let go."""
        super().stopService()  # type: ignore[no-untyped-call]
        return defer.Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._is_stopping = self._start.is_stopping = True
        if self._looking.running:
            self._looking.stop()
        if not self._is_loading:  # the quotes on disk are those of all tickers; ours are not
            flushing = defer.Deferred.fromCoroutine(self._flush())
            flushing.addTimeout(STOP_S, self._reactor, onTimeoutCancel=self._log_slow_stop)
            flushing.addErrback(self._log_bug)
            await flushing
        if self._lock is not None:
            self._lock.release()
        self.stopped.callback(None)

    def _log_slow_stop(self, _result: object, timeout_s: float) -> None:
        self.log.warn("the archive was not written within {seconds} s", seconds=timeout_s)

    def _now_s(self) -> float:
        seconds: float = self._reactor.seconds()
        return seconds

    # -- the right to write ------------------------------------------------------------------

    def _take_lock(self) -> None:
        """Lock the archive against other daemons, where its folder lets us.

        Raises
        ------
        WriterRunningError

        """
        folder = self.archive.folder.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = WriterLock(folder)
        except WriterRunningError:
            raise
        except (SegmentError, OSError) as error:
            self._note_failures({folder: _said(error)}, set())
        else:
            self._note_failures({}, {folder})

    def _may_write(self) -> bool:
        if self._now_s() < self._retry_s:
            return False
        if self._lock is None:
            try:
                self._take_lock()
            except WriterRunningError as error:
                self._note_failures({self.archive.folder.parent: _said(error)}, set())
            if self._lock is None:
                self._retry_s = self._now_s() + RETRY_S
        return self._lock is not None

    def _note_failures(self, failed: Mapping[Any, str], written: set[Any]) -> None:
        """Log what cannot be written, once for each reason, and when all can be again."""
        known, before = set(self._failing.values()), bool(self._failing)
        for path, why in failed.items():
            if why not in known:
                known.add(why)
                self.log.error("cannot write {path}: {why}", path=str(path), why=why)
        self._failing = {p: why for p, why in self._failing.items() if p not in written} | {
            **failed
        }
        if before and not self._failing:
            self.log.info("the archive is being written again")

    # -- what has changed --------------------------------------------------------------------

    def _take_as_saved(self, history: History) -> None:
        """Remember that the file of a series that was just loaded says what is published."""
        saved, row = self._saved[history.interval], history.row
        closed = history.bars.time[: len(history.bars) - history.forming]
        standing = self._standing(history.interval)
        saved.grow(len(standing))
        saved.state[row] = standing[row]
        saved.closed_ms[row] = closed[-1] if len(closed) else NEVER
        saved.at_s[row] = self._now_s()

    def _standing(self, interval: str) -> NDArray[np.uint64]:
        """Tell where the closed bars of each series are, a row a ticker."""
        series = self.writer.series(interval)
        return np.stack([series[name] for name in _STANDING], axis=1)

    def _changed(self, kind: SeriesKind, *, wait: bool) -> NDArray[np.intp]:
        """Give the rows of an interval whose closed bars are not what is on disk."""
        saved, standing = self._saved[kind.interval], self._standing(kind.interval)
        saved.grow(len(standing))
        changed = (standing != saved.state).any(axis=1)
        emptied = changed & (standing[:, _COUNT] == 0)
        if emptied.any():
            saved.state[emptied], saved.closed_ms[emptied] = standing[emptied], NEVER
        changed &= ~emptied & ~self.writer.removed()
        if wait:
            wait_s = INTRADAY_S if kind.is_intraday else SERIES_S
            changed &= saved.at_s <= self._now_s() - wait_s
        return np.flatnonzero(changed)

    def _next_group(self, *, wait: bool) -> list[_Copy]:
        """Copy some of the series that have changed, those that have waited longest first."""
        dirty: list[tuple[float, str, int]] = []
        for kind in self._kinds:
            rows = self._changed(kind, wait=wait)
            at_s = self._saved[kind.interval].at_s[rows].tolist()
            dirty += zip(at_s, [kind.interval] * len(rows), rows.tolist(), strict=True)
        dirty.sort()
        group, bars = list[_Copy](), 0
        for _, interval, row in dirty[:GROUP_TICKERS]:
            if bars < GROUP_BARS:
                group.append(self._copied(interval, row))
                bars += len(group[-1].record.bars)
        return group

    def _copied(self, interval: str, row: int) -> _Copy:
        bars, forming = self.writer.history(row, interval)
        series = self.writer.series(interval)
        closed, updated_ms = bars[: len(bars) - forming], int(series["last_update_ms"][row])
        record = SeriesRecord(self.writer.tickers[row], interval, closed, updated_ms)
        state = np.array([series[name][row] for name in _STANDING], np.uint64)
        return _Copy(interval, row, state, record)

    def _copied_market(self) -> MarketRecord:
        """Copy the quotes, and the forming bars of the series whose files are up to date."""
        quotes, tickers = self.writer.quotes(), self.writer.tickers
        rows = np.flatnonzero(self.writer.present())
        forming = {}
        for interval, saved in self._saved.items():
            series, standing = self.writer.series(interval)[rows], self._standing(interval)
            saved.grow(len(standing))
            there = (standing[rows] == saved.state[rows]).all(axis=1)
            there &= (series["flags"] & layout.HAS_FORMING) != 0
            forming[interval] = FormingBars(
                np.where(there, series["time"], NEVER),
                np.stack([np.where(there, series[name], np.nan) for name in FIELDS], axis=1),
                np.where(there, saved.closed_ms[rows], NEVER),
            )
        return MarketRecord(
            tickers=tuple(tickers[row] for row in rows.tolist()),
            ts_ms=quotes["ts_ms"][rows],
            updated_ms=quotes["updated_ms"][rows],
            values=np.stack([quotes[name][rows] for name in QUOTE_VALUES], axis=1),
            forming=forming,
            last_update_ms=self.writer.last_update_ms,
        )

    # -- writing -----------------------------------------------------------------------------

    def _log_bug(self, failure: Any) -> None:  # noqa: ANN401 (a Failure, to no type checker)
        self.log.failure("the archive was not written", failure)

    def _look(self) -> defer.Deferred[None]:
        """Write what is due; what escapes would end the loop for good."""
        running = defer.Deferred.fromCoroutine(self._write_due())
        running.addErrback(self._log_bug)
        self._round = running
        return running.addBoth(self._round_ended)

    def _round_ended(self, _result: object) -> None:
        self._round = None

    async def _write_due(self) -> None:
        while self._may_write() and not self._is_stopping:
            await self._write_quotes()
            group = self._next_group(wait=True)
            if not group:
                return
            before_s = self._now_s()
            await self._write_series(group)
            # A rest as long as the work: a whole market takes its time, and leaves others theirs.
            await task.deferLater(self._reactor, min(1.0, self._now_s() - before_s))

    async def _flush(self) -> None:
        """Write what has changed, as long as there is time, and the quotes in any case."""
        if self._round is not None:
            waiter: defer.Deferred[None] = defer.Deferred()
            self._round.addBoth(lambda _: waiter.callback(None))
            await waiter
        self._retry_s = self._quotes_s = -np.inf
        if not self._may_write():
            return
        until_s = self._now_s() + FLUSH_S
        while self._now_s() < until_s and (group := self._next_group(wait=False)):
            if not await self._write_series(group):
                break
        await self._write_quotes()

    async def _write_series(self, group: Sequence[_Copy]) -> bool:
        """Write some series; tell whether any of them could be."""
        problems = await self._write([one.record for one in group])
        now_s = self._now_s()
        for one, problem in zip(group, problems, strict=True):
            saved = self._saved[one.interval]
            saved.at_s[one.row] = now_s  # also where it failed: the others come first
            if problem is None:
                saved.state[one.row] = one.state
                saved.closed_ms[one.row] = one.record.bars.time[-1]
                self._quotes_epoch = -1  # its forming bar can be written now
        return None in problems

    async def _write_quotes(self) -> None:
        """Write the quotes, if there are newer ones and the last ones are old enough."""
        now_s, epoch = self._now_s(), self.writer.epoch
        if epoch == self._quotes_epoch or now_s < self._quotes_s + QUOTES_S:
            return
        record = self._copied_market()
        if not record.tickers:
            return
        self._quotes_s = now_s
        if await self._write([record]) == [None]:
            self._quotes_epoch = epoch

    async def _write(self, records: Sequence[Record]) -> list[Exception | None]:
        """Write files in the other thread, and take note of those that could not be."""
        problems: list[Exception | None]
        try:
            problems = [*await self._run(partial(self.archive.store, records))]
        except defer.CancelledError:  # nobody waits any longer
            raise
        except Exception as error:  # noqa: BLE001 (whatever it is, it harms nothing else)
            self.log.failure("the archive cannot be written")
            problems = [error] * len(records)
        paths = [self.archive.path(record) for record in records]
        outcomes = list(zip(paths, problems, strict=True))
        failed = {path: _said(problem) for path, problem in outcomes if problem is not None}
        self._note_failures(failed, {path for path, problem in outcomes if problem is None})
        if len(failed) < len(outcomes):
            self.written_ms = self._clock.wall_ms()
        else:
            self._retry_s = self._now_s() + RETRY_S
        return problems

    # -- what others want to know ------------------------------------------------------------

    def describe(self) -> dict[str, object]:
        """Tell how the archive fares."""
        return {
            "folder": str(self.archive.folder),
            "loading": self._is_loading,
            "loaded": self._start.loaded_count,
            "set_aside": self._start.set_aside_count,
            "written_ms": self.written_ms,
            "error": next(iter(self._failing.values()), None),
        }


def _said(error: Exception) -> str:
    """Say why, in one line: without the file's name, so that many files have one reason."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
