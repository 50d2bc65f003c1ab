"""ArcticDB on LMDB in memory, in an environment of its own: it wants an older pandas."""

from __future__ import annotations

from collections.abc import Sequence

import arcticdb
import pandas as pd

from bench.market import frame_of
from bench.peers import base

MAP = "?map_size=8GB"


class Writer(base.Writer):
    """Writes each symbol once."""

    def open(self) -> None:
        """Make the library."""
        self.arctic = arcticdb.Arctic(f"lmdb://{self.folder}{MAP}")
        self.library = self.arctic.get_library("bars", create_if_missing=True)

    def store(self) -> None:
        """Write the symbols."""
        market = self.market
        payloads = []
        for row, symbol in enumerate(market.symbols):
            frame = frame_of(market.times, market.history(row), market.interval)
            frame.index = frame.index.as_unit("ns")
            payloads.append(arcticdb.WritePayload(symbol, frame))
        self.library.write_batch(payloads)

    def close(self) -> None:
        """Let go."""
        del self.library, self.arctic


class Reader(base.Reader):
    """One library."""

    def open(self) -> None:
        """Open the library."""
        self.arctic = arcticdb.Arctic(f"lmdb://{self.folder}{MAP}")
        self.library = self.arctic.get_library("bars")

    def history(self, symbol: str) -> pd.DataFrame:
        """Read a symbol."""
        frame: pd.DataFrame = self.library.read(symbol).data
        return frame

    def panel(self, symbols: Sequence[str], last: int) -> pd.DataFrame:
        """Read the last closes in one batch."""
        requests = [
            arcticdb.ReadRequest(symbol, columns=["Close"], row_range=(-last, None))
            for symbol in symbols
        ]
        found = self.library.read_batch(requests)
        columns = {item.symbol: item.data["Close"].to_numpy() for item in found}
        return pd.DataFrame(columns, index=found[0].data.index)

    def close(self) -> None:
        """Let go."""
        del self.library, self.arctic
