"""What systemd is told, heard at a real socket, on a clock that the test moves."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from twisted.internet import task
from twisted.logger import capturedLogs
from twisted.trial import unittest

from quoteshm.service.notify import LOOK_S, MAX_WORDS, PULSE_S, WORDS_S, Channel, Notify
from tests.notify_socket import notify_socket

WATCHDOG_S = 8.0


class FakeStanding:
    """A daemon that is as the test says."""

    def __init__(self) -> None:
        self.published, self.why, self.said = False, "", "nothing yet"

    def is_published(self) -> bool:
        """Tell what the test says."""
        return self.published

    def unwell(self) -> str | None:
        """Give what the test says."""
        return self.why or None

    def words(self) -> str:
        """Say what the test says."""
        return self.said


def environment(address: str, **more: str) -> dict[str, str]:
    """Give what systemd puts into the environment of a service with a watchdog."""
    return {
        "NOTIFY_SOCKET": address,
        "WATCHDOG_USEC": str(round(WATCHDOG_S * 1e6)),
        "WATCHDOG_PID": str(os.getpid()),
        **more,
    }


class Case(unittest.TestCase):
    """A notifier on a clock, and a socket that hears it."""

    def setUp(self) -> None:
        """Listen."""
        self.socket = self.enterContext(notify_socket())
        self.clock, self.standing = task.Clock(), FakeStanding()

    def start(self, **environ: str) -> Notify:
        """Start a notifier."""
        channel = Channel.from_environment(environment(self.socket.address, **environ))
        one = Notify(self.clock, channel, self.standing)
        one.startService()
        self.addCleanup(one.stopService)
        return one

    def after(self, seconds: float) -> list[str]:
        """Let time pass, look by look, and give the lines that were sent meanwhile."""
        for _ in range(round(seconds / LOOK_S)):
            self.clock.advance(LOOK_S)
        return [line for message in self.socket.come() for line in message]


class TestReady(Case):
    """When it is ready, and what holds until then."""

    def test_it_is_ready_once_when_something_is_published(self) -> None:
        """Not before, and never again; the status comes along."""
        self.start()
        assert self.after(LOOK_S) == ["STATUS=nothing yet"]
        assert "READY=1" not in self.after(60)
        self.after(LOOK_S)  # an odd one: no sign of life is due in the next
        self.standing.published, self.standing.said = True, "2 tickers"
        assert self.after(LOOK_S) == ["READY=1", "STATUS=2 tickers"]
        assert set(self.after(60)) == {"WATCHDOG=1"}

    def test_until_then_it_asks_for_more_time_as_long_as_it_is_well(self) -> None:
        """A source without an answer is waited for; a daemon that hangs is not."""
        self.start()
        lines = self.after(4 * WATCHDOG_S)
        assert lines.count(f"EXTEND_TIMEOUT_USEC={round(WATCHDOG_S * 1e6)}") == 8
        self.standing.why = "ill"
        self.after(0)
        with capturedLogs():
            assert self.after(60) == []
        self.standing.why, self.standing.published = "", True
        assert not any("EXTEND" in line for line in self.after(60)[2:])

    def test_more_time_is_asked_for_without_a_watchdog_too(self) -> None:
        """And once it is ready there is nothing more to say."""
        self.start(WATCHDOG_USEC="")
        assert self.after(PULSE_S)[1:] == [f"EXTEND_TIMEOUT_USEC={round(2 * PULSE_S * 1e6)}"]
        self.standing.published = True
        assert self.after(LOOK_S) == ["READY=1"]
        assert self.after(5 * PULSE_S) == []


class TestStatus(Case):
    """The words that ``systemctl status`` shows."""

    def test_it_is_sent_on_change_and_not_each_second(self) -> None:
        """What changes all the time is said as it is then, some time later."""
        self.start(WATCHDOG_USEC="0")
        self.standing.published = True
        assert self.after(LOOK_S) == ["READY=1", "STATUS=nothing yet"]
        assert self.after(WORDS_S * 3) == []
        self.standing.said = "one"
        assert self.after(LOOK_S) == ["STATUS=one"]
        for count in range(round(WORDS_S / LOOK_S) - 1):
            self.standing.said = f"{count} more"
            assert self.after(LOOK_S) == []
        self.standing.said = "the last"
        assert self.after(LOOK_S) == ["STATUS=the last"]

    def test_words_from_outside_are_one_line_of_some_length(self) -> None:
        """No vendor's message can be a message to systemd."""
        self.start()
        self.standing.said = "broke off:\nREADY=1\r\nWATCHDOG=1" + " and so on" * 1000
        (line,) = self.after(LOOK_S)
        assert line.startswith("STATUS=broke off: READY=1 WATCHDOG=1 and")
        assert len(line) == len("STATUS=") + MAX_WORDS

    def test_what_cannot_be_printed_is_left_out(self) -> None:
        """Half a character of a file's name, or what moves a cursor."""
        self.start()
        self.standing.said = "bad \udcff name\x1b[31m, caf\xe9\0"
        assert self.after(LOOK_S) == ["STATUS=bad  name[31m, caf\xe9"]


