"""The blocking client, against a real server and against bad ones."""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import ssl
import threading
import time
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal
from twisted.internet.defer import Deferred

import quoteshm
from quoteshm.client import blocking
from quoteshm.client.blocking import QuoteClient
from quoteshm.client.events import (
    HeartbeatEvent,
    LostEvent,
    QuotesEvent,
    ResumedEvent,
    SnapshotEvent,
)
from quoteshm.errors import (
    REMOVED,
    ConnectionFailedError,
    ErrorCode,
    RequestError,
    SettingsError,
    UnknownIntervalError,
    UnknownTickerError,
)
from quoteshm.model import DAY_MS, FIELDS, Quote, SnapshotState
from quoteshm.shm.frames import to_frame
from quoteshm.wire.auth import Gate
from tests.certificates import Authority
from tests.client.model import ModelMarket, history_of
from tests.client.pushing import PushedCase, changed
from tests.published import FIRST_MS, NEW_YORK, NOW_MS, Market
from tests.rostering import have_roster
from tests.serving import ServedCase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from quoteshm.client.events import Event

PONG = b'{"v":1,"id":%d,"type":"response","op":"ping","data":{}}\n'


def same(one: Quote, other: Quote) -> bool:
    """Tell whether two quotes are equal, NaN being equal to NaN."""
    return repr(one) == repr(other)


