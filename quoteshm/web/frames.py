"""The wire in WebSocket frames: a transport for `QuoteProtocol`, which knows nothing of it.

A message is a line of the wire without its end, both ways. `Socket` takes frames apart and hands
the lines on as they come, so that a message of any length is held no longer than the wire holds a
line; `Frames` is what the protocol writes to. Events come in pieces, as the client reads them: each
piece becomes a fragment of its message, and nothing is kept here.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from wsproto.connection import Connection
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage
from wsproto.frame_protocol import CloseReason
from zope.interface import implementer

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from quoteshm.wire.protocol import QuoteProtocol

_TEXT: Final = 0x1
_CONTINUED: Final = 0x0
_LAST: Final = 0x80
_SHORT_NBYTES: Final = 125
_MEDIUM_NBYTES: Final = 0xFFFF
#: What is looked at of one client before the others have their turn: a frame may be six bytes.
TURN_EVENTS: Final = 256


def frame_head(opcode: int, nbytes: int) -> bytes:
    """Give what stands before the bytes of a frame that a server sends."""
    if nbytes <= _SHORT_NBYTES:
        return bytes((opcode, nbytes))
    if nbytes <= _MEDIUM_NBYTES:
        return struct.pack("!BBH", opcode, 126, nbytes)
    return struct.pack("!BBQ", opcode, 127, nbytes)


@implementer(IPushProducer)
class _Fullness:
    """Stands between a transport and its producer, to know whether the client reads."""

    def __init__(self, producer: Any) -> None:  # noqa: ANN401  an interface, to no type checker
        self._producer = producer
        self.is_full = False

    def pauseProducing(self) -> None:
        """Be full."""
        self.is_full = True
        self._producer.pauseProducing()

    def resumeProducing(self) -> None:
        """Be empty."""
        self.is_full = False
        self._producer.resumeProducing()

    def stopProducing(self) -> None:
        """Be gone."""
        self._producer.stopProducing()


class Frames:
    """A transport of lines that sends each of them as a text message.

    Parameters
    ----------
    transport
        What the frames go over.
    connection : wsproto.connection.Connection
        The state of the WebSocket.

    Attributes
    ----------
    is_over : bool
        Whether the last frame is sent.

    """

    def __init__(self, transport: Any, connection: Connection) -> None:  # noqa: ANN401  Twisted's
        self.transport = transport  # under this name TLS has its own, too
        self._connection = connection
        self._in_message = self.is_over = False
        self._is_held = self._is_paused = False
        self._fullness: _Fullness | None = None

    # -- what the wire asks of a transport ---------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send lines, or a part of one."""
        if self.is_over:
            return
        parts, at = list[bytes](), 0
        while at < len(data):
            end = data.find(b"\n", at)
            is_whole = end >= 0
            stop = end if is_whole else len(data)
            opcode = _CONTINUED if self._in_message else _TEXT
            parts += (frame_head(opcode | (_LAST if is_whole else 0), stop - at), data[at:stop])
            self._in_message = not is_whole
            at = stop + 1
        self.transport.write(b"".join(parts))

    def loseConnection(self) -> None:  # noqa: N802  Twisted's, as the others
        """Take leave, and close when everything is sent."""
        self.say_goodbye(CloseReason.NORMAL_CLOSURE)
        self.transport.loseConnection()

    def abortConnection(self) -> None:  # noqa: N802
        """Close at once."""
        self.is_over = True
        self.transport.abortConnection()

    def pauseProducing(self) -> None:
        """Read no more for now."""
        self._is_paused = True
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        """Read on, unless there is still something to look at of what was read."""
        self._is_paused = False
        if not self._is_held:
            self.transport.resumeProducing()

    def registerProducer(self, producer: object, streaming: bool) -> None:  # noqa: FBT001, N802
        """Tell somebody when there is room and when there is none."""
        self._fullness = _Fullness(producer)
        self.transport.registerProducer(self._fullness, streaming)

    def unregisterProducer(self) -> None:  # noqa: N802
        """Tell nobody any more."""
        self.transport.unregisterProducer()

    def getPeer(self) -> Any:  # noqa: ANN401, N802
        """Say who is at the other end."""
        return self.transport.getPeer()

    def getHost(self) -> Any:  # noqa: ANN401, N802
        """Say what is at this end."""
        return self.transport.getHost()

    # -- what the socket asks ----------------------------------------------------------------

    def hold(self) -> None:
        """Read no more until what was read has been looked at."""
        self._is_held = True
        if not self.is_over:
            self.transport.pauseProducing()

    def release(self) -> None:
        """Read on, unless the wire wants none of it."""
        self._is_held = False
        if not (self._is_paused or self.is_over):
            self.transport.resumeProducing()

    def pong(self, ping: Ping) -> None:
        """Answer a ping, unless nothing of what is sent is read: then one of the next."""
        if not self.is_over and (self._fullness is None or not self._fullness.is_full):
            self.transport.write(self._connection.send(ping.response()))

    def say_goodbye(self, code: int, reason: str = "") -> None:
        """Send the last frame."""
        if not self.is_over:
            self.is_over = True
            self.transport.write(self._connection.send(CloseConnection(code, reason)))


