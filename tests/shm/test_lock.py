"""Who may write: the writer's lock, and the one on the segment that readers ask after."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from quoteshm.errors import (
    ForeignFileError,
    SegmentError,
    SegmentFullError,
    WriterRunningError,
)
from quoteshm.shm.writer import SegmentWriter
from tests.shm.conftest import MakeMarket
from tests.shm.helpers import AAPL, FixedClock, at, file_image, spec_in, tick
from tests.shm.opening import NOBODY, needs_root, refuse, write


def test_the_lock_file_is_for_the_writer_alone(tmp_path: Path) -> None:
    """Readers cannot open it, so they cannot lock it; it says the pid and outlives the writer."""
    writer = write(tmp_path / "shm0")
    lock = tmp_path / "shm0.lock"
    assert lock.stat().st_mode & 0o777 == 0o600
    assert lock.read_text() == f"{os.getpid()}\n"
    writer.close()
    assert lock.exists()


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


def test_a_start_that_fails_loses_no_epoch(tmp_path: Path) -> None:
    """Nor does one that is killed before its segment is there: what was left stays."""
    (tmp_path / "shm0.lock").write_text("7\n40\n")
    with pytest.raises(SegmentError, match="no group named"):
        SegmentWriter.open(spec_in(tmp_path, group="no such group"), FixedClock())
    assert (tmp_path / "shm0.lock").read_text() == f"{os.getpid()}\n40\n"
    writer = write(tmp_path / "shm0")
    assert writer.epoch == 42
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


def test_a_disk_too_full_for_a_pid_is_no_bar_to_a_lock(small_disk: Path) -> None:
    """What is full is told by the segment's own error."""
    with (small_disk / "hog").open("wb", buffering=0) as hog, suppress(OSError):
        while hog.write(bytes(4096)):
            pass
    with pytest.raises(SegmentFullError):
        SegmentWriter.open(spec_in(small_disk), FixedClock())
