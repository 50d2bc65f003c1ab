"""When to connect, when again, and when a connection is dead: for clients that do not block.

The sockets and the timers are asyncio's or Twisted's, and handed in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from quoteshm.client._session import (
    STRANGE,
    Call,
    Feed,
    Session,
    Timer,
    backoff_s,
    late,
    strange,
)


class Wire(Protocol):
    """A connection."""

    def write(self, data: bytes) -> object:
        """Send."""

    def abort(self) -> object:
        """Close it, and care for nothing that is still on its way."""


@dataclass(frozen=True)
class Driver:
    """What a link needs of asyncio or Twisted.

    Attributes
    ----------
    dial : callable
        Begins to connect; `Link.made` or `Link.failed` is called later.
    later : callable
        Calls something after some seconds.
    jitter : callable
        Gives a number from 0 to 1: clients that fell together shall not come back together.

    """

    dial: Callable[[], object]
    later: Callable[[float, Callable[[], None]], Timer]
    jitter: Callable[[], float]


class Link:
    """Keeps a session connected, as long as anybody waits for anything.

    Parameters
    ----------
    session : Session
        What is to be sent, and who is told.
    driver : Driver
        Sockets and timers.

    """

    def __init__(self, session: Session, driver: Driver) -> None:
        self.session, self._driver = session, driver
        self._state: Literal["idle", "dialing", "up", "waiting", "closed"] = "idle"
        self._wire: Wire | None = None
        self._failures = 0
        self._waiting: Timer | None = None
        self._watching: Timer | None = None

    @property
    def is_closed(self) -> bool:
        """Whether it was closed by its owner."""
        return self._state == "closed"

    # -- what the client wants ---------------------------------------------------------------

    def want(self) -> None:
        """Send what there is to send, and connect at once if need be."""
        if self._state == "up":
            self._flush()
        elif self._state in ("idle", "waiting"):
            self._dial()

    def ask(self, call: Call[Any], timeout_s: float, began_s: float | None = None) -> None:
        """Send a request, and settle it in time.

        Parameters
        ----------
        call : Call
            The request.
        timeout_s : float
            How long it may take.
        began_s : float, optional
            When that time began, by the session's clock, if not now: of a request before this one.

        """
        if self.is_closed:
            call.settle(error=self.session.closed_error())
            return
        self.session.ask(call)
        now_s = self.session.monotonic()
        since_s = now_s if began_s is None else began_s
        left_s = max(0.0, since_s + timeout_s - now_s)
        call.timer = self._driver.later(left_s, lambda: self._expire(call, timeout_s, since_s))
        self.want()

    def subscribe(self, feed: Feed) -> None:
        """Begin a subscription."""
        if self.is_closed:
            feed.end(self.session.closed_error())
            return
        self.session.subscribe(feed)
        self.want()

    def unsubscribe(self, feed: Feed) -> None:
        """End a subscription."""
        self.session.unsubscribe(feed)
        if self._state == "up":
            self._flush()

    def forget(self, call: Call[Any]) -> None:
        """Let a request be nobody's any more."""
        self.session.forget(call)
        if call.timer is not None:
            call.timer.cancel()
            call.timer = None

    def drop(self, why: str) -> None:
        """Give up the connection that there is; whoever still wants one gets another."""
        if self._wire is not None:
            self._fall(why)

    def close(self) -> None:
        """Close for good."""
        if self._state != "closed":
            self._state = "closed"
            self._stop_timers()
            wire, self._wire = self._wire, None
            self.session.close()
            if wire is not None:
                wire.abort()

    # -- what the driver brings --------------------------------------------------------------

    def made(self, wire: Wire) -> None:
        """Take a connection."""
        if self._state == "closed":
            wire.abort()
            return
        self._state, self._wire = "up", wire
        self.session.connect()
        self._flush()

    def failed(self, why: str) -> None:
        """Take note that no connection could be made."""
        if self._state == "dialing":
            self._fall(why)

    def received(self, wire: Wire, data: bytes) -> None:
        """Take what came over a connection."""
        if wire is not self._wire:
            return
        try:
            self.session.receive(data)
        except STRANGE as error:
            self._fall(strange(error), is_strange=True)
            return
        if not self.session.connected:  # it was refused
            self.drop("refused")
        else:
            if self.session.answered:
                self._failures = 0
            self._flush()

    def closed(self, wire: Wire, why: str) -> None:
        """Take note that a connection has fallen."""
        if wire is self._wire:
            self._wire = None
            self._fall(why)

    # -- inside ------------------------------------------------------------------------------

    def _expire(self, call: Call[Any], timeout_s: float, since_s: float) -> None:
        call.timer = None
        self.session.forget(call)
        call.settle(error=late(self.session.address, timeout_s))
        if self.session.heard_s <= since_s:
            self.drop("the server does not answer")

    def _dial(self) -> None:
        self._stop_timers()
        self._state = "dialing"
        self._driver.dial()

    def _try_again(self) -> None:
        self._waiting = None
        self._dial()

    def _fall(self, why: str, *, is_strange: bool = False) -> None:
        wire, self._wire = self._wire, None
        self._state = "waiting"  # so that nobody who is told now connects behind our back
        self._stop_timers()
        if is_strange:
            self.session.give_up()
        if wire is not None:
            wire.abort()
        is_urgent = self.session.lost(why)
        if self._state != "waiting" or self._waiting is not None:
            return  # who was told has closed it, or asked anew
        if is_urgent:
            self._dial()
        elif self.session.is_needed:
            self._failures += 1
            delay_s = backoff_s(self._failures)
            delay_s *= 1 - self._driver.jitter() / 2
            self._waiting = self._driver.later(delay_s, self._try_again)
        else:
            self._state = "idle"

    def _flush(self) -> None:
        data = self.session.take()
        if data and self._wire is not None:
            self._wire.write(data)
        if self._watching is None:
            self._watch()

    def _watch(self) -> None:
        """Look whether the connection is mute, now and as long as it should not be."""
        self._watching = None
        mute_s = self.session.mute_s
        if self._wire is None or mute_s is None:
            return
        left_s = self.session.heard_s + mute_s - self.session.monotonic()
        if left_s > 0:
            self._watching = self._driver.later(left_s, self._watch)
        else:
            self._fall(f"nothing came for {mute_s:g} s")

    def _stop_timers(self) -> None:
        for timer in (self._waiting, self._watching):
            if timer is not None:
                timer.cancel()
        self._waiting = self._watching = None
