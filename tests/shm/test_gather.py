"""The bars of a panel: whose they are, where tickers have equally many and where not."""

from __future__ import annotations

import numpy as np
import pytest

from quoteshm.model import MINUTE_MS
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
