"""What is sent to one client: nothing lost, doubled or out of order, over sockets of all kinds."""
# mypy: allow-untyped-calls
# Twisted is typed only in part, and `untyped_calls_exclude` does not reach what we inherit.

from __future__ import annotations

import errno
import random
import socket
import struct
import tempfile
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from unittest import mock

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.internet.testing import StringTransport
from twisted.internet.threads import deferToThread
from twisted.trial import unittest
from zope.interface import implementer

from quoteshm.wire.outbox import (
    PIECE_NBYTES,
    TURN_NBYTES,
    BufferedOutbox,
    Outbox,
    SocketOutbox,
    outbox,
)
from tests.certificates import Authority, endpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from twisted.python.failure import Failure

    from quoteshm.wire.outbox import Transport

BIG = random.Random(1).randbytes(1 << 20)  # noqa: S311 (any bytes will do)


@implementer(IHalfCloseableProtocol)
class Server(Protocol):
    """A connection with an outbox."""

    box: Outbox

    def __init__(self) -> None:
        self.made: Deferred[None] = Deferred()
        self.lost: Deferred[None] = Deferred()
        self.is_sending = False
        self.clearings = 0
        self.then: list[bytes] = []  # sent as it is clear again

    def connectionMade(self) -> None:
        """Make the outbox."""
        self.box = outbox(cast("Transport", self.transport), self.cleared)
        self.made.callback(None)

    def cleared(self) -> None:
        """Be clear again: never while something is being sent."""
        assert not self.is_sending
        assert self.box.is_clear
        self.clearings += 1
        if self.then:
            self.send(self.then.pop(0))

    def send(self, *parts: bytes) -> None:
        """Send."""
        self.is_sending = True
        self.box.send(*parts)
        self.is_sending = False

    def readConnectionLost(self) -> None:
        """Go on: the other half is open."""

    def writeConnectionLost(self) -> None:
        """Never comes."""

    def connectionLost(self, reason: Failure | None = None) -> None:
        """Say so."""
        self.lost.callback(None)


class Case(unittest.TestCase):
    """A test with connections of all kinds."""

    timeout = 60

    def setUp(self) -> None:
        """Know the reactor."""
        # At import it would be installed before another test may choose.
        from twisted.internet import reactor  # noqa: PLC0415

        self.reactor: Any = reactor

    def pair(self, family: int, room: int | None = None) -> tuple[Server, socket.socket]:
        """Give a served connection and its other end, which does not block.

        Parameters
        ----------
        family : int
            Of the sockets.
        room : int, optional
            Bytes that the kernel is to hold of what is not read; it makes more of few.

        """
        if family == socket.AF_UNIX:
            ours, theirs = socket.socketpair()
        else:
            with socket.create_server(("127.0.0.1", 0)) as listening:
                theirs = socket.socket()
                if room is not None:
                    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
                theirs.connect(listening.getsockname())
                ours, _ = listening.accept()
        if room is not None:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, room)
        theirs.settimeout(0)
        server = Server()
        self.reactor.adoptStreamConnection(
            ours.fileno(), family, Factory.forProtocol(lambda: server)
        )
        ours.close()
        self.addCleanup(self.end, server)
        self.addCleanup(theirs.close)
        return server, theirs

    def end(self, server: Server) -> Deferred[None]:
        """Close a connection, and wait until it is."""
        if server.transport is not None and not server.lost.called:
            server.transport.abortConnection()
        return server.lost

    def pairs(self) -> Iterator[tuple[Server, socket.socket]]:
        """Give connections of each family with each room."""
        for family in (socket.AF_INET, socket.AF_UNIX):
            for room in (1, 20_000, 300_000, None):
                yield self.pair(family, room)

    async def turn(self) -> None:
        """Let the reactor come round."""
        await deferLater(self.reactor, 0)

    async def read(self, theirs: socket.socket, nbytes: int, at_most: int = 1 << 20) -> bytes:
        """Read so many bytes, or up to the end."""
        found = bytearray()
        while len(found) < nbytes:
            try:
                data = theirs.recv(min(at_most, nbytes - len(found)))
            except BlockingIOError:
                await self.turn()
                continue
            if not data:
                break
            found += data
        return bytes(found)


