"""A small file system for tests of what is full."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path


class NoMountError(Exception):
    """A file system cannot be mounted here; says why."""


def _mount(*arguments: str) -> None:
    command = ["mount", "-t", "tmpfs", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise NoMountError(f"mount cannot be run: {error}") from error
    if done.returncode:
        raise NoMountError(f"a tmpfs cannot be mounted: {done.stderr.strip()}")


@contextlib.contextmanager
def small_disk(place: Path, size: str = "1m") -> Iterator[Path]:
    """Mount a tmpfs of a size in a new folder, until the block ends.

    Raises
    ------
    NoMountError

    """
    place.mkdir()
    _mount("-o", f"size={size}", "tmpfs", str(place))
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def resize(place: Path, size: str) -> None:
    """Give a mounted tmpfs another size."""
    _mount("-o", f"remount,size={size}", "tmpfs", str(place))
