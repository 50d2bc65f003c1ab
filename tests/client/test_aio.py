"""The asyncio client, against a real server and against bad ones."""

from __future__ import annotations

import asyncio
import json
import ssl
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from pandas.testing import assert_frame_equal
from twisted.internet.defer import Deferred

from quoteshm.client.aio import AsyncQuoteClient
from quoteshm.client.blocking import QuoteClient
from quoteshm.client.events import (
    HeartbeatEvent,
    LostEvent,
    QuotesEvent,
    ResumedEvent,
    SnapshotEvent,
)
from quoteshm.errors import ConnectionFailedError, RequestError, SettingsError, UnknownTickerError
from quoteshm.model import DAY_MS, SnapshotState
from quoteshm.wire.auth import Gate
from tests.certificates import Authority
from tests.client.model import error_line, history_of, line_of
from tests.client.pushing import PushedCase, changed
from tests.published import FIRST_MS, NOW_MS
from tests.rostering import have_roster

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from quoteshm.client.events import Event
    from quoteshm.model import Quote

    Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[object]]


class ServedTests(PushedCase):
    """What a real server answers and tells."""

    def with_client(
        self, act: Callable[[AsyncQuoteClient], Awaitable[object]], **options: Any
    ) -> Deferred[Any]:
        """Do something with a client in an event loop of another thread."""

        async def run() -> object:
            async with AsyncQuoteClient(port=self.port, **options) as client:
                return await act(client)

        return self.in_thread(lambda: asyncio.run(run()))

    async def test_every_question_is_answered(self) -> None:
        """As the blocking client has it, over one connection."""

        async def ask(client: AsyncQuoteClient) -> None:
            cache = self.market.cache
            assert await client.list_tickers() == ["AAPL", "MSFT"]
            assert await client.get_quote("MSFT") == cache.get("MSFT")
            state = SnapshotState(self.market.writer.epoch, NOW_MS)
            assert await client.get_snapshot_epoch() == state
            quotes = await client.get_quotes(iter(["MSFT", "X"]))
            assert (list(quotes.quotes), quotes.missing) == (["MSFT"], ["X"])
            assert list((await client.get_quotes()).quotes) == ["AAPL", "MSFT"]
            assert (await client.get_info())["source"] == "synthetic"
            assert 0 < await client.ping() < 60
            with pytest.raises(RequestError, match="no shared memory"):
                await client.get_shm_name()
            with pytest.raises(UnknownTickerError):
                await client.get_quote("X")

        await self.with_client(ask)
        assert self.factory.made == 1

    async def test_tickers_are_added_and_removed(self) -> None:
        """As the blocking client has it."""
        have_roster(self.market, "AAPL", "MSFT")
        self.factory.context = self.market.context
        self.factory.gate = Gate(b"sesame")

        async def ask(client: AsyncQuoteClient) -> None:
            added = await client.add_tickers(iter(["IBM", "AAPL", ""]))
            assert (added.added, added.known, list(added.refused)) == (["IBM"], ["AAPL"], [""])
            removed = await client.remove_tickers(["MSFT", "X"])
            assert (removed.removed, removed.unknown) == (["MSFT"], ["X"])

        await self.with_client(ask, token="sesame")  # noqa: S106  a test's

    async def test_history_is_the_blocking_clients(self) -> None:
        """With the same moments."""
        frame = await self.in_thread(self.ask_history)

        async def ask(client: AsyncQuoteClient) -> None:
            there = "2023-11-13 00:00"
            for since in (FIRST_MS + DAY_MS, there):
                same = await client.get_history("AAPL", "1d", since=since, last=2)
                assert_frame_equal(same, frame)

        await self.with_client(ask)

    def ask_history(self) -> object:
        """Ask by the other client."""
        with QuoteClient(port=self.port) as client:
            return client.get_history("AAPL", "1d", since=FIRST_MS + DAY_MS, last=2)

    async def test_many_questions_are_on_their_way_at_a_time(self) -> None:
        """Each gets its own answer."""

        async def ask(client: AsyncQuoteClient) -> None:
            wanted = ["AAPL", "MSFT"] * 500
            quotes = await asyncio.gather(*(client.get_quote(ticker) for ticker in wanted))
            assert [quote.ticker for quote in quotes] == wanted

        await self.with_client(ask)
        assert self.factory.made == 1

    async def test_a_subscription_shares_the_connection(self) -> None:
        """A snapshot first, changes after it, answers in between."""

        async def follow(client: AsyncQuoteClient) -> None:
            async with client.subscribe(["AAPL", "NEWCO"]) as events:
                assert changed(await anext(events)) == {"AAPL": 189.5}
                self.on_server(self.publish, "MSFT", 1.0)
                self.on_server(self.publish, "NEWCO", 2.0)
                assert (await client.get_quote("NEWCO")).price == 2.0
                assert changed(await anext(events)) == {"NEWCO": 2.0}
            assert [event async for event in events] == []
            self.on_server(self.publish, "NEWCO", 3.0)
            await client.ping()

        await self.with_client(follow)
        assert self.factory.made == 1

    async def test_a_connection_that_falls_is_made_anew_and_goes_on(self) -> None:
        """For each subscription; a call in between is answered."""

        async def follow(client: AsyncQuoteClient) -> None:
            both = [client.subscribe(), client.subscribe(["AAPL"])]
            copies: list[dict[str, Quote]] = [{}, {}]
            for events, copy in zip(both, copies, strict=True):
                first = await anext(events)
                assert isinstance(first, SnapshotEvent)
                first.apply(copy)
            self.on_server(self.cut)
            self.on_server(self.publish, "AAPL", 7.0)
            assert (await client.get_quote("AAPL")).price == 7.0
            for events, copy in zip(both, copies, strict=True):
                assert isinstance(await anext(events), LostEvent)
                back = await anext(events)
                assert isinstance(back, ResumedEvent)
                assert changed(back) == {"AAPL": 7.0}
                back.apply(copy)
            self.on_server(self.prices, copies[0])

        await self.with_client(follow)
        assert self.factory.made == 2

    async def test_who_reads_slowly_gets_the_latest_values(self) -> None:
        """And the number of what is left out."""

        async def follow(client: AsyncQuoteClient) -> None:
            async with client.subscribe(max_pending=2) as events:
                seen: list[Event] = [await anext(events)]
                for n in range(100):
                    self.on_server(self.publish, "AAPL", float(n))
                await client.ping()
                while changed(seen[-1])["AAPL"] != 99.0:
                    seen.append(await anext(events))
                assert len(seen) <= 4
                told = [event for event in seen if isinstance(event, QuotesEvent)]
                assert sum(event.skipped + 1 for event in told) == 100

        await self.with_client(follow)

    async def test_heartbeats_come_to_who_asks(self) -> None:
        """When nothing else does."""

        async def follow(client: AsyncQuoteClient) -> None:
            events = client.subscribe(heartbeats=True)
            await anext(events)
            self.market.clock.now_ms += 5_000
            self.on_server(self.factory.look_after)
            assert isinstance(await anext(events), HeartbeatEvent)
            events.close()

        await self.with_client(follow)

    async def test_whoever_waits_is_woken_by_the_end(self) -> None:
        """Of the subscription, or of the client."""

        async def follow(client: AsyncQuoteClient) -> None:
            for end in ("events", "client"):
                events = client.subscribe()
                await anext(events)
                waiting = asyncio.create_task(collect(events))
                await asyncio.sleep(0)
                if end == "events":
                    events.close()
                else:
                    await client.close()
                assert await waiting == []

        await self.with_client(follow)

    async def test_a_closed_client_says_so(self) -> None:
        """It does not connect again."""

        async def ask(client: AsyncQuoteClient) -> None:
            await client.ping()
            await client.close()
            with pytest.raises(ConnectionFailedError, match="this client is closed"):
                await client.ping()
            with pytest.raises(ConnectionFailedError, match="this client is closed"):
                await anext(client.subscribe())

        await self.with_client(ask)
        assert self.factory.made == 1

    async def test_a_call_that_is_cancelled_leaves_nothing_behind(self) -> None:
        """Its answer is nobody's."""

        async def ask(client: AsyncQuoteClient) -> None:
            await client.ping()
            asking = asyncio.create_task(client.get_quote("AAPL"))
            await asyncio.sleep(0)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            assert (await client.get_quote("MSFT")).ticker == "MSFT"
            assert not client._link.session.is_needed

        await self.with_client(ask)

    async def test_the_error_of_a_call_that_is_cancelled_is_not_the_next_ones(self) -> None:
        """Also when it does not say whose it is; the same with a subscription that has ended."""
        too_many = [f"X{n}" for n in range(20_000)]

        async def ask(client: AsyncQuoteClient) -> None:
            await client.ping()
            asking = asyncio.create_task(client.get_quotes(too_many))
            await asyncio.sleep(0)
            asking.cancel()
            assert (await client.get_quote("MSFT")).ticker == "MSFT"
            async with client.subscribe(too_many):
                pass
            assert (await client.get_quote("AAPL")).ticker == "AAPL"
            with pytest.raises(RequestError, match="line longer"):
                await client.get_quotes(too_many)

        await self.with_client(ask)
        assert self.factory.made == 1


