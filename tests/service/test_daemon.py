"""The daemon as a process: what is refused, its clock, and its log under twistd."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from twisted.application.service import Application
from twisted.internet.selectreactor import SelectReactor
from twisted.logger import ILogObserver, LogLevel

from quoteshm.errors import SettingsError
from quoteshm.service import daemon, logs
from quoteshm.service.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Name a folder of the test's own."""
    return Settings(source="synthetic", tickers=("AAPL", "MSFT"), shm_dir=tmp_path)


def test_a_bad_value_is_refused_before_anything_is_opened(
    settings: Settings, tmp_path: Path
) -> None:
    """The option is named, and nothing is there afterwards."""
    with pytest.raises(SettingsError) as caught:
        daemon.make_daemon(replace(settings, shm_group="no such group"), lambda _: None)
    assert caught.value.option == "--shm-group"
    assert list(tmp_path.iterdir()) == []


def test_a_wall_clock_that_is_set_back_holds_nothing_up() -> None:
    """Time since boot is what the reactor schedules by."""
    one = SelectReactor()
    daemon.steady(one)
    due_s = one.callLater(5, int).getTime()
    assert 0 <= time.clock_gettime(time.CLOCK_BOOTTIME) + 5 - due_s < 1


def test_only_the_level_and_above_get_through(settings: Settings) -> None:
    """In a log that stands in for twistd's."""
    events: list[Any] = []
    observer = logs.filtered(events.append, replace(settings, log_level="warn"))
    for level in (LogLevel.debug, LogLevel.info, LogLevel.warn, LogLevel.error):
        observer({"log_level": level, "log_namespace": "any"})
    assert [event["log_level"] for event in events] == [LogLevel.warn, LogLevel.error]


def test_twistds_log_is_left_to_the_application(settings: Settings) -> None:
    """The one that twistd would make, behind the level; a syslog is left alone."""
    for syslog in (False, True):
        options = daemon.Options()
        options.settings = settings
        twistd: Any = {"syslog": syslog, "logfile": "-", "nodaemon": True, "pidfile": ""}
        options.parent = twistd
        application: Any = Application("test")
        daemon.makeService(options).setServiceParent(application)
        assert (application.getComponent(ILogObserver, None) is None) == syslog
