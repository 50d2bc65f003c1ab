"""SQLite: a write-ahead log without syncs, a transaction a batch, prepared statements."""

from __future__ import annotations

import sqlite3
from typing import Any

from bench.market import QUOTE_FIELDS, Step
from bench.peers import base

SCHEMA = """
create table quotes (symbol text primary key, open, high, low, price, volume, prev_close, ts_ms)
    without rowid;
create table bars (row integer, time integer, open, high, low, close, volume,
    primary key (row, time)) without rowid;
"""


class Writer(base.Writer):
    """One connection."""

    def open(self) -> None:
        """Make the database."""
        self.db = sqlite3.connect(self.folder / "quotes.db", isolation_level=None)
        self.db.execute("pragma journal_mode = wal")
        self.db.execute("pragma synchronous = off")
        self.db.executescript(SCHEMA)

    def store(self) -> None:
        """Insert all bars, in the order of their key, then the quotes."""
        market, times = self.market, self.market.times.tolist()
        with self.db:
            self.db.execute("begin")
            for row in range(market.tickers):
                found = market.history(row).tolist()
                bars = zip([row] * market.bars, times, *found, strict=True)
                self.db.executemany("insert into bars values (?, ?, ?, ?, ?, ?, ?)", bars)
        self.publish(market.step(0))

    def _put(self, first: int, symbols: list[str], step: Step) -> None:
        stamp = step.time_ms
        quotes = (
            (symbol, *values, stamp)
            for symbol, values in zip(symbols, step.quotes.tolist(), strict=True)
        )
        bars = ((first + row, stamp, *bar) for row, bar in enumerate(step.bars.tolist()))
        with self.db:
            self.db.execute("begin")
            self.db.executemany("insert or replace into bars values (?, ?, ?, ?, ?, ?, ?)", bars)
            self.db.executemany(
                "insert or replace into quotes values (?, ?, ?, ?, ?, ?, ?, ?)", quotes
            )

    def publish(self, step: Step) -> None:
        """Insert or replace a quote and a bar for each ticker."""
        self._put(0, self.market.symbols, step)

    def tick_one(self, step: Step) -> None:
        """Do so for one."""
        self._put(base.ONE, self.market.symbols[base.ONE : base.ONE + 1], step)

    def close(self) -> None:
        """Close the database."""
        self.db.close()


class Reader(base.Reader):
    """One connection, with the file mapped."""

    def open(self) -> None:
        """Open the database."""
        self.db = sqlite3.connect(self.folder / "quotes.db", isolation_level=None)
        self.db.execute("pragma mmap_size = 1000000000")
        self.db.execute("pragma query_only = on")
        self.select = f"select {', '.join(QUOTE_FIELDS)}, ts_ms from quotes where symbol = ?"  # noqa: S608  our own names

    def quote(self, symbol: str) -> Any:  # noqa: ANN401
        """Select a row."""
        return self.db.execute(self.select, (symbol,)).fetchone()

    def check_bar(self, symbol: str, time_ms: int) -> base.Facts:  # noqa: ARG002  the newest it has
        """Select the newest bar."""
        row = self.market.symbols.index(symbol)
        query = (
            "select time, open, high, low, close, volume from bars where row = ? "
            "order by time desc limit 1"
        )
        return tuple(map(float, self.db.execute(query, (row,)).fetchone()))

    def close(self) -> None:
        """Close the database."""
        self.db.close()
