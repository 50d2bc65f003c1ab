"""The Twisted client, against a real server in the same reactor and against bad ones."""
# mypy: allow-untyped-calls

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Factory
from twisted.internet.ssl import Certificate, optionsForClientTLS
from twisted.internet.task import Clock, deferLater
from twisted.protocols.basic import LineOnlyReceiver

from quoteshm.client.events import (
    Event,
    HeartbeatEvent,
    LostEvent,
    QuotesEvent,
    ResumedEvent,
    SnapshotEvent,
)
from quoteshm.client.tx import TxQuoteClient
from quoteshm.errors import ConnectionFailedError, RequestError, SettingsError, UnknownTickerError
from quoteshm.model import DAY_MS, SnapshotState
from quoteshm.wire.auth import Gate
from tests.certificates import Authority, endpoint
from tests.client.model import ModelMarket, error_line, history_of
from tests.client.pushing import PushedCase, changed
from tests.client.test_link import Wire
from tests.published import FIRST_MS, NOW_MS
from tests.rostering import have_roster

if TYPE_CHECKING:
    from collections.abc import Callable

    from quoteshm.model import Quote


class Events:
    """A callback whose events can be waited for."""

    def __init__(self) -> None:
        self.seen: list[Event] = []
        self._waiting: list[Deferred[Event]] = []

    def __call__(self, event: Event) -> None:
        """Take an event."""
        if self._waiting:
            self._waiting.pop(0).callback(event)
        else:
            self.seen.append(event)

    def next(self) -> Deferred[Event]:
        """Wait for the next event."""
        waiting: Deferred[Event] = Deferred()
        if self.seen:
            waiting.callback(self.seen.pop(0))
        else:
            self._waiting.append(waiting)
        return waiting