async def collect(events: Any) -> list[Event]:
    """Read to the end."""
    return [event async for event in events]


def run(
    script: Script, act: Callable[[AsyncQuoteClient], Awaitable[object]], **options: Any
) -> int:
    """Do something with a client of a server that does as a script says; count its connections."""
    made = 0

    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal made
            made += 1
            try:
                await script(reader, writer)
            except ConnectionError:
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            async with AsyncQuoteClient(port=port, **options) as client:
                await act(client)
            await asyncio.sleep(0.01)  # for the scripts to end

    asyncio.run(main())
    return made


async def request_of(reader: asyncio.StreamReader) -> dict[str, Any]:
    """Read one request."""
    line = await reader.readline()
    if not line:
        raise ConnectionResetError
    request: dict[str, Any] = json.loads(line)
    return request


def test_a_call_in_flight_when_the_connection_falls_is_sent_once_more() -> None:
    """If it was there before; then it is a failure."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await request_of(reader)
        writer.write(line_of(id=request["id"], type="response", op="ping", data={}))
        await request_of(reader)

    async def ask(client: AsyncQuoteClient) -> None:
        for _ in range(2):
            await client.ping()

    assert run(script, ask) == 2

    async def hang_up(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await request_of(reader)

    async def fail(client: AsyncQuoteClient) -> None:
        with pytest.raises(ConnectionFailedError, match="before it answered"):
            await client.ping()

    assert run(hang_up, fail) == 1


def test_no_answer_is_a_timeout() -> None:
    """Of a call, and of a subscription."""

    async def script(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        while True:
            await request_of(reader)

    async def ask(client: AsyncQuoteClient) -> None:
        for asking in (client.ping(), anext(client.subscribe())):
            with pytest.raises(TimeoutError, match=r"no answer within 0\.05 s"):
                await asking

    run(script, ask, timeout_s=0.05)


def test_a_timeout_bounds_a_history_since_a_time_without_a_zone() -> None:
    """Which takes two requests: the second has what the first has left."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(history_of(await request_of(reader)))

    async def ask(client: AsyncQuoteClient) -> None:
        with mock.patch.object(client._link, "ask", wraps=client._link.ask) as one:
            await client.get_history("AAPL", since="1970-01-01 00:00")
        first, second = (call.args[1:] for call in one.call_args_list)
        assert first == second
        assert isinstance(first[1], float)

    run(script, ask)


