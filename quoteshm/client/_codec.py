"""The client's half of the wire: requests to bytes, bytes to replies and records. No sockets.

Requests may be sent before earlier ones are answered; each reply carries the id of its request.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
import numpy as np

from quoteshm.client.events import (
    Event,
    HeartbeatEvent,
    QuotesEvent,
    RestatedEvent,
    Restatement,
    SnapshotEvent,
)
from quoteshm.errors import (
    REMOVED,
    ErrorCode,
    RequestError,
    UnknownIntervalError,
    UnknownTickerError,
)
from quoteshm.model import FIELDS, INTERVALS, Bars, Quote, SnapshotState
from quoteshm.wire.framing import LineFramer, Overlong

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_REPLY_NBYTES: Final = 1 << 30  # more than any answer: what says more is no server of ours
_PRICES: Final = ("price", "open", "high", "low", "prev_close", "volume")

LOGGED_NBYTES: Final = 256

_log: Final = logging.getLogger("quoteshm.client")


def _plain(value: object) -> object:
    """Give what NumPy has its own types for as Python's: tickers and numbers out of arrays."""
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, str):
        return str(value)
    message = f"found {type(value).__name__}, expected a text or an integer"
    raise TypeError(message)


_encode: Final = msgspec.json.Encoder(enc_hook=_plain).encode
_decode_changes: Final = msgspec.json.Decoder(dict[str, Quote | None]).decode


class Fault(msgspec.Struct, frozen=True):
    """What an error reply says."""

    code: str
    message: str


class Reply(msgspec.Struct, frozen=True):
    """A line of the server: a response with its data, an error, or an event."""

    id: int | str | None
    type: str
    data: msgspec.Raw = msgspec.Raw(b"null")
    error: Fault | None = None
    op: str = ""
    epoch: int = 0  # of an event, as the next
    skipped: int = 0

    def result(self) -> msgspec.Raw:
        """Give the data of a response, or raise what an error says.

        Raises
        ------
        RequestError

        """
        if self.error is None:
            return self.data
        try:
            code = ErrorCode(self.error.code)
        except ValueError:  # of a server newer than this client
            raise RequestError(ErrorCode.INTERNAL, self.error.message) from None
        raise RequestError(code, self.error.message)


class ShmAddress(msgspec.Struct, frozen=True):
    """Where a server's segment is, and which one it is."""

    shm_name: str
    shm_dir: str
    layout_version: int
    instance: str
    size: int


class Quotes(msgspec.Struct, frozen=True):
    """Quotes of many tickers at one epoch, and the tickers that have none."""

    epoch: int
    quotes: dict[str, Quote]
    missing: list[str]


class Subscribed(NamedTuple):
    """The reply to ``subscribe``: a snapshot, or, if ``resumed``, what changed."""

    resumed: bool
    snapshot: SnapshotEvent
    changes: dict[str, Quote | None]
    restated: list[Restatement] | None  # None: it is not known


class AddedTickers(msgspec.Struct, frozen=True):
    """What became of tickers that were to be served: those that were already are ``known``."""

    added: list[str]
    known: list[str]
    refused: dict[str, str]  # why, in words


class RemovedTickers(msgspec.Struct, frozen=True):
    """What became of tickers that were to be served no longer."""

    removed: list[str]
    unknown: list[str]  # were not served


class History(NamedTuple):
    """Bars of one series, oldest first; ``forming``: the last one is not closed."""

    interval: str
    time_zone: str
    forming: bool
    bars: Bars


def request(request_id: int | str, op: str, fields: Mapping[str, object]) -> bytes:
    """Give the line of a request; fields that are None are left out."""
    given = {name: value for name, value in fields.items() if value is not None}
    return _encode({"v": 1, "id": request_id, "type": op, **given}) + b"\n"


class Replies:
    """The replies that come over one connection."""

    def __init__(self) -> None:
        self._framer = LineFramer(MAX_REPLY_NBYTES)

    def feed(self, data: bytes) -> Iterator[Reply]:
        """Give the replies that ``data`` completes; what is not taken stays for the next time.

        Raises
        ------
        ValueError, MsgspecError
            What came is none.

        """
        self._framer.feed(data)
        for line in self._framer:
            if isinstance(line, Overlong):
                message = f"a line of more than {MAX_REPLY_NBYTES} bytes"
                raise ValueError(message)  # noqa: TRY004  of its value, not of a caller's type
            log_line("<-", line)
            yield msgspec.json.decode(line, type=Reply)


def log_line(direction: str, line: bytes) -> None:
    """Log a line that goes one way or the other, cut short."""
    if _log.isEnabledFor(logging.DEBUG):
        text = line[:LOGGED_NBYTES].decode(errors="backslashreplace").rstrip()
        _log.debug("%s %s%s", direction, text, " ..." if len(line) > LOGGED_NBYTES else "")


# -- data to records; each raises what msgspec raises for what is none -----------------------


def read_shm_address(data: msgspec.Raw) -> ShmAddress:
    """Read the data of ``get_shm_name``."""
    return msgspec.json.decode(data, type=ShmAddress)


def read_tickers(data: msgspec.Raw) -> list[str]:
    """Read the data of ``list_tickers``."""
    return msgspec.json.decode(data, type=list[str])


def read_state(data: msgspec.Raw) -> SnapshotState:
    """Read the data of ``get_snapshot_epoch``."""
    document = msgspec.json.decode(data, type=_StateData)
    return SnapshotState(document.epoch, document.last_update_ms)


