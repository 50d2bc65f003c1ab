"""Rows as words: the columns of each table, and what a row tells of its bars."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, overload

import numpy as np

from quoteshm.model import Bars
from quoteshm.shm import layout
from quoteshm.shm.layout import KindGeometry

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quoteshm.shm.batch import Rows
    from quoteshm.shm.views import SegmentMap, Words

# Columns of rows that are seen as words.
FLAGS: Final = layout.word(layout.QUOTE_ROW, "flags")
TS: Final = layout.word(layout.QUOTE_ROW, "ts_ms")
TIME_OF_QUOTE: Final = slice(TS, TS + 1)
VALUES: Final = slice(
    layout.word(layout.QUOTE_ROW, "open"),
    layout.word(layout.QUOTE_ROW, "prev_close") + 1,
)
UPDATED_BOTH: Final = slice(
    layout.word(layout.QUOTE_ROW, "updated_ms"),
    layout.word(layout.QUOTE_ROW, "updated_boot_ms") + 1,
)  # by either clock
CHANGED_QUOTE: Final = layout.word(layout.QUOTE_ROW, "changed_epoch")
# The flags, and the epoch that they are of: zero both where nothing was ever published.
FLAGGED: Final = slice(FLAGS, CHANGED_QUOTE + 1, CHANGED_QUOTE)
# What every commit of a row says of itself: when it was confirmed, by either clock, and its epoch.
STAMPS: Final = slice(
    layout.word(layout.QUOTE_ROW, "updated_ms"),
    layout.word(layout.QUOTE_ROW, "changed_epoch") + 1,
)

ROW: Final = slice(0, layout.ROW_WORDS)

REWRITES: Final = layout.word(layout.SERIES_ROW, "rewrites")
START: Final = layout.word(layout.SERIES_ROW, "start")
COUNT: Final = layout.word(layout.SERIES_ROW, "count")
SERIES_FLAGS: Final = layout.word(layout.SERIES_ROW, "flags")
TIME: Final = layout.word(layout.SERIES_ROW, "time")
OHLCV: Final = slice(
    layout.word(layout.SERIES_ROW, "open"),
    layout.word(layout.SERIES_ROW, "volume") + 1,
)
ENTRY_EPOCH: Final = layout.word(layout.SERIES_ROW, "entry_epoch")
EPOCH_OF_ENTRY: Final = slice(ENTRY_EPOCH, ENTRY_EPOCH + 1)
LAST_UPDATE: Final = layout.word(layout.SERIES_ROW, "last_update_ms")
CHANGED: Final = layout.word(layout.SERIES_ROW, "changed_epoch")
RESTATEMENTS: Final = layout.word(layout.SERIES_ROW, "restatements")
CHECK: Final = layout.word(layout.SERIES_ROW, "check")
CHECKED: Final = slice(CHECK, CHECK + 1)
# Where the closed bars are: the words that the check is of.
STANDS: Final = (REWRITES, START, COUNT, SERIES_FLAGS)
# What of them a bar that opens changes, and its own time.
STANDING: Final = slice(START, TIME + 1)
# What every tick says of itself: when it was confirmed, and its epoch.
MOMENT: Final = slice(LAST_UPDATE, CHANGED + 1)

EPOCH, UPDATED, BEGUN = (
    layout.word(layout.ENTRY, name) for name in ("epoch", "last_update_ms", "rewrites_begun")
)
# Of a buffer's header.
NEWEST_UPDATE: Final = layout.word(layout.BUFFER_HEADER, "last_update_ms")
EPOCH_OF_BUFFER: Final = layout.word(layout.BUFFER_HEADER, "epoch")


@overload
def is_stale(age_ms: int, freshness_ms: int) -> bool: ...
@overload
def is_stale(age_ms: NDArray[np.int64], freshness_ms: int) -> NDArray[np.bool_]: ...
def is_stale(age_ms: int | NDArray[np.int64], freshness_ms: int) -> bool | NDArray[np.bool_]:
    """Tell whether quotes are stale, by how long ago they were confirmed on the boot clock.

    What was confirmed in the future was so before the machine started anew.
    """
    return (age_ms < 0) | (age_ms > freshness_ms)


def part(rows: NDArray[Any], words: slice) -> NDArray[np.void]:
    """View neighbouring words of each row as one item.

    NumPy copies such items two to six times faster than the words one by one.
    """
    return rows[:, words].view(_item(words))[:, 0]


def whole(rows: NDArray[Any]) -> NDArray[np.void]:
    """View rows as one item each."""
    return rows.view(_item(ROW))[:, 0]


def field(rows: NDArray[np.void], words: slice) -> NDArray[np.void]:
    """View neighbouring words of each row that `whole` gave as one item: as `part`, but quicker."""
    return rows.getfield(_item(words), 8 * words.start)


def equal(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Tell whether two arrays are the same: at half the cost of `np.array_equal`."""
    return a.shape == b.shape and not np.count_nonzero(a != b)


