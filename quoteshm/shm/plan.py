"""What a commit will store: worked out from the stable rows and the batch, before the epoch is odd.

Everything that can fail happens here: checking, merging what a batch says twice, and backing
blocks with memory. What comes out is stores and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from quoteshm.errors import BatchError, SegmentFullError, UnknownIntervalError
from quoteshm.model import Bars, Ticker
from quoteshm.shm import latch, layout, table
from quoteshm.shm.batch import Batch, History, Quotes, Ticks
from quoteshm.shm.layout import KindGeometry
from quoteshm.shm.segment import SegmentMap

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quoteshm.clock import Clock
    from quoteshm.shm.batch import Rows
    from quoteshm.shm.segment import Words


@dataclass(slots=True, eq=False)
class Rewrite:
    """A window to be written into a series' other block."""

    row: int
    rewrites: int  # as the new row says
    start: int
    bars: Bars


@dataclass(slots=True, eq=False)
class Closings:
    """Bars to be written behind their windows: words of the kind's blocks, and what goes there."""

    words: NDArray[np.intp]
    time: NDArray[np.int64] | Words
    ohlcv: NDArray[np.float64]  # (n, 5)


@dataclass(slots=True, eq=False)
class SeriesPlan:
    """The stores of one series kind."""

    rows: list[tuple[Rows, Words]] = field(default_factory=list)
    closings: list[Closings] = field(default_factory=list)
    rewrites: list[Rewrite] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Plan:
    """The stores of one commit."""

    quotes: list[tuple[Rows, Words]]
    series: list[SeriesPlan]
    header: Words


