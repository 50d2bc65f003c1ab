"""What the machine allows: the same work without another process, a store or a check."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from bench.market import Step, frame_over, index_of
from bench.peers import base

#: Bytes of a quote's row in the segment.
ROW_WORDS = 16


class Writer(base.Writer):
    """Copies what a step changes into memory of its own."""

    def store(self) -> None:
        """Make the memory."""
        self._bars = np.empty((self.market.tickers, 5))
        self._quotes = np.empty((self.market.tickers, 6))
        self._one = np.empty(11)

    def publish(self, step: Step) -> None:
        """Copy."""
        self._bars[:] = step.bars
        self._quotes[:] = step.quotes

    def tick_one(self, step: Step) -> None:
        """Copy one ticker's."""
        self._one[:5] = step.bars[0]
        self._one[5:] = step.quotes[0]


class Reader(base.Reader):
    """A dict, memcpy, and pandas' own constructor."""

    def open(self) -> None:
        """Make what is read."""
        market = self.market
        step = market.step(0)
        self._quotes = {
            symbol: (*values, step.time_ms)
            for symbol, values in zip(market.symbols, step.quotes.tolist(), strict=True)
        }
        self._rows = np.zeros((market.tickers, ROW_WORDS))
        self._rows[:, 3] = step.quotes[:, 3]
        self._times, self._ohlcv = market.times, market.history(0)
        self._index = index_of(self._times, market.interval)

    def act(self, name: str) -> Callable[..., object]:
        """Time the dict and the array themselves."""
        own: dict[str, Callable[..., object]] = {
            "quote": self._quotes.__getitem__,
            "table": self._rows.copy,
        }
        return own.get(name) or super().act(name)

    def quote(self, symbol: str) -> base.Facts:
        """Look a quote up."""
        return self._quotes[symbol]

    def history(self, symbol: str) -> pd.DataFrame:  # noqa: ARG002  it has one only
        """Copy the columns and make a frame of them, over an index that is there."""
        self._times.copy()
        frame: pd.DataFrame = frame_over(self._ohlcv.copy(), self._index)
        return frame

    def view(self, symbol: str) -> pd.DataFrame:  # noqa: ARG002
        """Make a frame of them where they are."""
        frame: pd.DataFrame = frame_over(self._ohlcv, self._index)
        return frame

    def check_table(self) -> np.ndarray[Any, Any]:
        """Give all prices."""
        return self._rows.copy()[:, 3]

    def panel(self, symbols: Sequence[str], last: int) -> pd.DataFrame:
        """Copy as many numbers, and make a frame of them."""
        if not hasattr(self, "_panel"):
            rows = [self.market.symbols.index(symbol) for symbol in symbols]
            self._panel = np.stack([self.market.history(row)[3, -last:] for row in rows])
            self._symbols = pd.Index(symbols)
        return pd.DataFrame(
            self._panel.copy().T, index=self._index[-last:], columns=self._symbols, copy=False
        )
