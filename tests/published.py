"""A small market in anonymous memory, for whatever answers from one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from quoteshm.market.quotes import QuoteCache
from quoteshm.model import DAY_MS, Bars, SeriesKind, Ticker
from quoteshm.shm.batch import Batch, History, Quotes
from quoteshm.shm.segment import SegmentSpec
from quoteshm.shm.writer import SegmentWriter
from quoteshm.wire.operations import Context

if TYPE_CHECKING:
    from collections.abc import Sequence

FRESHNESS_MS = 1000
NOW_MS = 1_700_000_000_000  # an afternoon in New York
FIRST_MS = 1_699_765_200_000  # midnight there, two days before that day's
KINDS = (SeriesKind("1d", 8), SeriesKind("1m", 8))
NEW_YORK = "America/New_York"
NAN = math.nan


class FakeClock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now_ms = NOW_MS

    def wall_ms(self) -> int:
        """Give the test's time."""
        return self.now_ms

    def boot_ms(self) -> int:
        """Give the test's time since boot."""
        return self.now_ms - NOW_MS + 5_000


class Market:
    """A writer, its quotes, and a clock. AAPL and MSFT have values, NEWCO is only enlisted.

    AAPL has three daily bars, the last one forming, a gap in one price; MSFT has none.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self.clock = FakeClock()
        spec = SegmentSpec(
            max_tickers=8,
            kinds=KINDS,
            source="synthetic",
            freshness_ms=FRESHNESS_MS,
            directory=directory or Path(),
        )
        make = SegmentWriter.anonymous if directory is None else SegmentWriter.open
        self.writer = make(spec, self.clock)
        self.cache = QuoteCache(self.writer, self.clock)
        self.context = Context(self.writer, self.cache)
        self.add("MSFT", "AAPL")
        self.quote("MSFT", 370.25)
        self.quote("AAPL", 189.5, prev_close=NAN)
        self.history("AAPL", [188.0, 190.5, 189.5])
        self.add("NEWCO")

    def add(self, *symbols: str) -> None:
        """Enlist tickers."""
        self.writer.enlist([Ticker(symbol, "USD", NEW_YORK) for symbol in symbols])

    def quote(self, symbol: str, price: float, prev_close: float = 100.0) -> None:
        """Publish a quote."""
        values = np.array([[price - 1, price + 2, price - 2, price, 1e6, prev_close]])
        self.write(quotes=[Quotes(self.rows(symbol), np.array([self.clock.now_ms - 50]), values)])

    def history(self, symbol: str, closes: Sequence[float], interval: str = "1d") -> None:
        """Publish a whole history, its last bar forming."""
        n = len(closes)
        ohlcv = np.array([closes, closes, closes, closes, [1e5] * n])
        bars = Bars(FIRST_MS + np.arange(n, dtype=np.int64) * DAY_MS, ohlcv)
        row = int(self.rows(symbol)[0])
        self.write(histories=[History(interval, row, bars, forming=n > 0, replace=True)])

    def remove(self, symbol: str) -> None:
        """Take a ticker out."""
        self.write(removed=self.rows(symbol).tolist())

    def rows(self, *symbols: str) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
        """Give the rows of tickers."""
        return np.array([self.writer.row_of[symbol] for symbol in symbols], np.intp)

    def write(
        self,
        *,
        quotes: Sequence[Quotes] = (),
        histories: Sequence[History] = (),
        removed: Sequence[int] = (),
    ) -> None:
        """Commit."""
        batch = Batch(self.clock.now_ms, quotes=quotes, histories=histories, removed=removed)
        self.writer.write_data(batch)
