"""SegmentWriter: the one process that publishes.

A commit is planned first, from the stable rows and the batch: everything that can fail (checking,
allocating, a new segment) happens then, at an even epoch. What is left is a list of plain stores,
made while the epoch is odd (see `latch`). Cost grows with what the batch changes.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import zoneinfo
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from operator import index
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Self

import numpy as np
from numpy.typing import NDArray

from quoteshm.errors import (
    BatchError,
    CorruptSegmentError,
    HalfMadeError,
    LayoutMismatchError,
    SegmentError,
    SegmentNotFoundError,
    TruncatedError,
    UnknownIntervalError,
)
from quoteshm.model import Bars, Ticker
from quoteshm.shm import checks, files, latch, layout, segment, table
from quoteshm.shm.batch import Batch, Ticks
from quoteshm.shm.fence import fences
from quoteshm.shm.futex import waker
from quoteshm.shm.layout import Geometry, KindGeometry
from quoteshm.shm.lock import OwnedFd, WriterLock, lock_segment
from quoteshm.shm.plan import Plan, Planner, RowStores, SeriesPlan
from quoteshm.shm.seen import Seen
from quoteshm.shm.segment import SegmentSpec
from quoteshm.shm.single import Place, Single, SinglePath, batch_of, said
from quoteshm.shm.views import SegmentMap

if TYPE_CHECKING:
    from quoteshm.clock import Clock
    from quoteshm.shm.batch import Rows
    from quoteshm.shm.views import Words

Items = NDArray[np.void]
#: Rows that the last commit changed, and whether it wrote only what a tick changes.
Dirty = tuple[slice | NDArray[np.intp], bool]

_ALL: Final[Dirty] = (slice(0, None), False)
_ONE: Final = np.uint64(1)
_COLUMNS: Final = np.arange(1, 6)  # of a block, those behind the time
_MAP_NORESERVE: Final = 0x4000  # Linux; not named by the mmap module before Python 3.13


class SegmentWriter:
    """Publishes bars and quotes in a segment. Not thread-safe: one thread, the reactor's.

    Made by `open` (a segment in a file, adopted or new) or `anonymous` (memory of this process).

    Attributes
    ----------
    spec : SegmentSpec
        What the segment is now; `max_tickers` grows with it.
    adopted : bool
        Whether `open` carried on in a segment that was there.
    refused : SegmentError or None
        Why a segment of ours that was there could not be carried on with, and was replaced.
    grown : dict of str to int
        The intervals that have more room than in the segment that was adopted, and the capacity
        they had there: what it held may be less than there is.

    """

    def __init__(
        self,
        spec: SegmentSpec,
        clock: Clock,
        mapped: SegmentMap,
        fd: int | None,
        lock: WriterLock | None,
    ) -> None:
        self.spec, self.adopted = spec, False
        self.refused: SegmentError | None = None
        self.grown: dict[str, int] = {}
        self._clock, self._lock = clock, lock
        self._acquire, self._release = fences()
        self._tickers: list[Ticker] = []
        self._row_of: dict[str, int] = {}
        self._revived: set[int] = set()
        self._seen = Seen()
        self._is_closed = False
        self._use(mapped, fd)

    # -- opening and closing -----------------------------------------------------------------

    @classmethod
    def open(cls, spec: SegmentSpec, clock: Clock) -> Self:
        """Take the lock, then adopt the segment that is there, or make a new one.

        Raises
        ------
        WriterRunningError
            Another process writes it.
        ForeignFileError, SegmentAccessError
            What stands under the name is not ours; it is left alone.
        SegmentFullError
            No room.

        """
        lock = WriterLock(spec.path)
        try:
            return cls._adopt_or_create(spec, clock, lock)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def anonymous(cls, spec: SegmentSpec, clock: Clock) -> Self:
        """Write into memory of this process alone."""
        return cls(spec, clock, _anonymous_map(spec, clock), None, None)

    @classmethod
    def _adopt_or_create(cls, spec: SegmentSpec, clock: Clock, lock: WriterLock) -> Self:
        refused: SegmentError | None = None
        damaged: SegmentMap | None = None
        try:
            mapped, fd = segment.open_own(spec.path)
            try:
                checks.check_rows(mapped)
            except BaseException:
                files.close_fd(fd)
                damaged = mapped
                raise
        except SegmentNotFoundError:
            pass
        except (HalfMadeError, LayoutMismatchError, TruncatedError, CorruptSegmentError) as error:
            refused = error  # ours, by its magic and owner, but of no use
        else:
            segment.reclaim(spec.path)
            return cls._carry_on(spec, clock, lock, mapped, fd)
        mapped, fd = segment.create(spec, clock)
        # Readers that are still there go on to the new one, and their epochs with them; where there
        # are no epochs left to go on with, they begin anew.
        if damaged is not None:
            epoch = latch.stable_epoch(damaged.epoch) + 2
            mapped.cells[layout.EPOCH_WORD] = epoch if epoch < layout.MAX_ADOPTED_EPOCH else 0
        elif lock.left_epoch:
            mapped.cells[layout.EPOCH_WORD] = lock.left_epoch + 2
        writer = cls(spec, clock, mapped, fd, lock)
        with writer._let_go_on_error():
            segment.publish(mapped, spec.path)
        if damaged is not None:
            damaged.cells[layout.STATE_WORD] = layout.CLOSED
        writer.refused = refused
        return writer

    @classmethod
    def _carry_on(
        cls,
        spec: SegmentSpec,
        clock: Clock,
        lock: WriterLock,
        mapped: SegmentMap,
        fd: int,
    ) -> Self:
        """Adopt a segment that is whole; move its history to a new one where it does not fit."""
        found = _spec_of(mapped, spec)
        writer = cls(found, clock, mapped, fd, lock)
        with writer._let_go_on_error():
            writer._fit(found, spec)
        return writer

    @contextlib.contextmanager
    def _let_go_on_error(self) -> Iterator[None]:
        """Leave nothing behind of a writer that cannot be opened."""
        try:
            yield
        except BaseException:
            segment.reclaim(self.spec.path)
            if self._fd is not None:
                self._fd.close()
            raise

    def _fit(self, found: SegmentSpec, spec: SegmentSpec) -> None:
        """Adopt the segment that was found, or put another one in its place."""
        self._adopt()
        wanted = replace(spec, max_tickers=max(spec.max_tickers, found.max_tickers))
        self.refused = self._is_of_no_use(found, wanted)
        if self.refused is not None:
            self._replace(wanted, keep=False)
            return
        self.adopted = True
        if (found.kinds, found.max_tickers) != (wanted.kinds, wanted.max_tickers):
            self._replace(wanted)
            had = dict(found.kinds)
            self.grown = {
                interval: had[interval]
                for interval, capacity in wanted.kinds
                if capacity > had.get(interval, capacity)
            }
            return
        self.spec = wanted
        segment.set_freshness(self._map, wanted.freshness_ms)
        if self._fd is not None:
            segment.permit(self._fd.number, wanted)
        self._map.cells[layout.STATE_WORD] = layout.LIVE

    def _is_of_no_use(self, found: SegmentSpec, wanted: SegmentSpec) -> SegmentError | None:
        """Say why the bars that were found are not the ones to carry on with."""
        if (found.source, found.adjustment) != (wanted.source, wanted.adjustment):
            return SegmentError(
                f"{wanted.path}: found bars of {found.source}, adjustment {found.adjustment}, "
                f"expected {wanted.source}, {wanted.adjustment}",
            )
        if segment.is_of_another_boot(self._map):
            # On a disk. Pages come there in any order, and bars have no check that would show
            # which of them a power cut left behind.
            return SegmentError(f"{wanted.path}: found a segment of an earlier boot")
        return None

    def _use(self, mapped: SegmentMap, fd: int | None) -> None:
        """Write into this mapping from now on, taking every row for changed."""
        self._map, self._fd = mapped, None if fd is None else OwnedFd(fd)
        self._epoch = latch.stable_epoch(mapped.epoch)
        self._single = SinglePath(mapped, self._release)
        self._dirty_one: Place | None = None  # stands for the two lists where it is not None
        self._catch_up_all()
        address = np.frombuffer(mapped.buffer, np.uint8, 8, layout.EPOCH_OFFSET).ctypes.data
        self._wake = waker(address)

    def _catch_up_all(self) -> None:
        """Take every row for changed by the last commit, and nothing for known."""
        self._seen = Seen()
        self._dirty_one = None
        self._dirty_quotes: list[Dirty] = [_ALL]
        self._dirty_series: list[list[Dirty]] = [[_ALL] for _ in self._map.geometry.kinds]

    def _adopt(self) -> None:
        """Carry on in a segment that another writer left, in whatever state."""
        cells = self._map.cells
        cells[layout.EPOCH_WORD] = self._epoch = latch.adopted(self._map.epoch)
        self._catch_up_all()
        for entries in self._map.entries:
            epochs = entries[:, table.EPOCH]
            epochs += epochs & 1
        block = self._map.superblock
        block["writer_pid"] = os.getpid()
        for entries in self._map.entries:
            entries.view(layout.ENTRY)["writer_pid"] = os.getpid()
        if self._fd is not None:
            lock_segment(self._fd.number)
        self._read_directory()
        self.heartbeat()

    def _read_directory(self) -> None:
        count = self._map.ticker_count(self._back ^ 1)
        self._tickers = checks.tickers_of(self._map, 0, count)
        self._row_of = {ticker.symbol: row for row, ticker in enumerate(self._tickers)}

    def close(self, *, unlink: bool = True) -> None:
        """Mark the segment closed, take its name away unless told otherwise, and let go.

        Harmless twice; nothing can be published after it.

        Raises
        ------
        SegmentError
            The name could not be taken away; all else is done.

        """
        if self._is_closed or self._is_in_child:
            return
        self._is_closed = True
        self._map.cells[layout.STATE_WORD] = layout.CLOSED
        self._wake()
        try:
            if self._fd is not None and unlink:
                segment.unlink(self.spec.path, self._fd.number)
                if self._lock is not None:
                    self._lock.leave(self._epoch)
        finally:
            if self._fd is not None:
                self._fd.close()
            if self._lock is not None:
                self._lock.release()

    def heartbeat(self) -> None:
        """Say that this writer lives; to be called each second."""
        self._check_open()
        block = self._map.superblock
        block["heartbeat_ms"] = self._clock.wall_ms()
        block["heartbeat_boot_ms"] = self._clock.boot_ms()
        if self._fd is not None:
            lock_segment(self._fd.number)  # a reader's own lock may have been in the way

    def _check_open(self) -> None:
        """Refuse to write once the lock is gone: the segment may be another writer's by now."""
        lock = self._lock
        if self._is_closed:
            raise SegmentError(f"{self.spec.path}: this writer is closed")
        # As `_is_in_child`, whose calls would cost a single tick more than its stores.
        if lock is not None and lock.fd.number < 0:
            raise SegmentError(f"{self.spec.path}: this writer is the parent process's")

    @property
    def _is_in_child(self) -> bool:
        """Whether this is a forked child's copy: the map is shared, the lock is not."""
        return self._lock is not None and not self._lock.is_held

    # -- what is there -----------------------------------------------------------------------

    @property
    def path(self) -> Path | None:
        """The segment's file, or None for anonymous memory."""
        return None if self._lock is None else self.spec.path

    @property
    def instance(self) -> str:
        """The segment's identity, 32 hexadecimal digits; another one after a replacement."""
        return bytes(self._map.superblock["instance"]).hex()

    @property
    def size(self) -> int:
        """Bytes of the segment, holes included."""
        return self._map.geometry.size

    @property
    def epoch(self) -> int:
        """The stable epoch."""
        return self._epoch

    @property
    def last_update_ms(self) -> int:
        """When the last batch was confirmed, milliseconds UTC."""
        return int(self._map.headers[self._back ^ 1].view(np.int64)[table.NEWEST_UPDATE])

    @property
    def tickers(self) -> Sequence[Ticker]:
        """The tickers by row, removed ones too."""
        return tuple(self._tickers)

    @property
    def row_of(self) -> Mapping[str, int]:
        """The row of each symbol."""
        return MappingProxyType(self._row_of)

    @property
    def _back(self) -> int:
        return latch.stable_buffer(self._epoch) ^ 1

    def _kind(self, interval: str) -> KindGeometry:
        for kind in self._map.geometry.kinds:
            if kind.kind.interval == interval:
                return kind
        known = tuple(kind.kind.interval for kind in self._map.geometry.kinds)
        raise UnknownIntervalError(interval, known)

    def rows_of(self, symbols: Iterable[str]) -> NDArray[np.intp]:
        """Give the rows of those of some symbols that are counted, in `quotes` and in `series`."""
        count = len(self.quotes())
        rows = (self._row_of.get(symbol, count) for symbol in symbols)
        return np.array([row for row in rows if row < count], np.intp)

    def quotes(self) -> NDArray[np.void]:
        """View the stable quote rows of all counted tickers, as `layout.QUOTE_ROW`.

        Read-only; good until the next commit.
        """
        return self._stable(self._map.quotes[self._back ^ 1], layout.QUOTE_ROW)

    def series(self, interval: str) -> NDArray[np.void]:
        """View the stable series rows of all counted tickers, as `layout.SERIES_ROW`.

        Read-only; good until the next commit.

        Raises
        ------
        UnknownIntervalError

        """
        rows = self._map.series[self._back ^ 1][self._kind(interval).index]
        return self._stable(rows, layout.SERIES_ROW)

    def _stable(self, rows: Words, record: np.dtype[np.void]) -> NDArray[np.void]:
        count = self._map.ticker_count(self._back ^ 1)
        view: NDArray[np.void] = rows[:count].view(record)[:, 0]
        view.flags.writeable = False
        return view

    def present(self, rows: Rows = slice(None)) -> NDArray[np.bool_]:
        """Tell which of all counted tickers, or of some of them, have a published value."""
        present: NDArray[np.bool_] = self._flags()[rows] == layout.PRESENT_WORD
        return present

    def removed(self, rows: Rows = slice(None)) -> NDArray[np.bool_]:
        """Tell which of all counted tickers, or of some of them, are removed."""
        removed: NDArray[np.bool_] = self._flags()[rows] == layout.REMOVED_WORD
        return removed

    def _flags(self) -> Words:
        stable = self._back ^ 1
        return self._map.quotes[stable][: self._map.ticker_count(stable), table.FLAGS]

    def is_present(self, row: int) -> bool:
        """Tell whether a ticker has a published value; one that was just enlisted has none."""
        return self._flags_of(row) == layout.PRESENT_WORD

    def is_removed(self, row: int) -> bool:
        """Tell whether a ticker is removed."""
        return self._flags_of(row) == layout.REMOVED_WORD

    def _flags_of(self, row: int) -> int:
        flags = self._flags()
        return int(flags[row]) if row < len(flags) else 0

    def quote_of(self, row: int) -> tuple[float, ...] | None:
        """Give open, high, low, price, volume and previous close of a row's stable quote.

        Nothing where there is none. The fastest way to one.
        """
        return self._single.quote(row, self._epoch)

    def history(self, row: int, interval: str) -> tuple[Bars, bool]:
        """Copy all bars of a series, the forming one last; and tell whether there is one.

        Raises
        ------
        UnknownIntervalError

        """
        kind = self._kind(interval)
        words = self._map.series[self._back ^ 1][kind.index][row]
        closed, forming = table.closed(self._map, kind, row, words), table.forming(words)
        return (
            table.joined(closed, forming) if forming else table.copied(closed)
        ), forming is not None

    def newest_closed(self, row: int, interval: str) -> tuple[int, float] | None:
        """Give time and close of the newest closed bar of a series, if there is one.

        Raises
        ------
        UnknownIntervalError

        """
        kind = self._kind(interval)
        words = self._map.series[self._back ^ 1][kind.index][row]
        closed = table.closed(self._map, kind, row, words)
        return (int(closed.time[-1]), float(closed.field("close")[-1])) if len(closed) else None

    def late(self, ticks: Ticks) -> NDArray[np.bool_]:
        """Tell which bars are older than what is published, and would be refused.

        Raises
        ------
        UnknownIntervalError

        """
        kind = self._kind(ticks.interval)
        stable = self._map.series[self._back ^ 1][kind.index]
        return ticks.time < table.earliest(self._map, kind, stable, ticks.rows)

    def goes_on(self, ticks: Ticks) -> bool:
        """Tell whether all these bars are known to be the forming ones of their rows.

        So it is when the batch before said the same times of the same rows, and of one row always;
        nothing is said of others. None of them is late then, and none closes a bar.

        Raises
        ------
        UnknownIntervalError

        """
        kind = self._kind(ticks.interval).index
        if table.length(ticks.rows) != 1 or len(ticks.time) != 1:
            return self._seen.is_forming(kind, ticks)
        row = ticks.rows.start or 0 if isinstance(ticks.rows, slice) else int(ticks.rows[0])
        return self.is_forming(row, ticks.interval, ticks.time.item())

    def is_forming(self, row: int, interval: str, time_ms: int) -> bool:
        """Tell whether a series has a forming bar that began at this time."""
        return self._single.is_forming(row, interval, time_ms, self._epoch)

    # -- tickers -----------------------------------------------------------------------------

    def enlist(self, tickers: Iterable[Ticker]) -> NDArray[np.intp]:
        """Give the rows of tickers, new ones at the end; the next commit makes them seen.

        A ticker that was removed comes back in its old row, without its history. Where there is
        no room, a larger segment takes this one's place.

        Raises
        ------
        BatchError
            A symbol, currency or zone that does not fit its field; or more tickers than any segment
        holds.
        SegmentFullError
            No room for a larger segment.

        """
        self._check_open()
        wanted = list(tickers)
        fresh = {t.symbol: t for t in wanted if t.symbol not in self._row_of}
        for ticker in fresh.values():
            _check_ticker(ticker)
        if (needed := len(self._tickers) + len(fresh)) > self.spec.max_tickers:
            self._replace(replace(self.spec, max_tickers=_room(needed, self.spec.max_tickers)))
        for ticker in fresh.values():
            row = len(self._tickers)
            segment.list_ticker(self._map, row, ticker)
            self._tickers.append(ticker)
            self._row_of[ticker.symbol] = row
        rows = np.array([self._row_of[ticker.symbol] for ticker in wanted], np.intp)
        flags = self._map.quotes[self._back ^ 1][rows, table.FLAGS]
        self._revived.update(rows[flags == layout.REMOVED_WORD].tolist())
        return rows

    # -- publishing --------------------------------------------------------------------------

    def write_data(self, batch: Batch) -> int:
        """Publish a batch, all of it or nothing.

        Parameters
        ----------
        batch : Batch
            Bars and quotes of rows that `enlist` gave.

        Returns
        -------
        int
            The new stable epoch.

        Raises
        ------
        BatchError
            The batch cannot be published; nothing was touched.
        SegmentFullError
            No room for the blocks of some rows, which it names; nothing was published.

        """
        self._check_open()
        tick = None if self._revived else said(batch)
        one = None
        if tick is not None:
            count = len(self._tickers)
            one = self._single.plan(*tick, self._epoch, count, self._clock)
        if one is None:
            self._write_many(batch)
        else:
            self._commit_one(one)
        self._wake()
        return self._epoch

    def write_tick(
        self,
        row: int,
        interval: str,
        bar: Sequence[float],
        quote: Sequence[float] | None = None,
        updated_ms: int | None = None,
    ) -> int:
        """Publish the newest bar of one series, and its ticker's quote: the fastest way for one.

        It is what `write_data` does with a batch of one tick, without an array.

        Parameters
        ----------
        row : int
            Of the ticker, as `enlist` gave it; an integer of any type.
        interval : str
            Of the bar.
        bar : sequence
            Its start, milliseconds UTC, an int; then open, high, low, close, volume.
        quote : sequence, optional
            When the price was made, milliseconds UTC, an int; then open, high, low, price, volume,
            previous close; NaN where unknown.
        updated_ms : int, optional
            When it was confirmed; now, if left out.

        Returns
        -------
        int
            The new stable epoch.

        Raises
        ------
        BatchError, UnknownIntervalError, SegmentFullError
            As `write_data` does.

        """
        self._check_open()
        one = None
        try:
            row = index(row)  # NumPy's small integers overflow where offsets are made of them
        except TypeError:
            raise BatchError(f"row: found {row!r}, expected an integer") from None
        if not self._revived:
            one = self._single.plan(
                row, interval, bar, quote, updated_ms,
                self._epoch, len(self._tickers), self._clock,
            )  # fmt: skip
        if one is None:
            if updated_ms is None:
                updated_ms = self._clock.wall_ms()
            self._write_many(batch_of(row, interval, bar, quote, updated_ms))
        else:
            self._commit_one(one)
        self._wake()
        return self._epoch

    def _write_many(self, batch: Batch) -> None:
        """Publish a batch of any kind."""
        planner = Planner(self._map, self._tickers, self._revived, self._seen, self._back_block)
        plan = planner.plan(batch, self._clock)
        try:
            self._commit(plan)
            for kind, series in enumerate(plan.series):
                self._seen.learn(kind, series)
            self._revived.clear()
        except BaseException:
            self._adopt_own()
            raise

    def _adopt_own(self) -> None:
        """Treat an exception in the middle of a commit as a death and an adoption."""
        tickers, row_of = self._tickers, self._row_of
        self._adopt()
        self._tickers, self._row_of = tickers, row_of  # those enlisted stay so
        # The commit may be in force.
        self._revived = {row for row in self._revived if self.is_removed(row)}

    def _commit_one(self, one: Single) -> None:
        """Make the stores of one tick: what `_commit` does, on two rows."""
        epoch = self._epoch
        try:
            self._single.commit(one, epoch, self._dirty_one, self._catch_up_rows)
            self._epoch, self._dirty_one = epoch + 2, one[0]
        except BaseException:
            self._adopt_own()
            raise

    def _catch_up_rows(self) -> None:
        """Bring the back buffer up to date after a commit that was no single tick."""
        m, back = self._map, self._back
        _catch_up(m.quote_items[back], m.quote_items[back ^ 1], self._dirty_quotes, ())
        for k, changed in enumerate(self._dirty_series):
            _catch_up(m.series_items[back][k], m.series_items[back ^ 1][k], changed, ())

    def _spread(self, place: Place) -> None:
        """Say what a single tick changed as an ordinary commit's changes are said."""
        kind, row, has_quote = place
        rows = slice(row, row + 1)
        self._dirty_quotes = [(rows, False)] if has_quote else []
        self._dirty_series = [[] for _ in self._map.geometry.kinds]
        self._dirty_series[kind].append((rows, True))
        self._dirty_one = None

    def _commit(self, plan: Plan) -> None:
        """Make the plan's stores. Nothing in here allocates, checks or decides."""
        m, back, epoch = self._map, self._back, self._epoch
        stable = back ^ 1
        quotes, series_of = m.quote_items, m.series_items
        if self._dirty_one is not None:
            self._spread(self._dirty_one)
        m.cells[layout.EPOCH_WORD] = epoch + 1
        self._release()  # pairs with the reader's fence before its second load
        for entries, series in zip(m.entries, plan.series, strict=True):
            for one in series.rows:
                entries[:, table.EPOCH][one.rows] = one.epochs - _ONE
        _catch_up(quotes[back], quotes[stable], self._dirty_quotes, plan.quotes)
        for k, series in enumerate(plan.series):
            _catch_up(series_of[back][k], series_of[stable][k], self._dirty_series[k], series.rows)
        for kind, series in zip(m.geometry.kinds, plan.series, strict=True):
            self._store_bars(kind, series)
            _store_rows(series_of[back][kind.index], series.rows)
        _store_rows(quotes[back], plan.quotes)
        m.headers[back][: len(plan.header)] = plan.header
        m.superblock["last_update_ms"] = plan.header.view(np.int64)[table.NEWEST_UPDATE]
        self._release()  # pairs with the reader's fence behind its first load
        m.cells[layout.EPOCH_WORD] = self._epoch = epoch + 2
        self._dirty_quotes = [(one.rows, one.is_tick) for one in plan.quotes]
        self._dirty_series = [[(one.rows, one.is_tick) for one in s.rows] for s in plan.series]
        for entries, series in zip(m.entries, plan.series, strict=True):
            for one in series.rows:
                entries[:, table.UPDATED][one.rows] = one.updated
                entries[:, table.EPOCH][one.rows] = one.epochs

    def _store_bars(self, kind: KindGeometry, series: SeriesPlan) -> None:
        """Store closed bars where no reader looks yet."""
        m = self._map
        for one in series.rewrites:
            m.cells[m.entry_word(kind.index, one.row) + table.BEGUN] = one.rewrites
            self._release()  # pairs with the reader's fence before it loads rewrites_begun
            times, values = m.columns(kind, one.row, one.rewrites & 1)
            window = slice(one.start, one.start + len(one.bars))
            times[window] = one.bars.time.view(np.uint64)
            values[:, window] = one.bars.ohlcv
        for closing in series.closings:
            m.blocks[kind.index][closing.words] = closing.time
            words = closing.words[:, None] + _COLUMNS * kind.rows
            m.float_blocks[kind.index][words] = closing.ohlcv

    def _back_block(self, kind: KindGeometry, row: int, block: int) -> None:
        """Back a block with memory, all its pages touched; harmless where it is."""
        offset = kind.block_offset(row, block)
        if self._fd is not None:
            segment.allocate(self._fd.number, self.spec.path, offset, kind.block_nbytes)
        segment.populate(self._map.buffer, offset, kind.block_nbytes)

    # -- replacement -------------------------------------------------------------------------

    def _replace(self, spec: SegmentSpec, *, keep: bool = True) -> None:
        """Put a new segment in this one's place; its history and its epoch go on."""
        old, old_fd, epoch = self._map, self._fd, self._epoch
        if self._lock is None:
            new, new_fd = _anonymous_map(spec, self._clock), None
        else:
            new, new_fd = segment.create(spec, self._clock)
        try:
            epoch += 2
            new.cells[layout.EPOCH_WORD] = epoch
            if keep:
                self._copy_into(new, new_fd, spec, latch.stable_buffer(epoch))
            if self._lock is not None:
                segment.publish(new, spec.path)
        except BaseException:
            if new_fd is not None:
                files.close_fd(new_fd)
                segment.reclaim(spec.path)
            raise
        self.spec = spec
        self._use(new, new_fd)
        old.cells[layout.STATE_WORD] = layout.CLOSED
        if not keep:
            self._tickers, self._row_of, self._revived = [], {}, set()
        if old_fd is not None:
            waker(np.frombuffer(old.buffer, np.uint8, 8, layout.EPOCH_OFFSET).ctypes.data)()
            old_fd.close()

    def _copy_into(self, new: SegmentMap, fd: int | None, spec: SegmentSpec, buffer: int) -> None:
        """Copy everything that is stable into a segment that nobody sees yet."""
        old, stable, n = self._map, self._back ^ 1, len(self._tickers)
        counted = old.ticker_count(stable)
        new.directory[:n] = old.directory[:n]
        new.quotes[buffer][:counted] = old.quotes[stable][:counted]
        new.headers[buffer][:] = old.headers[stable]
        new.headers[buffer][table.EPOCH_OF_BUFFER] = new.epoch
        new.superblock["last_update_ms"] = old.superblock["last_update_ms"]
        old_kinds = {kind.kind.interval: kind for kind in old.geometry.kinds}
        for kind in new.geometry.kinds:
            before = old_kinds.get(kind.kind.interval)
            if before is None:
                continue
            rows = new.series[buffer][kind.index]
            rows[:counted] = old.series[stable][before.index][:counted]
            rows[:counted, (table.REWRITES, table.START, table.COUNT)] = 0
            rows[:counted, table.SERIES_FLAGS] &= np.uint64(layout.HAS_FORMING)
            rows[:counted, table.ENTRY_EPOCH] += np.uint64(2)
            entries = new.entries[kind.index]
            entries.view(layout.ENTRY)["version"] = layout.LAYOUT_VERSION
            entries.view(layout.ENTRY)["writer_pid"] = os.getpid()
            entries[:counted, table.EPOCH] = rows[:counted, table.ENTRY_EPOCH]
            entries[:counted, table.UPDATED] = rows[:counted, table.LAST_UPDATE]
            for row in range(counted):
                words = old.series[stable][before.index][row]
                closed = table.closed(old, before, row, words)
                forming = int(words[table.SERIES_FLAGS]) & layout.HAS_FORMING
                closed = table.newest(closed, kind.kind.capacity - (1 if forming else 0))
                if not len(closed):
                    continue
                offset = kind.block_offset(row, 0)
                if fd is not None:
                    path = segment.temporary_path(spec.path)
                    segment.allocate(fd, path, offset, kind.block_nbytes)
                segment.populate(new.buffer, offset, kind.block_nbytes)
                times, values = new.columns(kind, row, 0)
                times[: len(closed)] = closed.time.view(np.uint64)
                values[:, : len(closed)] = closed.ohlcv
                rows[row, table.COUNT] = len(closed)
                rows[row, table.SERIES_FLAGS] |= np.uint64(layout.BACKED[0])
            table.seal(rows[:counted])


