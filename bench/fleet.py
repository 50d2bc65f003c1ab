"""Many readers at once: children of one process, so that 64 of them start within a second."""

from __future__ import annotations

import mmap
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from bench.market import Market
from quoteshm import ReadTimeoutError, StockDataReader
from quoteshm.shm import latch

#: What a reader counts.
READS, RETRIES, TIMEOUTS, LONGEST_NS, READY, GO = range(6)
COUNTS: Final = 8
START_S: Final = 60.0


class Fleet:
    """Readers that do one thing over and over until they are ended.

    ``quote``, ``table``, ``history``: read it, never pausing. ``wait``: sleep until the next
    commit, then read a quote.
    """

    def __init__(
        self, folder: Path, market: Market, count: int, how: str, cores: Sequence[int]
    ) -> None:
        self._memory = mmap.mmap(-1, max(1, 8 * COUNTS * count))
        self.counts = np.frombuffer(self._memory, np.int64, COUNTS * count).reshape(count, COUNTS)
        self.pids = []
        for number in range(count):
            pid = os.fork()
            if not pid:
                try:
                    run(folder, market, how, cores, self.counts[number])
                finally:
                    os._exit(1)
            self.pids.append(pid)
        until = time.monotonic() + START_S
        while not self.counts[:, READY].all():
            assert time.monotonic() < until, "not all readers have started"
            time.sleep(0.01)
        self.counts[:, GO] = 1

    def end(self) -> list[list[int]]:
        """End them all; give what each has counted."""
        found: list[list[int]] = self.counts[:, :READY].tolist()
        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)
        for pid in self.pids:
            os.waitpid(pid, 0)
        return found


def run(
    folder: Path,
    market: Market,
    how: str,
    cores: Sequence[int],
    counts: np.ndarray,
) -> None:
    """Be one reader, for ever."""
    os.sched_setaffinity(0, set(cores))
    # A quote is read by a short way, whose one try is not among those that are counted.
    count_retries(counts, first_too=how == "quote")
    reader = StockDataReader(shm_name="shm0", shm_dir=folder)
    act = action(reader, market.symbols[market.tickers // 2], how)
    now = time.perf_counter_ns
    act()
    counts[RETRIES] = 0
    counts[READY] = 1
    while not counts[GO]:  # nobody takes the others' time before all are here
        time.sleep(0.005)
    while True:
        begun = now()
        try:
            act()
            counts[READS] += 1
        except ReadTimeoutError:
            counts[TIMEOUTS] += 1
        if how != "wait":
            counts[LONGEST_NS] = max(counts[LONGEST_NS], now() - begun)


def action(reader: StockDataReader, symbol: str, how: str) -> Callable[[], object]:
    """Give what such a reader does."""

    def wait() -> None:
        epoch, _ = reader.snapshot_state
        reader.wait(epoch, 1.0)
        reader.get_quote(symbol)

    return {
        "quote": lambda: reader.get_quote(symbol),
        "history": lambda: reader.get_stock(symbol),
        "table": reader.snapshot,
        "wait": wait,
    }[how]


def count_retries(counts: np.ndarray, *, first_too: bool) -> None:
    """Count what the reader tries again, which it does not tell."""
    attempts = latch.attempts

    def counted(timeout_s: float) -> Iterator[int]:
        for number in attempts(timeout_s):
            if number or first_too:
                counts[RETRIES] += 1
            yield number

    latch.attempts = counted  # type: ignore[assignment]