class ServedTests(ServedCase):
    """What a real server answers."""

    def with_client(self, act: Callable[[QuoteClient], object]) -> Deferred[Any]:
        """Do something with a client in a thread."""

        def run() -> object:
            with QuoteClient(port=self.port) as client:
                return act(client)

        return self.in_thread(run)

    async def test_every_question_is_answered(self) -> None:
        """As the records of the package, on one connection."""

        def ask(client: QuoteClient) -> None:
            cache = self.market.cache
            assert client.list_tickers() == ["AAPL", "MSFT"]
            assert client.get_quote("MSFT") == cache.get("MSFT")
            assert client.get_snapshot_epoch() == SnapshotState(self.market.writer.epoch, NOW_MS)
            quotes = client.get_quotes(["MSFT", "X"])
            assert quotes.epoch == self.market.writer.epoch
            assert quotes.quotes == {"MSFT": cache.get("MSFT")}
            assert quotes.missing == ["X"]
            assert list(client.get_quotes().quotes) == ["AAPL", "MSFT"]
            assert list(client.get_quotes(iter(["AAPL"])).quotes) == ["AAPL"]
            assert client.get_info()["source"] == "synthetic"
            assert 0 < client.ping() < 60

        await self.with_client(ask)
        assert self.factory.made == 1

    async def test_tickers_are_added_and_removed_with_a_token(self) -> None:
        """What became of each is told; one that is gone is unknown, as the reader has it."""
        have_roster(self.market, "AAPL", "MSFT")
        self.factory.context = self.market.context
        self.factory.gate = Gate(b"sesame")

        def ask() -> None:
            with QuoteClient(port=self.port, token="sesame") as client:  # noqa: S106  a test's
                added = client.add_tickers(iter(["IBM", "AAPL", ""]))
                assert (added.added, added.known, list(added.refused)) == (["IBM"], ["AAPL"], [""])
                removed = client.remove_tickers(["MSFT", "X"])
                assert (removed.removed, removed.unknown) == (["MSFT"], ["X"])
                with pytest.raises(UnknownTickerError, match=r"^ticker removed: MSFT$") as caught:
                    client.get_quote("MSFT")
                assert caught.value.reason == REMOVED

        await self.in_thread(ask)

    async def test_without_a_token_they_are_not(self) -> None:
        """The error says what to do."""
        with pytest.raises(RequestError, match="--auth-token-file") as caught:
            await self.with_client(lambda client: client.add_tickers(["IBM"]))
        assert caught.value.code is ErrorCode.UNAUTHORIZED

    async def test_a_missing_price_is_nan(self) -> None:
        """So that a quote is the reader's."""
        quote = await self.with_client(lambda client: client.get_quote("AAPL"))
        assert math.isnan(quote.prev_close)
        assert same(quote, self.market.cache.get("AAPL"))
        quotes = await self.with_client(lambda client: client.get_quotes().quotes["AAPL"])
        assert same(quotes, quote)

    async def test_history_is_the_readers_frame(self) -> None:
        """Columns, types, zone and name of the index."""
        self.market.history("AAPL", [1.5, math.nan, 2.5])
        frame = await self.with_client(lambda client: client.get_history("AAPL"))
        bars, _ = self.market.writer.history(int(self.market.rows("AAPL")[0]), "1d")
        assert_frame_equal(frame, to_frame(bars, "1d", NEW_YORK))
        assert list(frame.columns) == ["Open", "High", "Low", "Close", "Volume"]
        assert str(frame.index.tz) == NEW_YORK
        assert frame.index.name == "Date"
        assert (frame.dtypes == np.float64).all()

    async def test_history_of_an_interval_without_bars_is_empty(self) -> None:
        """With the same columns and kind of index."""
        frame = await self.with_client(lambda client: client.get_history("MSFT", "1m"))
        assert frame.empty
        assert frame.index.name == "Datetime"
        assert str(frame.index.tz) == NEW_YORK

    async def test_since_is_a_time_in_any_form(self) -> None:
        """Milliseconds, text or timestamp; without a zone it is the exchange's."""
        second = FIRST_MS + DAY_MS
        stamp = pd.Timestamp(second, unit="ms", tz="UTC")
        there = stamp.tz_convert(NEW_YORK).tz_localize(None)
        forms = (second, np.int64(second), stamp, stamp.to_pydatetime(), str(stamp))
        for since in (*forms, there, str(there)):
            frame = await self.with_client(lambda c, s=since: c.get_history("AAPL", since=s))  # type: ignore[misc]
            assert frame["Close"].tolist() == [190.5, 189.5], since
        frame = await self.with_client(lambda c: c.get_history("AAPL", since=second, last=1))
        assert frame["Close"].tolist() == [189.5]
        for since, count in (("0001-01-01", 3), ("9999-12-31", 0)):
            frame = await self.with_client(lambda c, s=since: c.get_history("AAPL", since=s))  # type: ignore[misc]
            assert len(frame) == count

    async def test_what_comes_out_of_an_array_may_be_asked_for(self) -> None:
        """NumPy's texts and integers are no kinds of Python's to the encoder."""
        ticker, count = np.array(["MSFT"])[0], np.array([1])[0]
        assert await self.with_client(lambda c: c.get_quotes([ticker]).missing) == []
        frame = await self.with_client(lambda c: c.get_history("AAPL", last=count))
        assert frame["Close"].tolist() == [189.5]
        with pytest.raises(TypeError, match="found object"):
            await self.with_client(lambda c: c.get_quote(object()))  # type: ignore[arg-type]

    async def test_an_unknown_ticker_is_the_readers_error(self) -> None:
        """With the reason, where there is one; a KeyError as well."""
        self.market.cache.failures["NEWCO"] = "rate limited: try later"

        def ask(client: QuoteClient) -> None:
            for method in (client.get_quote, client.get_history):
                with pytest.raises(UnknownTickerError) as caught:
                    method("XXXX")
                assert (caught.value.ticker, caught.value.reason) == ("XXXX", None)
                with pytest.raises(KeyError) as other:
                    method("NEWCO")
                assert str(other.value) == "no value yet for NEWCO: rate limited: try later"

        await self.with_client(ask)
        assert self.factory.made == 1

    async def test_an_error_reply_is_a_request_error(self) -> None:
        """With its code and message; the connection stays."""

        def ask(client: QuoteClient) -> None:
            with pytest.raises(RequestError) as caught:
                client.get_shm_name()
            assert caught.value.code is ErrorCode.NOT_FOUND
            assert caught.value.message == "this server has no shared memory"
            with pytest.raises(RequestError, match=r"Expected int >= 1 - at \$\.last") as caught:
                client.get_history("AAPL", last=0)
            assert caught.value.code is ErrorCode.BAD_REQUEST
            with pytest.raises(UnknownIntervalError, match="7m, known are 1d, 1m") as unknown:
                client.get_history("AAPL", "7m")
            assert unknown.value.known == ("1d", "1m")

        await self.with_client(ask)
        assert self.factory.made == 1

    async def test_an_error_that_names_no_request_is_this_ones(self) -> None:
        """As of a request that was too long; the next call is answered."""

        def ask(client: QuoteClient) -> None:
            with pytest.raises(RequestError, match="line longer than 65536 bytes"):
                client.get_quotes(["X" * 70_000])
            assert client.list_tickers() == ["AAPL", "MSFT"]

        await self.with_client(ask)

    async def test_text_that_is_no_unicode_is_not_sent(self) -> None:
        """The caller's own mistake."""

        def ask(client: QuoteClient) -> None:
            with pytest.raises(UnicodeEncodeError):
                client.get_quote("\ud800")

        await self.with_client(ask)

    async def test_threads_take_turns(self) -> None:
        """Each gets its own answers, over one connection."""

        def ask(client: QuoteClient) -> None:
            wrong: list[object] = []

            def run(ticker: str) -> None:
                for _ in range(50):
                    quote = client.get_quote(ticker)
                    if quote.ticker != ticker:
                        wrong.append(quote)

            threads = [threading.Thread(target=run, args=(t,)) for t in ("AAPL", "MSFT") * 3]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert wrong == []

        await self.with_client(ask)
        assert self.factory.made == 1

    async def test_a_connection_that_was_closed_meanwhile_is_replaced(self) -> None:
        """Without an error: the server was started anew, or had enough of waiting."""
        client = QuoteClient(port=self.port)
        self.addCleanup(client.close)
        await self.in_thread(client.ping)
        for protocol in list(self.factory.open):
            protocol.abort()
        await self.in_thread(client.ping)
        assert self.factory.made == 2

    async def test_a_server_that_is_gone_is_named_and_found_again(self) -> None:
        """The next call connects anew."""
        client = QuoteClient(port=self.port)
        self.addCleanup(client.close)
        await self.in_thread(client.ping)
        await self.listening.stopListening()
        for protocol in list(self.factory.open):
            protocol.abort()
        with pytest.raises(ConnectionFailedError, match=f"127.0.0.1:{self.port}: Connection ref"):
            await self.in_thread(client.ping)
        self.listen(self.port)
        await self.in_thread(client.ping)

    async def test_a_forked_child_has_its_own_connection(self) -> None:
        """Two processes on one stream would take each other's answers."""

        def ask(client: QuoteClient) -> None:
            client.ping()
            assert client._connection is not None
            client._connection.pid = os.getppid()  # as it is seen in a child
            client.ping()

        await self.with_client(ask)
        assert self.factory.made == 2

    async def test_a_closed_client_says_so(self) -> None:
        """It does not connect again."""
        client = QuoteClient(port=self.port)
        await self.in_thread(client.ping)
        client.close()
        client.close()
        with pytest.raises(ConnectionFailedError, match="this client is closed"):
            client.ping()

    async def test_the_package_offers_it(self) -> None:
        """By its short name."""
        assert quoteshm.QuoteClient is QuoteClient


