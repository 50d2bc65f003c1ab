"""Who is at the other end of a connection, and what is asked of its socket."""

from __future__ import annotations

import os
import socket
import struct
from typing import Any, Final, NamedTuple

from quoteshm.wire.limits import peer_key

_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid
#: A peer whose machine is gone is noticed after so long: 60 s of silence, and 4 unanswered probes.
KEEP_ALIVE: Final = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4))


class Credentials(NamedTuple):
    """Of the process that a Unix socket was connected by, as the kernel has them."""

    pid: int
    uid: int
    gid: int

    def __str__(self) -> str:
        return f"pid {self.pid} uid {self.uid}"


class Peer(NamedTuple):
    """The other end of a connection."""

    name: str  # for people: 127.0.0.1:50000, [::1]:50000, pid 123 uid 1000
    key: str  # what its connections are counted under
    credentials: Credentials | None = None  # of a Unix socket


def peer_of(transport: Any) -> Peer:  # noqa: ANN401 (Twisted's, of several interfaces)
    """Say who is at the other end of a transport."""
    credentials = credentials_of(transport)
    if credentials is not None:
        return Peer(str(credentials), f"uid {credentials.uid}", credentials)
    address = transport.getPeer()
    name = peer_name(address)
    host = getattr(address, "host", None)
    return Peer(name, name if host is None else peer_key(host))


def credentials_of(transport: Any) -> Credentials | None:  # noqa: ANN401 (Twisted's, of several interfaces)
    """Ask the kernel who is at the other end of a Unix socket; None for any other transport."""
    handle = getattr(transport, "getHandle", lambda: None)()
    if not isinstance(handle, socket.socket) or handle.family != socket.AF_UNIX:
        return None
    return credentials_at(handle)


def credentials_at(unix: socket.socket) -> Credentials:
    """Ask the kernel who is at the other end of a Unix socket that is connected."""
    found = unix.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return Credentials(*_CREDENTIALS.unpack(found))


def peer_name(address: object) -> str:
    """Give an address as a person writes it: ``127.0.0.1:50000``, ``[::1]:50000``, a path."""
    host, port = getattr(address, "host", None), getattr(address, "port", None)
    if host is not None:
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    path = getattr(address, "name", None)  # of a Unix socket; a client's has mostly none
    return os.fsdecode(path) if path else "a local process"


def tune(transport: Any, write_timeout_s: float | None = None) -> None:  # noqa: ANN401 (Twisted's, of several interfaces)
    """Send replies at once over TCP, and notice a peer that is gone. Other transports are let be.

    Parameters
    ----------
    transport
        Of a new connection, TLS or not.
    write_timeout_s : float, optional
        What the kernel has sent and nobody takes for so long ends the connection.

    """
    below = getattr(transport, "transport", transport)  # TLS stands upon a transport of its own
    handle = getattr(below, "getHandle", lambda: None)()
    if not isinstance(handle, socket.socket) or handle.family == socket.AF_UNIX:
        return
    handle.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = [(socket.TCP_NODELAY, 1), *KEEP_ALIVE]
    if write_timeout_s is not None:
        options.append((socket.TCP_USER_TIMEOUT, max(1, round(write_timeout_s * 1000))))
    for name, value in options:
        handle.setsockopt(socket.IPPROTO_TCP, name, value)
