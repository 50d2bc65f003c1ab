"""The naive design: the whole dictionary serialised into the segment, each batch."""

from __future__ import annotations

import mmap
import pickle
from typing import Any

import numpy as np

from bench.market import Step
from bench.peers import base


class Writer(base.Writer):
    """Pickles all of it into a mapped file."""

    def store(self) -> None:
        """Make the dictionary, with room for some more bars, and the file."""
        market = self.market
        step = market.step(0)
        quotes = zip(market.symbols, step.quotes.tolist(), strict=True)
        self.shared: dict[str, dict[str, Any]] = {
            symbol: {
                "header": {"epoch": 0},
                "quote": (*quote, step.time_ms),
                "data": market.history(row),
            }
            for row, (symbol, quote) in enumerate(quotes)
        }
        nbytes = 2 * len(pickle.dumps(self.shared, protocol=5)) + (1 << 20)
        with (self.folder / "segment").open("wb+") as file:
            file.truncate(nbytes)
            self.map = mmap.mmap(file.fileno(), nbytes)
        self._dump()

    def _dump(self) -> None:
        raw = pickle.dumps(self.shared, protocol=5)
        self.map[: len(raw)] = raw

    def publish(self, step: Step) -> None:
        """Shift each window by a bar, set each quote, and serialise all of it."""
        rows = zip(self.shared.values(), step.quotes.tolist(), step.bars, strict=True)
        for entry, quote, bar in rows:
            entry["header"]["epoch"] += 2
            entry["quote"] = (*quote, step.time_ms)
            entry["data"] = np.concatenate((entry["data"][:, 1:], bar[:, None]), axis=1)
        self._dump()

    def tick_one(self, step: Step) -> None:
        """Set one quote, and serialise all of it."""
        entry = self.shared[self.market.symbols[base.ONE]]
        entry["quote"] = (*step.quotes[0].tolist(), step.time_ms)
        entry["data"][:, -1] = step.bars[0]
        self._dump()

    def close(self) -> None:
        """Let go."""
        self.map.close()


class Reader(base.Reader):
    """Is not timed, what publishing costs being the question; only what was written is checked."""

    def open(self) -> None:
        """Map the file."""
        with (self.folder / "segment").open("rb") as file:
            self.map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def _entry(self, symbol: str) -> dict[str, Any]:
        entry: dict[str, Any] = pickle.loads(self.map)[symbol]  # noqa: S301  of our own writer
        return entry

    def quote(self, symbol: str) -> Any:  # noqa: ANN401
        """Deserialise all of it."""
        return self._entry(symbol)["quote"]

    def check_bar(self, symbol: str, time_ms: int) -> base.Facts:
        """Give the newest bar; it keeps no times."""
        return (float(time_ms), *self._entry(symbol)["data"][:, -1].tolist())

    def close(self) -> None:
        """Let go."""
        self.map.close()
