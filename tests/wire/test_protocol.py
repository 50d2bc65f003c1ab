"""The wire over a transport: the same bytes in every chunk size, pauses, ends, and the log."""
# mypy: allow-untyped-calls
# Twisted is typed only in part, and `untyped_calls_exclude` does not reach what we inherit.

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

from twisted.internet import task
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.testing import StringTransport
from twisted.logger import LogLevel, globalLogPublisher
from twisted.protocols.basic import LineReceiver
from twisted.trial import unittest

from quoteshm.wire import operations
from quoteshm.wire import protocol as wire_protocol
from quoteshm.wire.auth import Gate
from quoteshm.wire.bounds import Bounds
from quoteshm.wire.operations import Context
from quoteshm.wire.outbox import BufferedOutbox
from quoteshm.wire.peers import Credentials, peer_name
from quoteshm.wire.protocol import (
    LOGGED_NBYTES,
    WRITE_NBYTES,
    QuoteFactory,
    QuoteProtocol,
    loggable,
)
from tests.published import Market
from tests.rostering import have_roster
from tests.wire.hostile import HOSTILE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from twisted.logger import LogEvent

TURN_LINES = Bounds().max_requests_per_turn
PING = b'{"v":1,"id":1,"type":"ping"}\n'
PEER = IPv4Address("TCP", "192.0.2.7", 50_000)


class Turns:
    """A reactor that comes round when the test says so: a `task.Clock` skips over turns."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []
        self.clock = task.Clock()

    def seconds(self) -> float:
        """Give the test's time."""
        return self.clock.seconds()

    def callLater(  # noqa: N802  Twisted's, as is the argument's name
        self,
        delay: float,
        callable: Callable[[], None],  # noqa: A002
    ) -> Any:
        """Keep it for the next turn, or for later."""
        if delay:
            return self.clock.callLater(delay, callable)
        self.waiting.append(callable)
        return None

    def turn(self) -> None:
        """Call what waits, and nothing that comes to wait meanwhile."""
        calls, self.waiting = self.waiting, []
        for call in calls:
            call()


class Transport(StringTransport):
    """A transport that counts writes, and pauses its producer as a real one does."""

    def __init__(self, room: int | None = None) -> None:
        super().__init__(peerAddress=PEER)
        self.writes: list[bytes] = []
        self.room = room  # what it takes before the client reads
        self.queued = 0
        self.turns = Turns()

    def write(self, data: bytes) -> None:
        """Take bytes; ask for a pause when there are too many."""
        super().write(data)
        self.writes.append(data)
        self.queued += len(data)
        if self.room is not None and self.queued > self.room and self.producer is not None:
            self.producer.pauseProducing()

    def drain(self) -> None:
        """Have the client read everything, and go on."""
        self.queued = 0
        if self.producer is not None:
            self.producer.resumeProducing()
        self.turn_on()

    def turn_on(self) -> None:
        """Give the protocol all the turns that it asks for."""
        while self.turns.waiting:
            self.turns.turn()


def connect(
    context: Context, room: int | None = None, *, log_traffic: bool = True
) -> tuple[QuoteProtocol, Transport]:
    """Give a protocol that is connected."""
    transport = Transport(room)
    factory = QuoteFactory(context, transport.turns, log_traffic=log_traffic)
    protocol = factory.buildProtocol(PEER)
    protocol.makeConnection(transport)
    return protocol, transport


def chunkings(stream: bytes) -> Iterator[list[bytes]]:
    """Cut a stream into chunks of each size; of a long one, of some sizes."""
    sizes = range(1, len(stream) + 1) if len(stream) <= 300 else (1, 2, 3, 7, 64, 1000, len(stream))
    for size in sizes:
        yield [stream[at : at + size] for at in range(0, len(stream), size)]