class Planner:
    """Works out one commit.

    Parameters
    ----------
    mapped : SegmentMap
        The segment, at an even epoch.
    tickers : sequence of Ticker
        Those enlisted, by row.
    revived : set of int
        Rows of tickers that come back after a removal.
    back_block : callable
        Backs the block of (kind, row, block) with memory.

    """

    def __init__(
        self,
        mapped: SegmentMap,
        tickers: Sequence[Ticker],
        revived: set[int],
        back_block: Callable[[KindGeometry, int, int], None],
    ) -> None:
        self._map, self._tickers, self._revived = mapped, tickers, revived
        self._back_block = back_block
        self._full: SegmentFullError | None = None
        self._starved: set[int] = set()
        stable = latch.stable_buffer(mapped.epoch)
        self._quotes, self._series = mapped.quotes[stable], mapped.series[stable]
        self._epoch = latch.stable_epoch(mapped.epoch) + 2  # the one that the commit ends with
        self._updated_ms = 0

    def plan(self, batch: Batch, clock: Clock) -> Plan:
        """Give the stores that publish a batch.

        Raises
        ------
        BatchError, UnknownIntervalError, SegmentFullError

        """
        known = tuple(kind.kind.interval for kind in self._map.geometry.kinds)
        said = {t.interval for t in batch.ticks} | {h.interval for h in batch.histories}
        if unknown := said.difference(known):
            raise UnknownIntervalError(unknown.pop(), known)
        self._updated_ms = batch.updated_ms
        now_ms, boot_ms = clock.wall_ms(), clock.boot_ms()
        confirmed_boot_ms = boot_ms - max(0, now_ms - batch.updated_ms)
        stamps = np.array((batch.updated_ms, confirmed_boot_ms, self._epoch), np.int64)
        counted = np.uint64(layout.checked_word(len(self._tickers))).view(np.int64)
        header = (counted, batch.updated_ms, now_ms, boot_ms, self._epoch)
        plan = Plan(
            self._plan_quotes(batch, stamps.view(np.uint64)),
            [self._plan_series(kind, batch) for kind in self._map.geometry.kinds],
            np.array(header, np.int64).view(np.uint64),
        )
        if self._full is not None:
            full = self._full
            raise SegmentFullError(full.path, full.needed, full.free, frozenset(self._starved))
        return plan

    def _back(self, kind: KindGeometry, row: int, block: int) -> None:
        """Back a block with memory; once there is none left, only note who needs some."""
        if self._full is None:
            try:
                self._back_block(kind, row, block)
            except SegmentFullError as error:
                self._full = error
            else:
                return
        self._starved.add(row)

    def _plan_quotes(self, batch: Batch, stamps: Words) -> list[tuple[Rows, Words]]:
        plan: list[tuple[Rows, Words]] = []
        if self._revived:  # without the price of its former life
            rows = np.array(sorted(self._revived), np.intp)
            new = np.zeros((len(rows), layout.ROW_WORDS), np.uint64)
            new[:, table.FLAGS] = layout.ABSENT_WORD
            new[:, table.CHANGED_QUOTE] = self._epoch
            plan.append((rows, new))
        if batch.confirmed is not None:
            self._check_rows(batch.confirmed)
            new = self._quotes[batch.confirmed].copy()
            there = new[:, table.FLAGS] == layout.PRESENT_WORD
            if self._revived:
                revived = np.isin(table.numbers(batch.confirmed), list(self._revived))
                there &= ~revived
                new[revived] = 0
                new[revived, table.FLAGS] = layout.ABSENT_WORD
                new[revived, table.CHANGED_QUOTE] = self._epoch
            if there.all():
                new[:, table.STAMPS] = stamps
            else:  # where there is no quote, there is nothing to confirm
                new[there, table.STAMPS] = stamps
            plan.append((batch.confirmed, new))
        plan += [(quotes.rows, self._new_quotes(quotes, stamps)) for quotes in batch.quotes]
        if batch.removed:
            rows = np.array(batch.removed, np.intp)
            self._check_rows(rows)
            new = self._quotes[rows].copy()
            new[:, table.FLAGS] = layout.REMOVED_WORD
            new[:, table.STAMPS] = stamps
            plan.append((rows, new))
        return plan

    def _new_quotes(self, quotes: Quotes, stamps: Words) -> Words:
        self._check_rows(quotes.rows)
        n = table.length(quotes.rows)
        _expect("quotes", "ts_ms", quotes.ts_ms, (n,), np.int64)
        _expect("quotes", "values", quotes.values, (n, 6), np.float64)
        new = np.zeros((n, layout.ROW_WORDS), np.uint64)
        new[:, table.FLAGS] = layout.PRESENT_WORD
        new[:, table.TS] = quotes.ts_ms.view(np.uint64)
        new.view(np.float64)[:, table.VALUES] = quotes.values
        new[:, table.STAMPS] = stamps
        if quotes.updated_ms is not None:
            _expect("quotes", "updated_ms", quotes.updated_ms, (n,), np.int64)
            new.view(np.int64)[:, table.UPDATED_MS] = quotes.updated_ms
            new.view(np.int64)[:, table.UPDATED_BOOT_MS] = layout.UNCONFIRMED_BOOT_MS
        return new

    def _check_rows(self, rows: Rows) -> None:
        """Refuse rows that nobody has enlisted, and rows given twice."""
        count = len(self._tickers)
        if isinstance(rows, slice):
            start, stop = rows.start or 0, -1 if rows.stop is None else rows.stop
            if not (rows.step is None and 0 <= start <= stop <= count):
                raise BatchError(f"rows {rows}: expected a plain slice within 0 to {count}")
            return
        if not isinstance(rows, np.ndarray) or rows.dtype != np.intp or rows.ndim != 1:
            raise BatchError(f"rows {rows!r:.80}: expected a slice, or intp numbers")
        if len(rows) and not 0 <= rows.min() <= rows.max() < count:
            raise BatchError(f"rows {rows.min()} to {rows.max()}: expected 0 to {count - 1}")
        if not _distinct(rows):
            raise BatchError("rows: found one given twice, expected distinct ones")

    def _plan_series(self, kind: KindGeometry, batch: Batch) -> SeriesPlan:
        """Plan one kind: ticks in columns, and histories one by one."""
        interval, plan = kind.kind.interval, SeriesPlan()
        histories: dict[int, History] = {
            row: History(interval, row, Bars.empty(), forming=False, replace=True)
            for row in self._revived
        }
        said = [ticks for ticks in batch.ticks if ticks.interval == interval]
        for ticks in said:
            self._check_ticks(ticks)
        alone = {h.row for h in batch.histories if h.interval == interval} | self._revived
        alone |= _twice(said)
        columns: list[Ticks] = []
        for ticks in said:
            for one in _apart(ticks, alone):
                _fold_in(histories, one)
            columns.append(_without(ticks, alone))
        for one in batch.histories:
            if one.interval == interval:
                _check_history(one, len(self._tickers))
                _fold_in(histories, one)
        for ticks in columns:
            for one in self._plan_ticks(kind, plan, ticks):
                histories[one.row] = one
        if histories:
            self._plan_histories(kind, plan, histories)
        return plan

    def _check_ticks(self, ticks: Ticks) -> None:
        self._check_rows(ticks.rows)
        n = table.length(ticks.rows)
        _expect("ticks", "time", ticks.time, (n,), np.int64)
        _expect("ticks", "ohlcv", ticks.ohlcv, (n, 5), np.float64)

    def _plan_ticks(self, kind: KindGeometry, plan: SeriesPlan, ticks: Ticks) -> list[History]:
        """Plan one bar for each of many tickers; give back those whose block is full."""
        rows, full = ticks.rows, list[History]()
        new = self._series[kind.index][rows]
        if isinstance(rows, slice):  # numbers have copied it
            new = new.copy()
        times = ticks.time.view(np.uint64)
        ticked = (new[:, table.TIME] == times) & (
            (new[:, table.SERIES_FLAGS] & layout.HAS_FORMING) != 0
        )
        if not ticked.all():
            late = ticks.time < table.earliest(self._map, kind, self._series[kind.index], rows)
            if late.any():
                row = int(table.numbers(rows)[late][0])
                raise BatchError(
                    f"{self._tickers[row].symbol} {kind.kind.interval}: found a bar at "
                    f"{int(ticks.time[late][0])} ms, older than what is published",
                )
            opened = np.flatnonzero(~ticked)
            overflow = self._plan_openings(kind, plan, table.numbers(rows)[opened], new, opened)
            for place in opened[overflow].tolist():
                bar = Bars(ticks.time[place : place + 1], ticks.ohlcv[place : place + 1].T)
                full.append(
                    History(kind.kind.interval, int(table.numbers(rows)[place]), bar, forming=True)
                )
            new[:, table.TIME] = times
            new[:, table.SERIES_FLAGS] |= layout.HAS_FORMING
            table.seal(new)
        new.view(np.float64)[:, table.OHLCV] = ticks.ohlcv
        if full:
            keep = np.ones(len(new), np.bool_)
            keep[opened[overflow]] = False
            rows, new = table.numbers(rows)[keep], new[keep]
        self._stamp(kind, rows, new)
        plan.rows.append((rows, new))
        return full

    def _plan_openings(
        self,
        kind: KindGeometry,
        plan: SeriesPlan,
        numbers: NDArray[np.intp],
        new: Words,
        opened: NDArray[np.intp],
    ) -> NDArray[np.bool_]:
        """Plan the bars that close because a new one opens; tell which have no room for it.

        ``new`` are the rows to be, of which those at ``opened`` open a bar.
        """
        state = new[opened]
        closing = (state[:, table.SERIES_FLAGS] & layout.HAS_FORMING) != 0
        if kind.kind.capacity == 1:
            closing[:] = False  # the forming bar is all that is kept
        full: NDArray[np.bool_] = closing & (
            state[:, table.START] + state[:, table.COUNT] >= kind.rows
        )
        closing &= ~full
        at = state[closing]
        block, backed = at[:, table.REWRITES] & 1, layout.backed(at[:, table.REWRITES])
        for place in np.flatnonzero((at[:, table.SERIES_FLAGS] & backed) == 0).tolist():
            self._back(kind, int(numbers[closing][place]), int(block[place]))
        if len(at):
            words = table.last_word(kind, numbers[closing], at) + 1
            plan.closings.append(
                Closings(words, at[:, table.TIME], at.view(np.float64)[:, table.OHLCV])
            )
        state[closing, table.SERIES_FLAGS] |= backed
        state[closing, table.COUNT] += 1
        excess = np.maximum(state[:, table.COUNT].view(np.int64) - (kind.kind.capacity - 1), 0)
        state[:, table.START] += excess.view(np.uint64)
        state[:, table.COUNT] -= excess.view(np.uint64)
        new[opened] = state
        return full

    def _plan_histories(
        self,
        kind: KindGeometry,
        plan: SeriesPlan,
        histories: Mapping[int, History],
    ) -> None:
        rows = np.array(sorted(histories), np.intp)
        new = self._series[kind.index][rows]
        for words, row in zip(new, rows.tolist(), strict=True):
            self._plan_history(kind, plan, words, histories[row])
        table.seal(new)
        self._stamp(kind, rows, new)
        for words, row in zip(new, rows.tolist(), strict=True):
            if (updated_ms := histories[row].updated_ms) is not None:
                words.view(np.int64)[table.LAST_UPDATE] = updated_ms
        plan.rows.append((rows, new))

    def _plan_history(
        self, kind: KindGeometry, plan: SeriesPlan, words: Words, one: History
    ) -> None:
        """Plan several bars of one series; ``words`` is its row, and becomes the new one."""
        row, bars, capacity = one.row, one.bars, kind.kind.capacity
        closed, forming = table.closed(self._map, kind, row, words), table.forming(words)
        if not one.replace:
            if not len(bars):
                return
            self._check_follows(kind, row, closed, forming, bars)
            if forming is not None and bars.time[0] > forming.time[0]:
                bars = table.joined(forming, bars)
        ended, last = (bars[:-1], bars[-1:]) if one.forming and len(bars) else (bars, None)
        keep = capacity - (last is not None)
        start, count = int(words[table.START]), int(words[table.COUNT])
        if one.replace or start + count + len(ended) > kind.rows:
            window = ended if one.replace else table.joined(closed, ended)
            self._plan_rewrite(kind, plan, words, row, table.newest(window, keep))
        elif len(ended):
            block = int(words[table.REWRITES]) & 1
            if not int(words[table.SERIES_FLAGS]) & layout.BACKED[block]:
                self._back(kind, row, block)
                words[table.SERIES_FLAGS] |= np.uint64(layout.BACKED[block])
            first = int(table.last_word(kind, np.array([row]), words[None])[0]) + 1
            at = np.arange(first, first + len(ended))
            plan.closings.append(Closings(at, ended.time.view(np.uint64), ended.ohlcv.T))
            excess = max(0, count + len(ended) - keep)
            words[table.START], words[table.COUNT] = start + excess, count + len(ended) - excess
        elif count > keep:
            words[table.START], words[table.COUNT] = start + count - keep, keep
        words[table.SERIES_FLAGS] &= ~np.uint64(layout.HAS_FORMING)
        words[table.TIME : table.OHLCV.stop] = 0
        if last is not None:
            words[table.SERIES_FLAGS] |= np.uint64(layout.HAS_FORMING)
            words.view(np.int64)[table.TIME] = last.time[0]
            words.view(np.float64)[table.OHLCV] = last.ohlcv[:, 0]
        words[table.RESTATEMENTS] += np.uint64(one.restated)

    def _plan_rewrite(
        self, kind: KindGeometry, plan: SeriesPlan, words: Words, row: int, window: Bars
    ) -> None:
        rewrites = int(words[table.REWRITES]) + 1
        block = rewrites & 1
        if len(window) and not int(words[table.SERIES_FLAGS]) & layout.BACKED[block]:
            self._back(kind, row, block)
            words[table.SERIES_FLAGS] |= np.uint64(layout.BACKED[block])
        # The first window stands somewhere in the block's room to grow, another place for each
        # row: so the blocks of a market that opens its bars together do not fill together.
        room = kind.rows - kind.kind.capacity
        start = row * 37 % room if rewrites == 1 and len(window) >= kind.kind.capacity - 1 else 0
        words[table.REWRITES], words[table.START], words[table.COUNT] = rewrites, start, len(window)
        plan.rewrites.append(Rewrite(row, rewrites, start, window))

    def _check_follows(
        self, kind: KindGeometry, row: int, closed: Bars, forming: Bars | None, bars: Bars
    ) -> None:
        earliest = None
        if forming is not None:
            earliest = int(forming.time[0])
        elif len(closed):
            earliest = int(closed.time[-1]) + 1
        if earliest is not None and bars.time[0] < earliest:
            raise BatchError(
                f"{self._tickers[row].symbol} {kind.kind.interval}: found a bar at "
                f"{int(bars.time[0])} ms, expected {earliest} or later: closed bars change only "
                "by a replacement",
            )

    def _stamp(self, kind: KindGeometry, rows: Rows, new: Words) -> None:
        """Complete new series rows with when, and with what their entries will say."""
        new[:, table.ENTRY_EPOCH] = self._map.entries[kind.index][rows, table.EPOCH] + np.uint64(2)
        new[:, table.LAST_UPDATE] = self._updated_ms
        new[:, table.CHANGED] = self._epoch


