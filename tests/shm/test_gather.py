"""The bars of a panel: whose they are, where tickers have equally many and where not."""

from __future__ import annotations

import numpy as np
import pytest

from quoteshm.model import MINUTE_MS
from quoteshm.shm import gather
from quoteshm.shm.reader import StockDataReader
from tests.shm.helpers import Market, bars_at, zoned


def test_a_panel_has_nan_where_a_ticker_has_no_bar(market: Market, reader: StockDataReader) -> None:
    """The index is the sorted union; a ticker without bars is a column of NaN."""
    market.replace_bars(0, bars_at([60_000, 180_000, 240_000]), interval="1m")
    market.replace_bars(1, bars_at([120_000, 180_000], 50.0), forming=False, interval="1m")
    panel = reader.panel("open", interval="1m")
    assert panel.columns.tolist() == ["6758.T", "AAPL", "IBM"]
    assert zoned(panel).as_unit("ms").asi8.tolist() == [60_000, 120_000, 180_000, 240_000]
    assert np.array_equal(panel["AAPL"], [1.0, np.nan, 2.0, 3.0], equal_nan=True)
    assert np.array_equal(panel["IBM"], [np.nan, 50.0, 51.0, np.nan], equal_nan=True)
    assert panel["6758.T"].isna().all()
    assert str(zoned(panel).tz) == "UTC"  # the zones differ
    assert panel.index.name == "Datetime"


@pytest.mark.parametrize("last", [1, 2, 3, 4, 50])
def test_the_last_lines_of_a_panel_are_those_of_the_whole(
    last: int, market: Market, reader: StockDataReader
) -> None:
    """Of the union, not of each ticker."""
    market.replace_bars(0, bars_at([MINUTE_MS, 3 * MINUTE_MS, 4 * MINUTE_MS]), interval="1m")
    market.replace_bars(1, bars_at([2 * MINUTE_MS, 5 * MINUTE_MS]), forming=False, interval="1m")
    whole = reader.panel("low", interval="1m")
    assert reader.panel("low", interval="1m", last=last).equals(whole.iloc[-last:])


@pytest.mark.parametrize("at_a_time", [1, 4, 1 << 20])
@pytest.mark.parametrize("place", [1, 3])
@pytest.mark.parametrize("forming", [True, False])
def test_one_ticker_of_other_times_is_found_wherever_it_stands(
    at_a_time: int, place: int, *, forming: bool, market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many are looked at at a time: its bar is a line of its own, and nobody else's."""
    monkeypatch.setattr(gather, "_AT_A_TIME", at_a_time)
    reader = market.reader()
    for odd in (None, 0, 1, 2):
        for row in range(3):
            times = np.arange(1, 5) * MINUTE_MS
            times[place] += MINUTE_MS // 2 * (row == odd)
            market.replace_bars(
                row, bars_at(times.tolist(), 10.0 * row), forming=forming, interval="1m"
            )
        panel = reader.panel("open", interval="1m")
        assert len(panel) == (4 if odd is None else 5)
        for row, name in enumerate(("AAPL", "IBM", "6758.T")):
            column = panel[name].dropna()
            assert column.tolist() == [10.0 * row + i for i in range(4)]
            late = zoned(panel.loc[column.index]).as_unit("ms").asi8[place] % MINUTE_MS
            assert late == (MINUTE_MS // 2 if row == odd else 0)