class Case(unittest.TestCase):
    """A test with a small market."""

    def setUp(self) -> None:
        """Publish."""
        self.market = Market()
        self.context = self.market.context

    def replies(self, stream: bytes, context: Context | None = None) -> list[Any]:
        """Give the replies to a stream, the same for every chunk size."""
        found: bytes | None = None
        for chunks in chunkings(stream):
            protocol, transport = connect(context or self.context, log_traffic=False)
            for chunk in chunks:
                protocol.dataReceived(chunk)
            assert found is None or transport.value() == found, len(chunks[0])
            found = transport.value()
            assert not transport.disconnecting
        assert found is not None
        assert found.endswith(b"\n")
        return [json.loads(line) for line in found.splitlines()]

    def logged(self, act: Callable[[], object]) -> list[LogEvent]:
        """Give what is logged by something."""
        events: list[LogEvent] = []
        publisher = cast("Any", globalLogPublisher)  # takes any callable
        publisher.addObserver(events.append)
        try:
            act()
        finally:
            publisher.removeObserver(events.append)
        return [event for event in events if event["log_namespace"].startswith("quoteshm")]


class AnsweringTests(Case):
    """Bytes in, replies out."""

    def test_it_is_a_line_receiver(self) -> None:
        """With a newline as the delimiter, and one line answered in `lineReceived`."""
        protocol, transport = connect(self.context)
        assert isinstance(protocol, LineReceiver)
        assert protocol.delimiter == b"\n"
        protocol.lineReceived(PING.strip())
        assert transport.value() == b'{"v":1,"id":1,"type":"response","op":"ping","data":{}}\n'

    def test_a_request_gets_its_reply(self) -> None:
        """In every chunk size."""
        (reply,) = self.replies(b'{"v":1,"id":"a1","type":"get_quote","ticker":"AAPL"}\n')
        assert reply["id"] == "a1"
        assert reply["data"]["price"] == 189.5

    def test_every_op_is_answered(self) -> None:
        """Over the transport as by `operations`."""
        lines = [
            json.dumps({"v": 1, "id": op, "type": op, "ticker": "AAPL"}).encode()
            for op in operations.OPERATIONS
        ]
        replies = self.replies(b"\n".join(lines) + b"\n")
        assert replies == [
            json.loads(operations.answer(self.context, line, connect(self.context)[0]).reply)
            for line in lines
        ]

    def test_replies_come_in_the_order_of_the_requests(self) -> None:
        """Errors too."""
        stream = b"".join(
            b'{"v":1,"id":%d,"type":"%b"}\n' % (n, b"ping" if n % 3 else b"nope") for n in range(20)
        )
        assert [reply["id"] for reply in self.replies(stream)] == list(range(20))

    def test_returns_and_blank_lines_are_ignored(self) -> None:
        """As the ends that other systems give their lines."""
        stream = b"\n\r\n  \t \n" + PING.replace(b"\n", b"\r\n") + b"\n\n" + PING
        assert [reply["op"] for reply in self.replies(stream)] == ["ping", "ping"]

    def test_an_overlong_line_costs_one_error(self) -> None:
        """Good lines before and behind it are answered."""
        context = Context(self.market.writer, self.market.cache, Bounds(max_line_bytes=64))
        stream = PING + b"x" * 65 + b"\n" + PING + PING[:-1].ljust(64) + b"\r\n" + b"y" * 99 + b"\n"
        replies = self.replies(stream + PING, context)
        codes = [reply.get("error", {}).get("code") for reply in replies]
        assert codes == [None, "BAD_REQUEST", None, None, "BAD_REQUEST", None]

    def test_an_overlong_line_of_the_default_limit(self) -> None:
        """65,536 bytes are a line, one more is not."""
        line = PING[:-1].ljust(65_536)
        replies = self.replies(line + b"\n" + line + b" \n" + PING)
        assert [reply["type"] for reply in replies] == ["response", "error", "response"]

    def test_hostile_lines_cost_one_error_each(self) -> None:
        """And the connection goes on."""
        for name, line in HOSTILE.items():
            # Newlines of UTF-16 and others are those of lines here, too.
            count = sum(1 for part in line.split(b"\n") if part.strip())
            *errors, last = self.replies(line + b"\n" + PING)
            assert [e["error"]["code"] for e in errors] == ["BAD_REQUEST"] * count, name
            assert last["op"] == "ping", name

    def test_an_exception_in_an_op_is_internal_and_the_connection_lives(self) -> None:
        """Logged with its traceback and the request."""

        def describe() -> dict[str, object]:
            return {"x": 1 / 0}

        context = Context(self.market.writer, self.market.cache, describe=describe)
        stream = b'{"v":1,"id":7,"type":"get_info"}\n' + PING
        error, pong = self.replies(stream, context)
        assert error["id"] == 7
        assert error["error"]["code"] == "INTERNAL"
        assert "division" not in error["error"]["message"]
        assert pong["op"] == "ping"
        failures = self.flushLoggedErrors(ZeroDivisionError)
        assert len(failures) == len(stream)  # one for each chunk size
        assert "describe" in failures[0].getTraceback()

    def test_the_replies_of_a_chunk_are_one_write(self) -> None:
        """However many lines it has; and a chunk without a line is none."""
        protocol, transport = connect(self.context)
        protocol.dataReceived(PING * 50 + PING[:5])
        assert len(transport.writes) == 1
        assert transport.value().count(b"\n") == 50
        protocol.dataReceived(PING[5:-1])
        assert len(transport.writes) == 1
        protocol.dataReceived(b"\n")
        assert len(transport.writes) == 2

    def test_a_connection_that_is_aborted_answers_no_more(self) -> None:
        """Neither the lines that are here nor those that come before the transport is gone."""
        protocol, transport = connect(self.context)
        answer = protocol.lineReceived

        def answer_and_abort(line: bytes) -> None:
            answer(line)
            protocol.abort()

        protocol.lineReceived = answer_and_abort  # type: ignore[method-assign]
        protocol.dataReceived(PING * 3)
        protocol.dataReceived(PING)
        protocol.send(b"event")
        transport.turn_on()
        assert transport.value() == b""
        assert transport.disconnected