@contextlib.contextmanager
def server(*scripts: Callable[[socket.socket], object]) -> Iterator[QuoteClient]:
    """Serve one connection after another, each by a script; give a client of it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def run() -> None:
            for script in scripts:
                connection, _ = listening.accept()
                with connection:
                    script(connection)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            with QuoteClient(port=listening.getsockname()[1], timeout_s=5.0) as client:
                yield client
        finally:
            thread.join()


def line_of(connection: socket.socket) -> bytes:
    """Read one request."""
    with connection.makefile("rb") as lines:
        return lines.readline()


def test_a_connection_lost_before_the_answer_is_a_failure() -> None:
    """Of a fresh connection, it is not tried twice."""
    with server(line_of) as client, pytest.raises(ConnectionFailedError) as caught:
        client.ping()
    assert caught.value.address == client.address
    assert "closed the connection before it answered" in str(caught.value)


def test_what_changes_the_market_is_sent_once() -> None:
    """Also over a connection that was there before it; one that has ended meanwhile is replaced."""
    seen, ended = list[bytes](), threading.Event()

    def answer(connection: socket.socket) -> None:
        connection.sendall(PONG % json.loads(line_of(connection))["id"])

    def answer_and_fall(connection: socket.socket) -> None:
        answer(connection)
        seen.append(line_of(connection))

    def close(connection: socket.socket) -> None:
        answer(connection)
        connection.shutdown(socket.SHUT_RDWR)
        ended.set()

    def take(connection: socket.socket) -> None:
        request = json.loads(line_of(connection))
        data = {"removed": request["tickers"], "unknown": []}
        reply = {"v": 1, "id": request["id"], "type": "response", "op": "remove_tickers"}
        connection.sendall(json.dumps(reply | {"data": data}).encode() + b"\n")

    with server(answer_and_fall, close, take) as client:
        client.ping()
        with pytest.raises(ConnectionFailedError, match="before it answered"):
            client.remove_tickers(["AAPL"])
        assert len(seen) == 1
        client.ping()
        assert ended.wait(10)
        assert client.remove_tickers(["AAPL"]).removed == ["AAPL"]


def test_an_answer_cut_short_is_a_failure() -> None:
    """Half a line is none."""

    def script(connection: socket.socket) -> None:
        line_of(connection)
        connection.sendall(PONG[:20])

    with server(script) as client, pytest.raises(ConnectionFailedError):
        client.ping()


@pytest.mark.parametrize(
    "garbage",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\xff\xfe\n",
        b"[]\n",
        b'{"id":1}\n',
        b'{"v":1,"id":1,"type":"response","data":[]}\n',
        b"[" * 100_000 + b"\n",
        b'{"v":1,"id":1,"type":"response","data":' + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
    ],
)
def test_another_kind_of_server_is_a_failure(garbage: bytes) -> None:
    """And said to be one."""

    def script(connection: socket.socket) -> None:
        line_of(connection)
        connection.sendall(garbage)

    with server(script) as client, pytest.raises(ConnectionFailedError, match="no quoteshm server"):
        client.ping()


@pytest.mark.parametrize("change", [{"time": [1, 2]}, {"interval": "7m"}])
def test_a_history_that_cannot_be_is_a_failure(change: dict[str, object]) -> None:
    """Columns of other lengths, an interval of a newer server."""
    data = {"interval": "1d", "time_zone": "UTC", "time": [1]}
    data |= {name: [1.0] for name in FIELDS}
    reply = {"v": 1, "id": 1, "type": "response", "op": "get_history", "data": data | change}

    def script(connection: socket.socket) -> None:
        line_of(connection)
        connection.sendall(json.dumps(reply).encode() + b"\n")

    with server(script) as client, pytest.raises(ConnectionFailedError, match="or a newer one"):
        client.get_history("AAPL")


def test_answers_to_other_requests_are_skipped() -> None:
    """Whatever they say."""

    def script(connection: socket.socket) -> None:
        line_of(connection)
        connection.sendall(PONG % 77 + b'{"v":1,"id":"1","type":"error"}\n\n' + PONG % 1)

    with server(script) as client:
        client.ping()


def test_what_follows_an_error_that_names_no_request_is_nobodys() -> None:
    """The next call has a connection of its own."""
    refusal = (
        b'{"v":1,"id":null,"type":"error","error":{"code":"OVERLOADED","message":"not now"}}\n'
    )

    def refuse(connection: socket.socket) -> None:
        line_of(connection)
        connection.sendall(refusal * 2)
        assert line_of(connection) == b""

    def answer(connection: socket.socket) -> None:
        connection.sendall(PONG % json.loads(line_of(connection))["id"])

    with server(refuse, answer) as client:
        with pytest.raises(RequestError, match="not now"):
            client.ping()
        client.ping()


def test_an_unknown_code_is_still_a_request_error() -> None:
    """Of a server newer than this client."""

    def script(connection: socket.socket) -> None:
        line_of(connection)
        error = b'{"code":"TEAPOT","message":"short and stout"}'
        connection.sendall(b'{"v":1,"id":1,"type":"error","error":%b}\n' % error)

    with server(script) as client, pytest.raises(RequestError, match="short and stout") as caught:
        client.ping()
    assert caught.value.code is ErrorCode.INTERNAL


def test_no_answer_is_a_timeout_and_a_late_one_is_nobodys() -> None:
    """The connection is dropped, so the next call cannot take it for its own."""
    over = threading.Event()

    def silent(connection: socket.socket) -> None:
        line_of(connection)
        over.wait(10)
        with contextlib.suppress(OSError):
            connection.sendall(PONG % 1)

    def good(connection: socket.socket) -> None:
        line_of(connection)
        connection.sendall(PONG % 2)

    with server(silent, good) as client:
        client.timeout_s = 0.05
        with pytest.raises(TimeoutError, match=r"no answer within 0\.05 s"):
            client.ping()
        over.set()
        client.timeout_s = 5.0
        client.ping()


def test_a_timeout_bounds_the_whole_call() -> None:
    """Bytes that keep coming do not prolong it."""
    over = threading.Event()

    def trickle(connection: socket.socket) -> None:
        line_of(connection)
        with contextlib.suppress(OSError):
            while not over.wait(0.01):
                connection.sendall(b" ")

    with server(trickle) as client:
        client.timeout_s = 0.2
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            client.ping()
        over.set()
    assert time.monotonic() - started < 2


def test_a_timeout_bounds_a_history_since_a_time_without_a_zone() -> None:
    """Which takes two requests: the second has what the first has left."""

    def script(connection: socket.socket) -> None:
        for _ in range(2):
            connection.sendall(history_of(json.loads(line_of(connection))))

    with (
        server(script) as client,
        mock.patch.object(client, "_settle", wraps=client._settle) as one,
    ):
        client.get_history("AAPL", since="1970-01-01 00:00")
        deadlines = {call.args[1] for call in one.call_args_list}
    assert (one.call_count, len(deadlines)) == (2, 1)


def test_a_timeout_bounds_the_wait_for_other_threads() -> None:
    """Whoever holds the client."""
    client = QuoteClient(timeout_s=0.05)
    with client._lock, pytest.raises(TimeoutError):
        client.ping()


def test_after_a_timeout_the_next_call_connects_anew() -> None:
    """The other side may never come to itself."""

    def hang(connection: socket.socket) -> None:
        line_of(connection)
        assert line_of(connection) == b""

    def answer(connection: socket.socket) -> None:
        connection.sendall(PONG % json.loads(line_of(connection))["id"])

    with server(hang, answer) as client:
        client.timeout_s = 0.05
        with pytest.raises(TimeoutError):
            client.ping()
        client.timeout_s = 5.0
        client.ping()


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, math.nan])
def test_a_timeout_that_is_none_is_refused(timeout_s: float) -> None:
    """Before anything is asked."""
    with pytest.raises(SettingsError, match="timeout_s"):
        QuoteClient(timeout_s=timeout_s)


def test_a_timeout_may_be_for_ever() -> None:
    """Or as long as nobody would wait."""

    def script(connection: socket.socket) -> None:
        connection.sendall(PONG % json.loads(line_of(connection))["id"])

    for timeout_s in (math.inf, 1e12):
        with server(script) as client, QuoteClient(port=client.port, timeout_s=timeout_s) as other:
            other.ping()


def test_a_host_without_an_address_is_named() -> None:
    """As a failure to connect."""
    with pytest.raises(ConnectionFailedError, match=r"no-such-host\.invalid:9000"):
        QuoteClient("no-such-host.invalid").ping()


def test_addresses_are_named_as_people_write_them() -> None:
    """Of each family."""
    assert repr(QuoteClient("::1", 7)) == "<QuoteClient [::1]:7>"
    assert QuoteClient("localhost").address == "localhost:9000"


def test_nothing_is_connected_before_it_is_needed() -> None:
    """Nor is anything left to close."""
    with QuoteClient("192.0.2.1", 1):
        pass
    assert Market().cache.tickers() == ["AAPL", "MSFT"]


# -- subscriptions ----------------------------------------------------------------------------


class PushedTests(PushedCase):
    """What a real server tells."""

    def with_client(self, act: Callable[[QuoteClient], object], **options: Any) -> Deferred[Any]:
        """Do something with a client in a thread."""

        def run() -> object:
            with QuoteClient(port=self.port, **options) as client:
                return act(client)

        return self.in_thread(run)

    async def test_a_snapshot_comes_first_and_changes_after_it(self) -> None:
        """Removals are changes; the client may be asked meanwhile."""

        def follow(client: QuoteClient) -> None:
            with client.subscribe() as events:
                snapshot = next(events)
                assert changed(snapshot) == {"AAPL": 189.5, "MSFT": 370.25}
                self.on_server(self.publish, "NEWCO", 5.0)
                assert changed(next(events)) == {"NEWCO": 5.0}
                assert client.get_quote("NEWCO").price == 5.0
                self.on_server(self.remove, "MSFT")
                event = next(events)
                assert changed(event) == {"MSFT": None}
                assert isinstance(event, QuotesEvent)
                assert event.epoch == self.market.writer.epoch
                assert event.skipped == 0
            assert list(events) == []

        await self.with_client(follow)

    async def test_only_the_tickers_asked_for_are_told(self) -> None:
        """Those without a value are named."""

        def follow(client: QuoteClient) -> None:
            with client.subscribe(["MSFT", "NEWCO", "X"]) as events:
                snapshot = next(events)
                assert isinstance(snapshot, SnapshotEvent)
                assert list(snapshot.quotes) == ["MSFT"]
                assert snapshot.missing == ["NEWCO", "X"]
                self.on_server(self.publish, "AAPL", 1.0)
                self.on_server(self.publish, "NEWCO", 2.0)
                assert changed(next(events)) == {"NEWCO": 2.0}

        await self.with_client(follow)

    async def test_a_connection_that_falls_is_made_anew_and_goes_on(self) -> None:
        """The loss is told, then what changed meanwhile."""

        def follow(client: QuoteClient) -> None:
            with client.subscribe() as events:
                quotes: dict[str, Quote] = {}
                next(events).apply(quotes)  # type: ignore[union-attr]
                self.on_server(self.cut)
                self.on_server(self.publish, "AAPL", 7.0)
                lost, back = next(events), next(events)
                assert isinstance(lost, LostEvent)
                assert isinstance(back, ResumedEvent)
                assert changed(back) == {"AAPL": 7.0}
                back.apply(quotes)
                self.on_server(self.prices, quotes)

        await self.with_client(follow)

    async def test_it_need_not_be_made_anew(self) -> None:
        """Then the iteration ends with the error."""

        def follow(client: QuoteClient) -> None:
            with client.subscribe(reconnect=False) as events:
                next(events)
                self.on_server(self.cut)
                assert isinstance(next(events), LostEvent)
                with pytest.raises(ConnectionFailedError, match=f"127.0.0.1:{self.port}: "):
                    next(events)

        await self.with_client(follow)

    async def test_who_reads_slowly_gets_the_latest_values(self) -> None:
        """And the number of what is left out."""

        def follow(client: QuoteClient) -> None:
            with client.subscribe(max_pending=2) as events:
                for n in range(100):
                    self.on_server(self.publish, "AAPL", float(n))
                self.on_server(lambda: None)
                seen = [events.wait(5.0)]
                while changed(seen[-1]).get("AAPL") != 99.0:
                    seen.append(events.wait(5.0))
                assert len(seen) < 50
                told = [event for event in seen if isinstance(event, QuotesEvent)]
                assert sum(event.skipped + 1 for event in told) == 100

        await self.with_client(follow)

    async def test_a_wait_may_end_without_an_event(self) -> None:
        """Or with a heartbeat, for whoever wants it."""

        def follow(client: QuoteClient) -> None:
            with client.subscribe(heartbeats=True) as events:
                next(events)
                assert events.wait(0.0) is None
                assert events.wait(0.01) is None
                self.market.clock.now_ms += 5_000
                self.on_server(self.factory.look_after)
                assert isinstance(next(events), HeartbeatEvent)

        await self.with_client(follow)

    async def test_another_thread_may_end_it(self) -> None:
        """Also by closing the client."""

        def follow(client: QuoteClient) -> None:
            for end in ("close", "client"):
                events = client.subscribe()
                next(events)
                ended: list[Event] = []
                thread = threading.Thread(target=lambda e=events, f=ended: f.extend(e))
                thread.start()
                (events if end == "close" else client).close()
                thread.join(10)
                assert not thread.is_alive()
                assert ended == []
            with pytest.raises(ConnectionFailedError, match="this client is closed"):
                client.subscribe()

        await self.with_client(follow)

    async def test_a_forked_child_goes_on_over_a_connection_of_its_own(self) -> None:
        """Two processes on one stream would take each other's events."""

        def follow(client: QuoteClient) -> None:
            with client.subscribe() as events:
                next(events)
                assert events._connection is not None
                events._connection.pid = os.getppid()  # as it is seen in a child
                assert isinstance(next(events), LostEvent)
                assert isinstance(next(events), ResumedEvent)

        await self.with_client(follow)

    async def test_what_cannot_begin_is_the_callers_error(self) -> None:
        """At once, not when the first event is waited for."""

        def follow(client: QuoteClient) -> None:
            with pytest.raises(SettingsError, match="tickers"):
                client.subscribe("AAPL")
            with pytest.raises(RequestError, match="Expected str"):
                client.subscribe([5])  # type: ignore[list-item]
            assert len(list(client._subscriptions)) == 0

        await self.with_client(follow)


