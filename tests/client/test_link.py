"""When a client connects, when again, and when it gives a connection up; by a clock of the test."""

from __future__ import annotations

import json
from typing import Any

import pytest
from twisted.internet.task import Clock

from quoteshm.client import _codec
from quoteshm.client._link import Driver, Link
from quoteshm.client._session import Call, Feed, Session
from quoteshm.client.events import LostEvent, SnapshotEvent
from quoteshm.errors import ConnectionFailedError, RequestError
from tests.client.model import HEARTBEAT_S, ModelMarket, error_line, event, line_of
from tests.client.test_session import PONG, drained, ping


class Wire:
    """A connection as a link sees it."""

    def __init__(self) -> None:
        self.data = b""
        self.aborted = False

    def write(self, data: bytes) -> None:
        """Take what is sent."""
        self.data += data

    def abort(self) -> None:
        """Close."""
        self.aborted = True

    def lines(self) -> list[bytes]:
        """Give what was sent since the last time."""
        lines, self.data = self.data.splitlines(), b""
        return lines


class Linked:
    """A link, and a clock to drive it by."""

    def __init__(self, token: str | None = None) -> None:
        self.clock, self.dials = Clock(), 0
        self.session = Session("there:1", token, 2.0, self.clock.seconds)
        driver = Driver(self._dial, self.clock.callLater, lambda: 0.0)
        self.link = Link(self.session, driver)

    def _dial(self) -> None:
        self.dials += 1

    def connect(self) -> Wire:
        """Let the attempt succeed."""
        wire = Wire()
        self.link.made(wire)
        return wire

    def answer(self, wire: Wire, market: ModelMarket) -> None:
        """Answer all that was sent."""
        for line in wire.lines():
            self.link.received(wire, market.reply(line))


def test_a_link_connects_when_there_is_something_to_send() -> None:
    """Once for many."""
    one, calls = Linked(), [ping(), ping()]
    assert one.dials == 0
    for call in calls:
        one.link.ask(call, 2.0)
    assert one.dials == 1
    wire = one.connect()
    assert len(wire.lines()) == 2


def test_an_idle_connection_that_falls_is_not_replaced() -> None:
    """Until somebody asks."""
    one, market = Linked(), ModelMarket()
    one.link.ask(ping(), 2.0)
    wire = one.connect()
    one.answer(wire, market)
    one.link.closed(wire, "closed")
    one.clock.advance(60)
    assert one.dials == 1
    one.link.ask(ping(), 2.0)
    assert one.dials == 2


def test_a_subscription_brings_the_connection_back_more_and_more_slowly() -> None:
    """And at once again after it has been there."""
    one, feed, market = Linked(), Feed(), ModelMarket()
    one.link.subscribe(feed)
    wire = one.connect()
    one.answer(wire, market)
    one.link.closed(wire, "closed")
    waits = []
    for _ in range(8):
        attempt: Any = one.clock.getDelayedCalls()[0]
        waits.append(round(attempt.getTime() - one.clock.seconds(), 3))
        one.clock.advance(5.0)
        one.link.failed("refused")
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    one.clock.advance(5.0)
    wire = one.connect()
    one.answer(wire, market)
    one.link.closed(wire, "closed")
    dials = one.dials
    one.clock.advance(0.1)
    assert one.dials == dials + 1


def test_a_call_does_not_wait_for_the_next_attempt() -> None:
    """It makes one."""
    one, feed, call = Linked(), Feed(), ping()
    one.link.subscribe(feed)
    wire = one.connect()
    one.answer(wire, ModelMarket())
    one.link.closed(wire, "closed")
    one.link.ask(call, 2.0)
    assert one.dials == 2
    one.link.failed("refused")
    assert isinstance(call.error, ConnectionFailedError)
    assert not feed.ended


def test_a_mute_connection_is_dropped_after_three_heartbeats() -> None:
    """A quiet market sends those."""
    one, feed, market = Linked(), Feed(), ModelMarket()
    one.link.subscribe(feed)
    wire = one.connect()
    one.answer(wire, market)
    beat = event(feed.id, 4, {"now_ms": 1, "last_update_ms": 1}, op="heartbeat")
    for _ in range(5):
        one.clock.advance(2 * HEARTBEAT_S)
        one.link.received(wire, beat)
    assert not wire.aborted
    one.clock.pump([1.0] * 16)
    assert wire.aborted
    snapshot, lost = drained(feed)
    assert isinstance(snapshot, SnapshotEvent)
    assert lost == LostEvent("nothing came for 15 s")


