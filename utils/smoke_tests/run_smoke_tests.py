#!/usr/bin/env python
"""Check a running server from outside: every op, every error, one line a check.

Exit status 0 if all is well, 1 otherwise. It changes nothing in the server.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from quoteshm import QuoteClient, QuoteShmError, StockDataReader

SOME = 5  # bars
UNKNOWN = "NO SUCH TICKER"
QUOTE_TYPES: dict[str, tuple[type, ...]] = {
    "ticker": (str,),
    "price": (int, float, type(None)),
    "open": (int, float, type(None)),
    "high": (int, float, type(None)),
    "low": (int, float, type(None)),
    "prev_close": (int, float, type(None)),
    "volume": (int, float, type(None)),
    "currency": (str,),
    "ts_epoch_ms": (int,),
    "updated_ms": (int,),
    "stale": (bool,),
    "source": (str,),
}
COLUMNS = ("time", "open", "high", "low", "close", "volume")


class CheckError(Exception):
    """A check that failed."""


#: What a server of another kind, or one that goes away, has a check raise.
FAULTS = (
    CheckError,
    QuoteShmError,
    OSError,
    LookupError,
    TypeError,
    ValueError,
    RecursionError,
)


class Connection:
    """A connection that speaks in lines, with nothing between them and the server."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.socket = socket.create_connection((options.host, options.port), options.timeout)
        self.lines = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.lines.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self.socket.sendall(data)

    def reply(self) -> dict[str, Any]:
        """Wait for one reply."""
        line = self.lines.readline()
        expect(line.endswith(b"\n"), "the connection ended before the reply did")
        reply = json.loads(line, parse_constant=no_constant)
        expect(isinstance(reply, dict), f"expected an object, found {reply}")
        return dict(reply)

    def ask(self, op: str, **fields: object) -> dict[str, Any]:
        """Ask for an op."""
        self.send(json.dumps({"v": 1, "id": "smoke", "type": op, **fields}).encode() + b"\n")
        reply = self.reply()
        expect(reply.get("v") == 1 and reply.get("id") == "smoke", f"found {reply}")
        return reply

    def data(self, op: str, **fields: object) -> Any:  # noqa: ANN401  each op's own
        """Ask for an op, and give the data of its response."""
        reply = self.ask(op, **fields)
        expect(reply["type"] == "response" and reply["op"] == op, f"found {reply}")
        return reply["data"]

    def ticker(self) -> str:
        """Give a ticker that has a value."""
        tickers: list[str] = self.data("list_tickers")
        expect(bool(tickers), "no ticker has a value")
        return tickers[0]

    def refused(self, line: bytes, code: str, *words: str) -> dict[str, Any]:
        """Send a line that is answered by an error, with these words in its message."""
        self.send(line + b"\n")
        reply = self.reply()
        expect(reply["type"] == "error", f"expected {code}, found {reply}")
        found, message = reply["error"]["code"], reply["error"]["message"]
        expect(found == code, f"expected {code}, found {found}: {message}")
        for word in words:
            expect(word in message, f"expected {word!r} in the message, found {message!r}")
        return reply


def expect(holds: bool, otherwise: str) -> None:  # noqa: FBT001  the condition is the point
    """Fail unless something holds."""
    if not holds:
        raise CheckError(otherwise)


def no_constant(name: str) -> None:
    """Refuse NaN and the infinities, which Python's own JSON would let through."""
    message = f"{name} is no JSON"
    raise CheckError(message)


# -- the checks: each gives what it found, in a few words ------------------------------------


def ping(connection: Connection) -> str:
    """Ask whether it answers."""
    started = time.perf_counter()
    connection.data("ping")
    return f"{(time.perf_counter() - started) * 1e6:.0f} us"


def get_info(connection: Connection) -> str:
    """Ask what it is."""
    info = connection.data("get_info")
    for name in ("quoteshm", "protocol_version", "pid", "uptime_s", "limits", "counts", "source"):
        expect(name in info, f"no {name} in {info}")
    return f"quoteshm {info['quoteshm']}, source {info['source']}, pid {info['pid']}"


