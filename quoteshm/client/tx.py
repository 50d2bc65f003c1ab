"""TxQuoteClient: quotes, history and what changes, for programs on Twisted.

Requests are sent without waiting for earlier answers, all over one connection, which subscriptions
share.
"""

from __future__ import annotations

import random
from collections.abc import Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

from twisted.internet.defer import Deferred, ensureDeferred, maybeDeferred
from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint, wrapClientTLS
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

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
    from collections.abc import Callable, Iterable
    from datetime import datetime

    import msgspec
    import pandas as pd

    from quoteshm.client._codec import AddedTickers, Quotes, RemovedTickers, ShmAddress
    from quoteshm.client.events import Event
    from quoteshm.model import Quote, SnapshotState

    Callback = Callable[[Event], object]

_T = TypeVar("_T")


class TxQuoteClient:
    """Asks a server, any number of things at a time; each method that asks gives a Deferred.

    It connects when it is first asked something. A call that fails for want of time gives up only
    itself, unless the server has gone mute. In the reactor's thread only.

    Parameters
    ----------
    host, port, path, token, timeout_s
        As `QuoteClient` has them.
    tls : bool or IOpenSSLClientConnectionCreator
        Whether to speak TLS: with the system's authorities, or as Twisted's
        ``optionsForClientTLS`` was told.
    endpoint : IStreamClientEndpoint, optional
        What to connect with, instead of all these.
    reactor : optional
        Twisted's own, unless given.

    Examples
    --------
    >>> client = TxQuoteClient(port=9000)        # doctest: +SKIP
    >>> quote = await client.get_quote("AAPL")
    >>> subscription = await client.subscribe(["AAPL"], print)

    Notes
    -----
    Deferreds fail with what the methods of `QuoteClient` raise.

    """

    def __init__(  # noqa: PLR0913  each by its name
        self,
        host: str = "127.0.0.1",
        port: int = 9000,
        *,
        path: str | os.PathLike[str] | None = None,
        tls: object = False,
        token: str | None = None,
        timeout_s: float = 5.0,
        endpoint: Any = None,  # noqa: ANN401  Twisted's interfaces are none to a type checker
        reactor: Any = None,  # noqa: ANN401  the same
    ) -> None:
        if reactor is None:
            # At import it would be installed before the program may choose.
            from twisted.internet import reactor  # noqa: PLC0415
        self.timeout_s = timeout_of(timeout_s)
        self._reactor: Any = reactor
        self._place = Place.of(host, port, path, tls)
        self._address = str(self._place) if endpoint is None else str(endpoint)
        self._endpoint = endpoint or _endpoint(reactor, self._place, self.timeout_s)
        session = Session(self._address, token, self.timeout_s, reactor.seconds)
        self._link = Link(session, Driver(self._dial, reactor.callLater, random.random))
        self._dialing: Deferred[Any] | None = None
        self._open: set[_Connection] = set()
        self._closing: list[Deferred[None]] = []

    @property
    def address(self) -> str:
        """The server's address, as errors name it."""
        return self._address

    def __repr__(self) -> str:
        return f"<TxQuoteClient {self.address}>"

    def close(self) -> Deferred[None]:
        """Close the connection and end all subscriptions; the client cannot be used any more.

        Returns
        -------
        Deferred
            Fires when nothing is open any more.

        """
        self._link.close()
        if self._dialing is not None:
            self._dialing.cancel()
        closed: Deferred[None] = Deferred()
        if self._open:
            self._closing.append(closed)
        else:
            closed.callback(None)
        return closed

    # -- what can be asked -------------------------------------------------------------------

    def get_shm_name(self) -> Deferred[ShmAddress]:
        """Ask where the server's segment is; a RequestError if it has none."""
        return self._call("get_shm_name", _codec.read_shm_address)

    def list_tickers(self) -> Deferred[list[str]]:
        """Ask for the tickers that have a value, sorted."""
        return self._call("list_tickers", _codec.read_tickers)

    def get_quote(self, ticker: str) -> Deferred[Quote]:
        """Ask for the latest quote of a ticker; see `QuoteClient.get_quote`."""
        return self._call("get_quote", _codec.read_quote, ticker=ticker)

    def get_quotes(self, tickers: Iterable[str] | None = None) -> Deferred[Quotes]:
        """Ask for the quotes of ``tickers``, or of all, at one epoch."""
        wanted = None if tickers is None else several(tickers)
        return self._call("get_quotes", _codec.read_quotes, tickers=wanted)

    def get_history(
        self,
        ticker: str,
        interval: str | None = None,
        *,
        last: int | None = None,
        since: int | str | datetime | None = None,
    ) -> Deferred[pd.DataFrame]:
        """Ask for the bars of a ticker; see `QuoteClient.get_history`."""

        async def ask_all() -> pd.DataFrame:
            zone, needs_zone = "UTC", is_naive(since)  # first, as it may load pandas
            ask = partial(self._history, self._reactor.seconds(), ticker)
            if needs_zone:
                zone = (await ask(last=1)).time_zone
            moment = since_ms(since, zone)
            return frame_of(await ask(interval=interval, last=last, since=moment))

        return Deferred.fromCoroutine(ask_all())

    def get_snapshot_epoch(self) -> Deferred[SnapshotState]:
        """Ask where the market stands."""
        return self._call("get_snapshot_epoch", _codec.read_state)

    def get_info(self) -> Deferred[dict[str, Any]]:
        """Ask what the server is, and how it fares."""
        return self._call("get_info", _codec.read_object)

    def add_tickers(self, tickers: Iterable[str]) -> Deferred[AddedTickers]:
        """Have more tickers served; sent once, see `QuoteClient.add_tickers`."""
        return self._call("add_tickers", _codec.read_added, tickers=several(tickers))

    def remove_tickers(self, tickers: Iterable[str]) -> Deferred[RemovedTickers]:
        """Have tickers served no longer; sent once, see `QuoteClient.remove_tickers`."""
        return self._call("remove_tickers", _codec.read_removed, tickers=several(tickers))

    def ping(self) -> Deferred[float]:
        """Ask whether the server answers; give the seconds that took, connecting included."""
        started: float = self._reactor.seconds()
        return self._call("ping", _codec.read_object).addCallback(
            lambda _: self._reactor.seconds() - started
        )

    def subscribe(
        self,
        tickers: Tickers,
        callback: Callback,
        *,
        max_pending: int = MAX_PENDING,
        heartbeats: bool = False,
        reconnect: bool = True,
    ) -> Deferred[TxSubscription]:
        """Ask to be told what changes.

        Parameters
        ----------
        tickers, max_pending, heartbeats, reconnect
            As `QuoteClient.subscribe` has them.
        callback : callable
            Called with each event, the snapshot first. Where it gives a Deferred or a coroutine,
            the next event waits for its end. What goes wrong in it is logged, and ends nothing.

        Returns
        -------
        Deferred of TxSubscription
            Fires when the server has agreed, before the first event.

        """
        feed = Feed(tickers, max_pending=max_pending, heartbeats=heartbeats, reconnect=reconnect)
        subscription = TxSubscription(self._link, feed, callback)
        agreed = subscription.agreed
        timer = self._reactor.callLater(self.timeout_s, subscription.expire, self.timeout_s)

        def in_time(result: Any) -> Any:  # noqa: ANN401  whatever it is
            if timer.active():
                timer.cancel()
            return result

        agreed.addBoth(in_time)
        self._link.subscribe(feed)
        return agreed

    # -- inside ------------------------------------------------------------------------------

    def _history(self, began_s: float, ticker: str, **fields: object) -> Deferred[_codec.History]:
        asked = {"ticker": ticker, **fields}
        return self._ask("get_history", _codec.read_history, asked, began_s)

    def _call(self, op: str, read: Callable[[msgspec.Raw], _T], **fields: object) -> Deferred[_T]:
        return self._ask(op, read, fields)

    def _ask(
        self,
        op: str,
        read: Callable[[msgspec.Raw], _T],
        fields: dict[str, object],
        began_s: float | None = None,
    ) -> Deferred[_T]:
        def done(call: Call[_T]) -> None:
            if call.error is not None:
                answer.errback(call.error)
            else:
                answer.callback(call.result())

        call = Call(op, fields, read, done)
        answer: Deferred[_T] = Deferred(lambda _: self._link.forget(call))
        self._link.ask(call, self.timeout_s, began_s)
        return answer

    def _dial(self) -> None:
        factory = _Connections(self._link, self._open, self._gone)
        # An endpoint may also raise what it cannot do.
        dialing: Deferred[Any] = maybeDeferred(self._endpoint.connect, factory)
        self._dialing = dialing
        dialing.addCallbacks(lambda _: None, lambda failure: self._link.failed(_why(failure)))

    def _gone(self) -> None:
        if not self._open:
            closing, self._closing = self._closing, []
            for closed in closing:
                closed.callback(None)


