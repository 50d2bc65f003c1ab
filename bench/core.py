"""What reading and publishing cost, next to LMDB and to the machine's own limits, in one run.

``python bench/core.py`` prints a table of medians. The data of both stores is the same, so are the
values that come out, which is checked; the writer of each is another process while reads are timed.
``--check`` runs it all once with little data, to see that it works.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import lmdb
import msgspec
import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from quoteshm import Quote, StockDataReader
from quoteshm.clock import SystemClock
from quoteshm.model import Bars, SeriesKind, Ticker
from quoteshm.shm.batch import Batch, History, Quotes, Ticks
from quoteshm.shm.frames import to_frame
from quoteshm.shm.segment import SegmentSpec
from quoteshm.shm.writer import SegmentWriter

DAY_MS = 86_400_000


@dataclass(frozen=True)
class Size:
    """How much is stored, and how often each thing is timed."""

    tickers: int
    bars: int
    rounds: int


FULL, CHECK = Size(5_000, 2_520, 30), Size(20, 50, 2)


@dataclass
class Row:
    """One line of the table: microseconds, medians."""

    what: str
    ours: float
    lmdb: float | None
    limit: float | None
    limit_is: str


def market(size: Size) -> tuple[list[str], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Give the symbols, the times and the bars, (tickers, 5, bars)."""
    symbols = [f"T{number:05d}" for number in range(size.tickers)]
    rng = np.random.default_rng(7)
    close = 100 + rng.standard_normal((size.tickers, size.bars)).cumsum(axis=1) / 10
    ohlcv = np.stack([close, close + 1, close - 1, close, np.full_like(close, 1e6)], axis=1)
    return symbols, np.arange(size.bars, dtype=np.int64) * DAY_MS, ohlcv


def median_us(act: Callable[[], object], rounds: int, repeat: int = 1) -> float:
    """Time ``act``: the median of the rounds, microseconds a call."""
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        for _ in range(repeat):
            act()
        times.append((time.perf_counter() - begun) / repeat)
    return statistics.median(times) * 1e6


# -- the writers -----------------------------------------------------------------------------


def our_writer(folder: str, size: Size) -> SegmentWriter:
    """Publish the market in a segment."""
    symbols, times, ohlcv = market(size)
    kinds = (SeriesKind("1d", size.bars),)
    spec = SegmentSpec(
        max_tickers=size.tickers,
        kinds=kinds,
        source="bench",
        freshness_ms=60_000,
        directory=Path(folder),
    )
    writer = SegmentWriter.open(spec, SystemClock())
    rows = writer.enlist(Ticker(symbol, "USD") for symbol in symbols)
    now_ms = SystemClock().wall_ms()
    for row in rows.tolist():
        history = History("1d", row, Bars(times, ohlcv[row]), forming=True, replace=True)
        writer.write_data(Batch(now_ms, histories=[history]))
    writer.write_data(our_batch(size, times[-1], ohlcv[:, :, -1]))
    return writer


def our_batch(size: Size, time_ms: int, bars: np.ndarray[Any, Any]) -> Batch:
    """Make a batch of one bar and one quote for each ticker."""
    rows, stamps = slice(0, size.tickers), np.full(size.tickers, time_ms)
    values = np.concatenate((bars, bars[:, 3:4]), axis=1)
    now_ms = SystemClock().wall_ms()
    return Batch(now_ms, [Ticks("1d", rows, stamps, bars)], quotes=[Quotes(rows, stamps, values)])


def their_store(folder: str) -> lmdb.Environment:
    """Open LMDB as its documentation advises for a cache: no sync, a writable map."""
    return lmdb.open(folder, map_size=1 << 34, max_dbs=2, sync=False, writemap=True)


def their_quote(symbol: str, bar: list[float], time_ms: int) -> bytes:
    """Encode a quote as the value of a key."""
    opened, high, low, close, volume = bar
    quote = Quote(
        ticker=symbol,
        price=close,
        open=opened,
        high=high,
        low=low,
        prev_close=close,
        volume=volume,
        currency="USD",
        ts_epoch_ms=time_ms,
        updated_ms=time_ms,
        stale=False,
        source="bench",
    )
    return msgspec.msgpack.encode(quote)


def publish_theirs(
    store: lmdb.Environment, symbols: list[str], bars: list[list[float]], time_ms: int
) -> None:
    """Publish one bar and one quote for each ticker in one transaction."""
    with store.begin(write=True) as transaction:
        for symbol, bar in zip(symbols, bars, strict=True):
            transaction.put(symbol.encode(), their_quote(symbol, bar, time_ms))
            transaction.put(b"bar:" + symbol.encode(), np.array(bar).tobytes())


def write(folder: str, size: Size, ready: Event, stop: Event) -> None:
    """Be the writer process of both: publish, then tick ten times a second until told to stop."""
    symbols, times, ohlcv = market(size)
    writer = our_writer(folder, size)
    store = their_store(folder)
    with store.begin(write=True) as transaction:
        for row, symbol in enumerate(symbols):
            raw = times.tobytes() + ohlcv[row].tobytes()
            transaction.put(b"bars:" + symbol.encode(), raw)
    publish_theirs(store, symbols, ohlcv[:, :, -1].tolist(), int(times[-1]))
    ready.set()
    while not stop.wait(0.1):
        writer.write_data(our_batch(size, int(times[-1]), ohlcv[:, :, -1]))
    writer.close()


# -- the questions ---------------------------------------------------------------------------