# -- rows and bars ---------------------------------------------------------------------------


def _anonymous_map(spec: SegmentSpec, clock: Clock) -> SegmentMap:
    geometry = Geometry.of(spec.max_tickers, spec.kinds)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    try:
        memory = mmap.mmap(-1, geometry.size, flags)
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise SegmentError(f"{geometry.size} bytes of memory: {why}") from error
    mapped = SegmentMap(memory, geometry)
    segment.populate(memory, 0, geometry.kinds[0].blocks_offset)
    segment.fill(mapped, spec, clock)
    segment.complete(mapped)
    return mapped


def _spec_of(mapped: SegmentMap, wanted: SegmentSpec) -> SegmentSpec:
    """Describe the segment that was found, in the words of the one that is wanted."""
    block = mapped.superblock
    return replace(
        wanted,
        max_tickers=mapped.geometry.max_tickers,
        kinds=tuple(kind.kind for kind in mapped.geometry.kinds),
        source=bytes(block["source"]).decode(errors="replace"),
        adjustment=bytes(block["adjustment"]).decode(errors="replace"),
        freshness_ms=int(block["freshness_ms"]),
    )


def _room(needed: int, before: int) -> int:
    """Give how many tickers a larger segment is for."""
    if needed > layout.MAX_TICKERS:
        raise BatchError(f"{needed} tickers: expected at most {layout.MAX_TICKERS}")
    return min(max(needed, 2 * before), layout.MAX_TICKERS)


