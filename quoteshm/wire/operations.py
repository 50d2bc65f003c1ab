"""Request to reply, one function per op. No sockets: bytes in, bytes out.

`answer` never raises: what goes wrong is an error reply, and comes with it for whoever logs.
"""

from __future__ import annotations

import importlib.metadata
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import msgspec

from quoteshm.errors import (
    ErrorCode,
    RequestError,
    UnknownIntervalError,
    UnknownTickerError,
)
from quoteshm.model import FIELDS
from quoteshm.shm.layout import LAYOUT_VERSION
from quoteshm.wire import messages

if TYPE_CHECKING:
    from collections.abc import Callable

    from quoteshm.market.quotes import QuoteCache
    from quoteshm.shm.writer import SegmentWriter

_encode: Final = msgspec.json.Encoder().encode
_VERSION: Final = importlib.metadata.version("quoteshm")

INTERNAL_MESSAGE: Final = "internal error: see the server's log"


def _describe_nothing() -> dict[str, object]:
    return {}


@dataclass(frozen=True, slots=True)
class Context:
    """What requests are answered from.

    Attributes
    ----------
    writer : SegmentWriter
        The market.
    cache : QuoteCache
        Its quotes.
    max_line_bytes : int
        The longest request line, without its newline.
    describe : callable
        Gives what the daemon adds to ``get_info``: source status per ticker, settings.
    started_boot_ms : int
        When the server started, by the cache's clock.

    """

    writer: SegmentWriter
    cache: QuoteCache
    max_line_bytes: int = 65_536
    describe: Callable[[], dict[str, object]] = _describe_nothing
    started_boot_ms: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "started_boot_ms", self.cache.clock.boot_ms())


class Answer(NamedTuple):
    """A reply, and what went wrong if it is an error: INTERNAL ones carry their cause."""

    reply: bytes
    error: RequestError | None = None


def answer(context: Context, line: bytes) -> Answer:
    """Answer one line; never raises."""
    request_id = None
    try:
        document = messages.parse(line)
        request_id = messages.readable_id(document)
        request = messages.read(document, RECORDS)
        data = OPERATIONS[request.type].run(context, request)
        return Answer(messages.response(request.id, request.type, data))
    except RequestError as error:
        return refuse(error, request_id)
    except (UnknownTickerError, UnknownIntervalError) as error:
        return refuse(RequestError(ErrorCode.NOT_FOUND, str(error)), request_id)
    except Exception as error:  # noqa: BLE001  no request may end a connection, let alone more
        internal = RequestError(ErrorCode.INTERNAL, INTERNAL_MESSAGE)
        internal.__cause__ = error
        return refuse(internal, request_id)


def refuse(error: RequestError, request_id: messages.Id | None = None) -> Answer:
    """Make an error reply; the id is None where there is none to be read."""
    return Answer(messages.error(request_id, error.code, error.message), error)


def overlong(context: Context) -> Answer:
    """Answer a line that was too long to be kept."""
    message = f"line longer than {context.max_line_bytes} bytes"
    return refuse(RequestError(ErrorCode.BAD_REQUEST, message))


# -- the operations: each gives the reply's ``data`` as JSON ---------------------------------


def get_shm_name(context: Context, _request: messages.GetShmName) -> bytes:
    """Say where the segment is."""
    writer = context.writer
    if writer.path is None:
        message = "this server has no shared memory"
        raise RequestError(ErrorCode.NOT_FOUND, message)
    return _encode(
        {
            "shm_name": writer.path.name,
            "shm_dir": str(writer.path.parent),
            "layout_version": LAYOUT_VERSION,
            "instance": writer.instance,
            "size": writer.size,
        },
    )


def list_tickers(context: Context, _request: messages.ListTickers) -> bytes:
    """Name the tickers that have a value, sorted."""
    return _encode(context.cache.tickers())


def get_quote(context: Context, request: messages.GetQuote) -> bytes:
    """Give the latest quote of a ticker, encoded when it changed."""
    return context.cache.body(request.ticker)


