"""The stream behind a proxy, with TLS, and proxies that fail in every way."""
# mypy: allow-untyped-calls
# Twisted is typed only in part, and `untyped_calls_exclude` does not reach what we inherit.

from __future__ import annotations

import base64
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from OpenSSL import SSL
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from twisted.web.client import URI

from quoteshm.sources.environment import CA_VARIABLES, Proxy, ProxyError
from quoteshm.sources.tunnel import CONSENT_S, MAX_HEAD_NBYTES, Tunnel, Ways
from quoteshm.sources.yahoo_live import Stream
from tests.certificates import Authority
from tests.sources.test_yahoo_live import Ears
from tests.yahoo_proxy import STREAMER, YahooProxy
from tests.yahoo_streamer import Streamer

TO = f"{STREAMER}:443"


class ThroughProxyTests(TestCase):
    """A stream, a proxy that ends TLS, and a streamer behind it."""

    timeout = 30

    def setUp(self) -> None:
        """Begin to serve."""
        from twisted.internet import reactor  # noqa: PLC0415 - installs it

        self.reactor: Any = reactor
        kept = TemporaryDirectory()
        self.addCleanup(kept.cleanup)
        self.folder = Path(kept.name)
        self.streamer = Streamer()
        self.streamer.__enter__()
        self.addCleanup(deferToThread, self.streamer.__exit__)
        self.proxy = YahooProxy(self.folder, streamer=self.streamer)
        self.proxy.__enter__()
        self.addCleanup(deferToThread, self.proxy.__exit__)
        self.ears = Ears()

    def connect(self, timeout_s: float = 20.0, **environ: str) -> Stream:
        """Begin a connection to where Yahoo's streamer is."""
        stream = Stream(
            self.ears,
            self.reactor,
            timeout_s=timeout_s,
            environ={**self.proxy.environment, **environ},
        )
        self.addCleanup(stream.abort)
        return stream

    async def why(self, **environ: str) -> str:
        """Give why a connection fails; it says so once."""
        self.connect(20.0, **environ)
        why = await self.ears.wait("lost")
        assert self.ears.told == [("lost", why)]
        assert self.streamer.paths == []
        return why

    async def test_it_subscribes_and_hears(self) -> None:
        """On nothing but the environment."""
        stream = self.connect()
        await self.ears.wait("opened")
        stream.subscribe(["AAPL"])
        assert await deferToThread(self.streamer.asked) == ["AAPL"]
        self.streamer.send("one" * 10_000)
        assert await self.ears.wait("heard") == "one" * 10_000
        assert (self.proxy.tunnels, self.proxy.refused) == ({STREAMER: 1}, [])
        lost = self.ears.wait("lost")
        await deferToThread(self.streamer.drop)
        await lost

    async def test_user_and_password_are_said(self) -> None:
        """Those of the variable."""
        self.proxy.password = "me:secret"  # noqa: S105 (a test's)
        self.connect()
        await self.ears.wait("opened")

    async def test_a_wrong_password_is_told_and_not_named(self) -> None:
        """With the proxy's status, in words."""
        url = self.proxy.url.replace("//", "//me:secret@")
        self.proxy.password = "me:other"  # noqa: S105 (a test's)
        told = f"refuses {TO} (HTTP 407 Proxy Authentication Required)"
        assert await self.why(https_proxy=url) == f"the proxy 127.0.0.1:{self.proxy.port} {told}"

    async def test_a_refusal_is_told(self) -> None:
        """With the status."""
        self.proxy.fault = 403
        assert (await self.why()).endswith(f"refuses {TO} (HTTP 403 Forbidden)")

    async def test_a_status_that_nobody_knows_is_a_refusal(self) -> None:
        """A number will do."""
        self.proxy.fault = 799
        assert (await self.why()).endswith(f"refuses {TO} (HTTP 799)")

    async def test_a_proxy_that_hangs_is_given_up(self) -> None:
        """By the stream, where its time is shorter than the proxy's."""
        self.proxy.fault = "hang"
        self.connect(0.3)
        assert await self.ears.wait("lost") == "no answer within 0.3 s"

    async def test_garbage_is_told(self) -> None:
        """Whatever it is that listens there."""
        self.proxy.fault = "garbage"
        assert (await self.why()).endswith("answers with something other than HTTP")

    async def test_a_head_without_an_end_is_given_up(self) -> None:
        """It would fill the memory."""
        self.proxy.fault = "endless"
        assert (await self.why()).endswith(f"answers with more than {MAX_HEAD_NBYTES} bytes")

    async def test_a_proxy_that_ends_the_connection_is_told(self) -> None:
        """It may have seen nothing that it knew."""
        self.proxy.fault = "drop"
        assert f"the proxy 127.0.0.1:{self.proxy.port} has" in await self.why()

    async def test_a_proxy_that_is_not_there_is_told(self) -> None:
        """So that nobody looks for the fault at Yahoo's."""
        why = await self.why(https_proxy="http://127.0.0.1:1")
        assert why.startswith("no connection to the proxy 127.0.0.1:1: ")
        assert "refused" in why

    async def test_a_variable_that_names_no_proxy_is_told(self) -> None:
        """By its name."""
        assert await self.why(https_proxy="http://") == (
            "https_proxy names no proxy (http://host:port)"
        )

    async def test_a_certificate_that_is_not_trusted_is_told(self) -> None:
        """With what to do about it."""
        other = str(Authority(self.folder, "other").path)
        why = await self.why(**dict.fromkeys(CA_VARIABLES, other))
        assert why.startswith("TLS: certificate verify failed; trusted is what REQUESTS_CA_BUNDLE")

    async def test_a_certificate_of_another_name_is_told(self) -> None:
        """From whomever it is."""
        self.proxy.show("example.org")
        assert await self.why() == "TLS: the certificate is of another name"

    async def test_the_systems_own_authorities_count_where_no_variable_names_others(self) -> None:
        """They do not know ours."""
        why = await self.why(**dict.fromkeys(CA_VARIABLES, ""))
        assert why.startswith("TLS: certificate verify failed")

    async def test_a_file_of_authorities_that_is_none_is_told(self) -> None:
        """One that is not there, one without any, and one that is broken."""
        empty, broken = self.folder / "empty.pem", self.folder / "broken.pem"
        empty.touch()
        broken.write_text("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n")
        for path, told in (
            (self.folder / "none.pem", "cannot be read: "),
            (broken, "cannot be read: "),
            (empty, "has no certificate"),
        ):
            self.ears.told.clear()
            why = await self.why(REQUESTS_CA_BUNDLE=str(path))
            assert why.startswith(f"{path} (REQUESTS_CA_BUNDLE or ")
            assert told in why