class PausingTests(Case):
    """A client that does not read."""

    def setUp(self) -> None:
        """Publish more than fits a write."""
        super().setUp()
        self.market.add(*(f"T{n}" for n in range(300)))
        for n in range(300):
            self.market.quote(f"T{n}", 1.0)
        self.request = b'{"v":1,"id":1,"type":"get_quotes"}\n'
        self.reply = operations.answer(self.context, self.request).reply

    def test_it_is_a_streaming_producer(self) -> None:
        """So the transport tells it when to pause."""
        _, transport = connect(self.context)
        assert isinstance(transport.producer, BufferedOutbox)
        assert transport.streaming

    def test_it_is_paused_with_its_requests_unanswered(self) -> None:
        """What is queued is bounded by the transport's room and one write."""
        protocol, transport = connect(self.context, room=100_000)
        protocol.dataReceived(self.request * 1000)
        assert transport.producerState == "paused"
        assert transport.queued <= 100_000 + WRITE_NBYTES + len(self.reply)
        written = len(transport.value())
        protocol.dataReceived(self.request)  # what a transport may still have had
        assert len(transport.value()) == written

    def test_it_gets_all_replies_in_order_as_it_reads(self) -> None:
        """And is read from again only when the lines that were here are answered."""
        protocol, transport = connect(self.context, room=100_000)
        ids = range(100)
        protocol.dataReceived(
            b"".join(self.request.replace(b'"id":1', b'"id":%d' % n) for n in ids)
        )
        rounds = 0
        while transport.producerState == "paused":
            transport.drain()
            rounds += 1
        assert 10 < rounds < 101
        assert [json.loads(line)["id"] for line in transport.value().splitlines()] == [*ids]

    def test_a_pause_does_not_cut_the_replies_of_any_chunk_size(self) -> None:
        """Same bytes out, whether it paused or not."""
        stream = (self.request + PING) * 5
        expected = (self.reply + operations.answer(self.context, PING).reply) * 5
        for chunks in chunkings(stream):
            protocol, transport = connect(self.context, room=1000, log_traffic=False)
            for chunk in chunks:
                protocol.dataReceived(chunk)
                while transport.producerState == "paused":
                    transport.drain()
            assert transport.value() == expected

    def test_nothing_is_answered_after_the_connection_was_lost(self) -> None:
        """The transport stops its producer."""
        protocol, transport = connect(self.context)
        assert transport.producer is not None
        transport.producer.stopProducing()
        protocol.dataReceived(PING)
        assert transport.value() == b""