class SocketTests(Case):
    """Over TCP and Unix sockets."""

    async def test_what_is_sent_comes_whole_and_in_order(self) -> None:
        """Parts of all sizes, sent before, while and after there is a backlog."""
        for server, theirs in self.pairs():
            assert isinstance(server.box, SocketOutbox)
            rng = random.Random(2)  # noqa: S311 (the same each time)
            expected, found = bytearray(), bytearray()
            for _ in range(60):
                sizes = rng.choices((0, 1, 100, 5000, 100_000), k=rng.randrange(1, 5))
                starts = [rng.randrange(len(BIG) - 100_000) for _ in sizes]
                parts = [BIG[at : at + n] for at, n in zip(starts, sizes, strict=True)]
                server.send(*parts)
                expected += b"".join(parts)
                if rng.random() < 0.5:
                    ahead = len(expected) - len(found)
                    found += await self.read(theirs, rng.randrange(ahead + 1), 30_000)
            found += await self.read(theirs, len(expected) - len(found))
            assert found == expected
            await self.turn()
            await self.turn()
            assert server.box.is_clear
            assert server.box.sent_nbytes == len(expected)
            assert server.box.queued_nbytes == 0

    async def test_what_is_sent_as_it_is_clear_again_comes_after_the_rest(self) -> None:
        """Once for each backlog."""
        for server, theirs in self.pairs():
            server.then = [BIG + BIG + b"then"]
            server.send(*[BIG] * 8)
            assert not server.box.is_clear
            assert await self.read(theirs, 10 * len(BIG) + 4) == BIG * 10 + b"then"
            await self.turn()
            assert server.clearings >= 1

    async def test_sending_never_says_that_it_is_clear_again(self) -> None:
        """Even where the client reads at that very moment: who sends is not called back."""
        server, theirs = self.pair(socket.AF_UNIX, 20_000)
        transport: Any = server.transport
        register, found = transport.registerProducer, bytearray()

        def register_late(producer: Any, *, streaming: bool) -> None:
            found.extend(theirs.recv(1 << 20))
            register(producer, streaming)

        with mock.patch.object(transport, "registerProducer", register_late):
            server.send(BIG[:300_000])
        assert found
        assert not server.box.is_clear
        assert server.clearings == 0
        found += await self.read(theirs, 300_000 - len(found))
        assert found == BIG[:300_000]
        await self.turn()
        assert server.clearings == 1

    async def test_a_turn_sends_so_much_and_no_more(self) -> None:
        """However fast one client reads, the others have their turn."""
        server, theirs = self.pair(socket.AF_UNIX)
        server.send(BIG * 8)
        box, read, largest = server.box, 0, 0
        while not box.is_clear:
            before = box.sent_nbytes
            read += len(await self.read(theirs, before - read))
            await self.turn()
            largest = max(largest, box.sent_nbytes - before)
        assert largest <= 2 * TURN_NBYTES

    async def test_closing_waits_for_the_backlog(self) -> None:
        """Everything comes, then the end."""
        for server, theirs in self.pairs():
            server.send(BIG, b"last")
            server.box.close()
            assert await self.read(theirs, 1 << 30, 100_000) == BIG + b"last"
            await server.lost

    async def test_a_client_that_is_gone_in_the_middle_is_lost_once(self) -> None:
        """With a reset or without; what waited is let go, and nothing is kept after it."""
        for reset in (True, False):
            for server, theirs in self.pairs():
                server.send(*[BIG] * 8)
                assert not server.box.is_clear
                theirs.recv(100)
                if reset:
                    linger = struct.pack("ii", 1, 0)
                    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                theirs.close()
                server.send(BIG)
                await server.lost
                assert server.box.queued_nbytes == 0
                server.send(BIG)
                server.box.close()
                assert server.box.queued_nbytes == 0
                assert server.clearings == 0

    async def test_a_client_that_is_gone_before_anything_is_sent_is_lost(self) -> None:
        """Sending does not raise, whichever call notices it."""
        for server, theirs in self.pairs():
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            theirs.close()
            for _ in range(3):
                server.send(BIG)
                server.send(b"a", b"b")
            await server.lost
            server.send(b"x")

    async def test_a_half_closed_client_gets_everything(self) -> None:
        """It has sent its last byte, and reads on."""
        for server, theirs in self.pairs():
            server.send(BIG)
            theirs.shutdown(socket.SHUT_WR)
            await self.turn()
            server.send(b"more")
            assert await self.read(theirs, len(BIG) + 4, 50_000) == BIG + b"more"

    async def test_a_kernel_without_memory_is_waited_for(self) -> None:
        """As for a full socket: nothing is lost by it, and nothing out of order."""
        server, theirs = self.pair(socket.AF_INET)
        real: Any = cast("Any", server.box)._socket
        tries: list[int] = []

        class Poor:
            """A socket that has no memory every other time."""

            def send(self, data: bytes) -> int:
                """Send, or fail."""
                tries.append(len(data))
                if len(tries) % 2:
                    raise OSError(errno.ENOBUFS, "no buffer space available")
                sent: int = real.send(data[:100_000])
                return sent

        with mock.patch.object(server.box, "_socket", Poor()):
            server.send(BIG)
            server.send(b"second")
            assert await self.read(theirs, len(BIG) + 6) == BIG + b"second"
        await self.turn()
        assert server.box.is_clear
        server.send(b"third")
        assert await self.read(theirs, 5) == b"third"

    async def test_a_thousand_slow_clients_hold_one_event(self) -> None:
        """What waits for all of them is there once."""
        count = 400  # two descriptors each, of 1,024
        servers = [self.pair(socket.AF_UNIX, 1)[0] for _ in range(count)]
        event = bytes(BIG)
        tracemalloc.start()
        try:
            for server in servers:
                server.send(b"head of its own", b'"op"', event, b"}\n")
                assert not server.box.is_clear
            grown, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert servers[0].box.queued_nbytes > len(event) - 10_000
        assert grown < count * 3000


