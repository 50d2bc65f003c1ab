"""The log as JSON: one flat object a line, whatever is in it."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import Logger
from twisted.python.failure import Failure

from quoteshm.service import logs
from quoteshm.service.settings import Settings


def written(level: str = "debug", form: str = "json") -> tuple[Logger, io.StringIO]:
    """Give a logger, and where it writes to."""
    file = io.StringIO()
    observer = logs.observer(file, Settings(log_level=level, log_format=form))
    return Logger("quoteshm.test", observer=observer), file


def lines(file: io.StringIO) -> list[dict[str, Any]]:
    """Read what was written."""
    return [json.loads(line) for line in file.getvalue().splitlines()]


def test_a_line_has_time_level_namespace_text_and_the_fields() -> None:
    """In this order, and flat."""
    log, file = written()
    log.warn("{ticker}: {count} rows", ticker="AAPL", count=3, path=Path("/x"), odd=math.nan)
    (told,) = lines(file)

    assert list(told)[:4] == ["time", "level", "namespace", "text"]
    assert told["time"].endswith("Z")
    assert told["time"][10] == "T"
    del told["time"]
    assert told == {
        "level": "warn",
        "namespace": "quoteshm.test",
        "text": "AAPL: 3 rows",
        "ticker": "AAPL",
        "count": 3,
        "path": "/x",
        "odd": "nan",
    }


def test_levels_are_kept_to() -> None:
    """As in text."""
    for form in logs.FORMATS:
        log, file = written("warn", form)
        log.info("not this")
        log.error("but this")
        assert len(file.getvalue().splitlines()) == 1


def test_a_failure_is_one_line_with_its_traceback() -> None:
    """The lines of which are in a string."""
    log, file = written()
    try:
        raise ValueError("no\nnumber")  # noqa: TRY301  a test's
    except ValueError:
        log.failure("{what} failed", what="it")
    (told,) = lines(file)

    assert told["text"] == "it failed"
    assert told["level"] == "critical"
    assert "ValueError: no" in told["traceback"]
    assert "Traceback" in told["traceback"]


def test_a_field_cannot_stand_in_for_what_every_line_has() -> None:
    """It keeps its value, under another name."""
    event = {"log_format": "{level}", "level": "mine", "text": "mine", "namespace": 1, "time": 5}
    told = json.loads(logs.json_line(event))

    assert (told["level"], told["level_"], told["text_"]) == ("info", "mine", "mine")
    assert told["namespace_"] == 1
    assert told["text"] == "mine"


def test_a_line_of_the_older_way_is_one_too() -> None:
    """As Twisted itself still writes some."""
    event = {
        "log_time": 0.0,
        "log_namespace": "log_legacy",
        "log_format": "{log_text}",
        "log_text": "Site starting on 1",
        "message": ("Site starting on 1",),
        "isError": 0,
        "system": "-",
        "time": 0.0,
    }
    assert json.loads(logs.json_line(event)) == {
        "time": "1970-01-01T00:00:00.000Z",
        "level": "info",
        "namespace": "log_legacy",
        "text": "Site starting on 1",
    }


def test_a_failure_without_words_says_what_it_is() -> None:
    """An empty text would say nothing."""
    event = {"log_failure": Failure(OSError("no disk")), "log_format": None}
    assert json.loads(logs.json_line(event))["text"] == "no disk"


@given(st.dictionaries(st.sampled_from(["peer", "reason", "time", "why"]), st.text()), st.text())
def test_nothing_breaks_a_line(fields: dict[str, str], text: str) -> None:
    """Line ends of every kind, control characters, halves of characters."""
    event = {"log_time": 1.0, "log_format": "{x}", "x": text, **fields}
    line = logs.json_line(event)

    assert line.endswith("\n")
    assert line[:-1].isascii()
    assert line[:-1].isprintable()
    assert json.loads(line)["text"] == text


@pytest.mark.parametrize("value", [b"bytes\xff", {"a": {1}}, [1, [2.5, None]], object, math.inf])
def test_any_value_can_be_a_field(value: object) -> None:
    """As JSON where JSON has it, else in words."""
    told = json.loads(logs.json_line({"log_format": "", "x": value}))["x"]
    assert told == (value if value == [1, [2.5, None]] else str(value))


def test_fields_are_kept_that_have_names_of_the_older_way() -> None:
    """Where the event is of the newer one."""
    event = {"log_format": "{why}", "why": "so", "message": "m", "system": "s", "format": "f"}
    told = json.loads(logs.json_line(event))
    assert [told[name] for name in ("why", "message", "system", "format")] == ["so", "m", "s", "f"]


class Wordless:
    """What cannot say what it is."""

    def __repr__(self) -> str:
        """Fail."""
        message = "no words"
        raise RuntimeError(message)


def test_a_value_that_cannot_be_written_down_costs_no_line() -> None:
    """Not even itself: its name stands for it."""
    endless: list[object] = []
    endless.append(endless)
    for value in (Wordless(), [Wordless()], 10**5000, endless):
        line = logs.json_line({"log_format": "it is {x}", "x": value})
        assert json.loads(line)["namespace"] is not None
    told = json.loads(logs.json_line({"log_format": "fine", "x": Wordless()}))
    assert (told["text"], told["x"]) == ("fine", "<Wordless without words>")


def test_an_event_that_cannot_be_written_down_is_a_line_that_says_so() -> None:
    """Whoever logs does not fail for it."""
    told = json.loads(logs.json_line({"log_format": "fine", "log_time": math.nan}))
    assert told["level"] == "error"
    assert told["text"] == "an event could not be written down: ValueError"
