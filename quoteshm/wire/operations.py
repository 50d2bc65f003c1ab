"""Request to reply, one function per op. No sockets: bytes in, bytes out.

`answer` never raises: what goes wrong is an error reply, and comes with it for whoever logs.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeVar

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
from quoteshm.wire.auth import TOKEN_WANTED, TRUST_WANTED, TRUSTED_OPS
from quoteshm.wire.bounds import Bounds
from quoteshm.wire.push import MAX_NAMED, MAX_SUBSCRIPTIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from quoteshm.market.quotes import QuoteCache
    from quoteshm.shm.writer import SegmentWriter
    from quoteshm.wire.messages import Id

_encode: Final = msgspec.json.Encoder().encode
_VERSION: Final = importlib.metadata.version("quoteshm")

_BOUNDS: Final = Bounds()
UNKNOWN_OP: Final = "unknown"
_NO_DOCUMENT: Final[dict[str, object]] = {}
INTERNAL_MESSAGE: Final = "internal error: see the server's log"


def _describe_nothing() -> dict[str, object]:
    return {}


class Roster(Protocol):
    """Changes which tickers are served; each gives the fields of a reply."""

    def add(self, tickers: Sequence[str]) -> NamedTupleLike:
        """Serve more tickers."""

    def remove(self, tickers: Sequence[str]) -> NamedTupleLike:
        """Serve tickers no longer."""


class NamedTupleLike(Protocol):
    """What becomes a JSON object, as a named tuple can."""

    def _asdict(self) -> dict[str, object]: ...


@dataclass(slots=True)
class Context:
    """What requests are answered from.

    Attributes
    ----------
    writer : SegmentWriter
        The market.
    cache : QuoteCache
        Its quotes.
    bounds : Bounds
        What one client may take.
    describe : callable
        Gives what the daemon adds to ``get_info``: status per ticker, settings, counts.
    roster : Roster or None
        Changes which tickers are served, once there is something that can.
    started_boot_ms : int
        When the server started, by the cache's clock.

    """

    writer: SegmentWriter
    cache: QuoteCache
    bounds: Bounds = _BOUNDS
    describe: Callable[[], dict[str, object]] = _describe_nothing
    roster: Roster | None = None
    started_boot_ms: int = field(init=False)

    def __post_init__(self) -> None:
        self.started_boot_ms = self.cache.clock.boot_ms()


class Client(Protocol):
    """What is asked of the connection that a request comes over."""

    def lets_pass(self, op: str) -> bool:
        """Whether the client may ask for this."""

    def is_trusted(self) -> bool:
        """Whether the client may ask for what changes the market for all."""

    def authorize(self, token: str) -> None:
        """Let a client in that knows the token; a RequestError for one that does not."""

    def subscribe(
        self, request_id: Id, tickers: Sequence[str] | None, since: tuple[int, str] | None
    ) -> bytes:
        """Have the client told of changes; give the reply's data."""

    def unsubscribe(self, request_id: Id | None) -> bytes:
        """Have it told no longer; give the reply's data."""


class Answer(NamedTuple):
    """A reply, and what went wrong if it is an error: INTERNAL ones carry their cause."""

    reply: bytes
    error: RequestError | None = None
    op: str = UNKNOWN_OP  # what was asked for, as far as there is such an op


def answer(context: Context, line: bytes, client: Client | None = None) -> Answer:
    """Answer one line; never raises.

    Parameters
    ----------
    context : Context
        What it is answered from.
    line : bytes
        The request, without its newline.
    client : Client, optional
        The connection. Without one everything may be asked that needs none.

    """
    request_id, document = None, _NO_DOCUMENT
    try:
        document = messages.parse(line)
        request_id = messages.readable_id(document)
        request = messages.read(document, RECORDS)
        if client is not None:
            _check_permission(request.type, client)
        data = OPERATIONS[request.type].run(context, request, client)
        reply = messages.response(request.id, request.type, data)
        if len(reply) > context.bounds.max_pending_bytes:
            return _too_much(context, request, client, len(reply))
        return Answer(reply, None, request.type)
    except RequestError as error:
        return refuse(error, request_id, _op_of(document))
    except (UnknownTickerError, UnknownIntervalError) as error:
        return refuse(RequestError(ErrorCode.NOT_FOUND, str(error)), request_id, _op_of(document))
    except Exception as error:  # noqa: BLE001  no request may end a connection, let alone more
        internal = RequestError(ErrorCode.INTERNAL, INTERNAL_MESSAGE)
        internal.__cause__ = error
        return refuse(internal, request_id, _op_of(document))


def _op_of(document: Mapping[str, object]) -> str:
    """Name the op that is asked for, as far as there is such an op."""
    op = document.get("type")
    return op if isinstance(op, str) and op in OPERATIONS else UNKNOWN_OP


def _check_permission(op: str, client: Client) -> None:
    if not client.lets_pass(op):
        raise RequestError(ErrorCode.UNAUTHORIZED, TOKEN_WANTED)
    if op in TRUSTED_OPS and not client.is_trusted():
        raise RequestError(ErrorCode.UNAUTHORIZED, f"{op}: {TRUST_WANTED}")


