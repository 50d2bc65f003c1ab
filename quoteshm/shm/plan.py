"""What a commit will store: worked out from the stable rows and the batch, before the epoch is odd.

Everything that can fail happens here: checking, merging what a batch says twice, and backing
blocks with memory. What comes out is stores and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from quoteshm.errors import BatchError, SegmentFullError, UnknownIntervalError
from quoteshm.model import Bars, Ticker
from quoteshm.shm import latch, layout, table
from quoteshm.shm.batch import Batch, History, Quotes, Ticks
from quoteshm.shm.layout import KindGeometry
from quoteshm.shm.views import SegmentMap

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quoteshm.clock import Clock
    from quoteshm.shm.batch import Rows
    from quoteshm.shm.seen import Seen
    from quoteshm.shm.views import Words

_ONE: Final = np.uint64(1)
_INT64: Final = np.dtype(np.int64)
_FLOAT64: Final = np.dtype(np.float64)


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
class RowStores:
    """What goes into rows of a table: `table.part` of each, in this order.

    Rows that are not written whole keep the rest of what they are.
    """

    rows: Rows
    parts: list[tuple[slice, NDArray[np.void]]]
    is_whole: bool = True
    is_tick: bool = False  # what a tick changes, and no more


@dataclass(slots=True, eq=False)
class SeriesStores(RowStores):
    """The same of series rows, and what goes into their entries."""

    epochs: Words = field(kw_only=True)  # the even ones that they will have
    updated: Words | np.uint64 = field(kw_only=True)


@dataclass(slots=True, eq=False)
class SeriesPlan:
    """The stores of one series kind."""

    rows: list[SeriesStores] = field(default_factory=list)
    forming: Ticks | None = None  # if that is all: the times of these forming bars
    closings: list[Closings] = field(default_factory=list)
    rewrites: list[Rewrite] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Plan:
    """The stores of one commit."""

    quotes: list[RowStores]
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
    seen : Seen
        What is known of the rows that batches name.
    back_block : callable
        Backs the block of (kind, row, block) with memory.

    """

    def __init__(
        self,
        mapped: SegmentMap,
        tickers: Sequence[Ticker],
        revived: set[int],
        seen: Seen,
        back_block: Callable[[KindGeometry, int, int], None],
    ) -> None:
        self._map, self._tickers, self._revived = mapped, tickers, revived
        self._seen, self._back_block = seen, back_block
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
        known = self._map.intervals
        for said in (batch.ticks, batch.histories):
            for one in said:
                if one.interval not in known:
                    raise UnknownIntervalError(one.interval, known)
        self._updated_ms = batch.updated_ms
        now_ms, boot_ms = clock.wall_ms(), clock.boot_ms()
        confirmed_boot_ms = boot_ms - max(0, now_ms - batch.updated_ms)
        try:
            stamps = np.array((batch.updated_ms, confirmed_boot_ms, self._epoch), np.int64)
        except OverflowError:
            raise BatchError(f"updated_ms: found {batch.updated_ms}, too far from now") from None
        counted = layout.checked_word(len(self._tickers)) - (1 << 64)  # as its sign says
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

    def _plan_quotes(self, batch: Batch, stamps: Words) -> list[RowStores]:
        plan: list[RowStores] = []
        if self._revived:  # without the price of its former life
            rows = np.array(sorted(self._revived), np.intp)
            new = np.zeros((len(rows), layout.ROW_WORDS), np.uint64)
            new[:, table.FLAGS] = layout.ABSENT_WORD
            new[:, table.CHANGED_QUOTE] = self._epoch
            plan.append(_whole(rows, new))
        if batch.confirmed is not None:
            confirmed = self._checked(batch.confirmed)
            new = table.taken(self._quotes, confirmed)
            there = new[:, table.FLAGS] == layout.PRESENT_WORD
            if self._revived:
                revived = np.isin(table.numbers(confirmed), list(self._revived))
                there &= ~revived
                new[revived] = 0
                new[revived, table.FLAGS] = layout.ABSENT_WORD
                new[revived, table.CHANGED_QUOTE] = self._epoch
            if there.all():
                new[:, table.STAMPS] = stamps
            else:  # where there is no quote, there is nothing to confirm
                new[there, table.STAMPS] = stamps
            plan.append(_whole(confirmed, new))
        plan += [self._new_quotes(quotes, stamps) for quotes in batch.quotes]
        if batch.removed:
            gone = self._checked(np.array(batch.removed, np.intp))
            new = table.taken(self._quotes, gone)
            new[:, table.FLAGS] = layout.REMOVED_WORD
            new[:, table.STAMPS] = stamps
            plan.append(_whole(gone, new))
        return plan

    def _new_quotes(self, quotes: Quotes, stamps: Words) -> RowStores:
        rows = self._checked(quotes.rows)
        n = table.length(rows)
        _expect("quotes", "ts_ms", quotes.ts_ms, (n,), _INT64)
        _expect("quotes", "values", quotes.values, (n, 6), _FLOAT64)
        blank = np.zeros((1, layout.ROW_WORDS), np.uint64)
        blank[:, table.FLAGS] = layout.PRESENT_WORD
        blank[:, table.STAMPS] = stamps
        parts = [
            (table.ROW, table.items(blank, table.ROW)),
            (table.TIME_OF_QUOTE, table.items(quotes.ts_ms[:, None], table.TIME_OF_QUOTE)),
            (table.VALUES, table.items(quotes.values, table.VALUES)),
        ]
        if quotes.updated_ms is not None:
            _expect("quotes", "updated_ms", quotes.updated_ms, (n,), _INT64)
            updated = np.full((n, 2), layout.UNCONFIRMED_BOOT_MS, np.int64)
            updated[:, 0] = quotes.updated_ms
            parts.append((table.UPDATED_BOTH, table.items(updated, table.UPDATED_BOTH)))
        return RowStores(rows, parts)

    def _checked(self, rows: Rows) -> Rows:
        """Give rows that are the planner's own, a slice where they are in a row.

        Refuses rows that nobody has enlisted, and rows given twice.
        """
        return self._seen.checked(rows, len(self._tickers))

    def _plan_series(self, kind: KindGeometry, batch: Batch) -> SeriesPlan:
        """Plan one kind: ticks in columns, and histories one by one."""
        interval, plan = kind.kind.interval, SeriesPlan()
        said = [ticks for ticks in batch.ticks if ticks.interval == interval]
        if not (said or batch.histories or self._revived):
            return plan
        histories: dict[int, History] = {
            row: History(interval, row, Bars.empty(), forming=False, replace=True)
            for row in self._revived
        }
        said = [self._checked_ticks(ticks) for ticks in said]
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
        elif len(columns) == 1:
            plan.forming = columns[0]
        return plan

    def _checked_ticks(self, ticks: Ticks) -> Ticks:
        """Give ticks whose rows are the planner's own."""
        rows = self._checked(ticks.rows)
        n = table.length(rows)
        _expect("ticks", "time", ticks.time, (n,), _INT64)
        _expect("ticks", "ohlcv", ticks.ohlcv, (n, 5), _FLOAT64)
        return Ticks(ticks.interval, rows, ticks.time, ticks.ohlcv)

    def _plan_ticks(self, kind: KindGeometry, plan: SeriesPlan, ticks: Ticks) -> list[History]:
        """Plan one bar for each of many tickers; give back those whose block is full."""
        rows = ticks.rows
        if self._seen.is_forming(kind.index, ticks):
            self._plan_going_on(kind, plan, ticks)
            return []
        stable = self._series[kind.index]
        # A column first, then its rows: twice as fast as both at once.
        going = stable[:, table.TIME][rows] == ticks.time.view(np.uint64)
        going &= (stable[:, table.SERIES_FLAGS][rows] & layout.HAS_FORMING) != 0
        # Counting is ten times faster than `any` and `all`, where there are few.
        going_on = np.count_nonzero(going)
        if going_on == len(going):
            self._plan_going_on(kind, plan, ticks)
            return []
        late = ticks.time < table.earliest(self._map, kind, stable, rows)
        if np.count_nonzero(late):
            row = int(table.numbers(rows)[late][0])
            raise BatchError(
                f"{self._tickers[row].symbol} {kind.kind.interval}: found a bar at "
                f"{int(ticks.time[late][0])} ms, older than what is published",
            )
        if going_on:
            self._plan_going_on(kind, plan, _some(ticks, going))
            ticks = _some(ticks, ~going)
        return self._plan_openings(kind, plan, ticks)

    def _plan_going_on(self, kind: KindGeometry, plan: SeriesPlan, ticks: Ticks) -> None:
        """Plan new values of forming bars: nothing else of their rows changes but the stamps."""
        plan.rows.append(self._ticked(kind, ticks, [], is_tick=True))

    def _ticked(
        self,
        kind: KindGeometry,
        ticks: Ticks,
        parts: list[tuple[slice, NDArray[np.void]]],
        *,
        is_tick: bool = False,
    ) -> SeriesStores:
        """Add what every tick stores to ``parts`` of a row."""
        epochs = self._entry_epochs(kind, ticks.rows)
        moment = np.array([[self._updated_ms, self._epoch]], np.int64)
        parts += [
            (table.OHLCV, table.items(ticks.ohlcv, table.OHLCV)),
            (table.EPOCH_OF_ENTRY, table.items(epochs[:, None], table.EPOCH_OF_ENTRY)),
            (table.MOMENT, table.items(moment, table.MOMENT)),
        ]
        updated = moment.view(np.uint64)[0, 0]
        return SeriesStores(
            ticks.rows, parts, is_whole=False, is_tick=is_tick, epochs=epochs, updated=updated
        )

    def _plan_openings(self, kind: KindGeometry, plan: SeriesPlan, ticks: Ticks) -> list[History]:
        """Plan the bars that open, and those that close by it; give back those without room."""
        rows, stable, interval = ticks.rows, self._series[kind.index], kind.kind.interval
        rewrites, start, count, flags = (stable[:, word][rows] for word in table.STANDS)
        # With a capacity of 1 the forming bar is all that is kept.
        closing = (flags & (layout.HAS_FORMING if kind.kind.capacity > 1 else 0)) != 0
        end = start + count
        full = closing & (end >= kind.rows)
        if np.count_nonzero(full):
            numbers = table.numbers(rows)
            plan_later = [
                History(
                    interval,
                    int(numbers[place]),
                    Bars(ticks.time[place : place + 1], ticks.ohlcv[place : place + 1].T),
                    forming=True,
                )
                for place in np.flatnonzero(full).tolist()
            ]
            return plan_later + self._plan_openings(kind, plan, _some(ticks, ~full))
        block, backed = rewrites & _ONE, layout.backed(rewrites)
        bare = closing & ((flags & backed) == 0)
        if np.count_nonzero(bare):
            for row, which in zip(table.numbers(rows)[bare].tolist(), block[bare], strict=True):
                self._back(kind, row, int(which))
        if closed := np.count_nonzero(closing):
            words = table.word_at(kind, table.numbers(rows), block, end)
            at = rows
            if closed < len(closing):
                at, words = table.numbers(rows)[closing], words[closing]
            if isinstance(at, slice):  # views of the stable buffer, which a commit does not touch
                bars = stable.view(np.float64)[at, table.OHLCV]
            else:
                bars = table.part(stable, table.OHLCV)[at][:, None].view(np.float64)
            plan.closings.append(Closings(words, stable[:, table.TIME][at], bars))
        new = np.empty((len(flags), 4), np.uint64)
        kept = count + closing
        excess = np.maximum(kept.view(np.int64) - (kind.kind.capacity - 1), 0).view(np.uint64)
        new[:, 0] = start = start + excess
        new[:, 1] = count = kept - excess
        new[:, 2] = flags = (flags | backed * closing) | layout.HAS_FORMING
        new[:, 3] = ticks.time.view(np.uint64)
        check = layout.checks_of(rewrites, start, count, flags)
        parts = [
            (table.STANDING, table.items(new, table.STANDING)),
            (table.CHECKED, table.items(check[:, None], table.CHECKED)),
        ]
        plan.rows.append(self._ticked(kind, ticks, parts))
        return []

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
        stores = self._stamped(kind, rows, new)
        for words, row in zip(new, rows.tolist(), strict=True):
            if (updated_ms := histories[row].updated_ms) is not None:
                words.view(np.int64)[table.LAST_UPDATE] = updated_ms
        plan.rows.append(stores)

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

    def _stamped(self, kind: KindGeometry, rows: Rows, new: Words) -> SeriesStores:
        """Complete new series rows with when, and with what their entries will say."""
        new[:, table.ENTRY_EPOCH] = epochs = self._entry_epochs(kind, rows)
        new[:, table.LAST_UPDATE] = self._updated_ms
        new[:, table.CHANGED] = self._epoch
        parts = [(table.ROW, table.items(new, table.ROW))]
        return SeriesStores(rows, parts, epochs=epochs, updated=new[:, table.LAST_UPDATE])

    def _entry_epochs(self, kind: KindGeometry, rows: Rows) -> Words:
        """Give the even epochs that entries will have."""
        return self._map.entries[kind.index][:, table.EPOCH][rows] + np.uint64(2)


