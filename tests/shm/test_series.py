"""What a reader knows of a series: made once for the same bars, anew for others, and bounded."""

from __future__ import annotations

import sys
import threading

import numpy as np
import pytest

from quoteshm.errors import CorruptSegmentError
from quoteshm.shm import layout, series
from quoteshm.shm.reader import StockDataReader
from tests.shm.conftest import MakeMarket
from tests.shm.helpers import AAPL, IBM, SONY, Market, assert_bars, at, make_bars, tick, zoned


@pytest.fixture
def market(make_market: MakeMarket) -> Market:
    """Make a market of three tickers, of which two have the same eight bars."""
    market = make_market([AAPL, IBM, SONY])
    for row in (0, 1):
        market.replace_bars(row, make_bars(0, 8, 100.0 * row))
    return market


def times_of(reader: StockDataReader, ticker: str, last: int | None = None) -> np.ndarray:
    """Give the memory that a history's index stands on."""
    times: np.ndarray = zoned(reader.get_stock(ticker, last=last)).asi8
    return times


def test_an_index_is_made_once_for_the_same_bars(market: Market) -> None:
    """A tick does not change it; a new bar, a rewrite and another part of the bars do."""
    reader = market.reader()
    first = times_of(reader, "AAPL")
    assert np.shares_memory(first, times_of(reader, "AAPL"))
    market.publish(ticks=[tick(at(0), 7, 5.0)])
    assert np.shares_memory(first, times_of(reader, "AAPL"))
    for part in (
        times_of(reader, "AAPL", last=3),
        (market.publish(ticks=[tick(at(0), 8, 5.0)]), times_of(reader, "AAPL"))[1],
        (market.replace_bars(0, make_bars(9, 8)), times_of(reader, "AAPL"))[1],
    ):
        assert not np.shares_memory(first, part)
    assert first.tolist() == make_bars(0, 8).time.tolist()


def test_series_with_the_same_times_share_an_index(market: Market) -> None:
    """As most tickers of an exchange do; those with the same ends only do not."""
    reader = market.reader()
    assert np.shares_memory(times_of(reader, "AAPL"), times_of(reader, "IBM"))
    bars = make_bars(0, 8)
    bars.time[3] += 1
    market.replace_bars(1, bars)
    assert not np.shares_memory(times_of(reader, "AAPL"), times_of(reader, "IBM"))
    assert_bars(reader.get_stock("IBM"), bars)


def test_indexes_of_bars_that_have_gone_by_are_let_go_of(market: Market) -> None:
    """Each bar that opens makes another one; those that a frame stands on stay good."""
    reader = market.reader()
    shared = reader._attachment().indexes._shared
    kept = reader.get_stock("AAPL")
    times = zoned(kept).asi8.tolist()
    for number in range(8, 40):
        market.publish(ticks=[tick(at(0, 1), number, 1.0)])
        for ticker in ("AAPL", "IBM"):
            reader.get_stock(ticker)
        assert len(shared) <= 2
    assert zoned(kept).asi8.tolist() == times


def test_indexes_with_the_same_ends_are_all_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though each takes the place of the one before among those to be shared."""
    monkeypatch.setattr(series, "_MAX_TIMES", 20)
    indexes, held = series.Indexes(), []
    for middle in range(1, 5):
        assert not indexes.are_full()
        held.append(indexes.make(np.array([0, middle, 5, 6, 7, 8]), "UTC"))
    assert indexes.are_full()
    del held[1:]
    assert not indexes.are_full()
    assert indexes._times == 6


def test_indexes_are_counted_while_other_threads_make_some(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A count of what is held is of one moment."""
    monkeypatch.setattr(series, "_MAX_TIMES", 0)
    indexes, held, errors = series.Indexes(), [], []

    def make(thread: int) -> None:
        try:
            for number in range(300):
                held.append(indexes.make(np.array([thread, 1000 + number]), "UTC"))
                assert indexes.are_full()
        except Exception as error:  # noqa: BLE001  told by the test's own thread
            errors.append(error)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=make, args=(thread,)) for thread in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert not errors
    assert len(indexes._made) == len(held) == 1200


@pytest.mark.parametrize("field", ["rewrites", "start", "count", "flags", "check"])
def test_a_damaged_row_of_a_known_series_is_found(field: str, market: Market) -> None:
    """What is known is of the row as it was, and as it was checked."""
    reader = market.reader()
    for _ in range(2):
        reader.get_stock("AAPL")
    for buffer in (0, 1):
        market.writer._map.series[buffer][0][0, layout.word(layout.SERIES_ROW, field)] ^= 16
    for read in (reader.get_stock, reader.view):
        with pytest.raises(CorruptSegmentError, match="series row 0"):
            read("AAPL")
