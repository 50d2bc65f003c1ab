"""Each bound of the wire, at a client with a real socket that goes beyond it."""
# mypy: allow-untyped-calls
# Twisted is typed only in part, and `untyped_calls_exclude` does not reach what we inherit.

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import struct
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twisted.internet.endpoints import serverFromString
from twisted.internet.task import deferLater

from quoteshm.wire.bounds import Bounds
from quoteshm.wire.intake import SocketReading
from quoteshm.wire.outbox import SocketOutbox
from quoteshm.wire.peers import taken
from quoteshm.wire.protocol import MAX_TURNED_AWAY
from tests.certificates import Authority, endpoint
from tests.serving import ServedCase
from tests.wire.replaying import Replica

if TYPE_CHECKING:
    from collections.abc import Callable

    from quoteshm.wire.protocol import QuoteProtocol

PING = b'{"v":1,"id":1,"type":"ping"}\n'
QUOTES = b'{"v":1,"id":%d,"type":"get_quotes"}\n'
SUBSCRIBE = b'{"v":1,"id":"s","type":"subscribe","tickers":"*"}\n'


class Ahead:
    """The reactor, with a clock that the test puts forward."""

    def __init__(self, reactor: Any) -> None:
        self.callLater = reactor.callLater
        self._reactor, self.ahead_s = reactor, 0.0

    def seconds(self) -> float:
        """Give the time."""
        now: float = self._reactor.seconds() + self.ahead_s
        return now


class Case(ServedCase):
    """A market of 400 tickers, so that a reply has 100 kB, and a clock to put forward."""

    bounds = Bounds(max_connections=8, max_connections_per_peer=6)

    def setUp(self) -> None:
        """Publish, and listen."""
        super().setUp()
        self.names = [f"T{n}" for n in range(400)]
        self.market.add(*self.names)
        for name in self.names:
            self.market.quote(name, 1.0)
        self.factory.turns = self.time = Ahead(self.reactor)

    def connect(self, room: int | None = None) -> socket.socket:
        """Connect, with little room for what is not read if it is said so."""
        connection = socket.socket()
        if room is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
        connection.settimeout(30)
        connection.connect(("127.0.0.1", self.port))
        self.addCleanup(connection.close)
        return connection

    async def until(self, holds: Callable[[], object]) -> None:
        """Let the reactor come round until something holds."""
        while not holds():
            await deferLater(self.reactor, 0.001)  # another turn of the reactor

    async def served(self, room: int | None = None) -> tuple[socket.socket, QuoteProtocol]:
        """Give a new connection, and the server's end of it."""
        before = set(self.factory.open)
        connection = self.connect(room)
        await self.until(lambda: self.factory.open - before)
        (protocol,) = self.factory.open - before
        if room is not None:
            handle: Any = protocol.transport
            handle.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, room)
        return connection, protocol

    async def pass_s(self, seconds: float, step_s: float = 1.0) -> None:
        """Put the clock forward, and look after the clients as the daemon does."""
        passed = 0.0
        while passed < seconds:
            passed += step_s
            self.time.ahead_s += step_s
            self.factory.look_after()
            await deferLater(self.reactor, 0)

    def publish(self, price: float) -> None:
        """Change all quotes, one commit each, and tell."""
        for name in self.names:
            self.market.quote(name, price)
            self.factory.hub.published()

    def has_read(self, connection: socket.socket, protocol: QuoteProtocol) -> bool:
        """Read what is there; tell whether that was all that the server's end has sent."""
        connection.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            connection.recv(1 << 20)
        return protocol.is_clear and taken(protocol.transport, 0).is_all

    async def rest(self, connection: socket.socket) -> bytes:
        """Read up to the end."""

        def read() -> bytes:
            with contextlib.suppress(ConnectionResetError), connection.makefile("rb") as file:
                return file.read()
            return b""

        found: bytes = await self.in_thread(read)
        return found


