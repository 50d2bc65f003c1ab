"""The layout: one truth in code, in its drawing, in the docs, and in pinned bytes."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from quoteshm.model import SeriesKind
from quoteshm.shm import layout
from quoteshm.shm.layout import Geometry
from quoteshm.shm.reader import StockDataReader
from quoteshm.shm.writer import SegmentWriter
from tests.shm import golden
from tests.shm.conftest import MakeMarket
from tests.shm.helpers import (
    AAPL,
    IBM,
    SONY,
    FixedClock,
    assert_bars,
    at,
    make_bars,
    make_quotes,
    spec_in,
    tick,
)

DOCS = Path(layout.__file__).parents[2] / "docs" / "layout.md"
RECORDS = {
    "Superblock": layout.SUPERBLOCK,
    "Series kind": layout.KIND,
    "Directory row": layout.DIRECTORY_ROW,
    "Entry": layout.ENTRY,
    "Buffer header": layout.BUFFER_HEADER,
    "Quote row": layout.QUOTE_ROW,
    "Series row": layout.SERIES_ROW,
}
Field = tuple[str, str, str]


def fields_of(record: np.dtype[np.void]) -> list[Field]:
    """Give a record's fields as the tables show them: offset, name, type."""
    assert record.fields is not None
    names = {"<u4": "u32", "<u8": "u64", "<i8": "i64", "<f8": "f64"}
    found = []
    for name, (form, offset, *_) in record.fields.items():
        if form == np.dtype((layout.KIND, (layout.MAX_KINDS,))):
            shown = f"{layout.MAX_KINDS} rows of {layout.KIND.itemsize} bytes"
        elif form.subdtype is not None:
            base, (count,) = form.subdtype
            shown = f"{count} x {names[base.str]}"
        else:
            shown = names.get(form.str, f"{form.itemsize} bytes")
        found.append((str(offset), name, shown))
    return found


BLOCK = [
    ("0", "time", "i64"),
    *(
        (f"{8 * (i + 1)} x rows", name, "f64")
        for i, name in enumerate(("open", "high", "low", "close", "volume"))
    ),
]
TABLES = {**{name: fields_of(record) for name, record in RECORDS.items()}, "Block": BLOCK}


def drawn() -> Iterator[tuple[str, list[Field]]]:
    """Read the tables at the top of layout.py."""
    assert layout.__doc__ is not None
    shape = r"^ +(\d+(?: x rows)?) +(\w+) +(\d+ bytes|\d x u64|\d rows of \d+ bytes|[uif]\d\d)\b"
    for part in re.split(r"\n(?=\w[^\n]*::\n)", layout.__doc__):
        title = re.match(r"[A-Z][a-z]+( kind| row| header)?", part)
        if title and (rows := re.findall(shape, part, re.MULTILINE)):
            yield title[0], rows


def documented() -> Iterator[tuple[str, list[Field]]]:
    """Read the tables of docs/layout.md."""
    for part in DOCS.read_text().split("\n### ")[1:]:
        title, body = part.split("\n", 1)
        shape = r"^\| (\d+(?: x rows)?) \| `(\w+)` \| ([^|]+?) \|"
        yield title, re.findall(shape, body, re.MULTILINE)


def test_the_drawing_in_the_code_is_the_code() -> None:
    """Offset by offset, field by field, type by type."""
    assert dict(drawn()) == TABLES


def test_the_tables_of_the_docs_are_the_code() -> None:
    """The same."""
    assert dict(documented()) == TABLES


def test_the_constants_of_the_docs_are_the_code() -> None:
    """Flags and states."""
    rows = re.findall(r"^\| `([A-Z_]+)(?:\[(\d)\])?` \| (\d+) \|", DOCS.read_text(), re.MULTILINE)
    assert len(rows) == 7
    for name, index, value in rows:
        found = getattr(layout, name)
        assert (found[int(index)] if index else found) == int(value)


