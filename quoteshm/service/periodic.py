"""Something that is done each second or so, from start to stop, whatever becomes of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.application.service import Service
from twisted.internet import defer, task
from twisted.logger import Logger


class Periodic(Service):
    """Calls a function at every period; one that fails is logged, and called again.

    Parameters
    ----------
    reactor
        Twisted's.
    period_s : float
        Seconds from one call to the next.
    act : callable
        What is done. An exception that left a `LoopingCall` would stop it for good.
    failed : str, optional
        What the log says of an exception; by default that the function failed.
    now : bool
        Whether it begins at once, not a period from the start.

    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,  # noqa: ANN401 (one of Twisted's, of several interfaces)
        period_s: float,
        act: Callable[[], object],
        *,
        failed: str = "{what} failed",
        now: bool = False,
    ) -> None:
        self._period_s, self._act, self._failed, self._now = period_s, act, failed, now
        self._loop = task.LoopingCall(self._guarded)
        self._loop.clock = reactor

    def startService(self) -> None:
        """Begin."""
        super().startService()  # type: ignore[no-untyped-call]
        self._loop.start(self._period_s, now=self._now)

    def stopService(self) -> defer.Deferred[None]:
        """End."""
        super().stopService()  # type: ignore[no-untyped-call]
        if self._loop.running:
            self._loop.stop()
        return defer.succeed(None)

    def _guarded(self) -> None:
        try:
            self._act()
        except Exception:  # noqa: BLE001 (as said above)
            self.log.failure(self._failed, what=getattr(self._act, "__name__", "a round"))