def _check_ticker(ticker: Ticker) -> None:
    for name, text in zip(Ticker._fields, ticker, strict=True):
        room = layout.DIRECTORY_ROW[name].itemsize
        try:
            nbytes = len(text.encode())
        except UnicodeEncodeError:
            raise BatchError(f"{name} {text!r}: expected Unicode that can be encoded") from None
        if nbytes > room or (name == "symbol" and not text):
            raise BatchError(f"{name} {text!r}: found {nbytes} bytes, expected 1 to {room}")
        if not text.isprintable():  # it goes into logs and onto terminals
            raise BatchError(f"{name} {text!r}: found a control character, expected none")
    try:
        zoneinfo.ZoneInfo(ticker.time_zone)
    except (LookupError, ValueError, OSError):
        found = f"time_zone {ticker.time_zone!r} of {ticker.symbol!r}"
        raise BatchError(f"{found}: expected an IANA name") from None


def _catch_up(back: Items, stable: Items, dirty: list[Dirty], planned: Sequence[RowStores]) -> None:
    """Bring rows of the back buffer up to date that the last commit changed.

    Those that this commit writes whole need not be; nor those of which the last one wrote what a
    tick changes, and this one writes that again.
    """
    for rows, was_tick in dirty:
        if not any((one.is_whole or was_tick) and table.same(rows, one.rows) for one in planned):
            back[rows] = stable[rows]


def _store_rows(back: Items, planned: Sequence[RowStores]) -> None:
    """Store new rows in the back buffer."""
    for one in planned:
        for words, new in one.parts:
            table.field(back, words)[one.rows] = new
