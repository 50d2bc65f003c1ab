"""The keyboard of a terminal, key by key."""

from __future__ import annotations

import os
import re
import select
import sys
import termios
import tty
from types import TracebackType
from typing import Final, Self

#: What the keys that are no letters send, and what they are called here.
_NAMES: Final = {
    b"\x1b[A": "up",
    b"\x1bOA": "up",
    b"\x1b[B": "down",
    b"\x1bOB": "down",
    b"\x1b[5~": "pgup",
    b"\x1b[6~": "pgdn",
    b"\x1b[H": "home",
    b"\x1bOH": "home",
    b"\x1b[1~": "home",
    b"\x1b[F": "end",
    b"\x1bOF": "end",
    b"\x1b[4~": "end",
    b" ": "pgdn",
}
_KEY: Final = re.compile(rb"\x1b\[[0-9;]*[A-Za-z~]|\x1bO[A-Z]|[^\x1b]|\x1b", re.DOTALL)
_CHUNK_NBYTES: Final = 256
_CHARACTERS: Final = 6  # where they are in what termios gives

#: The terminal has gone.
HANGUP: Final = "hangup"


class Keyboard:
    """The keys pressed at a terminal, at once and unseen; as it was, at the end.

    A context manager. Ctrl-C stays an interrupt, Ctrl-Z does nothing: it would leave the screen as
    it is. Without a terminal there are no keys.
    """

    def __init__(self) -> None:
        self._fd = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else None

    def __enter__(self) -> Self:
        if self._fd is not None:
            self._before = termios.tcgetattr(self._fd)
            tty.setcbreak(self._fd)
            mode = termios.tcgetattr(self._fd)
            mode[_CHARACTERS][termios.VSUSP] = b"\0"
            termios.tcsetattr(self._fd, termios.TCSADRAIN, mode)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._fd is not None:
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)

    def read(self, timeout_s: float) -> list[str]:
        """Give the keys that are pressed until the first of them or the time is up."""
        fds = [] if self._fd is None else [self._fd]
        if not select.select(fds, [], [], timeout_s)[0] or self._fd is None:
            return []
        try:
            return parse(os.read(self._fd, _CHUNK_NBYTES))
        except OSError:
            return [HANGUP]


def parse(sent: bytes) -> list[str]:
    """Name the keys that a terminal sent; nothing at all means that it has gone."""
    if not sent:
        return [HANGUP]
    return [_NAMES.get(key) or key.decode(errors="replace") for key in _KEY.findall(sent)]
