"""Tests of the keyboard."""

from __future__ import annotations

import pytest

from quoteshm.cli.keys import HANGUP, parse


@pytest.mark.parametrize(
    ("sent", "keys"),
    [
        (b"q", ["q"]),
        (b"tp", ["t", "p"]),
        (b"\x1b[A\x1b[B", ["up", "down"]),
        (b"\x1bOAj", ["up", "j"]),
        (b"\x1b[5~\x1b[6~ ", ["pgup", "pgdn", "pgdn"]),
        (b"\x1b[1;5Cq", ["\x1b[1;5C", "q"]),
        (b"\x1b", ["\x1b"]),
        (b"", [HANGUP]),
    ],
)
def test_what_a_terminal_sends_becomes_keys(sent: bytes, keys: list[str]) -> None:
    """Letters, sequences, several at a time, and a terminal that has gone."""
    assert parse(sent) == keys


def test_any_byte_is_some_key() -> None:
    """Nothing that can be typed raises."""
    assert len(parse(bytes(range(256)))) > 200
