"""The socket that systemd listens at, for whoever is to be heard there."""

from __future__ import annotations

import contextlib
import socket
import tempfile
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class NotifySocket:
    """A datagram socket, and what has come there.

    Attributes
    ----------
    address : str
        What ``NOTIFY_SOCKET`` is to say.

    """

    def __init__(self, own: socket.socket, address: str) -> None:
        self.address, self._own = address, own

    def come(self) -> list[list[str]]:
        """Give the messages that are there, each as its lines."""
        messages = []
        self._own.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                messages.append(self._own.recv(65536).decode().split("\n"))
        return messages

    def wait_for(self, start: str, timeout_s: float) -> list[list[str]]:
        """Wait for a line that starts so; give all messages up to that one.

        Raises
        ------
        TimeoutError
            It has not come.

        """
        until = time.monotonic() + timeout_s
        messages: list[list[str]] = []
        while True:
            left_s = until - time.monotonic()
            if left_s <= 0:
                message = f"no {start!r} in {messages}"
                raise TimeoutError(message)
            self._own.settimeout(left_s)
            with contextlib.suppress(TimeoutError):
                messages.append(self._own.recv(65536).decode().split("\n"))
                if any(line.startswith(start) for line in messages[-1]):
                    return messages


@contextlib.contextmanager
def notify_socket(*, abstract: bool = False) -> Iterator[NotifySocket]:
    """Listen as systemd does, at a path or at an abstract name."""
    with (
        tempfile.TemporaryDirectory() as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as own,
    ):
        name = f"quoteshm-{uuid.uuid4().hex}"
        address = f"@{name}" if abstract else str(Path(folder) / "notify")
        own.bind(f"\0{name}" if abstract else address)
        yield NotifySocket(own, address)
