"""The way to the local Yahoo that a program takes by itself: an HTTPS proxy that ends TLS.

It opens tunnels to the hosts of Yahoo's, shows each a certificate of an authority of its own, and
hands what comes through to `tests.yahoo_server` and `tests.yahoo_streamer`. It knows no way to
anything else: that is refused, and noted. So a daemon is started as anybody starts one, on ordinary
environment variables, with the real yfinance and nothing of it replaced:

    with (
        YahooServer(sample_listings()) as server,
        Streamer() as streamer,  # if it is to be --live
        YahooProxy(tmp_path, server, streamer) as proxy,
        daemon(tmp_path, "--source", "yahoo", env=proxy.environment) as running,
    ):
        ...
        assert proxy.refused == []

Faults are commanded of the server and the streamer, as always; those of the proxy here.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import re
import select
import socket
import socketserver
import ssl
import threading
from collections import Counter
from typing import TYPE_CHECKING, Self

from tests.certificates import Authority

if TYPE_CHECKING:
    from pathlib import Path

    from tests.yahoo_server import YahooServer
    from tests.yahoo_streamer import Streamer

STREAMER = "streamer.finance.yahoo.com"
_YAHOO = re.compile(r"([a-z0-9-]+\.)*yahoo\.com")
_NAMES = ("yahoo.com", "*.yahoo.com", "*.finance.yahoo.com")
_HEAD_NBYTES = 65_536


class YahooProxy:
    """The proxy: a context manager that listens on a port of its own.

    Parameters
    ----------
    folder : Path
        Where the authority's certificate and yfinance's cache are.
    server : YahooServer, optional
        What all hosts but the streamer's are.
    streamer : Streamer, optional
        What the streamer's is.

    Attributes
    ----------
    tunnels : collections.Counter of str
        How many there have been, by host.
    refused : list of str
        What else has been asked for.
    password : str or None
        "user:password" that whoever comes has to say.
    fault : int, str or None
        A status that is answered with, or "hang" (no answer), "garbage" (no HTTP), "endless" (a
        head without an end), "drop" (the connection ends).

    """

    def __init__(
        self,
        folder: Path,
        server: YahooServer | None = None,
        streamer: Streamer | None = None,
    ) -> None:
        self.tunnels: Counter[str] = Counter()
        self.refused: list[str] = []
        self.password: str | None = None
        self.fault: int | str | None = None
        self.released = threading.Event()
        self.folder = folder
        self.authority = Authority(folder, "yahoo-ca")
        self.show(*_NAMES)
        self._ports = {
            True: None if streamer is None else streamer.port,
            False: None if server is None else server.port,
        }
        self._tcp = socketserver.ThreadingTCPServer(
            ("127.0.0.1", 0), functools.partial(_Tunnel, self)
        )
        self._tcp.daemon_threads, self._tcp.block_on_close = True, False
        self._thread = threading.Thread(target=self._tcp.serve_forever, args=(0.05,), daemon=True)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._tcp.server_address[1])

    @property
    def url(self) -> str:
        """Where it listens, as a variable says it."""
        who = "" if self.password is None else f"{self.password}@"
        return f"http://{who}127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables of a program that is to reach Yahoo through it, and nothing else."""
        trusted = str(self.authority.path)
        return {
            **dict.fromkeys(("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"), self.url),
            **dict.fromkeys(("HTTP_PROXY", "http_proxy"), self.url),
            **dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost"),
            **dict.fromkeys(("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"), trusted),
            "XDG_CACHE_HOME": str(self.folder / "cache"),  # where yfinance keeps its own
        }

    def __enter__(self) -> Self:
        """Begin to serve."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End, and let what hangs go."""
        self.released.set()
        self._tcp.shutdown()
        self._thread.join()
        self._tcp.server_close()

    def show(self, *names: str) -> None:
        """Show a certificate of these names from now on."""
        issued = self.authority.issue(*names)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(issued.certificate, issued.key)

    def tunnel(self, asking: socket.socket) -> None:
        """Serve a connection."""
        head = _head(asking)
        if self.fault is not None:
            self._misbehave(asking, self.fault)
            return
        method, _, rest = head.partition(" ")
        host, _, port = rest.partition(" ")[0].rpartition(":")
        if self.password is not None:
            said = base64.b64encode(self.password.encode()).decode()
            if f"proxy-authorization: basic {said.lower()}" not in head.lower():
                _answer(asking, "407 Proxy Authentication Required")
                return
        backend = self._ports[host == STREAMER]
        if method != "CONNECT" or not _YAHOO.fullmatch(host) or port != "443" or backend is None:
            self.refused.append(head.partition("\r\n")[0])
            _answer(asking, "403 Forbidden")
            return
        self.tunnels[host] += 1
        _answer(asking, "200 Connection established")
        with (
            self._context.wrap_socket(asking, server_side=True) as secure,
            socket.create_connection(("127.0.0.1", backend)) as plain,
        ):
            _splice(secure, plain)

    def _misbehave(self, asking: socket.socket, how: int | str) -> None:
        if isinstance(how, int):
            _answer(asking, f"{how} No")
        elif how == "hang":
            self.released.wait(60)
        elif how == "garbage":
            asking.sendall(b"\x16\x03\x01 220 mail.example.org ESMTP\r\n\r\n")
        elif how == "endless":
            asking.sendall(b"HTTP/1.1 200 OK\r\n")
            while not self.released.is_set():
                asking.sendall(b"X-More: of it\r\n" * 100)


class _Tunnel(socketserver.BaseRequestHandler):
    """One connection."""

    def __init__(self, proxy: YahooProxy, *args: object) -> None:
        self._proxy = proxy
        super().__init__(*args)  # type: ignore[arg-type]

    def handle(self) -> None:
        """Serve it; a caller that has gone, or does not trust us, is none of our business."""
        with contextlib.suppress(OSError):
            self._proxy.tunnel(self.request)


def _head(asking: socket.socket) -> str:
    """Read a request up to the empty line; nothing comes after it before there is an answer."""
    head = b""
    while b"\r\n\r\n" not in head and len(head) < _HEAD_NBYTES:
        part = asking.recv(_HEAD_NBYTES)
        if not part:
            break
        head += part
    return head.decode("latin-1")


def _answer(asking: socket.socket, status: str) -> None:
    end = "" if status.startswith("200") else "Content-Length: 0\r\n"
    asking.sendall(f"HTTP/1.1 {status}\r\n{end}\r\n".encode())


def _splice(secure: ssl.SSLSocket, plain: socket.socket) -> None:
    """Hand on what comes from either side, until one of them ends."""
    while True:
        ready = [secure] if secure.pending() else select.select([secure, plain], [], [])[0]
        for one in ready:
            data = one.recv(_HEAD_NBYTES)
            if not data:
                return
            (plain if one is secure else secure).sendall(data)