# -- what a batch says twice -----------------------------------------------------------------


def _expect(
    of: str, name: str, array: NDArray[Any], shape: tuple[int, ...], dtype: type[np.generic]
) -> None:
    if array.shape != shape or array.dtype != dtype:
        found, expected = f"{array.dtype} {array.shape}", f"{np.dtype(dtype)} {shape}"
        raise BatchError(f"{of}, {name}: found {found}, expected {expected}")


def _check_history(one: History, count: int) -> None:
    if not 0 <= one.row < count:
        raise BatchError(f"row {one.row}: expected 0 to {count - 1}")
    n = len(one.bars)
    _expect(f"row {one.row}", "time", one.bars.time, (n,), np.int64)
    _expect(f"row {one.row}", "ohlcv", one.bars.ohlcv, (5, n), np.float64)
    if not (np.diff(one.bars.time) > 0).all():
        raise BatchError(f"row {one.row} {one.interval}: expected times that increase strictly")


def _distinct(rows: NDArray[np.intp]) -> bool:
    """Tell whether no row is given twice, at a cost that follows how many are given."""
    if len(rows) <= 1:
        return True
    if rows.max() < 64 * len(rows):  # counting is much faster than sorting where rows are dense
        return int(np.bincount(rows).max()) == 1
    return len(np.unique(rows)) == len(rows)


