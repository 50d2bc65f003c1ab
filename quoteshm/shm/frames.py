"""Bars as pandas frames: ``Open High Low Close Volume`` under the exchange's own time.

The constructors are the fastest public ones (pandas 3): a frame over one ``(5, n)`` block without
a copy, an index straight from int64 milliseconds.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from quoteshm.errors import CorruptSegmentError
from quoteshm.model import DAY_MS, INTERVALS

try:  # since pandas 3: 3 us less than the constructor, which looks at what it is given
    from pandas.api.internals import (  # type: ignore[import-not-found]  # not in the stubs
        create_dataframe_from_blocks,
    )
except ImportError:
    create_dataframe_from_blocks = None

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pandas.arrays import DatetimeArray

    from quoteshm.model import Bars

Moment = int | str | datetime  # milliseconds UTC, or what pandas reads; a Timestamp is a datetime

_NAMES: Final = np.array(["Open", "High", "Low", "Close", "Volume"], object)
_NAMES.flags.writeable = False  # before pandas 3 the columns of every frame stand on it
COLUMNS: Final = pd.Index(_NAMES, dtype=pd.Index([""]).dtype, copy=False)
_PLACES: Final = np.arange(len(COLUMNS), dtype=np.intp)


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
    return named(time_array(time_ms, time_zone), interval)


def time_array(time_ms: NDArray[np.int64], time_zone: str) -> DatetimeArray:
    """Make what an index is over; ``time_ms`` is not copied."""
    return pd.DatetimeIndex(time_ms, dtype=zoned(time_zone), copy=False).array


def named(times: DatetimeArray, interval: str) -> pd.DatetimeIndex:
    """Make an index over times; what its owner sets of it (name, freq) is its own."""
    name = "Datetime" if INTERVALS[interval] < DAY_MS else "Date"
    return pd.DatetimeIndex(times.view(), copy=False, name=name)


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
    return frame_over(bars.ohlcv, time_index(bars.time, interval, time_zone))


def frame_over(ohlcv: NDArray[np.float64], index: pd.DatetimeIndex) -> pd.DataFrame:
    """Make a frame over values of shape (5, n), without a copy."""
    columns = COLUMNS.view()  # a name that is given to a frame's columns is of that frame
    if create_dataframe_from_blocks is None:
        return pd.DataFrame(ohlcv.T, index=index, columns=columns, copy=False)
    blocks = [(ohlcv, _PLACES)]
    frame: pd.DataFrame = create_dataframe_from_blocks(blocks, index=index, columns=columns)
    return frame


def stamp_of(moment: Moment) -> pd.Timestamp | int:
    """Give a moment as a timestamp, or as milliseconds UTC where it is a number.

    Raises
    ------
    TypeError
        It is a fraction, which pandas would take for nanoseconds, or a truth.
    ValueError
        It is no time, or NaT.

    """
    if isinstance(moment, bool | float | np.bool_ | np.floating):
        raise TypeError(f"since: found {moment!r}, expected whole milliseconds, a text or a time")
    if isinstance(moment, int | np.integer):
        return int(moment)
    stamp = pd.Timestamp(moment)
    if pd.isna(stamp):
        raise ValueError(f"since: found {stamp}, expected a time")
    return stamp


def to_ms(moment: Moment, time_zone: str) -> int:
    """Give a moment as milliseconds UTC; one without a zone is of the zone given.

    Of an hour that comes twice it is the first; in one that is skipped, the end of the gap.

    Raises
    ------
    TypeError, ValueError
        As `stamp_of`.

    """
    stamp = stamp_of(moment)
    if isinstance(stamp, int):
        return stamp
    if stamp.tzinfo is None:
        stamp = stamp.tz_localize(time_zone, ambiguous=True, nonexistent="shift_forward")
    return int(stamp.as_unit("ms").asm8.astype(np.int64))
