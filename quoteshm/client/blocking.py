"""QuoteClient: quotes and history over TCP, for programs that wait for each answer.

Needs no Twisted and no shared memory; a client on another machine, or on another system than
Linux, reads the same values as a `StockDataReader` on the daemon's own.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import msgspec
import numpy as np

from quoteshm.client import _codec
from quoteshm.client._codec import Replies, log_line
from quoteshm.errors import ConnectionFailedError, RequestError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime
    from types import TracebackType

    import pandas as pd

    from quoteshm.client._codec import Quotes, Reply, ShmAddress
    from quoteshm.model import Quote, SnapshotState

_T = TypeVar("_T")
#: What reading a reply raises that no server of ours has sent.
_STRANGE: Final = (msgspec.MsgspecError, ValueError, OverflowError, RecursionError)
_CHUNK_NBYTES: Final = 1 << 18
_LONGEST_S: Final = 1e6  # less than what a socket's time-out can hold


class QuoteClient:
    """Asks a server, and waits for each answer. Safe to use from several threads, by turns.

    It connects when it is first asked something. A call that fails for want of a connection, or
    of time, drops the connection; the next call makes another. A connection that the server has
    closed between two calls is replaced unnoticed.

    Parameters
    ----------
    host, port : str, int
        Where the server listens.
    timeout_s : float
        The time that any call may take, from beginning to end.

    Raises
    ------
    SettingsError
        For a ``timeout_s`` that is no time.

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
    - `TimeoutError` when there is no answer in time.

    Every line sent and received is logged at debug by the logger ``quoteshm.client``, cut short.

    """

    def __init__(
        self, host: str = "127.0.0.1", port: int = 9000, *, timeout_s: float = 5.0
    ) -> None:
        if not timeout_s > 0:  # NaN is neither
            raise SettingsError("timeout_s", timeout_s, "more than 0")
        self.host, self.port, self.timeout_s = host, port, min(timeout_s, _LONGEST_S)
        self._lock = threading.Lock()
        self._ids = itertools.count(1)
        self._connection: _Connection | None = None
        self._closed = False

    @property
    def address(self) -> str:
        """The server's address, as errors name it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

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
        """Close the connection; the client cannot be used any more."""
        with self._lock:
            self._closed = True
            self._drop()

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
        wanted = None if tickers is None else list(tickers)
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
        # pandas takes half a second, and is needed for nothing else here.
        from quoteshm.shm.frames import to_frame  # noqa: PLC0415

        if since is not None and not isinstance(since, int | np.integer):
            since = self._moment(ticker, since)
        history = self._history(ticker, interval=interval, last=last, since=since)
        return to_frame(history.bars, history.interval, history.time_zone)

    def get_snapshot_epoch(self) -> SnapshotState:
        """Ask where the market stands."""
        return self._call("get_snapshot_epoch", _codec.read_state)

    def get_info(self) -> dict[str, Any]:
        """Ask what the server is, and how it fares."""
        return self._call("get_info", _codec.read_object)

    def ping(self) -> float:
        """Ask whether the server answers; give the seconds that took, connecting included."""
        started = time.monotonic()
        self._call("ping", _codec.read_object)
        return time.monotonic() - started

    # -- calls -------------------------------------------------------------------------------

    def _history(self, ticker: str, **fields: object) -> _codec.History:
        return self._call("get_history", _codec.read_history, ticker=ticker, **fields)

    def _moment(self, ticker: str, since: str | datetime) -> int:
        import pandas as pd  # noqa: PLC0415  as in get_history

        from quoteshm.shm.frames import to_ms  # noqa: PLC0415  the same

        stamp = pd.Timestamp(since)
        zoned = pd.isna(stamp) or stamp.tzinfo is not None
        return to_ms(stamp, "UTC" if zoned else self._history(ticker, last=1).time_zone)

    def _call(self, op: str, read: Callable[[msgspec.Raw], _T], **fields: object) -> _T:
        """Ask for an op, and read the data of its response."""
        deadline = time.monotonic() + self.timeout_s
        request_id = next(self._ids)
        line = _codec.request(request_id, op, fields)
        if not self._lock.acquire(timeout=self.timeout_s):
            raise self._late()
        try:
            if self._closed:
                raise ConnectionFailedError(self.address, "this client is closed")
            return read(self._ask(request_id, line, deadline).result())
        except RequestError as error:
            ticker = fields.get("ticker")
            raise _codec.not_found(ticker, error) if isinstance(ticker, str) else error from None
        except _STRANGE as error:
            self._drop()
            why = f"no quoteshm server, or a newer one: {error}"
            raise ConnectionFailedError(self.address, why) from error
        finally:
            self._lock.release()

    def _ask(self, request_id: int, line: bytes, deadline: float) -> Reply:
        if self._connection is not None and self._connection.pid != os.getpid():
            self._drop()  # the parent's, since a fork: two would read one stream
        try:
            reply = self._exchange(request_id, line, deadline)
        except TimeoutError as error:
            raise self._late() from error
        except OSError as error:
            raise ConnectionFailedError(self.address, error.strerror or str(error)) from error
        if reply.id is None:
            self._drop()  # the server could not tell which request this is for
        return reply

    def _exchange(self, request_id: int, line: bytes, deadline: float) -> Reply:
        try:
            if self._connection is not None:
                # Where the server has closed it since the last call, that is no failure of this
                # one. A request changes nothing, so it may be asked twice.
                with contextlib.suppress(ConnectionError):
                    return self._connection.ask(request_id, line, deadline)
                self._drop()
            self._connection = _Connection(self.host, self.port, deadline)
            return self._connection.ask(request_id, line, deadline)
        except BaseException:
            # What may still come of this exchange must not be taken for the next one's.
            self._drop()
            raise

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _late(self) -> TimeoutError:
        return TimeoutError(f"{self.address}: no answer within {self.timeout_s:g} s")


class _Connection:
    """One connection, and what came over it; raises an OSError for whatever goes wrong with it."""

    def __init__(self, host: str, port: int, deadline: float) -> None:
        self.pid = os.getpid()
        self._replies = Replies()
        self._socket = _connect(host, port, deadline)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def ask(self, request_id: int, line: bytes, deadline: float) -> Reply:
        """Send a request, and wait for its reply, or for one that names no request."""
        self._socket.settimeout(_left(deadline))
        log_line("->", line)
        self._socket.sendall(line)
        while True:
            self._socket.settimeout(_left(deadline))
            chunk = self._socket.recv(_CHUNK_NBYTES)
            if not chunk:
                message = "the server closed the connection before it answered"
                raise ConnectionResetError(message)
            for reply in self._replies.feed(chunk):
                # Others are answers to what nobody waits for any more.
                if reply.id == request_id or reply.id is None:
                    return reply


def _connect(host: str, port: int, deadline: float) -> socket.socket:
    """Connect to the first address of a host that answers, all within one deadline."""
    refused: OSError | None = None
    for family, _, _, _, place in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        connection = socket.socket(family, socket.SOCK_STREAM)
        try:
            connection.settimeout(_left(deadline))
            connection.connect(place)
        except OSError as error:
            connection.close()
            refused = error
        else:
            return connection
    raise refused or ConnectionRefusedError(f"no address for {host}")


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
