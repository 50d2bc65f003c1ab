"""One side of a peer in a process of its own, doing what it is told over a socket.

``python -m bench.worker SOCKET``: the peer's module is imported here alone, so a peer may live in
another environment. The first message says which.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import Any

from bench.market import Market, Step
from bench.peers.base import ONE, Facts, Reader, UnavailableError, Writer
from bench.timing import Samples, measure, measure_each

PR_SET_PDEATHSIG = 1


class Host:
    """What a worker can be told; each public method is a command."""

    side: Any
    _last: Step  # that was published while timed

    def __init__(self, module: str, role: str, core: int) -> None:
        os.sched_setaffinity(0, {core})
        try:
            self._make = getattr(importlib.import_module(f"bench.peers.{module}"), role)
        except ImportError as error:
            raise UnavailableError(f"not installed: {error}") from error
        self._number = self._bar = 0

    def open(self, folder: str, market: Market) -> None:
        """Open this side."""
        self.side: Reader | Writer = self._make(Path(folder), market)

    def close(self) -> None:
        """Close it."""
        if hasattr(self, "side"):
            self.side.close()
            del self.side

    def call(self, name: str, *args: Any) -> Any:  # noqa: ANN401
        """Call one of its methods."""
        return getattr(self.side, name)(*args)

    def pid(self) -> int:
        """Give the number of this process."""
        return os.getpid()

    # -- readers -----------------------------------------------------------------------------

    def time(self, seconds: float, name: str, *args: Any) -> Samples:  # noqa: ANN401
        """Time one of its methods."""
        act = self.side.act(name)
        return measure(functools.partial(act, *args) if args else act, seconds)

    def time_each(self, name: str, calls: Sequence[tuple[Any, ...]]) -> Samples:
        """Time one of its methods once with each of these arguments, in batches and singly."""
        return measure_each(self.side.act(name), calls)

    def spend(self, seconds: float, name: str, *args: Any) -> None:  # noqa: ANN401
        """Call one of its methods for so long, keeping nothing."""
        act, until = self.side.act(name), time.perf_counter() + seconds
        while time.perf_counter() < until:
            act(*args)

    def see(self, how: str) -> list[float]:
        """Give how long after each pulse its price was here, nanoseconds."""
        wait, delays, last = getattr(self.side, how), [], self.side.price()
        while (price := wait(last)) != 1.0:
            now = time.perf_counter_ns()
            delays.append(now - price)
            last = price
        return delays

    # -- writers -----------------------------------------------------------------------------

    def store(self) -> None:
        """Store the market; steps count from here."""
        self._number = self._bar = 0
        self.side.store()

    def step(self) -> int:
        """Publish one step in the same bar; tell its number."""
        self._number += 1
        self.side.refresh(self.side.market.step(self._number, self._bar))
        return self._number

    def bar(self) -> int:
        """Publish one step that opens new bars; tell their time."""
        self._bar += 1
        self._number += 1
        step = self.side.market.step(self._number, self._bar)
        self.side.publish(step)
        return int(step.time_ms)

    def last(self) -> tuple[Facts, Facts]:
        """Tell the quote and the bar of `ONE` that were published last while timed."""
        row = min(ONE, len(self._last.bars) - 1)
        time_ms = self._last.time_ms
        quote, bar = self._last.quotes[row].tolist(), self._last.bars[row].tolist()
        return (*quote, float(time_ms)), (float(time_ms), *bar)

    def steps(self, count: int) -> None:
        """Publish so many steps, of which every tenth opens new bars."""
        for number in range(count):
            self._bar += not number % 10
            self.step()

    def time_publish(self, seconds: float, name: str, at_least: int = 3) -> Samples:
        """Time publishing: a new step each time, made before the clock starts."""
        act, market, found = getattr(self.side, name), self.side.market, Samples()
        until = time.perf_counter() + seconds
        while time.perf_counter() < until or len(found.singles) < at_least:
            self._number += 1
            if name == "publish":
                self._bar += 1
            step = market.one(50.0 + self._number % 1_000, self._bar)
            if name != "tick_one":
                step = market.step(self._number, self._bar)
            begun = time.perf_counter_ns()
            act(step)
            found.singles.append(time.perf_counter_ns() - begun)
            self._last = step
        found.means = found.singles
        return found


def serve(link: Connection) -> None:
    """Do what is told until the link falls."""
    host: Host | None = None
    while True:
        try:
            name, args = link.recv()
        except EOFError:
            return
        try:
            if host is None:
                host = Host(*args)
                answer: object = None
            elif name == "ticking":
                tick(host, link, *args)
                answer = None
            else:
                answer = getattr(host, name)(*args)
        except Exception as error:  # noqa: BLE001  one that goes wrong is a row that says so
            link.send((False, f"{type(error).__name__}: {error}"))
        else:
            link.send((True, answer))


def tick(host: Host, link: Connection, gap_s: float) -> None:
    """Publish step after step until the next message is here."""
    link.send((True, None))
    while not link.poll(gap_s):
        host.step()


def main() -> None:
    """Connect, and serve."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    with Client(sys.argv[1], "AF_UNIX") as link:
        serve(link)


if __name__ == "__main__":
    main()
