"""Frames over bars: fast, and none shares with another what its owner may set."""

from __future__ import annotations

import datetime as dt
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from quoteshm.shm import frames
from tests.shm.helpers import NEW_YORK, make_bars, zoned


def test_a_frame_is_the_same_with_the_constructor_of_older_pandas(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The faster one is of pandas 3, and is not looked at: what it gives must be whole."""
    bars = make_bars(0, 5)
    fast = frames.to_frame(bars, "1d", NEW_YORK)
    monkeypatch.setattr(frames, "create_dataframe_from_blocks", None)
    slow = frames.to_frame(bars, "1d", NEW_YORK)
    pd.testing.assert_frame_equal(fast, slow, check_freq=True)
    for frame in (fast, slow):
        assert np.shares_memory(frame["Close"].to_numpy(), bars.ohlcv)
        frame.insert(0, "Mean", 1.0)
        del frame["High"]
        frame["Low"] = 2.0
    pd.testing.assert_frame_equal(fast, slow, check_freq=True)
    assert frames.to_frame(bars, "1d", NEW_YORK).columns.tolist() == list(frames.COLUMNS)


def test_frames_over_the_same_times_share_nothing_that_can_be_set() -> None:
    """Neither the names of columns and index, nor the frequency, nor the times."""
    bars = make_bars(0, 5)
    bars.time.flags.writeable = False
    times = frames.time_array(bars.time, "UTC")
    one, other = (frames.frame_over(bars.ohlcv, frames.named(times, "1d")) for _ in range(2))
    one.columns.name = one.index.name = "mine"
    with pytest.raises(ValueError, match="read-only"):
        one.columns.values[0] = "mine"  # noqa: PD011  what `to_numpy` gives is a copy in pandas 3
    zoned(one).freq = pd.offsets.Day()  # type: ignore[misc]  # it can be set
    with pytest.raises(ValueError, match="read-only"):
        zoned(one).array[0] = zoned(one)[1]
    for frame in (other, frames.frame_over(bars.ohlcv, frames.named(times, "1d"))):
        assert (frame.columns.name, frame.index.name, zoned(frame).freq) == (None, "Date", None)
        assert np.shares_memory(zoned(frame).asi8, bars.time)


@pytest.mark.parametrize("moment", [1.7e12, np.float64(1.7e12), True, math.nan])
def test_a_fraction_or_a_truth_is_no_time(moment: Any) -> None:
    """Pandas would take it for nanoseconds, and a whole history would be newer than that."""
    with pytest.raises(TypeError, match=r"since: found .*, expected whole milliseconds"):
        frames.to_ms(moment, "UTC")
    assert frames.to_ms(np.int64(5), "UTC") == 5  # type: ignore[arg-type]
    assert frames.to_ms(dt.datetime(1970, 1, 1, 0, 0, 1, tzinfo=dt.UTC), NEW_YORK) == 1000
