"""Panels: the short way, for tickers with the same times, gives what the general way does."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from quoteshm.model import DAY_MS, MINUTE_MS
from quoteshm.shm import panel
from quoteshm.shm.reader import StockDataReader
from tests.shm.helpers import AAPL, IBM, NEW_YORK, SONY, START_MS, TOKYO, Market, bars_at

HOUR_MS = 60 * MINUTE_MS
DAYS = START_MS + np.arange(100) * DAY_MS  # over a change of New York's clocks
TWICE = np.array([0, HOUR_MS, DAY_MS]) + START_MS + 12 * HOUR_MS  # two bars of one date
TIMES = {
    "days": DAYS,
    "two bars of one date": TWICE,
    "minutes": START_MS + np.arange(5) * MINUTE_MS,
    "one bar": np.array([START_MS]),
    "out of order": DAYS[::-1],
}


@pytest.mark.parametrize("last", [None, 1, 3])
@pytest.mark.parametrize("other", [AAPL, IBM, SONY])
@pytest.mark.parametrize("interval", ["1d", "1m"])
@pytest.mark.parametrize("times", TIMES.values(), ids=TIMES)
def test_a_grid_is_laid_out_as_its_cells_are(
    times: np.ndarray, interval: str, other: object, last: int | None
) -> None:
    """Of one zone or of two, and whether the times are lines as they stand or not."""
    tickers = [IBM, other]
    grid = panel.Grid(times, np.arange(2.0 * len(times)).reshape(2, -1))
    short = panel.to_frame(grid, tickers, interval, last)  # type: ignore[arg-type]
    general = panel.to_frame(grid.cells(), tickers, interval, last)  # type: ignore[arg-type]
    pd.testing.assert_frame_equal(short, general)
    short.iloc[0, 0] = -1.0
    assert short.iloc[0, 0] == -1.0


def test_of_a_midnight_that_comes_twice_a_line_has_the_first() -> None:
    """Havana sets its clocks back from one to midnight."""
    tickers = [IBM._replace(time_zone="America/Havana")]
    noon = pd.Timestamp("2024-11-03 12:00", tz="America/Havana")
    grid = panel.Grid(np.array([noon.value // 10**6]), np.ones((1, 1)))
    (line,) = panel.to_frame(grid, tickers, "1d", None).index
    assert line.isoformat() == "2024-11-03T00:00:00-04:00"


def test_panels_of_the_same_times_share_nothing_that_can_be_set() -> None:
    """The lines are kept; what an owner sets of a frame is of that frame."""
    grid = panel.Grid(DAYS, np.zeros((1, len(DAYS))))
    one, other = (panel.to_frame(grid, [IBM], "1d", None) for _ in range(2))
    one.index.name = "mine"
    with pytest.raises(ValueError, match="read-only"):
        one.index.array[0] = one.index[1]
    assert other.index.name == panel.to_frame(grid, [IBM], "1d", None).index.name == "Date"


def stamp(text: str, zone: str) -> int:
    """Give a local moment as milliseconds."""
    return int(pd.Timestamp(text, tz=zone).timestamp() * 1000)


@pytest.mark.parametrize("hour", ["00:00", "09:30", "23:59"])
def test_days_are_aligned_by_the_local_date(
    hour: str, market: Market, reader: StockDataReader
) -> None:
    """Tokyo's Tuesday and New York's are one line, whatever hour their bars begin at."""
    days = ["2024-03-08", "2024-03-11", "2024-03-12"]  # the clocks change on the 10th
    for row, zone in ((0, NEW_YORK), (2, TOKYO)):
        times = [stamp(f"{day} {hour}", zone) for day in days]
        market.replace_bars(row, bars_at(times, 10.0 * row))
    panel = reader.panel("open", ["AAPL", "6758.T"])
    assert [str(time.date()) for time in panel.index] == days
    assert panel["6758.T"].tolist() == [20.0, 21.0, 22.0]
    assert panel["AAPL"].tolist() == [0.0, 1.0, 2.0]
    alone = reader.panel("open", ["AAPL"])
    assert [str(time) for time in alone.index] == [
        "2024-03-08 00:00:00-05:00", "2024-03-11 00:00:00-04:00", "2024-03-12 00:00:00-04:00",
    ]  # fmt: skip


def test_the_lines_of_a_panel_do_not_depend_on_what_else_is_in_it(
    market: Market, reader: StockDataReader
) -> None:
    """Whether every ticker has every bar or not, a day is the same line."""
    days = [stamp(f"2024-03-{day:02d} 09:30", NEW_YORK) for day in (5, 6, 7)]
    market.replace_bars(0, bars_at(days))
    market.replace_bars(1, bars_at(days))
    full = reader.panel("open", ["AAPL", "IBM"])
    market.replace_bars(1, bars_at(days[1:]))
    ragged = reader.panel("open", ["AAPL", "IBM"])
    assert full.index.equals(ragged.index)
    assert np.isnan(ragged["IBM"].iloc[0])


def test_equal_moments_of_different_days_are_different_lines(
    market: Market, reader: StockDataReader
) -> None:
    """Midnight UTC is yesterday in New York and today in Tokyo, also where no bar is missing."""
    for row in (0, 2):
        market.replace_bars(row, bars_at([START_MS]), forming=False)
    panel = reader.panel("open", ["AAPL", "6758.T"])
    assert [str(time.date()) for time in panel.index] == ["2023-12-31", "2024-01-01"]
    assert np.array_equal(panel["AAPL"], [1.0, np.nan], equal_nan=True)
    assert np.array_equal(panel["6758.T"], [np.nan, 1.0], equal_nan=True)
