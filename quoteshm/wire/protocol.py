"""The wire over Twisted: bytes to `framing`, lines to `operations`, replies to the transport.

Replies are written a chunk at a time, and never faster than the client reads them: when the
transport says that it has enough, neither the lines that are here are answered nor more are read,
until it asks for more. Nor are more than some lines of one client answered at a time: then all the
others have their turn.
"""
# ruff: noqa: N802  methods named as Twisted calls them

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, Protocol, cast

from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import ServerFactory
from twisted.logger import Logger, LogLevel
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from quoteshm.errors import ErrorCode
from quoteshm.wire import operations
from quoteshm.wire.framing import LineFramer, Overlong

if TYPE_CHECKING:
    from collections.abc import Callable

    from quoteshm.errors import RequestError
    from quoteshm.wire.operations import Context

#: Replies of one chunk are written together, up to about this many bytes: what one write may add,
#: besides one reply, to the memory of a client that does not read.
WRITE_NBYTES: Final = 65_536
#: Lines of one client that are answered in one turn of the reactor. A chunk can hold 2,000 requests
#: and more, for whose answers all other clients and the market would have to wait 0.1 s.
TURN_LINES: Final = 64
LOGGED_NBYTES: Final = 256


class Turns(Protocol):
    """What is asked of the reactor: another turn."""

    def callLater(self, delay: float, callable: Callable[[], None]) -> object:  # noqa: A002  Twisted's
        """Call something later."""


class _Transport(Protocol):
    """What is asked of the transport: a byte stream that can be paused."""

    def write(self, data: bytes) -> None: ...
    def loseConnection(self) -> None: ...
    def pauseProducing(self) -> None: ...
    def resumeProducing(self) -> None: ...
    def registerProducer(self, producer: object, streaming: bool) -> None: ...  # noqa: FBT001  Twisted's
    def unregisterProducer(self) -> None: ...


