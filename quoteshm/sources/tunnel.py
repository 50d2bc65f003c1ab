"""Connections with TLS to where a URL says, through the proxy that the environment names.

Twisted has no client for it. A proxy is told ``CONNECT host:port``, and after its consent it hands
on what comes: TLS begins behind it, so it sees no more than the name.
"""

from __future__ import annotations

import os
import re
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from twisted.internet import ssl
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from quoteshm.sources.environment import CA_VARIABLES, Proxy, ProxyError, find_proxy, trusted_file

if TYPE_CHECKING:
    from collections.abc import Mapping

    from twisted.python.failure import Failure
    from twisted.web.client import URI

#: So long a proxy may take, from the name look-up to its answer.
CONSENT_S: Final = 10.0
#: Bytes of an answer; some proxies tell long stories when they refuse, which nobody reads.
MAX_HEAD_NBYTES: Final = 16_384

_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[01] (\d{3})(?: |\r\n)")
_CERTIFICATE: Final = re.compile(
    rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL
)


class TrustError(Exception):
    """The file of the authorities that are trusted is of no use."""


@implementer(IAgentEndpointFactory)
class Ways:
    """Gives the endpoint for a URL.

    Parameters
    ----------
    reactor
        Twisted's.
    environ : mapping of str to str
        Where the proxy and the authorities are named.

    """

    def __init__(
        self,
        reactor: Any,  # noqa: ANN401 (one of Twisted's, of several interfaces)
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._reactor, self._environ = reactor, environ

    def endpointForURI(self, uri: URI) -> Any:  # noqa: ANN401, N802 (an interface of zope's)
        """Give it; raises `ProxyError` or `TrustError` where there is no way."""
        host = uri.host.decode("ascii")
        direct: Any = HostnameEndpoint(self._reactor, host, uri.port)
        if uri.scheme == b"ws":
            return direct
        proxy = find_proxy(host, self._environ)
        way: Any = direct if proxy is None else Tunnel(self._reactor, proxy, host, uri.port)
        options = ssl.optionsForClientTLS(host, trustRoot=_trusted(trusted_file(self._environ)))
        return wrapClientTLS(options, way)


def _trusted(path: str | None) -> Any:  # noqa: ANN401 (an interface of zope's)
    """Load the authorities of a file; None for the system's own."""
    if path is None:
        return None
    try:
        found = _CERTIFICATE.findall(Path(path).read_bytes())
        loaded = [ssl.Certificate.loadPEM(pem) for pem in found]
    except Exception as error:
        message = f"{path} ({' or '.join(CA_VARIABLES)}) cannot be read: {error}"
        raise TrustError(message) from error
    if not loaded:
        message = f"{path} ({' or '.join(CA_VARIABLES)}) has no certificate"
        raise TrustError(message)
    return ssl.trustRootFromCertificates(loaded)


@implementer(IStreamClientEndpoint)
class Tunnel:
    """An endpoint behind a proxy.

    Parameters
    ----------
    reactor
        Twisted's.
    proxy : Proxy
        What is asked for the connection.
    host : str
        Where to.
    port : int
        Where to.
    timeout_s : float
        How long the proxy may take.

    """

    def __init__(
        self,
        reactor: Any,  # noqa: ANN401 (one of Twisted's, of several interfaces)
        proxy: Proxy,
        host: str,
        port: int,
        timeout_s: float = CONSENT_S,
    ) -> None:
        self._reactor, self._proxy, self._timeout_s = reactor, proxy, timeout_s
        self._to = f"{host}:{port}"

    def connect(self, protocolFactory: Any) -> Deferred[Any]:  # noqa: ANN401, N803 (Twisted's)
        """Connect; the errors are `ProxyError`, and of the protocol itself."""
        asking = _Asking(self._proxy, self._to, protocolFactory)
        factory: Any = Factory.forProtocol(lambda: asking)
        to = HostnameEndpoint(self._reactor, self._proxy.host, self._proxy.port)
        dialling = to.connect(factory)

        def give_up(_: Deferred[Any]) -> None:
            dialling.cancel()
            asking.abort()

        done: Deferred[Any] = Deferred(give_up)

        def unreached(failure: Failure) -> None:
            if not done.called:
                said = " ".join(str(failure.value).split())
                done.errback(ProxyError(f"no connection to the proxy {self._proxy}: {said}"))

        def late(_: object, __: float) -> None:
            message = f"the proxy {self._proxy} has not answered within {self._timeout_s:g} s"
            raise ProxyError(message)

        dialling.addErrback(unreached)
        asking.done = done
        return done.addTimeout(self._timeout_s, self._reactor, late)


class _Asking(Protocol):
    """Asks a proxy for a connection, and is then in nobody's way."""

    transport: Any  # whose interfaces are not typed

    def __init__(self, proxy: Proxy, to: str, factory: Any) -> None:  # noqa: ANN401 (Twisted's)
        self.done: Deferred[Any] = Deferred()
        self._proxy, self._to, self._factory = proxy, to, factory
        self._head = b""
        self._inner: Any = None

    def connectionMade(self) -> None:
        """Ask."""
        lines = [f"CONNECT {self._to} HTTP/1.1", f"Host: {self._to}"]
        if self._proxy.authorization is not None:
            lines.append(f"Proxy-Authorization: Basic {self._proxy.authorization.decode()}")
        self.transport.write("\r\n".join([*lines, "", ""]).encode("ascii"))

    def dataReceived(self, data: bytes) -> None:
        """Take the answer, and hand on what comes after it."""
        if self._inner is not None:
            self._inner.dataReceived(data)
            return
        if self.done.called:
            return
        self._head += data
        end = self._head.find(b"\r\n\r\n")
        status = _STATUS_LINE.match(self._head)
        if status is None and (b"\n" in self._head or end >= 0 or not _may_be(self._head)):
            self._fail("answers with something other than HTTP")
        elif status is not None and not status[1].startswith(b"2"):
            self._fail(f"refuses {self._to} (HTTP {_in_words(int(status[1]))})")
        elif end > MAX_HEAD_NBYTES or (end < 0 and len(self._head) > MAX_HEAD_NBYTES):
            self._fail(f"answers with more than {MAX_HEAD_NBYTES} bytes")
        elif end >= 0:
            self._hand_over(self._head[end + 4 :])

    def _hand_over(self, rest: bytes) -> None:
        self._head = b""
        self._inner = self._factory.buildProtocol(self.transport.getPeer())
        self._inner.makeConnection(self.transport)
        self.done.callback(self._inner)
        if rest:
            self._inner.dataReceived(rest)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Hand on the end, or tell of it."""
        if self._inner is not None:
            self._inner.connectionLost(reason)
        elif reason.check(ConnectionDone):
            self._fail("has ended the connection without an answer")
        else:
            self._fail(f"has gone: {' '.join(str(reason.value).split())}")

    def abort(self) -> None:
        """End it at once."""
        if self.transport is not None:
            self.transport.abortConnection()

    def _fail(self, how: str) -> None:
        if not self.done.called:
            self.done.errback(ProxyError(f"the proxy {self._proxy} {how}"))
            self.abort()


def _may_be(head: bytes) -> bool:
    """Tell whether a status line may have begun so."""
    begin = b"HTTP/1."
    return head[: len(begin)] == begin[: len(head)]


def _in_words(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)
