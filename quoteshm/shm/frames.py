"""Bars as pandas frames: ``Open High Low Close Volume`` under the exchange's own time.

The constructors are the fastest public ones (pandas 3): a frame over one ``(5, n)`` block without
a copy, an index straight from int64 milliseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from quoteshm.errors import CorruptSegmentError
from quoteshm.model import DAY_MS, INTERVALS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quoteshm.model import Bars

COLUMNS: Final = pd.Index(["Open", "High", "Low", "Close", "Volume"])


def time_index(time_ms: NDArray[np.int64], interval: str, time_zone: str) -> pd.DatetimeIndex:
    """Make an index, named ``Date`` for days and more and ``Datetime`` below.

    Parameters
    ----------
    time_ms : ndarray of int64, shape (n,)
        Milliseconds UTC; not copied.
    interval : str
        Of the bars.
    time_zone : str
        The zone to show them in.

    """
    name = "Datetime" if INTERVALS[interval] < DAY_MS else "Date"
    return pd.DatetimeIndex(time_ms, dtype=zoned(time_zone), copy=False, name=name)


def zoned(time_zone: str) -> pd.DatetimeTZDtype:
    """Give the dtype of milliseconds shown in a zone.

    Raises
    ------
    CorruptSegmentError
        This machine knows no such zone, though the writer's did.

    """
    try:
        return pd.DatetimeTZDtype("ms", time_zone)
    except (KeyError, ValueError):
        raise CorruptSegmentError("time_zone", repr(time_zone), "an IANA name") from None


def to_frame(bars: Bars, interval: str, time_zone: str) -> pd.DataFrame:
    """Make a frame over the memory of ``bars``, without a copy.

    Returns
    -------
    DataFrame
        Columns ``Open High Low Close Volume`` (float64), a zoned index, oldest first.

    """
    index = time_index(bars.time, interval, time_zone)
    return pd.DataFrame(bars.ohlcv.T, index=index, columns=COLUMNS, copy=False)


def to_ms(stamp: pd.Timestamp, time_zone: str) -> int:
    """Give a moment as milliseconds UTC; one without a zone is of the zone given.

    Of an hour that comes twice it is the first; in one that is skipped, the end of the gap.

    Raises
    ------
    ValueError
        It is NaT.

    """
    if pd.isna(stamp):
        raise ValueError(f"since: found {stamp}, expected a time")
    if stamp.tzinfo is None:
        stamp = stamp.tz_localize(time_zone, ambiguous=True, nonexistent="shift_forward")
    return int(stamp.as_unit("ms").asm8.astype(np.int64))
