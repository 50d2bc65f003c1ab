"""quoteshm itself: its writer, and `StockDataReader`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from bench.fleet import Fleet
from bench.market import Step
from bench.peers import base
from quoteshm import Quote, StockDataReader
from quoteshm.clock import SystemClock
from quoteshm.model import Bars, SeriesKind, Ticker
from quoteshm.shm.batch import Batch, History, Quotes, Ticks
from quoteshm.shm.segment import SegmentSpec
from quoteshm.shm.writer import SegmentWriter


class Writer(base.Writer):
    """Publishes as the daemon does: one batch, one commit."""

    def open(self) -> None:
        """Make the segment."""
        self.clock = SystemClock()
        spec = SegmentSpec(
            max_tickers=self.market.tickers,
            kinds=(SeriesKind(self.market.interval, max(2, self.market.bars)),),
            source="bench",
            freshness_ms=3_600_000,
            directory=self.folder,
        )
        self.writer = SegmentWriter.open(spec, self.clock)

    def store(self) -> None:
        """Publish the histories, then the quotes."""
        market = self.market
        self.writer.enlist(Ticker(symbol, "USD") for symbol in market.symbols)
        for row in range(market.tickers):
            bars = Bars(market.times, market.history(row))
            history = History(market.interval, row, bars, forming=True, replace=True)
            self.writer.write_data(Batch(self.clock.wall_ms(), histories=[history]))
        self.publish(market.step(0))

    def _write(self, rows: slice, step: Step) -> None:
        times = np.full(len(step.bars), step.time_ms)
        ticks = [Ticks(self.market.interval, rows, times, step.bars)]
        quotes = [Quotes(rows, times, step.quotes)]
        self.writer.write_data(Batch(self.clock.wall_ms(), ticks, quotes=quotes))

    def publish(self, step: Step) -> None:
        """Publish a bar and a quote for each ticker."""
        self._write(slice(0, self.market.tickers), step)

    def tick_one(self, step: Step) -> None:
        """Publish them for one."""
        time_ms, (bar,), (quote,) = step.time_ms, step.bars.tolist(), step.quotes.tolist()
        self.writer.write_tick(base.ONE, self.market.interval, (time_ms, *bar), (time_ms, *quote))

    def tick_scattered(self, step: Step) -> None:
        """Publish them for each ticker, given in no order."""
        if not hasattr(self, "_rows"):
            self._rows = np.random.default_rng(5).permutation(self.market.tickers)
        times = np.full(len(step.bars), step.time_ms)
        order = self._rows
        ticks = [Ticks(self.market.interval, order, times, step.bars[order])]
        quotes = [Quotes(order, times, step.quotes[order])]
        self.writer.write_data(Batch(self.clock.wall_ms(), ticks, quotes=quotes))

    def close(self) -> None:
        """Take the segment away."""
        self.writer.close()


class Reader(base.Reader):
    """Reads by the public reader alone."""

    def open(self) -> None:
        """Attach."""
        self.reader = StockDataReader(shm_name="shm0", shm_dir=self.folder)
        self.one = self.market.symbols[min(base.ONE, self.market.tickers - 1)]

    def act(self, name: str) -> Callable[..., object]:
        """Time the reader's own methods, nothing around them."""
        own: dict[str, Callable[..., object]] = {
            "quote": self.reader.get_quote,
            "history": self.reader.get_stock,
            "table": self.reader.snapshot,
        }
        return own.get(name) or super().act(name)

    def quote(self, symbol: str) -> Quote:
        """Read a quote."""
        return self.reader.get_quote(symbol)

    def history(self, symbol: str) -> pd.DataFrame:
        """Copy the bars out."""
        return self.reader.get_stock(symbol)

    def facts(self, quote: Quote) -> base.Facts:
        """Give a quote's facts."""
        q = quote
        return q.open, q.high, q.low, q.price, q.volume, q.prev_close, q.ts_epoch_ms

    def view(self, symbol: str) -> pd.DataFrame:
        """Give the closed bars where they stand."""
        return self.reader.view(symbol).frame

    def records(self) -> dict[str, Quote]:
        """Read all quotes, of one epoch."""
        return self.reader.snapshot().quotes

    def check_table(self) -> np.ndarray[Any, Any]:
        """Give all prices."""
        return self.reader.snapshot().to_frame()["price"].to_numpy()

    def check_bar(self, symbol: str, time_ms: int) -> base.Facts:  # noqa: ARG002  the last it has
        """Give the newest bar."""
        times, values = self.check_history(symbol, "history")
        return float(times[-1]), *values[:, -1].tolist()

    def panel(self, symbols: Sequence[str], last: int) -> pd.DataFrame:
        """Read the last closes, of one epoch."""
        return self.reader.panel("close", symbols, last=last)

    def price(self) -> float:
        """Read one price."""
        return self.reader.get_quote(self.one).price

    def sleep(self, last: float) -> float:
        """Sleep on the epoch until the price is another one."""
        while True:
            epoch, _ = self.reader.snapshot_state
            if (now := self.price()) != last:
                return now
            self.reader.wait(epoch, 1.0)

    def attach(self, count: int, how: str, cores: Sequence[int]) -> None:
        """Start so many other readers: see `fleet`."""
        self.fleet = Fleet(self.folder, self.market, count, how, cores)

    def detach(self) -> list[list[int]]:
        """End them; give what each has counted."""
        return self.fleet.end()

    def touch_all(self) -> int:
        """Copy every history out, one after the other; give how many bars there are."""
        return sum(len(self.reader.get_stock(symbol)) for symbol in self.reader.list_tickers())

    def close(self) -> None:
        """Let go."""
        self.reader.close()
