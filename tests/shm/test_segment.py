"""The segment as a file: how it is made, adopted and taken away, and what may fail then."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from quoteshm.errors import ForeignFileError, SegmentError, SegmentFullError
from quoteshm.model import SeriesKind, Ticker
from quoteshm.shm import layout, segment
from quoteshm.shm.lock import WriterLock
from quoteshm.shm.writer import SegmentWriter
from tests.shm.conftest import MakeMarket
from tests.shm.helpers import (
    AAPL,
    IBM,
    FixedClock,
    Market,
    file_image,
    make_bars,
    make_quotes,
    spec_in,
    tick,
)
from tests.shm.opening import NOBODY, needs_root, open_files, read, read_all, refusal, refuse, write


@needs_root
def test_another_users_segment_is_refused_by_a_writer(kept: Path) -> None:
    """A whole segment of another user is read, but never written."""
    os.chown(kept, NOBODY, NOBODY)
    error = refusal(write, kept, ForeignFileError)
    assert f"found a file of user {NOBODY}, expected one of user {os.geteuid()}" in str(error)
    assert read(kept).list_tickers() == ["6758.T", "AAPL", "IBM"]


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


# -- a full file system ----------------------------------------------------------------------


def test_a_segment_that_finds_no_room_leaves_nothing(small_disk: Path) -> None:
    """Its tables are backed before anything is stored, so there is no SIGBUS."""
    spec = spec_in(small_disk, max_tickers=5000)
    with pytest.raises(SegmentFullError) as caught:
        SegmentWriter.open(spec, FixedClock())
    assert caught.value.needed > 1 << 20 >= caught.value.free
    assert [path.name for path in small_disk.iterdir()] == ["shm0.lock"]


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
