"""One series of one ticker as a reader holds it: where it lies, and what of it is known already.

Closed bars never change in place: as long as a series row says the same, it tells of the same bars.
So its checks, the views of its columns and the index of its times are made once for each thing
that it says, not for each read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple
from weakref import WeakValueDictionary

import numpy as np
from pandas.arrays import DatetimeArray

from quoteshm.errors import CorruptSegmentError
from quoteshm.model import Bars
from quoteshm.shm import layout, table
from quoteshm.shm.frames import time_array

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quoteshm.model import Ticker
    from quoteshm.shm.layout import KindGeometry
    from quoteshm.shm.views import SegmentMap, Words

    #: What an index is of: what the row says of its bars, the forming one's time or none, and the
    #: first of the closed bars that are in it.
    IndexKey = tuple[tuple[int, ...], int | None, int]

#: Times that the indexes of one segment may hold, each 8 bytes.
_MAX_TIMES: Final = 1 << 22


class SeriesRow(NamedTuple):
    """A series row; the fields of `layout.SERIES_FORMAT`."""

    rewrites: int
    start: int
    held: int  # closed bars
    flags: int
    time: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    entry_epoch: int
    last_update_ms: int
    changed_epoch: int
    restatements: int
    check: int

    @property
    def is_sound(self) -> bool:
        """Whether it tells of the bars that the writer meant."""
        return self.check == layout.series_check(*self[:4])

    @property
    def forming_time(self) -> int | None:
        """The start of the forming bar."""
        return self.time if self.flags & layout.HAS_FORMING else None


class Closed(NamedTuple):
    """The closed bars that a row tells of, where they stand: checked to be on backed memory."""

    said: tuple[int, ...]  # by the row: rewrites, start, held, flags, check
    times: Words
    values: NDArray[np.float64]  # shape (5, n)
    bars: Bars  # over both


class Series:
    """Where one series of one ticker lies. Shared by threads: each thing known is set in one go."""

    __slots__ = (
        "_closed",
        "_index",
        "_map",
        "_view_index",
        "begun_word",
        "flags_words",
        "kind",
        "row",
        "row_offsets",
        "ticker",
    )

    def __init__(self, segment: SegmentMap, kind: KindGeometry, row: int, ticker: Ticker) -> None:
        self.kind, self.row, self.ticker = kind, row, ticker
        # By buffer: the cell of the quote's flags, and the offset of the series row.
        self.flags_words = tuple(segment.quote_offset(buffer, row) // 8 for buffer in (0, 1))
        self.row_offsets = tuple(
            segment.series_offset(buffer, kind.index, row) for buffer in (0, 1)
        )
        self.begun_word = segment.entry_word(kind.index, row) + table.BEGUN
        self._map = segment
        self._closed: Closed | None = None
        self._index: tuple[IndexKey, DatetimeArray] | None = None
        self._view_index: tuple[Closed, DatetimeArray] | None = None

    def closed(self, series: SeriesRow) -> Closed:
        """View the closed bars of a row, after checking that they lie on backed memory.

        Raises
        ------
        CorruptSegmentError

        """
        said = series[:4] + series[-1:]
        if (known := self._closed) is not None and known.said == said:
            return known
        # As `checks.check_series`, of one row.
        kind, start, count = self.kind, series.start, series.held
        block = series.rewrites & 1
        if not series.is_sound:
            expected = layout.series_check(*series[:4])
            raise CorruptSegmentError(f"check of series row {self.row}", series.check, expected)
        if count > kind.kind.capacity or start > kind.rows - count:
            raise CorruptSegmentError("start + count", start + count, f"<= {kind.rows}")
        if count and not series.flags & layout.BACKED[block]:
            raise CorruptSegmentError("flags", series.flags, f"block {block} to be backed")
        times, values = self._map.columns(kind, self.row, block)
        times, values = times[start : start + count], values[:, start : start + count]
        self._closed = closed = Closed(said, times, values, Bars(times.view(np.int64), values))
        return closed

    def view_index(self, closed: Closed) -> DatetimeArray:
        """Give the index over the times of closed bars, where they stand."""
        if (known := self._view_index) is not None and known[0] is closed:
            return known[1]
        index = time_array(closed.bars.time, self.ticker.time_zone)
        self._view_index = closed, index
        return index

    def known_index(self, key: IndexKey) -> DatetimeArray | None:
        """Give the index that was kept for this."""
        known = self._index
        return known[1] if known is not None and known[0] == key else None

    def keep_index(self, key: IndexKey, index: DatetimeArray) -> None:
        """Keep an index for reads of the same bars, in place of the one before."""
        self._index = key, index


class Indexes:
    """Indexes over copied times: one for all series that have the same times.

    Most tickers of an exchange do. An index is kept by the series whose last read it is of, and by
    nobody else: those of bars that have gone by are let go of. What they hold is bounded: `make`
    counts, and `are_full` tells when it is too much.
    """

    def __init__(self) -> None:
        self._shared = WeakValueDictionary[tuple[str, int, int, int], DatetimeArray]()
        # By identity: of indexes that were alike the ones before the last are held too.
        self._made = WeakValueDictionary[int, DatetimeArray]()
        self._times = 0  # at most so many are held

    def make(self, time_ms: NDArray[np.int64], time_zone: str) -> DatetimeArray:
        """Give an index over ``time_ms``, which nobody may change from now on."""
        if not (n := len(time_ms)):
            return time_array(time_ms, time_zone)
        alike = time_zone, n, int(time_ms[0]), int(time_ms[-1])
        shared = self._shared.get(alike)
        if shared is not None and np.array_equal(np.asarray(shared.view("i8")), time_ms):
            return shared
        time_ms.flags.writeable = False  # frames of several reads stand on it
        index = time_array(time_ms, time_zone)
        self._shared[alike] = self._made[id(index)] = index
        self._times += n
        return index

    def are_full(self) -> bool:
        """Tell whether all that is held may by now be too much, after a new count if need be."""
        if self._times > _MAX_TIMES:
            # Where many are still held they are not counted at each read: half is too much here.
            # A list of references is made in one go: other threads make indexes meanwhile.
            held = (index() for index in self._made.valuerefs())
            self._times = sum(len(index) for index in held if index is not None)
            return self._times > _MAX_TIMES // 2
        return False
