"""A segment that is damaged: what is wrong is named, and a writer replaces it."""

from __future__ import annotations

import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

from quoteshm.errors import (
    CorruptSegmentError,
    ForeignFileError,
    HalfMadeError,
    LayoutMismatchError,
    QuoteShmError,
    TruncatedError,
)
from quoteshm.shm import layout, segment, table
from quoteshm.shm.batch import Batch
from tests.shm.conftest import MakeMarket
from tests.shm.helpers import AAPL, make_quotes, tick
from tests.shm.opening import Open, both, patch, read, read_all, refusal, write


@both
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"Q",
        b"QUOTESH",
        b"another program's file",
        b"x" * 4095,
        b"x" * 4096,
        b"\0" * 4096,
        b"\0" * 8192,
        b"MHSETOUQ" + bytes(5000),
    ],
    ids=["0", "1", "7", "text", "4095", "4096", "page of zeros", "zeros", "wrong magic"],
)
def test_another_programs_file_is_refused(opener: Open, content: bytes, tmp_path: Path) -> None:
    """What does not begin with our magic is not ours, however short."""
    path = tmp_path / "shm0"
    path.write_bytes(content)
    error = refusal(opener, path, ForeignFileError)
    assert isinstance(error, ForeignFileError)
    assert repr(content[:8]) in error.found
    assert "QUOTESHM" in error.expected


@both
def test_a_wrong_magic_is_refused(opener: Open, kept: Path) -> None:
    """A whole segment with one wrong byte in its magic is not ours."""
    patch(kept, 7, b"N")
    assert "QUOTESHN" in str(refusal(opener, kept, ForeignFileError))


@pytest.mark.parametrize("size", [8, 9, 4095, 4096, 4097, -1, -4096])
def test_a_truncated_segment_is_refused_by_a_reader(size: int, kept: Path) -> None:
    """Whatever is left of it: both lengths are named, and no page beyond the end is touched."""
    whole = kept.stat().st_size
    size = size if size > 0 else whole + size
    os.truncate(kept, size)
    error = refusal(read, kept, TruncatedError)
    assert isinstance(error, TruncatedError)
    assert error.found == size
    assert error.expected == (whole if size >= layout.PAGE else layout.PAGE)


@pytest.mark.parametrize("size", [8, 4095, 4096, -1])
def test_a_truncated_segment_is_replaced_by_a_writer(size: int, kept: Path) -> None:
    """It is ours and of no use: the writer begins anew, and says why."""
    size = size if size > 0 else kept.stat().st_size + size
    os.truncate(kept, size)
    writer = write(kept)
    assert isinstance(writer.refused, TruncatedError)
    assert not writer.adopted
    assert writer.tickers == ()
    assert read(kept).list_tickers() == []
    writer.close()


def test_a_segment_that_is_too_long_is_refused(kept: Path) -> None:
    """The length of the file is part of the layout."""
    with kept.open("ab") as file:
        file.write(b"x")
    refusal(read, kept, CorruptSegmentError)


@pytest.mark.parametrize("offset", [0, 24])
def test_a_segment_half_made_under_the_name_is_refused_and_replaced(
    offset: int, kept: Path
) -> None:
    """The state is stored last but one, and the magic last: without them nothing is believed."""
    patch(kept, offset, bytes(8))
    assert "half made" in str(refusal(read, kept, HalfMadeError))
    writer = write(kept)
    assert isinstance(writer.refused, HalfMadeError)
    assert read(kept).list_tickers() == []
    writer.close()


@pytest.mark.parametrize("version", [0, 2, 0xFFFFFFFF])
def test_another_layout_version_is_refused_by_a_reader(version: int, kept: Path) -> None:
    """Both versions are named."""
    patch(kept, 8, struct.pack("<I", version))
    error = refusal(read, kept, LayoutMismatchError)
    assert str(error) == f"layout version {version}, this reader knows {layout.LAYOUT_VERSION}"


def test_another_layout_version_is_replaced_by_a_writer(kept: Path) -> None:
    """It is ours; what is in it cannot be told."""
    patch(kept, 8, struct.pack("<I", 7))
    writer = write(kept)
    assert isinstance(writer.refused, LayoutMismatchError)
    assert writer.refused.found == 7
    writer.close()


@pytest.mark.parametrize("opener", [read])
def test_an_epoch_that_no_writer_reaches_is_damage(opener: Open, kept: Path) -> None:
    """So that a torn or negative epoch is never taken for one."""
    patch(kept, layout.EPOCH_OFFSET, struct.pack("<Q", layout.MAX_EPOCH + 2))
    assert "epoch is" in str(refusal(opener, kept, CorruptSegmentError))


def test_an_epoch_that_runs_away_under_a_reader_is_damage(make_market: MakeMarket) -> None:
    """Also after the reader has attached."""
    market = make_market([AAPL])
    reader = market.reader()
    market.writer._map.cells[layout.EPOCH_WORD] = 1 << 63
    with pytest.raises(CorruptSegmentError, match="epoch"):
        reader.snapshot()