def mute(connection: socket.socket) -> None:
    """Answer a subscription, and then nothing."""
    request = json.loads(line_of(connection))
    data = {"epoch": 2, "instance": "1" * 32, "resumed": False, "freshness_ms": 1000}
    data |= {"heartbeat_s": 0.02, "quotes": {}, "missing": []}
    connection.sendall(
        json.dumps(
            {"v": 1, "id": request["id"], "type": "response", "op": "subscribe", "data": data}
        ).encode()
        + b"\n"
    )
    assert line_of(connection) == b""


def test_a_mute_connection_is_given_up() -> None:
    """After three heartbeats, and another one made."""
    with server(mute, mute) as client, client.subscribe() as events:
        assert isinstance(next(events), SnapshotEvent)
        assert next(events) == LostEvent("nothing came for 0.06 s")
        assert isinstance(next(events), SnapshotEvent)


def test_a_subscription_without_a_server_or_an_answer_fails() -> None:
    """As a call does."""
    with QuoteClient(port=1) as client, pytest.raises(ConnectionFailedError, match="refused"):
        client.subscribe()

    def silent(connection: socket.socket) -> None:
        line_of(connection)
        assert line_of(connection) == b""

    with server(silent) as client:
        client.timeout_s = 0.05
        with pytest.raises(TimeoutError, match=r"no answer within 0\.05 s"):
            client.subscribe()

    def strange(connection: socket.socket) -> None:
        line_of(connection)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with server(strange) as client, pytest.raises(ConnectionFailedError, match="no quoteshm"):
        client.subscribe()


