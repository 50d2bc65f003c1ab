"""The log of changes: a line for each of a few tickers, and one for all the others."""

from __future__ import annotations

import pytest
from twisted.logger import Logger, capturedLogs, formatEvent

from quoteshm.service.change_log import NAMED, ChangeLog
from quoteshm.sources.base import Failure, Reason


@pytest.fixture
def changes() -> ChangeLog:
    """Give one that has nothing to tell."""
    return ChangeLog(Logger("test"))


def test_five_hundred_that_fail_at_once_are_some_lines(changes: ChangeLog) -> None:
    """The first ones are named; how many more there are is told at the end, for each reason."""
    with capturedLogs() as logged:
        for i in range(500):
            changes.failed(Failure(f"T{i}", Reason.TIMED_OUT, "no answer"))
        changes.failed(Failure("X", Reason.NOT_FOUND, "no such symbol"))
        changes.close()
    said = [formatEvent(event) for event in logged]
    assert said[:NAMED] == [f"T{i}: timed out, no answer" for i in range(NAMED)]
    assert said[NAMED:] == [
        "X: not found, no such symbol",
        f"{500 - NAMED} more tickers: timed out; the last is T499, no answer",
    ]


def test_those_that_work_again_are_some_lines_too(changes: ChangeLog) -> None:
    """And the next refresh begins anew."""
    for _ in range(2):
        with capturedLogs() as logged:
            for i in range(NAMED + 2):
                changes.recovered(f"T{i}")
            changes.close()
        said = [formatEvent(event) for event in logged]
        assert said[-2:] == [f"T{NAMED - 1}: works again", "2 more tickers work again"]
    with capturedLogs() as logged:
        changes.close()
    assert logged == []
