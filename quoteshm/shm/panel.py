"""Panels: one field of many tickers as one frame, time down and tickers across.

Works on copies that the reader has made under the latch; knows nothing of the segment.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from quoteshm.model import DAY_MS, INTERVALS, Ticker
from quoteshm.shm.frames import named, time_array, time_index, zoned

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pandas.arrays import DatetimeArray

_MOST_KEPT: Final = 32_768  # times of a panel whose index is kept


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """The bars of a panel, one after the other, in any order of tickers.

    Attributes
    ----------
    owner : ndarray of intp, shape (n,)
        The column of each bar.
    time : ndarray of int64, shape (n,)
        Milliseconds UTC.
    value : ndarray of float64, shape (n,)
        The field.

    """

    owner: NDArray[np.intp]
    time: NDArray[np.int64]
    value: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """The bars of a panel where all tickers have the same times.

    Attributes
    ----------
    time : ndarray of int64, shape (n,)
        Milliseconds UTC.
    value : ndarray of float64, shape (tickers, n)

    """

    time: NDArray[np.int64]
    value: NDArray[np.float64]

    def cells(self) -> Cells:
        """Give the same one after the other."""
        owner = np.repeat(np.arange(len(self.value)), len(self.time))
        return Cells(owner, np.tile(self.time, len(self.value)), self.value.ravel())


def to_frame(
    bars: Cells | Grid, tickers: Sequence[Ticker], interval: str, last: int | None
) -> pd.DataFrame:
    """Lay bars out as a frame; NaN where a ticker has none.

    Parameters
    ----------
    bars : Cells or Grid
        At least the ``last`` newest bars of each ticker.
    tickers : sequence of Ticker
        The columns.
    interval : str
        Of the bars; those of a day and more are aligned by their exchange's local date.
    last : int, optional
        How many times to keep.

    """
    columns = pd.Index([ticker.symbol for ticker in tickers], dtype=object)
    zones = {ticker.time_zone for ticker in tickers}
    zone = min(zones) if len(zones) == 1 else "UTC"
    is_daily = INTERVALS[interval] >= DAY_MS
    if isinstance(bars, Grid) and len(zones) == 1:
        lines = _lines_of(bars.time, zone, is_daily=is_daily)
        if lines is not None:
            newest = slice(None) if last is None else slice(-last, None)
            index, table = named(lines[newest], interval), bars.value.T[newest]
            return pd.DataFrame(table, index=index, columns=columns, copy=False)
    cells = bars.cells() if isinstance(bars, Grid) else bars
    place, times = pd.factorize(cells.time, sort=True)  # by hashing: the times are few
    if is_daily:
        times, place = _by_date(cells, times, place, tickers, zone)
    table = np.full((len(times), len(tickers)), np.nan)
    table[place, cells.owner] = cells.value
    if last is not None:
        times, table = times[-last:], table[-last:]
    index = time_index(times, interval, zone)
    return pd.DataFrame(table, index=index, columns=columns, copy=False)


def _lines_of(times: NDArray[np.int64], zone: str, *, is_daily: bool) -> DatetimeArray | None:
    """Give the lines of a panel whose tickers have the same times; nothing if those are no lines.

    Panels of a market are asked for with the same times again and again: the last few are kept.
    """
    lines = _known_lines if len(times) <= _MOST_KEPT else _known_lines.__wrapped__
    return lines(times.tobytes(), zone, is_daily=is_daily)


@functools.lru_cache(maxsize=8)
def _known_lines(times: bytes, zone: str, *, is_daily: bool) -> DatetimeArray | None:
    lines = np.frombuffer(times, np.int64)
    if is_daily:
        lines = _dates(lines, zone)
    if not (lines[1:] > lines[:-1]).all():
        return None
    if is_daily:
        lines = _midnights(lines, zone)
    lines.flags.writeable = False  # frames of several reads stand on it
    return time_array(lines, zone)


def _by_date(
    cells: Cells,
    times: NDArray[np.int64],
    place: NDArray[np.intp],
    tickers: Sequence[Ticker],
    zone: str,
) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
    """Align bars by local date; give the time of each line, and the line of each bar.

    A line's time is the midnight of its date in the panel's zone. ``times`` are the distinct
    times of the bars, ``place`` which of them each bar has.
    """
    zones = sorted({ticker.time_zone for ticker in tickers})
    dates = np.concatenate([_dates(times, each) for each in zones]) if zones else times
    days, line = np.unique(dates, return_inverse=True)
    if len(zones) > 1:
        number = {each: i for i, each in enumerate(zones)}
        of_ticker = np.array([number[ticker.time_zone] for ticker in tickers], np.intp)
        place = place + len(times) * of_ticker[cells.owner]
    lines = line[place]
    used = np.bincount(lines, minlength=len(days)) > 0
    return _midnights(days[used], zone), (np.cumsum(used) - 1)[lines]


def _midnights(days: NDArray[np.int64], zone: str) -> NDArray[np.int64]:
    """Give the times of the midnights of local dates; of an hour that comes twice, the first."""
    midnights = pd.DatetimeIndex(days.astype("M8[ms]")).tz_localize(
        zone, nonexistent="shift_forward", ambiguous=np.ones(len(days), np.bool_)
    )
    times: NDArray[np.int64] = midnights.as_unit("ms").asi8
    return times


def _dates(times: NDArray[np.int64], zone: str) -> NDArray[np.int64]:
    """Give the local dates of times, as milliseconds of their midnights without a zone."""
    local = pd.DatetimeIndex(times, dtype=zoned(zone)).tz_localize(None).normalize()
    dates: NDArray[np.int64] = local.as_unit("ms").asi8
    return dates
