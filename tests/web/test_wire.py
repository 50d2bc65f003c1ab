"""The WebSocket of the site: the same ops, limits and token as over TCP, and for its own page."""
# mypy: allow-untyped-calls
# Twisted is typed only in part, and `untyped_calls_exclude` does not reach what we inherit.

from __future__ import annotations

import socket
from typing import Any

from twisted.internet import task
from wsproto import ConnectionType, WSConnection
from wsproto.events import Request, TextMessage

from quoteshm.wire.auth import TRUSTED_OPS, Gate
from quoteshm.wire.operations import OPERATIONS
from tests.web.talking import RefusedError, SiteCase, WebSocket, exchange

FIELDS: dict[str, dict[str, Any]] = {
    "get_quote": {"ticker": "AAPL"},
    "get_history": {"ticker": "AAPL"},
    "auth": {"token": "x"},
    "subscribe": {"tickers": "*"},
    "add_tickers": {"tickers": ["IBM"]},
    "remove_tickers": {"tickers": ["AAPL"]},
}


class TestWire(SiteCase):
    """A small market over a WebSocket."""

    async def test_every_op_is_answered_as_over_tcp(self) -> None:
        """One message each, byte for byte the same, but for those whose answers change."""
        own = await self.socket(origin=f"http://127.0.0.1:{self.http_port}")
        for op in OPERATIONS:
            told = await self.in_thread(own.ask, op, **FIELDS.get(op, {}))
            if op == "get_shm_name":
                assert told["error"]["code"] == "NOT_FOUND"
            elif op in TRUSTED_OPS:  # a page that anybody may open is trusted by its token alone
                assert told["error"]["code"] == "UNAUTHORIZED"
            else:
                assert (told["type"], told["op"]) == ("response", op), told

    async def test_each_that_is_accepted_counts(self) -> None:
        """As an answer, of 101."""
        await self.socket()
        await self.socket()
        assert self.site.answers == {("/wire", 101): 2}

    async def test_changes_are_pushed(self) -> None:
        """Those of the tickers that were asked for."""
        opened = await self.socket()
        await self.in_thread(opened.ask, "subscribe", tickers=["AAPL"])
        self.market.quote("MSFT", 1.0)
        self.factory.hub.published()
        self.market.quote("AAPL", 2.0)
        self.factory.hub.published()
        told = await self.in_thread(opened.receive)
        assert (told["op"], told["data"]["AAPL"]["price"]) == ("quotes", 2.0)

    async def test_pages_of_others_are_refused(self) -> None:
        """403, and so are names that are not this server's."""
        for how in (
            {"origin": "http://evil.example"},
            {"origin": "null"},
            {"origin": f"http://127.0.0.1:{self.port}"},
            {"origin": f"https://localhost:{self.http_port}"},
            {"host": "evil.example"},
            {"host": "evil.example", "origin": "http://evil.example"},
        ):
            refused = await self.assertFailure(
                self.in_thread(WebSocket, self.http_port, **how), RefusedError
            )
            assert refused.args == (403,), how
        assert not self.factory.connections.count

    async def test_what_is_no_handshake_is_refused_and_leads_to_nothing(self) -> None:
        """426 where it is no WebSocket at all, else 400."""
        assert (await self.get("/wire")).status == 426
        good = {
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec_WebSocket_Key": "AAAAAAAAAAAAAAAAAAAAAA==",
            "Sec_WebSocket_Version": "13",
        }
        for name in ("Connection", "Sec_WebSocket_Key", "Sec_WebSocket_Version"):
            found = await self.get("/wire", **{one: good[one] for one in good if one != name})
            assert found.status == 400, name
        assert (await self.get("/wire", **{**good, "Sec_WebSocket_Version": "8"})).status == 400
        assert (await self.get("/wire", **{**good, "Upgrade": "h2c"})).status == 400
        assert (await self.get("/wire", "HEAD", **good)).status == 400
        assert (await self.get("/wire", "POST", **good)).status == 405
        assert not self.factory.clients

    async def test_a_request_sent_with_the_handshake_is_answered(self) -> None:
        """It is not lost in between, nor is an answer that is under way."""

        def talk() -> bytes:
            state = WSConnection(ConnectionType.CLIENT)
            shaking = state.send(Request(f"127.0.0.1:{self.http_port}", "/wire"))
            frame = b"\x81\x9c\x00\x00\x00\x00" + b'{"v":1,"id":1,"type":"ping"}'
            before = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
            return exchange(self.http_port, before + shaking + frame + b"\x88\x80\x00\x00\x00\x00")

        found = await self.in_thread(talk)
        health, _, after = found.partition(b"HTTP/1.1 101 ")
        assert b'"alive":true' in health
        assert b'"op":"ping"' in after
        assert after.endswith(b"\x88\x02\x03\xe8")

    async def test_a_limit_of_the_wire_is_one_of_the_websocket(self) -> None:
        """One client too many is told, and the connection closed."""
        self.patch(self.factory.connections, "total", 1)
        first = await self.socket()
        second = await self.socket()
        told = await self.in_thread(second.receive)
        assert told["error"]["code"] == "OVERLOADED"
        assert await self.in_thread(second.farewell) == 1000
        assert (await self.in_thread(first.ask, "ping"))["op"] == "ping"

    async def test_a_client_that_vanishes_is_forgotten(self) -> None:
        """With its subscription."""
        opened = await self.socket()
        await self.in_thread(opened.ask, "subscribe", tickers="*")
        assert len(self.factory.hub) == 1
        opened.socket.shutdown(socket.SHUT_RDWR)
        while self.factory.clients:
            await task.deferLater(self.reactor, 0.001)
        assert not len(self.factory.hub)

    async def test_one_that_does_not_read_is_not_read_from(self) -> None:
        """What waits for it is bounded, and it gets every reply once it reads."""
        names = [f"T{n}" for n in range(400)]
        self.market.add(*names)
        for name in names:
            self.market.quote(name, 1.0)
        opened = await self.socket()
        asked = opened.state.send(TextMessage('{"v":1,"id":1,"type":"get_quotes"}')) * 100
        writing = self.in_thread(opened.socket.sendall, asked)
        (client,) = self.factory.clients
        while client.is_clear:
            await task.deferLater(self.reactor, 0.001)
        assert client.queued_nbytes < 1 << 20
        for _ in range(100):
            told = await self.in_thread(opened.receive)
            assert len(told["data"]["quotes"]) == 402
        await writing


class TestToken(SiteCase):
    """A server that wants a token."""

    def setUp(self) -> None:
        """Want one."""
        super().setUp()
        self.factory.gate = Gate(b"secret")

    async def test_the_token_comes_first(self) -> None:
        """As over TCP: without it nothing is told, with it everything."""
        opened = await self.socket()
        told = await self.in_thread(opened.ask, "list_tickers")
        assert told["error"]["code"] == "UNAUTHORIZED"
        assert (await self.in_thread(opened.ask, "auth", token="secret"))["data"] == {}  # noqa: S106  the test's
        assert (await self.in_thread(opened.ask, "list_tickers"))["data"] == ["AAPL", "MSFT"]

    async def test_a_wrong_one_ends_it(self) -> None:
        """After the error."""
        opened = await self.socket()
        told = await self.in_thread(opened.ask, "auth", token="guess")  # noqa: S106  the test's
        assert told["error"]["code"] == "UNAUTHORIZED"
        assert await self.in_thread(opened.farewell) == 1000