class TxSubscription:
    """Events that a callback is called with; see `TxQuoteClient.subscribe`."""

    log = Logger()

    def __init__(self, link: Link, feed: Feed, callback: Callback) -> None:
        self._link, self._feed, self._callback = link, feed, callback
        self._is_telling = False
        self._stopped: list[Deferred[None]] = []
        self.agreed: Deferred[TxSubscription] = Deferred(lambda _: self.stop())
        feed.news = self._tell

    def stop(self) -> None:
        """End it: the callback is not called any more."""
        self._feed.inbox.clear()
        self._link.unsubscribe(self._feed)

    def when_stopped(self) -> Deferred[None]:
        """Wait for its end: fires when it was stopped, fails when the server refuses to go on."""
        stopped: Deferred[None] = Deferred()
        self._stopped.append(stopped)
        if self._feed.ended and not self._is_telling:
            self._end()
        return stopped

    def expire(self, timeout_s: float) -> None:
        """Give up, unless it has begun."""
        if not self.agreed.called:
            self.agreed.errback(late(self._link.session.address, timeout_s))
            self.stop()

    def _tell(self) -> None:
        """Tell all there is to be told, one after the other."""
        if self._feed.inbox and not self.agreed.called:
            self.agreed.callback(self)
        while not self._is_telling:
            event = self._feed.inbox.take()
            if event is None:
                if self._feed.ended:
                    self._end()
                return
            self._is_telling = True
            try:
                told = self._callback(event)
                waits = ensureDeferred(told) if isinstance(told, Deferred | Coroutine) else None
            except Exception:  # noqa: BLE001  whatever the callback does, the market goes on
                waits = None
                self._log_failure(Failure())
            if waits is None:
                self._is_telling = False
            else:
                waits.addErrback(self._log_failure)
                waits.addCallback(self._told)

    def _told(self, _: object) -> None:
        self._is_telling = False
        self._tell()

    def _log_failure(self, failure: Failure) -> None:
        self.log.failure("the callback of a subscription failed", failure)

    def _end(self) -> None:
        error = self._feed.error
        if error is not None and not self.agreed.called:
            self.agreed.errback(error)
        stopped, self._stopped = self._stopped, []
        for waiting in stopped:
            if error is None:
                waiting.callback(None)
            else:
                waiting.errback(error)


