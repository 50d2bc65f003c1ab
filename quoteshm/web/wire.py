"""``GET /wire``: the handshake of a WebSocket, which then speaks the wire."""
# mypy: allow-untyped-calls
# Twisted is typed only in part, and `untyped_calls_exclude` does not reach what we inherit.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from twisted.logger import Logger
from twisted.web import http
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from wsproto import ConnectionType
from wsproto.events import AcceptConnection
from wsproto.handshake import H11Handshake
from wsproto.utilities import RemoteProtocolError

from quoteshm.web.answers import refuse
from quoteshm.web.frames import Socket
from quoteshm.web.hosts import is_own_origin

if TYPE_CHECKING:
    from quoteshm.wire.protocol import QuoteFactory

UPGRADE_REQUIRED: Final = 426


class Wire(Resource):
    """Makes a client of the wire of each request that asks for a WebSocket.

    Parameters
    ----------
    factory : QuoteFactory
        The wire, with all of its limits.

    """

    isLeaf = True
    log = Logger()

    def __init__(self, factory: QuoteFactory) -> None:
        super().__init__()
        self._factory = factory

    def render_GET(self, request: Any) -> bytes | int:  # noqa: ANN401, N802  Twisted's
        """Shake hands."""
        headers = request.requestHeaders
        if not is_own_origin(headers.getRawHeaders(b"origin"), headers.getRawHeaders(b"host")):
            return refuse(request, http.FORBIDDEN, "only the page of this server may connect here")
        if not headers.hasHeader(b"upgrade"):
            request.setHeader(b"upgrade", b"websocket")
            body = refuse(request, UPGRADE_REQUIRED, "this is a WebSocket")
            request.setResponseCode(UPGRADE_REQUIRED, b"Upgrade Required")
            return body
        handshake = H11Handshake(ConnectionType.SERVER)
        plain = [(name, value) for name, values in headers.getAllRawHeaders() for value in values]
        try:
            handshake.initiate_upgrade_connection(plain, request.uri)
            accepted = handshake.send(AcceptConnection())
        except (RemoteProtocolError, ValueError) as error:
            self.log.debug("no WebSocket: {why}", why=str(error))
            return refuse(request, http.BAD_REQUEST, "this is no handshake of a WebSocket")
        is_get = (request.method, request.clientproto) == (b"GET", b"HTTP/1.1")
        if not is_get or handshake.connection is None:
            return refuse(request, http.BAD_REQUEST, "this is no handshake of a WebSocket")
        client = self._factory.buildProtocol(request.channel.getPeer())
        request.site.count(request.path, http.SWITCHING)
        request.channel.upgrade(Socket(handshake.connection, client), accepted)
        return NOT_DONE_YET