class WriteDeadlineTests(Case):
    """Who does not read."""

    async def test_who_asks_and_does_not_read_is_cut(self) -> None:
        """After the write time-out, not before."""
        connection, protocol = await self.served(10_000)
        connection.sendall(b"".join(QUOTES % n for n in range(200)))
        await self.until(lambda: not protocol.is_clear)
        await self.pass_s(29)
        assert self.factory.open
        await self.pass_s(4)
        await self.until(lambda: not self.factory.open)
        assert self.factory.connections.count == 0

    async def test_a_subscriber_that_does_not_read_is_cut(self) -> None:
        """And what it was to be told is let go."""
        connection, protocol = await self.served(10_000)
        connection.sendall(SUBSCRIBE)
        await self.until(lambda: len(self.factory.hub))
        self.publish(2.0)
        await self.until(lambda: not protocol.is_clear)
        await self.pass_s(33)
        await self.until(lambda: not self.factory.open)
        assert len(self.factory.hub) == 0

    async def test_who_reads_slowly_is_not_cut(self) -> None:
        """Nor idle meanwhile, nor right after it."""
        connection, protocol = await self.served(10_000)
        count = 30
        connection.sendall(b"".join(QUOTES % n for n in range(count)))
        await self.until(lambda: not protocol.is_clear)
        connection.settimeout(0)
        replies = 0
        while replies < count:
            sent = protocol._outbox.sent_nbytes
            with contextlib.suppress(BlockingIOError):
                replies += connection.recv(60_000).count(b"\n")
            await deferLater(self.reactor, 0)
            if protocol._outbox.sent_nbytes != sent:
                await self.pass_s(20, 20)
        assert self.time.ahead_s > 600
        await self.pass_s(200)
        assert self.factory.open == {protocol}

    def ask_for_much(self, connection: socket.socket) -> Callable[[], bool]:
        """Ask for more than the sockets hold; tell whether they hold what they can."""
        connection.sendall(b"".join(QUOTES % n for n in range(60)))
        (protocol,) = self.factory.open
        marks = [0]

        def is_full() -> bool:
            marks.append(taken(protocol.transport, 0).mark)
            return not protocol.is_clear and len(marks) > 20 and len(set(marks[-20:])) == 1

        return is_full

    async def test_who_reads_steadily_but_very_slowly_is_not_cut(self) -> None:
        """Though for minutes the socket asks for nothing more: the kernel's buffer is large."""
        connection, protocol = await self.served(10_000)
        handle: Any = protocol.transport
        handle.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        await self.until(self.ask_for_much(connection))
        await self.pass_s(1)
        sent, read = protocol._outbox.sent_nbytes, 0
        connection.settimeout(0)
        for _ in range(5):
            before = taken(protocol.transport, 0)
            while taken(protocol.transport, 0) == before:
                with contextlib.suppress(BlockingIOError):
                    read += len(connection.recv(1000))
                await deferLater(self.reactor, 0.001)  # the kernel's acknowledgement
            await self.pass_s(20, 20)
        assert 0 < read < 100_000
        assert protocol._outbox.sent_nbytes == sent  # which says nothing of it
        assert self.factory.open == {protocol}
        await self.pass_s(33)
        await self.until(lambda: not self.factory.open)

    async def test_who_does_not_take_what_the_kernel_holds_is_cut(self) -> None:
        """As one whose machine is gone; a subscriber, too, though its socket takes all events."""
        connection, protocol = await self.served()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        handle: Any = protocol.transport
        handle.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        connection.sendall(SUBSCRIBE)
        await self.until(lambda: len(self.factory.hub))
        for n in range(50):
            connection.sendall(QUOTES % n)
        await self.until(lambda: protocol._outbox.sent_nbytes > 3_000_000)
        for n in range(45):
            if self.factory.open:
                assert protocol.is_clear
            self.market.quote("T1", float(n))
            self.factory.hub.published()
            await self.pass_s(1)
        await self.until(lambda: not self.factory.open)
        assert len(self.factory.hub) == 0