@pytest.mark.parametrize("record", [*RECORDS.values()], ids=[*RECORDS])
def test_fields_are_aligned_and_do_not_overlap(record: np.dtype[np.void]) -> None:
    """Every number is one aligned access."""
    assert record.fields is not None
    end = 0
    for form, offset, *_ in record.fields.values():
        assert offset >= end
        number = form.base.itemsize if form.base.kind in "iuf" else 8
        assert offset % number == 0
        end = offset + form.itemsize
    assert end <= record.itemsize
    assert record.itemsize % 8 == 0


def test_the_epoch_is_alone_on_its_line() -> None:
    """So that no other store makes readers load it anew."""
    assert layout.SUPERBLOCK.fields is not None
    assert layout.EPOCH_OFFSET % 128 == 0
    for name, (form, offset, *_) in layout.SUPERBLOCK.fields.items():
        if name != "epoch":
            assert offset + form.itemsize <= 256 or offset >= 256 + 128


def test_the_struct_formats_are_the_fronts_of_their_rows() -> None:
    """The fast way to a row is the same row."""
    for form, record in (
        (layout.QUOTE_FORMAT, layout.QUOTE_ROW),
        (layout.SERIES_FORMAT, layout.SERIES_ROW),
    ):
        assert record.fields is not None
        letters = {"<u4": "I", "<u8": "Q", "<i8": "q", "<f8": "d"}
        whole = "<" + "".join(letters[field[0].str] for field in record.fields.values())
        assert whole.replace("II", "Q").startswith(form)  # a number and its check are one word


@pytest.mark.parametrize("tickers", [1, 31, 32, 33, 5000])
@pytest.mark.parametrize("capacities", [(1,), (2520,), (1, 7, 390, 100_000), (2,) * 8])
def test_tables_follow_each_other_on_whole_pages(tickers: int, capacities: Any) -> None:
    """Nothing overlaps, and the size is where the last one ends."""
    intervals = ("1d", "1m", "5m", "15m", "30m", "1h", "1wk", "1mo")
    kinds = [SeriesKind(i, c) for i, c in zip(intervals, capacities, strict=False)]
    g = Geometry.of(tickers, kinds)
    series_end = g.series_offset + len(kinds) * tickers * layout.ROW_NBYTES
    places = [
        (0, layout.PAGE),
        (g.directory_offset, tickers * 128),
        (g.entries_offset, len(kinds) * tickers * 32),
        *((offset, series_end) for offset in g.buffer_offsets),
        *((k.blocks_offset, 2 * tickers * k.block_nbytes) for k in g.kinds),
        (g.size, 0),
    ]
    for (offset, nbytes), (following, _) in itertools.pairwise(places):
        assert offset % layout.PAGE == 0
        assert offset + nbytes <= following < offset + nbytes + layout.PAGE
    for kind in g.kinds:
        assert kind.rows >= kind.kind.capacity + 64
        assert kind.block_nbytes >= kind.rows * layout.BAR_NBYTES


# -- golden bytes ----------------------------------------------------------------------------


def test_the_bytes_of_a_small_segment_are_pinned(tmp_path: Path) -> None:
    """After a script of commits, every one of them; see tests/shm/golden.py."""
    assert (
        golden.to_text(golden.make(tmp_path)).splitlines() == golden.VECTOR.read_text().splitlines()
    )


def test_the_pinned_bytes_are_all_of_the_segment(tmp_path: Path) -> None:
    """The text leaves out nothing but zeros, and knows the name of every word."""
    text = golden.VECTOR.read_text()
    assert golden.from_text(text) == golden.make(tmp_path)
    assert "nothing" not in text


@pytest.fixture
def pinned(tmp_path: Path) -> Path:
    """Give the pinned segment as a file."""
    path = tmp_path / "pinned"
    path.write_bytes(golden.from_text(golden.VECTOR.read_text()))
    return path


def check_pinned(reader: StockDataReader) -> None:
    """Read all that was published."""
    assert reader.snapshot_state.epoch == 16
    assert reader.list_tickers() == ["7203.T", "AAPL"]
    assert reader.get_quote("AAPL").price == 11.0
    assert np.isnan(reader.get_quote("7203.T").price)
    assert_bars(reader.get_stock("AAPL"), golden.whole_bars(0, 3, 86_400_000))
    assert reader.get_stock("7203.T", "1m")["Open"].tolist() == [70.0, 70.0]
    assert reader.panel("open", ["7203.T"])["7203.T"].tolist() == [50.0]


