"""The wire over real sockets: what only a real transport does."""

from __future__ import annotations

import json
import socket

from twisted.internet.task import deferLater

from quoteshm.wire.outbox import SocketOutbox
from tests.serving import ServedCase

QUOTES = b'{"v":1,"id":%d,"type":"get_quotes"}\n'


class SocketTests(ServedCase):
    """A client with a socket of its own."""

    def setUp(self) -> None:
        """Publish enough for a reply of 100 kB."""
        super().setUp()
        names = [f"T{n}" for n in range(400)]
        self.market.add(*names)
        for name in names:
            self.market.quote(name, 1.0)

    def connect(self) -> socket.socket:
        """Connect."""
        return socket.create_connection(("127.0.0.1", self.port), 30)

    async def test_a_half_closed_client_gets_all_its_replies(self) -> None:
        """As many as it has asked for, then the end."""

        def ask() -> list[int]:
            with self.connect() as connection, connection.makefile("rb") as lines:
                connection.sendall(b"".join(QUOTES % n for n in range(300)))
                connection.shutdown(socket.SHUT_WR)
                return [json.loads(line)["id"] for line in lines]

        assert await self.in_thread(ask) == list(range(300))

    async def test_a_client_that_does_not_read_is_not_read_from(self) -> None:
        """Its requests wait with it; when it reads, it gets every reply."""
        count = 20_000  # 2 GB of replies, were they made

        def fill(connection: socket.socket) -> int:
            """Send until the server takes no more; give the bytes that it took."""
            stream = b"".join(QUOTES % n for n in range(count))
            connection.settimeout(1.0)
            sent = 0
            try:
                while sent < len(stream):
                    sent += connection.send(stream[sent : sent + 65_536])
            except TimeoutError:
                pass
            return sent

        connection = self.connect()
        self.addCleanup(connection.close)
        await self.in_thread(fill, connection)
        while all(protocol.is_clear for protocol in self.factory.open):
            await deferLater(self.reactor, 0.001)  # another turn of the reactor
        (protocol,) = self.factory.open
        assert isinstance(protocol._outbox, SocketOutbox)
        assert sum(map(len, protocol._outbox._queue)) < 1_000_000
        assert protocol._framer.pending_nbytes < 200_000

        def read(lines: int) -> list[int]:
            with connection.makefile("rb") as file:
                return [json.loads(file.readline())["id"] for _ in range(lines)]

        assert await self.in_thread(read, 200) == list(range(200))
