"""Small segments, their bars and their quotes, for the tests of quoteshm.shm."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from quoteshm.clock import SystemClock
from quoteshm.model import DAY_MS, Bars, SeriesKind, Ticker
from quoteshm.shm.batch import Batch, History, Quotes, Ticks
from quoteshm.shm.reader import StockDataReader
from quoteshm.shm.segment import SegmentSpec
from quoteshm.shm.writer import SegmentWriter

if TYPE_CHECKING:
    from quoteshm.shm.batch import Rows

NEW_YORK = "America/New_York"
TOKYO = "Asia/Tokyo"
START_MS = 1_704_067_200_000  # 2024-01-01 00:00 UTC
DAILY = SeriesKind("1d", 8)
MINUTES = SeriesKind("1m", 4)
AAPL, IBM, SONY = (
    Ticker("AAPL", "USD", NEW_YORK),
    Ticker("IBM", "USD", NEW_YORK),
    Ticker("6758.T", "JPY", TOKYO),
)


class ShiftedClock:
    """The machine's clocks, moved by what the test says."""

    def __init__(self) -> None:
        self.shift_ms = 0

    def wall_ms(self) -> int:
        """Give the moved Unix time."""
        return SystemClock().wall_ms() + self.shift_ms

    def boot_ms(self) -> int:
        """Give the moved time since boot."""
        return SystemClock().boot_ms() + self.shift_ms


class FixedClock:
    """A clock that moves when it is told to."""

    def __init__(self, wall_ms: int = START_MS, boot_ms: int = 1_000_000) -> None:
        self.wall, self.boot = wall_ms, boot_ms

    def wall_ms(self) -> int:
        """Give the test's Unix time."""
        return self.wall

    def boot_ms(self) -> int:
        """Give the test's time since boot."""
        return self.boot

    def move(self, ms: int) -> None:
        """Let time pass."""
        self.wall += ms
        self.boot += ms


def spec_in(directory: Path, **changes: Any) -> SegmentSpec:
    """Describe a small segment."""
    spec = SegmentSpec(
        max_tickers=4,
        kinds=(DAILY, MINUTES),
        source="synthetic",
        freshness_ms=60_000,
        directory=directory,
        name="shm0",
    )
    return replace(spec, **changes)


def make_bars(first: int, count: int, price: float = 100.0, step_ms: int = DAY_MS) -> Bars:
    """Make bars number ``first`` and on; their prices tell their numbers."""
    number = np.arange(first, first + count)
    ohlcv = price + number + np.arange(5)[:, None] / 10
    return Bars(START_MS + number.astype(np.int64) * step_ms, ohlcv)


def bars_at(times: list[int], price: float = 1.0) -> Bars:
    """Make bars at given times."""
    n = len(times)
    return Bars(np.array(times, np.int64), price + np.arange(5 * n, dtype=float).reshape(5, n))


def tick(rows: Rows, number: int, price: float, interval: str = "1d") -> Ticks:
    """Make one bar, the same one, for each of several rows."""
    n = rows.stop - (rows.start or 0) if isinstance(rows, slice) else len(rows)
    step_ms = SeriesKind(interval, 1).interval_ms
    time = np.full(n, START_MS + number * step_ms, np.int64)
    return Ticks(interval, rows, time, np.tile(price + np.arange(5) / 10, (n, 1)))


def at(*rows: int) -> NDArray[np.intp]:
    """Make row numbers."""
    return np.array(rows, np.intp)


def make_quotes(rows: Rows, price: float, ts_ms: int = START_MS) -> Quotes:
    """Make quotes of one price."""
    n = rows.stop - (rows.start or 0) if isinstance(rows, slice) else len(rows)
    values = price + np.tile([-1.0, 2.0, -2.0, 0.0, 1e6, -3.0], (n, 1))
    return Quotes(rows, np.full(n, ts_ms, np.int64), values)


