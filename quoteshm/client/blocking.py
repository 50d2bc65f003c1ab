"""QuoteClient: quotes and history over TCP, for programs that wait for each answer.

Needs no Twisted and no shared memory; a client on another machine, or on another system than
Linux, reads the same values as a `StockDataReader` on the daemon's own.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import socket
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from quoteshm.client import _codec
from quoteshm.client._frames import frame_of, is_naive, since_ms
from quoteshm.client._inbox import MAX_PENDING
from quoteshm.client._place import Place
from quoteshm.client._session import (
    CLOSED,
    LONGEST_S,
    ONCE,
    STRANGE,
    Call,
    Feed,
    Session,
    Tickers,
    backoff_s,
    late,
    reason,
    strange,
    timeout_of,
)
from quoteshm.model import several

if TYPE_CHECKING:
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
_CHUNK_NBYTES: Final = 1 << 18
_CLOSE_S: Final = 0.5


class QuoteClient:
    """Asks a server, and waits for each answer. Safe to use from several threads, by turns.

    It connects when it is first asked something. A call that fails for want of a connection, or
    of time, drops the connection; the next call makes another. A connection that the server has
    closed between two calls is replaced unnoticed. So is one that was there before a call and
    falls before the answer: the call is sent once more, but for `add_tickers` and
    `remove_tickers`, which fail.

    Parameters
    ----------
    host, port : str, int
        Where the server listens.
    path : str or path, optional
        Of the server's Unix socket, instead of a host and a port.
    tls : bool or ssl.SSLContext
        Whether to speak TLS: with the system's authorities, or as the context says.
    token : str, optional
        What a server with ``--auth-token-file`` wants to hear first.
    timeout_s : float
        The time that any call may take, from beginning to end.

    Raises
    ------
    SettingsError
        For a ``timeout_s`` that is no time, a host, port or path that there cannot be, and for TLS
        over a Unix socket.

    Examples
    --------
    >>> with QuoteClient(port=9000) as client:        # doctest: +SKIP
    ...     client.get_quote("AAPL").price
    227.5

    Notes
    -----
    Every method that asks the server raises

    - `RequestError` for an error reply, with its ``code`` and ``message``,
    - `ConnectionFailedError` when there is no server, or it goes away, or is another kind,
    - `AnswerTimeoutError`, a `TimeoutError`, when there is no answer in time.

    Every line sent and received is logged at debug by the logger ``quoteshm.client``, cut short.

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
        self.host, self.port, self.timeout_s = host, port, timeout_of(timeout_s)
        self._place = Place.of(host, port, path, tls)
        self._token = token
        self._lock = threading.Lock()
        self._session = Session(self.address, token)
        self._connection: _Connection | None = None
        self._closed = False
        self._subscriptions: weakref.WeakSet[Subscription] = weakref.WeakSet()
        self._subscribing = threading.Lock()  # held by whoever reads or changes them

    @property
    def address(self) -> str:
        """The server's address, as errors name it."""
        return str(self._place)

    def __repr__(self) -> str:
        return f"<QuoteClient {self.address}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection and end all subscriptions; the client cannot be used any more."""
        with self._lock:
            self._closed = True
            self._drop("this client is closed")
        with self._subscribing:
            subscriptions = list(self._subscriptions)
        for subscription in subscriptions:
            subscription.close()

    # -- what can be asked -------------------------------------------------------------------

    def get_shm_name(self) -> ShmAddress:
        """Ask where the server's segment is; a RequestError if it has none."""
        return self._call("get_shm_name", _codec.read_shm_address)

    def list_tickers(self) -> list[str]:
        """Ask for the tickers that have a value, sorted."""
        return self._call("list_tickers", _codec.read_tickers)

    def get_quote(self, ticker: str) -> Quote:
        """Ask for the latest quote of a ticker; a missing price is NaN.

        Raises
        ------
        UnknownTickerError
            There is no such ticker, or it has no value yet.

        """
        return self._call("get_quote", _codec.read_quote, ticker=ticker)

    def get_quotes(self, tickers: Iterable[str] | None = None) -> Quotes:
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
    ) -> pd.DataFrame:
        """Ask for the bars of a ticker, as `StockDataReader.get_stock` gives them.

        Parameters
        ----------
        ticker : str
            Case-sensitive.
        interval : str, optional
            By default the server's first.
        last : int, optional
            Only so many of the newest bars, at least 1; counts the forming one.
        since : int (milliseconds UTC), str or datetime, optional
            Only bars from this time on; without a zone it is the exchange's, which costs one
            request more. Applies before ``last``.

        Returns
        -------
        DataFrame
            Columns ``Open High Low Close Volume`` (float64), oldest first, the forming bar last,
            index in the exchange's time zone.

        Raises
        ------
        UnknownTickerError
            There is no such ticker, or it has no value yet.

        """
        needs_zone = is_naive(since)  # first, as it may load pandas
        deadline = time.monotonic() + self.timeout_s
        zone = self._history(deadline, ticker, last=1).time_zone if needs_zone else "UTC"
        since = since_ms(since, zone)
        return frame_of(self._history(deadline, ticker, interval=interval, last=last, since=since))

    def get_snapshot_epoch(self) -> SnapshotState:
        """Ask where the market stands."""
        return self._call("get_snapshot_epoch", _codec.read_state)

    def get_info(self) -> dict[str, Any]:
        """Ask what the server is, and how it fares."""
        return self._call("get_info", _codec.read_object)

    def add_tickers(self, tickers: Iterable[str]) -> AddedTickers:
        """Have more tickers served.

        What is added has a value as soon as the source has answered for it. It is sent once: where
        the connection falls before the answer, nobody knows whether they were added; adding them
        again then does no harm.

        Returns
        -------
        AddedTickers
            Those that are ``added``, those that were served already (``known``), and by ticker why
            others are ``refused``.

        Raises
        ------
        RequestError
            UNAUTHORIZED, unless over the server's Unix socket or with a token.
        ConnectionFailedError
            Also where the connection was there before the call, and falls before the answer.

        """
        return self._call("add_tickers", _codec.read_added, tickers=several(tickers))

    def remove_tickers(self, tickers: Iterable[str]) -> RemovedTickers:
        """Have tickers served no longer, to nobody; sent once, as `add_tickers`.

        Returns
        -------
        RemovedTickers
            Those that are ``removed``, and those that were not served (``unknown``).

        """
        return self._call("remove_tickers", _codec.read_removed, tickers=several(tickers))

    def ping(self) -> float:
        """Ask whether the server answers; give the seconds that took, connecting included."""
        started = time.monotonic()
        self._call("ping", _codec.read_object)
        return time.monotonic() - started

    # -- subscriptions -----------------------------------------------------------------------

    def subscribe(
        self,
        tickers: Tickers = "*",
        *,
        max_pending: int = MAX_PENDING,
        heartbeats: bool = False,
        reconnect: bool = True,
    ) -> Subscription:
        """Ask to be told what changes; over a connection of its own.

        Parameters
        ----------
        tickers : sequence of str, or "*"
            Those to be told of; ``"*"`` for all.
        max_pending : int
            How many events are kept apart when they come faster than they are read; more of them
            are folded into the latest values, and counted in ``skipped``.
        heartbeats : bool
            Whether to be told that nothing has changed.
        reconnect : bool
            Whether to connect anew, and go on, when the connection falls; otherwise that ends the
            iteration with a ConnectionFailedError.

        Returns
        -------
        Subscription
            An iterator over events, the first of which is a `SnapshotEvent`; see
            `quoteshm.client.events`.

        Examples
        --------
        >>> with client.subscribe(["AAPL"]) as events:        # doctest: +SKIP
        ...     for event in events:
        ...         print(event)

        """
        feed = Feed(tickers, max_pending=max_pending, heartbeats=heartbeats, reconnect=reconnect)
        subscription = Subscription(self._place, self._token, feed, self.timeout_s)
        with self._subscribing:
            if self._closed:
                raise self._session.closed_error()
            self._subscriptions.add(subscription)  # from now on `close` finds it
        try:
            subscription.begin()
        except BaseException:
            with self._subscribing:
                self._subscriptions.discard(subscription)
            raise
        return subscription

    # -- calls -------------------------------------------------------------------------------

    def _history(self, deadline: float, ticker: str, **fields: object) -> _codec.History:
        call = Call("get_history", {"ticker": ticker, **fields}, _codec.read_history)
        return self._ask(call, deadline)

    def _call(self, op: str, read: Callable[[msgspec.Raw], _T], **fields: object) -> _T:
        """Ask for an op, and read the data of its response."""
        return self._ask(Call(op, fields, read), time.monotonic() + self.timeout_s)

    def _ask(self, call: Call[_T], deadline: float) -> _T:
        if not self._lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise late(self.address, self.timeout_s)
        try:
            if self._closed:
                raise self._session.closed_error()
            self._settle(call, deadline)
            return call.result()
        finally:
            self._lock.release()

    def _settle(self, call: Call[_T], deadline: float) -> None:
        session = self._session
        if self._connection is not None and self._connection.pid != os.getpid():
            self._drop("a fork")  # the parent's: two would read one stream
        if call.op in ONCE and self._connection is not None and self._connection.has_news():
            self._drop(CLOSED)  # nothing else comes while nothing is asked
        session.ask(call)
        try:
            while not call.settled:
                try:
                    self._exchange(deadline)
                except TimeoutError as error:
                    raise late(self.address, self.timeout_s) from error
                except OSError as error:
                    # Where the server has closed it since the last call, that is no failure of
                    # this one: the session has it sent again.
                    self._drop(reason(error))
        finally:
            if not call.settled:
                # What may still come of this exchange must not be taken for the next one's.
                session.forget(call)
                self._drop("interrupted")
            elif session.refused or not session.connected:
                self._drop("refused")

    def _exchange(self, deadline: float) -> None:
        session = self._session
        if self._connection is None:
            self._connection = _Connection(self._place, deadline)
            session.connect()
        self._connection.send(session.take(), deadline)
        try:
            session.receive(self._connection.receive(deadline))
        except STRANGE as error:
            session.give_up()
            self._drop(strange(error))

    def _drop(self, why: str) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._session.lost(why)


