"""Who is at the other end."""

from __future__ import annotations

import os
import socket
from typing import Any

import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.testing import StringTransport

from quoteshm.wire.peers import (
    Credentials,
    Peer,
    Taken,
    credentials_of,
    peer_name,
    peer_of,
    taken,
    tune,
)


class Transport:
    """A transport that stands on a socket, as Twisted's do."""

    def __init__(self, handle: object, peer: object = None) -> None:
        self.handle, self.peer = handle, peer

    def getHandle(self) -> object:  # noqa: N802  Twisted's name
        """Give the socket."""
        return self.handle

    def getPeer(self) -> object:  # noqa: N802  Twisted's name
        """Give the address."""
        return self.peer


class OverTLS(Transport):
    """One that stands on another transport."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(object(), transport.peer)
        self.transport = transport


@pytest.mark.parametrize(
    ("address", "peer"),
    [
        (IPv4Address("TCP", "192.0.2.1", 50000), Peer("192.0.2.1:50000", "192.0.2.1")),
        (IPv6Address("TCP", "2001:db8::7", 1), Peer("[2001:db8::7]:1", "2001:db8::/64")),
        (UNIXAddress(b"/run/x"), Peer("/run/x", "/run/x")),
        (UNIXAddress(b""), Peer("a local process", "a local process")),
        (None, Peer("a local process", "a local process")),
    ],
)
def test_a_peer_has_a_name_and_a_key(address: object, peer: Peer) -> None:
    """Of every kind of address, on a transport without a socket."""
    transport: Any = StringTransport()
    transport.getPeer = lambda: address

    assert peer_of(transport) == peer
    assert peer_name(address) == peer.name


def test_the_kernel_knows_who_connects_over_a_unix_socket() -> None:
    """Here, the same process at both ends."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        expected = Credentials(os.getpid(), os.getuid(), os.getgid())
        transport = Transport(ours, UNIXAddress(b""))

        assert credentials_of(transport) == expected
        assert peer_of(transport) == Peer(
            f"pid {os.getpid()} uid {os.getuid()}", f"uid {os.getuid()}", expected
        )


@pytest.mark.parametrize("wrap", [lambda t: t, OverTLS], ids=["tcp", "tls"])
def test_tcp_connections_are_kept_alive_and_do_not_wait(wrap: Any) -> None:
    """TLS or not."""
    with socket.socket() as tcp:
        tune(wrap(Transport(tcp)))

        assert tcp.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60
        assert tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 0


def test_what_is_no_tcp_socket_is_let_be() -> None:
    """A Unix socket has no such options, and a test's transport no socket."""
    with socket.socket(socket.AF_UNIX) as unix:
        tune(Transport(unix))
    tune(StringTransport())


def settled(transport: Any, mark: int) -> Taken:
    """Wait for the acknowledgements of so much."""
    while (found := taken(transport, 0)).mark < mark:
        pass
    return found


@pytest.mark.parametrize("wrap", [lambda t: t, OverTLS], ids=["tcp", "tls"])
def test_the_kernel_knows_what_the_other_end_has_taken(wrap: Any) -> None:
    """Not what it was given: without a reader that is much more."""
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        with socket.create_connection(listening.getsockname()) as ours:
            theirs, _ = listening.accept()
            with theirs:
                transport = wrap(Transport(ours))
                first = taken(transport, 0)
                assert first.is_all
                ours.sendall(b"x" * 100)
                assert settled(transport, first.mark + 100).is_all
                ours.sendall(b"x" * 100_000)
                assert not taken(transport, 0).is_all
                left = 100_100
                while left:
                    left -= len(theirs.recv(1000))
                assert settled(transport, first.mark + 100_100).is_all
        assert taken(transport, 7) == Taken(is_all=True, mark=7)


def test_over_a_unix_socket_only_a_move_is_seen() -> None:
    """And over a transport without a socket, what it was given."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        transport = Transport(ours, UNIXAddress(b""))
        ours.sendall(b"x" * 1000)
        before = taken(transport, 1000)
        assert before.is_all
        theirs.recv(1000)
        assert taken(transport, 1000) != before
    assert taken(StringTransport(), 7) == Taken(is_all=True, mark=7)