def reads(folder: str, size: Size) -> list[Row]:
    """Time the reads while the writers write."""
    symbols, times, ohlcv = market(size)
    reader = StockDataReader(shm_name="shm0", shm_dir=folder)
    store = their_store(folder)
    symbol, key = symbols[3], symbols[3].encode()
    quotes = reader.snapshot().quotes
    decoder = msgspec.msgpack.Decoder(Quote)

    def their_get() -> Quote:
        with store.begin(buffers=True) as transaction:
            return decoder.decode(transaction.get(key, b""))

    def their_history() -> pd.DataFrame:
        with store.begin(buffers=True) as transaction:
            raw = np.frombuffer(transaction.get(b"bars:" + key, b""), np.int64).copy()
        values = raw[size.bars :].view(np.float64).reshape(5, size.bars)
        return to_frame(Bars(raw[: size.bars], values), "1d", "UTC")

    def their_market() -> list[Quote]:
        with store.begin(buffers=True) as transaction:
            found = transaction.cursor().getmulti([symbol.encode() for symbol in symbols])
            return [decoder.decode(value) for _, value in found]

    bars = Bars(times, ohlcv[3])
    table = np.empty((size.tickers, 16))

    def limit_history() -> pd.DataFrame:
        return to_frame(Bars(bars.time.copy(), bars.ohlcv.copy()), "1d", "UTC")

    check(reader, their_get, their_history, their_market, symbol)
    r = size.rounds
    return [
        Row(
            "one quote",
            median_us(lambda: reader.get_quote(symbol), r, 2_000),
            median_us(their_get, r, 500),
            median_us(lambda: quotes[symbol], r, 2_000),
            "a dict of this process",
        ),
        Row(
            f"{size.bars} bars, a copy",
            median_us(lambda: reader.get_stock(symbol), r, 50),
            median_us(their_history, r, 50),
            median_us(limit_history, r, 50),
            "memcpy and pandas",
        ),
        Row(
            f"{size.bars} bars, a view",
            median_us(lambda: reader.view(symbol).frame, r, 50),
            None,
            median_us(lambda: to_frame(bars, "1d", "UTC"), r, 50),
            "pandas",
        ),
        Row(
            f"all {size.tickers} quotes of one epoch, as records",
            median_us(lambda: reader.snapshot().quotes, r),
            median_us(their_market, r),
            None,
            "",
        ),
        Row(
            f"all {size.tickers} quotes of one epoch, as a table",
            median_us(reader.snapshot, r, 5),
            None,
            median_us(table.copy, r, 5),
            "memcpy",
        ),
        Row(
            f"close of {min(500, size.tickers)} tickers x 252, a panel",
            median_us(lambda: reader.panel("close", symbols[:500], last=252), r),
            None,
            None,
            "",
        ),
    ]


def check(
    reader: StockDataReader,
    their_get: Callable[[], Quote],
    their_history: Callable[[], pd.DataFrame],
    their_market: Callable[[], list[Quote]],
    symbol: str,
) -> None:
    """See that both give the same."""
    assert reader.get_quote(symbol).price == their_get().price
    pd.testing.assert_frame_equal(reader.get_stock(symbol), their_history())
    assert len(reader.snapshot().quotes) == len(their_market())


def publishing(folder: str, size: Size) -> list[Row]:
    """Time a batch of one bar for each ticker: the same bar again, and a new one."""
    symbols, times, ohlcv = market(size)
    writer, store = our_writer(folder, size), their_store(folder)
    bars, day = np.ascontiguousarray(ohlcv[:, :, -1]), [int(times[-1])]
    rows = bars.tolist()

    def tick() -> None:
        writer.write_data(our_batch(size, day[0], bars))

    def opens() -> None:
        day[0] += DAY_MS
        tick()

    def theirs() -> None:
        publish_theirs(store, symbols, rows, day[0])

    tick_us, opens_us = median_us(tick, size.rounds), median_us(opens, size.rounds)
    theirs_us = median_us(theirs, size.rounds)
    writer.close()
    return [
        Row(f"publish a tick for each of {size.tickers}", tick_us, theirs_us, None, ""),
        Row(f"publish a new bar for each of {size.tickers}", opens_us, theirs_us, None, ""),
    ]


# -- the table -------------------------------------------------------------------------------


def measure(size: Size) -> list[Row]:
    """Run everything."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        ready, stop = context.Event(), context.Event()
        writer = context.Process(target=write, args=(folder, size, ready, stop))
        writer.start()
        try:
            assert ready.wait(120), "the writer did not start"
            rows = reads(folder, size)
        finally:
            stop.set()
            writer.join(30)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        return rows + publishing(folder, size)


def show(rows: list[Row]) -> None:
    """Print the table."""
    table = Table("", "quoteshm, us", "LMDB, us", "ratio", "limit, us", "ratio", "limit is")
    for column in table.columns[1:6]:
        column.justify = "right"
    for row in rows:
        cells = [row.what, f"{row.ours:,.2f}"]
        for other in (row.lmdb, row.limit):
            cells += ["-", "-"] if other is None else [f"{other:,.2f}", f"{other / row.ours:.2f}"]
        table.add_row(*cells, row.limit_is)
    Console(width=110).print(table)
    print("A ratio is the other's time by ours: above 1, quoteshm is faster.")


def main() -> None:
    """Read the options, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="little data, to see that it works")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    said = parser.parse_args()
    rows = measure(CHECK if said.check else FULL)
    if said.json:
        print(json.dumps([vars(row) for row in rows]))
    else:
        show(rows)


if __name__ == "__main__":
    main()
