"""Opening a segment that may be bad: what a test sees of it."""

from __future__ import annotations

import gc
import itertools
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from quoteshm.errors import SegmentError
from quoteshm.shm import segment
from quoteshm.shm.reader import StockDataReader
from quoteshm.shm.writer import SegmentWriter
from tests.shm.helpers import FixedClock, file_image, spec_in

NOBODY = 65534

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be another user")

Open = Callable[[Path], object]


def read(path: Path) -> StockDataReader:
    """Attach as a reader does."""
    return StockDataReader(shm_name=path.name, shm_dir=path.parent, timeout_s=0.02)


def write(path: Path) -> SegmentWriter:
    """Open as a writer does."""
    return SegmentWriter.open(spec_in(path.parent, name=path.name), FixedClock())


both = pytest.mark.parametrize("opener", [read, write])


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
