"""Reading from all clients at once, over real sockets."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from quoteshm.wire import intake
from quoteshm.wire.intake import SocketReading
from tests.serving import ServedCase

PING = b'{"v":1,"id":%d,"type":"ping"}\n'
PONG = b'{"v":1,"id":%d,"type":"response","op":"ping","data":{}}\n'
RESET = struct.pack("ii", 1, 0)  # linger: on, for no time


class IntakeTests(ServedCase):
    """Clients with sockets of their own, and what the server makes of them."""

    def connect(self) -> socket.socket:
        """Connect."""
        connection = socket.create_connection(("127.0.0.1", self.port), 30)
        self.addCleanup(connection.close)
        return connection

    async def turns(self, done: Callable[[], object]) -> None:
        """Let the reactor come round until something is done."""
        while not done():
            await deferLater(self.reactor, 0.001)

    async def several(self, count: int) -> list[socket.socket]:
        """Connect several clients."""
        connections = [self.connect() for _ in range(count)]
        await self.turns(lambda: len(self.factory.clients) == count)
        return connections

    def answer(self, connection: socket.socket) -> Deferred[bytes]:
        """Receive one reply."""
        return self.in_thread(connection.recv, 65_536)

    async def test_all_who_can_be_heard_are_heard_before_any_is_answered(self) -> None:
        """In one call of the reactor; who is alone is answered at once."""
        connections = await self.several(5)
        heard, sent = list[int](), list[int]()
        for client in self.factory.clients:
            reading = client._reading
            assert isinstance(reading, SocketReading)
            received, send = reading.received, client._outbox.send

            def hear(data: bytes, received: Callable[[bytes], object] = received) -> None:
                heard.append(len(sent))
                received(data)

            def tell(*parts: bytes, send: Callable[..., None] = send) -> None:
                sent.append(1)
                send(*parts)

            reading.received = hear
            client._outbox.send = tell  # type: ignore[method-assign]
        for n, connection in enumerate(connections):
            connection.sendall(PING % n)
        replies = [await self.answer(connection) for connection in connections]
        assert replies == [PONG % n for n in range(5)]
        assert heard == [0] * 5
        connections[0].sendall(PING % 9)
        assert await self.answer(connections[0]) == PONG % 9

    async def test_the_reactor_has_one_reader_for_all_and_none_for_nobody(self) -> None:
        """So nothing is left behind when the last one goes."""
        connections = await self.several(3)
        own = [one for one in self.reactor.getReaders() if one is self.factory.intake]
        assert len(own) == 1
        assert not any(
            client.transport in self.reactor.getReaders() for client in self.factory.clients
        )
        for connection in connections:
            connection.close()
        await self.turns(lambda: not self.factory.clients)
        assert self.factory.intake not in self.reactor.getReaders()

    async def test_ends_of_every_kind_are_noticed(self) -> None:
        """A close, a half-close, a reset, and one with a line before it."""
        closed, half, reset, last = await self.several(4)
        closed.close()
        half.shutdown(socket.SHUT_WR)
        reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        reset.close()
        last.sendall(PING % 1 + PING % 2)
        last.shutdown(socket.SHUT_WR)
        assert await self.answer(last) == PONG % 1 + PONG % 2
        assert await self.answer(half) == b""
        await self.turns(lambda: not self.factory.clients)

    async def test_one_that_fails_is_cut_and_the_others_are_served(self) -> None:
        """With the exception in the log."""
        bad, *good = await self.several(3)
        victim = next(
            client
            for client in self.factory.clients
            if client.peer.name.endswith(f":{bad.getsockname()[1]}")
        )
        assert isinstance(victim._reading, SocketReading)
        empty: dict[bytes, None] = {}
        victim._reading.received = empty.__getitem__
        for connection in (bad, *good):
            connection.sendall(PING % 1)
        for connection in good:
            assert await self.answer(connection) == PONG % 1
        with contextlib.suppress(ConnectionResetError):
            assert await self.answer(bad) == b""
        await self.turns(lambda: victim not in self.factory.clients)
        assert len(self.flushLoggedErrors(KeyError)) == 1

    async def test_one_that_is_cut_is_not_heard_any_more(self) -> None:
        """From that moment on, not from when the transport has gone."""
        connections = await self.several(2)
        for connection, client in zip(connections, tuple(self.factory.clients), strict=True):
            reading = client._reading
            assert isinstance(reading, SocketReading)
            assert reading._is_on
            if connection is connections[0]:
                client.abort()
            else:
                empty: dict[bytes, None] = {}
                reading.received = empty.__getitem__
                theirs = next(
                    each
                    for each in connections
                    if client.peer.name.endswith(f":{each.getsockname()[1]}")
                )
                theirs.sendall(PING % 1)
                (event,) = self.factory.intake._epoll.poll(10)
                assert event[0] == reading._number
                self.factory.intake.doRead()
                assert len(self.flushLoggedErrors(KeyError)) == 1
            assert not reading._is_on
            assert client in self.factory.clients
        await self.turns(lambda: not self.factory.clients)

    async def test_more_than_a_turns_clients_are_all_heard(self) -> None:
        """The others in the next one."""
        self.patch(intake, "TURN_CLIENTS", 4)
        connections = await self.several(11)
        for n, connection in enumerate(connections):
            connection.sendall(PING % n)
        replies = [await self.answer(connection) for connection in connections]
        assert [json.loads(reply)["id"] for reply in replies] == list(range(11))

    async def test_a_client_that_is_cut_by_another_one_is_not_heard(self) -> None:
        """Though it has said something in the same turn."""
        first, second = await self.several(2)
        clients = {client.peer.name.rpartition(":")[2]: client for client in self.factory.clients}
        one, two = (clients[str(each.getsockname()[1])] for each in (first, second))
        heard = list[bytes]()
        for mine, other in ((one, two), (two, one)):
            assert isinstance(mine._reading, SocketReading)

            def cut(data: bytes, other: intake.Reading = other._reading) -> None:
                heard.append(data)
                other.stop()

            mine._reading.received = cut
        first.sendall(PING % 1)
        second.sendall(PING % 2)
        await self.turns(lambda: heard)
        await deferLater(self.reactor, 0.01)  # what would come would have come
        assert len(heard) == 1
        one.abort()
        two.abort()
        await self.turns(lambda: not self.factory.clients)
