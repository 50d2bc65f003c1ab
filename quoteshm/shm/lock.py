"""The locks: the writer's own, in a file that readers cannot open, and the one that they ask after.

Both are of an open file description, and fall with the process however it ends.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
import time
from pathlib import Path
from typing import Final

from quoteshm.errors import ForeignFileError, SegmentAccessError, SegmentError, WriterRunningError
from quoteshm.shm import files, layout

_FLOCK: Final = "hhqqi4x"  # struct flock of 64-bit Linux
_LOOKS, _BETWEEN_LOOKS_S = 25, 0.002  # for the pid of a writer that has just taken the lock


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


def _try_lock(fd: int) -> bool:
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _flock(fcntl.F_WRLCK))
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def _flock(kind: int) -> bytes:
    return struct.pack(_FLOCK, kind, os.SEEK_SET, 0, 0, 0)


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
            files.close_fd(number)


_owned: set[OwnedFd] = set()


def _close_in_child() -> None:
    for fd in tuple(_owned):
        fd.close()


os.register_at_fork(after_in_child=_close_in_child)


class WriterLock:
    """The right to write a segment: a lock on a file of its own that readers cannot open.

    It is an open-file-description lock: it falls with the process, however that ends, and not
    with any other close of the file. The file says the pid and the epoch that the last orderly end
    left. It is never unlinked: a writer that waited for the old file could otherwise hold a lock
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
            with files.told(self.path):
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
        """Leave the pid for others to read; the lock holds without it.

        What was left stays, until there is a segment that says more: a start may fail.
        """
        self._say(self.left_epoch)

    def _say(self, epoch: int) -> None:
        text = b"%d\n%d\n" % (os.getpid(), epoch) if epoch else b"%d\n" % os.getpid()
        with contextlib.suppress(OSError):  # no memory left, not even for this
            os.pwrite(self.fd.number, text, 0)
            os.ftruncate(self.fd.number, len(text))

    def _open(self) -> int:
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | files.SAFE_OPEN, 0o600)
        except PermissionError:
            raise SegmentAccessError(self.path, *files.owner_of(self.path)) from None
        except FileNotFoundError:
            raise SegmentError(f"{self.path.parent}: no such folder for the segment") from None
        except OSError as error:
            raise files.open_failed(self.path, error) from error
        with files.closed_on_error(fd):
            with files.told(self.path):
                found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
                mine = f"a regular file of user {os.geteuid()}"
                other = f"{files.kind_of_file(found.st_mode)} of user {found.st_uid}"
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
        self._say(epoch)

    @property
    def is_held(self) -> bool:
        """Whether it is held here: not after `release`, and not in a forked child."""
        return self.fd.number >= 0

    def release(self) -> None:
        """Let go; harmless twice."""
        self.fd.close()