#: What changes in a life, and has no check.
LIVELY = frozenset({"writer_pid", "last_update_ms", "heartbeat_boot_ms", "heartbeat_ms"})


def fields_of(record: np.dtype[np.void]) -> list[tuple[str, int, int]]:
    """Give each field's name, offset and size."""
    assert record.fields is not None
    return [(name, offset, form.itemsize) for name, (form, offset, *_) in record.fields.items()]


@pytest.mark.parametrize(("field", "offset", "nbytes"), fields_of(layout.SUPERBLOCK))
def test_damage_anywhere_in_the_superblock_is_named(
    field: str, offset: int, nbytes: int, kept: Path
) -> None:
    """Every byte of every field, three ways; what changes in a life may be anything."""
    good = kept.read_bytes()[: layout.PAGE]
    tried = refused = 0
    for byte in range(offset, offset + min(nbytes, 2 * layout.KIND.itemsize)):
        for flip in (0x01, 0x80, 0xFF):
            patch(kept, byte, bytes([good[byte] ^ flip]))
            tried += 1
            try:
                with read(kept) as reader:
                    read_all(reader)
            except QuoteShmError:
                refused += 1
            patch(kept, byte, good[byte : byte + 1])
    if field == "epoch":  # within bounds it is one that may be
        assert 0 < refused < tried
    else:
        assert refused == (0 if field in LIVELY else tried)


@pytest.mark.parametrize(("field", "offset", "nbytes"), fields_of(layout.SUPERBLOCK))
def test_a_writer_survives_damage_anywhere_in_the_superblock(
    field: str, offset: int, nbytes: int, kept: Path
) -> None:
    """It refuses, replaces or adopts; what is published afterwards can be read."""
    good = kept.parent / "good"
    shutil.copyfile(kept, good)
    content = good.read_bytes()[: layout.PAGE]
    for byte in {offset, offset + nbytes - 1}:
        for flip in (0x01, 0x80):
            kept.unlink(missing_ok=True)
            shutil.copyfile(good, kept)
            patch(kept, byte, bytes([content[byte] ^ flip]))
            try:
                writer = write(kept)
            except (ForeignFileError, HalfMadeError):
                assert field in {"magic", "state"}
                continue
            rows = writer.enlist([AAPL])
            writer.write_data(Batch(1, [tick(rows, 20, 7.0)], quotes=[make_quotes(rows, 8.0)]))
            with read(kept) as reader:
                assert reader.get_quote("AAPL").price == 8.0
                assert reader.get_stock("AAPL")["Open"].iloc[-1] == 7.0
            writer.close()


SERIES_DAMAGE = [
    ("start", 1),
    ("count", 2),
    ("rewrites", 3),
    ("start", 1 << 63),
    ("start", 1 << 62),
    ("start", 73),
    ("count", 1 << 63),
    ("count", 73),
    ("count", 0xFFFF_FFFF_FFFF_FFFF),
    ("flags", 0),
    ("flags", layout.HAS_FORMING),
    ("flags", layout.BACKED[0]),
]


def damage_series(path: Path, row: int, field: str, value: int) -> None:
    """Damage a row of the stable series table of the first kind."""
    mapped, fd = segment.attach(path)
    os.close(fd)
    offset = mapped.series_offset(mapped.epoch >> 1 & 1, 0, row)
    patch(path, offset + 8 * layout.word(layout.SERIES_ROW, field), struct.pack("<Q", value))


@pytest.mark.parametrize(("field", "value"), SERIES_DAMAGE)
def test_a_series_row_that_cannot_be_is_named_and_no_block_is_touched(
    field: str, value: int, kept: Path
) -> None:
    """Touching an unbacked block would allocate it: the file's blocks on disk stay the same."""
    damage_series(kept, 0, field, value)
    blocks = kept.stat().st_blocks
    with read(kept) as reader:
        for load in (
            lambda: reader.get_stock("AAPL"),
            lambda: reader.get_stock("AAPL", last=1, since=0),
            lambda: reader.view("AAPL"),
            lambda: reader.panel("close"),
            lambda: reader.panel("close", last=3),
            lambda: reader["AAPL"]["data"],
        ):
            with pytest.raises(CorruptSegmentError):
                load()
        assert reader.get_quote("AAPL").price == 100.0  # that row is well
        assert len(reader.get_stock("IBM")) == 2
    assert kept.stat().st_blocks == blocks


def test_a_sum_that_overflows_is_named(kept: Path) -> None:
    """A start and a count whose sum is small again are both too large."""
    damage_series(kept, 0, "start", 1 << 63)
    damage_series(kept, 0, "count", 1 << 63)
    with read(kept) as reader, pytest.raises(CorruptSegmentError):
        reader.panel("close")