class Socket:
    """The protocol of a connection that has become a WebSocket.

    Parameters
    ----------
    connection : wsproto.connection.Connection
        Its state, after the handshake.
    client : QuoteProtocol
        Who is told the lines.

    """

    log = Logger()

    def __init__(self, connection: Connection, client: QuoteProtocol) -> None:
        self._connection, self._client = connection, client
        self._frames: Frames | None = None
        self._is_over = self._awaits_turn = False

    def makeConnection(self, transport: Any) -> None:  # noqa: ANN401, N802  Twisted's
        """Begin."""
        self._frames = Frames(transport, self._connection)
        self._client.makeConnection(self._frames)  # type: ignore[no-untyped-call]

    def dataReceived(self, data: bytes) -> None:
        """Hand on the lines of what has come."""
        if self._is_over:
            return
        self._connection.receive_data(data)
        if not self._awaits_turn:
            self._take_events()

    def connectionLost(self, reason: Failure) -> None:
        """End."""
        self._is_over = True
        self._client.connectionLost(reason)

    def _take_events(self) -> None:
        """Take as many as a turn allows; the others when every other client had its own."""
        lines: list[bytes] = []
        for count, event in enumerate(self._connection.events(), 1):
            if isinstance(event, TextMessage):
                # Between two messages only; JSON has such an end nowhere but between its words.
                lines.append(event.data.encode().replace(b"\n", b" "))
                if event.message_finished:
                    lines.append(b"\n")
            else:
                self._hand_on(lines)
                self._heed(event)
            if self._is_over:
                return
            if count == TURN_EVENTS:
                self._await_turn()
                break
        self._hand_on(lines)

    def _await_turn(self) -> None:
        assert self._frames is not None  # noqa: S101  for the type checker: it has begun
        self._awaits_turn = True
        self._frames.hold()
        self._client.server.turns.callLater(0, self._take_turn)

    def _take_turn(self) -> None:
        self._awaits_turn = False
        if self._is_over or self._frames is None:
            return
        self._take_events()
        if not (self._awaits_turn or self._is_over):
            self._frames.release()

    def _hand_on(self, lines: list[bytes]) -> None:
        """Hand on what has come together: its replies are sent together, too."""
        if lines:
            data = b"".join(lines)
            lines.clear()
            self._client.dataReceived(data)

    def _heed(self, event: object) -> None:
        assert self._frames is not None  # noqa: S101  for the type checker: it has begun
        if isinstance(event, Ping):
            self._frames.pong(event)
        elif isinstance(event, BytesMessage):
            self._end(CloseReason.UNSUPPORTED_DATA, "requests are text")
        elif isinstance(event, CloseConnection):  # the client's, or what wsproto makes of nonsense
            code = event.code
            if code == CloseReason.NO_STATUS_RCVD:  # which no frame may say
                code = CloseReason.NORMAL_CLOSURE
            self._end(code, event.reason or "")

    def _end(self, code: int, reason: str) -> None:
        assert self._frames is not None  # noqa: S101  as above
        self._is_over = True
        if self._frames.is_over:  # this is the client's answer to what was said here
            return
        self._frames.say_goodbye(code, reason)
        self._client.drain()
