"""What one commit publishes. Rows are those that `SegmentWriter.enlist` gave for the tickers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from quoteshm.model import Bars

    #: Rows of the segment: a contiguous slice (the fast way), or distinct numbers in any order.
    Rows = slice | NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class Ticks:
    """The newest bar of one interval for each of n tickers: the vectorised way in.

    A bar whose time is that of the row's forming bar replaces it; a later one closes it and
    becomes the forming bar. An earlier one is a `BatchError`: see `SegmentWriter.late`.

    Attributes
    ----------
    interval : str
        Of the series.
    rows : slice or ndarray of intp, shape (n,)
        The tickers.
    time : ndarray of int64, shape (n,)
        Start of each bar, milliseconds UTC.
    ohlcv : ndarray of float64, shape (n, 5)
        One row a ticker; open, high, low, close, volume.

    """

    interval: str
    rows: Rows
    time: NDArray[np.int64]
    ohlcv: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class History:
    """Several bars of one series of one ticker.

    With ``replace`` the bars are the whole window, and what was there is gone (a backfill, a
    restatement, a split): they go into the other block. Without it they follow what is there: the
    first may replace the forming bar (same time), the others come after it, and all but the last
    are closed. With ``forming`` the last bar is the forming one, otherwise it is closed too.
    """

    interval: str
    row: int
    bars: Bars
    forming: bool
    replace: bool = False
    restated: int = 0  # how many published bars this one changes: counted in the row
    updated_ms: int | None = None  # when the bars last changed, where not with this batch


@dataclass(frozen=True, slots=True, eq=False)
class Quotes:
    """The latest quotes of n tickers.

    Attributes
    ----------
    rows : slice or ndarray of intp, shape (n,)
        The tickers.
    ts_ms : ndarray of int64, shape (n,)
        When each price was made, milliseconds UTC.
    values : ndarray of float64, shape (n, 6)
        Open, high, low, price, volume, previous close; NaN where unknown.
    updated_ms : ndarray of int64, shape (n,), optional
        Of quotes out of an archive: when each was last confirmed, by a clock that may have been
        another one. They are stale until they are confirmed again.

    """

    rows: Rows
    ts_ms: NDArray[np.int64]
    values: NDArray[np.float64]
    updated_ms: NDArray[np.int64] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """One commit: all of it is seen at once, or none of it.

    What it says twice of one ticker is taken in the order ticks, histories; of quotes the last
    one counts. All of it is taken as confirmed at ``updated_ms``.
    """

    updated_ms: int
    ticks: Sequence[Ticks] = ()
    histories: Sequence[History] = ()
    quotes: Sequence[Quotes] = ()
    confirmed: Rows | None = None  # quotes that were found unchanged: only their age is new
    removed: Sequence[int] = ()
