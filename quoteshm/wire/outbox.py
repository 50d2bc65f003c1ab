"""What is to be sent to one client: at once where nothing is queued, in order, never copied twice.

Twisted's `transport.write` sends in the next turn of the reactor, and joins what is queued for each
client anew. A plain socket that has nothing queued can be given the bytes at once; what it does not
take stays here as it is, also where a thousand clients are to get the same, and goes out as the
client reads. TLS has buffers of its own and goes the ordinary way.
"""

from __future__ import annotations

import errno
import socket
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

from twisted.internet import tcp
from twisted.internet.interfaces import IPullProducer, IPushProducer
from zope.interface import implementer

#: What one client is sent in one turn of the reactor, however fast it reads.
TURN_NBYTES: Final = 1 << 20
#: What a transport with a buffer is given at a time: as much as one of Twisted's takes for full.
PIECE_NBYTES: Final = 1 << 16
#: The socket takes nothing at the moment.
_NO_ROOM: Final = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS})


class Transport(Protocol):
    """What is asked of a transport: a byte stream that says when it has enough."""

    def write(self, data: bytes) -> None: ...  # noqa: D102  Twisted's, as the others
    def loseConnection(self) -> None: ...  # noqa: D102, N802
    def abortConnection(self) -> None: ...  # noqa: D102, N802
    def pauseProducing(self) -> None: ...  # noqa: D102
    def resumeProducing(self) -> None: ...  # noqa: D102
    def registerProducer(self, producer: object, streaming: bool) -> None: ...  # noqa: D102, FBT001, N802
    def unregisterProducer(self) -> None: ...  # noqa: D102, N802


def is_plain(transport: object) -> bool:
    """Whether it is a socket that takes and gives the bytes themselves."""
    return isinstance(transport, tcp.Connection) and not getattr(transport, "TLS", False)


def outbox(transport: Transport, cleared: Callable[[], None]) -> Outbox:
    """Give the outbox for a transport; ``cleared`` is called whenever a backlog is gone."""
    if is_plain(transport):
        return SocketOutbox(transport, cleared)
    return BufferedOutbox(transport, cleared)


class Outbox:
    """What both ways have in common.

    Attributes
    ----------
    is_clear : bool
        Whether nothing waits for the client to read.
    sent_nbytes : int
        Taken by the transport so far: where it grows, the client reads.

    """

    def __init__(self, cleared: Callable[[], None]) -> None:
        self.is_clear, self.sent_nbytes = True, 0
        self._cleared = cleared
        self._queue: deque[memoryview] = deque()

    @property
    def queued_nbytes(self) -> int:
        """What is kept here."""
        return sum(map(len, self._queue))

    def send(self, *parts: bytes) -> None:
        """Send the parts, one after the other; never calls ``cleared`` itself."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the connection once everything is sent."""
        raise NotImplementedError

    def stopProducing(self) -> None:
        """Let go of everything: the connection is gone, or to go at once."""
        raise NotImplementedError

    def _keep(self, parts: tuple[bytes, ...], sent: int = 0) -> None:
        """Keep what is not sent of parts."""
        for part in parts:
            if sent < len(part):
                self._queue.append(memoryview(part)[sent:])
            sent = max(0, sent - len(part))

    def _take_off(self, sent: int) -> None:
        """Take what is sent off the first part that is kept."""
        self.sent_nbytes += sent
        if sent < len(self._queue[0]):
            self._queue[0] = self._queue[0][sent:]
        else:
            self._queue.popleft()


@implementer(IPullProducer)
class SocketOutbox(Outbox):
    """Over a plain socket. It is the transport's producer for as long as there is a backlog."""

    def __init__(self, transport: Any, cleared: Callable[[], None]) -> None:  # noqa: ANN401  no type says what is used of it
        super().__init__(cleared)
        self._transport = transport
        self._socket: socket.socket = transport.getHandle()
        self._is_sending = self._is_gone = False

    def send(self, *parts: bytes) -> None:
        """Send at once what the socket takes, and keep the rest."""
        if not self.is_clear:
            if not self._is_gone:
                self._keep(parts)
            return
        if not self._transport.connected:
            return
        try:
            # One part by the faster call, which most replies are.
            sent = self._socket.send(parts[0]) if len(parts) == 1 else self._socket.sendmsg(parts)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                self._let_go()
                return
            sent = 0
        self.sent_nbytes += sent
        if sent < (len(parts[0]) if len(parts) == 1 else sum(map(len, parts))):
            self._keep(parts, sent)
            self.is_clear = False
            self._is_sending = True
            self._transport.registerProducer(self, streaming=False)  # which asks it for more
            self._is_sending = False

    def resumeProducing(self) -> None:
        """Send more: the transport calls this whenever the socket takes some."""
        left = 0 if self._is_sending else TURN_NBYTES
        while self._queue and left > 0:
            try:
                sent = self._socket.send(self._queue[0])
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    self._let_go()
                    return
                break
            left -= sent
            self._take_off(sent)
        if self._queue:
            self._transport.startWriting()  # nothing of its own to write, and then back to here
            return
        self.is_clear = True
        self._transport.unregisterProducer()
        self._cleared()

    def stopProducing(self) -> None:
        """Let go of everything: the connection is gone."""
        self.is_clear, self._is_gone = False, True
        self._queue.clear()

    def close(self) -> None:
        """Close the connection once everything is sent: the transport waits for its producer."""
        self._transport.loseConnection()

    def _let_go(self) -> None:
        """Have the transport tell everybody that the client is gone."""
        self.stopProducing()
        self._transport.abortConnection()


@implementer(IPushProducer)
class BufferedOutbox(Outbox):
    """Over any transport, which has a buffer, and says when that is full and when it is empty.

    The transport is given a piece after the other, so what waits is kept here, where a thousand
    clients share it; and as it takes them it is seen whether the client reads.
    """

    def __init__(self, transport: Transport, cleared: Callable[[], None]) -> None:
        super().__init__(cleared)
        self._transport = transport
        self._is_full = self._is_closing = self._is_gone = False
        transport.registerProducer(self, streaming=True)

    def send(self, *parts: bytes) -> None:
        """Give the transport what it takes, and keep the rest."""
        if self._is_gone:
            return
        if self.is_clear and sum(map(len, parts)) <= PIECE_NBYTES:
            data = b"".join(parts)
            self.sent_nbytes += len(data)
            self._transport.write(data)
        else:
            self._keep(parts)
            self._write()
        self.is_clear = not (self._is_full or self._queue or self._is_gone)

    def _write(self) -> None:
        while self._queue and not self._is_full:
            piece = self._queue[0][:PIECE_NBYTES]
            self._take_off(len(piece))
            self._transport.write(bytes(piece))

    def pauseProducing(self) -> None:
        """Have a backlog."""
        self.is_clear, self._is_full = False, True

    def resumeProducing(self) -> None:
        """Go on, until the transport is full again or there is nothing left."""
        self._is_full = False
        self._write()
        if self._is_full:
            return
        self.is_clear = True
        if self._is_closing:
            self._lose()
        else:
            self._cleared()

    def stopProducing(self) -> None:
        """Be done: the connection is gone."""
        self.is_clear, self._is_gone = False, True
        self._queue.clear()

    def close(self) -> None:
        """Close the connection once everything is sent."""
        self._is_closing = True
        if not self._queue:
            self._lose()

    def _lose(self) -> None:
        self._transport.unregisterProducer()  # a transport with a producer would wait for it
        self._transport.loseConnection()
