"""AsyncQuoteClient: quotes, history and what changes, for programs on asyncio.

Needs no Twisted and no shared memory. Requests are sent without waiting for earlier answers, all
over one connection, which subscriptions share.
"""

from __future__ import annotations

import asyncio
import random
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar

from quoteshm.client import _codec
from quoteshm.client._frames import frame_of, is_naive, since_ms
from quoteshm.client._inbox import MAX_PENDING
from quoteshm.client._link import Driver, Link
from quoteshm.client._place import Place
from quoteshm.client._session import (
    CLOSED,
    Call,
    Feed,
    Session,
    Tickers,
    late,
    reason,
    timeout_of,
)
from quoteshm.model import several

if TYPE_CHECKING:
    import os
    import ssl
    from collections.abc import Callable, Iterable
    from datetime import datetime
    from types import TracebackType

    import msgspec
    import pandas as pd

    from quoteshm.client._codec import AddedTickers, Quotes, RemovedTickers, ShmAddress
    from quoteshm.client.events import Event
    from quoteshm.model import Quote, SnapshotState

_T = TypeVar("_T")


class AsyncQuoteClient:
    """Asks a server, any number of things at a time. Of one event loop.

    It connects when it is first asked something. A call that fails for want of time gives up only
    itself, unless the server has gone mute.

    Parameters
    ----------
    host, port, path, tls, token, timeout_s
        As `QuoteClient` has them.

    Examples
    --------
    >>> async with AsyncQuoteClient(port=9000) as client:        # doctest: +SKIP
    ...     one, other = await asyncio.gather(client.get_quote("AAPL"), client.get_quote("MSFT"))
    ...     async with client.subscribe(["AAPL"]) as events:
    ...         async for event in events:
    ...             print(event)

    Notes
    -----
    Every method that asks the server raises what those of `QuoteClient` raise.

    """

    def __init__(  # noqa: PLR0913  each by its name
        self,
        host: str = "127.0.0.1",
        port: int = 9000,
        *,
        path: str | os.PathLike[str] | None = None,
        tls: bool | ssl.SSLContext = False,
        token: str | None = None,
        timeout_s: float = 5.0,
    ) -> None:
        self.timeout_s = timeout_of(timeout_s)
        self._place = Place.of(host, port, path, tls)
        session = Session(self.address, token, self.timeout_s, time.monotonic)
        self._link = Link(session, Driver(self._dial, _later, random.random))
        self._dialing: asyncio.Task[None] | None = None
        self._open: set[_Protocol] = set()
        self._loop: asyncio.AbstractEventLoop | None = None  # that it was first used in

    @property
    def address(self) -> str:
        """The server's address, as errors name it."""
        return str(self._place)

    def __repr__(self) -> str:
        return f"<AsyncQuoteClient {self.address}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection and end all subscriptions; the client cannot be used any more."""
        self._link.close()
        if self._dialing is not None:
            self._dialing.cancel()
            await asyncio.gather(self._dialing, return_exceptions=True)
        await asyncio.gather(*(protocol.gone for protocol in self._open))

    # -- what can be asked -------------------------------------------------------------------

    async def get_shm_name(self) -> ShmAddress:
        """Ask where the server's segment is; a RequestError if it has none."""
        return await self._call("get_shm_name", _codec.read_shm_address)

    async def list_tickers(self) -> list[str]:
        """Ask for the tickers that have a value, sorted."""
        return await self._call("list_tickers", _codec.read_tickers)

    async def get_quote(self, ticker: str) -> Quote:
        """Ask for the latest quote of a ticker; see `QuoteClient.get_quote`."""
        return await self._call("get_quote", _codec.read_quote, ticker=ticker)

    async def get_quotes(self, tickers: Iterable[str] | None = None) -> Quotes:
        """Ask for the quotes of ``tickers``, or of all, at one epoch."""
        wanted = None if tickers is None else several(tickers)
        return await self._call("get_quotes", _codec.read_quotes, tickers=wanted)

    async def get_history(
        self,
        ticker: str,
        interval: str | None = None,
        *,
        last: int | None = None,
        since: int | str | datetime | None = None,
    ) -> pd.DataFrame:
        """Ask for the bars of a ticker; see `QuoteClient.get_history`."""
        zone, needs_zone = "UTC", is_naive(since)  # first, as it may load pandas
        ask = partial(self._history, time.monotonic(), ticker)
        if needs_zone:
            zone = (await ask(last=1)).time_zone
        since = since_ms(since, zone)
        return frame_of(await ask(interval=interval, last=last, since=since))

    async def get_snapshot_epoch(self) -> SnapshotState:
        """Ask where the market stands."""
        return await self._call("get_snapshot_epoch", _codec.read_state)

    async def get_info(self) -> dict[str, Any]:
        """Ask what the server is, and how it fares."""
        return await self._call("get_info", _codec.read_object)

    async def add_tickers(self, tickers: Iterable[str]) -> AddedTickers:
        """Have more tickers served; sent once, see `QuoteClient.add_tickers`."""
        return await self._call("add_tickers", _codec.read_added, tickers=several(tickers))

    async def remove_tickers(self, tickers: Iterable[str]) -> RemovedTickers:
        """Have tickers served no longer; sent once, see `QuoteClient.remove_tickers`."""
        gone = several(tickers)
        return await self._call("remove_tickers", _codec.read_removed, tickers=gone)

    async def ping(self) -> float:
        """Ask whether the server answers; give the seconds that took, connecting included."""
        started = time.monotonic()
        await self._call("ping", _codec.read_object)
        return time.monotonic() - started

    def subscribe(
        self,
        tickers: Tickers = "*",
        *,
        max_pending: int = MAX_PENDING,
        heartbeats: bool = False,
        reconnect: bool = True,
    ) -> AsyncSubscription:
        """Ask to be told what changes.

        Parameters
        ----------
        tickers, max_pending, heartbeats, reconnect
            As `QuoteClient.subscribe` has them.

        Returns
        -------
        AsyncSubscription
            An asynchronous iterator over events; it begins when the first is waited for.

        """
        feed = Feed(tickers, max_pending=max_pending, heartbeats=heartbeats, reconnect=reconnect)
        return AsyncSubscription(self._link, feed, self.timeout_s, self._belong)

    # -- inside ------------------------------------------------------------------------------

    async def _history(self, began_s: float, ticker: str, **fields: object) -> _codec.History:
        asked = {"ticker": ticker, **fields}
        return await self._ask("get_history", _codec.read_history, asked, began_s)

    async def _call(self, op: str, read: Callable[[msgspec.Raw], _T], **fields: object) -> _T:
        return await self._ask(op, read, fields)

    async def _ask(
        self,
        op: str,
        read: Callable[[msgspec.Raw], _T],
        fields: dict[str, object],
        began_s: float | None = None,
    ) -> _T:
        self._belong()
        answer: asyncio.Future[_T] = asyncio.get_running_loop().create_future()

        def done(call: Call[_T]) -> None:
            if answer.done():
                return
            if call.error is not None:
                answer.set_exception(call.error)
            else:
                answer.set_result(call.result())

        call = Call(op, fields, read, done)
        self._link.ask(call, self.timeout_s, began_s)
        try:
            return await answer
        finally:
            if not call.settled:  # whoever waited does no more
                self._link.forget(call)

    def _belong(self) -> None:
        """Refuse another event loop than the first: its connection would not be heard there."""
        loop = asyncio.get_running_loop()
        if self._loop is not None and self._loop is not loop:
            raise RuntimeError(f"{self!r} belongs to another event loop: make one in each")
        self._loop = loop

    def _dial(self) -> None:
        self._dialing = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        loop, place = asyncio.get_running_loop(), self._place
        try:
            async with asyncio.timeout(self.timeout_s):
                if place.path is not None:
                    await loop.create_unix_connection(self._make_protocol, place.path)
                else:
                    context = place.ssl_context
                    await loop.create_connection(
                        self._make_protocol, place.host, place.port, ssl=context
                    )
        except Exception as error:  # noqa: BLE001  whatever it is, somebody waits to be told
            self._link.failed(reason(error))

    def _make_protocol(self) -> _Protocol:
        return _Protocol(self._link, self._open)