class Subscription:
    """Events, one after the other: an iterator, and a context manager. Of one thread.

    It holds a connection of its own, so the client may be asked meanwhile. When that falls, there
    is a `LostEvent`, and it connects anew, again and again. `close` may be called by any thread,
    and ends the iteration.

    While nobody iterates nothing is read; the server then folds what it has to tell.
    """

    def __init__(
        self,
        place: Place,
        token: str | None,
        feed: Feed,
        timeout_s: float,
    ) -> None:
        self._place, self._feed, self._timeout_s = place, feed, timeout_s
        self._session = Session(str(place), token, timeout_s)
        self._session.subscribe(feed)
        self._connection: _Connection | None = None
        self._failures = 0
        self._retry_s = 0.0  # when to connect again
        self._closed = threading.Event()
        self._lock = threading.RLock()  # held by whoever uses the connection

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        event = None if self._closed.is_set() else self.wait()
        if event is None:
            raise StopIteration
        return event

    def wait(self, timeout_s: float | None = None) -> Event | None:
        """Give the next event, or None when it is closed, or none comes in time.

        An attempt to connect anew is not cut short: it may take as long as any call, so with a
        server that does not answer a short wait is one of the client's ``timeout_s``.

        Raises
        ------
        RequestError, ConnectionFailedError
            The server refuses to go on; the connection fell, and is not to be made anew.

        """
        deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
        with self._lock:
            self._pump(0.0)  # what is here already: when it is much, it is folded
            while not self._closed.is_set():
                event = self._feed.inbox.take()
                if event is not None:
                    return event
                if self._feed.error is not None:
                    self._drop("refused")
                    raise self._feed.error
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    break
                if self._connection is not None:
                    self._pump(left_s)
                else:
                    self._come_back(left_s)
            if self._closed.is_set():
                self._drop("closed")
        return None

    def close(self) -> None:
        """End it, and whoever waits for an event."""
        self._closed.set()
        connection = self._connection
        if connection is not None:
            connection.shut_down()  # wakes a thread that reads from it, which then closes it
        # A thread that is just connecting does it itself, later.
        if self._lock.acquire(timeout=_CLOSE_S):
            try:
                self._drop("closed")
            finally:
                self._lock.release()

    def begin(self) -> None:
        """Wait for the first event: what goes wrong before it is the caller's.

        For `QuoteClient.subscribe`, once. `close` may be called meanwhile.
        """
        deadline = time.monotonic() + self._timeout_s
        with self._lock:
            if not self._closed.is_set():
                self._connect(deadline)
            while not (self._closed.is_set() or self._feed.inbox or self._feed.error):
                left_s = deadline - time.monotonic()
                if left_s <= 0 or self._connection is None:
                    self._feed.end(late(str(self._place), self._timeout_s))
                else:
                    self._pump(left_s)
            if self._closed.is_set():
                self._drop("closed")
                raise self._session.closed_error()
            if self._feed.error is not None:
                self._drop("refused")
                is_late = time.monotonic() >= deadline
                raise late(str(self._place), self._timeout_s) if is_late else self._feed.error

    # -- inside ------------------------------------------------------------------------------

    def _come_back(self, left_s: float) -> None:
        """Connect anew, when it is time to."""
        wait_s = self._retry_s - time.monotonic()
        if wait_s > 0:
            self._closed.wait(min(wait_s, left_s, LONGEST_S))
        elif not self._closed.is_set():
            self._connect(time.monotonic() + self._timeout_s)

    def _connect(self, deadline: float) -> None:
        try:
            self._connection = _Connection(self._place, deadline)
        except OSError as error:
            self._drop(reason(error))
        else:
            self._session.connect()

    def _pump(self, wait_s: float) -> None:
        """Take what comes within some time."""
        connection, session = self._connection, self._session
        if connection is None:
            return
        if connection.pid != os.getpid():
            self._drop("a fork")  # the parent's: two would read one stream
            return
        try:
            mute_s = session.mute_s or math.inf
            left_s = session.heard_s + mute_s - time.monotonic()
            connection.send(session.take(), time.monotonic() + self._timeout_s)
            data = connection.receive_within(max(0.0, min(wait_s, left_s)))
            if data is not None:
                session.receive(data)
            elif left_s <= 0:
                self._drop(f"nothing came for {mute_s:g} s")
        except OSError as error:
            self._drop(reason(error))
        except STRANGE as error:
            session.give_up()
            self._drop(strange(error))
        if session.answered:
            self._failures = 0

    def _drop(self, why: str) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._session.lost(why)
        if self._closed.is_set():
            self._session.close()
        self._failures += 1
        wait_s = backoff_s(self._failures)
        # Those who fell together shall not come back together.
        self._retry_s = time.monotonic() + wait_s * random.uniform(0.5, 1.0)  # noqa: S311