class TurnTests(Case):
    """A client that asks much at once, and all the others."""

    def answered(self, transport: Transport) -> int:
        """Count the replies."""
        replies: bytes = transport.value()
        return replies.count(b"\n")

    def test_a_turn_answers_so_many_lines_and_no_more(self) -> None:
        """The rest is not answered, and no more is read, before the reactor came round."""
        protocol, transport = connect(self.context)
        protocol.dataReceived(PING * (2 * TURN_LINES + 5))
        for count in (TURN_LINES, 2 * TURN_LINES):
            assert self.answered(transport) == count
            assert transport.producerState == "paused"
            protocol.dataReceived(b"")
            assert self.answered(transport) == count
            transport.turns.turn()
        assert self.answered(transport) == 2 * TURN_LINES + 5
        assert transport.producerState == "producing"
        assert not transport.turns.waiting

    def test_long_replies_end_a_turn_sooner(self) -> None:
        """Others would wait for all of them; what was asked behind them comes later."""
        long = b'{"v":1,"id":1,"type":"get_history","ticker":"AAPL"}\n'
        protocol, transport = connect(self.context)
        protocol.dataReceived(long)
        self.patch(wire_protocol, "WRITE_NBYTES", 3 * len(transport.value()))
        each = 3
        transport.clear()
        protocol.dataReceived(long * (2 * each) + PING)
        for count in (each, 2 * each):
            assert self.answered(transport) == count
            assert transport.producerState == "paused"
            transport.turns.turn()
        assert self.answered(transport) == 2 * each + 1
        assert transport.producerState == "producing"

    def test_bad_lines_count_and_blank_ones_do_not(self) -> None:
        """Errors take as long as answers do."""
        for lines, count in ((b"x\n" * 1000, TURN_LINES), (b"\n" * 1000 + PING, 1)):
            protocol, transport = connect(self.context, log_traffic=False)
            protocol.dataReceived(lines)
            assert self.answered(transport) == count

    def test_a_client_that_stops_reading_gives_up_its_turn(self) -> None:
        """It goes on when it has caught up."""
        protocol, transport = connect(self.context, room=100)
        protocol.dataReceived(PING * (TURN_LINES + 5))
        assert not protocol.is_clear
        transport.turns.turn()
        assert self.answered(transport) == TURN_LINES
        assert transport.producerState == "paused"
        transport.drain()
        transport.drain()
        assert self.answered(transport) == TURN_LINES + 5
        assert transport.producerState == "producing"

    def test_a_client_that_has_caught_up_still_waits_its_turn(self) -> None:
        """To be answered, and to be read from."""
        protocol, transport = connect(self.context)
        protocol.dataReceived(PING * (TURN_LINES + 5))
        assert transport.producer is not None
        transport.producer.resumeProducing()
        assert self.answered(transport) == TURN_LINES
        assert transport.producerState == "paused"
        transport.turn_on()
        assert self.answered(transport) == TURN_LINES + 5

    def test_a_client_that_is_gone_has_no_turn(self) -> None:
        """What it asked for is forgotten."""
        protocol, transport = connect(self.context)
        protocol.dataReceived(PING * (TURN_LINES + 5))
        assert transport.producer is not None
        transport.producer.stopProducing()
        transport.turn_on()
        assert self.answered(transport) == TURN_LINES


