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


def to_frame(
    cells: Cells, tickers: Sequence[Ticker], interval: str, last: int | None
) -> pd.DataFrame:
    """Lay bars out as a frame; NaN where a ticker has none.

    Parameters
    ----------
    cells : Cells
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
    place, times = pd.factorize(cells.time, sort=True)  # by hashing: the times are few
    if INTERVALS[interval] >= DAY_MS:
        times, place = _by_date(cells, times, place, tickers, zone)
    table = np.full((len(times), len(tickers)), np.nan)
    table[place, cells.owner] = cells.value
    if last is not None:
        times, table = times[-last:], table[-last:]
    columns = pd.Index([ticker.symbol for ticker in tickers], dtype=object)
    return pd.DataFrame(table, index=time_index(times, interval, zone), columns=columns)


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
    midnights = pd.DatetimeIndex(days[used].astype("M8[ms]")).tz_localize(
        zone, nonexistent="shift_forward", ambiguous=np.ones(int(used.sum()), np.bool_)
    )
    return midnights.as_unit("ms").asi8, (np.cumsum(used) - 1)[lines]


def _dates(times: NDArray[np.int64], zone: str) -> NDArray[np.int64]:
    """Give the local dates of times, as milliseconds of their midnights without a zone."""
    local = pd.DatetimeIndex(times, dtype=zoned(zone)).tz_localize(None).normalize()
    dates: NDArray[np.int64] = local.as_unit("ms").asi8
    return dates
