"""Who is at the other end of a connection, and what is asked of its socket."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import termios
from typing import Any, Final, NamedTuple

from quoteshm.wire.limits import peer_key

_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid
_COUNT: Final = struct.Struct("i")
_ACKED: Final = struct.Struct("120xQ")  # struct tcp_info, up to its tcpi_bytes_acked
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


class Taken(NamedTuple):
    """How far the other end has taken what it was sent, as the kernel knows it."""

    is_all: bool  # also what the kernel was given; of TCP alone: see `taken`
    mark: int  # another one as soon as it has taken anything


def taken(transport: Any, sent_nbytes: int) -> Taken:  # noqa: ANN401 (Twisted's, of several interfaces)
    """Ask the kernel how far the other end takes what it is sent.

    A socket asks for more only when a good part of its buffer is free, and takes more as long as
    there is room, whether anybody reads or not: neither says that the other end reads. What the
    kernel holds for a peer over TCP is also the only sign that its machine is gone; that a process
    of this machine is gone is told at once, so a Unix socket need not be emptied.

    Parameters
    ----------
    transport
        Of a connection, TLS or not.
    sent_nbytes : int
        What its socket was given.

    """
    handle = _socket_of(transport)
    if handle is None:
        return Taken(is_all=True, mark=sent_nbytes)
    try:
        (left,) = _COUNT.unpack(fcntl.ioctl(handle, termios.TIOCOUTQ, bytes(_COUNT.size)))
        if handle.family == socket.AF_UNIX:
            return Taken(is_all=True, mark=sent_nbytes - left)
        acked = handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKED.size)
        return Taken(left == 0, _ACKED.unpack(acked)[0])
    except (OSError, ValueError):  # it is closed
        return Taken(is_all=True, mark=sent_nbytes)


def tune(transport: Any) -> None:  # noqa: ANN401 (Twisted's, of several interfaces)
    """Send replies at once over TCP, and notice a peer that is gone. Other transports are let be.

    Not by TCP_USER_TIMEOUT: it ends the connections of slow readers, too, as their window is mostly
    closed.
    """
    handle = _socket_of(transport)
    if handle is None or handle.family == socket.AF_UNIX:
        return
    handle.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in ((socket.TCP_NODELAY, 1), *KEEP_ALIVE):
        handle.setsockopt(socket.IPPROTO_TCP, name, value)


def _socket_of(transport: Any) -> socket.socket | None:  # noqa: ANN401 (Twisted's, of several interfaces)
    below = getattr(transport, "transport", transport)  # TLS stands upon a transport of its own
    handle = getattr(below, "getHandle", lambda: None)()
    return handle if isinstance(handle, socket.socket) else None