def ends_when_closed(client: QuoteClient, is_under_way: threading.Event) -> None:
    """Close a client while another thread subscribes."""
    raised: list[BaseException] = []

    def subscribe() -> None:
        try:
            client.subscribe()
        except ConnectionFailedError as error:
            raised.append(error)

    thread = threading.Thread(target=subscribe)
    thread.start()
    assert is_under_way.wait(10)
    client.close()
    thread.join(10)
    assert not thread.is_alive()
    assert "this client is closed" in str(*raised)
    assert len(client._subscriptions) == 0


def test_closing_ends_a_subscription_that_begins() -> None:
    """In another thread, which waits for the first event."""
    asked = threading.Event()

    def silent(connection: socket.socket) -> None:
        line_of(connection)
        asked.set()
        assert line_of(connection) == b""

    with server(silent) as client:
        client.timeout_s = 60.0
        ends_when_closed(client, asked)


def test_closing_ends_a_subscription_that_connects(monkeypatch: pytest.MonkeyPatch) -> None:
    """As soon as it is connected: no event comes of it."""
    dialing, closed, connect = threading.Event(), threading.Event(), blocking._connect

    def wait_and_connect(*place: Any) -> socket.socket:
        dialing.set()
        assert closed.wait(10)
        return connect(*place)

    def unasked(connection: socket.socket) -> None:
        assert line_of(connection) == b""

    monkeypatch.setattr(blocking, "_connect", wait_and_connect)
    close = blocking.Subscription.close

    def close_and_connect(subscription: blocking.Subscription) -> None:
        subscription._closed.set()
        closed.set()
        close(subscription)

    monkeypatch.setattr(blocking.Subscription, "close", close_and_connect)
    with server(unasked) as client:
        ends_when_closed(client, dialing)


