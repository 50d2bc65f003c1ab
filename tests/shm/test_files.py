"""What is no file of a segment: it is named, and nothing of it is touched."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from quoteshm.errors import ForeignFileError, SegmentError, SegmentNotFoundError
from tests.shm.helpers import file_image
from tests.shm.opening import Open, both, needs_root, read, refusal, write

NULL_DEVICE = Path(os.devnull)


def test_a_missing_segment_is_named(tmp_path: Path) -> None:
    """The reader says which file is missing."""
    with pytest.raises(SegmentNotFoundError, match=r"nothing-here"):
        read(tmp_path / "nothing-here")


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


def test_a_name_that_is_too_long_is_a_typed_error(tmp_path: Path) -> None:
    """The file system says so, and we pass it on."""
    with pytest.raises(SegmentError, match="too long"):
        write(tmp_path / ("n" * 300))


def test_a_name_that_no_file_can_have_is_a_typed_error(tmp_path: Path) -> None:
    """A NUL would end it."""
    with pytest.raises(SegmentError, match="NUL"):
        read(tmp_path / "shm\0zero")
