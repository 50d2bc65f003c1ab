"""Requests read strictly, replies put together."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from quoteshm.errors import ErrorCode, RequestError
from quoteshm.wire import messages
from quoteshm.wire.operations import RECORDS
from tests.wire.hostile import HOSTILE

# Few letters, those that JSON escapes among them.
TEXTS = st.text('a"\\/\0\n\x7fé\u2028😀', max_size=6)
IDS = TEXTS | st.integers(-(1 << 63), (1 << 64) - 1)


def read(document: dict[str, Any]) -> messages.Request:
    """Read a request as it comes from a line."""
    return messages.read(messages.parse(json.dumps(document).encode()), RECORDS)


def refusal(document: dict[str, Any]) -> str:
    """Give the message of a request that is refused."""
    with pytest.raises(RequestError) as caught:
        read(document)
    assert caught.value.code is ErrorCode.BAD_REQUEST
    return caught.value.message


def test_a_request_has_its_ops_own_record() -> None:
    """Fields of the op, defaults where there are none, unknown ones ignored."""
    document = {"v": 1, "id": "a", "type": "get_history", "ticker": "A", "last": 3, "x": [{}]}
    assert read(document) == messages.GetHistory(
        v=1, id="a", type="get_history", ticker="A", interval=None, last=3, since=None
    )


@pytest.mark.parametrize("op", list(RECORDS))
def test_null_stands_for_an_optional_field_left_out(op: str) -> None:
    """As many clients write it."""
    record = RECORDS[op]
    document: dict[str, Any] = {
        "v": 1,
        "id": 1,
        "type": op,
        "ticker": "A",
        "token": "t",
        **({"tickers": ["A"]} if op in ("subscribe", "add_tickers", "remove_tickers") else {}),
    }
    optional = {f.name: None for f in msgspec.structs.fields(record) if not f.required}
    assert read(document | optional) == read(document)


@pytest.mark.parametrize(
    ("document", "missing"),
    [
        ({}, "v, id, type"),
        ({"x": 1}, "v, id, type"),
        ({"v": 1}, "id, type"),
        ({"type": "ping"}, "v, id"),
        ({"type": "get_quote"}, "v, id, ticker"),
        ({"v": 1, "id": 1, "type": "get_quote"}, "ticker"),
        ({"v": 1, "id": 1, "type": "get_history", "last": 0}, "ticker"),
        ({"ticker": "A", "id": 1}, "v, type"),
        ({"type": "nope"}, "v, id"),
        ({"type": 5, "id": 1}, "v"),
        ({"v": "x", "id": [], "type": "get_quote"}, "ticker"),
    ],
)
def test_all_missing_fields_are_named(document: dict[str, Any], missing: str) -> None:
    """Those of every request first, then the op's own."""
    assert refusal(document) == f"Missing required fields: {missing}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ticker": 5}, "Expected str, got int - at $.ticker"),
        ({"ticker": None}, "Expected str, got null - at $.ticker"),
        ({"interval": 1}, "Expected str | null, got int - at $.interval"),
        ({"last": 0}, "Expected int >= 1 - at $.last"),
        ({"last": True}, "Expected int | null, got bool - at $.last"),
        ({"last": 1.0}, "Expected int | null, got float - at $.last"),
        ({"last": "1"}, "Expected int | null, got str - at $.last"),
        ({"since": 1.5}, "Expected int | null, got float - at $.since"),
        ({"since": 1 << 63}, "Expected int <= 9223372036854775807 - at $.since"),
        ({"v": 2}, "Expected protocol version 1, got 2 - at $.v"),
        ({"v": 1.0}, "Expected int, got float - at $.v"),
        ({"v": True}, "Expected int, got bool - at $.v"),
        ({"v": "1"}, "Expected int, got str - at $.v"),
        ({"id": None}, "Expected int | str, got null - at $.id"),
        ({"id": True}, "Expected int | str, got bool - at $.id"),
        ({"id": 1.0}, "Expected int | str, got float - at $.id"),
        ({"id": {}}, "Expected int | str, got object - at $.id"),
        ({"id": []}, "Expected int | str, got array - at $.id"),
        ({"type": 5}, "Expected str, got int - at $.type"),
        ({"type": {}}, "Expected str, got object - at $.type"),
        ({"type": "nope"}, "unknown op: nope"),
        ({"type": ""}, "unknown op: "),
        ({"type": "Request"}, "unknown op: Request"),
        ({"type": "get_quotes", "tickers": "*"}, "Expected array | null, got str - at $.tickers"),
        ({"type": "get_quotes", "tickers": ["A", 3]}, "Expected str, got int - at $.tickers[1]"),
    ],
)
def test_a_wrong_field_is_named_with_its_place(change: dict[str, Any], message: str) -> None:
    """What was expected, what was found, and where."""
    document = {"v": 1, "id": "a", "type": "get_history", "ticker": "A"}
    assert refusal(document | change) == message