class PushTests(Case):
    """Subscriptions over the wire: `push` has the rules, this is how they come in and out."""

    SUBSCRIBE = b'{"v":1,"id":"s","type":"subscribe","tickers":"*"}\n'
    END = b'{"v":1,"id":2,"type":"unsubscribe","subscription":"s"}\n'

    def told(self, transport: Transport) -> list[Any]:
        """Give what was sent since the last time."""
        lines = transport.value().splitlines()
        transport.clear()
        return [json.loads(line) for line in lines]

    def publish(self, protocol: QuoteProtocol, price: float) -> None:
        """Commit, and tell."""
        self.market.quote("AAPL", price)
        protocol.server.hub.published()

    def test_the_reply_comes_first_then_events_then_the_end(self) -> None:
        """In every chunk size; nothing of the subscription comes after its end."""
        for chunks in chunkings(self.SUBSCRIBE + PING):
            protocol, transport = connect(self.context, log_traffic=False)
            for chunk in chunks:
                protocol.dataReceived(chunk)
            assert [reply["op"] for reply in self.told(transport)] == ["subscribe", "ping"]
            self.publish(protocol, 1.0)
            (event,) = self.told(transport)
            assert (event["id"], event["type"], event["op"]) == ("s", "event", "quotes")
            protocol.dataReceived(self.END)
            (reply,) = self.told(transport)
            assert reply["data"] == {"unsubscribed": ["s"]}
            self.publish(protocol, 2.0)
            assert self.told(transport) == []

    def test_a_refused_subscription_is_an_error_reply(self) -> None:
        """Of the kinds that there are, and none of them begins anything."""
        lines = {
            b'"tickers":[]': "BAD_REQUEST",
            b'"tickers":"AAPL"': "BAD_REQUEST",
            b'"tickers":["AAPL"],"since_epoch":1': "BAD_REQUEST",
            b'"tickers":["AAPL"],"instance":"x"': "BAD_REQUEST",
            b'"tickers":["AAPL"],"since_epoch":-1,"instance":"x"': "BAD_REQUEST",
            b'"tickers":["AAPL"],"since_epoch":1.5,"instance":"x"': "BAD_REQUEST",
        }
        for fields, code in lines.items():
            protocol, transport = connect(self.context, log_traffic=False)
            protocol.dataReceived(b'{"v":1,"id":1,"type":"subscribe",%b}\n' % fields)
            (reply,) = self.told(transport)
            assert reply["error"]["code"] == code, fields
            assert len(protocol.server.hub) == 0
        huge = b'"tickers":["AAPL"],"since_epoch":%d,"instance":"x"' % (1 << 63)
        protocol, transport = connect(self.context, log_traffic=False)
        protocol.dataReceived(b'{"v":1,"id":1,"type":"subscribe",%b}\n' % huge)
        assert self.told(transport)[0]["data"]["resumed"] is False

    def test_a_client_with_a_backlog_is_not_read_from_and_told_once_it_has_read(self) -> None:
        """What it asks meanwhile is answered before it is told."""
        protocol, transport = connect(self.context, room=400, log_traffic=False)
        protocol.dataReceived(self.SUBSCRIBE)
        assert transport.producerState == "paused"
        self.publish(protocol, 1.0)
        self.publish(protocol, 2.0)
        protocol.dataReceived(PING)
        assert [line["op"] for line in self.told(transport)] == ["subscribe"]
        transport.drain()
        found = self.told(transport)
        assert [line["op"] for line in found] == ["ping", "quotes"]
        assert found[1]["skipped"] == 1
        transport.drain()
        assert transport.producerState == "producing"

    def test_nothing_is_told_to_who_is_gone(self) -> None:
        """Its subscriptions end with the connection."""
        protocol, transport = connect(self.context)
        protocol.dataReceived(self.SUBSCRIBE)
        protocol.connectionLost()
        assert len(protocol.server.hub) == 0
        self.told(transport)
        self.publish(protocol, 1.0)
        assert self.told(transport) == []
        assert not protocol.server.clients


