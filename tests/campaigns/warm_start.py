"""How soon a daemon that starts anew is readable: `python -m tests.campaigns.warm_start`.

A daemon with many tickers archives them and is killed. The next one starts twice: in the segment
that was left, as after a crash, and from the archive alone, its files out of the page cache, as
after a reboot. The clock runs from before the process is made until a reader has read it all.
Prints a table, and exits with 1 where a figure is above what is promised.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from quoteshm import StockDataReader
from quoteshm.errors import QuoteShmError
from tests.processes.daemons import SERVE, environment, unique_name

#: Seconds from the start: quotes, and bars; out of the segment, and out of the archive.
SEGMENT_S = 2.0
QUOTES_S = 2.0
HISTORY_S = 10.0
PATIENCE_S = 600.0


class Figure(NamedTuple):
    """What was measured, and how much is promised; nothing where there is no promise."""

    what: str
    seconds: float
    promised_s: float | None


def measure(tickers: int, bars: int, folder: Path, shm_dir: Path) -> list[Figure]:
    """Take all figures."""
    market = _Market(tickers, bars, folder, shm_dir)
    figures = []
    try:
        started = market.start()
        market.wait(
            lambda: market.files == tickers and (market.archive / "quotes.parquet").exists()
        )
        figures.append(Figure("all archived, source included", market.since(started), None))
        market.kill()
        started = market.start()
        market.wait(market.has_history)
        figures.append(Figure("segment: all readable", market.since(started), SEGMENT_S))
        market.kill()
        market.forget()
        started = market.start()
        market.wait(market.has_quotes)
        figures.append(Figure("archive: all quotes", market.since(started), QUOTES_S))
        market.wait(market.has_history)
        figures.append(Figure("archive: all history", market.since(started), HISTORY_S))
        figures.append(Figure("clean stop", market.stop(), None))
    finally:
        market.kill()
        market.forget()
        market.segment.with_name(market.segment.name + ".lock").unlink(missing_ok=True)
    return figures


class _Market:
    """A daemon that starts and dies, and a reader."""

    def __init__(self, tickers: int, bars: int, folder: Path, shm_dir: Path) -> None:
        self.tickers, self.bars = tickers, bars
        name = unique_name()
        self.segment, self.archive = shm_dir / name, folder / "archive" / "synthetic-none"
        self._log = folder / "log"
        self._command = [
            *SERVE,
            *("--synthetic", "--synthetic-count", f"{tickers}", "--bars", f"{bars}", "--port", "0"),
            *("--shm-name", name, "--shm-dir", f"{shm_dir}", "--state-dir", f"{folder}"),
            *("--refresh", "3600", "--log-level", "warn"),
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: StockDataReader | None = None
        self._unread: set[str] = set()

    def start(self) -> float:
        """Start a daemon; give the time before."""
        self._reader, self._unread = None, set()
        started = time.perf_counter()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stderr=log, env=environment())
        return started

    @staticmethod
    def since(started: float) -> float:
        """Give the seconds since then."""
        return time.perf_counter() - started

    def kill(self) -> None:
        """End it as a crash does."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def stop(self) -> float:
        """End it as is usual, and tell how long that takes."""
        assert self._process is not None
        started = time.perf_counter()
        self._process.terminate()
        self._process.wait()
        self._process = None
        return self.since(started)

    def forget(self) -> None:
        """Lose what a reboot loses: the segment, and what is in the page cache."""
        self.segment.unlink(missing_ok=True)
        for path in self.archive.rglob("*.parquet"):
            fd = os.open(path, os.O_RDONLY)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)

    @property
    def files(self) -> int:
        """How many series are archived."""
        return sum(1 for _ in self.archive.glob("1d/*.parquet"))

    def wait(self, for_it: Callable[[], bool]) -> None:
        """Wait until something is so."""
        until = time.monotonic() + PATIENCE_S
        while not for_it():
            if (
                time.monotonic() > until
                or self._process is None
                or self._process.poll() is not None
            ):
                raise TimeoutError(self._log.read_text())
            time.sleep(0.02)  # a file has nothing to wait on

    def _read(self) -> StockDataReader | None:
        """Attach, where there is something to attach to."""
        if self._reader is None and self.segment.exists():
            reader = StockDataReader(shm_name=self.segment.name, shm_dir=self.segment.parent)
            try:
                is_live = reader.writer_status() == "live"
            except QuoteShmError:
                return None
            self._reader = reader if is_live else None
        return self._reader

    def has_quotes(self) -> bool:
        """Tell whether a reader sees every quote; those out of an archive are to be stale."""
        reader = self._read()
        if reader is None or len(quotes := reader.snapshot().quotes) < self.tickers:
            return False
        assert all(quote.stale for quote in quotes.values())
        return True

    def has_history(self) -> bool:
        """Tell whether a reader has read every history whole."""
        reader = self._read()
        if reader is None:
            return False
        if not self._unread:
            self._unread = set(reader.list_tickers())
            if len(self._unread) < self.tickers:
                return False
        for ticker in list(self._unread):
            if len(reader.view(ticker).bars) < self.bars - 1:
                return False
            self._unread.remove(ticker)
        return True


def main(arguments: list[str] | None = None) -> int:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tickers", type=int, default=5000)
    parser.add_argument("--bars", type=int, default=2520)
    parser.add_argument("--shm-dir", type=Path, default=Path("/dev/shm"))  # noqa: S108 (shared memory lives there)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(given.tickers, given.bars, Path(folder), given.shm_dir)
    sys.stdout.write(f"{given.tickers} tickers, {given.bars} bars each\n")
    for figure in figures:
        promised = "" if figure.promised_s is None else f"   promised: {figure.promised_s:g} s"
        sys.stdout.write(f"{figure.what:32} {figure.seconds:7.2f} s{promised}\n")
    late = [f for f in figures if f.promised_s is not None and f.seconds > f.promised_s]
    return 1 if late else 0


if __name__ == "__main__":
    sys.exit(main())