class AsyncSubscription:
    """Events, one after the other: an asynchronous iterator, and a context manager.

    When the connection falls there is a `LostEvent`, and it connects anew, again and again.
    Leaving the loop does not end it; leaving ``async with`` does, and `close`.
    """

    def __init__(
        self, link: Link, feed: Feed, timeout_s: float, belong: Callable[[], None]
    ) -> None:
        self._link, self._feed, self._timeout_s = link, feed, timeout_s
        self._belong = belong
        self._news = asyncio.Event()
        self._has_begun = False
        feed.news = self._news.set

    async def __aenter__(self) -> Self:
        self._begin()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        self._begin()
        while True:
            event = self._feed.inbox.take()
            if event is not None:
                return event
            if self._feed.ended:
                if self._feed.error is not None:
                    raise self._feed.error
                raise StopAsyncIteration
            await self._wait()

    def close(self) -> None:
        """End it, and whoever waits for an event."""
        self._has_begun = True
        self._feed.inbox.clear()
        self._link.unsubscribe(self._feed)

    def _begin(self) -> None:
        if not self._has_begun:
            self._belong()
            self._has_begun = True
            self._link.subscribe(self._feed)

    async def _wait(self) -> None:
        self._news.clear()
        # What it begins with has to come in time; after that, a market may be quiet.
        limit_s = self._timeout_s if self._feed.instance is None else None
        try:
            async with asyncio.timeout(limit_s) as limit:
                await self._news.wait()
        except TimeoutError:
            if limit.expired():
                self.close()
                raise late(self._link.session.address, self._timeout_s) from None
            raise


class _Protocol(asyncio.Protocol):
    """A connection, for a link."""

    def __init__(self, link: Link, opened: set[_Protocol]) -> None:
        self._link, self._opened = link, opened
        self._transport: asyncio.Transport | None = None
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Tell the link."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  for the type checker
        self._transport = transport
        self._opened.add(self)
        self._link.made(self)

    def data_received(self, data: bytes) -> None:
        """Tell the link."""
        self._link.received(self, data)

    def connection_lost(self, error: Exception | None) -> None:
        """Tell the link."""
        self._opened.discard(self)
        self.gone.set_result(None)
        self._link.closed(self, CLOSED if error is None else reason(error))

    def write(self, data: bytes) -> None:
        """Send."""
        if self._transport is not None:
            self._transport.write(data)

    def abort(self) -> None:
        """Close it."""
        if self._transport is not None:
            self._transport.abort()


def _later(delay_s: float, call: Callable[[], None]) -> asyncio.TimerHandle:
    return asyncio.get_running_loop().call_later(delay_s, call)
