"""What systemd is told of the daemon: ready, how it stands, alive, reloading, stopping.

Messages are datagrams of ``NAME=value`` lines to the socket that ``NOTIFY_SOCKET`` names, as
`sd_notify(3) <https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html>`_ has them.
Without that variable nothing is ever sent.

- ``READY=1`` when something can be read: published by this daemon, or found in the segment that it
  adopted.
- Until then ``EXTEND_TIMEOUT_USEC``, as a source that cannot be reached is no reason to end the
  daemon. One that hangs is: it says nothing, and ``TimeoutStartSec`` ends it.
- ``STATUS`` when its words change, and not for each of many changes.
- ``WATCHDOG=1`` twice in ``WATCHDOG_USEC``, from the reactor, and only while the segment's
  heartbeat is written. So a reactor that is stuck, and a segment that cannot be written, end the
  daemon, and systemd starts it anew.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import time
from typing import TYPE_CHECKING, Any, Final, Protocol

from twisted.application.service import Service
from twisted.internet import defer
from twisted.logger import Logger

from quoteshm.service.periodic import Periodic

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: From one look at how the daemon stands to the next.
LOOK_S: Final = 0.5
#: A status that changes all the time is sent no more often.
WORDS_S: Final = 10.0
MAX_WORDS: Final = 400
#: From one sign of life to the next, while the daemon starts and has no watchdog.
PULSE_S: Final = 15.0
_USEC_PER_S: Final = 1_000_000


class Standing(Protocol):
    """How the daemon is; none of these may raise."""

    def is_published(self) -> bool:
        """Tell whether there is anything to read."""

    def unwell(self) -> str | None:
        """Give the reason why nobody should take the daemon for alive, if there is one."""

    def words(self) -> str:
        """Say in one line what is going on."""


class Channel:
    """The way to the service manager.

    Parameters
    ----------
    address : str
        The path of a datagram socket, or ``@`` and the name of an abstract one.
    watchdog_s : float, optional
        The longest time between two signs of life.

    """

    log = Logger()

    def __init__(self, address: str, watchdog_s: float | None = None) -> None:
        self.watchdog_s = watchdog_s
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._has_failed = False

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Channel | None:
        """Find the way that the service manager has told this process of, if there is one."""
        address = environment.get("NOTIFY_SOCKET", "")
        if not address:
            return None
        if address[0] not in "/@":  # such as vsock: of a virtual machine's own manager
            cls.log.warn("NOTIFY_SOCKET is no Unix socket: {address}", address=address)
            return None
        return cls(address, _watchdog_s(environment))

    def send(self, *lines: str) -> bool:
        """Send lines as one message; False if it did not get through, which is logged once."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as own:
                own.settimeout(0)  # a manager that does not read must not hold the market up
                own.sendto("\n".join(lines).encode(errors="backslashreplace"), self._address)
        except OSError as error:
            if not self._has_failed:
                self.log.warn("systemd is not told: {why}", why=str(error))
            self._has_failed = True
            return False
        self._has_failed = False
        return True


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    """Read how often systemd wants to hear, if this is the process that it wants to hear from."""
    pid = environment.get("WATCHDOG_PID")
    if pid is not None and pid != str(os.getpid()):
        return None
    text = environment.get("WATCHDOG_USEC", "")
    return int(text) / _USEC_PER_S if text.isdecimal() and int(text) > 0 else None


class Notify(Service):
    """Tells the service manager how the daemon stands, from start to stop.

    Parameters
    ----------
    reactor
        Twisted's.
    channel : Channel or None
        Without one nothing happens.
    standing : Standing

    """

    log = Logger()

    def __init__(self, reactor: Any, channel: Channel | None, standing: Standing) -> None:  # noqa: ANN401 (one of Twisted's, of several interfaces)
        self._channel, self._standing = channel, standing
        self._seconds = reactor.seconds
        self._is_ready = self._is_stopping = False
        self._said, self._next_words_s = "", -math.inf
        self._said_unwell: str | None = None
        watchdog_s = channel.watchdog_s if channel is not None else None
        self._pulse_s = watchdog_s / 2 if watchdog_s is not None else PULSE_S
        # A pulse is a whole number of looks, and so comes when it should.
        self._look_s = self._pulse_s / math.ceil(self._pulse_s / LOOK_S)
        self._last_pulse_s = self._seconds()
        self._loop = Periodic(reactor, self._look_s, self._look)

    def startService(self) -> None:
        """Begin to look."""
        super().startService()  # type: ignore[no-untyped-call]
        if self._channel is not None:
            self._last_pulse_s = self._seconds()
            self._loop.startService()

    def stopService(self) -> defer.Deferred[None]:
        """Say nothing any more."""
        super().stopService()  # type: ignore[no-untyped-call]
        return self._loop.stopService()

    def stopping(self) -> None:
        """Say that the daemon begins to stop; signs of life go on while it does."""
        if self._channel is not None and not self._is_stopping:
            self._is_stopping = True
            self._channel.send("STOPPING=1", "STATUS=stopping")

    @contextlib.contextmanager
    def reloading(self) -> Iterator[None]:
        """Say that settings are read again for as long as the block takes.

        It is for ``Type=notify-reload``, and does no harm with ``Type=notify``. A daemon that is
        not ready yet says nothing, as the end of a reload is that it is ready.
        """
        if self._channel is None or not self._is_ready or self._is_stopping:
            yield
            return
        now_usec = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._channel.send("RELOADING=1", f"MONOTONIC_USEC={now_usec}")
        try:
            yield
        finally:
            self._channel.send("READY=1")

    def _look(self) -> None:
        if self._channel is not None:
            self._pulse(self._channel)
            if not self._is_stopping:
                self._tell(self._channel)

    def _tell(self, channel: Channel) -> None:
        """Say what has changed."""
        now_s, lines = self._seconds(), []
        gets_ready = not self._is_ready and self._standing.is_published()
        if gets_ready:
            lines.append("READY=1")
        words = self._said
        if gets_ready or now_s >= self._next_words_s:
            told = " ".join(self._standing.words().split())
            words = "".join(filter(str.isprintable, told))[:MAX_WORDS]
        if words != self._said:
            lines.append(f"STATUS={words}")
        # What did not get through is tried again at the next look.
        if lines and channel.send(*lines):
            self._is_ready = self._is_ready or gets_ready
            if words != self._said:
                self._said, self._next_words_s = words, now_s + WORDS_S

    def _pulse(self, channel: Channel) -> None:
        """Give a sign of life when it is time for one, and if there is life."""
        now_s = self._seconds()
        # Half a look early is better than half a look late.
        if now_s - self._last_pulse_s < self._pulse_s - self._look_s / 2:
            return
        why = self._standing.unwell()
        if why != self._said_unwell:
            self._said_unwell = why
            if why is not None:
                self.log.error("no sign of life for systemd: {why}", why=why)
        if why is not None:
            return
        lines = ["WATCHDOG=1"] if channel.watchdog_s is not None else []
        if not self._is_ready and not self._is_stopping:
            lines.append(f"EXTEND_TIMEOUT_USEC={round(2 * self._pulse_s * _USEC_PER_S)}")
        if not lines or channel.send(*lines):
            self._last_pulse_s = now_s