class _Connection:
    """One connection; raises an OSError for whatever goes wrong with it."""

    def __init__(self, place: Place, deadline: float) -> None:
        self.pid = os.getpid()
        self._socket = _connect(place, deadline)

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def shut_down(self) -> None:
        """End it for whoever reads from it."""
        if self.pid == os.getpid():
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def send(self, data: bytes, deadline: float) -> None:
        """Send all of it."""
        if data:
            self._socket.settimeout(_left(deadline))
            self._socket.sendall(data)

    def receive(self, deadline: float) -> bytes:
        """Wait for what comes next."""
        self._socket.settimeout(_left(deadline))
        return self._received(self._socket.recv(_CHUNK_NBYTES))

    def receive_within(self, wait_s: float) -> bytes | None:
        """Give what comes, or None when nothing does."""
        self._socket.settimeout(min(wait_s, LONGEST_S))
        try:
            return self._received(self._socket.recv(_CHUNK_NBYTES))
        except (TimeoutError, BlockingIOError):
            return None
        except OSError as error:
            if type(error).__name__ == "SSLWantReadError":  # BlockingIOError, as TLS has it
                return None
            raise

    def has_news(self) -> bool:
        """Tell whether anything has come, such as its end; what it was is lost."""
        try:
            return self.receive_within(0.0) is not None
        except OSError:
            return True

    def _received(self, data: bytes) -> bytes:
        if not data:
            raise ConnectionResetError(CLOSED)
        return data


def _connect(place: Place, deadline: float) -> socket.socket:
    """Connect to the first address of a place that answers, all within one deadline."""
    if place.path is not None:
        return _opened(socket.AF_UNIX, place.path, deadline)
    refused: OSError | None = None
    try:
        found = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
    except (UnicodeError, OverflowError) as error:
        raise ConnectionRefusedError(str(error)) from error
    for family, _, _, _, address in found:
        try:
            connection = _opened(family, address, deadline)
        except OSError as error:
            refused = error
        else:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return _encrypted(connection, place, deadline)
    raise refused or ConnectionRefusedError(f"no address for {place.host}")


def _opened(family: int, address: object, deadline: float) -> socket.socket:
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.settimeout(_left(deadline))
        connection.connect(address)  # type: ignore[arg-type]  # of its family
    except BaseException:
        connection.close()
        raise
    return connection


def _encrypted(connection: socket.socket, place: Place, deadline: float) -> socket.socket:
    try:
        context = place.ssl_context
        if context is None:
            return connection
        connection.settimeout(_left(deadline))
        return context.wrap_socket(connection, server_hostname=place.host)
    except BaseException:
        connection.close()
        raise


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
