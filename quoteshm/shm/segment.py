"""The segment as a file: create, lock, allocate, check, attach, publish, unlink.

What is believed of a file is checked first, by reading its superblock with `os.pread`: a file that
is not ours, or not whole, is a typed error and never a SIGBUS.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import grp
import mmap
import os
import stat
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from quoteshm.clock import boot_id
from quoteshm.errors import (
    CorruptSegmentError,
    ForeignFileError,
    HalfMadeError,
    LayoutMismatchError,
    SegmentAccessError,
    SegmentError,
    SegmentFullError,
    SegmentNotFoundError,
    TruncatedError,
    WriterRunningError,
)
from quoteshm.model import INTERVALS, SeriesKind, Ticker
from quoteshm.shm import layout, table
from quoteshm.shm.layout import Geometry, KindGeometry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from quoteshm.clock import Clock

    Words = NDArray[np.uint64]

DEFAULT_DIRECTORY: Final = Path("/dev/shm")  # noqa: S108  POSIX shared memory lives there on Linux
_SAFE_OPEN: Final = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_MADV_POPULATE_WRITE: Final = 23  # Linux 5.14; not named by the mmap module
_FLOCK: Final = "hhqqi4x"  # struct flock of 64-bit Linux
_LOOKS, _BETWEEN_LOOKS_S = 25, 0.002  # for the pid of a writer that has just taken the lock


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


# -- views -----------------------------------------------------------------------------------


class SegmentMap:
    """Typed views over the bytes of a segment, a writer's or a reader's.

    Attributes
    ----------
    cells : memoryview of u64
        The whole segment; one item, loaded or stored, is one aligned access: the epochs go
        through it. `words` is the same as an array.
    quotes, series : per buffer (and kind), ndarray of u64, shape (max_tickers, 16)
        Rows as words.
    quote_items, series_items : the same rows, ndarray of void, shape (max_tickers,)
        For what copies rows, or neighbouring words of them, as one item each: see `table.field`.
    entries : per kind, ndarray of u64, shape (max_tickers, 4)
    blocks : per kind, ndarray of u64, one-dimensional
        All blocks of the kind; `float_blocks` are the same words as float64.

    """

    def __init__(self, buffer: mmap.mmap, geometry: Geometry) -> None:
        self.buffer, self.geometry = buffer, geometry
        self.cells: memoryview = memoryview(buffer).cast("Q")
        self.words: Words = np.frombuffer(buffer, np.uint64)
        g, n = geometry, geometry.max_tickers
        self.superblock = np.frombuffer(buffer, layout.SUPERBLOCK, 1)[0]
        self.directory = np.frombuffer(buffer, layout.DIRECTORY_ROW, n, g.directory_offset)
        self.headers = [self._words(offset, layout.PAGE // 8) for offset in g.buffer_offsets]
        self.quotes = [self._rows(offset + g.quotes_offset, n) for offset in g.buffer_offsets]
        self.series = [
            [self._rows(self.series_offset(b, k.index, 0), n) for k in g.kinds] for b in (0, 1)
        ]
        self.quote_items = [table.whole(rows) for rows in self.quotes]
        self.series_items = [[table.whole(rows) for rows in kinds] for kinds in self.series]
        self.intervals = tuple(kind.kind.interval for kind in g.kinds)
        entry_nbytes = layout.ENTRY.itemsize
        self.entries = [
            self._words(g.entries_offset + k.index * n * entry_nbytes, n * layout.ENTRY_WORDS)
            .reshape(n, layout.ENTRY_WORDS)
            for k in g.kinds
        ]  # fmt: skip
        self.blocks = [
            self._words(k.blocks_offset, 2 * n * k.block_nbytes // 8) for k in g.kinds
        ]  # fmt: skip
        self.float_blocks = [words.view(np.float64) for words in self.blocks]

    def _words(self, offset: int, count: int) -> Words:
        return np.frombuffer(self.buffer, np.uint64, count, offset)

    def _rows(self, offset: int, count: int) -> Words:
        return self._words(offset, count * layout.ROW_WORDS).reshape(count, layout.ROW_WORDS)

    def quote_offset(self, buffer: int, row: int) -> int:
        """Give the byte offset of a quote row."""
        g = self.geometry
        return g.buffer_offsets[buffer] + g.quotes_offset + row * layout.ROW_NBYTES

    def series_offset(self, buffer: int, kind: int, row: int) -> int:
        """Give the byte offset of a series row."""
        g = self.geometry
        place = kind * g.max_tickers + row
        return g.buffer_offsets[buffer] + g.series_offset + place * layout.ROW_NBYTES

    def entry_word(self, kind: int, row: int) -> int:
        """Give the cell of an entry's first word."""
        place = kind * self.geometry.max_tickers + row
        return (self.geometry.entries_offset + place * layout.ENTRY.itemsize) // 8

    def columns(
        self, kind: KindGeometry, row: int, block: int
    ) -> tuple[Words, NDArray[np.float64]]:
        """View a block as its times, words of shape (rows,), and its values, (5, rows)."""
        first = (kind.block_offset(row, block) - kind.blocks_offset) // 8
        times = self.blocks[kind.index][first : first + kind.rows]
        values = self.float_blocks[kind.index][first + kind.rows : first + 6 * kind.rows]
        return times, values.reshape(5, kind.rows)

    @property
    def head(self) -> bytes:
        """The superblock's bytes as they stand, a copy."""
        return self.buffer[: layout.PAGE]

    def ticker_count(self, buffer: int) -> int:
        """Load the count of tickers that a buffer tells of."""
        word = self.cells[self.geometry.buffer_offsets[buffer] // 8]
        return count_of(word, self.geometry.max_tickers)

    @property
    def epoch(self) -> int:
        """The global epoch as it stands."""
        return int(self.cells[layout.EPOCH_WORD])


# -- checking --------------------------------------------------------------------------------


def _text(raw: bytes, field: str) -> str:
    """Decode a zero-padded text of the segment."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise CorruptSegmentError(field, raw, "UTF-8") from None


def check_superblock(path: Path, head: bytes, file_nbytes: int) -> Geometry:
    """Believe a superblock, or say what is wrong with it.

    Raises
    ------
    ForeignFileError, HalfMadeError, LayoutMismatchError, TruncatedError, CorruptSegmentError

    """
    magic = head[: len(layout.MAGIC)]
    if len(head) < layout.PAGE and magic == layout.MAGIC:
        raise TruncatedError(path, file_nbytes, layout.PAGE)
    begun = len(head) == layout.PAGE and head[8:16] == _SUPERBLOCK_START
    if magic != layout.MAGIC:
        if begun and not any(magic):
            raise HalfMadeError(path)
        raise ForeignFileError(path, f"magic {magic!r}", f"{layout.MAGIC!r}")
    block = np.frombuffer(head, layout.SUPERBLOCK, 1)[0]
    version = int(block["layout_version"])
    if version != layout.LAYOUT_VERSION:
        raise LayoutMismatchError(version, layout.LAYOUT_VERSION)
    _expect("byte_order", int(block["byte_order"]), layout.BYTE_ORDER)
    state = int(block["state"])
    if state == layout.HALF_MADE:
        raise HalfMadeError(path)
    if state not in (layout.LIVE, layout.CLOSED):
        raise CorruptSegmentError("state", state, "1 or 2")
    if int(block["epoch"]) > layout.MAX_EPOCH:
        raise CorruptSegmentError("epoch", int(block["epoch"]), f"at most {layout.MAX_EPOCH}")
    geometry = _geometry(block)
    _expect("check", int(block["check"]), layout.superblock_check(head))
    freshness_of(*struct.unpack_from("<Q", head, 8 * layout.FRESHNESS_WORD))
    size = int(block["size"])
    if file_nbytes < size:
        raise TruncatedError(path, file_nbytes, size)
    _expect("size", size, file_nbytes)
    return geometry


_LISTED: Final = struct.Struct("<32s8s48sI36x")  # a directory row
_SUPERBLOCK_START: Final = struct.pack("<II", layout.LAYOUT_VERSION, layout.BYTE_ORDER)


def freshness_of(word: int) -> int:
    """Believe the word that says the freshness window; give it in milliseconds.

    Raises
    ------
    CorruptSegmentError

    """
    return _checked("freshness_ms", word)


def is_of_another_boot(segment: SegmentMap) -> bool:
    """Tell whether what a segment says of CLOCK_BOOTTIME is known to be of an earlier boot."""
    here, there = boot_id(), bytes(segment.superblock["boot_id"])
    return here != there and any(here) and any(there)


def count_of(word: int, max_tickers: int) -> int:
    """Believe the word of a buffer header that says how many tickers there are.

    Raises
    ------
    CorruptSegmentError

    """
    count = _checked("ticker_count", word)
    if count > max_tickers:
        raise CorruptSegmentError("ticker_count", count, f"<= {max_tickers}")
    return count


def check_flags(states: Words) -> None:
    """Believe the flags of quote rows: of each the words `table.STATE`, shape (n, 2).

    Raises
    ------
    CorruptSegmentError

    """
    flags = states[:, 0]
    good = flags == layout.PRESENT_WORD
    if good.all():  # as it is nearly always
        return
    good |= (flags == layout.REMOVED_WORD) | (flags == layout.ABSENT_WORD)
    if not good.all():
        good |= (states == 0).all(axis=1)  # nothing was ever published there
        _all("quote flags", flags, good, "present or removed, and the complement")


def _checked(field: str, word: int) -> int:
    """Give the number of a word whose upper half is its complement."""
    number = word & layout.LOW_HALF
    if word != layout.checked_word(number):
        raise CorruptSegmentError(field, hex(word), "a word whose halves are complements")
    return number


def tickers_of(segment: SegmentMap, start: int, stop: int) -> list[Ticker]:
    """Believe directory rows, from ``start`` up to ``stop``.

    Raises
    ------
    CorruptSegmentError

    """
    raw = segment.directory[start:stop].tobytes()
    tickers = []
    for row, (*texts, check) in enumerate(_LISTED.iter_unpack(raw)):
        found = layout.directory_check(raw[row * _LISTED.size : (row + 1) * _LISTED.size])
        _expect(f"check of directory row {start + row}", check, found)
        stripped = (text.rstrip(b"\0") for text in texts)
        tickers.append(Ticker(*map(_text, stripped, Ticker._fields)))
    return tickers


def _expect(field: str, found: int, expected: int) -> None:
    if found != expected:
        raise CorruptSegmentError(field, found, expected)


def _kinds(block: np.void) -> list[SeriesKind]:
    kind_count = int(block["kind_count"])
    if not 1 <= kind_count <= layout.MAX_KINDS:
        raise CorruptSegmentError("kind_count", kind_count, f"1 to {layout.MAX_KINDS}")
    kinds: dict[str, SeriesKind] = {}
    for row in block["kinds"][:kind_count]:
        interval = _text(bytes(row["interval"]), "interval")
        if interval not in INTERVALS:
            raise CorruptSegmentError("interval", repr(interval), "one of " + ", ".join(INTERVALS))
        if interval in kinds:
            raise CorruptSegmentError("interval", f"{interval} twice", "distinct ones")
        capacity = int(row["capacity"])
        if not 1 <= capacity <= layout.MAX_CAPACITY:
            raise CorruptSegmentError("capacity", capacity, f"1 to {layout.MAX_CAPACITY}")
        kinds[interval] = SeriesKind(interval, capacity)
    return list(kinds.values())


def _geometry(block: np.void) -> Geometry:
    """Lay the segment out anew from its capacities, and compare every offset it says."""
    max_tickers = int(block["max_tickers"])
    if not 1 <= max_tickers <= layout.MAX_TICKERS:
        raise CorruptSegmentError("max_tickers", max_tickers, f"1 to {layout.MAX_TICKERS}")
    kinds = _kinds(block)
    geometry = Geometry.of(max_tickers, kinds)
    for field in ("directory_offset", "entries_offset", "quotes_offset", "series_offset", "size"):
        _expect(field, int(block[field]), getattr(geometry, field))
    for found, expected in zip(block["buffer_offsets"], geometry.buffer_offsets, strict=True):
        _expect("buffer_offsets", int(found), expected)
    for row, kind in zip(block["kinds"], geometry.kinds, strict=False):
        for field in ("rows", "blocks_offset", "block_nbytes"):
            _expect(field, int(row[field]), getattr(kind, field))
    return geometry


def check_rows(segment: SegmentMap) -> None:
    """Check every row that counts, as a writer must before it carries on from them.

    Raises
    ------
    CorruptSegmentError
        Naming the first field that cannot be.

    """
    if segment.epoch > layout.MAX_ADOPTED_EPOCH:
        raise CorruptSegmentError("epoch", segment.epoch, f"at most {layout.MAX_ADOPTED_EPOCH}")
    buffer = segment.epoch >> 1 & 1
    count = segment.ticker_count(buffer)
    symbols = [ticker.symbol for ticker in tickers_of(segment, 0, count)]
    if "" in symbols or len(set(symbols)) != count:
        raise CorruptSegmentError("symbol", "empty or twice there", "distinct symbols")
    check_flags(segment.quotes[buffer][:count, table.STATE])
    for kind in segment.geometry.kinds:
        rows = segment.series[buffer][kind.index][:count].view(layout.SERIES_ROW)[:, 0]
        words = segment.series[buffer][kind.index][:count]
        _all("check", rows["check"], rows["check"] == layout.series_checks(words), "another")
        start, held, flags = rows["start"], rows["count"], rows["flags"]
        _all("series flags", flags, flags <= layout.HAS_FORMING | sum(layout.BACKED), "0 to 7")
        _all("count", held, held <= kind.kind.capacity, f"<= {kind.kind.capacity}")
        _all("start", start, start <= kind.rows - held, f"<= {kind.rows} - count")
        backed = layout.backed(rows["rewrites"])
        _all("flags", flags, (held == 0) | ((flags & backed) != 0), "a block that is backed")
        begun = segment.entries[kind.index][:count, 3]
        _all("rewrites_begun", begun, begun - rows["rewrites"] <= 1, "rewrites, or one more")


def _all(field: str, found: Words, good: NDArray[np.bool_], expected: str) -> None:
    if not good.all():
        raise CorruptSegmentError(field, int(found[~good][0]), expected)


# -- files -----------------------------------------------------------------------------------


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Tell what the system refuses as an error of ours, with the file's name."""
    try:
        yield
    except OSError as error:
        raise SegmentError(f"{path}: {os.strerror(error.errno or 0)}") from error


def close_fd(number: int) -> None:
    """Close a descriptor. It is gone in any case, and shared memory has nothing to write back."""
    with contextlib.suppress(OSError):
        os.close(number)


@contextlib.contextmanager
def _closed_on_error(fd: int) -> Iterator[None]:
    """Close a descriptor if what is done with it fails."""
    try:
        yield
    except BaseException:
        close_fd(fd)
        raise


def open_file(path: Path, flags: int) -> int:
    """Open what stands under a segment's name, if it is a regular file.

    Raises
    ------
    SegmentNotFoundError, ForeignFileError, SegmentAccessError

    """
    try:
        fd = os.open(path, flags | _SAFE_OPEN)
    except ValueError:  # no file can have it
        raise SegmentError(f"{str(path)!r}: expected a name without a NUL") from None
    except FileNotFoundError:
        raise SegmentNotFoundError(path) from None
    except PermissionError:
        raise SegmentAccessError(path, *_owner(path)) from None
    except OSError as error:
        raise _open_failed(path, error) from error
    with _closed_on_error(fd):
        with _told(path):
            mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode):
            raise ForeignFileError(path, _kind_of_file(mode), "a regular file")
    return fd


