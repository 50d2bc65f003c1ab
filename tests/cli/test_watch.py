"""Tests of the lines of ``quoteshm watch``, without a server."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

from quoteshm.cli import watch
from quoteshm.cli.output import Format
from quoteshm.client.events import Event, LostEvent, QuotesEvent, ResumedEvent, SnapshotEvent
from tests.cli.test_output import a_quote

if TYPE_CHECKING:
    from pathlib import Path

    from quoteshm.model import Quote


class Told:
    """Events as a subscription gives them, Ctrl-C at the end."""

    def __init__(self, *events: Event | None) -> None:
        self._events = list(events)

    def wait(self, timeout_s: float) -> Event | None:
        """Give the next one."""
        if not self._events:
            raise KeyboardInterrupt
        return self._events.pop(0)


def snapshot(*quotes: Quote, missing: tuple[str, ...] = ()) -> SnapshotEvent:
    """Give a snapshot of quotes."""
    return SnapshotEvent(2, "1" * 32, 1000, 5.0, {q.ticker: q for q in quotes}, list(missing))


def follow(shape: Format, *events: Event | None) -> None:
    """Print events."""
    told: Any = Told(*events)
    with pytest.raises(KeyboardInterrupt):
        watch.follow(told, shape, "there:9000")


EVENTS = (
    snapshot(a_quote("A", 1.0, prev_close=math.nan), a_quote("OLD", 5.0), missing=("B\x1b",)),
    None,
    QuotesEvent(6, 1, {"A": a_quote("A", 2.0), "OLD": None}),
    LostEvent("refused"),
    ResumedEvent(8, 0, {}),
    QuotesEvent(10, 0, {"A": a_quote("A", 1.5, stale=True)}),
)


def test_each_change_is_a_document(capsys: pytest.CaptureFixture[str]) -> None:
    """With the epoch and what was left out before it; NaN is null."""
    follow(Format.JSON, *EVENTS)

    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["epoch"], line["skipped"], line["ticker"]) for line in lines] == [
        (2, 0, "A"),
        (2, 0, "OLD"),
        (6, 1, "A"),
        (6, 1, "OLD"),
        (10, 0, "A"),
    ]
    assert lines[0]["prev_close"] is None
    assert lines[3] == {"epoch": 6, "skipped": 1, "ticker": "OLD", "removed": True}


def test_each_change_is_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    """Under one heading; of what was removed there is the name alone."""
    follow(Format.CSV, *EVENTS)

    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["price"] for row in rows] == ["1.0", "5.0", "2.0", "", "1.5"]
    assert rows[3]["ticker"] == "OLD"


def test_each_change_is_a_line_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    """Up, down, stale and removed in words and signs."""
    follow(Format.TABLE, *EVENTS)

    heading, first, old, up, removed, down = capsys.readouterr().out.splitlines()
    assert heading.split() == ["TIME", "TICKER", "PRICE", "CHANGE", "CHANGE", "%", "VOLUME"]
    assert " 1.00 " in first
    assert " - " in first  # no previous close, no change
    assert "▲ 2.00" in up
    assert "▼ 1.50" in down
    assert down.rstrip().endswith("STALE")
    assert old.split()[1] == "OLD"
    assert removed.split() == ["OLD", "removed"]
    assert heading.index("PRICE") + len("PRICE") == up.index("2.00") + len("2.00")


def test_the_connection_is_told_of_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    """And what has no value, harmless to the terminal."""
    follow(Format.JSON, *EVENTS)

    assert capsys.readouterr().err.splitlines() == [
        r"quoteshm: no value yet: B\x1b",
        "quoteshm: connection lost: refused; trying again",
        "quoteshm: connected to there:9000 again",
    ]


def test_a_pipe_that_nobody_reads_ends_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Though there is nothing to print; a file does not."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        told: Any = Told(None)
        with pytest.raises(BrokenPipeError):
            watch.follow(told, Format.JSON, "there:9000")
    with (tmp_path / "out").open("w") as file:
        monkeypatch.setattr(sys, "stdout", file)
        follow(Format.JSON, None)