def get_snapshot_epoch(context: Context, _request: messages.GetSnapshotEpoch) -> bytes:
    """Say where the market stands."""
    return _encode(context.cache.state._asdict())


def get_quotes(context: Context, request: messages.GetQuotes) -> bytes:
    """Give many quotes at one epoch: this is the writer's own thread, so there is only one."""
    bodies, missing = context.cache.bodies(request.tickers)
    quotes = b",".join([b"%b:%b" % (_encode(ticker), body) for ticker, body in bodies.items()])
    return b'{"epoch":%d,"quotes":{%b},"missing":%b}' % (
        context.cache.state.epoch,
        quotes,
        _encode(missing),
    )


def get_history(context: Context, request: messages.GetHistory) -> bytes:
    """Give the bars of a ticker in columns, the forming bar last."""
    writer = context.writer
    known = tuple(kind.interval for kind in writer.spec.kinds)
    interval = known[0] if request.interval is None else request.interval
    row = context.cache.row_of(request.ticker)
    if interval not in known:
        raise UnknownIntervalError(interval, known)
    bars, forming = writer.history(row, interval)
    if request.since is not None:
        bars = bars[int(bars.time.searchsorted(request.since)) :]
    if request.last is not None:
        bars = bars[-request.last :]
    columns = {name: bars.field(name).tolist() for name in FIELDS}
    return _encode(
        {
            "ticker": request.ticker,
            "interval": interval,
            "time_zone": writer.tickers[row].time_zone,
            "forming": forming and len(bars) > 0,
            "time": bars.time.tolist(),
            **columns,
        },
    )


def get_info(context: Context, _request: messages.GetInfo) -> bytes:
    """Say what this server is and how it fares."""
    writer, cache = context.writer, context.cache
    spec = writer.spec
    return _encode(
        {
            "quoteshm": _VERSION,
            "protocol_version": messages.PROTOCOL_VERSION,
            "layout_version": LAYOUT_VERSION,
            "pid": os.getpid(),
            "uptime_s": (cache.clock.boot_ms() - context.started_boot_ms) / 1000,
            "instance": writer.instance,
            "shm_name": None if writer.path is None else writer.path.name,
            "source": spec.source,
            "adjustment": spec.adjustment,
            "freshness_ms": spec.freshness_ms,
            **cache.state._asdict(),
            "limits": {
                "max_line_bytes": context.max_line_bytes,
                "max_id_bytes": messages.MAX_ID_NBYTES,
            },
            "counts": {"tickers": len(cache.tickers()), "capacity": spec.max_tickers},
            "intervals": {kind.interval: kind.capacity for kind in spec.kinds},
            "failures": cache.failures,
            **context.describe(),
        },
    )


def ping(_context: Context, _request: messages.Ping) -> bytes:
    """Answer."""
    return b"{}"


class Operation(NamedTuple):
    """An op: what it reads, and what answers it."""

    record: type[messages.Request]
    run: Callable[[Context, messages.Request], bytes]


_R = TypeVar("_R", bound=messages.Request)


def _operation(record: type[_R], run: Callable[[Context, _R], bytes]) -> Operation:
    # `answer` hands `run` nothing but its own record.
    return Operation(record, run)  # type: ignore[arg-type]


OPERATIONS: Final[dict[str, Operation]] = {
    "get_shm_name": _operation(messages.GetShmName, get_shm_name),
    "list_tickers": _operation(messages.ListTickers, list_tickers),
    "get_quote": _operation(messages.GetQuote, get_quote),
    "get_snapshot_epoch": _operation(messages.GetSnapshotEpoch, get_snapshot_epoch),
    "get_quotes": _operation(messages.GetQuotes, get_quotes),
    "get_history": _operation(messages.GetHistory, get_history),
    "get_info": _operation(messages.GetInfo, get_info),
    "ping": _operation(messages.Ping, ping),
}
RECORDS: Final = {op: operation.record for op, operation in OPERATIONS.items()}
