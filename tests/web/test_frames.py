"""The wire in frames, without a socket: cut anywhere, in pieces, and with nonsense in between."""
# mypy: allow-untyped-calls
# Twisted is typed only in part, and `untyped_calls_exclude` does not reach what we inherit.

from __future__ import annotations

import json
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure
from twisted.trial import unittest
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage

from quoteshm.web.frames import TURN_EVENTS, Frames, Socket
from quoteshm.wire.bounds import Bounds
from quoteshm.wire.operations import Context
from quoteshm.wire.protocol import QuoteFactory
from tests.published import Market
from tests.wire.test_protocol import Transport

PING = '{"v":1,"id":1,"type":"ping"}'
PONG = {"v": 1, "id": 1, "type": "response", "op": "ping", "data": {}}


class Peer:
    """A server's end in memory, and what a client makes of it."""

    def __init__(self, context: Context, room: int | None = None) -> None:
        self.transport: Any = Transport(room)
        self.factory = QuoteFactory(context, self.transport.turns)
        self.client = Connection(ConnectionType.CLIENT)
        self.protocol = self.factory.buildProtocol(None)
        self.socket = Socket(Connection(ConnectionType.SERVER), self.protocol)
        self.socket.makeConnection(self.transport)
        self._text = ""

    def send(self, event: Event, size: int | None = None) -> None:
        """Send something, in chunks of a size."""
        self.receive(self.client.send(event), size)

    def receive(self, data: bytes, size: int | None = None) -> None:
        """Have the server receive bytes."""
        size = size or len(data)
        for at in range(0, len(data), size):
            self.socket.dataReceived(data[at : at + size])

    def events(self) -> list[Event]:
        """Give what has come since."""
        data = self.transport.value()
        self.transport.clear()
        self.client.receive_data(data)
        return list(self.client.events())

    def messages(self) -> list[dict[str, Any]]:
        """Give what has come since, as JSON; nothing else may be between."""
        told = []
        for event in self.events():
            assert isinstance(event, TextMessage), event
            self._text += event.data
            if event.message_finished:
                told.append(json.loads(self._text))
                self._text = ""
        return told


class FrameCase(unittest.TestCase):
    """A market, and who looks at it."""

    def setUp(self) -> None:
        """Make a market."""
        self.market = Market()
        self.addCleanup(self.market.writer.close)

    def peer(self, room: int | None = None, **bounds: Any) -> Peer:
        """Connect."""
        context = Context(self.market.writer, self.market.cache, Bounds(**bounds))
        return Peer(context, room)


