"""The file that holds the token."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from quoteshm.errors import SettingsError

OPTION: Final = "--auth-token-file"
MAX_TOKEN_NBYTES: Final = 4096
_OTHERS: Final = stat.S_IRWXO


def read_token(path: Path) -> bytes:
    """Read the token: the only line of its file, without the white space around it.

    Raises
    ------
    SettingsError
        The file cannot be read, or by everybody, or holds something else than one line of text.

    """
    try:
        # Not blocking: it may be a pipe that nobody writes to.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:  # noqa: PTH123 (a descriptor)
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise SettingsError(OPTION, str(path), "a regular file")
            if status.st_mode & _OTHERS:
                found = f"{path} with mode {stat.S_IMODE(status.st_mode):04o}"
                raise SettingsError(OPTION, found, "a file that others may not open (chmod o=)")
            content = file.read(MAX_TOKEN_NBYTES + 1)
    except OSError as error:
        raise SettingsError(OPTION, str(path), f"a file to read ({error.strerror})") from None
    token = content.strip()
    # The token itself is in no message.
    if not token or len(content) > MAX_TOKEN_NBYTES or len(token.splitlines()) > 1:
        expected = f"one line of 1 to {MAX_TOKEN_NBYTES} bytes in it"
        raise SettingsError(OPTION, str(path), expected)
    try:
        token.decode()
    except UnicodeDecodeError:
        raise SettingsError(OPTION, str(path), "UTF-8 in it") from None
    return token