class UnixDeadlineTests(Case):
    """The same over a Unix socket, of which the kernel tells other things."""

    def listen(self, port: int = 0) -> None:
        """Listen at a path."""
        del port
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = f"{folder.name}/q"
        self.listening = self.reactor.listenUNIX(self.path, self.factory)
        self.addCleanup(self.listening.stopListening)

    def connect(self, room: int | None = None) -> socket.socket:
        """Connect."""
        del room  # it is the server's alone
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self.path)
        self.addCleanup(connection.close)
        return connection

    async def test_who_reads_slowly_is_not_cut_and_who_does_not_is(self) -> None:
        """The kernel lets go of what was read by the piece, so it is seen more coarsely."""
        connection, protocol = await self.served()
        connection.sendall(b"".join(QUOTES % n for n in range(60)))
        await self.until(lambda: not protocol.is_clear)
        await self.pass_s(1)
        for _ in range(5):
            mark = protocol._outbox.sent_nbytes, taken(protocol.transport, 0).mark
            while (protocol._outbox.sent_nbytes, taken(protocol.transport, 0).mark) == mark:
                connection.recv(1000)
                await deferLater(self.reactor, 0)
            await self.pass_s(20, 20)
        assert self.factory.open == {protocol}
        await self.pass_s(33)
        await self.until(lambda: not self.factory.open)

    async def test_what_is_left_with_the_kernel_is_no_reason(self) -> None:
        """A process that is gone is noticed without it."""
        connection, protocol = await self.served()
        connection.sendall(PING)
        await self.until(lambda: protocol._outbox.sent_nbytes)
        await self.pass_s(200, 10)
        assert self.factory.open == {protocol}
        connection.close()
        await self.until(lambda: not self.factory.open)


class IdleTests(Case):
    """Who says nothing."""

    async def test_who_says_nothing_is_closed(self) -> None:
        """Without a word, after the idle time-out; who asks now and then is not."""
        silent, _ = await self.served()
        asks, protocol = await self.served()
        for _ in range(4):
            await self.pass_s(100, 10)
            asks.sendall(PING)
            await self.until(lambda: protocol._lines_seen)
            await self.until(lambda: self.has_read(asks, protocol))
            asks.settimeout(30)
        assert self.factory.open == {protocol}
        assert await self.rest(silent) == b""

    async def test_a_slow_loris_says_nothing(self) -> None:
        """A byte now and then, and never a whole line."""
        loris, protocol = await self.served()
        for n in range(40):
            with contextlib.suppress(OSError):
                loris.sendall(PING[n % 20 : n % 20 + 1])
            await self.pass_s(10, 10)
        await self.until(lambda: not self.factory.open)
        assert not protocol.is_clear or protocol._ended

    async def test_blank_lines_say_nothing(self) -> None:
        """They cost as little as they bring."""
        connection, _ = await self.served()
        for _ in range(40):
            with contextlib.suppress(OSError):
                connection.sendall(b"\n\r\n")
            await self.pass_s(10, 10)
        await self.until(lambda: not self.factory.open)

    async def test_a_subscriber_is_never_idle(self) -> None:
        """It has nothing to say; with the end of its subscription it is as any other."""
        connection, protocol = await self.served()
        connection.sendall(SUBSCRIBE)
        await self.until(lambda: len(self.factory.hub))
        for _ in range(20):
            await self.until(lambda: self.has_read(connection, protocol))
            await self.pass_s(100, 100)
        assert self.factory.open
        connection.sendall(b'{"v":1,"id":1,"type":"unsubscribe"}\n')
        await self.until(lambda: not len(self.factory.hub))
        await self.until(lambda: self.has_read(connection, protocol))
        await self.pass_s(200, 10)
        assert not protocol._ended
        await self.pass_s(200, 10)
        await self.until(lambda: not self.factory.open)


