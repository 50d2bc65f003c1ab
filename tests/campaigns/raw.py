"""A reader that maps the segment by itself: written from docs/layout.md, without quoteshm.

``python -m tests.campaigns.raw FILE`` reads until it gets SIGTERM, and prints what it has read.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import operator
import os
import random
import struct
import sys
import time
import zlib
from typing import Final

import numpy as np

from tests.campaigns import reading
from tests.campaigns.stamped import CORE, LEDGER, Memory

DEADLINE_S: Final = 5.0
LIVE: Final = 1
CHECK: Final = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0xD6E8FEB86659FD93
SILENT_MS: Final = 5000
Quotes = dict[str, tuple[float, ...]]


class NotYetError(Exception):
    """There is no segment that can be mapped."""


class Segment:
    """A mapped segment."""

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        head = os.pread(self.fd, 4096, 0)
        if head[:16] != b"QUOTESHM" + struct.pack("<II", 1, 0x01020304):
            raise NotYetError(head[:16])
        size, state = struct.unpack_from("<QQ", head, 16)
        if not state or size != os.fstat(self.fd).st_size:
            raise NotYetError(state)
        constant = (
            head[8:24] + head[32:56] + head[64:72] + head[80:132] + head[144:160] + head[512:1536]
        )
        if zlib.crc32(constant) != struct.unpack_from("<I", head, 72)[0]:
            raise AssertionError(f"{path}: the superblock does not check")
        self.map = mmap.mmap(self.fd, size, mmap.MAP_SHARED, mmap.PROT_READ)
        self.words = memoryview(self.map).cast("Q")
        self.tickers, kinds = struct.unpack_from("<II", head, 64)
        (self.directory, self.entries, *self.buffers, self.quotes, self.series) = (
            struct.unpack_from("<6Q", head, 80)
        )
        self.kinds = {}
        for number in range(kinds):
            name, *sizes = struct.unpack_from("<16sQQQQ", head, 1024 + 64 * number)
            self.kinds[name.rstrip(b"\0").decode()] = (number, *sizes)

    @property
    def is_left(self) -> bool:
        """Whether it is time to open the name again."""
        if self.words[24 // 8] != LIVE:
            return True
        if os.fstat(self.fd).st_nlink:
            return False
        age_ms = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000 - self.words[384 // 8]
        return not self.is_written or age_ms > SILENT_MS

    @property
    def is_written(self) -> bool:
        """Whether a writer holds it."""
        asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        answer = fcntl.fcntl(self.fd, fcntl.F_OFD_GETLK, asked)
        return bool(struct.unpack("hhqqi4x", answer)[0] == fcntl.F_WRLCK)

    def symbols(self, count: int) -> list[str]:
        """Read directory rows, which never change once they count."""
        places = range(self.directory, self.directory + 128 * count, 128)
        return [self.map[at : at + 32].rstrip(b"\0").decode() for at in places]

    def market(self) -> tuple[int, Quotes]:
        """Copy all quotes, of one epoch: open, high, low, price, volume."""
        until = time.monotonic() + DEADLINE_S
        while time.monotonic() < until:
            e1 = self.words[256 // 8]
            buffer = self.buffers[e1 >> 1 & 1]
            count = self.words[buffer // 8] & 0xFFFF_FFFF
            rows = self.map[buffer + self.quotes : buffer + self.quotes + 128 * count]
            if self.words[256 // 8] > (e1 & ~1) + 2:
                continue
            quotes = {}
            for symbol, row in zip(self.symbols(count), range(count), strict=True):
                flags, _, _, *values = struct.unpack_from("<IIqddddd", rows, 128 * row)
                if flags == 1:
                    quotes[symbol] = tuple(values)
            return e1 & ~1, quotes
        raise TimeoutError("no quotes of one epoch")

    def history(self, symbol: str, interval: str) -> tuple[int, bytes, list[bytes], bytes]:
        """Copy a series: the epoch, times and columns of closed bars, the forming bar."""
        number, _, rows, blocks, nbytes = self.kinds[interval]
        until = time.monotonic() + DEADLINE_S
        while time.monotonic() < until:
            e1 = self.words[256 // 8]
            buffer = self.buffers[e1 >> 1 & 1]
            known = self.symbols(self.words[buffer // 8] & 0xFFFF_FFFF)
            place = number * self.tickers + known.index(symbol)
            at = buffer + self.series + 128 * place
            row = self.map[at : at + 120]
            if self.words[256 // 8] > (e1 & ~1) + 2:
                continue
            rewrites, start, count, flags = state = struct.unpack_from("<QQQQ", row)
            if (
                struct.unpack_from("<Q", row, 112)[0]
                != sum(map(operator.mul, state, CHECK)) % 2**64
            ):
                raise AssertionError(f"{symbol}: its series row does not check: {state}")
            block = rewrites & 1
            if count and not (start + count <= rows and flags & (2, 4)[block]):
                raise AssertionError(f"{symbol}: {start} + {count} of {rows}, flags {flags}")
            columns = []
            for column in range(6 if count else 0):
                first = blocks + (2 * known.index(symbol) + block) * nbytes
                first += 8 * (column * rows + start)
                columns.append(self.map[first : first + 8 * count])
            if self.words[(self.entries + 32 * place + 24) // 8] - rewrites < 2:
                times, *values = columns or [b""] * 6
                return e1 & ~1, times, values, row[32:80] if flags & 1 else b""
        raise TimeoutError("no history of one epoch")


class Reader:
    """Reads a segment by its name, and holds each read against those before it."""

    def __init__(self, path: str) -> None:
        self.path, self.segment, self.memory = path, Segment(path), Memory()
        self._random = random.Random(os.getpid())  # noqa: S311  which ticker comes next

    def _now(self) -> Segment:
        if self.segment.is_left:
            try:
                self.segment = Segment(self.path)
            except (OSError, NotYetError):
                return self.segment  # its successor is not there yet
        return self.segment

    def quotes(self) -> None:
        """Read the market."""
        epoch, quotes = self._now().market()
        self.memory.at(epoch)
        self.memory.quotes(quotes)

    def history(self) -> None:
        """Read one history."""
        symbol = self._random.choice((*CORE, LEDGER))
        segment = self._now()
        interval = self._random.choice(list(segment.kinds))
        epoch, times, columns, forming = segment.history(symbol, interval)
        self.memory.at(epoch)
        time_ms, values = np.frombuffer(times, np.int64), np.frombuffer(b"".join(columns))
        ohlcv = values.reshape(5, -1)
        if forming:
            time_ms = np.append(time_ms, np.frombuffer(forming, np.int64, 1))
            ohlcv = np.append(ohlcv, np.frombuffer(forming, np.float64, 5, 8).reshape(5, 1), axis=1)
        self.memory.bars(symbol, interval, time_ms, ohlcv, len(times) // 8)


def main() -> None:
    """Read until told to end."""
    reader = Reader(sys.argv[1])
    ways = [("raw quotes", reader.quotes), *[("raw history", reader.history)] * 5]
    print(json.dumps(reading.read_until_told(ways, 0.004)))  # noqa: T201  to the campaign
    assert "quoteshm" not in sys.modules


if __name__ == "__main__":
    main()