def _whole(rows: Rows, new: Words) -> RowStores:
    return RowStores(rows, [(table.ROW, table.items(new, table.ROW))])


# -- what a batch may say --------------------------------------------------------------------


def _expect(
    of: str, name: str, array: NDArray[Any], shape: tuple[int, ...], dtype: np.dtype[Any]
) -> None:
    if array.shape != shape or array.dtype != dtype:
        found, expected = f"{array.dtype} {array.shape}", f"{dtype} {shape}"
        raise BatchError(f"{of}, {name}: found {found}, expected {expected}")


def _check_history(one: History, count: int) -> None:
    if not 0 <= one.row < count:
        raise BatchError(f"row {one.row}: expected 0 to {count - 1}")
    n = len(one.bars)
    _expect(f"row {one.row}", "time", one.bars.time, (n,), _INT64)
    _expect(f"row {one.row}", "ohlcv", one.bars.ohlcv, (5, n), _FLOAT64)
    if not (np.diff(one.bars.time) > 0).all():
        raise BatchError(f"row {one.row} {one.interval}: expected times that increase strictly")


# -- what it says twice ----------------------------------------------------------------------


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
    return _some(ticks, ~np.isin(table.numbers(ticks.rows), list(rows))) if rows else ticks


def _some(ticks: Ticks, keep: NDArray[np.bool_]) -> Ticks:
    """Give ticks of some rows."""
    numbers = table.numbers(ticks.rows)[keep]
    return Ticks(ticks.interval, numbers, ticks.time[keep], ticks.ohlcv[keep])


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