class _Connection(Protocol):
    """A connection, for a link."""

    def __init__(self, link: Link, opened: set[_Connection], gone: Callable[[], None]) -> None:
        self._link, self._opened, self._gone = link, opened, gone

    def connectionMade(self) -> None:
        """Tell the link."""
        self._opened.add(self)
        self._link.made(self)

    def dataReceived(self, data: bytes) -> None:
        """Tell the link."""
        self._link.received(self, data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell the link."""
        self._opened.discard(self)
        is_clean = reason.check(ConnectionDone) is not None
        self._link.closed(self, CLOSED if is_clean else _why(reason))
        self._gone()

    def write(self, data: bytes) -> None:
        """Send."""
        cast("Any", self.transport).write(data)

    def abort(self) -> None:
        """Close it."""
        cast("Any", self.transport).abortConnection()


class _Connections(Factory):
    """Makes the protocol of a connection."""

    noisy = False

    def __init__(self, link: Link, opened: set[_Connection], gone: Callable[[], None]) -> None:
        self._arguments = link, opened, gone

    def buildProtocol(self, addr: object) -> _Connection:  # noqa: ARG002  Twisted's
        """Make it."""
        return _Connection(*self._arguments)


def _endpoint(reactor: Any, place: Place, timeout_s: float) -> Any:  # noqa: ANN401  as above
    if place.path is not None:
        return UNIXClientEndpoint(reactor, place.path, timeout=timeout_s)
    endpoint: Any = HostnameEndpoint(reactor, place.host, place.port, timeout=timeout_s)
    if not place.tls:
        return endpoint
    options: Any = place.tls
    if options is True:
        from twisted.internet.ssl import optionsForClientTLS  # noqa: PLC0415  needs pyOpenSSL

        options = optionsForClientTLS(place.host)
    return wrapClientTLS(options, endpoint)


def _why(failure: Failure) -> str:
    return reason(failure.value or ConnectionAbortedError())
