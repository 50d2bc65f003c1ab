"""A publisher to be tried, and answers to be published."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from quoteshm.model import DAY_MS, Bars, SeriesKind, Ticker
from quoteshm.service.publisher import Publisher
from quoteshm.shm import layout
from quoteshm.shm.segment import SegmentSpec
from quoteshm.shm.writer import SegmentWriter
from quoteshm.sources.base import Series, TickerBars, TickerTicks
from tests.published import NOW_MS, FakeClock

if TYPE_CHECKING:
    from collections.abc import Sequence


TODAY = NOW_MS // DAY_MS * DAY_MS


class Desk:
    """A publisher on anonymous memory, its writer, and a clock that stands still."""

    def __init__(self, kinds: Sequence[SeriesKind] = (SeriesKind("1d", 10),)) -> None:
        self.clock = FakeClock()
        spec = SegmentSpec(
            max_tickers=16,
            kinds=tuple(kinds),
            source="synthetic",
            freshness_ms=1000,
            directory=Path(),
        )
        self.writer = SegmentWriter.anonymous(spec, self.clock)
        self.publisher = Publisher(self.writer, self.clock)

    def quote(self, ticker: str) -> dict[str, float]:
        """Give the published quote of a ticker, by field."""
        row = self.writer.quotes()[self.writer.row_of[ticker]]
        return {name: row[name].item() for name in layout.QUOTE_ROW.names or ()}

    def closes(self, ticker: str, interval: str = "1d") -> list[float]:
        """Give the published closes of a ticker, the forming bar's last."""
        bars, _ = self.writer.history(self.writer.row_of[ticker], interval)
        return list(bars.field("close"))


def bar(close: float) -> tuple[float, float, float, float, float]:
    """Make a bar of its close: open, high, low, close, volume."""
    return (close - 1, close + 2, close - 3, close, 10 * close)


def bars(times: Sequence[int], closes: Sequence[float]) -> Bars:
    """Make bars of their closes."""
    return Bars(np.array(times, np.int64), np.array([bar(close) for close in closes]).T)


def days(ticker: str, *closes: float, forming: bool = True, last: int = TODAY) -> TickerBars:
    """Answer with daily bars, the last one today's."""
    times = [last - DAY_MS * back for back in reversed(range(len(closes)))]
    return TickerBars(Ticker(ticker, "USD"), {"1d": Series(bars(times, closes), forming)})


def ticks(
    tickers: tuple[str, ...],
    closes: Sequence[float],
    time: int = TODAY,
    interval: str = "1d",
) -> TickerTicks:
    """Answer with a tick for each ticker."""
    values = np.array([bar(close) for close in closes], np.float64)
    return TickerTicks(tickers, interval, np.full(len(closes), time), values, NOW_MS - 5)