class ServedTests(PushedCase):
    """What a real server answers and tells."""

    def setUp(self) -> None:
        """Make a client."""
        super().setUp()
        self.client = self.make()

    def make(self, **options: Any) -> TxQuoteClient:
        """Make a client that is closed at the end."""
        client = TxQuoteClient(**{"port": self.port, **options})
        self.addCleanup(client.close)
        return client

    async def test_every_question_is_answered(self) -> None:
        """As the blocking client has it, over one connection."""
        client, cache = self.client, self.market.cache
        assert await client.list_tickers() == ["AAPL", "MSFT"]
        assert await client.get_quote("MSFT") == cache.get("MSFT")
        assert await client.get_snapshot_epoch() == SnapshotState(self.market.writer.epoch, NOW_MS)
        quotes = await client.get_quotes(iter(["MSFT", "X"]))
        assert (list(quotes.quotes), quotes.missing) == (["MSFT"], ["X"])
        assert list((await client.get_quotes()).quotes) == ["AAPL", "MSFT"]
        assert (await client.get_info())["source"] == "synthetic"
        assert 0 < await client.ping() < 60
        with pytest.raises(RequestError, match="no shared memory"):
            await client.get_shm_name()
        with pytest.raises(UnknownTickerError):
            await client.get_quote("X")
        for since in (FIRST_MS + DAY_MS, "2023-11-13 00:00"):
            frame = await client.get_history("AAPL", "1d", since=since, last=2)
            assert frame["Close"].tolist() == [190.5, 189.5]
        assert self.factory.made == 1
        assert repr(client) == f"<TxQuoteClient 127.0.0.1:{self.port}>"

    async def test_tickers_are_added_and_removed(self) -> None:
        """As the blocking client has it."""
        have_roster(self.market, "AAPL", "MSFT")
        self.factory.context = self.market.context
        self.factory.gate = Gate(b"sesame")
        client = self.make(token="sesame")  # noqa: S106  a test's
        added = await client.add_tickers(iter(["IBM", "AAPL", ""]))
        assert (added.added, added.known, list(added.refused)) == (["IBM"], ["AAPL"], [""])
        removed = await client.remove_tickers(["MSFT", "X"])
        assert (removed.removed, removed.unknown) == (["MSFT"], ["X"])

    async def test_many_questions_are_on_their_way_at_a_time(self) -> None:
        """Each gets its own answer."""
        wanted = ["AAPL", "MSFT"] * 100
        quotes = await gatherResults([self.client.get_quote(ticker) for ticker in wanted])
        assert [quote.ticker for quote in quotes] == wanted
        assert self.factory.made == 1

    async def test_a_subscription_calls_back(self) -> None:
        """With a snapshot first, and changes after it, until it is stopped."""
        events = Events()
        subscription = await self.client.subscribe(["AAPL", "NEWCO"], events)
        assert changed(await events.next()) == {"AAPL": 189.5}
        self.publish("MSFT", 1.0)
        self.publish("NEWCO", 2.0)
        assert changed(await events.next()) == {"NEWCO": 2.0}
        stopped = subscription.when_stopped()
        subscription.stop()
        await stopped
        await subscription.when_stopped()
        self.publish("NEWCO", 3.0)
        await self.client.ping()
        assert events.seen == []
        assert len(self.factory.hub) == 0

    async def test_a_connection_that_falls_is_made_anew_and_goes_on(self) -> None:
        """The loss is told, then what changed meanwhile."""
        events = Events()
        copy: dict[str, Quote] = {}
        await self.client.subscribe("*", events)
        first = await events.next()
        assert isinstance(first, SnapshotEvent)
        first.apply(copy)
        self.cut()
        assert isinstance(await events.next(), LostEvent)
        self.publish("AAPL", 7.0)
        back = await events.next()
        assert isinstance(back, ResumedEvent)
        assert changed(back) == {"AAPL": 7.0}
        back.apply(copy)
        self.prices(copy)

    async def test_a_callback_that_takes_its_time_gets_the_latest_values(self) -> None:
        """One event at a time; the number of what is left out is told."""
        seen: list[Event] = []
        busy: list[Deferred[None]] = []

        def take(event: Event) -> Deferred[None]:
            seen.append(event)
            busy.append(Deferred())
            return busy[-1]

        subscription = await self.client.subscribe("*", take, max_pending=2)
        for n in range(100):
            self.publish("AAPL", float(n))
        await self.client.ping()
        assert len(seen) == 1
        while busy:
            busy.pop().callback(None)
        assert changed(seen[-1])["AAPL"] == 99.0
        assert len(seen) <= 4
        told = [event for event in seen if isinstance(event, QuotesEvent)]
        assert sum(event.skipped + 1 for event in told) == 100
        subscription.stop()

    async def test_a_callback_that_fails_is_logged_and_called_again(self) -> None:
        """At once, or later as a coroutine."""
        seen: list[Event] = []

        def fail(event: Event) -> None:
            seen.append(event)
            raise ArithmeticError

        async def fail_later(event: Event) -> None:
            await deferLater(self.reactor, 0)
            fail(event)

        for callback in (fail, fail_later):
            seen.clear()
            subscription = await self.client.subscribe("*", callback)
            self.publish("AAPL", 5.0)
            while len(seen) < 2:
                await deferLater(self.reactor, 0.001)
            await deferLater(self.reactor, 0.01)
            subscription.stop()
            assert len(self.flushLoggedErrors(ArithmeticError)) == 2

    async def test_heartbeats_come_to_who_asks(self) -> None:
        """When nothing else does."""
        events = Events()
        await self.client.subscribe("*", events, heartbeats=True)
        await events.next()
        self.market.clock.now_ms += 5_000
        self.factory.look_after()
        assert isinstance(await events.next(), HeartbeatEvent)

    async def test_a_closed_client_says_so(self) -> None:
        """It does not connect again; subscriptions end without an error."""
        subscription = await self.client.subscribe("*", Events())
        stopped = subscription.when_stopped()
        await self.client.close()
        await stopped
        with pytest.raises(ConnectionFailedError, match="this client is closed"):
            await self.client.ping()
        with pytest.raises(ConnectionFailedError, match="this client is closed"):
            await self.client.subscribe("*", Events())
        assert self.factory.made == 1

    async def test_what_is_cancelled_leaves_nothing_behind(self) -> None:
        """A call, or a subscription that has not begun."""
        await self.client.ping()
        asks: list[Callable[[], Deferred[Any]]] = [
            self.client.ping,
            lambda: self.client.subscribe("*", Events()),
        ]
        for ask in asks:
            asking = ask()
            asking.cancel()
            with pytest.raises(CancelledError):
                await asking
            assert not self.client._link.session.is_needed

    async def test_the_error_of_what_is_cancelled_is_not_the_next_ones(self) -> None:
        """Also when it does not say whose it is."""
        too_many = [f"X{n}" for n in range(20_000)]
        await self.client.ping()
        asks: list[Callable[[], Deferred[Any]]] = [
            lambda: self.client.get_quotes(too_many),
            lambda: self.client.subscribe(too_many, Events()),
        ]
        for ask in asks:
            asking = ask()
            asking.addErrback(lambda failure: failure.trap(CancelledError))
            asking.cancel()
            assert (await self.client.get_quote("AAPL")).ticker == "AAPL"
        assert self.factory.made == 1

    async def test_whatever_connecting_raises_is_a_failure(self) -> None:
        """Each time: it is not taken for an attempt that goes on."""

        class Endpoint:
            def connect(self, _factory: object) -> None:
                raise OverflowError("of some kind")

        client = self.make(endpoint=Endpoint())
        for _ in range(2):
            with pytest.raises(ConnectionFailedError, match="of some kind"):
                await client.ping()
            with pytest.raises(ConnectionFailedError, match="of some kind"):
                await client.subscribe("*", Events())

    async def test_what_cannot_begin_fails(self) -> None:
        """As the server says, or before anything is sent."""
        with pytest.raises(RequestError, match="Expected"):
            await self.client.subscribe([5], Events())  # type: ignore[list-item]
        with pytest.raises(SettingsError, match="tickers"):
            self.client.subscribe("AAPL", Events())
        with pytest.raises(ConnectionFailedError, match=r"127\.0\.0\.1:1: Conn"):
            await self.make(port=1).ping()

    async def test_unix_sockets_tls_and_endpoints_are_ways_in(self) -> None:
        """For who trusts the server."""
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        folder = Path(temporary.name)
        path = folder / "q"
        listening = await serverFromString(self.reactor, f"unix:{path}").listen(self.factory)
        self.addCleanup(listening.stopListening)
        await self.make(path=path).ping()

        authority = Authority(folder)
        description = endpoint(authority.issue("127.0.0.1"))
        listening = await serverFromString(self.reactor, description).listen(self.factory)
        self.addCleanup(listening.stopListening)
        port = listening.getHost().port
        options = optionsForClientTLS("127.0.0.1", Certificate.loadPEM(authority.path.read_bytes()))
        await self.make(port=port, tls=options).ping()
        with pytest.raises(ConnectionFailedError, match="certificate verify failed"):
            await self.make(port=port, tls=True).ping()


