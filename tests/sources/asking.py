"""What a source needs to be asked: a clock, requests, and somebody who remembers the answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from quoteshm.model import Bars, SeriesKind
from quoteshm.sources.base import Fetched, Known, Request, TickerBars, TickerTicks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quoteshm.sources.base import Source

DAILY = SeriesKind("1d", 50)
MINUTES = SeriesKind("1m", 20)


class FakeClock:
    """A clock that stands still until it is told to go on."""

    def __init__(self, now_ms: int) -> None:
        self.now_ms, self.since_boot_ms = now_ms, 5_000

    def wall_ms(self) -> int:
        """Give the Unix time."""
        return self.now_ms

    def boot_ms(self) -> int:
        """Give the time since boot."""
        return self.since_boot_ms

    def advance(self, ms: int) -> None:
        """Let time pass."""
        self.now_ms += ms
        self.since_boot_ms += ms


class Shelf:
    """Takes what a source gives, without checks, and tells it what is there."""

    def __init__(self) -> None:
        self.bars: dict[tuple[str, str], dict[int, tuple[float, ...]]] = {}
        self.forming: dict[tuple[str, str], bool] = {}

    def known(self, ticker: str, interval: str) -> Known | None:
        """Give the newest bar."""
        bars = self.bars.get((ticker, interval))
        if not bars:
            return None
        *older, newest = sorted(bars)[-2:]
        before = (older[0], bars[older[0]][3]) if older else None
        values = bars[newest]
        return Known(newest, values[3], self.forming[ticker, interval], values, before)

    def requests(self, tickers: Sequence[str], *kinds: SeriesKind) -> list[Request]:
        """Ask for tickers, on behalf of this shelf."""
        return [Request(ticker, kinds or (DAILY,), self.known) for ticker in tickers]

    def take(self, one: Fetched) -> None:
        """Keep what came."""
        if isinstance(one, TickerBars):
            for interval, (bars, forming) in one.series.items():
                if one.whole or interval in one.whole_of:
                    self.bars.pop((one.ticker.symbol, interval), None)
                self._put(one.ticker.symbol, interval, bars, forming=forming)
        elif isinstance(one, TickerTicks):
            for ticker, time, values in zip(one.tickers, one.time, one.ohlcv, strict=True):
                bar = Bars(time[np.newaxis], values[:, np.newaxis])
                self._put(ticker, one.interval, bar, forming=True)

    def _put(self, ticker: str, interval: str, bars: Bars, *, forming: bool) -> None:
        there = self.bars.setdefault((ticker, interval), {})
        there.update(zip(bars.time.tolist(), map(tuple, bars.ohlcv.T.tolist()), strict=True))
        self.forming[ticker, interval] = forming

    def series(self, ticker: str, interval: str = "1d") -> Bars:
        """Give all bars of a ticker."""
        there = self.bars[ticker, interval]
        times = sorted(there)
        ohlcv = np.array([there[t] for t in times]).reshape(-1, 5).T.copy()
        return Bars(np.array(times, np.int64), ohlcv)


async def collect(
    source: Source,
    wanted: Sequence[Request],
    shelf: Shelf | None = None,
) -> list[Fetched]:
    """Fetch everything there is."""
    answers: list[Fetched] = []
    async for one in source.fetch(wanted):
        answers.append(one)
        if shelf is not None:
            shelf.take(one)
    return answers
