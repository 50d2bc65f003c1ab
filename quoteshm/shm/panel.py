"""Panels: one field of many tickers as one frame, time down and tickers across.

Works on copies that the reader has made under the latch; knows nothing of the segment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from quoteshm.model import DAY_MS, INTERVALS, Ticker
from quoteshm.shm.frames import time_index, zoned

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
    """The bars of a panel where all tickers have equally many; shapes (tickers, n)."""

    time: NDArray[np.int64]
    value: NDArray[np.float64]

    def cells(self) -> Cells:
        """Give the same one after the other."""
        owner = np.repeat(np.arange(len(self.time)), self.time.shape[1])
        return Cells(owner, self.time.ravel(), self.value.ravel())


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
    zones = {ticker.time_zone for ticker in tickers}
    zone = zones.pop() if len(zones) == 1 else "UTC"
    is_daily = INTERVALS[interval] >= DAY_MS
    times = _lines(bars, zone, is_daily=is_daily) if isinstance(bars, Grid) and not zones else None
    if times is not None and isinstance(bars, Grid):
        table = bars.value.T
    else:
        cells = bars.cells() if isinstance(bars, Grid) else bars
        place, times = pd.factorize(cells.time, sort=True)  # by hashing: the times are few
        if is_daily:
            times, place = _by_date(cells, times, place, tickers, zone)
        table = np.full((len(times), len(tickers)), np.nan)
        table[place, cells.owner] = cells.value
    if last is not None:
        times, table = times[-last:], table[-last:]
    columns = pd.Index([ticker.symbol for ticker in tickers], dtype=object)
    index = time_index(times, interval, zone)
    return pd.DataFrame(table, index=index, columns=columns, copy=False)


def _lines(grid: Grid, zone: str, *, is_daily: bool) -> NDArray[np.int64] | None:
    """Give the times of a panel's lines, if they are those of each of its tickers, one zone's.

    So it is for most panels, and then the grid is the table already.
    """
    lines: NDArray[np.int64] = grid.time[0]
    if not (grid.time == lines).all():
        return None
    if is_daily:
        lines = _dates(lines, zone)
    if not (lines[1:] > lines[:-1]).all():
        return None
    return _midnights(lines, zone) if is_daily else lines


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
