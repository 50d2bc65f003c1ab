"""One mapped segment: what is known of it, how long that is believed, and what is let go of."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from quoteshm.model import Ticker
from quoteshm.shm import attachment, segment, series
from quoteshm.shm import reader as reader_module
from quoteshm.shm.reader import StockDataReader
from tests.shm.conftest import MakeMarket
from tests.shm.helpers import AAPL, Market, at, make_bars, make_quotes, tick

ALL = slice(0, 3)


@pytest.mark.parametrize(("boot", "stale"), [(b"another boot's  ", True), (bytes(16), False)])
def test_all_that_an_earlier_boot_left_is_stale(
    boot: bytes, make_market: MakeMarket, monkeypatch: pytest.MonkeyPatch, *, stale: bool
) -> None:
    """However long this boot has lasted; one that cannot tell its boot believes it is the same."""
    market = make_market([AAPL], freshness_ms=1000)
    monkeypatch.setattr(segment, "boot_id", lambda: boot)
    assert not market.reader().get_quote("AAPL").stale  # its writer lives: in a container, then
    market.die()
    reader = market.reader()
    for freshness_ms in (1000, 2000):
        segment.set_freshness(market.writer._map, freshness_ms)
        assert reader.get_quote("AAPL").stale == stale
        assert [quote.stale for quote in reader.snapshot().quotes.values()] == [stale]
        assert reader.info.freshness_ms == freshness_ms


def test_another_freshness_window_counts_for_known_quotes_too(
    market: Market, reader: StockDataReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tenth of a second later at the latest."""
    market.clock.shift_ms = -10
    market.publish(quotes=[make_quotes(ALL, 5.0)])
    for _ in range(3):
        assert not reader.get_quote("AAPL").stale
    segment.set_freshness(market.writer._map, 9)
    now_s = time.clock_gettime
    monkeypatch.setattr(reader_module, "_now_s", lambda clock: now_s(clock) + 0.1)
    assert reader.get_quote("AAPL").stale
    segment.set_freshness(market.writer._map, 60_000)
    assert not reader.get_quote("AAPL").stale


def test_readers_leave_no_descriptors_behind(market: Market) -> None:
    """Whether they are closed, dropped, or moved on to a successor."""
    market.replace_bars(0, make_bars(0, 8))
    market.reader().close()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        market.reader().get_quote("AAPL")
        market.readers.clear()
        with market.reader() as reader:
            view = reader.view("AAPL")
        del view
        market.readers.clear()
    for i in range(3):
        reader = market.reader()
        market.writer.enlist([Ticker(f"T{i}-{j}") for j in range(market.spec.max_tickers * 3)])
        reader.list_tickers()
        market.readers.clear()
        market.spec = market.writer.spec
    del reader
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_all_that_is_known_is_bounded(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is let go of when it is too much, and read again."""
    for row in (0, 1):
        market.replace_bars(row, make_bars(0, 8))
    monkeypatch.setattr(series, "_MAX_TIMES", 20)
    monkeypatch.setattr(attachment, "_MAX_KNOWN", 2)
    reader = market.reader()
    attached = reader._attachment()
    for number in range(8, 40):
        market.publish(ticks=[tick(at(0, 1), number, 1.0)])
        for ticker, last in (("AAPL", None), ("IBM", 3), ("6758.T", None)):
            frame = reader.get_stock(ticker, last=last)
            assert len(frame) == {"AAPL": 8, "IBM": 3, "6758.T": 0}[ticker]
            assert reader.get_quote(ticker).ticker == ticker
        assert attached.indexes._times <= 20 + 8
        assert len(attached.known_series) <= 2
        assert len(attached.known_quotes) <= 2
