"""A streamer on the loopback interface that speaks Yahoo's protobuf, and misbehaves on command.

It runs in a thread of its own, for tests with a reactor and for those with a daemon's process. That
comes through `tests.yahoo_proxy`.
"""

from __future__ import annotations

import base64
import contextlib
import json
import queue
import socket
import threading
from typing import Any, Self

from websockets.exceptions import ConnectionClosed
from websockets.http11 import Response
from websockets.sync.server import Server, ServerConnection, serve

REGULAR = 1  # of `market_hours`
WAIT_S = 20.0


def message(ticker: str, price: float, ts_ms: int, **fields: Any) -> str:
    """Make a message of the regular hours, as Yahoo sends it."""
    from yfinance.pricing_pb2 import PricingData  # noqa: PLC0415 - half a second

    fields = {"market_hours": REGULAR, "price_hint": 2, **fields}
    data = PricingData(id=ticker, price=price, time=ts_ms, **fields)
    encoded = base64.b64encode(data.SerializeToString()).decode()
    return json.dumps({"type": "pricing", "message": encoded})


class Streamer:
    """The server: a context manager that listens on a port of its own.

    Attributes
    ----------
    subscribed : queue.Queue of list of str
        What has been asked for, in order.
    paths : list of str
        Of the handshakes.
    mute : bool
        Say nothing, whatever the test sends.
    hang : bool
        Never answer a handshake.
    reject : int or None
        The HTTP status that handshakes are answered with instead.

    """

    def __init__(self) -> None:
        self.subscribed: queue.Queue[list[str]] = queue.Queue()
        self.paths: list[str] = []
        self.mute = self.hang = False
        self.reject: int | None = None
        self.released = threading.Event()
        self._open: list[ServerConnection] = []
        self._server: Server = serve(
            self._talk, "127.0.0.1", 0, process_request=self._shake, compression=None
        )
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.socket.getsockname()[1])

    @property
    def url(self) -> str:
        """Where it listens, as a client says it."""
        return f"ws://127.0.0.1:{self.port}/?version=2"

    def __enter__(self) -> Self:
        """Begin to serve."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End, and let what hangs go."""
        self.released.set()
        self.drop()
        self._server.shutdown()
        self._thread.join()

    def asked(self) -> list[str]:
        """Wait until somebody subscribes, and give what for."""
        return self.subscribed.get(timeout=WAIT_S)

    def send(self, *texts: str) -> None:
        """Send texts to all who are connected, unless it is mute."""
        if not self.mute:
            for one in list(self._open):
                for text in texts:
                    one.send(text)

    def send_raw(self, data: bytes) -> None:
        """Send bytes that need not be a message, or a part of one; who goes, goes."""
        for one in list(self._open):
            with contextlib.suppress(OSError):
                one.socket.sendall(data)

    def close(self) -> None:
        """Close all connections as one should."""
        for one in list(self._open):
            one.close()

    def drop(self) -> None:
        """Cut all connections without a word."""
        for one in list(self._open):
            with contextlib.suppress(OSError):  # it may have gone
                one.socket.shutdown(socket.SHUT_RDWR)

    def _shake(self, connection: ServerConnection, request: Any) -> Response | None:
        self.paths.append(request.path)
        if self.hang:
            self.released.wait(WAIT_S)
        if self.reject is not None:
            return connection.respond(self.reject, "no\n")
        return None

    def _talk(self, connection: ServerConnection) -> None:
        self._open.append(connection)
        with contextlib.suppress(ConnectionClosed, OSError):
            for text in connection:
                self.subscribed.put(json.loads(text)["subscribe"])
        self._open.remove(connection)