class TestWatchdog(Case):
    """Signs of life."""

    def test_they_come_twice_in_its_time_while_all_is_well(self) -> None:
        """Never further apart than half of it."""
        self.standing.published = True
        self.start()
        self.after(LOOK_S)
        for _ in range(5):
            assert "WATCHDOG=1" in self.after(WATCHDOG_S / 2)

    def test_a_short_one_is_kept_to_as_well(self) -> None:
        """Though it is shorter than the time between two looks."""
        self.standing.published = True
        self.start(WATCHDOG_USEC="300000")
        for _ in range(20):
            self.clock.advance(0.15)
            assert self.socket.come()[0][0] == "WATCHDOG=1"

    def test_they_stop_when_it_is_unwell_and_come_back_at_once(self) -> None:
        """Its reason is one line of the log."""
        self.standing.published = True
        self.start()
        self.after(LOOK_S)
        self.standing.why = "no heart {beat}"
        with capturedLogs() as events:
            assert self.after(5 * WATCHDOG_S) == []
        assert [event["why"] for event in events] == ["no heart {beat}"]
        self.standing.why = ""
        assert self.after(LOOK_S) == ["WATCHDOG=1"]

    def test_another_process_is_not_spoken_for(self) -> None:
        """The watchdog of a parent is the parent's."""
        self.standing.published = True
        self.start(WATCHDOG_PID=str(os.getppid()))
        assert self.after(60) == ["READY=1", "STATUS=nothing yet"]

    def test_a_bug_in_its_words_costs_no_sign_of_life(self) -> None:
        """It is logged, and all else goes on."""
        self.standing.published = True
        self.start()
        self.after(LOOK_S)
        self.standing.words = None  # type: ignore[assignment,method-assign]
        self.after(WORDS_S)
        lines = self.after(WATCHDOG_S)
        assert lines.count("WATCHDOG=1") == 2
        assert self.flushLoggedErrors(TypeError)


class TestStop(Case):
    """The end."""

    def test_it_says_that_it_stops_and_lives_on_until_it_has(self) -> None:
        """Once, and nothing of what else may happen then."""
        self.standing.published = True
        one = self.start()
        self.after(LOOK_S)
        one.stopping()
        one.stopping()
        self.standing.said = "other words"
        assert self.after(0) == ["STOPPING=1", "STATUS=stopping"]
        assert self.after(WATCHDOG_S) == ["WATCHDOG=1", "WATCHDOG=1"]
        with one.reloading():
            pass
        self.successResultOf(one.stopService())
        assert self.after(60) == []


class TestReload(Case):
    """Settings that are read again."""

    def test_it_says_when_it_begins_and_when_it_is_over(self) -> None:
        """Also when it fails; with the time that Type=notify-reload asks for."""
        self.standing.published = True
        one = self.start()
        self.after(LOOK_S)

        def reload_in_vain() -> None:
            with one.reloading():
                (message,) = self.socket.come()
                assert message[0] == "RELOADING=1"
                assert re.fullmatch(r"MONOTONIC_USEC=\d+", message[1])
                raise KeyError

        with pytest.raises(KeyError):
            reload_in_vain()
        assert self.socket.come() == [["READY=1"]]

    def test_before_it_is_ready_it_says_nothing(self) -> None:
        """The end of a reload would make it ready."""
        with self.start().reloading():
            pass
        assert self.socket.come() == []


class TestChannel(unittest.TestCase):
    """The way to systemd."""

    def test_without_one_nothing_happens(self) -> None:
        """No call is waiting, and nothing is an error."""
        for environ in ({}, {"NOTIFY_SOCKET": "", "WATCHDOG_USEC": "1"}):
            clock = task.Clock()
            channel = Channel.from_environment(environ)
            assert channel is None
            one = Notify(clock, channel, FakeStanding())
            one.startService()
            one.stopping()
            with one.reloading():
                pass
            assert clock.getDelayedCalls() == []
            self.successResultOf(one.stopService())

    def test_an_abstract_address_begins_with_an_at_sign(self) -> None:
        """As in a container of systemd's."""
        with notify_socket(abstract=True) as hears:
            channel = Channel.from_environment({"NOTIFY_SOCKET": hears.address})
            assert channel is not None
            assert channel.send("READY=1", "STATUS=fine")
            assert hears.come() == [["READY=1", "STATUS=fine"]]

    def test_another_kind_of_address_is_said_and_left_alone(self) -> None:
        """Such as that of a virtual machine's manager."""
        with capturedLogs() as events:
            assert Channel.from_environment({"NOTIFY_SOCKET": "vsock:2:1234"}) is None
        assert events[0]["address"] == "vsock:2:1234"

    def test_a_watchdog_that_makes_no_sense_is_none(self) -> None:
        """Zero is none, too."""
        for text in ("", "0", "-5", "soon", "1.5"):
            channel = Channel.from_environment({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": text})
            assert channel is not None
            assert channel.watchdog_s is None

    def test_a_manager_that_does_not_listen_is_one_line_and_told_later(self) -> None:
        """What did not get through is sent once it does."""
        standing, clock = FakeStanding(), task.Clock()
        standing.published = True
        with notify_socket() as hears:
            away = Path(hears.address).rename(f"{hears.address}-away")
            one = Notify(clock, Channel(hears.address), standing)
            one.startService()
            self.addCleanup(one.stopService)
            with capturedLogs() as events:
                for _ in range(5):
                    clock.advance(LOOK_S)
            assert len(events) == 1
            away.rename(hears.address)
            clock.advance(LOOK_S)
            assert hears.come() == [["READY=1", "STATUS=nothing yet"]]

    def test_a_manager_that_does_not_read_is_not_waited_for(self) -> None:
        """Its socket is full after some messages, and the reactor goes on."""
        with notify_socket() as hears:
            channel = Channel(hears.address)
            with capturedLogs() as events:
                sent = [channel.send("x" * 1000) for _ in range(5000)]
            assert not sent[-1]
            assert len(events) == 1

    def test_what_is_no_character_does_not_break_a_message(self) -> None:
        """It is escaped."""
        with notify_socket() as heard:
            channel = Channel.from_environment(environment(heard.address))
            assert channel is not None
            assert channel.send("STATUS=\udcff")
            assert heard.come() == [["STATUS=\\udcff"]]
