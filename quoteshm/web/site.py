"""The site: what is where, what every answer says besides, and what one connection may take.

A request has no body, few headers, and little time. An answer is sent whole, from memory. What a
browser may do with the page is said with every answer: load from here alone, run nothing inline, be
part of no other page.
"""
# mypy: allow-untyped-calls
# Twisted is typed only in part, and `untyped_calls_exclude` does not reach what we inherit.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.web import http, server
from twisted.web.resource import Resource

from quoteshm.web import files, health
from quoteshm.web.answers import Judged, NotFound, Refusal
from quoteshm.web.hosts import is_served
from quoteshm.web.metrics import Metrics
from quoteshm.web.wire import Wire
from quoteshm.wire.limits import Connections
from quoteshm.wire.peers import peer_name, peer_of, tune
from quoteshm.wire.protocol import loggable

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from twisted.python.failure import Failure

    from quoteshm.web.watched import Watched

#: Connections that are no WebSockets, which count as connections of the wire.
MAX_CONNECTIONS: Final = 256
#: Without a request.
IDLE_S: Final = 60.0
#: From the first byte of a request to the end of its headers.
HEADERS_S: Final = 10.0
MAX_HEADERS: Final = 100
MAX_HEADERS_NBYTES: Final = 16_384

SECURITY: Final = (
    (
        b"content-security-policy",
        (
            b"default-src 'self'; connect-src 'self'; object-src 'none'; base-uri 'none'; "
            b"form-action 'none'; frame-ancestors 'none'"
        ),
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_FULL: Final = b"HTTP/1.1 503 Service Unavailable\r\n"
_TOO_LATE: Final = b"HTTP/1.1 408 Request Timeout\r\n"
_NO_METHOD: Final = b"HTTP/1.1 405 Method Not Allowed\r\nAllow: GET, HEAD\r\n"
_NO_BODY: Final = b"HTTP/1.1 413 Content Too Large\r\n"
_END: Final = b"Connection: close\r\nContent-Length: 0\r\n\r\n"
_METHODS: Final = (b"GET", b"HEAD")


class Upgraded(Protocol):
    """What a connection is after it has been HTTP."""

    def makeConnection(self, transport: Any) -> None:  # noqa: ANN401, N802  Twisted's, as the others
        """Begin."""

    def dataReceived(self, data: bytes) -> None:
        """Take what has come."""

    def connectionLost(self, reason: Failure) -> None:
        """End."""


class Request(server.Request):
    """A request, whose answer says what a browser may do."""

    def process(self) -> None:
        """Answer."""
        for name, value in SECURITY:
            self.setHeader(name, value)
        if self.method not in _METHODS:
            self.setHeader(b"allow", b"GET, HEAD")
            self.setResponseCode(http.NOT_ALLOWED)
            self.setHeader(b"content-length", b"0")
            self.finish()
            return
        super().process()

    def write(self, data: bytes) -> None:
        """Send a part of the answer; it does not say what software it is of."""
        self.responseHeaders.removeHeader(b"server")
        super().write(data)


class Channel(http.HTTPChannel):
    """A connection, until it becomes a WebSocket.

    Attributes
    ----------
    site : Site

    """

    maxHeaders = MAX_HEADERS
    totalHeadersSize = MAX_HEADERS_NBYTES
    site: Site
    transport: Any
    _networkProducer: Any  # noqa: N815  Twisted's
    _upgraded: Upgraded | None = None
    _deadline: Any = None  # of the headers: an IDelayedCall
    _is_over = False  # nothing more is looked at
    _counted: str | None = None

    def connectionMade(self) -> None:
        """Begin, unless there are too many."""
        super().connectionMade()
        tune(self.transport)
        peer = peer_of(self.transport).key
        if self.site.connections.admit(peer) is not None:
            self.site.count(None, http.SERVICE_UNAVAILABLE)
            self._refuse(_FULL)
            return
        self._counted = peer

    def dataReceived(self, data: bytes) -> None:
        """Take what has come, as HTTP or as what it has become."""
        if self._upgraded is not None:
            self._upgraded.dataReceived(data)
        elif not self._is_over:
            if self._deadline is None and not self._handlingRequest:
                self._deadline = self.callLater(HEADERS_S, self._take_too_long)
            super().dataReceived(data)

    def rawDataReceived(self, data: bytes) -> None:
        """Take what comes behind a request."""
        if self._upgraded is not None:
            self._upgraded.dataReceived(data)
        elif not self._is_over:
            super().rawDataReceived(data)

    def lineReceived(self, line: bytes) -> None:
        """Take a line of the headers."""
        if not self._is_over:
            super().lineReceived(line)

    def allHeadersReceived(self) -> None:
        """Answer a request that has no body; the others are not read any further."""
        self._cancel_deadline()
        if self.length == 0:
            super().allHeadersReceived()
            return
        is_known = self._command in _METHODS
        self.site.count(None, http.REQUEST_ENTITY_TOO_LARGE if is_known else http.NOT_ALLOWED)
        self._refuse(_NO_BODY if is_known else _NO_METHOD)

    def requestDone(self, request: Any) -> None:  # noqa: ANN401, N802  Twisted's
        """Answer the next one, if it is here already, in another turn, and if there is room."""
        super().requestDone(request)
        if self.persistent and self._buffer and not self._is_over:
            self.paused = True
            self._networkProducer.pauseProducing()
            self.callLater(0, self._go_on)

    def resumeProducing(self) -> None:
        """Go on: what was sent is on its way."""
        super().resumeProducing()
        if self.paused:
            self._networkProducer.pauseProducing()
            self.callLater(0, self._go_on)

    def _go_on(self) -> None:
        if not self.paused or self._waitingForTransport or self._is_over:
            return
        self.paused = False
        self._networkProducer.resumeProducing()
        self.dataReceived(b"")

    def upgrade(self, protocol: Upgraded, first: bytes) -> None:
        """Be something else from now on.

        Parameters
        ----------
        protocol : Upgraded
            What it becomes.
        first : bytes
            What is sent before anything of that.

        """
        self.setTimeout(None)
        self._networkProducer.unregisterProducer()
        self._leave()
        self._upgraded = protocol
        self.transport.write(first)
        protocol.makeConnection(self.transport)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """End."""
        self._is_over = True
        self._cancel_deadline()
        self._leave()
        if self._upgraded is not None:
            self._upgraded.connectionLost(reason)
        super().connectionLost(reason)

    def timeoutConnection(self) -> None:  # noqa: N802  Twisted's, which writes a line for each
        """Close, soon even if what was sent is not read."""
        if self._abortingCall is None:
            self._abortingCall = self.callLater(self.abortTimeout, self.forceAbortClient)
        self.loseConnection()

    def forceAbortClient(self) -> None:  # noqa: N802  as above
        """Close at once."""
        self._abortingCall = None
        self.transport.abortConnection()

    def _respondToBadRequestAndDisconnect(self) -> None:  # noqa: N802  Twisted's
        self.site.count(None, http.BAD_REQUEST)
        self._refuse(b"HTTP/1.1 400 Bad Request\r\n")

    def _take_too_long(self) -> None:
        self._deadline = None
        self.site.count(None, http.REQUEST_TIMEOUT)
        self._refuse(_TOO_LATE)

    def _refuse(self, status: bytes) -> None:
        """Say why, and close, whether or not it is read."""
        if self._is_over:
            return
        self._is_over = True
        self._cancel_deadline()
        self.setTimeout(None)
        self.transport.write(status + _END)
        self.timeoutConnection()

    def _cancel_deadline(self) -> None:
        deadline, self._deadline = self._deadline, None
        if deadline is not None and deadline.active():
            deadline.cancel()

    def _leave(self) -> None:
        peer, self._counted = self._counted, None
        if peer is not None:
            self.site.connections.leave(peer)


class _Root(Resource):
    """What everything is in."""

    def getChild(self, path: bytes, request: Any) -> Resource:  # noqa: ANN401, ARG002, N802  Twisted's
        """Say that there is nothing; Twisted would with a page of its own."""
        return NotFound()


class Site(server.Site):
    """All that is served over HTTP.

    Parameters
    ----------
    watched : Watched
        The daemon.
    reactor
        Twisted's.
    names : collection of str
        What this machine is called by browsers, besides localhost and its addresses.
    contents : mapping of str to Content, optional
        The page's files; those of the package unless given.
    log_traffic : bool
        Whether each request is logged, at debug.

    """

    noisy = False
    log_ = Logger()

    def __init__(
        self,
        watched: Watched,
        reactor: Any,  # noqa: ANN401  one of Twisted's, of several interfaces
        *,
        names: Collection[str] = (),
        contents: Mapping[str, files.Content] | None = None,
        log_traffic: bool = False,
    ) -> None:
        self.connections = Connections(MAX_CONNECTIONS, MAX_CONNECTIONS)
        #: Answers so far, by what was asked for and their status.
        self.answers: dict[tuple[str, int], int] = {}
        self._names = frozenset(name.lower() for name in names)
        self._log_traffic = log_traffic
        contents = files.load() if contents is None else contents
        root: Any = _Root()
        root.putChild(b"static", files.Files(contents))
        root.putChild(b"metrics", Metrics(watched, self))
        root.putChild(b"healthz", Judged(lambda: health.alive(watched)))
        root.putChild(b"readyz", Judged(lambda: health.ready(watched)))
        root.putChild(b"wire", Wire(watched.factory))
        index = contents.get(files.INDEX)
        root.putChild(b"", NotFound() if index is None else files.File(index))
        self._paths = frozenset({"/", "/metrics", "/healthz", "/readyz", "/wire"})
        super().__init__(root, requestFactory=Request, timeout=IDLE_S, reactor=reactor)

    def buildProtocol(self, addr: object) -> Any:  # noqa: ANN401, ARG002  Twisted's, a proxy there
        """Make the protocol of one connection."""
        channel: Any = Channel()
        channel.requestFactory = Request
        channel.site = channel.factory = self
        channel.timeOut = self.timeOut
        channel.callLater = self.reactor.callLater
        return channel

    def getResourceFor(self, request: Any) -> Any:  # noqa: ANN401, N802  Twisted's
        """Find what is asked for, if it is asked of this server."""
        if not is_served(request.requestHeaders.getRawHeaders(b"host"), self._names):
            return Refusal(
                http.FORBIDDEN,
                "not by this name: use localhost or an address, or start with --http-host NAME",
            )
        found = super().getResourceFor(request)
        return NotFound() if request.postpath else found  # what is here has nothing below it

    def startFactory(self) -> None:
        """Be listened for; Twisted's would open a log of its own."""

    def stopFactory(self) -> None:
        """Be listened for no longer."""

    def log(self, request: Any) -> None:  # noqa: ANN401  Twisted's
        """Count an answer, and log it where that is asked for."""
        self.count(request.path, request.code)
        if self._log_traffic:
            self.log_.debug(
                "{peer} {method} {path}: {status}, {nbytes} bytes",
                peer=peer_name(request.getClientAddress()),
                method=loggable(request.method),
                path=loggable(request.uri),
                status=request.code,
                nbytes=request.sentLength,
            )

    def count(self, path: bytes | None, status: int) -> None:
        """Count an answer; there are few words for what it is to."""
        name = "" if path is None else path.decode("latin-1")
        if name.startswith("/static/"):
            name = "/static"
        elif name not in self._paths:
            name = "other"
        key = name, status
        self.answers[key] = self.answers.get(key, 0) + 1