class AskingTests(TestCase):
    """The tunnel alone, by a clock and from memory."""

    def setUp(self) -> None:
        """Begin to connect."""
        self.reactor = MemoryReactorClock()
        secret = base64.b64encode(b"me:secret")
        self.tunnel = Tunnel(self.reactor, Proxy("192.0.2.1", 3128, secret), "h", 443)
        self.told: list[Any] = []
        self.inner = _Inner()
        self.done = self.tunnel.connect(_Makes(self.inner)).addBoth(self.told.append)

    def dialled(self) -> tuple[Any, StringTransport]:
        """Be the proxy that has been reached."""
        factory: Any = self.reactor.tcpClients[0][2]
        wire, transport = factory.buildProtocol(None), StringTransport()
        wire.makeConnection(transport)
        return wire, transport

    def error(self) -> str:
        """Give what it has failed of."""
        failure: Failure = self.told[0]
        failure.trap(ProxyError)
        return str(failure.value)

    def test_it_asks_and_hands_on_what_comes_in_whatever_pieces(self) -> None:
        """Also what comes with the consent, and the end."""
        wire, transport = self.dialled()
        assert transport.value().decode().split("\r\n") == [
            *("CONNECT h:443 HTTP/1.1", "Host: h:443"),
            *("Proxy-Authorization: Basic bWU6c2VjcmV0", "", ""),
        ]
        for place in b"HTTP/1.0 200 Fine\r\nVia: us\r\n\r\nab":
            wire.dataReceived(bytes([place]))
        wire.dataReceived(b"cd")
        assert self.told == [self.inner]
        assert self.inner.data == b"abcd"
        self.reactor.advance(CONSENT_S)
        assert not transport.disconnecting

    def test_it_waits_so_long_for_consent_and_no_longer(self) -> None:
        """Connected, and nothing comes."""
        _, transport = self.dialled()
        self.reactor.advance(CONSENT_S)
        assert self.error() == "the proxy 192.0.2.1:3128 has not answered within 10 s"
        assert transport.disconnected or transport.disconnecting

    def test_it_waits_so_long_for_a_connection_and_no_longer(self) -> None:
        """A firewall that says nothing."""
        self.reactor.advance(CONSENT_S)
        assert self.error() == "the proxy 192.0.2.1:3128 has not answered within 10 s"


class WaysTests(TestCase):
    """Where a URL leads, by what the environment says."""

    def port(self, url: bytes, **environ: str) -> int:
        """Give where the first connection goes; in memory all hosts are one."""
        reactor = MemoryReactorClock()
        Ways(reactor, environ).endpointForURI(URI.fromBytes(url)).connect(_Makes(_Inner()))
        return int(reactor.tcpClients[0][1])

    def test_a_proxy_is_for_tls_and_for_what_is_not_left_out(self) -> None:
        """Yahoo speaks nothing else; plain streams are a test's."""
        proxy = {"HTTPS_PROXY": "http://192.0.2.1:3128"}
        assert self.port(b"wss://192.0.2.9/", **proxy) == 3128
        assert self.port(b"wss://192.0.2.9/", **proxy, NO_PROXY="192.0.2.9") == 443
        assert self.port(b"wss://192.0.2.9/") == 443
        assert self.port(b"ws://192.0.2.9/", **proxy) == 80


class EndTests(TestCase):
    """The words for an end of TLS."""

    def test_whatever_openssl_says_of_an_end_is_told(self) -> None:
        """It has an error of a list, of a number and a text, and of nothing."""
        for error, told in (
            (SSL.Error([("SSL routines", "", "wrong version number")]), "wrong version number"),
            (SSL.Error([]), "the connection ended"),
            (SSL.ZeroReturnError(), "the connection ended"),
            (SSL.SysCallError(104, "ECONNRESET"), "ECONNRESET"),
        ):
            ears = Ears()
            Stream(ears, MemoryReactorClock()).connectionLost(Failure(error))
            assert ears.told == [("lost", f"TLS: {told}")]


class _Inner:
    """What is behind the tunnel."""

    def __init__(self) -> None:
        self.data = b""

    def makeConnection(self, _: object) -> None:  # noqa: N802 (Twisted's)
        """Have nothing to do."""

    def dataReceived(self, data: bytes) -> None:
        """Note it."""
        self.data += data


class _Makes:
    """Makes it."""

    def __init__(self, inner: _Inner) -> None:
        self._inner = inner

    def buildProtocol(self, _: object) -> _Inner:
        """Give it."""
        return self._inner
