"""The files under a segment's names, opened so that nothing but a regular one is ever touched."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from quoteshm.errors import ForeignFileError, SegmentAccessError, SegmentError, SegmentNotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator

SAFE_OPEN: Final = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def open_file(path: Path, flags: int) -> int:
    """Open what stands under a segment's name, if it is a regular file.

    Raises
    ------
    SegmentNotFoundError, ForeignFileError, SegmentAccessError

    """
    try:
        fd = os.open(path, flags | SAFE_OPEN)
    except ValueError:  # no file can have it
        raise SegmentError(f"{str(path)!r}: expected a name without a NUL") from None
    except FileNotFoundError:
        raise SegmentNotFoundError(path) from None
    except PermissionError:
        raise SegmentAccessError(path, *owner_of(path)) from None
    except OSError as error:
        raise open_failed(path, error) from error
    with closed_on_error(fd):
        with told(path):
            mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode):
            raise ForeignFileError(path, kind_of_file(mode), "a regular file")
    return fd


def open_failed(path: Path, error: OSError) -> SegmentError:
    """Say why a file could not be opened: mostly it is not a regular one."""
    with contextlib.suppress(OSError):
        mode = path.lstat().st_mode
        if not stat.S_ISREG(mode):
            return ForeignFileError(path, kind_of_file(mode), "a regular file")
    return SegmentError(f"{path}: {os.strerror(error.errno or 0)}")


def owner_of(path: Path) -> tuple[str, str]:
    """Say whose file it is, and what this user would need."""
    me = f"a file that user {os.geteuid()} may open"
    with contextlib.suppress(OSError):
        found = path.lstat()
        mode = stat.filemode(found.st_mode)
        return f"one of user {found.st_uid}, group {found.st_gid}, {mode}", me
    return "no permission", me


def kind_of_file(mode: int) -> str:
    """Say in words what a file is."""
    names = {
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFDIR: "a directory",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return names.get(stat.S_IFMT(mode), "a regular file")


@contextlib.contextmanager
def told(path: Path) -> Iterator[None]:
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
def closed_on_error(fd: int) -> Iterator[None]:
    """Close a descriptor if what is done with it fails."""
    try:
        yield
    except BaseException:
        close_fd(fd)
        raise
