"""Redis over a Unix socket: Debian's server as `bench.wire` starts it, redis-py with hiredis."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from typing import Any

import hiredis  # noqa: F401  redis-py takes this parser where it is there; without it, it is slow
import numpy as np
import pandas as pd
import redis

from bench import wire
from bench.market import Step, frame_of, panel_of
from bench.peers import base, packing
from quoteshm import Quote

CHANNEL = "one"
TABLE = "table"


class Writer(base.Writer):
    """A pipeline a batch, as MULTI and EXEC: readers see all of it or nothing."""

    def open(self) -> None:
        """Start a server of our own, without persistence."""
        program = shutil.which("redis-server")
        if program is None:
            raise base.UnavailableError("redis-server is not installed")
        self.stack = contextlib.ExitStack()
        server = self.stack.enter_context(wire.redis(program, self.folder, unix=True))
        self.client: Any = redis.Redis(unix_socket_path=server.path)

    def blob(self, row: int) -> bytes:
        """Encode a history."""
        return packing.columns_of(self.market, row)

    def store(self) -> None:
        """Store histories as one value a ticker, then the quotes."""
        for row, symbol in enumerate(self.market.symbols):
            self.client.set(symbol + ":bars", self.blob(row))
        self.publish(self.market.step(0))

    def publish(self, step: Step) -> None:
        """Set all quotes, and append each ticker's bar to its list."""
        with self.client.pipeline(transaction=True) as pipe:
            pipe.mset(dict(packing.quotes_of(self.market.symbols, step)))
            for symbol, bar in zip(self.market.symbols, packing.bars_of(step), strict=True):
                pipe.append(symbol + ":new", bar)
            pipe.execute()

    def tick(self, step: Step) -> None:
        """Set all quotes, and each ticker's newest bar."""
        bars = zip(self.market.symbols, packing.bars_of(step), strict=True)
        with self.client.pipeline(transaction=True) as pipe:
            pipe.mset(dict(packing.quotes_of(self.market.symbols, step)))
            pipe.mset({symbol + ":bar": bar for symbol, bar in bars})
            pipe.execute()

    def refresh(self, step: Step) -> None:
        """Set all quotes, one by one and as one table."""
        rows = np.zeros((self.market.tickers, 16))
        rows[:, :6] = step.quotes
        with self.client.pipeline(transaction=True) as pipe:
            pipe.mset(dict(packing.quotes_of(self.market.symbols, step)))
            pipe.set(TABLE, rows.tobytes())
            pipe.execute()

    def tick_one(self, step: Step) -> None:
        """Set one quote and one bar."""
        symbol = self.market.symbols[base.ONE]
        [(key, quote)] = packing.quotes_of([symbol], step)
        with self.client.pipeline(transaction=True) as pipe:
            pipe.set(key, quote)
            pipe.set(symbol + ":bar", packing.bars_of(step)[0])
            pipe.execute()

    def push(self, step: Step) -> None:
        """Publish one quote."""
        [(_, quote)] = packing.quotes_of([self.market.symbols[base.ONE]], step)
        self.client.publish(CHANNEL, quote)

    def close(self) -> None:
        """Stop the server."""
        self.client.close()
        self.stack.close()


class Reader(base.Reader):
    """One connection."""

    def open(self) -> None:
        """Connect."""
        self.client: Any = redis.Redis(unix_socket_path=str(self.folder / "redis.sock"))
        client: Any = self.client
        self.pubsub: Any = client.pubsub(ignore_subscribe_messages=True)
        self.pubsub.subscribe(CHANNEL)
        self.pubsub.get_message(timeout=1)

    def quote(self, symbol: str) -> Quote:
        """Get and decode."""
        return packing.decode(self.client.get(symbol))

    def facts(self, quote: Quote) -> base.Facts:
        """Give a quote's facts."""
        return packing.facts(quote)

    def history(self, symbol: str) -> pd.DataFrame:
        """Get the columns: they are the reply's own memory, so nothing is copied again."""
        times, ohlcv = packing.columns_from(self.client.get(symbol + ":bars"), copy=False)
        frame: pd.DataFrame = frame_of(times, ohlcv, self.market.interval)
        return frame

    def records(self) -> dict[str, Quote]:
        """Get all of them in one command, which is of one moment."""
        found = map(packing.decode, self.client.mget(self.market.symbols))
        return dict(zip(self.market.symbols, found, strict=True))

    def table(self) -> np.ndarray[Any, Any]:
        """Get the one value that holds all of them."""
        return np.frombuffer(self.client.get(TABLE), np.float64).reshape(-1, 16)

    def check_table(self) -> np.ndarray[Any, Any]:
        """Give all prices."""
        return self.table()[:, 3]

    def check_bar(self, symbol: str, time_ms: int) -> base.Facts:  # noqa: ARG002  the newest it has
        """Get the newest bar: the one appended last, or a later one of the same time."""
        found = self.client.getrange(symbol + ":new", -48, -1), self.client.get(symbol + ":bar")
        bars = [packing.bar_from(raw) for raw in found if raw]
        return max(reversed(bars), key=lambda bar: bar[0])

    def panel(self, symbols: Sequence[str], last: int) -> pd.DataFrame:
        """Get the end of each column in one pipeline: where it stands, the store's form tells."""
        bars = self.market.bars
        with self.client.pipeline(transaction=True) as pipe:
            pipe.getrange(symbols[0] + ":bars", 8 * (bars - last), 8 * bars - 1)
            for symbol in symbols:  # the times, then open, high, low, close
                pipe.getrange(symbol + ":bars", 8 * (5 * bars - last), 8 * 5 * bars - 1)
            times, *closes = pipe.execute()
        values = np.frombuffer(b"".join(closes)).reshape(len(symbols), last)
        index = np.frombuffer(times, np.int64)
        frame: pd.DataFrame = panel_of(index, values, symbols, self.market.interval)
        return frame

    def sleep(self, last: float) -> float:  # noqa: ARG002  each message is new
        """Wait for a message."""
        while (message := self.pubsub.get_message(timeout=1.0)) is None:
            pass
        return packing.decode(message["data"]).price

    def close(self) -> None:
        """Disconnect."""
        self.pubsub.close()
        self.client.close()
