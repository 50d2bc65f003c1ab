"""The segment as a file: create, allocate, attach, publish, unlink.

What is believed of a file is checked first, by reading its superblock with `os.pread`: a file that
is not ours, or not whole, is a typed error and never a SIGBUS.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import mmap
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from quoteshm.clock import boot_id
from quoteshm.errors import ForeignFileError, SegmentAccessError, SegmentError, SegmentFullError
from quoteshm.model import SeriesKind, Ticker
from quoteshm.shm import files, layout
from quoteshm.shm.checks import check_superblock
from quoteshm.shm.layout import Geometry
from quoteshm.shm.lock import lock_segment
from quoteshm.shm.views import SegmentMap

if TYPE_CHECKING:
    from quoteshm.clock import Clock

DEFAULT_DIRECTORY: Final = Path("/dev/shm")  # noqa: S108  POSIX shared memory lives there on Linux
_MADV_POPULATE_WRITE: Final = 23  # Linux 5.14; not named by the mmap module


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentSpec:
    """What a writer wants of its segment."""

    max_tickers: int
    kinds: tuple[SeriesKind, ...]
    source: str
    freshness_ms: int
    adjustment: str = "none"
    name: str = "shm0"
    directory: Path = DEFAULT_DIRECTORY
    mode: int = 0o640
    group: str | None = None

    @property
    def path(self) -> Path:
        """Where the segment stands."""
        return self.directory / self.name


def attach(path: Path) -> tuple[SegmentMap, int]:
    """Map a segment read-only; give its views and the descriptor, which stays open.

    Raises
    ------
    SegmentError
        Of the kind that says what was found.

    """
    fd = files.open_file(path, os.O_RDONLY)
    with files.closed_on_error(fd):
        return _map(path, fd, mmap.PROT_READ), fd


def open_own(path: Path) -> tuple[SegmentMap, int]:
    """Map a segment of this user's for writing.

    Raises
    ------
    SegmentError
        Of the kind that says what was found; `ForeignFileError` for a file of another user.

    """
    fd = files.open_file(path, os.O_RDWR)
    try:
        with files.told(path):
            uid = os.fstat(fd).st_uid
        if uid != os.geteuid():
            raise ForeignFileError(path, f"a file of user {uid}", f"one of user {os.geteuid()}")
        return _map(path, fd, mmap.PROT_READ | mmap.PROT_WRITE), _again(path, fd)
    finally:
        files.close_fd(fd)


def _map(path: Path, fd: int, protection: int) -> SegmentMap:
    with files.told(path):  # also that it is more than this machine can map
        geometry = check_superblock(path, os.pread(fd, layout.PAGE, 0), os.fstat(fd).st_size)
        return SegmentMap(mmap.mmap(fd, geometry.size, mmap.MAP_SHARED, protection), geometry)


def _again(path: Path, fd: int) -> int:
    """Open a file a second time, for the lock.

    A map keeps a copy of the descriptor it was made from, in forked children too; a lock taken on
    that one would outlive the writer in them.
    """
    again = files.open_file(path, os.O_RDWR)
    with files.closed_on_error(again):
        with files.told(path):
            is_same = os.path.samestat(os.fstat(again), os.fstat(fd))
        if not is_same:
            raise SegmentError(f"{path}: replaced by another file while it was being opened")
    return again


def create(spec: SegmentSpec, clock: Clock) -> tuple[SegmentMap, int]:
    """Make a segment under its temporary name, half made and locked; `publish` ends it.

    Raises
    ------
    SegmentFullError, ForeignFileError, SegmentError

    """
    path = temporary_path(spec.path)
    geometry = Geometry.of(spec.max_tickers, spec.kinds)
    fd = _open_new(path)
    try:
        with files.told(path):
            os.ftruncate(fd, geometry.size)
            allocate(fd, path, 0, geometry.kinds[0].blocks_offset)
            segment = SegmentMap(mmap.mmap(fd, geometry.size), geometry)
        populate(segment.buffer, 0, geometry.kinds[0].blocks_offset)
        fill(segment, spec, clock)
        again = _again(path, fd)
    except BaseException:
        reclaim(spec.path)
        raise
    finally:
        files.close_fd(fd)
    try:
        lock_segment(again)
        permit(again, spec)
    except BaseException:
        reclaim(spec.path)
        files.close_fd(again)
        raise
    return segment, again


def _open_new(path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | files.SAFE_OPEN
    with contextlib.suppress(FileExistsError):
        return _open_private(path, flags)
    with files.told(path):
        found = path.lstat()
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
        raise ForeignFileError(
            path,
            f"{files.kind_of_file(found.st_mode)} of user {found.st_uid}",
            f"nothing, or a file that user {os.geteuid()} left",
        )
    with files.told(path):
        path.unlink()  # a leftover of a writer that died; ours alone, as we hold the writer lock
    try:
        return _open_private(path, flags)
    except FileExistsError:
        raise ForeignFileError(path, "a file made this moment", "nothing") from None


def _open_private(path: Path, flags: int) -> int:
    try:
        return os.open(path, flags, 0o600)
    except FileExistsError:
        raise
    except PermissionError:
        raise SegmentAccessError(path, *files.owner_of(path.parent)) from None
    except FileNotFoundError:
        raise SegmentError(f"{path.parent}: no such folder for the segment") from None
    except OSError as error:
        raise files.open_failed(path, error) from error


def permit(fd: int, spec: SegmentSpec) -> None:
    """Give the file the group and the mode that were asked for.

    Raises
    ------
    SegmentError
        There is no such group, or this user may not give files to it.

    """
    with files.told(spec.path):
        if spec.group is not None:
            os.fchown(fd, -1, _group_id(spec.group))
        os.fchmod(fd, spec.mode)


def _group_id(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise SegmentError(f"no group named {name!r}") from None


def publish(segment: SegmentMap, path: Path) -> None:
    """Make a created segment live, and put it under its name.

    Raises
    ------
    SegmentError
        It cannot be renamed; `reclaim` frees it.

    """
    complete(segment)
    with files.told(path):
        temporary_path(path).rename(path)


def complete(segment: SegmentMap) -> None:
    """Set the state, and the magic last."""
    segment.cells[layout.STATE_WORD] = layout.LIVE
    segment.cells[0] = int.from_bytes(layout.MAGIC, "little")


def unlink(path: Path, fd: int) -> None:
    """Take a segment's name away, if it still is that of the file that is open here.

    Raises
    ------
    SegmentError
        The name stays.

    """
    with files.told(path), contextlib.suppress(FileNotFoundError):
        if os.path.samestat(path.lstat(), os.fstat(fd)):
            path.unlink()


def temporary_path(path: Path) -> Path:
    """Give the name under which a segment is made."""
    return path.with_name(path.name + ".new")


def reclaim(path: Path) -> None:
    """Free the memory of a segment that was left half made, by a dead writer or for an error.

    For who holds the writer lock. What is not ours stays.
    """
    leftover = temporary_path(path)
    with contextlib.suppress(OSError):
        found = leftover.lstat()
        if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid():
            leftover.unlink()


def allocate(fd: int, path: Path, offset: int, nbytes: int) -> None:
    """Back a range with memory, or say that there is none left.

    Raises
    ------
    SegmentFullError
        The file system is full; nothing was written.
    SegmentError
        The system refuses it for another reason.

    """
    with files.told(path):
        try:
            os.posix_fallocate(fd, offset, nbytes)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM):
                raise
            raise SegmentFullError(path, nbytes, _free_nbytes(fd)) from None


def _free_nbytes(fd: int) -> int:
    """Tell how much room the file system has, or 0 where it does not say."""
    with contextlib.suppress(OSError):
        room = os.fstatvfs(fd)
        return room.f_bavail * room.f_bsize
    return 0


def populate(buffer: mmap.mmap, offset: int, nbytes: int) -> None:
    """Map allocated pages now, so that no later store waits for a page fault."""
    with contextlib.suppress(OSError):  # an older kernel: the first touches fault, that is all
        buffer.madvise(_MADV_POPULATE_WRITE, offset, nbytes)


def fill(segment: SegmentMap, spec: SegmentSpec, clock: Clock) -> None:
    """Write a new segment's superblock, all but its state and magic."""
    block, g = segment.superblock, segment.geometry
    block["layout_version"] = block["version"] = layout.LAYOUT_VERSION
    block["byte_order"] = layout.BYTE_ORDER
    block["instance"] = os.urandom(16)
    block["boot_id"] = boot_id()
    block["created_ms"] = block["heartbeat_ms"] = clock.wall_ms()
    block["heartbeat_boot_ms"] = clock.boot_ms()
    block["writer_pid"] = os.getpid()
    set_freshness(segment, spec.freshness_ms)
    block["kind_count"] = len(g.kinds)
    block["buffer_offsets"] = g.buffer_offsets
    for field in (
        "max_tickers",
        "directory_offset",
        "entries_offset",
        "quotes_offset",
        "series_offset",
        "size",
    ):
        block[field] = getattr(g, field)
    block["source"] = spec.source.encode()
    block["adjustment"] = spec.adjustment.encode()
    block["name"] = spec.name.encode()
    for row, kind in zip(block["kinds"], g.kinds, strict=False):
        row["interval"] = kind.kind.interval.encode()
        row["capacity"] = kind.kind.capacity
        row["rows"] = kind.rows
        row["blocks_offset"] = kind.blocks_offset
        row["block_nbytes"] = kind.block_nbytes
        entries = segment.entries[kind.index].view(layout.ENTRY)
        entries["version"] = layout.LAYOUT_VERSION
        entries["writer_pid"] = os.getpid()
    for header in segment.headers:
        header[0] = layout.checked_word(0)  # no ticker yet
    block["check"] = layout.superblock_check(segment.head)


def set_freshness(segment: SegmentMap, freshness_ms: int) -> None:
    """Set the freshness window, in one store."""
    segment.cells[layout.FRESHNESS_WORD] = layout.checked_word(freshness_ms)


def is_of_another_boot(segment: SegmentMap) -> bool:
    """Tell whether what a segment says of CLOCK_BOOTTIME is known to be of an earlier boot."""
    here, there = boot_id(), bytes(segment.superblock["boot_id"])
    return here != there and any(here) and any(there)


def list_ticker(segment: SegmentMap, row: int, ticker: Ticker) -> None:
    """Write a directory row that no buffer counts yet."""
    place = segment.directory[row]
    for field, text in zip(Ticker._fields, ticker, strict=True):
        place[field] = text.encode()
    place["check"] = layout.directory_check(place.tobytes())