def list_tickers(connection: Connection) -> str:
    """Ask for the tickers."""
    tickers = connection.data("list_tickers")
    expect(bool(tickers), "no ticker has a value")
    expect(tickers == sorted(set(tickers)), f"not sorted: {tickers}")
    return f"{len(tickers)} tickers"


def get_quote(connection: Connection) -> str:
    """Ask for a quote."""
    ticker = connection.ticker()
    quote = connection.data("get_quote", ticker=ticker)
    check_quote(quote, ticker)
    return f"{ticker} {quote['price']} {quote['currency']}{' (stale)' if quote['stale'] else ''}"


def check_quote(quote: dict[str, Any], ticker: str) -> None:
    """Check the fields of a quote."""
    for name, kinds in QUOTE_TYPES.items():
        expect(name in quote, f"no {name} in {quote}")
        expect(type(quote[name]) in kinds, f"{name} of {ticker} is {quote[name]!r}")
    expect(quote["ticker"] == ticker, f"asked for {ticker}, found {quote['ticker']}")


def get_quotes(connection: Connection) -> str:
    """Ask for all quotes, and for some."""
    every = connection.data("get_quotes")
    expect(every["epoch"] % 2 == 0, f"the epoch is odd: {every['epoch']}")
    for ticker, quote in every["quotes"].items():
        check_quote(quote, ticker)
    ticker = connection.ticker()
    some = connection.data("get_quotes", tickers=[UNKNOWN, ticker])
    expect(list(some["quotes"]) == [ticker], f"found {list(some['quotes'])}, expected {ticker}")
    expect(some["missing"] == [UNKNOWN], f"missing is {some['missing']}")
    return f"{len(every['quotes'])} quotes of epoch {every['epoch']}"


def get_snapshot_epoch(connection: Connection) -> str:
    """Ask where the market stands."""
    first, second = (connection.data("get_snapshot_epoch") for _ in range(2))
    expect(first["epoch"] % 2 == 0, f"the epoch is odd: {first['epoch']}")
    expect(second["epoch"] >= first["epoch"], f"{first['epoch']}, then {second['epoch']}")
    expect(second["last_update_ms"] >= first["last_update_ms"], f"{first}, then {second}")
    return f"epoch {second['epoch']}"