def test_a_reader_reads_the_pinned_bytes(pinned: Path) -> None:
    """Those of an earlier version of this package, then."""
    with StockDataReader(shm_name=pinned.name, shm_dir=pinned.parent) as reader:
        check_pinned(reader)
        assert reader.writer_status() == "dead"


def test_a_writer_carries_on_in_the_pinned_bytes(pinned: Path) -> None:
    """It adopts them, and what it publishes then is read."""
    spec = spec_in(
        pinned.parent,
        name=pinned.name,
        max_tickers=golden.MAX_TICKERS,
        kinds=golden.KINDS,
        source="files",
        adjustment="splits",
    )
    with mock.patch("quoteshm.shm.segment.boot_id", return_value=golden.BOOT):
        writer = SegmentWriter.open(spec, FixedClock())
    assert writer.adopted
    assert writer.instance == golden.INSTANCE.hex()
    with StockDataReader(shm_name=pinned.name, shm_dir=pinned.parent) as reader:
        check_pinned(reader)
        assert writer.enlist(golden.TICKERS).tolist() == [0, 1, 2]
    writer.close()


# -- the examples of the docs ----------------------------------------------------------------


def test_the_bytes_shown_in_the_docs_are_the_pinned_ones() -> None:
    """Line for line."""
    lines = golden.VECTOR.read_text().splitlines()
    shown = re.findall(r"^[0-9a-f]{6}: .*$", DOCS.read_text(), re.MULTILINE)
    assert len(shown) > 30
    assert [line for line in shown if line not in lines] == []


def example(language: str) -> str:
    """Take a program out of the docs."""
    found = re.search(rf"^```{language}\n(.*?)^```", DOCS.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def test_the_python_of_the_docs_reads_bars(make_market: MakeMarket) -> None:
    """With mmap and struct alone, in whichever block and wherever in it they are."""
    market, names = make_market([AAPL, IBM, SONY]), dict[str, Any]()
    exec(example("python"), names)  # noqa: S102  our own docs
    closed_bars = names["closed_bars"]
    for number in range(100):
        epoch = market.publish(ticks=[tick(slice(0, 3), number, float(number))])
        found, bars = closed_bars(market.path, "IBM")
        assert found == epoch
        assert [bar[1] for bar in bars] == [float(n) for n in range(max(0, number - 7), number)]
    market.replace_bars(2, make_bars(0, 4), interval="1m", forming=False)
    _, bars = closed_bars(market.path, "6758.T", kind=1)
    assert [list(bar[1:]) for bar in bars] == make_bars(0, 4).ohlcv.T.tolist()
    assert [bar[0] for bar in bars] == make_bars(0, 4).time.tolist()
    with pytest.raises(KeyError):
        closed_bars(market.path, "NOPE")


def test_the_c_of_the_docs_reads_a_quote(make_market: MakeMarket, tmp_path: Path) -> None:
    """Where there is a compiler; the example in Python shows the same where there is none."""
    compiler = shutil.which("cc")
    if compiler is None:
        return
    program, source = tmp_path / "quote", tmp_path / "quote.c"
    source.write_text(example("c"))
    flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-std=gnu11"]
    subprocess.run([compiler, *flags, "-o", str(program), str(source)], check=True)
    market = make_market([AAPL, IBM, SONY])
    epoch = market.publish(quotes=[make_quotes(at(1), 123.456)])

    def run(path: Path, symbol: str) -> tuple[int, str]:
        done = subprocess.run(
            [program, path, symbol], capture_output=True, text=True, check=False, timeout=10
        )
        return done.returncode, done.stdout

    assert run(market.path, "IBM") == (0, f"{epoch} 123.456\n")
    assert run(market.path, "NOPE") == (1, "")
    market.writer._map.cells[layout.EPOCH_WORD] += 1  # a writer that dies here
    assert run(market.path, "IBM") == (0, f"{epoch} 123.456\n")
    market.publish(removed=[1])
    assert run(market.path, "IBM") == (1, "")
    assert run(source, "IBM") == (3, "")