class FrameTests(FrameCase):
    """Messages both ways."""

    def test_a_message_is_a_request_and_a_reply_is_a_message(self) -> None:
        """Whatever the chunks."""
        for size in (None, 1, 3, 7):
            peer = self.peer()
            for _ in range(3):
                peer.send(TextMessage(PING), size)
            assert peer.messages() == [PONG] * 3

    def test_several_messages_of_a_chunk_are_answered_with_one_write(self) -> None:
        """As lines are."""
        peer = self.peer()
        data = b"".join(peer.client.send(TextMessage(PING)) for _ in range(5))
        peer.receive(data)
        assert len(peer.transport.writes) == 1
        assert peer.messages() == [PONG] * 5

    def test_a_message_may_come_in_fragments_with_pings_between(self) -> None:
        """Each ping is answered."""
        peer = self.peer()
        peer.send(TextMessage(PING[:9], message_finished=False))
        peer.send(Ping(b"there?"))
        peer.send(TextMessage(PING[9:], message_finished=True))
        first, second = peer.events()
        assert isinstance(first, Pong)
        assert first.payload == b"there?"
        assert isinstance(second, TextMessage)

    def test_a_message_is_one_document_however_it_is_laid_out(self) -> None:
        """Its line ends are white space."""
        peer = self.peer()
        peer.send(TextMessage(json.dumps(json.loads(PING), indent=1)))
        peer.send(TextMessage("\r\n"))
        peer.send(TextMessage(""))
        peer.send(TextMessage(PING + "\n"))
        peer.send(TextMessage(f"{PING}\n{PING}"))
        told = peer.messages()
        assert told[:2] == [PONG] * 2
        assert [one["type"] for one in told[2:]] == ["error"]

    def test_letters_outside_of_ascii_come_through_any_chunk(self) -> None:
        """As the id shows."""
        asked = json.dumps({"v": 1, "id": "é→𝄞", "type": "ping"}, ensure_ascii=False)
        peer = self.peer()
        peer.send(TextMessage(asked), 1)
        assert peer.messages()[0]["id"] == "é→𝄞"

    def test_an_overlong_message_costs_one_error_and_is_not_kept(self) -> None:
        """Be it one frame or many."""
        peer = self.peer(max_line_bytes=256)
        for _ in range(1000):
            peer.send(TextMessage("x" * 1000, message_finished=False))
            assert peer.protocol._framer.pending_nbytes < 300
        peer.send(TextMessage("", message_finished=True))
        peer.send(TextMessage("y" * 100_000), 1000)
        peer.send(TextMessage(PING))
        told = peer.messages()
        assert [one["type"] for one in told] == ["error", "error", "response"]
        assert told[0]["error"]["message"] == "line longer than 256 bytes"

    def test_replies_of_every_length_have_a_right_head(self) -> None:
        """Around the lengths at which its form changes."""
        transport: Any = Transport()
        frames = Frames(transport, Connection(ConnectionType.SERVER))
        lengths = [0, 1, 125, 126, 127, 65_535, 65_536, 200_000]
        for length in lengths:
            frames.write(b"x" * length + b"\n")
        client = Connection(ConnectionType.CLIENT)
        client.receive_data(transport.value())
        sizes, size = [], 0
        for event in client.events():
            assert isinstance(event, TextMessage)
            size += len(event.data)
            if event.message_finished:
                sizes.append(size)
                size = 0
        assert sizes == lengths

    def test_pieces_of_a_line_are_fragments_of_its_message(self) -> None:
        """A cut may be anywhere, before the line's end too."""
        line = b'{"name":"' + "é".encode() * 50 + b'"}'
        for size in (1, 2, 7, len(line), len(line) + 1):
            transport: Any = Transport()
            frames = Frames(transport, Connection(ConnectionType.SERVER))
            data = (line + b"\n") * 2
            for at in range(0, len(data), size):
                frames.write(data[at : at + size])
            client = Connection(ConnectionType.CLIENT)
            client.receive_data(transport.value())
            text = "".join(
                event.data + "\n" * event.message_finished
                for event in client.events()
                if isinstance(event, TextMessage)
            )
            assert text.encode() == data

    def test_a_slow_client_is_sent_a_long_event_as_it_reads(self) -> None:
        """And is told of what it missed at once; nothing is lost in between."""
        names = [f"T{n}" for n in range(2000)]
        writer_market = Market()
        self.addCleanup(writer_market.writer.close)
        writer_market.add(*names)
        for name in names:
            writer_market.quote(name, 1.0)
        context = Context(writer_market.writer, writer_market.cache)
        peer = Peer(context, room=100_000)
        peer.send(TextMessage('{"v":1,"id":"s","type":"subscribe","tickers":"*"}'))
        told = peer.messages()
        assert told == []  # a part of the reply is there
        writer_market.quote("T1", 7.0)
        peer.factory.hub.published()
        writer_market.quote("T2", 8.0)
        peer.factory.hub.published()
        for _ in range(50):
            peer.transport.drain()
            told += peer.messages()
        assert len(told) == 2
        assert len(told[0]["data"]["quotes"]) == 2002
        assert {name: quote["price"] for name, quote in told[1]["data"].items()} == {
            "T1": 7.0,
            "T2": 8.0,
        }
        assert told[1]["skipped"] == 1

    def test_pings_of_who_does_not_read_are_not_kept(self) -> None:
        """They are answered again when it reads."""
        peer = self.peer(room=1000)
        for _ in range(10_000):
            peer.send(Ping(b"x" * 100))
        assert len(peer.transport.value()) < 2000
        peer.events()
        peer.transport.drain()
        peer.send(Ping(b"now"))
        (last,) = peer.events()
        assert isinstance(last, Pong)
        assert last.payload == b"now"

    def test_many_small_frames_leave_the_others_their_turns(self) -> None:
        """So many are looked at in one, and nothing more is read until all of them were."""
        peer = self.peer(max_requests_per_turn=10 * TURN_EVENTS)
        peer.receive(
            peer.client.send(TextMessage(PING)) * (3 * TURN_EVENTS) + peer.client.send(Ping(b""))
        )
        for _ in range(3):
            assert peer.messages() == [PONG] * TURN_EVENTS
            assert peer.transport.producerState == "paused"
            assert len(peer.transport.turns.waiting) == 1
            peer.transport.turns.turn()
        (last,) = peer.events()
        assert isinstance(last, Pong)
        assert peer.transport.producerState == "producing"
        assert not peer.transport.turns.waiting

    def test_frames_without_anything_in_them_are_no_way_around_it(self) -> None:
        """Fragments of nothing, of a message that never ends."""
        peer = self.peer()
        one = peer.client.send(TextMessage("", message_finished=False))
        more = peer.client.send(TextMessage("", message_finished=False))
        peer.receive(one + more * (2 * TURN_EVENTS))
        assert peer.transport.producerState == "paused"
        peer.transport.turns.turn()
        assert peer.transport.producerState == "paused"
        peer.receive(peer.client.send(TextMessage(PING)))  # what a TLS still had
        assert peer.messages() == []
        peer.transport.turn_on()
        assert peer.messages() == [PONG]
        assert peer.transport.producerState == "producing"

    def test_a_client_that_is_not_to_be_read_is_not_read_after_its_turn(self) -> None:
        """It does not read either."""
        peer = self.peer(room=10)
        peer.receive(peer.client.send(TextMessage(PING)) * (TURN_EVENTS + 1))
        peer.transport.turn_on()
        assert peer.transport.producerState == "paused"
        told = 0
        while peer.transport.producerState == "paused":
            told += len(peer.messages())
            peer.transport.drain()
        assert told + len(peer.messages()) == TURN_EVENTS + 1

    def test_who_goes_before_its_next_turn_is_not_looked_at(self) -> None:
        """Nothing comes of it."""
        peer = self.peer(max_requests_per_turn=10 * TURN_EVENTS)
        peer.receive(peer.client.send(TextMessage(PING)) * (2 * TURN_EVENTS))
        peer.events()
        peer.socket.connectionLost(Failure(ConnectionDone()))
        peer.transport.turn_on()
        assert peer.transport.value() == b""


