"""Rows as words: the columns of each table, and what a row tells of its bars."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from quoteshm.model import Bars
from quoteshm.shm import layout
from quoteshm.shm.layout import KindGeometry

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quoteshm.shm.batch import Rows
    from quoteshm.shm.segment import SegmentMap, Words

# Columns of rows that are seen as words.
FLAGS: Final = layout.word(layout.QUOTE_ROW, "flags")
TS: Final = layout.word(layout.QUOTE_ROW, "ts_ms")
VALUES: Final = slice(
    layout.word(layout.QUOTE_ROW, "open"),
    layout.word(layout.QUOTE_ROW, "prev_close") + 1,
)
UPDATED_MS: Final = layout.word(layout.QUOTE_ROW, "updated_ms")
UPDATED_BOOT_MS: Final = layout.word(layout.QUOTE_ROW, "updated_boot_ms")
CHANGED_QUOTE: Final = layout.word(layout.QUOTE_ROW, "changed_epoch")
STATE: Final = slice(
    FLAGS, CHANGED_QUOTE + 1, CHANGED_QUOTE
)  # the flags, and the epoch they are of
STAMPS: Final = slice(
    layout.word(layout.QUOTE_ROW, "updated_ms"),
    layout.word(layout.QUOTE_ROW, "changed_epoch") + 1,
)

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
LAST_UPDATE: Final = layout.word(layout.SERIES_ROW, "last_update_ms")
CHANGED: Final = layout.word(layout.SERIES_ROW, "changed_epoch")
RESTATEMENTS: Final = layout.word(layout.SERIES_ROW, "restatements")
CHECK: Final = layout.word(layout.SERIES_ROW, "check")

EPOCH, UPDATED, BEGUN = (
    layout.word(layout.ENTRY, name) for name in ("epoch", "last_update_ms", "rewrites_begun")
)


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
    return a is b or np.array_equal(a, b)


def last_word(kind: KindGeometry, numbers: NDArray[np.intp], state: Words) -> NDArray[np.intp]:
    """Give the word of each row's newest closed bar's time, within the kind's blocks."""
    block = 2 * numbers + (state[:, REWRITES] & 1).astype(np.intp)
    end = (state[:, START] + state[:, COUNT]).astype(np.intp)
    words: NDArray[np.intp] = block * (kind.block_nbytes // 8) + end - 1
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
    if idle.any():
        resting = numbers(rows)[idle]
        state = stable[resting]
        words = last_word(kind, resting, state)
        held = state[:, COUNT] > 0
        floor = np.full(len(resting), np.iinfo(np.int64).min)
        floor[held] = segment.blocks[kind.index][words[held]].view(np.int64) + 1
        earliest = earliest.copy()
        earliest[idle] = floor
    return earliest
