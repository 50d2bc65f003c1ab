"""``.npy`` files, mapped: the times and the values of a ticker."""

from __future__ import annotations

import numpy as np
import pandas as pd

from bench.market import frame_of
from bench.peers import base


class Writer(base.Writer):
    """Writes each file once."""

    def store(self) -> None:
        """Write the files."""
        for row, symbol in enumerate(self.market.symbols):
            np.save(self.folder / f"{symbol}.time.npy", self.market.times)
            np.save(self.folder / f"{symbol}.ohlcv.npy", self.market.history(row))


class Reader(base.Reader):
    """Maps a file at each read: a file that is rewritten is another one."""

    def _load(self, symbol: str) -> list[np.ndarray]:
        return [
            np.load(self.folder / f"{symbol}.{part}.npy", mmap_mode="r")
            for part in ("time", "ohlcv")
        ]

    def history(self, symbol: str) -> pd.DataFrame:
        """Map and copy."""
        times, ohlcv = (np.array(part) for part in self._load(symbol))
        frame: pd.DataFrame = frame_of(times, ohlcv, self.market.interval)
        return frame

    def view(self, symbol: str) -> pd.DataFrame:
        """Map, and make a frame over the map."""
        times, ohlcv = (part.view(np.ndarray) for part in self._load(symbol))
        frame: pd.DataFrame = frame_of(times, ohlcv, self.market.interval)
        return frame