def refuse(
    error: RequestError, request_id: messages.Id | None = None, op: str = UNKNOWN_OP
) -> Answer:
    """Make an error reply; the id is None where there is none to be read."""
    return Answer(messages.error(request_id, error.code, error.message), error, op)


def overlong(context: Context) -> Answer:
    """Answer a line that was too long to be kept."""
    message = f"line longer than {context.bounds.max_line_bytes} bytes"
    return refuse(RequestError(ErrorCode.BAD_REQUEST, message))


def _too_much(
    context: Context, request: messages.Request, client: Client | None, nbytes: int
) -> Answer:
    """Answer a request whose reply would be longer than any may be."""
    if client is not None and isinstance(request, messages.Subscribe):
        client.unsubscribe(request.id)
    message = f"reply of {nbytes} bytes, at most {context.bounds.max_pending_bytes}: ask for less"
    return refuse(RequestError(ErrorCode.OVERLOADED, message), request.id, request.type)


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
            "now_ms": cache.clock.wall_ms(),
            "uptime_s": (cache.clock.boot_ms() - context.started_boot_ms) / 1000,
            "instance": writer.instance,
            "shm_name": None if writer.path is None else writer.path.name,
            "source": spec.source,
            "adjustment": spec.adjustment,
            "freshness_ms": spec.freshness_ms,
            **cache.state._asdict(),
            "limits": {
                **dataclasses.asdict(context.bounds),
                "max_id_bytes": messages.MAX_ID_NBYTES,
                "max_subscriptions": MAX_SUBSCRIPTIONS,
                "max_named_tickers": MAX_NAMED,
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


def add_tickers(context: Context, request: messages.AddTickers) -> bytes:
    """Serve more tickers: asked for at once, they have a value when the source has answered."""
    return _encode(_roster(context).add(request.tickers)._asdict())


def remove_tickers(context: Context, request: messages.RemoveTickers) -> bytes:
    """Serve tickers no longer."""
    return _encode(_roster(context).remove(request.tickers)._asdict())


def _roster(context: Context) -> Roster:
    if context.roster is None:
        message = "the tickers of this server cannot be changed"
        raise RequestError(ErrorCode.NOT_FOUND, message)
    return context.roster


# -- those that are about the connection -----------------------------------------------------


def auth(request: messages.Auth, client: Client) -> bytes:
    """Let the client in, if it knows the token."""
    client.authorize(request.token)
    return b"{}"


def subscribe(request: messages.Subscribe, client: Client) -> bytes:
    """Tell the client of all changes from now on, or from where it was."""
    epoch, instance = request.since_epoch, request.instance
    if (epoch is None) != (instance is None):
        message = "Expected since_epoch and instance together, got one without the other"
        raise RequestError(ErrorCode.BAD_REQUEST, message)
    since = None if epoch is None or instance is None else (epoch, instance)
    tickers = None if isinstance(request.tickers, str) else request.tickers
    return client.subscribe(request.id, tickers, since)


def unsubscribe(request: messages.Unsubscribe, client: Client) -> bytes:
    """Tell the client no more."""
    return client.unsubscribe(request.subscription)


class Operation(NamedTuple):
    """An op: what it reads, and what answers it."""

    record: type[messages.Request]
    run: Callable[[Context, messages.Request, Client | None], bytes]


_R = TypeVar("_R", bound=messages.Request)


def _operation(record: type[_R], run: Callable[[Context, _R], bytes]) -> Operation:
    # `answer` hands `run` nothing but its own record.
    return Operation(record, lambda context, request, _client: run(context, request))  # type: ignore[arg-type]


def _of_connection(record: type[_R], run: Callable[[_R, Client], bytes]) -> Operation:
    def run_connected(_context: Context, request: messages.Request, client: Client | None) -> bytes:
        if client is None:
            message = f"{request.type} needs a connection"
            raise RequestError(ErrorCode.BAD_REQUEST, message)
        return run(request, client)  # type: ignore[arg-type]  # as above

    return Operation(record, run_connected)


OPERATIONS: Final[dict[str, Operation]] = {
    "get_shm_name": _operation(messages.GetShmName, get_shm_name),
    "list_tickers": _operation(messages.ListTickers, list_tickers),
    "get_quote": _operation(messages.GetQuote, get_quote),
    "get_snapshot_epoch": _operation(messages.GetSnapshotEpoch, get_snapshot_epoch),
    "get_quotes": _operation(messages.GetQuotes, get_quotes),
    "get_history": _operation(messages.GetHistory, get_history),
    "get_info": _operation(messages.GetInfo, get_info),
    "ping": _operation(messages.Ping, ping),
    "add_tickers": _operation(messages.AddTickers, add_tickers),
    "remove_tickers": _operation(messages.RemoveTickers, remove_tickers),
    "auth": _of_connection(messages.Auth, auth),
    "subscribe": _of_connection(messages.Subscribe, subscribe),
    "unsubscribe": _of_connection(messages.Unsubscribe, unsubscribe),
}
RECORDS: Final = {op: operation.record for op, operation in OPERATIONS.items()}