class Market:
    """A writer in a folder, its clock, and readers of it."""

    def __init__(self, directory: Path, tickers: Iterable[Ticker] = (), **changes: Any) -> None:
        self.clock = ShiftedClock()
        self.spec = spec_in(directory, **changes)
        self.writer = SegmentWriter.open(self.spec, self.clock)
        self.readers: list[StockDataReader] = []
        wanted = list(tickers)
        if wanted:
            self.add(*wanted)

    @property
    def path(self) -> Path:
        """Where the segment is."""
        return self.spec.path

    def add(self, *tickers: Ticker, price: float = 100.0) -> NDArray[np.intp]:
        """Enlist tickers, and publish a quote of each."""
        rows = self.writer.enlist(tickers)
        self.publish(quotes=[make_quotes(rows, price)])
        return rows

    def publish(
        self,
        *,
        ticks: Sequence[Ticks] = (),
        histories: Sequence[History] = (),
        quotes: Sequence[Quotes] = (),
        confirmed: Rows | None = None,
        removed: Sequence[int] = (),
    ) -> int:
        """Commit."""
        return self.writer.write_data(
            Batch(self.clock.wall_ms(), ticks, histories, quotes, confirmed, removed)
        )

    def replace_bars(
        self, row: int, bars: Bars, *, forming: bool = True, interval: str = "1d"
    ) -> int:
        """Publish a whole window."""
        return self.publish(histories=[History(interval, row, bars, forming, replace=True)])

    def extend(self, row: int, bars: Bars, *, forming: bool = True, interval: str = "1d") -> int:
        """Publish bars that follow."""
        return self.publish(histories=[History(interval, row, bars, forming)])

    def reader(self, **options: Any) -> StockDataReader:
        """Attach a reader."""
        reader = StockDataReader(shm_name=self.spec.name, shm_dir=self.spec.directory, **options)
        self.readers.append(reader)
        return reader

    def die(self) -> None:
        """Let go of the segment as a killed writer does: the locks fall, nothing else happens."""
        fd, lock = self.writer._fd, self.writer._lock
        assert fd is not None
        assert lock is not None
        fd.close()
        lock.release()

    def restart(self, **changes: Any) -> SegmentWriter:
        """Open the segment with a new writer, the old one dead."""
        self.die()
        self.spec = replace(self.spec, **changes)
        self.writer = SegmentWriter.open(self.spec, self.clock)
        return self.writer

    def stop(self) -> None:
        """Clean up, however the test went."""
        for reader in self.readers:
            reader.close()
        with suppress(Exception):
            self.writer.close()


def image(writer: SegmentWriter) -> bytes:
    """Copy all that is allocated of a segment's file."""
    assert writer.path is not None
    return file_image(writer.path)


def file_image(path: Path) -> bytes:
    """Copy a file's data, holes left out but told apart by their offsets."""
    parts: list[bytes] = []
    fd = os.open(path, os.O_RDONLY)
    try:
        size, offset = os.fstat(fd).st_size, 0
        parts.append(b"%d:" % size)
        while offset < size:
            try:
                start = os.lseek(fd, offset, os.SEEK_DATA)
            except OSError:
                break
            end = os.lseek(fd, start, os.SEEK_HOLE)
            parts.append(b"@%d:" % start + os.pread(fd, end - start, start))
            offset = end
    finally:
        os.close(fd)
    return b"".join(parts)


def assert_bars(found: Any, expected: Bars) -> None:
    """Compare a frame, or bars, with bars, NaN equal to NaN."""
    if isinstance(found, Bars):
        time, ohlcv = found.time, found.ohlcv
    else:
        time, ohlcv = found.index.as_unit("ms").asi8, found.to_numpy().T
    assert time.tolist() == expected.time.tolist()
    assert np.array_equal(ohlcv, expected.ohlcv, equal_nan=True)


def zoned(frame: pd.DataFrame) -> pd.DatetimeIndex:
    """Give a frame's index, which is one of times."""
    assert isinstance(frame.index, pd.DatetimeIndex)
    return frame.index