# -- ways in ----------------------------------------------------------------------------------


def serve_once(listening: socket.socket, context: ssl.SSLContext | None = None) -> None:
    """Answer one request over one connection."""
    connection, _ = listening.accept()
    try:
        if context is not None:
            connection = context.wrap_socket(connection, server_side=True)
        with connection:
            connection.sendall(PONG % json.loads(line_of(connection))["id"])
    except OSError:
        connection.close()  # a client that does not trust us


def test_a_name_that_cannot_be_looked_up_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever looking it up raises."""

    def look_up(host: str, *_: object, **__: object) -> None:
        host.encode("ascii")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    client = QuoteClient("b\u00fccher.example")
    for ask in (client.ping, client.subscribe):
        with pytest.raises(ConnectionFailedError, match="codec can't encode"):
            ask()


def test_a_unix_socket_is_a_way_in(tmp_path: Path) -> None:
    """Errors name it."""
    path = tmp_path / "quotes.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        thread = threading.Thread(target=serve_once, args=(listening,))
        thread.start()
        with QuoteClient(path=path) as client:
            client.ping()
        thread.join()
    path.unlink()
    with pytest.raises(ConnectionFailedError, match=f"unix:{path}: No such file"):
        QuoteClient(path=path).ping()


def test_tls_is_a_way_in_for_who_trusts_the_server(tmp_path: Path) -> None:
    """And for nobody else."""
    authority = Authority(tmp_path)
    issued = authority.issue("127.0.0.1")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(issued.certificate, issued.key)
    trusts: list[tuple[bool | ssl.SSLContext, bool]] = [(authority.trusting(), True), (True, False)]
    for tls, works in trusts:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            port = listening.getsockname()[1]
            thread = threading.Thread(target=serve_once, args=(listening, context))
            thread.start()
            with QuoteClient(port=port, tls=tls) as client:
                if works:
                    client.ping()
                else:
                    with pytest.raises(ConnectionFailedError, match="certificate verify failed"):
                        client.ping()
            thread.join()


def test_a_subscription_over_tls_looks_for_news_and_keeps_its_connection(tmp_path: Path) -> None:
    """TLS says otherwise than a plain socket that there is nothing to read yet."""
    authority, market, done = Authority(tmp_path), ModelMarket(), threading.Event()
    issued = authority.issue("127.0.0.1")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(issued.certificate, issued.key)

    def serve(listening: socket.socket) -> None:
        with context.wrap_socket(listening.accept()[0], server_side=True) as connection:
            connection.sendall(market.reply(line_of(connection)))
            done.wait(10)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,))
        thread.start()
        client = QuoteClient(port=listening.getsockname()[1], tls=authority.trusting())
        with client, client.subscribe() as events:
            assert isinstance(events.wait(), SnapshotEvent)
            assert events.wait(0.0) is None
            assert events.wait(0.05) is None
            done.set()
        thread.join()


def test_tls_over_a_unix_socket_is_refused() -> None:
    """There is no name to check."""
    with pytest.raises(SettingsError, match="tls"):
        QuoteClient(path="/tmp/x", tls=True)  # noqa: S108  never opened


def test_a_token_goes_first() -> None:
    """Over each connection, in one go with the request; a wrong one is the call's error."""

    def right(connection: socket.socket) -> None:
        with connection.makefile("rb") as lines:
            for op in ("auth", "ping"):
                request = json.loads(lines.readline())
                assert request["type"] == op
                connection.sendall(PONG % request["id"])

    def wrong(connection: socket.socket) -> None:
        error = b'{"code":"UNAUTHORIZED","message":"wrong token"}'
        request_id = json.loads(line_of(connection))["id"]
        connection.sendall(b'{"v":1,"id":%d,"type":"error","error":%b}\n' % (request_id, error))

    with server(right, wrong, wrong) as other:
        with QuoteClient(port=other.port, token="secret") as client:  # noqa: S106  of the test
            client.ping()
        with QuoteClient(port=other.port, token="other") as client:  # noqa: S106  of the test
            for ask in (client.ping, client.subscribe):
                with pytest.raises(RequestError, match="wrong token") as caught:
                    ask()
                assert caught.value.code is ErrorCode.UNAUTHORIZED
