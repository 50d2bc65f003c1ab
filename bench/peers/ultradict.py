"""UltraDict: a dict whose changes are pickled into a stream that every process replays.

By its maintained fork, UltraDict2, the one that installs on a current Python.
"""

from __future__ import annotations

import hashlib
from typing import Any

from UltraDict2 import UltraDict

from bench.market import Step
from bench.peers import base, packing

#: So much that a dump of the whole dict is rare in a run, not never: it belongs to the cost.
STREAM_NBYTES = 64_000_000


def _name(folder: object) -> str:
    return "bench" + hashlib.sha1(str(folder).encode()).hexdigest()[:12]  # noqa: S324  no secret


class Writer(base.Writer):
    """One key a quote, one key a bar, one key for what was there before."""

    def open(self) -> None:
        """Make the dict."""
        self.shared: Any = UltraDict(
            name=_name(self.folder), create=True, buffer_size=STREAM_NBYTES, auto_unlink=True
        )

    def store(self) -> None:
        """Store histories and quotes."""
        market = self.market
        for row, symbol in enumerate(market.symbols):
            self.shared[symbol + ":bars"] = packing.columns_of(market, row)
        self.publish(market.step(0))

    def _set(self, symbols: list[str], step: Step) -> None:
        shared, stamp = self.shared, step.time_ms
        rows = zip(symbols, step.quotes.tolist(), step.bars.tolist(), strict=True)
        for symbol, values, bar in rows:
            shared[symbol] = (*values, stamp)
            shared[f"{symbol}:{stamp}"] = tuple(bar)

    def publish(self, step: Step) -> None:
        """Set two keys for each ticker, one after the other: there are no transactions."""
        self._set(self.market.symbols, step)

    def tick_one(self, step: Step) -> None:
        """Set two keys."""
        self._set(self.market.symbols[base.ONE : base.ONE + 1], step)

    def close(self) -> None:
        """Take it away."""
        self.shared.unlink()


class Reader(base.Reader):
    """Reads its own copy, once the stream has been replayed into it."""

    def open(self) -> None:
        """Attach."""
        self.shared: Any = UltraDict(name=_name(self.folder), create=False)

    def quote(self, symbol: str) -> Any:  # noqa: ANN401
        """Get a tuple."""
        return self.shared[symbol]

    def check_bar(self, symbol: str, time_ms: int) -> base.Facts:
        """Get the newest bar."""
        return (float(time_ms), *self.shared[f"{symbol}:{time_ms}"])

    def records(self) -> dict[str, Any]:
        """Copy what is there of quotes: a commit of the writer's is not seen at once."""
        shared = self.shared
        shared.apply_update()
        data = shared.data
        return {symbol: data[symbol] for symbol in self.market.symbols}

    def close(self) -> None:
        """Let go."""
        self.shared.close()
