"""Panels: the short way, for tickers with the same times, gives what the general way does."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from quoteshm.model import DAY_MS, MINUTE_MS
from quoteshm.shm import panel
from tests.shm.helpers import AAPL, IBM, SONY, START_MS

HOUR_MS = 60 * MINUTE_MS
DAYS = START_MS + np.arange(100) * DAY_MS  # over a change of New York's clocks
TWICE = np.array([0, HOUR_MS, DAY_MS]) + START_MS + 12 * HOUR_MS  # two bars of one date
TIMES = {
    "days": np.stack([DAYS, DAYS]),
    "one day differs": np.stack([DAYS, np.append(DAYS[:-1], DAYS[-1] + DAY_MS)]),
    "two bars of one date": np.stack([TWICE, TWICE]),
    "minutes": START_MS + np.arange(5) * MINUTE_MS * np.ones((2, 1), np.int64),
    "one bar": np.full((2, 1), START_MS),
    "out of order": np.stack([DAYS[::-1], DAYS[::-1]]),
}


@pytest.mark.parametrize("last", [None, 1, 3])
@pytest.mark.parametrize("other", [AAPL, IBM, SONY])
@pytest.mark.parametrize("interval", ["1d", "1m"])
@pytest.mark.parametrize("times", TIMES.values(), ids=TIMES)
def test_a_grid_is_laid_out_as_its_cells_are(
    times: np.ndarray, interval: str, other: object, last: int | None
) -> None:
    """Of one zone or of two, with the same times or not."""
    tickers = [IBM, other]
    grid = panel.Grid(times, np.arange(times.size, dtype=float).reshape(times.shape))
    short = panel.to_frame(grid, tickers, interval, last)  # type: ignore[arg-type]
    general = panel.to_frame(grid.cells(), tickers, interval, last)  # type: ignore[arg-type]
    pd.testing.assert_frame_equal(short, general)
    short.iloc[0, 0] = -1.0
    assert short.iloc[0, 0] == -1.0


def test_of_a_midnight_that_comes_twice_a_line_has_the_first() -> None:
    """Havana sets its clocks back from one to midnight."""
    tickers = [IBM._replace(time_zone="America/Havana")]
    noon = pd.Timestamp("2024-11-03 12:00", tz="America/Havana")
    grid = panel.Grid(np.array([[noon.value // 10**6]]), np.ones((1, 1)))
    (line,) = panel.to_frame(grid, tickers, "1d", None).index
    assert line.isoformat() == "2024-11-03T00:00:00-04:00"
