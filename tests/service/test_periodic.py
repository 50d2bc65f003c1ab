"""What is done each second or so goes on, whatever becomes of it."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial import unittest

from quoteshm.service.periodic import Periodic


class TestPeriodic(unittest.TestCase):
    """Something that fails, on a clock of the test's."""

    def setUp(self) -> None:
        """Begin nothing."""
        self.time = Clock()
        self.rounds: list[float] = []

    def look(self) -> None:
        """Fail each time."""
        self.rounds.append(self.time.seconds())
        raise ZeroDivisionError

    def said(self, one: Periodic) -> list[str | None]:
        """Let three seconds pass; give what was logged."""
        with capturedLogs() as logged:
            one.startService()
            self.time.pump([1, 1, 1])
        self.flushLoggedErrors(ZeroDivisionError)
        return [formatEvent(event) for event in logged]

    def test_it_goes_on_after_a_failure(self) -> None:
        """Which is logged, each time; a stop ends it."""
        one = Periodic(self.time, 1.0, self.look)
        assert self.said(one) == ["look failed"] * 3
        assert self.rounds == [1, 2, 3]
        one.stopService()
        one.stopService()
        self.time.advance(1)
        assert len(self.rounds) == 3

    def test_it_may_begin_at_once_and_say_what_failed(self) -> None:
        """In the words of who has it done."""
        one = Periodic(self.time, 1.0, self.look, failed="no look", now=True)
        assert self.said(one) == ["no look"] * 4
        assert self.rounds == [0, 1, 2, 3]
        one.stopService()
