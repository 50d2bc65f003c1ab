"""Read a real daemon in every way while it publishes, kill it, and go on reading.

``python -m tests.campaigns.soak --seconds 60 --kills 5`` runs a daemon on synthetic bars, 100
batches a second, its clock so fast that bars close and blocks fill all the time. A second process
reads quotes, histories, views, snapshots and panels, and checks of each:

- a bar is whole: its low and high hold its open and close;
- bars follow each other, whole minutes apart (a machine that holds the daemon up for longer than a
  bar leaves some out), none of an earlier read is missing, and a closed bar is what it was;
- a snapshot is of one commit: all tickers were confirmed in the same batch;
- a panel's newest closes are the prices of the snapshot of the same epoch;
- nothing goes back in time, and no read fails, also while the daemon is dead.

It ends with a table, and with exit status 1 if anything was torn, lost or hung.
"""

from __future__ import annotations

import argparse
import functools
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from quoteshm import QuoteShmError, StockDataReader
from tests.campaigns.reading import Tally, report
from tests.campaigns.stamped import check, keep
from tests.processes.daemons import daemon, unique_name

MINUTE_MS = 60_000
DAEMON = (
    "--synthetic",
    "--synthetic-count",
    "50",
    "--synthetic-speed",
    "600",
    "--intervals",
    "1m",
    "--bars",
    "120",
    "--refresh",
    "0.01",
    "--log-level",
    "warn",
)


class Watch:
    """Reads a segment, and holds each read against those before it."""

    def __init__(self, reader: StockDataReader) -> None:
        self.reader = reader
        self.tickers = reader.list_tickers()
        self.epoch = self.updated_ms = 0
        self.closed: dict[str, pd.Series[float]] = {}

    def _bars(self, ticker: str, frame: pd.DataFrame, closed: int) -> None:
        o, h, low, c, v = frame.to_numpy().T
        check(((low <= np.minimum(o, c)) & (np.maximum(o, c) <= h) & (v >= 0)).all(), "a bar")
        steps = np.diff(pd.DatetimeIndex(frame.index).asi8)
        check(_follow(steps), f"{ticker}: times step by {set(steps.tolist())}")
        known = self.closed.get(ticker)
        newest = frame["Close"].iloc[:closed]
        if known is not None:
            both = newest.index.intersection(known.index)
            keep(len(both) or newest.index[0] > known.index[-1], f"{ticker}: history is gone")
            lost = known.index[known.index >= newest.index[0]].difference(newest.index)
            keep(not len(lost), f"{ticker}: bars are gone: {lost.tolist()}")
            keep((newest[both] == known[both]).all(), f"{ticker}: a closed bar has changed")
            keep(newest.index[-1] >= known.index[-1], f"{ticker}: history went back in time")
        self.closed[ticker] = newest

    def history(self, ticker: str) -> None:
        """Copy a history."""
        frame = self.reader.get_stock(ticker)
        self._bars(ticker, frame, len(frame) - 1)

    def view(self, ticker: str) -> None:
        """View a history, and believe it if it is still intact afterwards."""
        view = self.reader.view(ticker)
        frame = view.frame.copy()
        if view.intact:
            self._bars(ticker, frame, len(frame))

    def quote(self, ticker: str) -> None:
        """Read a quote."""
        quote = self.reader.get_quote(ticker)
        check(quote.low <= quote.price <= quote.high, "a quote")
        keep(quote.updated_ms >= self.updated_ms, "a quote went back in time")

    def snapshot(self, _ticker: str) -> None:
        """Copy the market."""
        snapshot = self.reader.snapshot()
        updated = {quote.updated_ms for quote in snapshot.quotes.values()}
        check(len(updated) == 1, f"a snapshot of {len(updated)} batches")
        check(len(snapshot.quotes) == len(self.tickers), "a snapshot without all tickers")
        keep(snapshot.epoch >= self.epoch, "the epoch went back")
        self.epoch, self.updated_ms = snapshot.epoch, max(self.updated_ms, *updated)

    def panel(self, _ticker: str) -> None:
        """Copy a panel, and hold it against the snapshot of its epoch where there is one."""
        before = self.reader.snapshot()
        panel = self.reader.panel("close", last=20)
        after = self.reader.snapshot()
        check(not panel.isna().to_numpy().any(), "a panel with holes")
        steps = np.diff(pd.DatetimeIndex(panel.index).asi8)
        check(_follow(steps), "a panel's times")
        if before.epoch == after.epoch:
            prices = [after.quotes[ticker].price for ticker in panel.columns]
            check((panel.iloc[-1].to_numpy() == prices).all(), "a panel and its snapshot differ")


def _follow(steps: NDArray[np.int64]) -> bool:
    return bool(((steps > 0) & (steps % MINUTE_MS == 0)).all())


def read(folder: str, name: str, seconds: float) -> dict[str, Any]:
    """Read in every way until the time is up; give the counts."""
    reader = StockDataReader(shm_name=name, shm_dir=folder)
    watch = Watch(reader)
    ways: list[Callable[[str], None]] = [
        watch.quote,
        watch.history,
        watch.view,
        watch.snapshot,
        watch.panel,
    ]
    tally, first = Tally(), reader.snapshot_state.epoch
    until = time.monotonic() + seconds
    while time.monotonic() < until and not tally.problems:
        ticker = watch.tickers[tally.reads.total() % len(watch.tickers)]
        for way in ways:
            tally.read(way.__name__, functools.partial(way, ticker))
    return {"commits": (reader.snapshot_state.epoch - first) // 2, **tally.told()}


def run(seconds: float, kills: int) -> dict[str, Any]:
    """Run a daemon and a reader; kill the one under the other; give the reader's counts."""
    name, adoptions = unique_name(), 0
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        command = [sys.executable, "-m", "tests.campaigns.soak", "--read", folder, name]
        watcher = None
        for life in range(kills + 1):
            with daemon(Path(folder), *DAEMON, name=name) as running:
                wait_for_quotes(folder, name)
                adoptions += life > 0
                if watcher is None:
                    watcher = subprocess.Popen(
                        [*command, "--seconds", str(seconds)], stdout=subprocess.PIPE, text=True
                    )
                if life < kills:
                    time.sleep(seconds / (kills + 1))
                    running.process.send_signal(signal.SIGKILL)
                    running.process.wait()
                else:
                    out, _ = watcher.communicate(timeout=seconds + 60)
    result: dict[str, Any] = json.loads(out)
    return {**result, "seconds": seconds, "kills": kills, "adoptions": adoptions}


def wait_for_quotes(folder: str, name: str) -> None:
    """Wait until a daemon that lives has published."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            with StockDataReader(shm_name=name, shm_dir=folder) as reader:
                epoch = reader.snapshot_state.epoch
                if reader.writer_status() == "live" and reader.wait(epoch, 1) > epoch:
                    return
        except QuoteShmError:
            time.sleep(0.02)  # no segment yet: there is nothing to wait on
    raise TimeoutError("no quotes within 30 s")


def main() -> int:
    """Run the campaign and print what came of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--read", nargs=2, metavar=("FOLDER", "NAME"), help=argparse.SUPPRESS)
    said = parser.parse_args()
    if said.read:
        print(json.dumps(read(said.read[0], said.read[1], said.seconds)))  # noqa: T201  to the parent
        return 0
    return report(run(said.seconds, said.kills), as_json=said.json)


if __name__ == "__main__":
    sys.exit(main())
