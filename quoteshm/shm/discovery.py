"""Ask a server where its segment is: one request, one line back, no library needed."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Final, NamedTuple

from quoteshm.errors import ConnectionFailedError, ErrorCode, RequestError, SettingsError

_TIMEOUT_S: Final = 5.0
_MAX_REPLY_BYTES: Final = 65_536
_REQUEST: Final = b'{"v":1,"id":"shm","type":"get_shm_name"}\n'


class Address(NamedTuple):
    """Where a segment is, and which one it is."""

    directory: Path
    name: str
    instance: str


def check(host: str, port: int) -> None:
    """Refuse what can be no server's address.

    Raises
    ------
    SettingsError

    """
    if not isinstance(host, str) or not _is_host(host):
        raise SettingsError("host", host, "a name with labels of 1 to 63 bytes, or an address")
    if port not in range(1 << 16):
        raise SettingsError("port", port, "0 to 65535")


def _is_host(host: str) -> bool:
    """Whether it can be looked up; `socket` takes names in this encoding."""
    try:
        return bool(host) and "\0" not in host and bool(host.encode("idna"))
    except UnicodeError:
        return False


def ask(host: str, port: int, timeout_s: float = _TIMEOUT_S) -> Address:
    """Ask the server at ``host`` and ``port`` for its segment.

    Raises
    ------
    ConnectionFailedError
        Nobody answers there, or not with this protocol.
    SettingsError
        There can be no server there.
    RequestError
        The server has no shared memory, or refuses to say.

    """
    check(host, port)
    place = f"{host}:{port}"
    try:
        with socket.create_connection((host, port), timeout_s) as connection:
            connection.sendall(_REQUEST)
            reply = json.loads(_line(connection, time.monotonic() + timeout_s))
    except OSError as error:
        raise ConnectionFailedError(place, error.strerror or str(error)) from error
    except (ValueError, RecursionError) as error:
        raise ConnectionFailedError(place, f"not a quoteshm server: {error}") from error
    try:
        if reply["type"] == "error":
            raise RequestError(ErrorCode(reply["error"]["code"]), reply["error"]["message"])
        data = reply["data"]
        return Address(Path(data["shm_dir"]), str(data["shm_name"]), str(data["instance"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ConnectionFailedError(place, f"not a quoteshm server: {reply!r:.200}") from error


def _line(connection: socket.socket, deadline: float) -> bytes:
    """Receive one line: of bounded length, and before the deadline however slowly it drips."""
    reply = b""
    while b"\n" not in reply:
        connection.settimeout(max(0.001, deadline - time.monotonic()))
        part = connection.recv(4096)
        if not part:
            raise ConnectionError("closed before it answered")
        reply += part
        if len(reply) > _MAX_REPLY_BYTES:
            raise ValueError(f"an answer of more than {_MAX_REPLY_BYTES} bytes")
        if time.monotonic() > deadline:
            raise TimeoutError("timed out")
    return reply.partition(b"\n")[0]
