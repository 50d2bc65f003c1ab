"""Asking a server for its segment: every answer it may give, also the wrong ones."""

from __future__ import annotations

import json
import pickle
import socket
import threading
import time
from collections.abc import Callable, Generator
from typing import Any

import pytest

from quoteshm.errors import (
    ConnectionFailedError,
    ErrorCode,
    RequestError,
    SegmentError,
    SegmentNotFoundError,
)
from quoteshm.shm import discovery
from quoteshm.shm.reader import StockDataReader
from tests.shm.conftest import MakeMarket
from tests.shm.helpers import AAPL, Market

Answer = Callable[[socket.socket], None]


class Server:
    """A server that answers each connection as the test says."""

    def __init__(self) -> None:
        self.answer: Answer = lambda _: None
        self.asked: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection:
                self.asked.append(connection.makefile("rb").readline())
                if self.asked[-1] == b"stop":
                    return
                try:
                    self.answer(connection)
                except OSError:
                    continue  # the client has had enough

    def says(self, reply: object) -> None:
        """Answer with a JSON line, in two parts."""
        line = reply if isinstance(reply, bytes) else json.dumps(reply).encode() + b"\n"

        def answer(connection: socket.socket) -> None:
            connection.sendall(line[:5])
            connection.sendall(line[5:])

        self.answer = answer

    def stop(self) -> None:
        """End the thread."""
        with socket.create_connection(("127.0.0.1", self.port)) as last:
            last.sendall(b"stop")
        self._thread.join()
        self._listener.close()


@pytest.fixture
def server() -> Generator[Server]:
    """Run a server on a free port."""
    made = Server()
    yield made
    made.stop()


def reply_for(market: Market, **changes: Any) -> dict[str, Any]:
    """Answer as the daemon does."""
    data = {
        "shm_name": market.spec.name,
        "shm_dir": str(market.spec.directory),
        "instance": market.writer.instance,
        **changes,
    }
    return {"v": 1, "id": "shm", "type": "get_shm_name", "data": data}


def test_a_reader_finds_the_segment_by_its_server(server: Server, make_market: MakeMarket) -> None:
    """It asks one line; its copy in another process asks by itself."""
    market = make_market([AAPL])
    server.says(reply_for(market))
    with StockDataReader("127.0.0.1", server.port) as reader:
        assert reader.get_quote("AAPL").price == 100.0
        copy = pickle.loads(pickle.dumps(reader))  # noqa: S301  our own
        assert copy.info.path == market.path
        copy.close()
    assert [json.loads(line) for line in server.asked] == [
        {"v": 1, "id": "shm", "type": "get_shm_name"}
    ] * 2


def test_the_folder_may_be_another_one_here(server: Server, make_market: MakeMarket) -> None:
    """In a container the server's folder is mounted elsewhere."""
    market = make_market([AAPL])
    server.says(reply_for(market, shm_dir="/nowhere/at/all"))
    with pytest.raises(SegmentNotFoundError):
        StockDataReader(port=server.port)
    with StockDataReader(port=server.port, shm_dir=market.spec.directory) as reader:
        assert reader.list_tickers() == ["AAPL"]


def test_a_segment_of_another_server_is_not_taken_for_its(
    server: Server, make_market: MakeMarket
) -> None:
    """The server may be on another machine, which has a segment of the same name."""
    market = make_market([AAPL])
    server.says(reply_for(market, instance="ff" * 16))
    with pytest.raises(SegmentError, match=f"found instance {market.writer.instance}, .* ffff"):
        StockDataReader(port=server.port)


def test_a_server_without_shared_memory_says_so(server: Server) -> None:
    """Its error is passed on."""
    error = {"code": "NOT_FOUND", "message": "this server has no shared memory"}
    server.says({"v": 1, "id": "shm", "type": "error", "error": error})
    with pytest.raises(RequestError, match="no shared memory") as caught:
        StockDataReader(port=server.port)
    assert caught.value.code is ErrorCode.NOT_FOUND


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\xff\xfe\x00\n",
        b"[" * 60_000 + b"\n",
        b"x" * 1_000_000,
        b'{"half": ',
        [],
        17,
        {"type": "get_shm_name"},
        {"type": "get_shm_name", "data": {"shm_name": "x"}},
        {"type": "get_shm_name", "data": {"shm_name": "x", "shm_dir": 5, "instance": "y"}},
        {"type": "error", "error": {"code": "NO_SUCH_CODE", "message": ""}},
        {"type": "error", "error": "words"},
    ],
    ids=range(14),
)
def test_another_kind_of_server_is_a_failed_connection(reply: Any, server: Server) -> None:
    """Whatever it says, however long."""
    server.says(reply)
    with pytest.raises(ConnectionFailedError, match=f"127.0.0.1:{server.port}"):
        StockDataReader(port=server.port)


def test_nobody_there_is_a_failed_connection() -> None:
    """As is any error of the network."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ConnectionFailedError, match="refused") as caught:
        StockDataReader(port=port)
    assert isinstance(caught.value, ConnectionError)


@pytest.mark.parametrize("drip", [True, False])
def test_a_server_that_does_not_finish_its_answer_is_left(server: Server, *, drip: bool) -> None:
    """By the deadline, also if something comes all the time."""
    done = threading.Event()

    def answer(connection: socket.socket) -> None:
        while not done.wait(0.02):
            if drip:
                connection.sendall(b"x")

    server.answer = answer
    began = time.monotonic()
    try:
        with pytest.raises(ConnectionFailedError, match="timed out"):
            discovery.ask("127.0.0.1", server.port, timeout_s=0.1)
    finally:
        done.set()
    assert time.monotonic() - began < 2