def test_who_gives_up_waiting_may_go_on() -> None:
    """The subscription is still there."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await request_of(reader)
        data = {"epoch": 2, "instance": "1" * 32, "resumed": False, "freshness_ms": 1000}
        data |= {"heartbeat_s": 0, "quotes": {}, "missing": []}
        writer.write(line_of(id=request["id"], type="response", op="subscribe", data=data))
        await request_of(reader)
        data = {"now_ms": 1, "last_update_ms": 1}
        writer.write(
            line_of(id=request["id"], type="event", op="heartbeat", epoch=4, skipped=0, data=data)
        )
        await request_of(reader)

    async def ask(client: AsyncQuoteClient) -> None:
        events = client.subscribe(heartbeats=True)
        assert isinstance(await anext(events), SnapshotEvent)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(events), 0.02)
        asking = asyncio.create_task(client.ping())
        assert isinstance(await anext(events), HeartbeatEvent)
        asking.cancel()

    run(script, ask)


def test_a_refused_subscription_raises() -> None:
    """As the server says."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await request_of(reader)
        writer.write(error_line(request["id"], "UNAUTHORIZED", "wrong token"))
        await reader.read()

    async def ask(client: AsyncQuoteClient) -> None:
        with pytest.raises(RequestError, match="wrong token"):
            await anext(client.subscribe())
        with pytest.raises(SettingsError, match="tickers"):
            client.subscribe("AAPL")

    run(script, ask)