def get_history(connection: Connection) -> str:
    """Ask for bars: all, the last, and since a time."""
    ticker = connection.ticker()
    history = connection.data("get_history", ticker=ticker)
    time_ms = history["time"]
    expect(time_ms == sorted(set(time_ms)), "times are not strictly increasing")
    expect({len(history[name]) for name in COLUMNS} == {len(time_ms)}, "columns differ in length")
    if time_ms:
        last = connection.data("get_history", ticker=ticker, last=1)
        expect(len(last["time"]) == 1, f"asked for 1 bar, found {len(last['time'])}")
        middle = time_ms[len(time_ms) // 2]
        since = connection.data("get_history", ticker=ticker, since=middle)
        expect(since["time"][0] == middle, f"asked since {middle}, found {since['time'][0]}")
    return f"{ticker} {history['interval']}, {len(time_ms)} bars, {history['time_zone']}"


def get_shm_name(connection: Connection) -> str:
    """Ask where the segment is, and read it; or be told that there is none."""
    info = connection.data("get_info")
    if info["shm_name"] is None:
        connection.refused(request("get_shm_name"), "NOT_FOUND")
        return "NOT_FOUND, as this server has none"
    address = connection.data("get_shm_name")
    expect(address["shm_name"] == info["shm_name"], f"found {address}")
    path = Path(address["shm_dir"], address["shm_name"])
    if not path.exists():
        return f"{path}, on another machine"
    ticker = connection.ticker()
    with StockDataReader(shm_name=path.name, shm_dir=str(path.parent)) as reader:
        expect(reader.info.instance == address["instance"], "another server's segment is there")
        expect(reader.writer_status() == "live", f"its writer is {reader.writer_status()}")
        bars = reader.get_stock(ticker)
        expect(reader.get_quote(ticker).ticker == ticker, "the reader's quote is another's")
    return f"{path}, {len(bars)} bars of {ticker} read"


def blocking_client(connection: Connection) -> str:
    """Ask the same through `QuoteClient`."""
    host, port = connection.socket.getpeername()[:2]
    with QuoteClient(host, port) as client:
        ticker = connection.ticker()
        expect(client.get_quote(ticker).ticker == ticker, "another ticker's quote")
        bars = client.get_history(ticker, last=SOME)
        expect(len(bars) <= SOME, f"asked for {SOME} bars, found {len(bars)}")
    return f"a quote and {len(bars)} bars of {ticker}"


def unknown_ticker(connection: Connection) -> str:
    """Ask for what is not there."""
    for op in ("get_quote", "get_history"):
        connection.refused(request(op, ticker=UNKNOWN), "NOT_FOUND", UNKNOWN)
    return "NOT_FOUND"


def unknown_interval(connection: Connection) -> str:
    """Ask for bars of an interval that is not kept."""
    ticker = connection.ticker()
    known = connection.data("get_history", ticker=ticker, last=1)["interval"]
    line = request("get_history", ticker=ticker, interval="no such interval")
    connection.refused(line, "NOT_FOUND", "no such interval", known)
    return "NOT_FOUND, naming the known ones"


def missing_fields(connection: Connection) -> str:
    """Leave fields out: each of them is named."""
    words = "Missing required fields: "
    connection.refused(b"{}", "BAD_REQUEST", f"{words}v, id, type")
    connection.refused(b'{"v":1}', "BAD_REQUEST", f"{words}id, type")
    connection.refused(b'{"type":"get_quote"}', "BAD_REQUEST", f"{words}v, id, ticker")
    reply = connection.refused(b'{"id":"x","type":"get_quote"}', "BAD_REQUEST", f"{words}v, ticker")
    expect(reply["id"] == "x", f"the id was readable, found {reply['id']!r}")
    return "BAD_REQUEST, naming all of them"


def wrong_types(connection: Connection) -> str:
    """Give fields of a wrong type: the place is named."""
    connection.refused(request("get_quote", ticker=5), "BAD_REQUEST", "$.ticker")
    connection.refused(request("get_quotes", tickers=["A", None]), "BAD_REQUEST", "$.tickers[1]")
    connection.refused(request("get_history", ticker="A", last=0), "BAD_REQUEST", "$.last")
    connection.refused(b'{"v":2,"id":1,"type":"ping"}', "BAD_REQUEST", "$.v")
    reply = connection.refused(b'{"v":1,"id":true,"type":"ping"}', "BAD_REQUEST", "$.id")
    expect(reply["id"] is None, f"true is no id, found {reply['id']!r}")
    return "BAD_REQUEST, naming the place"


def unknown_op(connection: Connection) -> str:
    """Ask for what there is no op for."""
    connection.refused(request("make_coffee"), "BAD_REQUEST", "make_coffee")
    return "BAD_REQUEST"


def malformed_json(connection: Connection) -> str:
    """Send what is no JSON: one error each, and the connection goes on."""
    hostile = [
        b"hello",
        b'{"v":1,"id":"a","type":"ping"',
        b"[]",
        b"[" * 50_000,
        b'{"v":1,"id":"a","type":"ping","x":NaN}',
        b'{"v":1,"id":"a","type":"ping","x":1e999}',
        b'{"v":1,"id":"\xff","type":"ping"}',
        b'{"v":1,"id":"\\ud800","type":"ping"}',
        b'\xef\xbb\xbf{"v":1,"id":"a","type":"ping"}',
        b"\0\0\0",
    ]
    for line in hostile:
        connection.refused(line, "BAD_REQUEST")
    connection.data("ping")
    return f"{len(hostile)} lines, BAD_REQUEST each"


def overlong_line(connection: Connection) -> str:
    """Send a line that is too long, then a good one."""
    limit = connection.data("get_info")["limits"]["max_line_bytes"]
    connection.refused(b"x" * (limit + 1), "BAD_REQUEST", str(limit))
    connection.send(request("ping").ljust(limit) + b"\n")
    expect(connection.reply()["type"] == "response", "a line of just the limit was refused")
    connection.data("ping")
    return f"BAD_REQUEST beyond {limit} bytes, then a good one"


def ids(connection: Connection) -> str:
    """Have ids come back as they are."""
    for request_id in ("", "a1", "é😀\0", "x" * 128, 0, -1, 2**63 - 1, -(2**63)):
        connection.send(json.dumps({"v": 1, "id": request_id, "type": "ping"}).encode() + b"\n")
        found = connection.reply()["id"]
        same = found == request_id and type(found) is type(request_id)
        expect(same, f"sent {request_id!r}, found {found!r}")
    return "strings and integers"


def line_endings(connection: Connection) -> str:
    """End lines as other systems do, with blank ones between."""
    connection.send(b"\n\r\n  \n" + request("ping") + b"\r\n\r\n" + request("ping") + b"\n")
    for _ in range(2):
        expect(connection.reply()["type"] == "response", "not answered")
    return "returns and blank lines ignored"


def pipelining(connection: Connection) -> str:
    """Send many requests at once, bad ones among them."""
    count = 200
    lines = [{"v": 1, "id": n, "type": "ping" if n % 3 else "make_coffee"} for n in range(count)]
    connection.send(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
    for n in range(count):
        reply = connection.reply()
        expect(reply["id"] == n, f"expected the reply to {n}, found that to {reply['id']}")
        expect(reply["type"] == ("response" if n % 3 else "error"), f"found {reply}")
    return f"{count} requests, answered in order"


def byte_by_byte(connection: Connection) -> str:
    """Send a request in pieces of one byte."""
    connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    line = request("ping") + b"\n"
    for at in range(len(line)):
        connection.send(line[at : at + 1])
    expect(connection.reply()["type"] == "response", "not answered")
    return f"{len(line)} pieces"


def half_close(connection: Connection) -> str:
    """Close one half behind many requests: all are answered, then the other half ends."""
    count = 100
    connection.send((request("list_tickers") + b"\n") * count)
    connection.socket.shutdown(socket.SHUT_WR)
    for _ in range(count):
        expect(connection.reply()["type"] == "response", "not answered")
    expect(connection.lines.read() == b"", "more than was asked for")
    return f"{count} replies, then the end"


def request(op: str, **fields: object) -> bytes:
    """Give the line of a request, without its newline."""
    return json.dumps({"v": 1, "id": "smoke", "type": op, **fields}).encode()


CHECKS: tuple[Callable[[Connection], str], ...] = (
    ping,
    get_info,
    list_tickers,
    get_quote,
    get_quotes,
    get_snapshot_epoch,
    get_history,
    get_shm_name,
    blocking_client,
    unknown_ticker,
    unknown_interval,
    missing_fields,
    wrong_types,
    unknown_op,
    malformed_json,
    overlong_line,
    ids,
    line_endings,
    pipelining,
    byte_by_byte,
    half_close,
)


def wait_for_quotes(options: argparse.Namespace) -> None:
    """Give a server that has just started the time to fetch something, or to come up at all."""
    deadline = time.monotonic() + options.wait
    while time.monotonic() < deadline:
        try:
            with Connection(options) as connection:
                if connection.data("list_tickers"):
                    return
        except FAULTS:
            pass  # the checks will say so, if it stays like this
        time.sleep(0.1)


def run(check: Callable[[Connection], str], options: argparse.Namespace) -> bool:
    """Run one check on a connection of its own, and print a line."""
    name = check.__name__
    try:
        with Connection(options) as connection:
            found = check(connection)
    except FAULTS as error:
        text = str(error) or type(error).__name__
        print(f"FAIL  {name:20} {text[:300]}", flush=True)
        return False
    print(f"ok    {name:20} {found}", flush=True)
    return True


def main() -> int:
    """Run all checks; give the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--host", default="127.0.0.1", help="of the server (%(default)s)")
    parser.add_argument("--port", type=int, default=9000, help="of the server (%(default)s)")
    parser.add_argument(
        "--timeout", type=float, default=10.0, help="seconds for each answer (%(default)s)"
    )
    parser.add_argument(
        "--wait", type=float, default=10.0, help="seconds for the first quotes (%(default)s)"
    )
    options = parser.parse_args()
    wait_for_quotes(options)
    results = [run(check, options) for check in CHECKS]
    print(f"{sum(results)} of {len(results)} checks passed")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