class PendingTests(Case):
    """A reply that is too long."""

    bounds = Bounds(max_pending_bytes=65_536)

    async def test_a_reply_that_is_too_long_is_an_error_and_the_connection_lives(self) -> None:
        """Of each op; a subscription of which the reply is not sent has not begun."""
        connection, _ = await self.served()
        with connection.makefile("rb") as lines:

            def ask(line: bytes) -> dict[str, Any]:
                connection.sendall(line)
                found: dict[str, Any] = json.loads(lines.readline())
                return found

            for line in (QUOTES % 7, SUBSCRIBE.replace(b'"s"', b"7")):
                reply = await self.in_thread(ask, line)
                assert reply["id"] == 7
                assert reply["error"]["code"] == "OVERLOADED"
                assert "at most 65536: ask for less" in reply["error"]["message"]
                assert len(self.factory.hub) == 0
            self.publish(2.0)
            reply = await self.in_thread(ask, PING)
            assert reply["op"] == "ping"
            line = SUBSCRIBE.replace(b'"*"', b'["T1"]')
            assert list((await self.in_thread(ask, line))["data"]["quotes"]) == ["T1"]


class CrowdTests(Case):
    """More connections than there may be."""

    async def test_one_too_many_of_a_peer_is_told_so_and_closed(self) -> None:
        """Also if it has asked already; when another one leaves there is room again."""
        there = [(await self.served())[0] for _ in range(6)]
        for asked in (b"", PING, PING * 5000):
            more = self.connect()
            with contextlib.suppress(OSError):
                more.sendall(asked)
            line, _, rest = (await self.rest(more)).partition(b"\n")
            reply = json.loads(line)
            assert reply["id"] is None
            assert reply["error"]["code"] == "OVERLOADED"
            assert "6 connections from 127.0.0.1, at most 6" in reply["error"]["message"]
            assert rest == b""
        await self.until(lambda: len(self.factory.clients) == 6)
        there.pop().close()
        await self.until(lambda: self.factory.connections.count == 5)
        (await self.served())[0].sendall(PING)

    async def test_one_too_many_in_total_is_told_so_and_closed(self) -> None:
        """Whoever it is."""
        self.factory.connections.per_peer = 100
        for _ in range(8):
            await self.served()
        reply = json.loads(await self.rest(self.connect()))
        assert reply["error"]["code"] == "OVERLOADED"
        assert self.factory.connections.count == 8