class Scripted(LineOnlyReceiver):
    """A server that answers each line as a function says."""

    delimiter = b"\n"

    def lineReceived(self, line: bytes) -> None:
        """Answer."""
        server, transport = cast("Any", self.factory), cast("Any", self.transport)
        reply = server.reply(json.loads(line))
        if reply:
            transport.write(reply)


class ScriptedTests(PushedCase):
    """What other servers answer."""

    def script(self, reply: Callable[[dict[str, Any]], bytes]) -> TxQuoteClient:
        """Serve, and make a client."""
        factory: Any = Factory.forProtocol(Scripted)
        factory.noisy, factory.reply = False, reply
        listening = self.reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(listening.stopListening)
        client = TxQuoteClient(port=listening.getHost().port, timeout_s=0.2)
        self.addCleanup(client.close)
        return client

    async def test_no_answer_is_a_timeout(self) -> None:
        """Of a call, and of a subscription."""
        client = self.script(lambda _: b"")
        for asking in (client.ping(), client.subscribe("*", Events())):
            with pytest.raises(TimeoutError, match=r"no answer within 0\.2 s"):
                await asking

    async def test_a_subscription_that_is_refused_later_ends_with_the_error(self) -> None:
        """Whoever waits for its end gets it."""
        market, asked = ModelMarket(), []

        def reply(request: dict[str, Any]) -> bytes:
            asked.append(request)
            if len(asked) == 1:
                return market.reply(json.dumps(request).encode())
            return error_line(request["id"], "BAD_REQUEST", "unknown op")

        client = self.script(reply)
        subscription = await client.subscribe("*", Events())
        client._link.drop("a test")
        with pytest.raises(RequestError, match="unknown op"):
            await subscription.when_stopped()
        with pytest.raises(RequestError, match="unknown op"):
            await subscription.when_stopped()

    async def test_another_kind_of_server_is_a_failure(self) -> None:
        """And said to be one."""
        client = self.script(lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n")
        with pytest.raises(ConnectionFailedError, match="no quoteshm server"):
            await client.ping()


def test_time_is_the_reactors() -> None:
    """Nothing is asked of the wall clock."""
    clock = Clock()
    client = TxQuoteClient(reactor=clock, endpoint=object())
    assert client._link.session.monotonic == clock.seconds


def test_a_timeout_bounds_a_history_since_a_time_without_a_zone() -> None:
    """Which takes two requests: the second has what the first has left."""

    class Endpoint:
        def connect(self, _factory: object) -> Deferred[None]:
            return Deferred()

    clock, wire = Clock(), Wire()
    client = TxQuoteClient(reactor=clock, endpoint=Endpoint(), timeout_s=2.0)
    failed: list[Any] = []
    client.get_history("AAPL", since="1970-01-01 00:00").addErrback(failed.append)
    client._link.made(wire)
    clock.advance(1.5)
    (line,) = wire.lines()
    client._link.received(wire, history_of(json.loads(line)))
    assert len(wire.lines()) == 1
    clock.advance(0.25)
    assert failed == []
    clock.advance(0.25)
    assert failed[0].check(TimeoutError)
