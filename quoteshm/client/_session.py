"""What a client has asked and not yet been told, over one connection after another. No sockets.

`Session` turns calls and subscriptions into bytes, and bytes into answers and events. Whoever has
the sockets brings it the bytes: `blocking` itself, `aio` and `tx` by way of a `_link.Link`.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, Protocol, TypeVar

import msgspec

from quoteshm.client import _codec
from quoteshm.client._codec import Replies, Reply, log_line
from quoteshm.client._inbox import MAX_PENDING, Inbox
from quoteshm.client.events import (
    Event,
    HeartbeatEvent,
    LostEvent,
    QuotesEvent,
    RestatedEvent,
    ResumedEvent,
)
from quoteshm.errors import (
    AnswerTimeoutError,
    ConnectionFailedError,
    ErrorCode,
    RequestError,
    SettingsError,
)

if TYPE_CHECKING:
    from quoteshm.client._codec import Subscribed

T = TypeVar("T")
Tickers = Sequence[str] | Literal["*"]

#: What reading a reply raises that no server of ours has sent.
STRANGE: Final = (msgspec.MsgspecError, ValueError, OverflowError, RecursionError)
CLOSED: Final = "the server closed the connection"
#: What changes the market: the answer to the second of two is another, so they are sent once.
ONCE: Final = frozenset({"add_tickers", "remove_tickers"})
MUTE_HEARTBEATS: Final = 3
_FIRST_BACKOFF_S: Final = 0.1
LONGEST_BACKOFF_S: Final = 5.0
LONGEST_S: Final = 1e6  # less than what a socket's time-out can hold


def timeout_of(timeout_s: float) -> float:
    """Check a time-out, and cut it to what every clock can hold."""
    if not timeout_s > 0:  # NaN is neither
        raise SettingsError("timeout_s", timeout_s, "more than 0")
    return min(timeout_s, LONGEST_S)


def late(address: str, timeout_s: float) -> AnswerTimeoutError:
    """Give what is raised when there is no answer in time."""
    return AnswerTimeoutError(address, timeout_s)


def strange(error: Exception) -> str:
    """Say that what came is not what a server of ours sends."""
    return f"no quoteshm server, or a newer one: {error}"


def reason(error: BaseException) -> str:
    """Say what is wrong with a connection."""
    if isinstance(error, TimeoutError):
        return "timed out"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def backoff_s(failures: int) -> float:
    """Say how long to wait after so many failures one after the other, at least one."""
    return min(LONGEST_BACKOFF_S, _FIRST_BACKOFF_S * 2.0 ** min(failures - 1, 32))


class Timer(Protocol):
    """A call that is to come."""

    def cancel(self) -> object:
        """Let it not come."""


class Call(Generic[T]):
    """A request that waits for its answer.

    Parameters
    ----------
    op : str
        What is asked for.
    fields : dict
        Of the request; those that are None are left out.
    read : callable
        Makes the answer of the data of the response.
    done : callable, optional
        Called with this call, once it is settled.

    Attributes
    ----------
    answer : T or None
    error : Exception or None
        What it was settled with.

    """

    def __init__(
        self,
        op: str,
        fields: dict[str, object],
        read: Callable[[msgspec.Raw], T],
        done: Callable[[Call[T]], object] = lambda _: None,
    ) -> None:
        self.op, self.fields, self.read, self.done = op, fields, read, done
        self.id: int | str = 0
        self.line = b""
        self.timer: Timer | None = None  # for its time-out
        self.settled = False
        self.is_forgotten = False  # nobody waits any more, but an answer is still to come
        self.is_fresh = False  # sent on a connection that was made for it: not sent twice
        self.answer: T | None = None
        self.error: Exception | None = None

    def settle(self, answer: T | None = None, error: Exception | None = None) -> None:
        """Settle it, unless it is already."""
        if not self.settled:
            self.settled, self.answer, self.error = True, answer, error
            if self.timer is not None:
                self.timer.cancel()
                self.timer = None
            self.done(self)

    def result(self) -> T:
        """Give the answer, or raise the error."""
        if self.error is not None:
            raise self.error
        return self.answer  # type: ignore[return-value]  # settled, so it is one


class Feed:
    """A subscription, over one connection after another.

    Parameters
    ----------
    tickers : sequence of str, or "*"
        What it is about.
    max_pending : int
        How many events are kept apart while nobody reads them.
    heartbeats : bool
        Whether heartbeats are told.
    reconnect : bool
        Whether it goes on over another connection when one falls.
    news : callable
        Called without arguments when there is something to be read: an event, or the end.

    Attributes
    ----------
    inbox : Inbox
        The events that came.
    epoch, instance : int, str or None
        How far the server has told; None before the first snapshot.
    error : Exception or None
        What ended it; it ends without one when it is closed.
    ended : bool
        Whether nothing more comes than what is in the inbox.

    """

    def __init__(
        self,
        tickers: Tickers = "*",
        *,
        max_pending: int = MAX_PENDING,
        heartbeats: bool = False,
        reconnect: bool = True,
        news: Callable[[], object] = lambda: None,
    ) -> None:
        if max_pending < 1:
            raise SettingsError("max_pending", max_pending, "at least 1")
        self.tickers: list[str] | str = tickers if isinstance(tickers, str) else list(tickers)
        if self.tickers != "*" and (isinstance(tickers, str) or not self.tickers):
            raise SettingsError("tickers", tickers, 'one or more of them in a list, or "*"')
        self.inbox = Inbox(max_pending)
        self.heartbeats, self.reconnect, self.news = heartbeats, reconnect, news
        self.id = ""
        self.epoch = 0
        self.instance: str | None = None
        self.heartbeat_s = 0.0
        self.is_live = False  # on the connection that there is
        self.refused_s: float | None = None  # when the server had no room for it to go on
        self.error: Exception | None = None
        self.ended = False

    @property
    def request(self) -> dict[str, object]:
        """What is asked of the server: to begin, or to go on."""
        since = None if self.instance is None else self.epoch
        return {"tickers": self.tickers, "since_epoch": since, "instance": self.instance}

    def subscribed(self, reply: Subscribed) -> None:
        """Begin, or go on, with what the server says."""
        snapshot = reply.snapshot
        events: list[Event] = [snapshot]
        if reply.resumed:
            # The epoch goes up by two with each commit.
            skipped = max(0, (snapshot.epoch - self.epoch) // 2 - 1)
            is_known = reply.restated is not None
            events = [ResumedEvent(snapshot.epoch, skipped, reply.changes, is_known)]
            if reply.restated:
                events.insert(0, RestatedEvent(snapshot.epoch, skipped, reply.restated))
        self.epoch, self.instance = snapshot.epoch, snapshot.instance
        self.heartbeat_s = snapshot.heartbeat_s
        self.is_live = True
        for event in events:  # last: who is told may do anything
            self._tell(event)

    def receive(self, reply: Reply) -> None:
        """Take an event."""
        event = _codec.read_event(reply)
        if isinstance(event, QuotesEvent | HeartbeatEvent):
            # Not that of a restatement: the quotes of its epoch are still to come.
            self.epoch = event.epoch
        if event is not None and (self.heartbeats or not isinstance(event, HeartbeatEvent)):
            self._tell(event)

    def lost(self, why: str) -> None:
        """Say that the connection has fallen."""
        if self.is_live:
            self.is_live = False
            self._tell(LostEvent(why))

    def end(self, error: Exception | None = None) -> None:
        """Let nothing more come."""
        if not self.ended:
            self.ended, self.error, self.is_live = True, error, False
            self.news()

    def _tell(self, event: Event) -> None:
        self.inbox.put(event)
        self.news()


class Session:
    """The calls and the subscriptions of one client.

    Parameters
    ----------
    address : str
        The server's, as errors name it.
    token : str, optional
        What the server wants to hear first.
    timeout_s : float
        How long the reply to a subscription may take.
    monotonic : callable
        Gives the seconds of a clock that does not jump.

    """

    def __init__(
        self,
        address: str,
        token: str | None = None,
        timeout_s: float = 5.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.address, self.token, self.timeout_s = address, token, timeout_s
        self.monotonic = monotonic
        self.heard_s = 0.0  # when anything came last
        self.answered = False  # whether the server has answered anything on this connection
        self.connected = False
        self.refused = False  # with an error that names no request
        self.feeds: dict[str, Feed] = {}
        self._calls: dict[int | str, Call[Any]] = {}  # in the order in which they were sent
        self._outbox: list[bytes] = []
        self._replies = Replies()
        self._ids = itertools.count(1)
        self._refusal = ""

    # -- what the client wants ---------------------------------------------------------------

    def ask(self, call: Call[Any]) -> None:
        """Send a request, now or when there is a connection."""
        call.id = next(self._ids)
        call.line = _codec.request(call.id, call.op, call.fields)
        self._calls[call.id] = call
        if self.connected:
            self._send(call.line)

    def forget(self, call: Call[Any]) -> None:
        """Let its answer, should it still come, be nobody's.

        It keeps its place: an error that names no request is that of the oldest one.
        """
        call.is_forgotten = True
        if not self.connected:
            self._calls.pop(call.id, None)

    def subscribe(self, feed: Feed) -> None:
        """Begin a subscription, now or when there is a connection."""
        feed.id = f"s{next(self._ids)}"
        self.feeds[feed.id] = feed
        if self.connected:
            self._resubscribe(feed, is_fresh=False)

    def unsubscribe(self, feed: Feed) -> None:
        """End a subscription; what still comes of it is nobody's."""
        if self.feeds.pop(feed.id, None) is not None and self.connected:
            call = self._calls.get(feed.id)
            if call is not None:
                self.forget(call)
            request_id = next(self._ids)
            self._send(_codec.request(request_id, "unsubscribe", {"subscription": feed.id}))
        feed.end()

    @property
    def is_needed(self) -> bool:
        """Whether anybody waits for anything."""
        return bool(self.feeds) or any(not c.is_forgotten for c in self._calls.values())

    # -- what the connection brings ----------------------------------------------------------

    def connect(self) -> None:
        """Begin on a new connection: the token first, then what is still wanted."""
        self.connected, self.answered = True, False
        self.refused, self._refusal = False, ""
        self._replies, self._outbox = Replies(), []
        self.heard_s = self.monotonic()
        if self.token is not None:
            self._authorize(self.token)
        for call in self._calls.values():
            if call.op != "auth":
                call.is_fresh = True
                self._send(call.line)
        for feed in self.feeds.values():
            self._resubscribe(feed, is_fresh=True)

    def receive(self, data: bytes) -> None:
        """Take what came.

        Raises
        ------
        STRANGE
            It is not what a server of ours sends; the connection is to be dropped.

        """
        self.heard_s = self.monotonic()
        for reply in self._replies.feed(data):
            if not self.connected:
                return  # somebody who was told something has closed it
            self._receive(reply)
        self._ask_again()

    def take(self) -> bytes:
        """Give what is to be sent."""
        data, self._outbox = b"".join(self._outbox), []
        return data

    def lost(self, why: str) -> bool:
        """Take note that there is no connection: it fell, or was not to be had.

        Returns
        -------
        bool
            Whether something is to be sent again at once, on another connection: a request that was
            sent on one that was there before it. It changes nothing, so it may be sent twice;
            what does change something (`ONCE`) fails with the connection.

        """
        was_connected, self.connected = self.connected, False
        self._replies, self._outbox = Replies(), []
        why, self._refusal = self._refusal or why, ""
        self._calls = {i: call for i, call in self._calls.items() if not call.is_forgotten}
        again, failed = list[Call[Any]](), list[Call[Any]]()
        for call in self._calls.values():
            may_go_again = was_connected and not call.is_fresh and call.op not in ONCE
            (again if may_go_again else failed).append(call)
        # A subscription is sent again as such.
        self._calls = {call.id: call for call in again if call.op != "subscribe"}
        waited = {call.id for call in again}
        for feed in [*self.feeds.values()]:
            feed.lost(why)
            is_new = feed.instance is None
            if (is_new and feed.id not in waited) or not (is_new or feed.reconnect):
                self.feeds.pop(feed.id, None)
                feed.end(ConnectionFailedError(self.address, why))
        for call in failed:
            when = " before it answered" if why == CLOSED else ""
            call.settle(error=ConnectionFailedError(self.address, why + when))
        return bool(again)

    def give_up(self) -> None:
        """Have nothing sent again: what answers like this is no server of ours."""
        self.connected = False

    def close(self, error: Exception | None = None) -> None:
        """Settle all that is open, and end all subscriptions."""
        self.connected = False
        calls, self._calls = self._calls, {}
        feeds, self.feeds = self.feeds, {}
        for call in calls.values():
            if call.is_forgotten:
                continue
            call.settle(error=error or self.closed_error())
        for feed in feeds.values():
            is_new = feed.instance is None
            feed.end(error or (self.closed_error() if is_new else None))

    @property
    def mute_s(self) -> float | None:
        """How long the connection may stay mute; None for as long as it likes."""
        lives = [
            MUTE_HEARTBEATS * feed.heartbeat_s if feed.is_live else self.timeout_s
            for feed in self.feeds.values()
        ]
        return min((life for life in lives if life > 0), default=None)

    def closed_error(self) -> ConnectionFailedError:
        """Give what is raised when the client was closed by its owner."""
        return ConnectionFailedError(self.address, "this client is closed")

    def _send(self, line: bytes) -> None:
        log_line("->", line)
        self._outbox.append(line)

    def _authorize(self, token: str) -> None:
        call = Call("auth", {"token": token}, _codec.read_object, self._authorized)
        call.id, call.is_fresh = next(self._ids), True
        self._calls = {call.id: call, **self._calls}  # it is the first to be answered
        # Not logged: it is nobody else's.
        self._outbox.append(_codec.request(call.id, call.op, call.fields))

    def _authorized(self, call: Call[Any]) -> None:
        if not self._may_come_back(call.error):
            self.close(call.error)

    def _resubscribe(self, feed: Feed, *, is_fresh: bool) -> None:
        def done(call: Call[Subscribed]) -> None:
            if self.feeds.get(feed.id) is not feed or feed.ended:
                return
            if call.answer is not None:
                feed.subscribed(call.answer)
            elif feed.instance is None or not self._may_come_back(call.error):
                del self.feeds[feed.id]
                feed.end(call.error)
            else:
                feed.refused_s = self.monotonic()

        feed.refused_s = None
        call = Call("subscribe", feed.request, _codec.read_subscribed, done)
        call.id, call.is_fresh = feed.id, is_fresh
        self._calls[call.id] = call
        self._send(_codec.request(feed.id, call.op, call.fields))

    def _ask_again(self) -> None:
        """Ask once more for what the server had no room for, after a while.

        To be called when anything comes. Where nothing does, the connection is given up as mute.
        """
        latest_s = self.monotonic() - self.timeout_s
        for feed in self.feeds.values():
            if feed.refused_s is not None and feed.refused_s <= latest_s:
                self._resubscribe(feed, is_fresh=True)

    @staticmethod
    def _may_come_back(error: Exception | None) -> bool:
        return not isinstance(error, RequestError) or error.code is ErrorCode.OVERLOADED

    def _receive(self, reply: Reply) -> None:
        if reply.type == "event":
            feed = self.feeds.get(reply.id) if isinstance(reply.id, str) else None
            if feed is not None and feed.is_live:
                feed.receive(reply)
            return
        if reply.id is None:
            self._refused(reply)
            return
        call = self._calls.pop(reply.id, None)
        if call is not None:  # others are answers to what nobody waits for any more
            if call.is_forgotten:
                self.answered = True
            else:
                self._settle(call, reply)

    def _settle(self, call: Call[Any], reply: Reply) -> None:
        self.answered = True
        try:
            answer = call.read(reply.result())
        except RequestError as error:
            call.settle(error=_codec.not_found(call.fields, error))
        except STRANGE as error:
            self._calls[call.id] = call
            raise ValueError(str(error)) from error
        else:
            call.settle(answer)

    def _refused(self, reply: Reply) -> None:
        """Take an error that names no request: replies come in order, so it is the oldest one's.

        A server that takes no more connections says that it is OVERLOADED: then it is everybody's.
        """
        self.refused = True
        try:
            reply.result()
        except RequestError as error:
            refused = [*self._calls.values()]
            if error.code is ErrorCode.OVERLOADED:
                self._refusal = error.message
            else:
                refused = refused[:1]
            for call in refused:
                self._calls.pop(call.id, None)
                if not call.is_forgotten:
                    call.settle(error=error)
