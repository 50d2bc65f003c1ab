"""The library that fails system calls (`faults.c`), and how it is told what to fail."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from tests.campaigns.report import check

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE: Final = Path(__file__).with_name("faults.c")
#: The environment variable that names the file with a process's orders.
VARIABLE: Final = "QUOTESHM_FAULTS"
ERRORS: Final = (
    errno.ENOSPC,
    errno.EACCES,
    errno.EMFILE,
    errno.EINTR,
    errno.ENOMEM,
    errno.EIO,
)
#: What a close may end with. The descriptor is gone in any case.
CLOSE_ERRORS: Final = (errno.ENOSPC, errno.EIO)
NEVER: Final = 1 << 62

_NAME, _TRACED = 16, 8192


class Orders(ctypes.Structure):
    """What is to fail, and what did: ``struct orders`` of `faults.c`."""

    _fields_ = (
        ("folder", ctypes.c_char * 256),
        ("start", ctypes.c_long),
        ("end", ctypes.c_long),
        ("error", ctypes.c_long),
        ("calls", ctypes.c_long),
        ("failed", ctypes.c_long),
        ("names", (ctypes.c_char * _NAME) * _TRACED),
    )

    @classmethod
    def of_this_process(cls) -> Self:
        """Give those of the library that is preloaded here."""
        give = ctypes.CDLL(None).faults_orders
        give.restype = ctypes.POINTER(cls)
        orders: Self = give().contents
        return orders

    @classmethod
    def in_file(cls, path: Path) -> Self:
        """Make a file for those of another process, whose `VARIABLE` is to name it."""
        path.write_bytes(bytes(ctypes.sizeof(cls)))
        with path.open("r+b") as file:
            return cls.from_buffer(mmap.mmap(file.fileno(), 0))

    def watch(self, folder: Path) -> None:
        """Count from now on the calls on files in a folder."""
        self.start = self.end = NEVER
        self.calls = self.failed = 0
        self.folder = os.fsencode(folder)

    def fail(self, error: int, start: int, count: int = 1) -> None:
        """Let calls fail, the first of them number ``start``."""
        self.error, self.start, self.end = error, start, min(start + count, NEVER)

    def heal(self) -> None:
        """Let no more calls fail."""
        self.start = self.end = NEVER

    @contextlib.contextmanager
    def unseen(self) -> Iterator[None]:
        """Neither count nor fail what is called in the block."""
        folder, self.folder = self.folder, b""
        yield
        self.folder = folder

    def name(self, number: int) -> str:
        """Tell what call a number was."""
        return bytes(self.names[number - 1].value).decode() if number <= _TRACED else "?"


def compiler() -> str | None:
    """Find a C compiler."""
    return shutil.which("gcc") or shutil.which("cc")


def build(folder: Path) -> Path:
    """Compile the library."""
    command, target = compiler(), folder / "faults.so"
    check(command is not None, "there is no gcc: apt-get install gcc libc6-dev")
    done = subprocess.run(
        [str(command), "-shared", "-fPIC", "-O1", "-Wall", "-o", target, SOURCE, "-ldl"],
        check=False,
        capture_output=True,
        text=True,
    )
    check(done.returncode == 0, done.stderr)
    return target


def preloaded(library: Path, orders: Path | None = None) -> dict[str, str]:
    """Give the environment variables of a process whose calls are to fail."""
    return {"LD_PRELOAD": str(library), **({VARIABLE: str(orders)} if orders else {})}