class BufferedTests(Case):
    """Over a transport that has a buffer: TLS, and whatever else."""

    def folder(self) -> Path:
        """Make a folder."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        return Path(folder.name)

    async def test_tls_brings_everything_in_order_and_then_the_end(self) -> None:
        """Also what is sent before the two have shaken hands, and to a slow client."""
        authority = Authority(self.folder())
        issued = authority.issue("127.0.0.1")
        server = Server()
        listening = await serverFromString(self.reactor, endpoint(issued)).listen(
            Factory.forProtocol(lambda: server)
        )
        self.addCleanup(listening.stopListening)
        self.addCleanup(self.end, server)

        def ask() -> bytes:
            raw = socket.create_connection(("127.0.0.1", listening.getHost().port), 30)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 100_000)
            found = bytearray()
            with authority.trusting().wrap_socket(raw, server_hostname="127.0.0.1") as theirs:
                while data := theirs.recv(16_000):
                    found += data
            return bytes(found)

        asked = deferToThread(ask)
        await server.made
        assert isinstance(server.box, BufferedOutbox)
        server.then = [BIG + b"then"]
        server.send(BIG, b"a")
        server.send(BIG, b"b")
        assert not server.box.is_clear
        while server.then or not server.box.is_clear:
            await self.turn()
        server.send(BIG, b"last")
        server.box.close()
        assert await asked == BIG + b"a" + BIG + b"b" + BIG + b"then" + BIG + b"last"
        assert server.box.sent_nbytes == 4 * len(BIG) + 10

    def full(self, room: int = 0) -> tuple[BufferedOutbox, Full]:
        """Give an outbox over a transport with so much room."""
        transport = Full(room)
        return BufferedOutbox(transport, lambda: None), transport

    def test_a_transport_is_given_a_piece_after_the_other(self) -> None:
        """What it has not asked for is kept here; each piece is progress."""
        box, transport = self.full()
        box.send(BIG, b"end")
        seen = {box.sent_nbytes}
        assert len(transport.value()) == PIECE_NBYTES
        while not box.is_clear:
            transport.take()
            seen.add(box.sent_nbytes)
        assert transport.value() == BIG + b"end"
        assert len(seen) >= len(BIG) // PIECE_NBYTES

    def test_what_is_sent_with_a_backlog_comes_behind_it(self) -> None:
        """Small and large."""
        box, transport = self.full(100)
        expected = b""
        for part in (b"x" * 101, b"small", BIG[:200_000], b"", b"z"):
            box.send(part)
            expected += part
        assert transport.value() == expected[:101]
        while not box.is_clear:
            transport.take()
        assert transport.value() == expected

    def test_closing_waits_for_the_backlog(self) -> None:
        """Then the transport is told, which waits for no producer any more."""
        box, transport = self.full()
        box.send(BIG)
        box.close()
        while box.queued_nbytes:
            assert not transport.disconnecting
            transport.take()
        transport.take()
        assert transport.disconnecting
        assert transport.producer is None
        assert transport.value() == BIG

    def test_nothing_is_kept_of_who_is_gone(self) -> None:
        """Nor sent."""
        box, transport = self.full()
        box.send(BIG)
        assert transport.producer is not None
        transport.producer.stopProducing()
        assert box.queued_nbytes == 0
        assert not box.is_clear
        box.send(b"more")
        assert box.queued_nbytes == 0

    def test_a_thousand_slow_clients_hold_one_event(self) -> None:
        """But for the piece that each transport has."""
        event = bytes(BIG)
        boxes = [self.full() for _ in range(1000)]
        for _, transport in boxes:
            transport.write = lambda _data, t=transport: t.producer.pauseProducing()  # type: ignore[misc, method-assign]
        tracemalloc.start()
        try:
            for box, _ in boxes:
                box.send(b"head of its own", event, b"}\n")
            grown, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert all(box.queued_nbytes > len(event) // 2 for box, _ in boxes)
        assert grown < 1000 * 3000


class Full(StringTransport):
    """A transport that has enough as soon as there is more than its room, until it is taken."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room, self.queued = room, 0

    def write(self, data: bytes) -> None:
        """Take it, and ask for no more."""
        super().write(data)
        self.queued += len(data)
        if self.queued > self.room and self.producer is not None:
            self.producer.pauseProducing()

    def take(self) -> None:
        """Have room again."""
        self.queued = 0
        if self.producer is not None:
            self.producer.resumeProducing()