@implementer(IHalfCloseableProtocol)
class QuoteProtocol(LineReceiver):
    """One client's connection. `lineReceived` is the place where one line is answered.

    Parameters
    ----------
    context : Context
        What requests are answered from.
    turns : Turns
        The reactor.
    peer : str
        The client's address, for the log.
    log_traffic : bool
        Whether each request and each reply is logged, at debug.

    """

    delimiter = b"\n"
    log = Logger()

    def __init__(
        self, context: Context, turns: Turns, peer: str = "", *, log_traffic: bool = True
    ) -> None:
        self.context, self.peer, self.log_traffic = context, peer, log_traffic
        self._turns = turns
        self._framer = LineFramer(context.max_line_bytes)
        self._replies: list[bytes] = []
        self._replies_nbytes = 0
        self._answering = False
        self._awaits_turn = False  # has answered enough for now, though there are more lines
        self._ended = False  # the client has sent its last byte

    # -- what the transport calls ------------------------------------------------------------

    def connectionMade(self) -> None:
        """Have the transport say when the client reads too slowly."""
        self._transport.registerProducer(self, streaming=True)

    def dataReceived(self, data: bytes) -> None:
        """Answer the lines of one chunk with one write."""
        self._framer.feed(data)
        self._answer_lines()

    # `pauseProducing` and `stopProducing` are LineReceiver's own: they set `paused`.

    def resumeProducing(self) -> None:
        """Go on with the lines that are here, then with reading: the client has caught up."""
        self.paused = False
        self._go_on()

    def readConnectionLost(self) -> None:
        """Give a client that has closed its half all its replies, then close the other half."""
        self._ended = True
        self._answer_lines()

    def writeConnectionLost(self) -> None:
        """Never comes: this side does not close one half alone."""

    # -- lines -------------------------------------------------------------------------------

    def lineReceived(self, line: bytes) -> None:
        """Answer one line."""
        if self.log_traffic:
            self.log.debug("{peer} asks {request}", peer=self.peer, request=loggable(line))
        answer = operations.answer(self.context, line)
        if answer.error is not None:
            self._log_error(answer.error, line)
        self._send(answer.reply)

    def lineLengthExceeded(self, line: bytes) -> None:
        """Answer a line that was too long; the connection goes on with the next one.

        Parameters
        ----------
        line : bytes
            What was kept of it: its head.

        """
        answer = operations.overlong(self.context)
        if answer.error is not None:
            self._log_error(answer.error, line)
        self._send(answer.reply)

    def _answer_lines(self) -> None:
        """Answer the lines that are here: a turn's, as long as the transport takes the replies."""
        if self.paused or self._answering or self._awaits_turn:
            return
        self._answering = True
        try:
            for count, line in enumerate(self._framer, 1):
                self._answer(line)
                if self.paused:
                    return
                if count == TURN_LINES:
                    self._await_turn()
                    return
            if self._ended:
                self._end()
        finally:
            self._answering = False
            self._flush()

    def _await_turn(self) -> None:
        """Leave the rest, and what is still to be read, until all others had their turn."""
        self._awaits_turn = True
        if not self._ended:
            self._transport.pauseProducing()
        self._turns.callLater(0, self._take_turn)

    def _take_turn(self) -> None:
        self._awaits_turn = False
        self._go_on()

    def _go_on(self) -> None:
        self._answer_lines()
        if not (self.paused or self._awaits_turn or self._ended):
            self._transport.resumeProducing()

    def _answer(self, line: bytes | Overlong) -> None:
        if isinstance(line, Overlong):
            self.lineLengthExceeded(line.head)
        else:
            self.lineReceived(line)

    def _end(self) -> None:
        last = self._framer.finish()
        if last is not None:
            self._answer(last)
        self._flush()
        # A transport with a producer waits for it before it closes.
        self._transport.unregisterProducer()
        self._transport.loseConnection()

    def _send(self, reply: bytes) -> None:
        if self.log_traffic:
            self.log.debug("{peer} gets {reply}", peer=self.peer, reply=loggable(reply))
        self._replies.append(reply)
        self._replies_nbytes += len(reply)
        if not self._answering or self._replies_nbytes >= WRITE_NBYTES:
            self._flush()

    def _flush(self) -> None:
        if self._replies:
            replies, self._replies, self._replies_nbytes = self._replies, [], 0
            self._transport.write(b"".join(replies))

    # -- log ---------------------------------------------------------------------------------

    def _log_error(self, error: RequestError, line: bytes) -> None:
        fields = {
            "peer": self.peer,
            "code": str(error.code),
            "reason": loggable(error.message.encode()),
            "request": loggable(line),
        }
        form = "{peer} gets {code}: {reason}; it asked {request}"
        if error.code is ErrorCode.INTERNAL and error.__cause__ is not None:
            self.log.failure(form, Failure(error.__cause__), LogLevel.error, **fields)
        else:
            self.log.info(form, **fields)

    @property
    def _transport(self) -> _Transport:
        return cast("_Transport", self.transport)


class QuoteFactory(ServerFactory):
    """Makes a `QuoteProtocol` for each connection.

    Parameters
    ----------
    context : Context
        What requests are answered from.
    turns : Turns
        The reactor.
    log_traffic : bool
        Whether each request and each reply is logged, at debug. To be turned off where nobody
        listens at that level: a log event costs more than an answer.

    """

    noisy = False

    def __init__(self, context: Context, turns: Turns, *, log_traffic: bool = True) -> None:
        self.context, self.turns, self.log_traffic = context, turns, log_traffic

    def buildProtocol(self, addr: object) -> QuoteProtocol:
        """Make the protocol of one connection."""
        peer = peer_name(addr)
        protocol = QuoteProtocol(self.context, self.turns, peer, log_traffic=self.log_traffic)
        protocol.factory = self
        return protocol


def peer_name(address: object) -> str:
    """Give an address as a person writes it: ``127.0.0.1:50000``, ``[::1]:50000``, a path."""
    host, port = getattr(address, "host", None), getattr(address, "port", None)
    if host is not None:
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    path = getattr(address, "name", None)  # of a Unix socket; a client's has mostly none
    return os.fsdecode(path) if path else "a local process"


def loggable(text: bytes) -> str:
    """Cut what came from outside to a length, and make it harmless to a terminal."""
    cut = text[:LOGGED_NBYTES].decode("utf-8", "backslashreplace").rstrip("\n")
    return cut if cut.isprintable() else cut.encode("unicode_escape").decode("ascii")
