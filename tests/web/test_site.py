"""The site: each answer with its type and its headers, and clients that mean no good."""
# mypy: allow-untyped-calls
# Twisted is typed only in part, and `untyped_calls_exclude` does not reach what we inherit.

from __future__ import annotations

import socket
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet import task
from twisted.internet.address import IPv4Address
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs

from quoteshm.service import listening
from quoteshm.web import files, site
from tests.web.talking import SiteCase
from tests.wire.test_protocol import Turns

HOST = b"Host: localhost\r\n"
EVERYWHERE = {name.decode(): value.decode() for name, value in site.SECURITY}
CLOSED = b"\r\nConnection: close\r\n"


def status_of(answer: bytes) -> int:
    """Give the status of an answer."""
    return int(answer.split(b" ", 2)[1])


class TestAnswers(SiteCase):
    """What is where."""

    names = ("quotes.example",)

    async def test_the_page_and_its_files_have_types_and_tags(self) -> None:
        """And every one that is there is served, byte for byte."""
        page = await self.get("/")
        assert page.status == 200
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert page.body == (files.STATIC / "index.html").read_bytes()
        contents = files.load()
        assert set(contents) >= {"index.html"}
        for name, content in contents.items():
            found = await self.get(f"/static/{name}")
            assert (found.status, found.body) == (200, content.body)
            assert found.headers["content-type"] == content.kind.decode()
            assert found.headers["etag"] == content.etag.decode()
            assert found.headers["cache-control"] == "no-cache"

    async def test_requests_that_come_together_are_all_answered(self) -> None:
        """In their order, and though they are more than a socket takes."""
        names = [name.encode() for name in files.load()] * 3
        last = b"GET /healthz HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
        asked = [b"GET /static/" + name + b" HTTP/1.1\r\n" + HOST + b"\r\n" for name in names]
        found = await self.send(b"".join(asked) + last)
        for name in names:
            head, _, found = found.partition(b"\r\n\r\n")
            assert status_of(head) == 200
            body = (files.STATIC / name.decode()).read_bytes()
            assert found.startswith(body)
            found = found[len(body) :]
        assert b'"alive":true' in found

    async def test_what_a_browser_has_is_not_sent_again(self) -> None:
        """304, with nothing in it."""
        first = await self.get("/")
        again = await self.get("/", If_None_Match=first.headers["etag"])
        assert (again.status, again.body) == (304, b"")
        assert again.headers["content-security-policy"]
        tag = first.headers["etag"]
        for known in (f"W/{tag}", f'"other", W/{tag}', f'{tag}, "other"', "*"):
            again = await self.get("/", If_None_Match=known)
            assert (again.status, again.headers["etag"]) == (304, tag)
        for unknown in ('"other"', 'W/"other"', tag.strip('"'), '"*"'):
            other = await self.get("/", If_None_Match=unknown)
            assert (other.status, other.headers["etag"]) == (200, tag)

    async def test_every_answer_says_what_a_browser_may_do(self) -> None:
        """Refusals too; and none says what software it is of."""
        for path, method in (
            ("/", "GET"),
            ("/metrics", "GET"),
            ("/healthz", "HEAD"),
            ("/wire", "GET"),
            ("/nothing", "GET"),
            ("/", "POST"),
            ("/", "OPTIONS"),
        ):
            found = await self.get(path, method)
            assert EVERYWHERE.items() <= found.headers.items(), (path, method)
            assert "server" not in found.headers
            assert "access-control-allow-origin" not in found.headers
        policy = EVERYWHERE["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy

    async def test_only_get_and_head_are_known(self) -> None:
        """405, and a body is not read."""
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE", "get"):
            found = await self.get("/", method)
            assert (found.status, found.headers["allow"]) == (405, "GET, HEAD"), method
        head = await self.get("/", "HEAD")
        assert (head.status, head.body) == (200, b"")
        assert int(head.headers["content-length"]) == len((await self.get("/")).body)

    async def test_no_path_leads_out_and_no_folder_is_listed(self) -> None:
        """404, whatever is tried."""
        for path in (
            "/static/../site.py",
            "/static/%2e%2e/site.py",
            "/static/..%2fsite.py",
            "/static//etc/passwd",
            "/static/%00",
            "/static/index.html/",
            "/static/index.html/x",
            "/static/",
            "/static",
            "//",
            "/./",
            "/healthz/",
            "/healthz/x",
            "/etc/passwd",
            "/static/%ff%fe",
            "*",
        ):
            line = f"GET {path} HTTP/1.1\r\n".encode()
            answer = await self.send(line + HOST + CLOSED[2:] + b"\r\n")
            assert status_of(answer) in ({404} if path != "*" else {404, 405}), (path, answer[:80])

    async def test_a_name_that_is_not_its_own_is_refused(self) -> None:
        """Its own are those that are configured, localhost, and addresses."""
        for host, status in (
            ("localhost:1", 200),
            ("[::1]:8080", 200),
            ("quotes.example", 200),
            ("evil.example", 403),
            ("evil.example:8080", 403),
        ):
            for path in ("/", "/metrics", "/healthz"):
                assert (await self.get(path, Host=host)).status == status, host
        for wire in ("/wire", "/nothing"):
            assert (await self.get(wire, Host="evil.example")).status == 403
        for headers in (b"", HOST + HOST):
            answer = await self.send(b"GET / HTTP/1.1\r\n" + headers + CLOSED[2:] + b"\r\n")
            assert status_of(answer) == 403

    async def test_a_request_is_one_line_of_the_log_at_debug(self) -> None:
        """What came from outside is a field, and harmless."""
        with capturedLogs() as events:
            await self.send(b"GET /{x}%1b HTTP/1.1\r\n" + HOST + CLOSED[2:] + b"\r\n")
        told = [event for event in events if event.get("log_namespace") == "quoteshm.web.site.Site"]
        assert len(told) == 1
        assert told[0]["status"] == 404
        assert told[0]["path"] == "/{x}%1b"
        assert told[0]["log_level"].name == "debug"

    async def test_answers_count_under_few_names(self) -> None:
        """However many paths are tried."""
        for n in range(5):
            await self.get(f"/{n}")
            await self.get(f"/static/{n}")
        await self.get("/healthz")
        assert self.site.answers == {("other", 404): 5, ("/static", 404): 5, ("/healthz", 200): 1}

    async def test_an_error_in_here_is_a_500_that_tells_nothing(self) -> None:
        """It is in the log."""
        self.heartbeat_age_s = "no number"  # type: ignore[assignment]
        found = await self.get("/healthz")
        assert found.status == 500
        assert b"Traceback" not in found.body
        assert EVERYWHERE.items() <= found.headers.items()
        assert self.flushLoggedErrors(TypeError)

    def test_there_is_room_for_all_of_its_connections(self) -> None:
        """Among the files that the daemon may open."""
        assert listening.HTTP_FILES == site.MAX_CONNECTIONS

    def test_files_of_unknown_kinds_are_not_served(self) -> None:
        """Nor a page that is not there."""
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "deep").mkdir()
            (Path(folder) / "deep" / "a.css").write_text("x")
            (Path(folder) / "secret.py").write_text("x")
            (Path(folder) / ".js").write_text("x")
            assert set(files.load(Path(folder))) == {"deep/a.css"}


