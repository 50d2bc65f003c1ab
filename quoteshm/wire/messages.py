"""What a line says: requests read strictly, replies put together. No sockets, no market.

A request is read in steps, so that as much as can be known of a bad one is: `parse` takes the line
for JSON, `readable_id` finds whom to answer, `read` checks the fields against the op's own record.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Annotated, Final, Literal, Never

import msgspec

from quoteshm.errors import ErrorCode, RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

PROTOCOL_VERSION: Final = 1
MAX_ID_NBYTES: Final = 128
_ID_RANGE: Final = range(-(1 << 63), 1 << 64)  # 64 bits, signed or not
_INT64: Final = msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)

Id = str | int

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder().decode


# -- requests --------------------------------------------------------------------------------


class Request(msgspec.Struct, frozen=True):
    """What every request has."""

    v: int
    id: Id
    type: str


class GetShmName(Request, frozen=True):
    """Where the segment is."""


class ListTickers(Request, frozen=True):
    """Which tickers have a value."""


class GetQuote(Request, frozen=True):
    """The latest quote of a ticker."""

    ticker: str


class GetSnapshotEpoch(Request, frozen=True):
    """Where the market stands."""


class GetQuotes(Request, frozen=True):
    """The quotes of many tickers at one epoch: of all, without ``tickers``."""

    tickers: list[str] | None = None


class GetHistory(Request, frozen=True):
    """The bars of a ticker: those since a time, and of those the last n."""

    ticker: str
    interval: str | None = None
    last: Annotated[int, msgspec.Meta(ge=1)] | None = None
    since: Annotated[int, _INT64] | None = None


class GetInfo(Request, frozen=True):
    """What the server is, and how it fares."""


class Ping(Request, frozen=True):
    """Whether the server answers."""


class Auth(Request, frozen=True):
    """The token, where the server wants one."""

    token: str


class Subscribe(Request, frozen=True):
    """All changes of many tickers, or of all, from now on or since an epoch of an instance."""

    tickers: Annotated[list[str], msgspec.Meta(min_length=1)] | Literal["*"]
    since_epoch: Annotated[int, msgspec.Meta(ge=0)] | None = None
    instance: str | None = None


class Unsubscribe(Request, frozen=True):
    """No more of one subscription, or of all of this connection."""

    subscription: Id | None = None


class AddTickers(Request, frozen=True):
    """More tickers to be served."""

    tickers: Annotated[list[str], msgspec.Meta(min_length=1)]


class RemoveTickers(Request, frozen=True):
    """Tickers to be served no longer."""

    tickers: Annotated[list[str], msgspec.Meta(min_length=1)]


def parse(line: bytes) -> dict[str, object]:
    """Take a line for a JSON object; of a key given twice the last counts.

    Raises
    ------
    RequestError
        BAD_REQUEST: it is no JSON, or no object.

    """
    try:
        document = _decode(line)
    except RecursionError:
        _refuse("malformed JSON: nested too deeply")
    except UnicodeDecodeError as error:
        _refuse(f"malformed JSON: invalid UTF-8, {error.reason}")
    except msgspec.DecodeError as error:
        reason = str(error).removeprefix("JSON is malformed: ")
        _refuse(f"malformed JSON: {reason[:1].lower()}{reason[1:]}")
    if not isinstance(document, dict):
        _refuse(f"Expected object, got {_json_type(document)}")
    return document


def readable_id(document: Mapping[str, object]) -> Id | None:
    """Give the id of a request, be the rest of it as it may, or None for an id that is none."""
    found = document.get("id")
    if isinstance(found, str):
        return found if len(found.encode()) <= MAX_ID_NBYTES else None
    if isinstance(found, int) and not isinstance(found, bool):
        return found if found in _ID_RANGE else None
    return None


def read(document: Mapping[str, object], records: Mapping[str, type[Request]]) -> Request:
    """Check a request against the record of its op; fields that the op does not know are ignored.

    Parameters
    ----------
    document : mapping
        From `parse`.
    records : mapping of str to type
        The record of each op, by the op's name.

    Raises
    ------
    RequestError
        BAD_REQUEST, for the first of these that holds: fields are missing (all are named), a field
        is of another type (its place is named), the op is unknown.

    """
    op = document.get("type")
    record = records.get(op, Request) if isinstance(op, str) else Request
    missing = [name for name in _required(record) if name not in document]
    if missing:
        _refuse(f"Missing required fields: {', '.join(missing)}")
    try:
        request = msgspec.convert(document, record)
    except msgspec.ValidationError as error:
        _refuse(str(error).replace("`", ""))
    if request.v != PROTOCOL_VERSION:
        _refuse(f"Expected protocol version {PROTOCOL_VERSION}, got {request.v} - at $.v")
    if readable_id(document) is None:
        expected = f"str of at most {MAX_ID_NBYTES} bytes or int of 64 bits"
        _refuse(f"Expected {expected}, got a longer one - at $.id")
    if record is Request:
        _refuse(f"unknown op: {op}")
    return request


@functools.cache
def _required(record: type[Request]) -> tuple[str, ...]:
    fields = msgspec.structs.fields(record)
    # The order in which missing ones are named: those of every request first.
    return ("v", "id", "type", *(f.name for f in fields[3:] if f.required))


# -- replies ---------------------------------------------------------------------------------

#: What stands before the id of a response.
RESPONSE_HEAD: Final = b'{"v":1,"id":'


def response(request_id: Id, op: str, data: bytes) -> bytes:
    """Put a reply together, newline included, around ``data`` that is JSON already."""
    return RESPONSE_HEAD + _encode(request_id) + response_tail(op, data)


def response_tail(op: str, data: bytes) -> bytes:
    """Give what stands behind the id of a response."""
    return b',"type":"response","op":"%b","data":%b}\n' % (op.encode(), data)


def error(request_id: Id | None, code: ErrorCode, message: str) -> bytes:
    """Put an error reply together, newline included; the id is None where it was not readable."""
    return b'{"v":1,"id":%b,"type":"error","error":{"code":"%b","message":%b}}\n' % (
        _encode(request_id),
        code.encode(),
        _encode(message),
    )


def _refuse(message: str) -> Never:
    raise RequestError(ErrorCode.BAD_REQUEST, message) from None


def _json_type(value: object) -> str:
    names = {type(None): "null", list: "array"}
    return names.get(type(value), type(value).__name__)
