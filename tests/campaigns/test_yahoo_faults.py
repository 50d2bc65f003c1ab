"""A short run of the campaign in `yahoo_faults`, and that its bars are what they are to be."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np

from quoteshm.market.bars import validate
from tests.campaigns.report import short_run
from tests.campaigns.yahoo_faults import SHORT, afternoon, autumn_or_spring, history


def test_some_of_yahoos_bad_days_end_well() -> None:
    """A storm, a ticker that hangs, a bar without prices, a split: each before a daemon."""
    told = short_run("yahoo_faults")
    assert set(told) == set(SHORT)


def test_the_bars_are_sound_and_trade_goes_on_now() -> None:
    """Whatever the hour, some of today is over."""
    zone = afternoon()
    assert datetime.now(UTC).astimezone(ZoneInfo(zone)).hour == 14
    for bars in history(zone).values():
        good, problems = validate(bars.time, bars.ohlcv)
        assert not problems
        assert len(good) == len(bars)


def test_the_clocks_change_in_the_middle_of_the_bars() -> None:
    """A day of 23 hours, or of 25."""
    zone = "America/New_York"
    bars = history(zone, end=autumn_or_spring(zone))["1d"]
    assert set((np.diff(bars.time)[-12:] // 3_600_000).tolist()) in ({24, 23}, {24, 25})