class TestHostile(SiteCase):
    """What one connection may take."""

    async def test_a_request_with_a_body_is_refused_before_it_comes(self) -> None:
        """However long it is said to be, nothing of it is kept."""
        for head, status in (
            (b"POST / HTTP/1.1\r\nContent-Length: 999999999\r\n", 405),
            (b"GET / HTTP/1.1\r\nContent-Length: 5\r\n", 413),
            (b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n", 405),
            (b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n", 413),
            (b"GET / HTTP/1.1\r\nContent-Length: -1\r\n", 400),
            (b"GET / HTTP/1.1\r\nContent-Length: 0\r\nContent-Length: 0\r\n", 400),
        ):
            answer = await self.send(head + HOST + b"\r\nhello")
            assert status_of(answer) == status, head
            assert answer.count(b"HTTP/1.1") == 1

    async def test_headers_that_are_too_long_or_too_many_are_400(self) -> None:
        """And the connection ends."""
        for headers in (
            b"X: " + b"a" * site.MAX_HEADERS_NBYTES + b"\r\n",
            b"X: y\r\n" * (site.MAX_HEADERS + 1),
            b"no header\r\n",
            b"X" * 40_000,
        ):
            answer = await self.send(b"GET / HTTP/1.1\r\n" + HOST + headers + b"\r\n")
            assert answer == b"" or status_of(answer) == 400
        assert (await self.get("/healthz")).status == 200

    async def test_a_line_that_is_no_request_is_400(self) -> None:
        """TLS, the wire itself, or noise."""
        for data in (
            b"\x16\x03\x01\x02\x00\r\n",
            b'{"v":1,"id":1,"type":"ping"}\r\n',
            b"GET /\r\n",
        ):
            answer = await self.send(data + b"\r\n")
            assert status_of(answer) == 400, data
        assert self.site.answers["other", 400] == 3

    async def test_requests_behind_each_other_are_answered_in_order(self) -> None:
        """On one connection."""
        request = b"GET /%b HTTP/1.1\r\n" + HOST
        data = request % b"healthz" + b"\r\n" + request % b"nothing" + CLOSED[2:] + b"\r\n"
        answer = await self.send(data)
        assert answer.index(b"200 OK") < answer.index(b"404 Not Found")

    async def test_one_connection_too_many_is_told_so(self) -> None:
        """The others go on, and when one of them leaves there is room again."""
        self.patch(self.site.connections, "total", 3)
        kept = []
        for _ in range(3):
            connection = socket.create_connection(("127.0.0.1", self.http_port), timeout=30)
            self.addCleanup(connection.close)
            await self.in_thread(connection.sendall, b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n")
            assert b"200 OK" in await self.in_thread(connection.recv, 4096)
            kept.append(connection)
        answer = await self.send(b"")
        assert status_of(answer) == 503
        kept[0].close()
        while self.site.connections.count == 3:
            await task.deferLater(self.reactor, 0.001)
        assert (await self.get("/healthz")).status == 200

    async def test_a_websocket_is_no_connection_of_the_site(self) -> None:
        """But one of the wire, with its limits."""
        opened = await self.socket()
        assert self.site.connections.count == 0
        assert self.factory.connections.count == 1
        await self.in_thread(opened.close)
        while self.factory.connections.count:
            await task.deferLater(self.reactor, 0.001)


class TestSlow(SiteCase):
    """A connection in memory, and a clock."""

    def connect(self) -> tuple[Any, StringTransport, task.Clock]:
        """Open a connection."""
        clock = task.Clock()
        one = site.Site(self.watched, clock)
        channel = one.buildProtocol(None)
        transport = StringTransport(peerAddress=IPv4Address("TCP", "127.0.0.1", 50_000))
        transport.abortConnection = transport.loseConnection  # type: ignore[method-assign]
        channel.makeConnection(transport)
        return channel, transport, clock

    def test_headers_that_trickle_end_the_connection(self) -> None:
        """However often a byte comes."""
        channel, transport, clock = self.connect()
        sent = 0
        for byte in b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 100:
            clock.advance(0.5)
            if transport.disconnecting:
                break
            channel.dataReceived(bytes([byte]))
            sent += 1
        assert transport.value().startswith(b"HTTP/1.1 408 ")
        assert sent <= site.HEADERS_S / 0.5 + 1
        channel.dataReceived(b"\r\n\r\n")
        assert transport.value().count(b"HTTP/1.1") == 1
        channel.connectionLost()
        assert not clock.getDelayedCalls()

    def test_a_connection_that_says_nothing_is_closed(self) -> None:
        """And also one that said something once."""
        for first in (b"", b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n"):
            channel, transport, clock = self.connect()
            channel.dataReceived(first)
            clock.advance(site.IDLE_S + 1)
            assert transport.disconnecting
            channel.connectionLost()
            assert not clock.getDelayedCalls()

    def test_one_that_does_not_read_its_refusal_is_cut(self) -> None:
        """After a while."""
        channel, transport, clock = self.connect()
        cut: list[bool] = []
        transport.abortConnection = lambda: cut.append(True)  # type: ignore[method-assign]
        channel.dataReceived(b"nonsense\r\n")
        assert not cut
        clock.advance(channel.abortTimeout)
        assert cut == [True]
        channel.connectionLost()
        assert not clock.getDelayedCalls()

    def test_the_deadline_is_of_each_request(self) -> None:
        """A connection that lives on has it again for the next one."""
        channel, transport, clock = self.connect()
        for _ in range(5):
            clock.advance(site.HEADERS_S - 1)
            channel.dataReceived(b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n")
        assert transport.value().count(b"200 OK") == 5
        channel.dataReceived(b"GET")
        clock.advance(site.HEADERS_S)
        assert b"408" in transport.value()
        channel.connectionLost()

    def test_requests_that_come_together_are_answered_one_a_turn(self) -> None:
        """However many there are; the others have their turns in between."""
        channel, transport, _ = self.connect()
        turns = Turns()  # a clock would skip over them
        channel.callLater = turns.callLater
        channel.dataReceived((b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n") * 50)
        for count in range(1, 51):
            assert transport.value().count(b"200 OK") == count
            turns.turn()
        assert transport.value().count(b"HTTP/1.1") == 50
        assert transport.producerState == "producing"
        assert not turns.waiting
        channel.connectionLost()

    def test_who_does_not_read_its_answers_gets_no_more_of_them(self) -> None:
        """Until it has read those."""
        channel, transport, clock = self.connect()
        channel.dataReceived((b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n") * 3)
        channel.pauseProducing()
        for _ in range(10):
            clock.advance(0)
        assert transport.value().count(b"200 OK") == 1
        assert transport.producerState == "paused"
        channel.resumeProducing()
        for _ in range(10):
            clock.advance(0)
        assert transport.value().count(b"200 OK") == 3
        assert transport.producerState == "producing"
        channel.connectionLost()
        clock.advance(0)
        assert not clock.getDelayedCalls()