class TokenTests(Case):
    """A server that wants a token."""

    def test_one_guess_is_all_that_a_connection_has(self) -> None:
        """Guesses behind a wrong one are not looked at, in the same chunk or in later ones."""
        transport = Transport()
        factory = QuoteFactory(self.context, transport.turns, Gate(b"right"), log_traffic=False)
        protocol = factory.buildProtocol(PEER)
        protocol.makeConnection(transport)
        auth = b'{"v":1,"id":1,"type":"auth","token":"%b"}\n'
        protocol.dataReceived(auth % b"wrong" + auth % b"right" + PING + b'{"v":1')
        protocol.dataReceived(auth % b"right")
        (reply,) = transport.value().splitlines()
        assert json.loads(reply)["error"]["code"] == "UNAUTHORIZED"
        assert transport.disconnecting


class TrustTests(Case):
    """What changes the market for all."""

    ADD = b'{"v":1,"id":1,"type":"add_tickers","tickers":["IBM"]}\n'
    AUTH = b'{"v":1,"id":1,"type":"auth","token":"right"}\n'

    def ask(self, lines: bytes, gate: Gate, credentials: Credentials | None = None) -> Any:
        """Send lines over a connection, and give the last reply."""
        have_roster(self.market, "AAPL", "MSFT")
        transport = Transport()
        factory = QuoteFactory(self.market.context, transport.turns, gate, log_traffic=False)
        protocol = factory.buildProtocol(PEER)
        protocol.makeConnection(transport)
        protocol.peer = protocol.peer._replace(credentials=credentials)
        protocol.dataReceived(lines)
        return json.loads(transport.value().splitlines()[-1])

    def test_over_tcp_a_token_is_what_counts(self) -> None:
        """Where the server wants none, having sent one is nothing; it says what to do."""
        for lines in (self.ADD, self.AUTH + self.ADD):
            error = self.ask(lines, Gate())["error"]
            assert error["code"] == "UNAUTHORIZED"
            assert error["message"].startswith("add_tickers: only for clients that have sent auth")
            assert "--auth-token-file" in error["message"]
            assert "--endpoint unix:PATH" in error["message"]
        assert self.ask(self.ADD, Gate(b"right"))["error"]["code"] == "UNAUTHORIZED"
        assert self.ask(self.AUTH + self.ADD, Gate(b"right"))["data"]["added"] == ["IBM"]

    def test_a_unix_socket_is_enough_where_no_token_is_wanted(self) -> None:
        """Where one is, it is wanted there, too."""
        someone = Credentials(1, 2, 3)
        assert self.ask(self.ADD, Gate(), someone)["data"]["added"] == ["IBM"]
        error = self.ask(self.ADD, Gate(b"right"), someone)["error"]
        assert error["code"] == "UNAUTHORIZED"
        assert error["message"] == "this server wants a token: send auth first"


class EndingTests(Case):
    """A client that has sent its last byte."""

    def end(self, stream: bytes, room: int | None = None) -> Transport:
        """Send a stream and close that half."""
        protocol, transport = connect(self.context, room, log_traffic=False)
        protocol.dataReceived(stream)
        assert IHalfCloseableProtocol.providedBy(protocol)
        protocol.readConnectionLost()
        transport.turn_on()
        return transport

    def test_a_half_closed_client_gets_all_its_replies(self) -> None:
        """Then the connection is closed."""
        transport = self.end(PING * 300)
        assert transport.value().count(b"\n") == 300
        assert transport.disconnecting
        assert transport.producer is None  # a transport waits for its producer

    def test_a_half_closed_client_that_reads_slowly_gets_them_too(self) -> None:
        """And is not read from again."""
        request = b'{"v":1,"id":1,"type":"get_quotes"}\n'
        transport = self.end(request * 300, room=100)
        while transport.producer is not None:
            assert not transport.disconnecting
            assert transport.producerState == "paused"
            transport.drain()
        assert transport.value().count(b"\n") == 300
        assert transport.disconnecting

    def test_a_last_line_without_a_newline_is_answered(self) -> None:
        """As of a client that pipes a file."""
        for chunks in chunkings(PING + PING[:-1]):
            protocol, transport = connect(self.context, log_traffic=False)
            for chunk in chunks:
                protocol.dataReceived(chunk)
            protocol.readConnectionLost()
            assert transport.value().count(b"ping") == 2

    def test_a_client_that_says_nothing_gets_nothing(self) -> None:
        """Nor an error for the white space it ends with."""
        assert self.end(b"").value() == b""
        assert self.end(b" \r").value() == b""
        assert self.end(b"").disconnecting