@pytest.mark.parametrize(("field", "value"), SERIES_DAMAGE)
def test_a_writer_replaces_a_segment_with_a_bad_series_row(
    field: str, value: int, kept: Path
) -> None:
    """Readers of the old one follow by themselves, and their epochs never go back."""
    damage_series(kept, 0, field, value)
    reader = read(kept)
    before = reader.snapshot_state.epoch
    writer = write(kept)
    assert isinstance(writer.refused, CorruptSegmentError)
    assert not writer.adopted
    assert reader.list_tickers() == []
    assert reader.info.instance == writer.instance
    rows = writer.enlist([AAPL])
    assert writer.write_data(Batch(1, [tick(rows, 0, 1.0)])) > before
    writer.close()


def test_a_bad_count_of_tickers_is_named(kept: Path) -> None:
    """It says how many rows are read at all."""
    mapped, fd = segment.attach(kept)
    os.close(fd)
    for offset in mapped.geometry.buffer_offsets:
        patch(kept, offset, struct.pack("<Q", layout.checked_word(5)))
    with read(kept) as reader:
        for load in (reader.snapshot, lambda: reader.get_quote("X"), lambda: reader.panel("open")):
            with pytest.raises(CorruptSegmentError, match=r"ticker_count is 5, expected <= 4"):
                load()
    writer = write(kept)
    assert isinstance(writer.refused, CorruptSegmentError)
    writer.close()


@pytest.mark.parametrize("word", [0, 1, layout.checked_word(2) ^ 1, 1 << 63])
def test_a_damaged_count_of_tickers_is_named(word: int, kept: Path) -> None:
    """Fewer would be tickers that are silently gone; none is told by a word of its own."""
    mapped, fd = segment.attach(kept)
    os.close(fd)
    for offset in mapped.geometry.buffer_offsets:
        patch(kept, offset, struct.pack("<Q", word))
    with read(kept) as reader:
        for load in (reader.list_tickers, lambda: reader.get_quote("AAPL"), lambda: reader.info):
            with pytest.raises(CorruptSegmentError, match=r"ticker_count is 0x.* complements"):
                load()
    writer = write(kept)
    assert isinstance(writer.refused, CorruptSegmentError)
    writer.close()


@pytest.mark.parametrize("word", [0, 1, layout.PRESENT_WORD ^ 2, layout.PRESENT | layout.REMOVED])
def test_damaged_flags_of_a_quote_are_named(word: int, kept: Path) -> None:
    """A published ticker does not silently go."""
    mapped, fd = segment.attach(kept)
    os.close(fd)
    patch(kept, mapped.quote_offset(mapped.epoch >> 1 & 1, 0), struct.pack("<Q", word))
    with read(kept) as reader:
        for load in (
            reader.list_tickers,
            lambda: reader.get_quote("AAPL"),
            lambda: reader.get_stock("AAPL"),
            lambda: reader.panel("close"),
        ):
            with pytest.raises(CorruptSegmentError, match="quote flags"):
                load()
        assert reader.get_quote("IBM").price == 5.0  # that row is well
    writer = write(kept)
    assert isinstance(writer.refused, CorruptSegmentError)
    writer.close()


def test_a_segment_near_the_end_of_epochs_is_replaced(kept: Path) -> None:
    """A writer that went on in it would come to epochs that its readers take for damage."""
    patch(kept, layout.EPOCH_OFFSET, struct.pack("<Q", layout.MAX_EPOCH - 2))
    writer = write(kept)
    assert isinstance(writer.refused, CorruptSegmentError)
    assert "epoch is" in str(writer.refused)
    assert writer.epoch == 0
    writer.close()


@pytest.mark.parametrize(("more", "is_adopted"), [(0, True), (1, True), (2, False)])
def test_a_series_with_more_rewrites_begun_than_a_death_leaves_is_replaced(
    more: int, kept: Path, *, is_adopted: bool
) -> None:
    """Its readers would take its bars for overwritten, again and again."""
    mapped, fd = segment.attach(kept)
    os.close(fd)
    offset = 8 * (mapped.entry_word(0, 0) + table.BEGUN)
    (begun,) = struct.unpack_from("<Q", kept.read_bytes(), offset)
    patch(kept, offset, struct.pack("<Q", begun + more))
    writer = write(kept)
    assert writer.adopted is is_adopted
    writer.close()


@pytest.mark.parametrize(("field", "offset", "nbytes"), fields_of(layout.DIRECTORY_ROW))
@pytest.mark.parametrize("damage", [b"\xff\xfe", b"\0\0", b"Fo", b"IB"])
def test_damage_in_the_directory_is_named(
    damage: bytes, field: str, offset: int, nbytes: int, kept: Path
) -> None:
    """Symbols that are no text, empty, twice there, or another's; zones that nobody knows."""
    mapped, fd = segment.attach(kept)
    os.close(fd)
    patch(kept, mapped.geometry.directory_offset + offset, damage)
    with read(kept) as reader, pytest.raises(CorruptSegmentError, match="check of directory row 0"):
        read_all(reader)
    writer = write(kept)
    assert isinstance(writer.refused, CorruptSegmentError)
    writer.close()