class TlsTests(Case):
    """Closing a connection that the other end keeps open."""

    bounds = Bounds(max_connections=2)

    def folder(self) -> Path:
        """Make a folder."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        return Path(folder.name)

    async def listen_tls(self) -> tuple[int, ssl.SSLContext]:
        """Listen; give the port, and what a client trusts."""
        authority = Authority(self.folder())
        where = serverFromString(self.reactor, endpoint(authority.issue("127.0.0.1")))
        listening = await where.listen(self.factory)
        self.addCleanup(listening.stopListening)
        return listening.getHost().port, authority.trusting()

    async def test_who_never_shakes_hands_is_cut(self) -> None:
        """One that was let in, and one that was turned away: it cannot even be told."""
        port, _ = await self.listen_tls()
        mute = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
        for each in mute:
            self.addCleanup(each.close)
        await self.until(lambda: len(self.factory.open) == 3)
        assert self.factory.connections.count == 2
        await self.pass_s(32)
        await self.until(lambda: len(self.factory.open) == 2)
        await self.pass_s(300, 10)
        await self.until(lambda: not self.factory.open)
        assert not self.factory.clients

    async def test_those_who_never_shake_hands_are_bounded(self) -> None:
        """There is room for so many who are to be told; the others are cut at once."""
        port, _ = await self.listen_tls()
        most = 2 + MAX_TURNED_AWAY
        mute = list[socket.socket]()
        while len(mute) < most + 20:
            mute.append(socket.create_connection(("127.0.0.1", port)))
            self.addCleanup(mute[-1].close)
            await self.until(lambda: self.factory.made == len(mute))
        await self.until(lambda: len(self.factory.open) == most)
        assert self.factory.connections.count == 2
        for each in mute:
            each.close()
        await self.until(lambda: not self.factory.open)

    async def test_who_does_not_answer_the_goodbye_is_cut(self) -> None:
        """TLS waits for it; this server does not for long."""
        port, trusting = await self.listen_tls()

        def connect() -> ssl.SSLSocket:
            raw = socket.create_connection(("127.0.0.1", port))
            connection = trusting.wrap_socket(raw, server_hostname="127.0.0.1")
            connection.sendall(PING)
            connection.recv(1000)
            return connection

        connection = await self.in_thread(connect)
        self.addCleanup(connection.close)
        await self.pass_s(301, 10)
        await self.pass_s(40)
        await self.until(lambda: not self.factory.open)


class ReadingTests(Case):
    """When a client is read from."""

    def is_read_from(self, protocol: QuoteProtocol) -> bool:
        """Whether the server looks for what it sends."""
        assert isinstance(protocol._reading, SocketReading)
        return protocol._reading._is_on

    async def test_a_subscriber_with_a_backlog_is_read_from_when_it_has_caught_up(self) -> None:
        """What it asks for meanwhile is answered then, and no event is lost or told twice."""
        connection, protocol = await self.served(10_000)
        assert isinstance(protocol._outbox, SocketOutbox)
        connection.sendall(SUBSCRIBE)
        await self.until(lambda: len(self.factory.hub))
        replica, lines = Replica(), connection.makefile("rb")
        self.addCleanup(lines.close)
        for price in (2.0, 3.0, 4.0):
            self.publish(price)
        await self.until(lambda: not protocol.is_clear)
        assert not self.is_read_from(protocol)
        connection.sendall(PING)
        self.publish(5.0)

        def read_to_ping() -> None:
            while True:
                line = json.loads(lines.readline())
                if line["type"] == "event":
                    replica.take(line)
                elif line["op"] == "subscribe":
                    replica.begin(line["data"])
                else:
                    assert line["op"] == "ping"
                    return

        await self.in_thread(read_to_ping)
        await self.until(lambda: self.is_read_from(protocol))
        connection.sendall(PING)
        await self.in_thread(read_to_ping)
        assert replica.epoch == self.market.writer.epoch
        assert replica.skipped + replica.told == 4 * len(self.names)
        assert {q["price"] for t, q in replica.quotes.items() if t in self.names} == {5.0}

    async def test_a_half_closed_subscriber_gets_its_reply_and_the_end(self) -> None:
        """It cannot end its subscription, so it has none."""
        connection, _ = await self.served()
        connection.sendall(SUBSCRIBE + PING)
        connection.shutdown(socket.SHUT_WR)
        first, second = (await self.rest(connection)).splitlines()
        assert json.loads(first)["op"] == "subscribe"
        assert json.loads(second)["op"] == "ping"
        assert len(self.factory.hub) == 0

    async def test_a_subscriber_that_is_reset_with_a_backlog_is_forgotten(self) -> None:
        """Though it was not read from."""
        connection, protocol = await self.served(10_000)
        connection.sendall(SUBSCRIBE)
        await self.until(lambda: not protocol.is_clear)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        self.publish(2.0)
        await self.until(lambda: not self.factory.open)
        assert len(self.factory.hub) == 0

    async def test_the_requests_of_one_client_do_not_hold_up_another(self) -> None:
        """A turn of the one, a turn of the other."""
        greedy, protocol = await self.served()
        modest, _ = await self.served()
        answered: list[int] = []

        def fill() -> None:
            greedy.sendall(PING * 30_000)

        def read() -> bytes:
            with greedy.makefile("rb") as lines:
                for _ in range(30_000):
                    lines.readline()
            return b""

        filled, done = self.in_thread(fill), self.in_thread(read)
        await self.until(lambda: protocol._outbox.sent_nbytes)
        modest.settimeout(0)
        while not done.called:
            modest.sendall(PING)
            turns, found = 0, b""
            while not found:
                await deferLater(self.reactor, 0)
                turns += 1
                with contextlib.suppress(BlockingIOError):
                    found = modest.recv(1000)
            answered.append(turns)
        await filled
        await done
        assert max(answered) < 50