class EndTests(FrameCase):
    """How it ends."""

    def ended(self, peer: Peer, code: int) -> None:
        """Check that the server has said goodbye, and closes."""
        last = peer.events()[-1]
        assert isinstance(last, CloseConnection)
        assert last.code == code
        assert peer.transport.disconnecting
        peer.socket.dataReceived(b"more\xff")
        assert peer.transport.value() == b""
        peer.socket.connectionLost(Failure(ConnectionDone()))
        assert not peer.factory.clients

    def test_who_takes_leave_is_answered(self) -> None:
        """With the code that it gave, if any."""
        for said, code in ((1000, 1000), (1001, 1001), (4321, 4321)):
            peer = self.peer()
            peer.send(CloseConnection(said, "bye"))
            self.ended(peer, code)
        peer = self.peer()
        peer.receive(b"\x88\x80\x00\x00\x00\x00")  # a farewell without a code
        self.ended(peer, 1000)

    def test_nonsense_ends_it_with_its_code(self) -> None:
        """Nothing of it is raised."""
        mask = b"\x00\x00\x00\x00"
        for data, code in (
            (b"\x81\x01x", 1002),  # not masked
            (b"\x83\x80" + mask, 1002),  # no such opcode
            (b"\xc1\x80" + mask, 1002),  # a bit of no extension
            (b"\x09\x80" + mask, 1002),  # a ping in fragments
            (b"\x80\x80" + mask, 1002),  # nothing to continue
            (b"\x81\x81" + mask + b"\xff", 1007),  # no UTF-8
            (b"\x88\x82" + mask + b"\x03\xed", 1002),  # a code that nobody may say
            (b"\x89\xfe\x00\x80" + mask, 1002),  # a long ping
            (b"GET / HTTP/1.1\r\n", 1002),
        ):
            for size in (None, 1):
                peer = self.peer()
                peer.receive(data, size)
                self.ended(peer, code)

    def test_binary_messages_are_none(self) -> None:
        """1003."""
        peer = self.peer()
        peer.send(BytesMessage(PING.encode()))
        self.ended(peer, 1003)

    def test_what_was_asked_before_the_end_is_answered_before_it(self) -> None:
        """In one chunk."""
        peer = self.peer()
        data = peer.client.send(TextMessage(PING)) + peer.client.send(CloseConnection(1000))
        peer.receive(data)
        reply, farewell = peer.events()
        assert isinstance(reply, TextMessage)
        assert json.loads(reply.data) == PONG
        assert isinstance(farewell, CloseConnection)

    def test_a_server_that_drains_says_goodbye(self) -> None:
        """After the replies that are under way, and does not mind the answer."""
        peer = self.peer()
        peer.send(TextMessage(PING))
        drained = peer.factory.drain(5.0)
        reply, farewell = peer.events()
        assert isinstance(reply, TextMessage)
        assert isinstance(farewell, CloseConnection)
        assert farewell.code == 1000
        peer.receive(peer.client.send(farewell.response()))
        assert peer.transport.value() == b""
        peer.socket.connectionLost(Failure(ConnectionDone()))
        self.successResultOf(drained)

    def test_who_is_turned_away_is_told_why(self) -> None:
        """As on the wire."""
        peer = self.peer()
        peer.factory.connections.total = 0
        other = peer.factory.buildProtocol(None)
        socket = Socket(Connection(ConnectionType.SERVER), other)
        transport: Any = Transport()
        socket.makeConnection(transport)
        peer.transport.write(transport.value())
        told, farewell = peer.events()
        assert isinstance(told, TextMessage)
        assert json.loads(told.data)["error"]["code"] == "OVERLOADED"
        assert isinstance(farewell, CloseConnection)
        assert transport.disconnecting

    def test_a_client_that_takes_leave_and_does_not_read_is_cut(self) -> None:
        """As any other that does not read."""
        peer = self.peer(room=10)
        peer.send(TextMessage(PING))
        peer.send(CloseConnection(1000))
        cut: list[bool] = []
        peer.transport.abortConnection = lambda: cut.append(True)
        for _ in range(3):
            peer.transport.turns.clock.advance(31)
            peer.factory.look_after()
        assert cut
