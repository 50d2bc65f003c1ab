"""The interface of a peer. What a peer does not offer stays as it is here, and is not asked for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.market import Market, Step

if TYPE_CHECKING:
    from numpy.typing import NDArray

Facts = tuple[float, ...]


class UnavailableError(Exception):
    """The peer cannot be used here; the text says why."""


class Peer:
    """One side of a peer, in a process of its own."""

    def __init__(self, folder: Path, market: Market) -> None:
        self.folder, self.market = folder, market
        self.open()

    def open(self) -> None:
        """Get ready: make the store, start the server, or attach to what the writer has made."""

    def close(self) -> None:
        """Let go of all of it."""


class Writer(Peer):
    """Stores the market, then publishes into it. It is opened before the reader."""

    def store(self) -> None:
        """Store all bars and the first quotes."""
        raise NotImplementedError

    def publish(self, step: Step) -> None:
        """Publish one bar and one quote for each ticker, all at once if the peer can."""
        raise NotImplementedError

    def tick(self, step: Step) -> None:
        """Publish a quote, and a change of the newest bar, for each ticker."""
        self.publish(step)

    def refresh(self, step: Step) -> None:
        """Publish while readers are timed: with what only they need, where that is more."""
        self.tick(step)

    def tick_one(self, step: Step) -> None:
        """Publish a quote, and a change of the newest bar, for the ticker `ONE`."""
        raise NotImplementedError

    def push(self, step: Step) -> None:
        """Tell readers of a quote for `ONE`, in the way they are told quickest."""
        self.tick_one(step)

    def pulse(self, count: int, gap_s: float) -> None:
        """Publish the time as a price, again and again; 1.0 is the last one."""
        rng = np.random.default_rng(3)
        for _ in range(count):
            # Not asleep: how a core wakes up is another question, and the same for all.
            until = time.perf_counter() + gap_s * rng.uniform(0.5, 1.5)
            while time.perf_counter() < until:
                pass
            self.push(self.market.one(float(time.perf_counter_ns())))
        time.sleep(gap_s)
        self.push(self.market.one(1.0))


#: The row of the ticker that is read and ticked alone.
ONE = 3


class Reader(Peer):
    """Reads what the writer publishes. Values are given as the peer's users would use them."""

    def quote(self, symbol: str) -> Any:  # noqa: ANN401  the peer's own record
        """Read the latest quote of one ticker."""
        raise NotImplementedError

    def facts(self, quote: Any) -> Facts:  # noqa: ANN401
        """Give a quote as `QUOTE_FIELDS` and its time, to be compared."""
        return tuple(quote)

    def history(self, symbol: str) -> Any:  # noqa: ANN401
        """Read the bars of one ticker as a frame of the reader's own."""
        raise NotImplementedError

    def view(self, symbol: str) -> Any:  # noqa: ANN401
        """Give the bars of one ticker as a frame over the peer's memory."""
        raise NotImplementedError

    def records(self) -> Any:  # noqa: ANN401
        """Read the quotes of all tickers as records, by symbol."""
        raise NotImplementedError

    def table(self) -> Any:  # noqa: ANN401
        """Read the quotes of all tickers as one table of numbers."""
        raise NotImplementedError

    def panel(self, symbols: Sequence[str], last: int) -> Any:  # noqa: ANN401
        """Read the last closes of many tickers as one frame, time by ticker."""
        raise NotImplementedError

    def price(self) -> float:
        """Read the price of the ticker `ONE`, as quickly as the peer can."""
        return self.facts(self.quote(self.market.symbols[ONE]))[3]

    def spin(self, last: float) -> float:
        """Look until the price is another one."""
        price = self.price
        while (now := price()) == last:
            pass
        return now

    def sleep(self, last: float) -> float:
        """Sleep until the price is another one, woken as the peer wakes its users."""
        raise NotImplementedError

    def act(self, name: str) -> Callable[..., object]:
        """Give what is timed: a method of this, or of the peer's own that is all of it."""
        found: Callable[..., object] = getattr(self, name)
        return found

    # -- what is found, in a form that can be compared -----------------------------------------

    def check_quote(self, symbol: str) -> Facts:
        """Give the facts of a quote."""
        return tuple(float(fact) for fact in self.facts(self.quote(symbol)))

    def check_bar(self, symbol: str, time_ms: int) -> Facts | None:  # noqa: ARG002
        """Give the newest bar, of this time: the time and five values; nothing if none are kept."""
        return None

    def check_history(self, symbol: str, how: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Give the times and the values of a frame."""
        frame = getattr(self, how)(symbol)
        return frame.index.as_unit("ms").asi8.copy(), frame.to_numpy().T.copy()

    def check_records(self) -> dict[str, float]:
        """Give the price of each ticker."""
        return {symbol: float(self.facts(quote)[3]) for symbol, quote in self.records().items()}

    def check_table(self) -> NDArray[np.float64]:
        """Give the prices of all tickers, by row."""
        raise NotImplementedError

    def check_panel(self, symbols: Sequence[str], last: int) -> NDArray[np.float64]:
        """Give the values of a panel."""
        values: NDArray[np.float64] = self.panel(symbols, last)[list(symbols)].to_numpy().copy()
        return values