def _open_failed(path: Path, error: OSError) -> SegmentError:
    """Say why a file could not be opened: mostly it is not a regular one."""
    with contextlib.suppress(OSError):
        mode = path.lstat().st_mode
        if not stat.S_ISREG(mode):
            return ForeignFileError(path, _kind_of_file(mode), "a regular file")
    return SegmentError(f"{path}: {os.strerror(error.errno or 0)}")


def _kind_of_file(mode: int) -> str:
    names = {
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFDIR: "a directory",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return names.get(stat.S_IFMT(mode), "a regular file")


def _owner(path: Path) -> tuple[str, str]:
    """Say whose file it is, and what this user would need."""
    me = f"a file that user {os.geteuid()} may open"
    with contextlib.suppress(OSError):
        found = path.lstat()
        mode = stat.filemode(found.st_mode)
        return f"one of user {found.st_uid}, group {found.st_gid}, {mode}", me
    return "no permission", me


def attach(path: Path) -> tuple[SegmentMap, int]:
    """Map a segment read-only; give its views and the descriptor, which stays open.

    Raises
    ------
    SegmentError
        Of the kind that says what was found.

    """
    fd = open_file(path, os.O_RDONLY)
    with _closed_on_error(fd):
        return _map(path, fd, mmap.PROT_READ), fd


def open_own(path: Path) -> tuple[SegmentMap, int]:
    """Map a segment of this user's for writing.

    Raises
    ------
    SegmentError
        Of the kind that says what was found; `ForeignFileError` for a file of another user.

    """
    fd = open_file(path, os.O_RDWR)
    try:
        with _told(path):
            uid = os.fstat(fd).st_uid
        if uid != os.geteuid():
            raise ForeignFileError(path, f"a file of user {uid}", f"one of user {os.geteuid()}")
        return _map(path, fd, mmap.PROT_READ | mmap.PROT_WRITE), _again(path, fd)
    finally:
        close_fd(fd)


def _map(path: Path, fd: int, protection: int) -> SegmentMap:
    with _told(path):  # also that it is more than this machine can map
        geometry = check_superblock(path, os.pread(fd, layout.PAGE, 0), os.fstat(fd).st_size)
        return SegmentMap(mmap.mmap(fd, geometry.size, mmap.MAP_SHARED, protection), geometry)


def _again(path: Path, fd: int) -> int:
    """Open a file a second time, for the lock.

    A map keeps a copy of the descriptor it was made from, in forked children too; a lock taken on
    that one would outlive the writer in them.
    """
    again = open_file(path, os.O_RDWR)
    with _closed_on_error(again):
        with _told(path):
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
        with _told(path):
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
        close_fd(fd)
    try:
        lock_segment(again)
        permit(again, spec)
    except BaseException:
        reclaim(spec.path)
        close_fd(again)
        raise
    return segment, again


def permit(fd: int, spec: SegmentSpec) -> None:
    """Give the file the group and the mode that were asked for.

    Raises
    ------
    SegmentError
        There is no such group, or this user may not give files to it.

    """
    with _told(spec.path):
        if spec.group is not None:
            os.fchown(fd, -1, _group_id(spec.group))
        os.fchmod(fd, spec.mode)


def publish(segment: SegmentMap, path: Path) -> None:
    """Make a created segment live, and put it under its name.

    Raises
    ------
    SegmentError
        It cannot be renamed; `reclaim` frees it.

    """
    complete(segment)
    with _told(path):
        temporary_path(path).rename(path)


def unlink(path: Path, fd: int) -> None:
    """Take a segment's name away, if it still is that of the file that is open here.

    Raises
    ------
    SegmentError
        The name stays.

    """
    with _told(path), contextlib.suppress(FileNotFoundError):
        if os.path.samestat(path.lstat(), os.fstat(fd)):
            path.unlink()


def complete(segment: SegmentMap) -> None:
    """Set the state, and the magic last."""
    segment.cells[layout.STATE_WORD] = layout.LIVE
    segment.cells[0] = int.from_bytes(layout.MAGIC, "little")


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


def _open_new(path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _SAFE_OPEN
    with contextlib.suppress(FileExistsError):
        return _open_private(path, flags)
    with _told(path):
        found = path.lstat()
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
        raise ForeignFileError(
            path,
            f"{_kind_of_file(found.st_mode)} of user {found.st_uid}",
            f"nothing, or a file that user {os.geteuid()} left",
        )
    with _told(path):
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
        raise SegmentAccessError(path, *_owner(path.parent)) from None
    except FileNotFoundError:
        raise SegmentError(f"{path.parent}: no such folder for the segment") from None
    except OSError as error:
        raise _open_failed(path, error) from error


def _group_id(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise SegmentError(f"no group named {name!r}") from None


def allocate(fd: int, path: Path, offset: int, nbytes: int) -> None:
    """Back a range with memory, or say that there is none left.

    Raises
    ------
    SegmentFullError
        The file system is full; nothing was written.
    SegmentError
        The system refuses it for another reason.

    """
    with _told(path):
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


def list_ticker(segment: SegmentMap, row: int, ticker: Ticker) -> None:
    """Write a directory row that no buffer counts yet."""
    place = segment.directory[row]
    for field, text in zip(Ticker._fields, ticker, strict=True):
        place[field] = text.encode()
    place["check"] = layout.directory_check(place.tobytes())


# -- locks -----------------------------------------------------------------------------------


def _flock(kind: int) -> bytes:
    return struct.pack(_FLOCK, kind, os.SEEK_SET, 0, 0, 0)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _flock(fcntl.F_WRLCK))
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def lock_segment(fd: int) -> None:
    """Hold the segment's own lock, for readers to ask after.

    A reader can stand in its way with a lock of its own, and the system may have no more of them;
    then it is only not there to be seen.
    """
    with contextlib.suppress(OSError):
        _try_lock(fd)


def is_locked(fd: int) -> bool:
    """Tell, on a read-only descriptor, whether a writer holds the segment's lock.

    Raises
    ------
    OSError
        The system does not say.

    """
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _flock(fcntl.F_WRLCK))
    return bool(struct.unpack(_FLOCK, answer)[0] == fcntl.F_WRLCK)


class OwnedFd:
    """A descriptor that stays with this process: a forked child closes its copy.

    A lock of an open file description would otherwise outlive its owner in the child.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        _owned.add(self)

    def close(self) -> None:
        """Close it; harmless twice."""
        _owned.discard(self)
        number, self.number = self.number, -1
        if number >= 0:
            close_fd(number)


_owned: set[OwnedFd] = set()


def _close_in_child() -> None:
    for fd in tuple(_owned):
        fd.close()


os.register_at_fork(after_in_child=_close_in_child)


class WriterLock:
    """The right to write a segment: a lock on a file of its own that readers cannot open.

    It is an open-file-description lock: it falls with the process, however that ends, and not
    with any other close of the file. The file says the pid and, after an orderly end, the last
    epoch. It is never unlinked: a writer that waited for the old file could otherwise hold a lock
    that nobody sees.
    """

    def __init__(self, segment_path: Path) -> None:
        """Take the lock.

        Raises
        ------
        WriterRunningError
            Another process holds it.
        ForeignFileError, SegmentAccessError, SegmentError
            What stands under the lock's name is not ours.

        """
        self.path = segment_path.with_name(segment_path.name + ".lock")
        self.fd = OwnedFd(self._open())
        self.left_epoch = 0  # of the last segment under this name, where it was taken away
        try:
            self._take(segment_path)
        except BaseException:
            self.release()
            raise

    def _take(self, segment_path: Path) -> None:
        for _ in range(_LOOKS):
            with _told(self.path):
                is_ours = _try_lock(self.fd.number)
            if is_ours:
                self.left_epoch = self._left_epoch()
                return self._sign()
            pid = self._pid()
            if pid is not None and Path(f"/proc/{pid}").exists():
                raise WriterRunningError(segment_path, pid)
            time.sleep(_BETWEEN_LOOKS_S)  # it has the lock, and is about to say who it is
        raise WriterRunningError(segment_path, self._pid())

    def _sign(self) -> None:
        """Leave the pid for others to read; the lock holds without it."""
        text = b"%d\n" % os.getpid()
        with contextlib.suppress(OSError):  # no memory left, not even for this
            os.pwrite(self.fd.number, text, 0)
            os.ftruncate(self.fd.number, len(text))

    def _open(self) -> int:
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | _SAFE_OPEN, 0o600)
        except PermissionError:
            raise SegmentAccessError(self.path, *_owner(self.path)) from None
        except FileNotFoundError:
            raise SegmentError(f"{self.path.parent}: no such folder for the segment") from None
        except OSError as error:
            raise _open_failed(self.path, error) from error
        with _closed_on_error(fd):
            with _told(self.path):
                found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
                mine = f"a regular file of user {os.geteuid()}"
                other = f"{_kind_of_file(found.st_mode)} of user {found.st_uid}"
                raise ForeignFileError(self.path, other, mine)
        return fd

    def _pid(self) -> int | None:
        with contextlib.suppress(OSError):
            text = os.pread(self.fd.number, 32, 0).partition(b"\n")[0].strip()
            return int(text) if text.isdigit() else None
        return None

    def _left_epoch(self) -> int:
        with contextlib.suppress(OSError):
            text = os.pread(self.fd.number, 64, 0).partition(b"\n")[2].strip()
            if text.isdigit() and (epoch := int(text)) < layout.MAX_ADOPTED_EPOCH:
                return epoch & ~1
        return 0

    def leave(self, epoch: int) -> None:
        """Leave the last epoch for the next writer, so that it never goes back for a reader."""
        text = b"%d\n%d\n" % (os.getpid(), epoch)
        with contextlib.suppress(OSError):
            os.pwrite(self.fd.number, text, 0)
            os.ftruncate(self.fd.number, len(text))

    @property
    def is_held(self) -> bool:
        """Whether it is held here: not after `release`, and not in a forked child."""
        return self.fd.number >= 0

    def release(self) -> None:
        """Let go; harmless twice."""
        self.fd.close()
