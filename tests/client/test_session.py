"""Calls and subscriptions over one connection after another, without sockets."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quoteshm.client import _codec
from quoteshm.client._session import Call, Feed, Session, backoff_s
from quoteshm.client.events import (
    Event,
    HeartbeatEvent,
    LostEvent,
    QuotesEvent,
    RestatedEvent,
    ResumedEvent,
    SnapshotEvent,
)
from quoteshm.errors import (
    ConnectionFailedError,
    ErrorCode,
    RequestError,
    SettingsError,
    UnknownTickerError,
)
from tests.client.model import Follower, ModelMarket, error_line, event, line_of

PONG = {"type": "response", "op": "ping", "data": {}}


def ping() -> Call[Any]:
    """Make a call."""
    return Call("ping", {}, _codec.read_object)


def sent(session: Session) -> list[dict[str, Any]]:
    """Give what the session sends."""
    return [json.loads(line) for line in session.take().splitlines()]


def answered(session: Session, market: ModelMarket) -> None:
    """Have all that it sends answered."""
    for line in session.take().splitlines():
        session.receive(market.reply(line))


def drained(feed: Feed) -> list[Event]:
    """Read all that there is."""
    return list(iter(feed.inbox.take, None))


def subscribed(market: ModelMarket, **options: Any) -> tuple[Session, Feed]:
    """Give a session with a subscription that has begun; its snapshot is read."""
    session, feed = Session("there:1"), Feed(**options)
    session.subscribe(feed)
    session.connect()
    answered(session, market)
    assert isinstance(feed.inbox.take(), SnapshotEvent)
    return session, feed


# -- the state that comes of it ---------------------------------------------------------------

CHANGES = st.dictionaries(st.sampled_from("ABCD"), st.none() | st.integers(1, 9), max_size=3)
STEPS = st.one_of(
    st.tuples(st.just("commit"), CHANGES),
    st.tuples(st.just("tell"), st.integers(1, 40)),  # in chunks of so many bytes
    st.tuples(st.just("read"), st.integers(1, 5)),
    st.tuples(st.just("fall"), st.integers(0, 400)),  # after so many bytes
    st.tuples(st.just("restart"), st.none()),
)


class Story:
    """A subscription, and what happens to it."""

    def __init__(self, max_pending: int) -> None:
        self.market = ModelMarket()
        self.market.commit({"A": 1.0, "B": 2.0})
        self.session, self.feed = Session("there:1"), Feed(max_pending=max_pending)
        self.follower = Follower(self.market)
        self.session.subscribe(self.feed)
        self.come_back()

    def come_back(self) -> None:
        """Connect."""
        self.session.connect()
        answered(self.session, self.market)

    def commit(self, changes: dict[str, float | None]) -> None:
        """Publish."""
        self.market.commit(changes)

    def tell(self, chunk_nbytes: int) -> None:
        """Have the server send what is owed; it comes in chunks."""
        coming = self.market.events()
        for at in range(0, len(coming), chunk_nbytes):
            self.session.receive(coming[at : at + chunk_nbytes])

    def read(self, count: int) -> None:
        """Have the consumer take some events."""
        for _ in range(count):
            if (event := self.feed.inbox.take()) is not None:
                self.follower.apply(event)

    def fall(self, nbytes: int) -> None:
        """Lose the connection when so much of what is owed has come."""
        self.session.receive(self.market.events()[:nbytes])
        self.session.lost("it fell")
        self.market.disconnect()
        self.come_back()

    def restart(self, _: object) -> None:
        """Go on in another segment."""
        self.session.lost("it was stopped")
        self.market.begin(f"{len(self.market.at):032}")
        self.come_back()


@settings(max_examples=400, deadline=None)
@given(steps=st.lists(STEPS, max_size=40), max_pending=st.integers(1, 5))
def test_whatever_happens_the_copy_is_the_market(
    steps: list[tuple[str, Any]], max_pending: int
) -> None:
    """Conflated by the server and here, cut off anywhere, resumed or begun anew: at each epoch."""
    story = Story(max_pending)
    for step, argument in steps:
        getattr(story, step)(argument)
        assert len(story.feed.inbox) <= max(max_pending, 4)
    story.tell(1000)
    story.read(100)

    assert story.follower.prices == story.market.prices


@settings(max_examples=200, deadline=None)
@given(
    steps=st.lists(st.tuples(CHANGES, st.booleans(), st.booleans()), max_size=30),
    max_pending=st.integers(1, 3),
)
def test_every_commit_is_seen_or_counted(
    steps: list[tuple[dict[str, float | None], bool, bool]], max_pending: int
) -> None:
    """Whoever folds it."""
    market = ModelMarket()
    session, feed = subscribed(market, max_pending=max_pending)
    follower = Follower(market)
    follower.instance = market.instance
    for changes, is_told, is_read in steps:
        market.commit(changes)
        if is_told:
            session.receive(market.events())
        if is_read and (event := feed.inbox.take()) is not None:
            follower.apply(event)
    session.receive(market.events())
    for event in drained(feed):
        follower.apply(event)

    assert follower.seen == market.commits


# -- subscriptions ----------------------------------------------------------------------------


def test_a_subscription_is_asked_for_and_goes_on_from_its_epoch() -> None:
    """With what it knows, after the token."""
    market = ModelMarket()
    session, feed = Session("there:1", "secret"), Feed(["A", "B"])
    session.subscribe(feed)
    session.connect()
    first = session.take().splitlines()
    assert [json.loads(line) for line in first] == [
        {"v": 1, "id": 2, "type": "auth", "token": "secret"},
        {"v": 1, "id": "s1", "type": "subscribe", "tickers": ["A", "B"]},
    ]
    for line in first:
        session.receive(market.reply(line))
    market.commit({"A": 3.0})
    session.receive(market.events())
    session.lost("it fell")
    market.commit({"A": 4.0, "B": 5.0})
    market.commit({"A": None})
    session.connect()
    assert sent(session)[1] == {
        "v": 1,
        "id": "s1",
        "type": "subscribe",
        "tickers": ["A", "B"],
        "since_epoch": 4,
        "instance": market.instance,
    }
    session.receive(market.reply(_codec.request("s1", "subscribe", feed.request)))
    kinds = drained(feed)
    assert [type(each) for each in kinds] == [SnapshotEvent, QuotesEvent, LostEvent, ResumedEvent]
    resumed = kinds[-1]
    assert isinstance(resumed, ResumedEvent)
    assert resumed.epoch == 8
    assert resumed.skipped == 1
    assert resumed.quotes["A"] is None
    assert resumed.quotes["B"] is not None


def test_another_instance_begins_anew() -> None:
    """A snapshot follows the loss."""
    market = ModelMarket()
    session, feed = subscribed(market)
    session.lost("it was stopped")
    market.begin("2" * 32)
    session.connect()
    answered(session, market)
    lost, snapshot = drained(feed)
    assert lost == LostEvent("it was stopped")
    assert isinstance(snapshot, SnapshotEvent)
    assert snapshot.instance == "2" * 32


def test_a_resumption_does_not_skip_the_quotes_of_a_restatement() -> None:
    """When the connection falls between the two."""
    market = ModelMarket()
    session, feed = subscribed(market)
    epoch = market.epoch
    session.receive(event(feed.id, epoch + 2, [], op="restated"))
    session.lost("it fell")
    assert feed.request["since_epoch"] == epoch


def test_a_loss_is_told_once() -> None:
    """Though many attempts may fail."""
    session, feed = subscribed(ModelMarket())
    for _ in range(3):
        session.lost("refused")
    assert drained(feed) == [LostEvent("refused")]
    assert not feed.ended


def test_heartbeats_are_told_to_who_asks() -> None:
    """And are as good as any epoch to go on from."""
    beat = {"now_ms": 5, "last_update_ms": 4}
    for wanted in (True, False):
        session, feed = subscribed(ModelMarket(), heartbeats=wanted)
        session.receive(event(feed.id, 10, beat, op="heartbeat"))
        assert drained(feed) == ([HeartbeatEvent(10, 5, 4)] if wanted else [])
        assert feed.request["since_epoch"] == 10


def test_restatements_are_folded_by_series() -> None:
    """Their counts add up, and their bars have to be asked for."""
    session, feed = subscribed(ModelMarket(), max_pending=1)
    bars = [{"time": 1, "before": [1, 2, 0.5, 1, None], "after": None}]

    def restated(ticker: str) -> dict[str, object]:
        series = {"ticker": ticker, "interval": "1d", "cause": "vendor"}
        return {**series, "count": 2, "removed": 1, "bars": bars}

    for epoch, tickers in ((4, "A"), (6, "AB")):
        data = [restated(ticker) for ticker in tickers]
        session.receive(event(feed.id, epoch, data, op="restated"))
    (both,) = drained(feed)
    assert isinstance(both, RestatedEvent)
    assert (both.epoch, both.skipped) == (6, 1)
    assert [(s.ticker, s.count, s.removed, s.bars is None) for s in both.series] == [
        ("A", 4, 2, True),
        ("B", 2, 1, False),
    ]


def test_an_event_of_a_newer_kind_is_passed_over() -> None:
    """As is one of a subscription that has ended."""
    session, feed = subscribed(ModelMarket())
    session.receive(event(feed.id, 4, {}, op="halted") + event("s77", 4, {}))
    assert drained(feed) == []


def test_what_comes_after_the_end_is_nobodys() -> None:
    """Until the server knows of it."""
    market = ModelMarket()
    session, feed = subscribed(market)
    session.unsubscribe(feed)
    market.commit({"A": 1.0})
    session.receive(market.events())
    assert sent(session)[0]["subscription"] == feed.id
    assert feed.ended
    assert drained(feed) == []
    session.unsubscribe(feed)
    assert sent(session) == []


def test_a_refused_subscription_ends_with_the_error() -> None:
    """The first time, or when it would go on; not when the server is only full."""
    session, feed = subscribed(ModelMarket())
    for code, ends in (("OVERLOADED", False), ("BAD_REQUEST", True)):
        session.lost("it fell")
        session.connect()
        session.receive(error_line(feed.id, code))
        assert feed.ended is ends
    assert isinstance(feed.error, RequestError)

    first = Feed()
    session.subscribe(first)
    session.receive(error_line(first.id, "OVERLOADED"))
    assert isinstance(first.error, RequestError)


def test_a_subscription_that_may_not_go_on_for_now_asks_again() -> None:
    """After a while, though the connection lives: another one goes on over it."""
    market, now_s = ModelMarket(), [0.0]
    session = Session("there:1", None, 10.0, lambda: now_s[0])
    refused, other = Feed(), Feed(["A"])
    for feed in (refused, other):
        session.subscribe(feed)
    session.connect()
    answered(session, market)
    session.lost("it fell")
    market.disconnect()
    session.connect()
    first, second = session.take().splitlines()
    session.receive(error_line(refused.id, "OVERLOADED", "reply of 9 bytes, at most 5"))
    session.receive(market.reply(second))
    beat = event(other.id, 2, {"now_ms": 1, "last_update_ms": 1}, op="heartbeat")
    for _ in range(3):  # times that it is refused
        for second_s in (4.0, 4.0, 4.0):
            assert session.take() == b""
            now_s[0] += second_s
            session.receive(beat)
        assert session.take().splitlines() == [first]
        session.receive(error_line(refused.id, "OVERLOADED", "reply of 9 bytes, at most 5"))
    now_s[0] += 10.0
    session.receive(beat)
    session.receive(market.reply(session.take()))
    assert refused.is_live
    assert isinstance(drained(refused)[-1], ResumedEvent)
    now_s[0] += 100.0
    session.receive(beat)
    assert session.take() == b""


def test_a_server_that_is_full_says_why_the_connection_falls() -> None:
    """In the event."""
    session, feed = subscribed(ModelMarket())
    session.receive(error_line(None, "OVERLOADED", "too many connections: at most 5"))
    session.lost("closed")
    assert drained(feed) == [LostEvent("too many connections: at most 5")]


def test_a_wrong_token_ends_everything() -> None:
    """There is no use in trying again."""
    session, feed, call = Session("there:1", "wrong"), Feed(), ping()
    session.subscribe(feed)
    session.ask(call)
    session.connect()
    session.receive(error_line(sent(session)[0]["id"], "UNAUTHORIZED", "wrong token"))
    for error in (feed.error, call.error):
        assert isinstance(error, RequestError)
        assert error.code is ErrorCode.UNAUTHORIZED
    assert not session.is_needed


@pytest.mark.parametrize("tickers", ["AAPL", [], ""])
def test_tickers_that_are_none_are_refused(tickers: Any) -> None:
    """A text would be taken for its letters."""
    with pytest.raises(SettingsError, match="tickers"):
        Feed(tickers)
    with pytest.raises(SettingsError, match="max_pending"):
        Feed("*", max_pending=0)


# -- calls ------------------------------------------------------------------------------------


def test_answers_find_their_calls_in_any_order() -> None:
    """By their ids."""
    session = Session("there:1")
    session.connect()
    calls = [Call("get_quote", {"ticker": t}, _codec.read_quote) for t in "AB"]
    for call in calls:
        session.ask(call)
    lines = [ModelMarket().reply(line) for line in session.take().splitlines()]
    session.receive(lines[1] + lines[0])
    assert [call.result().ticker for call in calls] == ["A", "B"]


def test_a_call_is_sent_again_once() -> None:
    """If the connection was there before it; one made for it fails it."""
    session, call = Session("there:1"), ping()
    session.connect()
    session.ask(call)
    assert len(sent(session)) == 1
    assert session.lost("closed")
    assert not call.settled
    session.connect()
    assert len(sent(session)) == 1
    assert not session.lost("closed")
    with pytest.raises(ConnectionFailedError, match="there:1: closed"):
        call.result()


@pytest.mark.parametrize(
    ("op", "read"),
    [("add_tickers", _codec.read_added), ("remove_tickers", _codec.read_removed)],
)
def test_what_changes_the_market_is_never_sent_again(op: str, read: Any) -> None:
    """Its second answer would be of what the first has done: it fails with the connection."""
    session, call, other = Session("there:1"), Call(op, {"tickers": ["A"]}, read), ping()
    session.connect()
    session.ask(call)
    session.ask(other)
    assert [request["type"] for request in sent(session)] == [op, "ping"]
    assert session.lost("closed")
    with pytest.raises(ConnectionFailedError, match="there:1: closed"):
        call.result()
    session.connect()
    assert [request["type"] for request in sent(session)] == ["ping"]


def test_a_subscription_begun_on_an_old_connection_is_begun_again() -> None:
    """Once."""
    session, feed = Session("there:1"), Feed()
    session.connect()
    session.subscribe(feed)
    session.take()
    assert session.lost("closed")
    session.connect()
    assert [request["type"] for request in sent(session)] == ["subscribe"]
    assert not session.lost("closed")
    assert isinstance(feed.error, ConnectionFailedError)


def test_an_error_that_names_no_request_is_the_oldest_ones() -> None:
    """Replies come in order."""
    session, first, second = Session("there:1"), ping(), ping()
    session.connect()
    session.ask(first)
    session.ask(second)
    session.receive(error_line(None, "BAD_REQUEST", "line longer than 10 bytes"))
    session.receive(line_of(id=second.id, **PONG))
    assert isinstance(first.error, RequestError)
    assert second.answer == {}


def test_a_call_that_is_forgotten_keeps_its_place() -> None:
    """Its error, which names no request, is not the next one's; as of a subscription that ended."""
    session, first, feed, last = Session("there:1"), ping(), Feed(), ping()
    session.connect()
    session.ask(first)
    session.subscribe(feed)
    session.ask(last)
    session.forget(first)
    session.unsubscribe(feed)
    assert session.is_needed
    too_long = error_line(None, "BAD_REQUEST", "line longer than 10 bytes")
    session.receive(too_long + too_long)
    assert not last.settled
    session.receive(line_of(id=last.id, **PONG))
    assert last.answer == {}
    assert not first.settled
    assert not session.is_needed