def read_object(data: msgspec.Raw) -> dict[str, Any]:
    """Read any data that is an object."""
    return msgspec.json.decode(data, type=dict[str, Any])


def read_quote(data: msgspec.Raw) -> Quote:
    """Read the data of ``get_quote``."""
    return _quote(msgspec.json.decode(data, type=dict[str, object]))


def read_quotes(data: msgspec.Raw) -> Quotes:
    """Read the data of ``get_quotes``."""
    document = msgspec.json.decode(data, type=_QuotesData)
    quotes = {ticker: _quote(quote) for ticker, quote in document.quotes.items()}
    return Quotes(document.epoch, quotes, document.missing)


def read_added(data: msgspec.Raw) -> AddedTickers:
    """Read the data of ``add_tickers``."""
    return msgspec.json.decode(data, type=AddedTickers)


def read_removed(data: msgspec.Raw) -> RemovedTickers:
    """Read the data of ``remove_tickers``."""
    return msgspec.json.decode(data, type=RemovedTickers)


def read_history(data: msgspec.Raw) -> History:
    """Read the data of ``get_history``."""
    document = msgspec.json.decode(data, type=_HistoryData)
    columns: list[list[float | None]] = [getattr(document, name) for name in FIELDS]
    bars = Bars(
        np.array(document.time, np.int64),
        np.array(columns, np.float64),  # null to NaN
    )
    if bars.ohlcv.shape[1] != len(bars):
        message = f"columns of {bars.ohlcv.shape[1]} values for {len(bars)} times"
        raise ValueError(message)
    if document.interval not in INTERVALS:
        message = f"bars of {document.interval}"
        raise ValueError(message)
    return History(document.interval, document.time_zone, document.forming, bars)


def read_subscribed(data: msgspec.Raw) -> Subscribed:
    """Read the data of ``subscribe``."""
    document = msgspec.json.decode(data, type=_SubscribedData)
    return Subscribed(
        document.resumed,
        SnapshotEvent(
            document.epoch,
            document.instance,
            document.freshness_ms,
            document.heartbeat_s,
            {} if document.resumed else _whole(read_changes(document.quotes)),
            document.missing,
        ),
        read_changes(document.quotes) if document.resumed else {},
        document.restated,
    )


def read_event(event: Reply) -> Event | None:
    """Read an event, or give None for one of a kind that a newer server has."""
    match event.op:
        case "quotes":
            return QuotesEvent(event.epoch, event.skipped, read_changes(event.data))
        case "restated":
            series = msgspec.json.decode(event.data, type=list[Restatement])
            return RestatedEvent(event.epoch, event.skipped, series)
        case "heartbeat":
            beat = msgspec.json.decode(event.data, type=_HeartbeatData)
            return HeartbeatEvent(event.epoch, beat.now_ms, beat.last_update_ms)
    return None


def read_changes(data: msgspec.Raw) -> dict[str, Quote | None]:
    """Read quotes by ticker, None for one that was removed."""
    try:
        return _decode_changes(data)
    except msgspec.ValidationError:  # some price is null: the long way
        documents = msgspec.json.decode(data, type=dict[str, dict[str, object] | None])
        return {t: None if d is None else _quote(d) for t, d in documents.items()}


def not_found(fields: Mapping[str, object], error: RequestError) -> Exception:
    """Give what a refused request raises: the reader's own error, where it is that."""
    if error.code is not ErrorCode.NOT_FOUND:
        return error
    ticker, interval = fields.get("ticker"), fields.get("interval")
    if isinstance(ticker, str):
        for unknown in (
            UnknownTickerError(ticker),
            UnknownTickerError(ticker, instead=ticker.upper()),
            UnknownTickerError(ticker, REMOVED),
        ):
            if error.message == str(unknown):
                return unknown
        without_value = str(UnknownTickerError(ticker, ""))
        if error.message.startswith(without_value):
            return UnknownTickerError(ticker, error.message.removeprefix(without_value))
    without_known = str(UnknownIntervalError(interval, ()))
    if error.message.startswith(without_known):
        known = error.message.removeprefix(without_known).split(", ")
        return UnknownIntervalError(interval, tuple(known))
    return error


class _SubscribedData(msgspec.Struct):
    epoch: int
    instance: str
    resumed: bool
    freshness_ms: int
    heartbeat_s: float
    quotes: msgspec.Raw
    missing: list[str]
    restated: list[Restatement] | None = []


class _HeartbeatData(msgspec.Struct):
    now_ms: int
    last_update_ms: int


class _StateData(msgspec.Struct):
    epoch: int
    last_update_ms: int


class _QuotesData(msgspec.Struct):
    epoch: int
    quotes: dict[str, dict[str, object]]
    missing: list[str]


class _HistoryData(msgspec.Struct):
    interval: str
    time_zone: str
    time: list[int]
    open: list[float | None]
    high: list[float | None]
    low: list[float | None]
    close: list[float | None]
    volume: list[float | None]
    forming: bool = False


def _quote(document: dict[str, object]) -> Quote:
    for name in _PRICES:
        if document.get(name, 0.0) is None:
            document[name] = math.nan
    return msgspec.convert(document, Quote)


def _whole(quotes: dict[str, Quote | None]) -> dict[str, Quote]:
    return {ticker: quote for ticker, quote in quotes.items() if quote is not None}
