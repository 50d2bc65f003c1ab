"""A small segment with every byte of it known, as text with a line a word.

``python -m tests.shm.golden`` writes the text anew; a difference in it is a new layout.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np

from quoteshm.model import Bars, SeriesKind, Ticker
from quoteshm.shm import layout
from quoteshm.shm.batch import Batch, History, Quotes
from quoteshm.shm.layout import Geometry
from quoteshm.shm.segment import SegmentSpec
from quoteshm.shm.writer import SegmentWriter
from tests.shm.helpers import NEW_YORK, START_MS, TOKYO, FixedClock, at, tick

VECTOR = Path(__file__).parent.parent / "vectors" / "segment.txt"
KINDS = (SeriesKind("1d", 3), SeriesKind("1m", 2))
MAX_TICKERS = 4
PID = 4242
INSTANCE = bytes(range(0xA0, 0xB0))
BOOT = bytes(range(0xB0, 0xC0))
TICKERS = (
    Ticker("AAPL", "USD", NEW_YORK),
    Ticker("7203.T", "JPY", TOKYO),
    Ticker("ÅÄÖ", "SEK", "Europe/Stockholm"),
)
BLOCK = layout.rows_for(2)


def whole_bars(first: int, count: int, step_ms: int) -> Bars:
    """Make bars with whole numbers for prices."""
    number = np.arange(first, first + count)
    return Bars(
        START_MS + number.astype(np.int64) * step_ms,
        (100.0 * (number + 1) + np.arange(5)[:, None]).astype(np.float64),
    )


def publish_all(writer: SegmentWriter, clock: FixedClock) -> None:
    """Publish a little of everything: the script that the vector pins."""
    rows = writer.enlist(TICKERS)
    prices = np.array([[10.0, 12.0, 9.0, 11.0, 1000.0, 10.5]] * 3)
    prices += rows[:, None] * 100
    quotes = Quotes(rows, np.full(3, clock.wall, np.int64), prices)
    days = whole_bars(0, 3, 86_400_000)
    writer.write_data(
        Batch(clock.wall, (), [History("1d", 0, days, forming=True, replace=True)], [quotes])
    )
    clock.move(1000)  # a tick, and a first bar
    writer.write_data(Batch(clock.wall, [tick(slice(0, 2), 2, 50.0)]))
    clock.move(1000)  # a bar closes, and one leaves the window
    writer.write_data(Batch(clock.wall, [tick(at(0), 3, 60.0)]))
    clock.move(1000)  # a block that is full all but for one bar ...
    minutes = whole_bars(0, BLOCK, 60_000)
    for start in range(0, BLOCK, BLOCK // 2):
        part = minutes[start : start + BLOCK // 2]
        writer.write_data(Batch(clock.wall, (), [History("1m", 1, part, forming=True)]))
    for number in (BLOCK, BLOCK + 1):  # ... and is: the window moves to the other one
        clock.move(1000)
        writer.write_data(Batch(clock.wall, [tick(at(1), number, 70.0, "1m")]))
    clock.move(1000)  # a restatement of the past, a price that is not known, a ticker that goes
    quotes = Quotes(at(1), np.array([clock.wall]), np.full((1, 6), np.nan))
    restated = History("1d", 0, days, forming=False, replace=True, restated=1)
    writer.write_data(
        Batch(clock.wall, (), [restated], [quotes], confirmed=slice(0, 1), removed=[2])
    )
    clock.move(500)
    writer.heartbeat()


def make(directory: Path) -> bytes:
    """Make the segment, and give its bytes."""
    clock = FixedClock()
    spec = SegmentSpec(
        max_tickers=MAX_TICKERS,
        kinds=KINDS,
        source="files",
        freshness_ms=180_000,
        adjustment="splits",
        name="golden",
        directory=directory,
    )
    with (
        mock.patch("os.getpid", return_value=PID),
        mock.patch("os.urandom", return_value=INSTANCE),
        mock.patch("quoteshm.shm.segment.boot_id", return_value=BOOT),
    ):
        writer = SegmentWriter.open(spec, clock)
        publish_all(writer, clock)
        content = spec.path.read_bytes()
        writer.close()
    return content


# -- as text ---------------------------------------------------------------------------------


def to_text(content: bytes) -> str:
    """Write one line for each word that is not zero: offset, bytes, and what it is."""
    names = dict(_fields(Geometry.of(MAX_TICKERS, KINDS)))
    lines = [f"{len(content)} bytes"]
    for offset in range(0, len(content), 8):
        raw = content[offset : offset + 8]
        if any(raw):
            name, form = names.get(offset, ("nothing", "<Q"))
            lines.append(f"{offset:06x}: {raw.hex(' ')}  # {name} {_shown(raw, form)}".rstrip())
    return "\n".join(lines) + "\n"


def from_text(text: str) -> bytes:
    """Give the bytes that a text tells of."""
    first, *lines = text.splitlines()
    content = bytearray(int(first.split()[0]))
    for line in lines:
        place, rest = line.split(": ", 1)
        raw = bytes.fromhex(rest.split("  #")[0])
        content[int(place, 16) : int(place, 16) + len(raw)] = raw
    return bytes(content)


def _shown(raw: bytes, form: str) -> str:
    if form == "text":
        return repr(raw.rstrip(b"\0"))[1:]
    if form == "bytes":
        return ""
    return " ".join(
        f"{value:g}" if form == "<d" else str(value) for value in struct.unpack(form, raw)
    )


def _record(
    place: str, offset: int, record: np.dtype[np.void]
) -> Iterator[tuple[int, tuple[str, str]]]:
    """Name the words of a record."""
    assert record.fields is not None
    by_word: dict[int, tuple[str, str]] = {}
    for name, (form, start, *_) in record.fields.items():
        if name == "kinds":
            continue
        for word in range(start // 8, -(-(start + form.itemsize) // 8)):
            part = f"[{word - start // 8}]" if form.itemsize > 8 else ""
            shown = {"f": "<d", "i": "<q", "S": "text", "V": "bytes"}.get(form.base.kind, "<Q")
            if form.itemsize == 4:
                shown = "<II"
            if word in by_word:
                by_word[word] = (f"{by_word[word][0]}, {name}", shown)
            else:
                by_word[word] = (f"{place}.{name}{part}", shown)
    for word, named in by_word.items():
        yield offset + 8 * word, named


def _fields(g: Geometry) -> Iterator[tuple[int, tuple[str, str]]]:
    """Name every word of the segment."""
    yield from _record("superblock", 0, layout.SUPERBLOCK)
    assert layout.SUPERBLOCK.fields is not None
    kinds_offset = layout.SUPERBLOCK.fields["kinds"][1]
    for kind in g.kinds:
        name = kind.kind.interval
        yield from _record(
            f"kind {name}", kinds_offset + kind.index * layout.KIND.itemsize, layout.KIND
        )
    for row in range(g.max_tickers):
        nbytes = layout.DIRECTORY_ROW.itemsize
        yield from _record(
            f"directory {row}", g.directory_offset + row * nbytes, layout.DIRECTORY_ROW
        )
    for kind in g.kinds:
        for row in range(g.max_tickers):
            place = kind.index * g.max_tickers + row
            offset = g.entries_offset + place * layout.ENTRY.itemsize
            yield from _record(f"entry {kind.kind.interval} {row}", offset, layout.ENTRY)
    for letter, buffer in zip("AB", g.buffer_offsets, strict=True):
        yield from _record(letter, buffer, layout.BUFFER_HEADER)
        for row in range(g.max_tickers):
            offset = buffer + g.quotes_offset + row * layout.ROW_NBYTES
            yield from _record(f"{letter} quote {row}", offset, layout.QUOTE_ROW)
        for kind in g.kinds:
            for row in range(g.max_tickers):
                place = kind.index * g.max_tickers + row
                offset = buffer + g.series_offset + place * layout.ROW_NBYTES
                name = f"{letter} series {kind.kind.interval} {row}"
                yield from _record(name, offset, layout.SERIES_ROW)
    yield from _block_fields(g)


def _block_fields(g: Geometry) -> Iterator[tuple[int, tuple[str, str]]]:
    for kind in g.kinds:
        for row in range(g.max_tickers):
            for block in (0, 1):
                start = kind.block_offset(row, block)
                place = f"block {kind.kind.interval} {row} {block}"
                for column, name in enumerate(("time", "open", "high", "low", "close", "volume")):
                    for bar in range(kind.rows):
                        offset = start + 8 * (column * kind.rows + bar)
                        yield offset, (f"{place} {name}[{bar}]", "<d" if column else "<q")


def main() -> None:
    """Write the text anew."""
    with tempfile.TemporaryDirectory() as folder:
        VECTOR.write_text(to_text(make(Path(folder))))


if __name__ == "__main__":
    main()