def items(values: NDArray[Any], words: slice) -> NDArray[np.void]:
    """View a table of values, a row of it for each item, as what `part` gives.

    Of a table of one row there is one item for all rows.
    """
    return np.ascontiguousarray(values).view(_item(words))[:, 0]


def _item(words: slice) -> np.dtype[np.void]:
    count: int = words.stop - words.start
    return _ITEMS[count]


_ITEMS: Final[list[np.dtype[np.void]]] = [
    np.dtype(f"V{8 * n}") for n in range(layout.ROW_WORDS + 1)
]


def taken(rows_of: Words, rows: Rows) -> Words:
    """Copy rows, those that are numbered one by one as fast as NumPy can."""
    return rows_of[rows].copy() if isinstance(rows, slice) else rows_of.take(rows, axis=0)


def seal(rows: Words) -> None:
    """Set the check of series rows, after their last change."""
    rows[:, CHECK] = layout.series_checks(rows)


def numbers(rows: Rows) -> NDArray[np.intp]:
    """Give row numbers as an array."""
    return np.arange(rows.start or 0, rows.stop) if isinstance(rows, slice) else rows


def length(rows: Rows) -> int:
    """Count rows."""
    return rows.stop - (rows.start or 0) if isinstance(rows, slice) else len(rows)


def same(a: Rows, b: Rows) -> bool:
    """Tell whether both are the same rows, in the same order."""
    if isinstance(a, slice) or isinstance(b, slice):
        return isinstance(a, slice) and isinstance(b, slice) and a == b
    return a is b or equal(a, b)


def last_word(kind: KindGeometry, numbers: NDArray[np.intp], state: Words) -> NDArray[np.intp]:
    """Give the word of each row's newest closed bar's time, within the kind's blocks."""
    block = state[:, REWRITES] & np.uint64(1)
    return word_at(kind, numbers, block, state[:, START] + state[:, COUNT]) - 1


def word_at(
    kind: KindGeometry, numbers: NDArray[np.intp], block: Words, place: Words
) -> NDArray[np.intp]:
    """Give the word of the time at a place of each row's block, within the kind's blocks."""
    words: NDArray[np.intp] = 2 * numbers + block.view(np.intp)
    words *= kind.block_nbytes // 8
    words += place.view(np.intp)
    return words


def forming(words: Words) -> Bars | None:
    """Give the forming bar of a series row, a copy."""
    if not int(words[SERIES_FLAGS]) & layout.HAS_FORMING:
        return None
    ohlcv = words.view(np.float64)[OHLCV].reshape(5, 1)
    return Bars(words.view(np.int64)[TIME : TIME + 1].copy(), ohlcv.copy())


def joined(first: Bars, second: Bars) -> Bars:
    """Put bars behind bars, a copy."""
    return Bars(
        np.concatenate((first.time, second.time)),
        np.concatenate((first.ohlcv, second.ohlcv), axis=1),
    )


def copied(bars: Bars) -> Bars:
    """Copy bars."""
    return Bars(bars.time.copy(), bars.ohlcv.copy())


def newest(bars: Bars, count: int) -> Bars:
    """View the last ``count`` bars, or all where there are fewer."""
    return bars[max(0, len(bars) - count) :]


def closed(segment: SegmentMap, kind: KindGeometry, row: int, words: Words) -> Bars:
    """View the closed bars that a series row tells of."""
    rewrites, start, count = (int(words[i]) for i in (REWRITES, START, COUNT))
    times, values = segment.columns(kind, row, rewrites & 1)
    window = slice(start, start + count)
    return Bars(times[window].view(np.int64), values[:, window])


def earliest(
    segment: SegmentMap, kind: KindGeometry, stable: Words, rows: Rows
) -> NDArray[np.int64]:
    """Give the earliest time that a tick of each row may have."""
    earliest = stable[rows, TIME].view(np.int64)
    idle = (stable[rows, SERIES_FLAGS] & layout.HAS_FORMING) == 0
    if np.count_nonzero(idle):
        resting = numbers(rows)[idle]
        state = stable[resting]
        words = last_word(kind, resting, state)
        held = state[:, COUNT] > 0
        floor = np.full(len(resting), np.iinfo(np.int64).min)
        floor[held] = segment.blocks[kind.index][words[held]].view(np.int64) + 1
        earliest = earliest.copy()
        earliest[idle] = floor
    return earliest
