"""The segment as a file: what can be wrong with it, and that nothing of it is touched then."""

from __future__ import annotations

import errno
import fcntl
import gc
import itertools
import mmap
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quoteshm.errors import (
    CorruptSegmentError,
    ForeignFileError,
    HalfMadeError,
    LayoutMismatchError,
    QuoteShmError,
    SegmentError,
    SegmentFullError,
    SegmentNotFoundError,
    TruncatedError,
    WriterRunningError,
)
from quoteshm.model import SeriesKind, Ticker
from quoteshm.shm import layout, segment, table
from quoteshm.shm.batch import Batch
from quoteshm.shm.reader import StockDataReader
from quoteshm.shm.segment import WriterLock
from quoteshm.shm.writer import SegmentWriter
from tests.shm.conftest import MakeMarket
from tests.shm.helpers import (
    AAPL,
    IBM,
    SONY,
    FixedClock,
    Market,
    at,
    file_image,
    make_bars,
    make_quotes,
    spec_in,
    tick,
)
from tests.small_disk import NoMountError
from tests.small_disk import small_disk as small

NOBODY = 65534
NULL_DEVICE = Path(os.devnull)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be another user")

Open = Callable[[Path], object]


def read(path: Path) -> StockDataReader:
    """Attach as a reader does."""
    return StockDataReader(shm_name=path.name, shm_dir=path.parent, timeout_s=0.02)


def write(path: Path) -> SegmentWriter:
    """Open as a writer does."""
    return SegmentWriter.open(spec_in(path.parent, name=path.name), FixedClock())


both = pytest.mark.parametrize("opener", [read, write])


@pytest.fixture
def kept(make_market: MakeMarket) -> Path:
    """Leave a good segment, with history in it, behind a writer that has died."""
    market = make_market([AAPL, IBM, SONY])
    market.replace_bars(0, make_bars(0, 8))
    market.publish(ticks=[tick(slice(0, 3), 9, 50.0)])
    market.publish(ticks=[tick(slice(0, 3), 10, 51.0)], quotes=[make_quotes(at(1), 5.0)])
    market.die()
    return market.path


def patch(path: Path, offset: int, data: bytes) -> None:
    """Overwrite bytes of a file."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def refusal(opener: Open, path: Path, kind: type[SegmentError]) -> SegmentError:
    """Open a bad file; see that it is refused with a typed error, quickly, and left alone."""
    before = file_image(path) if path.is_file() and not path.is_symlink() else None
    status = path.lstat()
    began = time.monotonic()
    with pytest.raises(kind) as caught:
        opener(path)
    assert time.monotonic() - began < 1
    assert type(caught.value) is kind
    if before is not None:
        assert file_image(path) == before
    after = path.lstat()
    assert (after.st_ino, after.st_mode, after.st_uid, after.st_size, after.st_mtime_ns) == (
        status.st_ino, status.st_mode, status.st_uid, status.st_size, status.st_mtime_ns,
    )  # fmt: skip
    assert not segment.temporary_path(path).exists()
    return caught.value


# -- what is not ours ------------------------------------------------------------------------


def test_a_missing_segment_is_named(tmp_path: Path) -> None:
    """The reader says which file is missing."""
    with pytest.raises(SegmentNotFoundError, match=r"nothing-here"):
        read(tmp_path / "nothing-here")


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


@both
def test_a_symbolic_link_is_not_followed(opener: Open, kept: Path) -> None:
    """Not even to a good segment."""
    path = kept.with_name("link")
    path.symlink_to(kept)
    before = file_image(kept)
    error = refusal(opener, path, ForeignFileError)
    assert "found a symbolic link, expected a regular file" in str(error)
    assert file_image(kept) == before


@both
def test_a_dangling_link_is_not_followed(opener: Open, tmp_path: Path) -> None:
    """Its target is not made either."""
    path, target = tmp_path / "link", tmp_path / "target"
    path.symlink_to(target)
    refusal(opener, path, ForeignFileError)
    assert not target.exists()


@both
def test_a_fifo_is_refused_at_once(opener: Open, tmp_path: Path) -> None:
    """Opening a FIFO waits for the other side, unless told not to."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    assert "a FIFO" in str(refusal(opener, path, ForeignFileError))


