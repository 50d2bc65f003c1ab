"""A site on a small market, and clients that speak HTTP and WebSocket over plain sockets."""
# mypy: allow-untyped-calls
# Twisted is typed only in part, and `untyped_calls_exclude` does not reach what we inherit.

from __future__ import annotations

import http.client
import json
import socket
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Event, RejectConnection, TextMessage
from wsproto.events import Request as Handshake

from quoteshm.web.site import Site
from quoteshm.web.watched import Watched
from quoteshm.wire.tally import Histogram
from tests.serving import ServedCase

if TYPE_CHECKING:
    from quoteshm.sources.base import Reason

WAIT_S = 30.0


@dataclass
class Counts:
    """What a publisher counts."""

    dropped: int = 1
    late: int = 2
    restated: int = 3
    refused: int = 4
    commits: int = 5


@dataclass
class Publishing:
    """A publisher that stands still."""

    counts: Counts = field(default_factory=Counts)
    durations: Histogram = field(default_factory=Histogram)


class Failing(NamedTuple):
    """A ticker that fails."""

    reason: Reason


@dataclass
class Refreshing:
    """A schedule that stands still."""

    last_attempt_ms: int | None = None
    last_success_ms: int | None = None
    error: str | None = None
    closed: frozenset[str] = frozenset()
    troubles: dict[str, Failing] = field(default_factory=dict)
    failed: Counter[Reason] = field(default_factory=Counter)


class SiteCase(ServedCase):
    """A test with a small market, and its site on a free port of the loopback."""

    names: tuple[str, ...] = ()

    def setUp(self) -> None:
        """Publish and listen, both ways."""
        super().setUp()
        self.publishing, self.refreshing = Publishing(), Refreshing()
        self.heartbeat_age_s = 0.5
        self.requests: dict[str, object] = {}
        self.watched = Watched(
            factory=self.factory,
            publisher=self.publishing,
            refresh=self.refreshing,
            heartbeat_age_s=lambda: self.heartbeat_age_s,
            describe_source=lambda: self.requests,
        )
        self.site = Site(self.watched, self.reactor, names=self.names, log_traffic=True)
        listening = self.reactor.listenTCP(0, self.site, interface="127.0.0.1")
        self.http_port: int = listening.getHost().port
        self.addCleanup(listening.stopListening)

    async def get(self, path: str, method: str = "GET", **headers: str) -> Reply:
        """Ask for something."""
        reply: Reply = await self.in_thread(ask, self.http_port, path, method, **headers)
        return reply

    async def send(self, data: bytes) -> bytes:
        """Send bytes, and give all that comes until the server closes."""
        found: bytes = await self.in_thread(exchange, self.http_port, data)
        return found

    async def socket(self, **how: Any) -> WebSocket:
        """Open a WebSocket."""
        opened: WebSocket = await self.in_thread(WebSocket, self.http_port, **how)
        self.addCleanup(opened.close)
        return opened


class Reply(NamedTuple):
    """An answer over HTTP."""

    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes


def ask(port: int, path: str, method: str = "GET", **headers: str) -> Reply:
    """Ask a server of this machine for something."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, headers=named)
        found = connection.getresponse()
        told = {name.lower(): value for name, value in found.getheaders()}
        return Reply(found.status, told, found.read())
    finally:
        connection.close()


def exchange(port: int, data: bytes) -> bytes:
    """Send bytes, and give all that comes until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as connection:
        connection.sendall(data)
        return rest(connection)


def rest(connection: socket.socket) -> bytes:
    """Give all that comes until the other side closes, however it does."""
    found = b""
    try:
        while piece := connection.recv(1 << 16):
            found += piece
    except ConnectionResetError:
        pass
    return found


class RefusedError(Exception):
    """There is no WebSocket; the status says why."""


class WebSocket:
    """A client that waits for what comes."""

    def __init__(
        self, port: int, origin: str | None = None, host: str | None = None, path: str = "/wire"
    ) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=WAIT_S)
        self.state = WSConnection(ConnectionType.CLIENT)
        self._events: list[Event] = []
        self._text = ""
        headers = [] if origin is None else [(b"Origin", origin.encode())]
        wanted = Handshake(host or f"127.0.0.1:{port}", path, extra_headers=headers)
        self.socket.sendall(self.state.send(wanted))
        answer = self.event()
        if isinstance(answer, RejectConnection):
            self.socket.close()
            raise RefusedError(answer.status_code)
        assert isinstance(answer, AcceptConnection)

    def event(self) -> Event:
        """Give the next event."""
        while not self._events:
            data = self.socket.recv(1 << 16)
            self.state.receive_data(data or None)
            self._events += self.state.events()
        return self._events.pop(0)

    def send(self, text: str) -> None:
        """Send a message."""
        self.socket.sendall(self.state.send(TextMessage(text)))

    def receive(self) -> dict[str, Any]:
        """Give the next message."""
        while True:
            event = self.event()
            assert isinstance(event, TextMessage), event
            self._text += event.data
            if event.message_finished:
                text, self._text = self._text, ""
                told: dict[str, Any] = json.loads(text)
                return told

    def ask(self, op: str, **fields: object) -> dict[str, Any]:
        """Send a request, and give the next message."""
        self.send(json.dumps({"v": 1, "id": 1, "type": op, **fields}))
        return self.receive()

    def farewell(self) -> int:
        """Wait for the end, and give its code."""
        while not isinstance(event := self.event(), CloseConnection):
            pass
        return event.code

    def close(self) -> None:
        """Go without a word."""
        self.socket.close()
