"""LMDB: one memory-mapped B-tree, a transaction a batch, readers without a lock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lmdb
import numpy as np
import pandas as pd

from bench.market import Step, frame_of, panel_of
from bench.peers import base, packing
from quoteshm import Quote

#: Room for the address space only: the file is sparse.
MAP_NBYTES = 1 << 36


class Writer(base.Writer):
    """Without syncs and through a writable map, as the documentation advises for a cache."""

    packed = staticmethod(packing.quotes_of)

    def open(self) -> None:
        """Open the environment."""
        self.env = lmdb.open(
            str(self.folder), map_size=MAP_NBYTES, max_dbs=4, sync=False, writemap=True
        )
        self.quotes, self.bars, self.blobs = (
            self.env.open_db(name) for name in (b"quotes", b"bars", b"blobs")
        )
        self.keys = [symbol.encode() for symbol in self.market.symbols]

    def store(self) -> None:
        """Store histories as one value a ticker, which is what reads fastest, then the quotes."""
        market = self.market
        with self.env.begin(write=True, db=self.blobs) as transaction:
            for row, key in enumerate(self.keys):
                transaction.put(key, packing.columns_of(market, row), append=True)
        self.publish(market.step(0))

    def _put(self, keys: list[bytes], symbols: list[str], step: Step) -> None:
        stamp = step.time_ms.to_bytes(8, "big")
        with self.env.begin(write=True) as transaction:
            with transaction.cursor(self.quotes) as cursor:
                cursor.putmulti(list(self.packed(symbols, step)))
            with transaction.cursor(self.bars) as cursor:
                bars = zip(keys, packing.bars_of(step), strict=True)
                cursor.putmulti([(key + stamp, bar) for key, bar in bars])

    def publish(self, step: Step) -> None:
        """Put a quote and a bar, a record of its own, for each ticker; one transaction."""
        self._put(self.keys, self.market.symbols, step)

    def tick_one(self, step: Step) -> None:
        """Put them for one."""
        one = slice(base.ONE, base.ONE + 1)
        self._put(self.keys[one], self.market.symbols[one], step)

    def close(self) -> None:
        """Close the environment."""
        self.env.close()


class Reader(base.Reader):
    """Values as buffers, so that what is decoded or viewed is not copied before."""

    def open(self) -> None:
        """Open the environment; a read transaction is reset and renewed, not made anew."""
        self.env = lmdb.open(str(self.folder), map_size=MAP_NBYTES, max_dbs=4, readonly=True)
        self.quotes, self.bars, self.blobs = (
            self.env.open_db(name, create=False) for name in (b"quotes", b"bars", b"blobs")
        )
        self.keys = [symbol.encode() for symbol in self.market.symbols]

    def quote(self, symbol: str) -> Quote:
        """Get and decode."""
        with self.env.begin(db=self.quotes, buffers=True) as transaction:
            return packing.decode(transaction.get(symbol.encode(), b""))

    def facts(self, quote: Quote) -> base.Facts:
        """Give a quote's facts."""
        return packing.facts(quote)

    def history(self, symbol: str) -> pd.DataFrame:
        """Get the columns, copy them out of the transaction, make a frame."""
        with self.env.begin(db=self.blobs, buffers=True) as transaction:
            raw = transaction.get(symbol.encode(), b"")
            times, ohlcv = packing.columns_from(raw, copy=True)
        frame: pd.DataFrame = frame_of(times, ohlcv, self.market.interval)
        return frame

    def view(self, symbol: str) -> pd.DataFrame:
        """Make a frame over the map: good for as long as the transaction is open."""
        with self.env.begin(db=self.blobs, buffers=True) as transaction:
            times, ohlcv = packing.columns_from(transaction.get(symbol.encode(), b""), copy=False)
            frame: pd.DataFrame = frame_of(times, ohlcv, self.market.interval)
        return frame

    def records(self) -> dict[str, Quote]:
        """Walk over all quotes with a cursor, in one transaction."""
        decode = packing.decode
        with self.env.begin(db=self.quotes, buffers=True) as transaction:
            found = map(decode, transaction.cursor().iternext(keys=False, values=True))
            return {quote.ticker: quote for quote in found}

    def check_bar(self, symbol: str, time_ms: int) -> base.Facts:
        """Get the newest bar's record."""
        with self.env.begin(db=self.bars) as transaction:
            return packing.bar_from(
                transaction.get(symbol.encode() + time_ms.to_bytes(8, "big"), b"")
            )

    def panel(self, symbols: Sequence[str], last: int) -> pd.DataFrame:
        """Take the last closes out of each history, in one transaction."""
        values: Any = np.empty((len(symbols), last))
        times = np.empty(0, np.int64)
        with self.env.begin(db=self.blobs, buffers=True) as transaction:
            for place, symbol in enumerate(symbols):
                raw = transaction.get(symbol.encode(), b"")
                found, ohlcv = packing.columns_from(raw, copy=False)
                values[place] = ohlcv[3, -last:]
                if not place:
                    times = found[-last:].copy()
        frame: pd.DataFrame = panel_of(times, values, symbols, self.market.interval)
        return frame

    def close(self) -> None:
        """Close the environment."""
        self.env.close()