@both
def test_a_directory_is_refused(opener: Open, tmp_path: Path) -> None:
    """A folder is no segment."""
    path = tmp_path / "folder"
    path.mkdir()
    assert "a directory" in str(refusal(opener, path, ForeignFileError))


@both
def test_a_socket_is_refused(opener: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket cannot even be opened."""
    monkeypatch.chdir(tmp_path)  # addresses of sockets are short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        assert "a socket" in str(refusal(opener, tmp_path / "socket", ForeignFileError))


@needs_root
@both
def test_a_device_is_refused(opener: Open, tmp_path: Path) -> None:
    """A device is no segment."""
    path = tmp_path / "device"
    try:
        os.mknod(path, 0o20600, NULL_DEVICE.stat().st_rdev)
        os.close(os.open(path, os.O_RDWR))
    except PermissionError:
        pytest.skip("devices cannot be made or opened here")
    assert "a device" in str(refusal(opener, path, ForeignFileError))


@needs_root
def test_another_users_segment_is_refused_by_a_writer(kept: Path) -> None:
    """A whole segment of another user is read, but never written."""
    os.chown(kept, NOBODY, NOBODY)
    error = refusal(write, kept, ForeignFileError)
    assert f"found a file of user {NOBODY}, expected one of user {os.geteuid()}" in str(error)
    assert read(kept).list_tickers() == ["6758.T", "AAPL", "IBM"]


# -- what is ours, and damaged ---------------------------------------------------------------


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


def read_all(reader: StockDataReader) -> None:
    """Call all that reads."""
    state = reader.snapshot_state
    assert reader.info.max_tickers >= len(reader.snapshot().quotes)
    reader.snapshot().to_frame()
    for ticker in reader.list_tickers():
        reader.get_quote(ticker)
        for interval in reader.intervals:
            reader.get_stock(ticker, interval)
            assert reader.view(ticker, interval).frame is not None
        assert len(reader[ticker]["header"]) == 4
    for interval in reader.intervals:
        reader.panel("close", interval=interval)
        reader.panel("close", interval=interval, last=2)
    reader.wait(state.epoch, 0)
    assert reader.writer_status() in {"live", "hung", "dead", "closed"}


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


def test_a_file_too_large_to_map_is_a_typed_error(kept: Path) -> None:
    """A header may be consistent and yet ask for more than the machine can map.

    A tmpfs gives sparse files of any size, so this one stands in the real one.
    """
    kinds = [SeriesKind("1d", 1 << 32)]
    geometry = layout.Geometry.of(1 << 20, kinds)
    block = np.frombuffer(bytearray(kept.read_bytes()[:4096]), layout.SUPERBLOCK, 1)[0]
    for name in ("max_tickers", "directory_offset", "entries_offset", "buffer_offsets", "size"):
        block[name] = getattr(geometry, name)
    block["quotes_offset"], block["series_offset"] = geometry.quotes_offset, geometry.series_offset
    block["kind_count"] = 1
    block["kinds"][0] = (
        b"1d", 1 << 32, geometry.kinds[0].rows, geometry.kinds[0].blocks_offset,
        geometry.kinds[0].block_nbytes,
    )  # fmt: skip
    block["check"] = layout.superblock_check(block.tobytes())
    with tempfile.TemporaryDirectory(dir=segment.DEFAULT_DIRECTORY) as folder:
        path = Path(folder) / "huge"
        path.write_bytes(block.tobytes())
        os.truncate(path, geometry.size)
        with pytest.raises(SegmentError, match="Cannot allocate memory"):
            read(path)


# -- making one ------------------------------------------------------------------------------


def refuse(patch: pytest.MonkeyPatch, module: object, name: str, nth: int, error: int) -> None:
    """Let the nth call of a function fail."""
    real, calls = getattr(module, name), itertools.count(1)

    def call(*values: Any, **named: Any) -> Any:
        if next(calls) == nth:
            raise OSError(error, os.strerror(error))
        return real(*values, **named)

    patch.setattr(module, name, call)


def open_files(folder: Path) -> list[str]:
    """Name the files of a folder that this process has open."""
    gc.collect()
    found = []
    for path in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found.append(str(path.readlink()))
    return [name for name in found if name.startswith(str(folder))]


@pytest.mark.parametrize(
    ("module", "name", "nth"),
    [
        (os, "fstat", 1),  # of the lock
        (fcntl, "fcntl", 1),  # its
        (os, "ftruncate", 2),  # the first one is of the lock
        (os, "posix_fallocate", 1),
        (mmap, "mmap", 1),
        (os, "fstat", 2),  # of the second descriptor
        (os, "fstat", 3),
        (os, "fchmod", 1),
        (Path, "rename", 1),
    ],
)
def test_a_call_that_fails_while_a_segment_is_made_is_an_error_of_ours(
    module: object, name: str, nth: int, tmp_path: Path
) -> None:
    """It leaves no file and no descriptor, and the lock is free again."""
    with pytest.MonkeyPatch.context() as patch:
        refuse(patch, module, name, nth, errno.EIO)
        with pytest.raises(SegmentError, match=os.strerror(errno.EIO)):
            write(tmp_path / "shm0")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shm0.lock"]
    assert open_files(tmp_path) == []
    write(tmp_path / "shm0").close()


@pytest.mark.parametrize(
    ("name", "nth"), [("fstat", 2), ("fstat", 3), ("pread", 2), ("fstat", 5), ("fchmod", 1)]
)
def test_a_call_that_fails_while_a_segment_is_adopted_leaves_it(
    name: str, nth: int, kept: Path
) -> None:
    """For the next one, who finds the lock free."""
    before = open_files(kept.parent)
    with pytest.MonkeyPatch.context() as patch:
        refuse(patch, os, name, nth, errno.EMFILE)
        with pytest.raises(SegmentError, match=os.strerror(errno.EMFILE)):
            write(kept)
    assert open_files(kept.parent) == before
    again = write(kept)
    assert again.adopted
    again.close()


@pytest.mark.parametrize(
    ("module", "name"), [(os, "posix_fallocate"), (mmap, "mmap"), (Path, "rename")]
)
def test_a_segment_that_cannot_grow_goes_on_as_it_is(
    module: object, name: str, make_market: MakeMarket, tmp_path: Path
) -> None:
    """With the new tickers as soon as it can."""
    market = make_market([AAPL], max_tickers=1)
    with pytest.MonkeyPatch.context() as patch:
        refuse(patch, module, name, 1, errno.EIO)
        with pytest.raises(SegmentError, match=os.strerror(errno.EIO)):
            market.writer.enlist([IBM])
    assert not (tmp_path / "shm0.new").exists()
    assert market.reader().list_tickers() == ["AAPL"]
    market.add(IBM)
    assert market.reader().list_tickers() == ["AAPL", "IBM"]


def test_memory_that_is_refused_for_another_reason_than_a_full_disk_is_an_error_of_ours(
    make_market: MakeMarket,
) -> None:
    """And a disk that does not tell how much is free is full all the same."""
    market = make_market([AAPL])
    with pytest.MonkeyPatch.context() as patch:
        refuse(patch, os, "posix_fallocate", 1, errno.EIO)
        with pytest.raises(SegmentError, match=os.strerror(errno.EIO)):
            market.replace_bars(0, make_bars(0, 3))
        refuse(patch, os, "posix_fallocate", 1, errno.ENOSPC)
        refuse(patch, os, "fstatvfs", 1, errno.EIO)
        with pytest.raises(SegmentFullError):
            market.replace_bars(0, make_bars(0, 3))
    market.replace_bars(0, make_bars(0, 3))
    assert len(market.reader().get_stock("AAPL")) == 3


def test_a_name_that_cannot_be_taken_away_is_told_after_all_else_is_done(kept: Path) -> None:
    """The segment is closed, and the lock free."""
    before = open_files(kept.parent)
    writer = write(kept)
    with pytest.MonkeyPatch.context() as patch:
        refuse(patch, Path, "unlink", 1, errno.EACCES)
        with pytest.raises(SegmentError, match=os.strerror(errno.EACCES)):
            writer.close()
    del writer
    assert open_files(kept.parent) == before
    with read(kept) as reader:
        assert reader.writer_status() == "closed"
    write(kept).close()


def test_a_lock_that_the_system_refuses_is_no_bar_to_a_heartbeat(
    make_market: MakeMarket,
) -> None:
    """It is for readers to see; they see the heartbeat."""
    market = make_market([AAPL])
    reader = market.reader()
    with pytest.MonkeyPatch.context() as patch:
        refuse(patch, fcntl, "fcntl", 1, errno.ENOLCK)
        market.writer.heartbeat()
        refuse(patch, fcntl, "fcntl", 1, errno.EIO)
        assert reader.writer_status() == "live"


def test_a_reader_that_cannot_be_attached_leaves_no_descriptor(kept: Path) -> None:
    """Whatever fails."""
    before = open_files(kept.parent)
    for name in ("fstat", "pread"):
        with pytest.MonkeyPatch.context() as patch:
            refuse(patch, os, name, 1, errno.EIO)
            with pytest.raises(SegmentError, match=os.strerror(errno.EIO)):
                read(kept)
    assert open_files(kept.parent) == before


def test_a_leftover_of_a_writer_that_died_is_reclaimed(tmp_path: Path) -> None:
    """A file under the temporary name is taken away."""
    leftover = tmp_path / "shm0.new"
    leftover.write_bytes(b"half of something")
    writer = write(tmp_path / "shm0")
    assert not leftover.exists()
    assert writer.path is not None
    assert writer.path.exists()
    writer.close()


def test_a_leftover_does_not_stay_beside_an_adopted_segment(kept: Path) -> None:
    """What a writer left that died while it made a larger one is memory nobody uses."""
    leftover = kept.with_name(kept.name + ".new")
    leftover.write_bytes(b"half of something")
    writer = write(kept)
    assert writer.adopted
    assert not leftover.exists()
    writer.close(unlink=False)

    leftover.symlink_to(kept)
    writer = write(kept)
    assert leftover.is_symlink()
    writer.close()


def test_a_leftover_that_is_a_link_is_refused(tmp_path: Path) -> None:
    """A link under the temporary name is a trap, and its target is not touched."""
    target = tmp_path / "target"
    target.write_text("precious")
    (tmp_path / "shm0.new").symlink_to(target)
    with pytest.raises(ForeignFileError, match="a symbolic link"):
        write(tmp_path / "shm0")
    assert target.read_text() == "precious"
    assert (tmp_path / "shm0.new").is_symlink()


@needs_root
def test_a_leftover_of_another_user_is_refused(tmp_path: Path) -> None:
    """It stays, and the writer says whose it is."""
    leftover = tmp_path / "shm0.new"
    leftover.write_text("precious")
    os.chown(leftover, NOBODY, NOBODY)
    with pytest.raises(ForeignFileError, match=f"user {NOBODY}"):
        write(tmp_path / "shm0")
    assert leftover.read_text() == "precious"


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    """Before anything is made."""
    with pytest.raises(SegmentError, match="no such folder"):
        write(tmp_path / "nowhere" / "shm0")


def test_a_name_that_is_too_long_is_a_typed_error(tmp_path: Path) -> None:
    """The file system says so, and we pass it on."""
    with pytest.raises(SegmentError, match="too long"):
        write(tmp_path / ("n" * 300))


def test_a_name_that_no_file_can_have_is_a_typed_error(tmp_path: Path) -> None:
    """A NUL would end it."""
    with pytest.raises(SegmentError, match="NUL"):
        read(tmp_path / "shm\0zero")


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644])
def test_the_mode_is_what_was_asked_for(mode: int, tmp_path: Path) -> None:
    """Whatever the umask is; also when a segment is adopted."""
    old = os.umask(0o077)
    try:
        spec = spec_in(tmp_path, mode=mode)
        SegmentWriter.open(spec, FixedClock()).close(unlink=False)
        assert spec.path.stat().st_mode & 0o777 == mode
        writer = SegmentWriter.open(replace(spec, mode=0o604), FixedClock())
        assert writer.adopted
        assert spec.path.stat().st_mode & 0o777 == 0o604
        writer.close()
    finally:
        os.umask(old)


def test_the_lock_file_is_for_the_writer_alone(tmp_path: Path) -> None:
    """Readers cannot open it, so they cannot lock it; it says the pid and outlives the writer."""
    writer = write(tmp_path / "shm0")
    lock = tmp_path / "shm0.lock"
    assert lock.stat().st_mode & 0o777 == 0o600
    assert lock.read_text() == f"{os.getpid()}\n"
    writer.close()
    assert lock.exists()


def test_an_unknown_group_is_a_typed_error_and_leaves_nothing(tmp_path: Path) -> None:
    """The half-made file goes away, and the lock falls."""
    spec = spec_in(tmp_path, group="no-such-group-here")
    with pytest.raises(SegmentError, match="no group named"):
        SegmentWriter.open(spec, FixedClock())
    assert [path.name for path in tmp_path.iterdir()] == ["shm0.lock"]
    WriterLock(spec.path).release()


@needs_root
def test_the_group_is_what_was_asked_for(tmp_path: Path) -> None:
    """So that readers need not be the writer's user."""
    writer = SegmentWriter.open(spec_in(tmp_path, group="daemon"), FixedClock())
    assert writer.path is not None
    assert writer.path.group() == "daemon"
    writer.close()


# -- locks -----------------------------------------------------------------------------------


def test_a_second_writer_is_refused_and_told_who_writes(tmp_path: Path) -> None:
    """Before it looks at the segment."""
    writer = write(tmp_path / "shm0")
    before = file_image(tmp_path / "shm0")
    with pytest.raises(WriterRunningError) as caught:
        write(tmp_path / "shm0")
    assert caught.value.pid == os.getpid()
    assert file_image(tmp_path / "shm0") == before
    writer.close()


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda path: path.mkdir(), "a directory"),
        (lambda path: path.symlink_to(path.with_name("elsewhere")), "a symbolic link"),
        (os.mkfifo, "a FIFO"),
    ],
)
def test_what_stands_in_the_locks_place_is_named(
    make: Callable[[Path], object], what: str, tmp_path: Path
) -> None:
    """And nothing is made behind its back."""
    make(tmp_path / "shm0.lock")
    with pytest.raises(ForeignFileError, match=what):
        write(tmp_path / "shm0")
    assert not (tmp_path / "shm0").exists()
    assert not (tmp_path / "elsewhere").exists()


