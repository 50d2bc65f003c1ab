"""The file that holds the token."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from quoteshm.errors import SettingsError
from quoteshm.service.secret import MAX_TOKEN_NBYTES, read_token

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Give a file that only its owner may open."""
    path = tmp_path / "token"
    path.touch(0o600)
    return path


def refusal(path: Path) -> str:
    """Give what is said of a file that will not do."""
    with pytest.raises(SettingsError) as caught:
        read_token(path)
    said = str(caught.value)
    assert said.startswith(f"--auth-token-file: found '{path}")
    assert "\n" not in said
    return said


@pytest.mark.parametrize("content", ["s3cret", "s3cret\n", " s3cret \r\n\n"])
def test_the_token_is_the_line_without_white_space(file: Path, content: str) -> None:
    """As editors and ``echo`` leave it."""
    file.write_text(content)

    assert read_token(file) == b"s3cret"


def test_a_token_may_have_any_letters_and_spaces_in_it(file: Path) -> None:
    """It is text, and so it is compared."""
    file.write_text("k\u00e4se and biscuits\n")

    assert read_token(file) == "k\u00e4se and biscuits".encode()


@pytest.mark.parametrize(
    "content",
    [b"", b" \n", b"s3cret\nmore\n", b"s3cret\rmore", b"\xff\xfe", b"x" * (MAX_TOKEN_NBYTES + 1)],
)
def test_what_is_not_one_line_of_text_is_refused(file: Path, content: bytes) -> None:
    """And is not told to whoever reads the message."""
    file.write_bytes(content)

    assert "s3cret" not in refusal(file)


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o601, 0o644, 0o666])
def test_a_file_that_others_may_open_is_refused(file: Path, mode: int) -> None:
    """With its mode; one that its group may read is not."""
    file.write_text("s3cret")
    file.chmod(0o640)
    assert read_token(file) == b"s3cret"

    file.chmod(mode)
    said = refusal(file)
    assert f"mode {mode:04o}" in said
    assert "s3cret" not in said


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """Nothing there, a folder, and a pipe, for whose other end nobody waits."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)

    assert "No such file" in refusal(tmp_path / "none")
    assert "Is a directory" in refusal(tmp_path)
    assert "a regular file" in refusal(pipe)