def test_a_subscription_that_is_not_answered_is_dropped() -> None:
    """When it would go on: nobody else waits for it."""
    one, feed, market = Linked(), Feed(), ModelMarket()
    one.link.subscribe(feed)
    wire = one.connect()
    one.answer(wire, market)
    one.link.closed(wire, "closed")
    one.clock.advance(0.1)
    wire = one.connect()
    one.clock.pump([0.5] * 5)
    assert wire.aborted
    assert not feed.ended


def test_a_call_in_vain_is_a_timeout() -> None:
    """The connection stays, if anything else came over it."""
    one, quick, slow = Linked(), ping(), ping()
    one.link.ask(quick, 2.0)
    wire = one.connect()
    one.clock.advance(1)
    one.link.ask(slow, 2.0)
    one.clock.advance(0.5)
    one.link.received(wire, line_of(id=quick.id, **PONG))
    one.clock.advance(2)
    with pytest.raises(TimeoutError, match="there:1: no answer within 2 s"):
        slow.result()
    assert not wire.aborted
    one.link.received(wire, line_of(id=slow.id, **PONG))
    last = ping()
    one.link.ask(last, 2.0)
    one.clock.advance(3)
    assert wire.aborted
    assert isinstance(last.error, TimeoutError)


def test_two_calls_may_share_their_time() -> None:
    """The second has what the first has left of it; the connection is well, which answered that."""
    one, first, second = Linked(), ping(), ping()
    one.link.ask(first, 2.0, 0.0)
    wire = one.connect()
    one.clock.advance(1.5)
    one.link.received(wire, line_of(id=first.id, **PONG))
    one.link.ask(second, 2.0, 0.0)
    one.clock.advance(0.25)
    assert not second.settled
    one.clock.advance(0.25)
    with pytest.raises(TimeoutError, match="there:1: no answer within 2 s"):
        second.result()
    assert not wire.aborted
    late = ping()
    one.link.ask(late, 2.0, 0.0)
    one.clock.advance(0)
    assert isinstance(late.error, TimeoutError)


def test_a_call_that_was_in_vain_keeps_its_place() -> None:
    """An error that names no request is its own, late as it comes."""
    one, slow, last = Linked(), ping(), ping()
    one.link.ask(slow, 2.0)
    wire = one.connect()
    one.clock.advance(1)
    one.link.received(wire, b"\n")  # so it is not mute
    one.link.ask(last, 2.0)
    one.clock.advance(1.5)
    assert isinstance(slow.error, TimeoutError)
    assert not wire.aborted
    one.link.received(wire, error_line(None, "BAD_REQUEST", "line longer than 10 bytes"))
    one.link.received(wire, line_of(id=last.id, **PONG))
    assert last.answer == {}


def test_what_is_no_server_is_not_asked_again() -> None:
    """The calls fail, though the connection was there before."""
    one, call = Linked(), ping()
    one.link.ask(ping(), 2.0)
    wire = one.connect()
    one.answer(wire, ModelMarket())
    one.link.ask(call, 2.0)
    one.link.received(wire, b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with pytest.raises(ConnectionFailedError, match="no quoteshm server"):
        call.result()
    assert wire.aborted
    assert one.dials == 1


def test_a_wrong_token_closes_the_connection() -> None:
    """Without another attempt."""
    one, call = Linked("wrong"), ping()
    one.link.ask(call, 2.0)
    wire = one.connect()
    token = json.loads(wire.lines()[0])
    one.link.received(wire, error_line(token["id"], "UNAUTHORIZED", "wrong token"))
    assert isinstance(call.error, RequestError)
    assert wire.aborted
    one.clock.advance(60)
    assert one.dials == 1


def test_a_closed_link_ends_all_and_starts_nothing() -> None:
    """No timer is left, and a connection that comes late is dropped."""
    one, feed, call, late = Linked(), Feed(), ping(), ping()
    one.link.subscribe(feed)
    one.link.ask(call, 2.0)
    wire = one.connect()
    one.answer(wire, ModelMarket())
    one.link.ask(late, 2.0)
    one.link.close()
    one.link.close()
    assert wire.aborted
    assert feed.ended
    assert isinstance(late.error, ConnectionFailedError)
    assert one.clock.getDelayedCalls() == []
    after, other = ping(), Feed()
    one.link.ask(after, 2.0)
    one.link.subscribe(other)
    assert isinstance(after.error, ConnectionFailedError)
    assert isinstance(other.error, ConnectionFailedError)
    assert one.connect().aborted


def test_who_asks_from_within_an_answer_is_heard() -> None:
    """As a callback may."""
    one, second = Linked(), ping()
    first = Call("ping", {}, _codec.read_object, lambda _: one.link.ask(second, 2.0))
    one.link.ask(first, 2.0)
    one.link.failed("refused")
    assert isinstance(first.error, ConnectionFailedError)
    assert one.dials == 2
    wire = one.connect()
    one.answer(wire, ModelMarket())
    assert second.answer == {}