@needs_root
def test_another_users_lock_is_refused(tmp_path: Path) -> None:
    """Somebody else could hold it for ever."""
    lock = tmp_path / "shm0.lock"
    lock.touch()
    os.chown(lock, NOBODY, NOBODY)
    with pytest.raises(ForeignFileError, match=f"a regular file of user {NOBODY}"):
        write(tmp_path / "shm0")


def test_a_lock_with_nonsense_in_it_is_taken(tmp_path: Path) -> None:
    """What it says matters only while it is held."""
    (tmp_path / "shm0.lock").write_text("not a pid, and longer than thirty-two bytes of text")
    writer = write(tmp_path / "shm0")
    assert (tmp_path / "shm0.lock").read_text() == f"{os.getpid()}\n"
    writer.close()


@pytest.mark.parametrize(
    ("left", "begins"),
    [("7\n40\n", 42), ("7\n41\n", 42), ("7\n-4\n", 0), ("7\nx\n", 0), (f"7\n{1 << 63}\n", 0)],
)
def test_epochs_go_on_from_the_one_that_was_left(tmp_path: Path, left: str, begins: int) -> None:
    """Only from one that can be: even, and with room above it."""
    (tmp_path / "shm0.lock").write_text(left)
    writer = write(tmp_path / "shm0")
    assert writer.epoch == begins
    writer.close()


