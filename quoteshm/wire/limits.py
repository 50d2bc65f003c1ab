"""Who may connect, and how much may be logged: counts. No sockets.

A peer is counted under a name that `peer_key` gives: an IPv4 address, an IPv6 network of /64 (one
customer of an access provider has all of one), or a user of this machine for Unix sockets.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

#: Bits of an IPv6 address that name the network; the others its owner chooses at will.
NETWORK_BITS: Final = 64


def peer_key(host: str) -> str:
    """Name what connections from an IP address are counted under.

    Parameters
    ----------
    host : str
        An IPv4 or IPv6 address; one of neither kind stands for itself.

    Examples
    --------
    >>> peer_key("127.0.0.1"), peer_key("::ffff:127.0.0.1"), peer_key("2001:db8:0:1:2:3:4:5")
    ('127.0.0.1', '127.0.0.1', '2001:db8:0:1::/64')

    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    network = ipaddress.IPv6Network((int(address), NETWORK_BITS), strict=False)
    # The same link-local network is there once for each interface.
    return f"{network}%{address.scope_id}" if address.scope_id else str(network)


class Connections:
    """How many connections there are, in total and of each peer.

    Each call takes the same time however many there are, and a peer that has left is forgotten.

    Parameters
    ----------
    total : int
        So many may be there at a time.
    per_peer : int
        So many of one peer.

    """

    def __init__(self, total: int, per_peer: int) -> None:
        self.total, self.per_peer = total, per_peer
        self.count = 0
        self._of_peer: dict[str, int] = {}

    def admit(self, peer: str) -> str | None:
        """Count one more connection of a peer, or say why there may not be one.

        Returns
        -------
        str or None
            The reason; None if it is counted, and to be taken off by `leave`.

        """
        if self.count >= self.total:
            return f"{self.count} connections, at most {self.total}: try again later"
        mine = self._of_peer.get(peer, 0)
        if mine >= self.per_peer:
            return f"{mine} connections from {peer}, at most {self.per_peer}"
        self._of_peer[peer] = mine + 1
        self.count += 1
        return None

    def leave(self, peer: str) -> None:
        """Take off one connection that was admitted; KeyError if that peer has none."""
        left = self._of_peer[peer] - 1
        if left:
            self._of_peer[peer] = left
        else:
            del self._of_peer[peer]
        self.count -= 1

    def of(self, peer: str) -> int:
        """Give how many connections a peer has."""
        return self._of_peer.get(peer, 0)


class Call(Protocol):
    """What the reactor gives for one."""

    def cancel(self) -> None:
        """Do not call any more."""


class Schedule(Protocol):
    """What is asked of the reactor: the time, and a call later."""

    def seconds(self) -> float:
        """Give the time."""

    def callLater(self, delay: float, callable: Callable[[], None]) -> Call:  # noqa: A002, N802  Twisted's names
        """Call something later."""


class LogRation:
    """So many lines in a second; of the others only how many they were.

    A client that sends nothing but bad requests would otherwise fill the disk with their log.

    Parameters
    ----------
    clock : Schedule
        The reactor: it is asked for one call when lines were left out, and for none otherwise.
    tell : callable
        Told how many lines were left out, once the second is over.
    most : int
        Lines in a second.

    """

    PERIOD_S: Final = 1.0

    def __init__(self, clock: Schedule, tell: Callable[[int], object], most: int = 20) -> None:
        self.most = most
        self._clock, self._tell = clock, tell
        self._began_s = -self.PERIOD_S
        self._written = 0
        self._left_out = 0
        self._due: Call | None = None

    def allows(self) -> bool:
        """Whether this line is to be written; one that is not is counted."""
        now_s = self._clock.seconds()
        if not 0 <= now_s - self._began_s < self.PERIOD_S:
            self.close()  # should the call be late
            self._began_s, self._written = now_s, 0
        if self._written < self.most:
            self._written += 1
            return True
        self._left_out += 1
        if self._due is None:
            rest_s = self._began_s + self.PERIOD_S - now_s
            self._due = self._clock.callLater(rest_s, self._is_due)
        return False

    def close(self) -> None:
        """Tell now what is still to be told, and ask the reactor for nothing more."""
        due, self._due = self._due, None
        if due is not None:
            due.cancel()
        left_out, self._left_out = self._left_out, 0
        if left_out:
            self._tell(left_out)

    def _is_due(self) -> None:
        self._due = None
        self.close()
