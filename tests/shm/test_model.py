"""Random batches against a naive market of dicts and lists: readers see the same, after each."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quoteshm.errors import UnknownTickerError
from quoteshm.model import INTERVALS, Bars, SeriesKind, Ticker
from quoteshm.shm.batch import History, Quotes, Ticks
from quoteshm.shm.reader import StockDataReader
from tests.shm.helpers import START_MS, Market, assert_bars, at, make_quotes

Bar = tuple[int, float]  # when, and a price that is all its values


@dataclass
class Series:
    """Bars as a list, the last one forming or not."""

    interval: str
    capacity: int
    bars: list[Bar] = field(default_factory=list)
    forming: bool = False

    def next_time(self, steps: int) -> int:
        """Give a time that may follow: that of the forming bar with no steps."""
        if not self.bars:
            return START_MS + steps * INTERVALS[self.interval]
        return self.bars[-1][0] + max(steps, 0 if self.forming else 1) * INTERVALS[self.interval]

    def extend(self, bars: list[Bar], *, forming: bool) -> None:
        """Put bars behind; the first may replace the forming one."""
        if bars:
            if self.forming and self.bars[-1][0] == bars[0][0]:
                self.bars.pop()
            self.bars = (self.bars + bars)[-self.capacity :]
            self.forming = forming

    def replace(self, bars: list[Bar], *, forming: bool) -> None:
        """Put bars in place of all."""
        self.bars, self.forming = bars[-self.capacity :], forming and bool(bars)


@dataclass
class Naive:
    """What the market should be."""

    kinds: tuple[SeriesKind, ...]
    names: list[str] = field(default_factory=list)
    series: list[dict[str, Series]] = field(default_factory=list)
    prices: list[float | None] = field(default_factory=list)
    removed: set[int] = field(default_factory=set)

    def add(self, name: str) -> None:
        """Add a ticker, or bring one back without its past."""
        fresh = {kind.interval: Series(kind.interval, kind.capacity) for kind in self.kinds}
        if name not in self.names:
            self.names.append(name)
            self.series.append(fresh)
            self.prices.append(None)
        elif (row := self.names.index(name)) in self.removed:
            self.removed.discard(row)
            self.series[row], self.prices[row] = fresh, None


def to_bars(bars: list[Bar]) -> Bars:
    """Make arrays of a list."""
    times = np.array([time for time, _ in bars], np.int64)
    return Bars(times, np.tile([price for _, price in bars], (5, 1)).reshape(5, len(bars)))


class Author:
    """Draws batches that can be published, and tells the naive market the same."""

    def __init__(self, data: st.DataObject, naive: Naive) -> None:
        self._data, self._naive, self._price = data, naive, 0.0

    def draw(self, strategy: st.SearchStrategy[int]) -> int:
        """Draw a number."""
        return self._data.draw(strategy)

    def price(self) -> float:
        """Give a price that was never given before."""
        self._price += 1
        return self._price

    def rows(self) -> list[int]:
        """Draw rows that are not removed."""
        here = [row for row in range(len(self._naive.names)) if row not in self._naive.removed]
        return self._data.draw(st.lists(st.sampled_from(here), unique=True)) if here else []

    def ticks(self, kind: SeriesKind) -> Ticks:
        """Draw one bar each for some rows: a slice where they are in a row."""
        rows, bars = self.rows(), list[Bar]()
        for row in rows:
            series = self._naive.series[row][kind.interval]
            bar = (series.next_time(self.draw(st.integers(0, 2))), self.price())
            series.extend([bar], forming=True)
            bars.append(bar)
        made = to_bars(bars)
        together = bool(rows) and rows == list(range(rows[0], rows[0] + len(rows)))
        which = slice(rows[0], rows[-1] + 1) if together else at(*rows)
        return Ticks(kind.interval, which, made.time, made.ohlcv.T)

    def history(self, kind: SeriesKind, row: int) -> History:
        """Draw an extension or a replacement."""
        series = self._naive.series[row][kind.interval]
        replace = self._data.draw(st.booleans())
        forming = self._data.draw(st.booleans())
        count = self.draw(st.sampled_from([0, 1, 2, 3, 30, 70]))
        first = START_MS if replace else series.next_time(self.draw(st.integers(0, 2)))
        bars = [(first + i * INTERVALS[kind.interval], self.price()) for i in range(count)]
        (series.replace if replace else series.extend)(bars, forming=forming)
        return History(kind.interval, row, to_bars(bars), forming and count > 0, replace)

    def quotes(self) -> Quotes:
        """Draw new prices."""
        rows, price = self.rows(), self.price()
        for row in rows:
            self._naive.prices[row] = price
        return make_quotes(at(*rows), price)

    def publish(self, market: Market) -> int:
        """Draw a batch, and publish it."""
        kinds = self._naive.kinds
        ticks = [self.ticks(kind) for kind in kinds for _ in range(self.draw(st.integers(0, 2)))]
        histories = [
            self.history(kind, row)
            for kind in kinds
            for row in self.rows()
            for _ in range(self.draw(st.integers(1, 2)))
        ]
        confirmed = at(*self.rows())
        quotes = [self.quotes() for _ in range(self.draw(st.integers(0, 2)))]
        removed = self.rows()[:1]
        self._naive.removed.update(removed)
        return market.publish(
            ticks=ticks,
            histories=histories,
            quotes=quotes,
            confirmed=confirmed,
            removed=removed,
        )


def check(naive: Naive, reader: StockDataReader) -> None:
    """Compare all that a reader gives with the naive market."""
    here = [row for row in range(len(naive.names)) if row not in naive.removed]
    prices = {naive.names[row]: naive.prices[row] for row in here}
    present = {name: price for name, price in prices.items() if price is not None}
    assert {t: q.price for t, q in reader.snapshot().quotes.items()} == present
    assert reader.list_tickers() == sorted(present)
    for row in naive.removed:
        for read in (reader.get_stock, reader.get_quote):
            with pytest.raises(UnknownTickerError):
                read(naive.names[row])
    for interval in reader.intervals:
        for row in here:
            series, name = naive.series[row][interval], naive.names[row]
            wanted = to_bars(series.bars)
            assert_bars(reader.get_stock(name, interval), wanted)
            assert_bars(reader.get_stock(name, interval, last=2), wanted[-2:])
            view = reader.view(name, interval)
            assert_bars(view.bars, wanted[:-1] if series.forming else wanted)
            assert view.intact
        check_panel(naive, reader, interval, sorted(present))


def check_panel(naive: Naive, reader: StockDataReader, interval: str, names: list[str]) -> None:
    """Compare a panel with the union of the lists."""
    columns = {name: dict(naive.series[naive.names.index(name)][interval].bars) for name in names}
    times = sorted(set().union(*columns.values()))
    for last in (None, 2):
        panel = reader.panel("close", interval=interval, last=last)
        lines = times if last is None else times[-last:]
        assert panel.index.astype("int64").tolist() == lines
        for name, bars in columns.items():
            wanted = [bars.get(time, np.nan) for time in lines]
            assert np.array_equal(panel[name], wanted, equal_nan=True)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_readers_see_what_a_naive_market_would_be(data: st.DataObject) -> None:
    """Ticks, extensions, replacements, quotes, removals, returns, growth, deaths and adoptions."""
    capacities = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 20)))
    kinds = (SeriesKind("1d", capacities[0]), SeriesKind("1m", capacities[1]))
    with tempfile.TemporaryDirectory() as folder:
        market = Market(Path(folder), kinds=kinds, max_tickers=2)
        try:
            reader, naive = market.reader(), Naive(kinds)
            author = Author(data, naive)
            for _ in range(data.draw(st.integers(1, 8))):
                names = data.draw(st.lists(st.sampled_from("ABCDE"), max_size=2))
                market.writer.enlist([Ticker(name) for name in names])
                for name in names:
                    naive.add(name)
                epoch = author.publish(market)
                assert reader.snapshot_state.epoch == epoch
                check(naive, reader)
                if data.draw(st.integers(0, 5)) == 0:
                    assert market.restart().adopted
                    check(naive, reader)
        finally:
            market.stop()