def test_a_pid_of_nobody_in_a_lock_that_is_held_is_looked_at_again(tmp_path: Path) -> None:
    """Its holder has just taken it, and the file still tells of the one before."""
    writer, lock = write(tmp_path / "shm0"), tmp_path / "shm0.lock"
    gone = subprocess.Popen(["true"])
    gone.wait()
    lock.write_text(f"{gone.pid}\n")
    signing = threading.Timer(0.01, lock.write_text, (f"{os.getpid()}\n",))
    signing.start()
    with pytest.raises(WriterRunningError) as caught:
        write(tmp_path / "shm0")
    assert caught.value.pid == os.getpid()
    signing.join()
    writer.close()


def test_a_reader_who_locks_the_segment_does_not_stop_the_writer(make_market: MakeMarket) -> None:
    """A read-only descriptor can hold a read lock; a new writer goes on without its own."""
    market = make_market([AAPL])
    market.die()
    script = (
        "import fcntl, os, struct, sys\n"
        "fd = os.open(sys.argv[1], os.O_RDONLY)\n"
        "lock = struct.pack('hhqqi4x', fcntl.F_RDLCK, 0, 0, 0, 0)\n"
        "fcntl.fcntl(fd, fcntl.F_OFD_SETLK, lock)\n"
        "print('locked', flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script, str(market.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"locked\n"
        market.writer = SegmentWriter.open(market.spec, market.clock)
        market.publish(ticks=[tick(at(0), 0, 5.0)])
        child.communicate()
    market.writer.heartbeat()
    assert market.reader().writer_status() == "live"


# -- a full file system ----------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Generator[Path]:
    """Mount a tmpfs of one megabyte."""
    try:
        with small(tmp_path / "full") as place:
            yield place
    except NoMountError as error:
        pytest.skip(str(error))


def test_a_segment_that_finds_no_room_leaves_nothing(small_disk: Path) -> None:
    """Its tables are backed before anything is stored, so there is no SIGBUS."""
    spec = spec_in(small_disk, max_tickers=5000)
    with pytest.raises(SegmentFullError) as caught:
        SegmentWriter.open(spec, FixedClock())
    assert caught.value.needed > 1 << 20 >= caught.value.free
    assert [path.name for path in small_disk.iterdir()] == ["shm0.lock"]


def test_a_disk_too_full_for_a_pid_is_no_bar_to_a_lock(small_disk: Path) -> None:
    """What is full is told by the segment's own error."""
    with (small_disk / "hog").open("wb", buffering=0) as hog, suppress(OSError):
        while hog.write(bytes(4096)):
            pass
    with pytest.raises(SegmentFullError):
        SegmentWriter.open(spec_in(small_disk), FixedClock())


def fill_blocks(market: Market, rows: Iterator[int]) -> None:
    """Publish a long history for each row."""
    for row in rows:
        market.replace_bars(row, make_bars(0, 2000))


def test_a_writer_on_a_full_disk_goes_on_with_what_it_had(
    small_disk: Path, make_market: MakeMarket
) -> None:
    """A block that finds no room fails its batch alone; readers are fine, and so are old blocks."""
    kinds = (SeriesKind("1d", 2000),)
    names = [Ticker(f"T{i}") for i in range(20)]
    market = make_market(names, small_disk, max_tickers=20, kinds=kinds)
    reader = market.reader()
    room = iter(range(20))
    with pytest.raises(SegmentFullError):
        fill_blocks(market, room)
    stored = next(room) - 1
    assert 0 < stored < 20
    market.publish(ticks=[tick(slice(0, 20), 5000, 1.0)])  # forming bars need no block
    before = file_image(market.path)
    with pytest.raises(SegmentFullError):
        market.publish(
            ticks=[tick(slice(0, 20), 5001, 1.0)], quotes=[make_quotes(slice(0, 20), 9.0)]
        )
    assert file_image(market.path) == before
    for row in range(stored):
        assert len(reader.get_stock(f"T{row}")) == 2000
    assert len(reader.get_stock("T19")) == 1
    epoch = market.publish(ticks=[tick(slice(0, stored), 5002, 2.0)])
    assert reader.snapshot_state.epoch == epoch
    assert len(reader.panel("close", last=3)) == 3
    with pytest.raises(SegmentFullError):
        market.writer.enlist([Ticker(f"U{i}") for i in range(3000)])
    assert not segment.temporary_path(market.path).exists()
    market.publish(ticks=[tick(slice(0, stored), 5003, 3.0)])
    assert reader.get_stock("T0")["Open"].iloc[-1] == 3.0
    read_all(reader)
