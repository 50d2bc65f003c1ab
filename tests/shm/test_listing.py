"""Listings: what tables of the same tickers share, and what nobody can change through them."""

from __future__ import annotations

import pandas as pd
import pytest

from tests.shm.conftest import MakeMarket
from tests.shm.helpers import AAPL, IBM, SONY, Market, at, make_quotes


@pytest.fixture
def market(make_market: MakeMarket) -> Market:
    """Make a market of three tickers, in another order than that of their symbols."""
    return make_market([IBM, SONY, AAPL])


def test_tables_are_sorted_while_tickers_come_and_go(market: Market) -> None:
    """In each of them a ticker has its own row's values; a snapshot from before stays as it was."""
    reader = market.reader()
    before = reader.snapshot()
    prices = {"IBM": 1.0, "6758.T": 2.0, "AAPL": 3.0}
    for row, price in enumerate(prices.values()):
        market.publish(quotes=[make_quotes(at(row), price)])
    market.add(AAPL._replace(symbol="AA"), price=4.0)
    prices["AA"] = 4.0
    for removed in ([], [1], [0, 2, 3]):
        market.publish(removed=removed)
        snapshot = reader.snapshot()
        for row in removed:
            del prices[["IBM", "6758.T", "AAPL", "AA"][row]]
        expected = dict(sorted(prices.items()))
        assert snapshot.tickers == reader.list_tickers() == list(expected)
        quotes, frame = snapshot.quotes, snapshot.to_frame()
        assert {ticker: quote.price for ticker, quote in quotes.items()} == expected
        assert frame["price"].to_dict() == expected
        for ticker, quote in quotes.items():
            assert (quote.ticker, frame.loc[ticker, "currency"]) == (ticker, quote.currency)
            assert quote.stale is False
    assert before.tickers == ["6758.T", "AAPL", "IBM"]


def test_what_is_done_to_a_table_is_done_to_it_alone(market: Market) -> None:
    """Though the next one has the same symbols and currencies."""
    snapshot = market.reader().snapshot()
    first = snapshot.to_frame()
    expected = snapshot.to_frame()
    first.index.name = "changed"
    with pytest.raises(ValueError, match="read-only"):
        first.index.values[0] = "changed"  # noqa: PD011  what the index stands on
    first.loc["AAPL", "currency"] = "EUR"
    first["currency"].array[0] = "EUR"
    first["price"] = 0.0
    snapshot.tickers.clear()
    snapshot.quotes.clear()
    pd.testing.assert_frame_equal(snapshot.to_frame(), expected)
    assert snapshot.tickers == list(snapshot.quotes) == ["6758.T", "AAPL", "IBM"]


def test_a_table_of_nothing_has_the_columns_of_any(make_market: MakeMarket) -> None:
    """Of the same types."""
    empty = make_market().reader().snapshot().to_frame()
    full = make_market([AAPL], name="shm1").reader().snapshot().to_frame()
    assert empty.dtypes.to_dict() == full.dtypes.to_dict()