class LoggingTests(Case):
    """What the log says."""

    def test_requests_and_replies_are_logged_at_debug(self) -> None:
        """With the client's address."""
        protocol, transport = connect(self.context)
        asked, got = self.logged(lambda: protocol.dataReceived(PING))
        assert asked["log_level"] is got["log_level"] is LogLevel.debug
        assert asked["peer"] == got["peer"] == "192.0.2.7:50000"
        assert asked["request"] == PING.decode().strip()
        assert got["reply"] == transport.value().decode().strip()

    def test_an_error_logs_the_offending_request(self) -> None:
        """Where only what is of interest is listened to."""
        line = b'{"v":1,"id":1,"type":"nope {log_source} %s"}'
        protocol, _ = connect(self.context, log_traffic=False)
        (event,) = self.logged(lambda: protocol.dataReceived(line + b"\n"))
        assert event["log_level"] is LogLevel.info
        assert event["request"] == line.decode()
        assert event["code"] == "BAD_REQUEST"
        assert event["peer"] == "192.0.2.7:50000"
        assert "nope" not in event["log_format"]

    def test_an_overlong_line_is_logged_by_its_head(self) -> None:
        """In any chunk size the same."""
        for size in (1000, 70_000):
            protocol, _ = connect(self.context)
            stream = b"x" * 70_000 + b"\n"
            chunks = [stream[at : at + size] for at in range(0, len(stream), size)]
            events = self.logged(lambda p=protocol, c=chunks: [*map(p.dataReceived, c)])  # type: ignore[misc]
            assert events[0]["request"] == "x" * LOGGED_NBYTES

    def test_what_is_logged_is_cut(self) -> None:
        """A long line does not fill the disk."""
        protocol, _ = connect(self.context)
        line = b'{"v":1,"id":1,"type":"get_quote","ticker":"%b"}\n' % (b"x" * 60_000)
        for event in self.logged(lambda: protocol.dataReceived(line)):
            for field in ("request", "reply", "reason"):
                assert len(event.get(field, "")) <= LOGGED_NBYTES

    def test_what_is_logged_is_harmless(self) -> None:
        """No control characters, no broken UTF-8, nothing that takes a line for another."""
        assert loggable(b"plain \xc3\xa9 {x}\n") == "plain é {x}"
        assert loggable(b"\x1b[2J") == "\\x1b[2J"
        assert loggable(b"a\xffb") == "a\\xffb"
        assert loggable("a\u2028b".encode()) == "a\\u2028b"
        assert loggable(b"x" * 255 + "é".encode()).isprintable()

    def test_nothing_is_logged_where_nobody_listens(self) -> None:
        """The factory is told."""
        protocol, _ = connect(self.context, log_traffic=False)
        assert self.logged(lambda: protocol.dataReceived(PING)) == []

    def test_addresses_are_named_as_people_write_them(self) -> None:
        """Of each family."""
        assert peer_name(IPv4Address("TCP", "127.0.0.1", 9)) == "127.0.0.1:9"
        assert peer_name(IPv6Address("TCP", "::1", 9)) == "[::1]:9"
        assert peer_name(UNIXAddress("/run/x")) == "/run/x"
        assert peer_name(UNIXAddress(None)) == peer_name(None) == "a local process"