def test_without_a_server_it_says_so() -> None:
    """To calls and to subscriptions, and for a name that is none."""

    async def ask() -> None:
        async with AsyncQuoteClient(port=1) as client:
            for asking in (client.ping(), anext(client.subscribe())):
                with pytest.raises(ConnectionFailedError, match=r"127\.0\.0\.1:1: .*"):
                    await asking
            assert repr(client) == "<AsyncQuoteClient 127.0.0.1:1>"
        async with AsyncQuoteClient("no-such-host.invalid") as client:
            with pytest.raises(ConnectionFailedError, match=r"no-such-host\.invalid:9000"):
                await client.ping()

    asyncio.run(ask())


def test_whatever_connecting_raises_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time: it is not taken for an attempt that goes on."""

    async def ask() -> None:
        def connect(*_: object, **__: object) -> None:
            raise OverflowError("of some kind")

        monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", connect)
        async with AsyncQuoteClient() as client:
            for _ in range(2):
                with pytest.raises(ConnectionFailedError, match="of some kind"):
                    await client.ping()

    asyncio.run(ask())


def test_another_event_loop_than_the_first_is_refused(tmp_path: Path) -> None:
    """Its connection would not be heard there: who asks would wait in vain."""
    client = AsyncQuoteClient(path=tmp_path / "none")

    async def ask() -> None:
        await client.ping()

    async def follow() -> None:
        async with client.subscribe():
            pass

    with pytest.raises(ConnectionFailedError):
        asyncio.run(ask())
    for again in (ask, follow):
        with pytest.raises(RuntimeError, match=r"belongs to another event loop"):
            asyncio.run(again())


def test_closing_while_it_connects_leaves_nothing_open() -> None:
    """The call fails."""

    async def ask() -> None:
        client = AsyncQuoteClient("192.0.2.1")
        asking = asyncio.create_task(client.ping())
        await asyncio.sleep(0)
        await client.close()
        with pytest.raises(ConnectionFailedError, match="this client is closed"):
            await asking

    asyncio.run(ask())


async def pong(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one request."""
    try:
        request = await request_of(reader)
        writer.write(line_of(id=request["id"], type="response", op="ping", data={}))
        await reader.read()
    except ConnectionError:
        pass
    finally:
        writer.close()


def test_unix_sockets_and_tls_are_ways_in(tmp_path: Path) -> None:
    """For who trusts the server."""
    authority = Authority(tmp_path)
    issued = authority.issue("127.0.0.1")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(issued.certificate, issued.key)

    async def main() -> None:
        path = tmp_path / "quotes.sock"
        server = await asyncio.start_unix_server(pong, path)
        async with server, AsyncQuoteClient(path=path) as client:
            await client.ping()
        server = await asyncio.start_server(pong, "127.0.0.1", 0, ssl=context)
        async with server:
            port = server.sockets[0].getsockname()[1]
            async with AsyncQuoteClient(port=port, tls=authority.trusting()) as client:
                await client.ping()
            async with AsyncQuoteClient(port=port, tls=True) as client:
                with pytest.raises(ConnectionFailedError, match="certificate verify failed"):
                    await client.ping()
            await asyncio.sleep(0.01)

    asyncio.run(main())
