"""The daemon as a process: settings become a tree of services, which twistd or `serve` runs.

What keeps it from starting is one line, and exit status 1.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from twisted.application.service import MultiService
from twisted.logger import ILogObserver, globalLogBeginner
from twisted.python import logfile, usage
from twisted.python.components import Componentized

from quoteshm.clock import SystemClock
from quoteshm.errors import SettingsError
from quoteshm.service import logs, making
from quoteshm.service import options as settings_options
from quoteshm.service.secret import read_token
from quoteshm.service.tree import Daemon
from quoteshm.sources.worker import are_at_work
from quoteshm.wire.auth import Gate

if TYPE_CHECKING:
    from collections.abc import Callable

    from quoteshm.service.settings import Settings


def make_daemon(settings: Settings, start_failed: Callable[[Exception], None]) -> Daemon:
    """Put the tree together; nothing is opened before it starts.

    Raises
    ------
    SettingsError
        A folder or a group that an option names is not there, its token cannot be read, or what
        ``--http`` or ``--live`` needs is not installed.

    """
    from twisted.internet import reactor  # noqa: PLC0415 (installs one: not when this is imported)

    making.check(settings)
    token = None if settings.auth_token_file is None else read_token(settings.auth_token_file)
    clock = SystemClock()
    source, tickers = making.make_source(settings, clock)
    return Daemon(
        settings,
        reactor,
        clock,
        source,
        tickers=tickers,
        start_failed=start_failed,
        gate=Gate(token),
    )


# -- as a plugin of twistd -------------------------------------------------------------------


class Options(settings_options.Options):
    """The options as a command of twistd's: a bad one ends it with one line and status 1."""

    synopsis = "[options]"

    def parseOptions(self, options: list[str] | None = None) -> None:
        """Parse the options behind the command's name."""
        try:
            super().parseOptions(options)  # type: ignore[no-untyped-call]
        except (usage.UsageError, SettingsError) as error:
            message = f"quoteshm: {error}"
            raise SystemExit(message) from None


class _UnderTwistd(MultiService):
    """The daemon as part of twistd's application, whose log keeps to ``--log-level``."""

    def __init__(self, daemon: Daemon, options: Options) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._daemon, self._options, self._heeds_hangups = daemon, options, False
        daemon.setServiceParent(self)  # type: ignore[no-untyped-call]

    def setServiceParent(self, parent: Any) -> None:  # noqa: ANN401 (twistd's application)
        """Join the application, and leave the log that twistd is to begin with there."""
        twistd = self._options.parent
        if isinstance(parent, Componentized) and twistd is not None and not twistd["syslog"]:
            name = twistd["logfile"] or ("-" if twistd["nodaemon"] else "twistd.log")
            observer = logs.observer(_log_file(name), self._options.settings)
            parent.setComponent(ILogObserver, observer)
            self._heeds_hangups = True
        super().setServiceParent(parent)  # type: ignore[no-untyped-call]

    def startService(self) -> None:
        """Start the daemon, on a clock that does not jump."""
        from twisted.internet import reactor  # noqa: PLC0415 (installs one: not when this is imported)

        steady(reactor)
        if self._heeds_hangups:  # not before: twistd has left its terminal by now, if it is to
            heed_hangups(self._daemon)
        super().startService()  # type: ignore[no-untyped-call]


def steady(reactor: Any) -> None:  # noqa: ANN401 (one of Twisted's, of several interfaces)
    """Let a reactor schedule by time since boot, before it has anything to do.

    Its own clock is the wall's: set back by an hour, that one would stop heartbeats and refreshes
    for an hour.
    """
    reactor.seconds = functools.partial(time.clock_gettime, time.CLOCK_BOOTTIME)


def heed_hangups(daemon: Daemon) -> None:
    """Have SIGHUP read the tickers again; take a terminal that closes for SIGTERM.

    Both come as SIGHUP. It is the terminal if there was one, and there is none any more: the
    segment would stay in memory if that ended the process as it stands.
    """
    from twisted.internet import reactor  # noqa: PLC0415 (installs one: not when this is imported)

    one = cast("Any", reactor)
    is_default = signal.getsignal(signal.SIGHUP) is signal.SIG_DFL  # not so under nohup
    follows_terminal = is_default and _has_terminal()

    def hung_up() -> None:
        if follows_terminal and not _has_terminal():
            one.stop()
        else:
            daemon.reload()

    signal.signal(signal.SIGHUP, lambda *_: one.callFromThread(hung_up))


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _log_file(name: str) -> Any:  # noqa: ANN401 (a file, or one of Twisted's that is like one)
    """Open a log as twistd does, with a new file at SIGUSR1."""
    if name == "-":
        return sys.stdout
    from twisted.internet import reactor  # noqa: PLC0415 (installs one: not when this is imported)

    file: Any = logfile.LogFile.fromFullPath(name)
    rotate = cast("Any", reactor).callFromThread
    signal.signal(signal.SIGUSR1, lambda *_: rotate(file.rotate))
    return file


def makeService(options: Options) -> MultiService:
    """Make the service that twistd runs.

    A start that fails ends the process. One that has become a daemon raises the error itself, as
    twistd passes it on to the terminal that waits for it.
    """
    nodaemon = options.parent is None or options.parent["nodaemon"]

    def start_failed(error: Exception) -> None:
        if not nodaemon:
            raise error
        pidfile = options.parent["pidfile"] if options.parent is not None else None
        if pidfile:  # twistd has just written it, and takes it away only after an Exception
            Path(pidfile).unlink(missing_ok=True)
        raise SystemExit(1)

    try:
        return _UnderTwistd(make_daemon(options.settings, start_failed), options)
    except SettingsError as error:
        message = f"quoteshm: {error}"
        raise SystemExit(message) from None


# -- in the foreground -----------------------------------------------------------------------


def _exit(_error: Exception) -> None:
    raise SystemExit(1)


def serve(argv: Sequence[str]) -> int:
    """Run the daemon in the foreground, without twistd's own options; logs go to stderr.

    Parameters
    ----------
    argv : sequence of str
        The daemon's options.

    Returns
    -------
    int
        The exit status.

    """
    from twisted.internet import reactor as installed  # noqa: PLC0415 (installs one: not when this is imported)

    reactor: Any = installed
    options = settings_options.Options()
    try:
        options.parseOptions(list(argv))  # type: ignore[no-untyped-call]
        daemon = make_daemon(options.settings, _exit)
    except (usage.UsageError, SettingsError) as error:
        sys.stderr.write(f"quoteshm: {error}\n")
        return 1
    observer = logs.observer(sys.stderr, options.settings)
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False)
    steady(reactor)
    heed_hangups(daemon)
    try:
        daemon.startService()
    except SystemExit:
        return 1
    reactor.addSystemEventTrigger("before", "shutdown", daemon.stopService)
    reactor.run()
    if are_at_work():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)  # as twistd does, which ends by the signal that it got
    return 0
