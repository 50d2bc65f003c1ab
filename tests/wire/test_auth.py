"""Whether a client may ask."""

from __future__ import annotations

import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quoteshm.wire.auth import OPEN_OPS, Gate
from quoteshm.wire.operations import OPERATIONS

TOKEN = "käse-and-biscuits"  # noqa: S105 (of a test)


def test_without_a_token_everybody_may_ask_for_everything() -> None:
    """Whatever token they show."""
    gate = Gate()

    assert gate.is_open
    assert gate.check("anything")
    assert all(gate.lets_pass(op) for op in OPERATIONS)


def test_with_a_token_only_ping_and_auth_pass() -> None:
    """Also no op that does not exist."""
    gate = Gate(TOKEN.encode())

    assert not gate.is_open
    assert {op for op in (*OPERATIONS, "auth", "nope", "") if gate.lets_pass(op)} == OPEN_OPS


@given(st.text(st.characters(), max_size=40))
def test_only_the_token_is_the_token(text: str) -> None:
    """No other text is, be it a prefix, empty, or no text that UTF-8 has."""
    gate = Gate(TOKEN.encode())

    assert gate.check(text) == (text == TOKEN)
    assert gate.check(TOKEN)
    assert not any(gate.check(TOKEN[:n]) for n in range(len(TOKEN)))


def test_it_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the one function that promises that, on all of it."""
    compared: list[tuple[object, object]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return one == other

    monkeypatch.setattr(hmac, "compare_digest", compare)
    gate = Gate(b"secret")

    assert not gate.check("secreT")
    assert not gate.check("")
    assert compared == [(b"secreT", b"secret"), (b"", b"secret")]


def test_it_does_not_show_the_token() -> None:
    """In a traceback with its locals, for example."""
    assert TOKEN not in repr(Gate(TOKEN.encode()))