def _twice(said: Sequence[Ticks]) -> set[int]:
    """Find the rows that stand in more than one of the ticks."""
    if len(said) <= 1:
        return set()
    rows, counts = np.unique(
        np.concatenate([table.numbers(ticks.rows) for ticks in said]), return_counts=True
    )
    return set(rows[counts > 1].tolist())


def _apart(ticks: Ticks, alone: set[int]) -> list[History]:
    """Give, as histories, the ticks of rows of which the batch says something else as well."""
    if not alone:
        return []
    return [
        History(
            ticks.interval,
            row,
            Bars(ticks.time[place : place + 1], ticks.ohlcv[place : place + 1].T),
            forming=True,
        )
        for place, row in enumerate(table.numbers(ticks.rows).tolist())
        if row in alone
    ]


def _without(ticks: Ticks, rows: set[int]) -> Ticks:
    """Leave rows out of ticks."""
    if not rows:
        return ticks
    numbers = table.numbers(ticks.rows)
    keep = ~np.isin(numbers, list(rows))
    return Ticks(ticks.interval, numbers[keep], ticks.time[keep], ticks.ohlcv[keep])


def _fold_in(histories: dict[int, History], later: History) -> None:
    """Add a history to what the batch has said so far of the series."""
    earlier = histories.get(later.row)
    if earlier is None or later.replace:
        restated = later.restated + (earlier.restated if earlier else 0)
        histories[later.row] = replace(later, restated=restated)
        return
    before, after = earlier.bars, later.bars
    if not len(after):
        return
    if len(before) and earlier.forming and before.time[-1] == after.time[0]:
        before = before[:-1]
    if len(before) and before.time[-1] >= after.time[0]:
        raise BatchError(
            f"row {later.row} {later.interval}: found a bar at {int(after.time[0])} ms behind one "
            f"at {int(before.time[-1])} ms in the same batch",
        )
    histories[later.row] = replace(
        later,
        bars=table.joined(before, after),
        replace=earlier.replace,
        restated=earlier.restated + later.restated,
    )
