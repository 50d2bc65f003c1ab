"""Programs for tests of real processes: one publishes, one reads.

``python -m tests.processes.market publish FOLDER`` publishes version after version of a small
market; each version has one number in all its prices. ``read FOLDER`` reads it until its standard
input ends, and fails if it ever sees a mixture, or an older version after a newer one.
"""

from __future__ import annotations

import os
import select
import sys
from pathlib import Path

import numpy as np

from quoteshm.clock import SystemClock
from quoteshm.model import DAY_MS, Bars, SeriesKind, Ticker
from quoteshm.shm.batch import Batch, History, Quotes, Ticks
from quoteshm.shm.reader import StockDataReader
from quoteshm.shm.segment import SegmentSpec
from quoteshm.shm.writer import SegmentWriter

NAME = "shm0"
TICKERS = ("AAPL", "GOOG", "IBM")
CAPACITY = 200
WINDOW = 50
START_MS = 1_704_067_200_000


def spec_in(directory: Path) -> SegmentSpec:
    """Describe the market's segment."""
    return SegmentSpec(
        max_tickers=4,
        kinds=(SeriesKind("1d", CAPACITY),),
        source="synthetic",
        freshness_ms=60_000,
        directory=directory,
        name=NAME,
    )


def batch_of(version: int) -> Batch:
    """Give a version: every third one a window that is rewritten, the others ticks."""
    n = len(TICKERS)
    price = float(version)
    quotes = [Quotes(slice(0, n), np.full(n, version), np.full((n, 6), price))]
    bars = Bars(START_MS + np.arange(WINDOW, dtype=np.int64) * DAY_MS, np.full((5, WINDOW), price))
    histories = [History("1d", row, bars, forming=True, replace=True) for row in range(n)]
    now_ms = SystemClock().wall_ms()
    if version % 3:
        time = np.full(n, START_MS + (WINDOW - 1) * DAY_MS, np.int64)
        ticks = [Ticks("1d", slice(0, n), time, np.full((n, 5), price))]
        return Batch(now_ms, ticks, quotes=quotes)
    return Batch(now_ms, histories=histories, quotes=quotes)


def publish(directory: Path) -> None:
    """Publish for ever, as fast as can be."""
    writer = SegmentWriter.open(spec_in(directory), SystemClock())
    last = int(writer.quotes()["price"].max(initial=0))
    version = 3 * (last // 3 + 1)
    writer.enlist([Ticker(symbol) for symbol in TICKERS])
    print("adopted" if writer.adopted else "made", os.getpid(), flush=True)  # noqa: T201  to the test
    while True:
        writer.write_data(batch_of(version))
        writer.heartbeat()
        version += 1


class Watcher:
    """Reads the market, and sees to it that each read is of one version, never of an older one."""

    def __init__(self, reader: StockDataReader) -> None:
        self.reader = reader
        self.version, self.epoch, self.reads = 0.0, 0, 0

    def look(self) -> None:
        """Read all there is, each way once."""
        snapshot = self.reader.snapshot()
        assert snapshot.epoch >= self.epoch
        self.epoch = snapshot.epoch
        prices = {quote.price for quote in snapshot.quotes.values()}
        assert len(prices) == 1, prices
        self._saw(prices.pop())
        self._saw(self.reader.get_quote("IBM").price)
        frame = self.reader.get_stock("GOOG").to_numpy()
        self._saw_windows(frame[:-1], frame[-1:])
        opens = self.reader.panel("open").to_numpy()
        self._saw_windows(opens[:-1], opens[-1:])
        self.reads += 1

    def _saw_windows(self, closed: np.ndarray, forming: np.ndarray) -> None:
        """See that closed bars are of the last rewrite, the forming one of the newest version."""
        assert len(closed) == WINDOW - 1
        assert len(np.unique(closed)) == 1
        assert len(np.unique(forming)) == 1
        version = float(forming.flat[0])
        assert version - version % 3 == closed.flat[0]
        self._saw(version)

    def _saw(self, version: float) -> None:
        assert version >= self.version, (version, self.version)
        self.version = version


def read(directory: Path) -> None:
    """Read until standard input ends."""
    watcher = Watcher(StockDataReader(shm_name=NAME, shm_dir=directory, timeout_s=5))
    watcher.look()
    print("reading", flush=True)  # noqa: T201  to the test
    while not select.select([sys.stdin], [], [], 0)[0]:
        watcher.look()
    print(watcher.reads, watcher.epoch, watcher.reader.writer_status())  # noqa: T201  to the test


def main() -> None:
    """Run one of the programs."""
    {"publish": publish, "read": read}[sys.argv[1]](Path(sys.argv[2]))


if __name__ == "__main__":
    main()
