"""The wire over Twisted: bytes to `framing`, lines to `operations`, replies to `outbox`.

Replies are sent a chunk at a time, and never faster than the client reads them: as long as it has a
backlog, neither the lines that are here are answered nor more are read. Nor are more than some
lines of one client answered at a time: then all the others have their turn.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import ServerFactory, connectionDone
from twisted.logger import Logger, LogLevel
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from quoteshm.errors import ErrorCode, RequestError
from quoteshm.text import printable
from quoteshm.wire import operations
from quoteshm.wire.auth import WRONG_TOKEN, Gate
from quoteshm.wire.framing import LineFramer, Overlong
from quoteshm.wire.intake import Intake, Reading
from quoteshm.wire.limits import Connections, LogRation
from quoteshm.wire.outbox import Outbox, Transport, is_plain, outbox
from quoteshm.wire.peers import Peer, Taken, peer_of, taken, tune
from quoteshm.wire.push import Hub
from quoteshm.wire.shortcut import LONGEST_NBYTES, Shortcut
from quoteshm.wire.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quoteshm.wire.limits import Call, Schedule
    from quoteshm.wire.messages import Id
    from quoteshm.wire.operations import Context

#: Replies of one turn are sent together, and with about this many bytes it is over: what a turn may
#: add, besides one reply, to the memory of a client that does not read, and to the time that all
#: others wait.
WRITE_NBYTES: Final = 65_536
LOGGED_NBYTES: Final = 256
#: Clients that are being told that there is no room for them, at a time: over TLS one that never
#: shakes hands has a file for as long as the write time-out.
MAX_TURNED_AWAY: Final = 32
#: What no log is to have; also where the line is none, its end is missing, or the key is written
#: with escapes.
_TOKEN: Final = re.compile(
    rb'("%b"\s*:\s*)"(?:[^"\\]|\\.)*"?'
    % b"".join(rb"(?:%c|\\u00(?i:%02x))" % (letter, letter) for letter in b"token"),
    re.DOTALL,
)


@implementer(IHalfCloseableProtocol)
class QuoteProtocol(LineReceiver):
    """One client's connection. `lineReceived` is the place where one line is answered.

    Parameters
    ----------
    server : QuoteFactory
        What all connections have in common.

    """

    delimiter = b"\n"
    log = Logger()
    peer: Peer
    _outbox: Outbox
    _reading: Reading

    def __init__(self, server: QuoteFactory) -> None:
        self.server, self.context = server, server.context
        self._bounds, self._tally = server.context.bounds, server.tally
        self._framer = LineFramer(self._bounds.max_line_bytes)
        self._shortcut = server.shortcut if server.gate.is_open else None
        self._is_let_in = server.gate.is_open
        self._replies: list[bytes] = []
        self._replies_nbytes = 0
        self._answering = False
        self._has_enough = False  # of this turn, as its replies are long
        self._awaits_turn = False  # has answered enough for now, though there are more lines
        self._ended = False  # no more lines will come, or be answered
        self._closing = False  # as soon as the client has everything
        self._draining = False
        self._lines_seen = False  # since it was last looked after
        self._heard_s = self._moved_s = 0.0
        self._taken = Taken(is_all=True, mark=0)
        self._taken_nbytes = 0  # sent, and known to be taken

    # -- what the transport calls ------------------------------------------------------------

    def connectionMade(self) -> None:
        """Let the client in, or tell it why not."""
        transport = cast("Any", self.transport)
        self.peer = peer_of(transport)
        tune(transport)
        self._outbox = outbox(transport, self._caught_up)
        self._reading = self.server.intake.reading(transport, self.dataReceived)
        reason = self.server.let_in(self)
        if reason is not None and self.server.is_crowded and not is_plain(transport):
            self.abort()
        elif reason is not None:
            self._turn_away(reason)
        elif self.server.log_traffic:
            self.log.debug("{peer} connected", peer=self.peer.name)

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: ARG002  Twisted's
        """Forget the client."""
        self._ended = True
        self._reading.stop()
        self.server.left(self)

    def dataReceived(self, data: bytes) -> None:
        """Answer the lines of one chunk with one write."""
        if not self._ended:
            self._framer.feed(data)
            self._answer_lines()

    def readConnectionLost(self) -> None:
        """Give a client that has closed its half all its replies, then close the other half."""
        self.end()

    def writeConnectionLost(self) -> None:
        """Never comes: this side does not close one half alone."""

    # -- lines -------------------------------------------------------------------------------

    def lineReceived(self, line: bytes) -> None:
        """Answer one line."""
        if self.server.log_traffic:
            self.log.debug("{peer} asks {request}", peer=self.peer.name, request=loggable(line))
        self._answer(operations.answer(self.context, line, self), line)

    def lineLengthExceeded(self, line: bytes) -> None:
        """Answer a line that was too long; the connection goes on with the next one.

        Parameters
        ----------
        line : bytes
            What was kept of it: its head.

        """
        self._answer(operations.overlong(self.context), line)

    def end(self) -> None:
        """Answer the lines that are here, no others, and close when all replies are sent."""
        self._ended = True
        self._answer_lines()

    def drain(self) -> None:
        """End; what has come of a line without its end is no line any more."""
        self._draining = True
        self.end()

    def _answer_lines(self) -> None:
        """Answer the lines that are here: a turn's, as long as the client reads the replies."""
        if self._answering or self._awaits_turn or not self._outbox.is_clear:
            return
        tally = self._tally
        if tally.began_s:
            left = self._answer_turn()
        else:
            tally.begin()
            try:
                left = self._answer_turn()
            finally:
                tally.end()
        if not self._outbox.is_clear:
            self._pause()
        elif left == 0 and self._framer.has_more:
            self._await_turn()
        elif self._ended:
            self._finish()

    def _answer_turn(self) -> int:
        """Answer as many lines as a turn allows; give how many more there might have been."""
        most = left = self._bounds.max_requests_per_turn
        self._answering, self._has_enough = True, False
        try:
            while left > 0 and self._outbox.is_clear and not self._has_enough:
                if self._shortcut is not None and self._framer.is_between_lines:
                    left -= self._answer_canonical(self._shortcut, left)
                line = next(self._framer, None) if left > 0 and self._framer.has_more else None
                if line is None:
                    break
                left -= 1
                self._lines_seen = True
                self._receive(line)
        finally:
            self._answering = False
            self._tally.count += most - left
            if self._replies and self.server.intake.is_gathering:
                self.server.intake.afterwards(self._send_replies)
            else:
                self._flush()
        return 0 if self._has_enough else left

    def _answer_canonical(self, shortcut: Shortcut, limit: int) -> int:
        """Answer canonical lines, up to the first that is none; give how many."""
        framer = self._framer
        parts, count, framer.at = shortcut.answer(framer.chunk, framer.at, limit)
        if count:
            self._replies += parts
            self._tally.short += count
            self._lines_seen = True
        return count

    def _receive(self, line: bytes | Overlong) -> None:
        if isinstance(line, Overlong):
            self.lineLengthExceeded(line.head)
        else:
            self.lineReceived(line)

    def _send_replies(self) -> None:
        """Send what was kept until all others were heard."""
        self._flush()
        if not self._outbox.is_clear:
            self._pause()

    def _pause(self) -> None:
        if not self._ended:
            self._reading.pause()

    def _await_turn(self) -> None:
        """Leave the rest, and what is still to be read, until all others had their turn."""
        self._awaits_turn = True
        self._pause()
        self.server.turns.callLater(0, self._take_turn)

    def _take_turn(self) -> None:
        self._awaits_turn = False
        self._go_on()

    def _caught_up(self) -> None:
        """Go on: the client has read everything."""
        self._go_on()
        # Not before the reply to what is being answered: it may have begun what is told.
        if self._outbox.is_clear and not (self._answering or self._ended):
            self.server.hub.caught_up(self)

    def _go_on(self) -> None:
        """Answer the lines that are here, then read on."""
        self._answer_lines()
        if self._outbox.is_clear and not (self._awaits_turn or self._ended):
            self._reading.resume()

    def _finish(self) -> None:
        last = None if self._draining else self._framer.finish()
        if last is not None:
            self._receive_last(last)
        self._close()

    def _receive_last(self, line: bytes | Overlong) -> None:
        """Answer what has no end; it counts as any other line."""
        tally = self._tally
        tally.count += 1
        if tally.began_s:
            self._receive(line)
            return
        tally.begin()
        try:
            self._receive(line)
        finally:
            tally.end()

    def _close(self) -> None:
        """Close once everything is sent; `look_after` sees to it that it comes to that."""
        self._ended = self._closing = True
        self._flush()
        self._reading.stop()
        self.server.hub.leave(self)
        self._outbox.close()

    # -- replies -----------------------------------------------------------------------------

    def _answer(self, answer: operations.Answer, line: bytes) -> None:
        reply, error, op = answer
        if error is None:
            self._tally.answers[op] += 1
        else:
            self._tally.errors[op, error.code.value] += 1
            self._log_error(error, line)
        if self.server.log_traffic:
            self.log.debug("{peer} gets {reply}", peer=self.peer.name, reply=loggable(reply))
        self._replies.append(reply)
        self._replies_nbytes += len(reply)
        if self._replies_nbytes >= WRITE_NBYTES:
            self._has_enough = True
        if not self._answering:
            self._flush()

    def _flush(self) -> None:
        if self._replies:
            replies, self._replies, self._replies_nbytes = self._replies, [], 0
            self._outbox.send(b"".join(replies))

    def _turn_away(self, reason: str) -> None:
        refusal = operations.refuse(RequestError(ErrorCode.OVERLOADED, reason))
        self._outbox.send(refusal.reply)
        self._close()

    # -- what operations ask of a connection -------------------------------------------------

    def lets_pass(self, op: str) -> bool:
        """Whether the client may ask for this."""
        return self._is_let_in or self.server.gate.lets_pass(op)

    def is_trusted(self) -> bool:
        """Whether the client has shown a token, or is on a Unix socket that wants none."""
        gate = self.server.gate
        return self.peer.credentials is not None if gate.is_open else self._is_let_in

    def authorize(self, token: str) -> None:
        """Let a client in that knows the token; one that does not is to go.

        Raises
        ------
        RequestError
            UNAUTHORIZED: it does not.

        """
        if not self.server.gate.check(token):
            self._ended = True
            self._framer = LineFramer(self._bounds.max_line_bytes)  # one guess is all it has
            raise RequestError(ErrorCode.UNAUTHORIZED, WRONG_TOKEN)
        self._is_let_in, self._shortcut = True, self.server.shortcut

    def subscribe(
        self, request_id: Id, tickers: Sequence[str] | None, since: tuple[int, str] | None
    ) -> bytes:
        """Have the client told of changes; as `Hub.subscribe`."""
        return self.server.hub.subscribe(self, request_id, tickers, since)

    def unsubscribe(self, request_id: Id | None) -> bytes:
        """Have it told no longer; as `Hub.unsubscribe`."""
        return self.server.hub.unsubscribe(self, request_id)

    # -- what push asks of a client ----------------------------------------------------------

    @property
    def is_clear(self) -> bool:
        """Whether all that was sent to it is on its way."""
        return self._outbox.is_clear

    @property
    def queued_nbytes(self) -> int:
        """What waits for it to read."""
        return self._outbox.queued_nbytes

    @property
    def sent_nbytes(self) -> int:
        """What it was sent so far."""
        return self._outbox.sent_nbytes

    def send(self, *parts: bytes) -> None:
        """Send an event."""
        if self.server.log_traffic:
            event = b"".join(part[:LOGGED_NBYTES] for part in parts)
            self.log.debug("{peer} is told {event}", peer=self.peer.name, event=loggable(event))
        self._flush()
        self._outbox.send(*parts)
        if not self._outbox.is_clear:
            self._pause()

    # -- deadlines ---------------------------------------------------------------------------

    def look_after(self, now_s: float) -> None:
        """Cut a client that does not read what it is sent, or has nothing to say."""
        bounds, box = self._bounds, self._outbox
        if self._lines_seen or not (box.is_clear and self._heard_s):
            self._lines_seen, self._heard_s = False, now_s
        is_done = box.is_clear and not self._closing
        before = self._taken
        # The kernel is asked only where it was given anything since it had nothing left.
        if not is_done or box.sent_nbytes != self._taken_nbytes:
            self._taken = taken(self.transport, box.sent_nbytes)
            is_done = is_done and self._taken.is_all
        if is_done:
            self._taken_nbytes = box.sent_nbytes
        if is_done or self._taken != before or not self._moved_s:
            self._moved_s = now_s
        elif now_s - self._moved_s > bounds.write_timeout_s:
            self.log.info("{peer} does not read: cut off", peer=self.peer.name)
            self._tally.cut_off += 1
            self.abort()
            return
        is_idle = 0 < bounds.idle_timeout_s < now_s - self._heard_s
        if is_idle and is_done and not self.server.hub.has(self):
            self.log.debug("{peer} says nothing: closed", peer=self.peer.name)
            self._tally.idle += 1
            self._close()

    def abort(self) -> None:
        """Close the connection at once, whatever is still to be sent or was asked."""
        self._ended = True
        self._reading.stop()
        self._outbox.stopProducing()
        self._transport.abortConnection()

    # -- log ---------------------------------------------------------------------------------

    def _log_error(self, error: RequestError, line: bytes) -> None:
        if not self.server.ration.allows():
            return
        fields = {
            "peer": self.peer.name,
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
    def _transport(self) -> Transport:
        return cast("Transport", self.transport)


class QuoteFactory(ServerFactory):
    """Makes a `QuoteProtocol` for each connection, and knows them all.

    Parameters
    ----------
    context : Context
        What requests are answered from.
    turns : Schedule
        The reactor.
    gate : Gate, optional
        Who is let in; everybody unless given.
    log_traffic : bool
        Whether each request and each reply is logged, at debug. To be turned off where nobody
        listens at that level: a log event costs more than an answer.

    Attributes
    ----------
    hub : Hub
        The subscriptions; to be told of each commit.
    tally : Tally
        What all connections count.

    """

    noisy = False
    log = Logger()

    def __init__(
        self,
        context: Context,
        turns: Schedule,
        gate: Gate | None = None,
        *,
        log_traffic: bool = True,
    ) -> None:
        bounds = context.bounds
        self.context, self.turns, self.log_traffic = context, turns, log_traffic
        self.gate = gate or Gate()
        self.hub = Hub(context.cache, turns, bounds.heartbeat_s)
        self.admitted = set[QuoteProtocol]()
        self.connections = Connections(bounds.max_connections, bounds.max_connections_per_peer)
        self.tally = Tally()
        self.intake = Intake(turns, self.tally)
        self.ration = LogRation(turns, self._log_left_out)
        self.clients: set[QuoteProtocol] = set()  # those that are turned away, too
        self._drained: Deferred[None] | None = None  # from when the server is to stop
        self._deadline: Call | None = None  # for that
        short = not log_traffic and bounds.max_line_bytes >= LONGEST_NBYTES
        self.shortcut = Shortcut(context.cache) if short else None

    def buildProtocol(self, addr: object) -> QuoteProtocol:  # noqa: ARG002  Twisted's
        """Make the protocol of one connection."""
        protocol = QuoteProtocol(self)
        protocol.factory = self
        return protocol

    def let_in(self, client: QuoteProtocol) -> str | None:
        """Count a client in, or say why there is no room for it."""
        stopping = "the server is stopping" if self._drained is not None else None
        reason = stopping or self.connections.admit(client.peer.key)
        self.clients.add(client)
        if reason is None:
            self.admitted.add(client)
            self.tally.connected += 1
            return None
        self.tally.turned_away += 1
        if self.ration.allows():
            self.log.info("{peer} is turned away: {reason}", peer=client.peer.name, reason=reason)
        return reason

    @property
    def is_crowded(self) -> bool:
        """Whether there are too many to be told that there is no room for them."""
        return len(self.clients) - len(self.admitted) > MAX_TURNED_AWAY

    def left(self, client: QuoteProtocol) -> None:
        """Count a client out."""
        if client in self.clients:
            self.clients.remove(client)
            self.tally.sent_nbytes += client.sent_nbytes
        if client in self.admitted:
            self.admitted.remove(client)
            self.connections.leave(client.peer.key)
            self.hub.leave(client)
        self._look_whether_drained()

    def drain(self, timeout_s: float) -> Deferred[None]:
        """Give all clients the replies that are under way, close, and cut who does not take them.

        To be called once nobody listens any more; who comes in all the same is turned away.

        Returns
        -------
        Deferred
            Called back when no client is left, soon after ``timeout_s`` seconds at the latest.

        """
        self._drained = drained = Deferred[None]()
        self._deadline = self.turns.callLater(timeout_s, self._cut)
        for client in tuple(self.clients):
            client.drain()
        self._look_whether_drained()
        return drained

    def _look_whether_drained(self) -> None:
        if self._drained is None or self._drained.called or self.clients:
            return
        if self._deadline is not None:
            self._deadline.cancel()
        self.ration.close()
        self._drained.callback(None)

    def _cut(self) -> None:
        self._deadline = None
        count = len(self.clients)
        self.log.info("{count} clients do not take their replies: cut off", count=count)
        for client in tuple(self.clients):
            client.abort()

    def stopFactory(self) -> None:
        """Be listened for no longer."""
        self.ration.close()

    def look_after(self) -> None:
        """Send heartbeats, and keep deadlines; to be called each second."""
        self.hub.beat()
        now_s = self.turns.seconds()
        for client in tuple(self.clients):
            client.look_after(now_s)

    def _log_left_out(self, count: int) -> None:
        self.log.info("{count} more lines of this kind within a second", count=count)


def loggable(text: bytes) -> str:
    """Cut what came from outside to a length, and make it harmless to a terminal."""
    cut = (
        _TOKEN.sub(rb"\1...", text)[:LOGGED_NBYTES].decode("utf-8", "backslashreplace").rstrip("\n")
    )
    return printable(cut)