def test_what_is_forgotten_is_not_asked_again() -> None:
    """Nor settled, whatever becomes of the connection."""
    for end in ("lost", "close", "full", "answered"):
        session, call = Session("there:1"), ping()
        session.connect()
        session.ask(call)
        session.forget(call)
        sent(session)
        if end == "lost":
            assert not session.lost("closed")
            session.connect()
            assert sent(session) == []
        elif end == "close":
            session.close()
        elif end == "full":
            session.receive(error_line(None, "OVERLOADED", "too many connections"))
        else:
            session.receive(line_of(id=call.id, **PONG))
            assert session.answered
        assert not call.settled
        assert session._calls == {}


@pytest.mark.parametrize(
    "message",
    [
        "unknown ticker: ko",
        "unknown ticker: ko; did you mean KO?",
        "ticker removed: ko",
        "no value yet for ko: not fetched yet",
    ],
)
def test_a_ticker_that_is_not_there_is_the_readers_error(message: str) -> None:
    """As in all clients."""
    session, call = Session("there:1"), Call("get_quote", {"ticker": "ko"}, _codec.read_quote)
    session.connect()
    session.ask(call)
    session.receive(error_line(call.id, "NOT_FOUND", message))
    assert isinstance(call.error, UnknownTickerError)
    assert str(call.error) == message


def test_the_wait_between_attempts_grows_to_a_limit() -> None:
    """It doubles."""
    assert [backoff_s(n) for n in range(1, 9)] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert backoff_s(10_000) == 5.0
