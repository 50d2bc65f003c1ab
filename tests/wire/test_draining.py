"""A server that stops: what is under way is finished, nothing new is begun."""
# mypy: allow-untyped-calls
# Twisted is typed only in part, and `untyped_calls_exclude` does not reach what we inherit.

from __future__ import annotations

import json
import socket
import time

from twisted.internet.task import deferLater

from quoteshm.wire.protocol import LOGGED_NBYTES, loggable
from tests.serving import ServedCase

PING = b'{"v":1,"id":%d,"type":"ping"}\n'
QUOTES = b'{"v":1,"id":%d,"type":"get_quotes"}\n'


class DrainingTests(ServedCase):
    """Clients with sockets of their own."""

    def setUp(self) -> None:
        """Publish enough for a reply of 100 kB."""
        super().setUp()
        names = [f"T{n}" for n in range(400)]
        self.market.add(*names)
        for name in names:
            self.market.quote(name, 1.0)

    def connect(self) -> socket.socket:
        """Connect, until the test is over."""
        connection = socket.create_connection(("127.0.0.1", self.port), 30)
        self.addCleanup(connection.close)
        return connection

    async def drain(self, timeout_s: float) -> float:
        """Stop as the daemon does; give how long it takes."""
        await self.listening.stopListening()
        begun_s = time.monotonic()
        await self.factory.drain(timeout_s)
        assert self.factory.clients == set()
        return time.monotonic() - begun_s

    async def connected(self, count: int) -> None:
        """Wait until the server knows of so many clients."""
        while len(self.factory.clients) < count:
            await deferLater(self.reactor, 0.001)  # another turn of the reactor

    async def test_without_clients_it_is_over_at_once(self) -> None:
        """And asks the reactor for nothing more."""
        assert await self.drain(5.0) < 1.0

    async def test_clients_with_nothing_under_way_are_closed_at_once(self) -> None:
        """A line without its end is none, and is not answered as one."""
        silent, half = self.connect(), self.connect()
        half.sendall(PING[:-5])
        await self.connected(2)
        await deferLater(self.reactor, 0.05)  # it has been read, or may be later
        assert await self.drain(5.0) < 1.0
        assert [await self.in_thread(one.recv, 100) for one in (silent, half)] == [b"", b""]

    async def test_replies_under_way_are_drained(self) -> None:
        """All to requests that have been read, each whole and in order, and then the end."""
        client = self.connect()
        client.sendall(b"".join(QUOTES % n for n in range(200)))
        while all(protocol.is_clear for protocol in self.factory.open):
            await deferLater(self.reactor, 0.001)  # another turn of the reactor

        def read() -> list[int]:
            with client.makefile("rb") as lines:
                return [json.loads(line)["id"] for line in lines]

        reading = self.in_thread(read)
        assert await self.drain(5.0) < 5.0
        got = await reading
        assert len(got) > 1
        assert got == list(range(len(got)))

    async def test_who_does_not_read_is_cut_when_the_time_is_up(self) -> None:
        """Those who do are not held up."""
        mute = self.connect()
        mute.sendall(b"".join(QUOTES % n for n in range(200)))
        while all(protocol.is_clear for protocol in self.factory.open):
            await deferLater(self.reactor, 0.001)  # another turn of the reactor
        assert 0.3 <= await self.drain(0.3) < 2.0

    async def test_who_comes_meanwhile_is_turned_away(self) -> None:
        """A connection may have been accepted as the port was closed."""
        mute = self.connect()
        mute.sendall(b"".join(QUOTES % n for n in range(200)))
        while all(protocol.is_clear for protocol in self.factory.open):
            await deferLater(self.reactor, 0.001)  # another turn of the reactor
        drained = self.factory.drain(0.5)
        late = self.connect()
        said = json.loads(await self.in_thread(late.makefile("rb").readline))
        assert said["error"] == {"code": "OVERLOADED", "message": "the server is stopping"}
        await drained

    def test_no_token_is_logged(self) -> None:
        """Whatever is wrong with the line that has it."""
        for line in (
            b'{"v":1,"id":1,"type":"auth","token":"s3cret"}',
            b'{"v":1,"id":1,"type":"auth","token" : "s3cret"',
            b'{"token":"a\\"s3cret","x":1}',
            b'{"token":"s3cret',
            rb'{"v":1,"id":1,"type":"auth","\u0074oken":"s3cret"}',
            rb'{"to\u006Ben":"s3cret","\u0074\u006f\u006B\u0065\u006e" : "s3cret',
            b'{"x":"' + b"x" * (LOGGED_NBYTES - 20) + b'","token":"s3cret"}',
        ):
            assert "s3cret" not in loggable(line)
        assert loggable(b'{"id":1,"token":"a","v":1}') == '{"id":1,"token":...,"v":1}'