@pytest.mark.parametrize("bad", ["x" * 129, "é" * 65, "😀" * 33, 1 << 64, -(1 << 63) - 1, 10**100])
def test_an_id_that_is_too_long_is_none(bad: object) -> None:
    """128 bytes of UTF-8, or 64 bits."""
    document = {"v": 1, "id": bad, "type": "ping"}
    assert refusal(document).endswith("- at $.id")
    assert messages.readable_id(document) is None


@pytest.mark.parametrize(
    "good", ["", "x" * 128, "é" * 64, "😀" * 32, "\0", 0, -1, (1 << 64) - 1, -(1 << 63)]
)
def test_an_id_of_just_the_limit_is_one(good: messages.Id) -> None:
    """And is read as what it is."""
    document = {"v": 1, "id": good, "type": "ping"}
    assert read(document).id == messages.readable_id(document) == good


@pytest.mark.parametrize("found", [None, True, 1.5, [], {}])
def test_what_is_no_id_is_not_readable(found: object) -> None:
    """A bool is no integer."""
    assert messages.readable_id({"id": found}) is None
    assert messages.readable_id({}) is None


@pytest.mark.parametrize("line", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_line_is_a_bad_request(line: bytes) -> None:
    """And nothing else is raised."""
    with pytest.raises(RequestError) as caught:
        messages.read(messages.parse(line), RECORDS)
    assert caught.value.code is ErrorCode.BAD_REQUEST


@given(st.binary(max_size=64))
@example(b"1" * 5000)
def test_any_bytes_are_read_or_refused(line: bytes) -> None:
    """Nothing but a RequestError."""
    try:
        messages.read(messages.parse(line), RECORDS)
    except RequestError as error:
        assert error.code is ErrorCode.BAD_REQUEST  # noqa: PT017  most lines are refused, not all


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "v": st.just(1) | JSON,
            "id": JSON,
            "type": st.sampled_from(list(RECORDS)) | JSON,
            "ticker": JSON,
            "tickers": JSON,
            "interval": JSON,
            "last": JSON,
            "since": JSON,
        },
    )
)
def test_any_fields_are_read_or_refused(document: dict[str, object]) -> None:
    """What is missing is told from what is wrong, and what is read is of the declared types."""
    try:
        request = messages.read(document, RECORDS)
    except RequestError as error:
        missing = [name for name in ("v", "id", "type") if name not in document]
        if missing:
            assert error.message.startswith(  # noqa: PT017  as above
                f"Missing required fields: {', '.join(missing)}"
            )
    else:
        assert type(request.v) is int
        assert type(request.id) in (int, str)
        assert request.type == document["type"]


def test_of_a_key_given_twice_the_last_counts() -> None:
    """For every field, and for those of the op."""
    line = b'{"v":9,"v":1,"id":1,"id":"b","type":"nope","type":"get_quote","ticker":1,"ticker":"A"}'
    assert messages.read(messages.parse(line), RECORDS) == messages.GetQuote(
        v=1, id="b", type="get_quote", ticker="A"
    )


@given(IDS, st.sampled_from(list(RECORDS)), JSON)
def test_a_response_is_the_plain_encoding(request_id: messages.Id, op: str, data: object) -> None:
    """Put together from bytes, it is what encoding the whole gives."""
    document = {"v": 1, "id": request_id, "type": "response", "op": op, "data": data}
    reply = messages.response(request_id, op, msgspec.json.encode(data))
    assert reply == msgspec.json.encode(document) + b"\n"


@given(IDS | st.none(), st.sampled_from(ErrorCode), TEXTS)
def test_an_error_is_the_plain_encoding(
    request_id: messages.Id | None, code: ErrorCode, message: str
) -> None:
    """Whatever the message says, it is one line."""
    document = {
        "v": 1,
        "id": request_id,
        "type": "error",
        "error": {"code": code, "message": message},
    }
    reply = messages.error(request_id, code, message)
    assert reply == msgspec.json.encode(document) + b"\n"
    assert reply.count(b"\n") == 1
