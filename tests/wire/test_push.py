"""Push: who is told what, and when. Scripted clients, scripted turns, no sockets."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, cast
from unittest import mock

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from twisted.logger import globalLogPublisher

from quoteshm.errors import ErrorCode, RequestError
from quoteshm.market.bars import Restatements
from quoteshm.market.quotes import QuoteCache
from quoteshm.model import Quote
from quoteshm.shm.batch import Batch, Quotes
from quoteshm.shm.writer import SegmentWriter
from quoteshm.wire import push
from quoteshm.wire.push import (
    FEW_ROWS,
    LISTED_BARS,
    MAX_NAMED,
    MAX_SUBSCRIPTIONS,
    TURN_SUBSCRIPTIONS,
    Hub,
    Restated,
    Selection,
)
from tests.published import Market
from tests.wire.replaying import Replica, lasting


class Turns:
    """A reactor that comes round when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []

    def callLater(self, delay: float, callable: Callable[[], None]) -> None:  # noqa: A002, N802  Twisted's names
        """Keep it for the next turn."""
        assert delay == 0
        self.waiting.append(callable)

    def turn(self) -> None:
        """Call what waits, and nothing that comes to wait meanwhile."""
        calls, self.waiting = self.waiting, []
        for call in calls:
            call()

    def settle(self) -> None:
        """Come round until nothing waits."""
        while self.waiting:
            self.turn()


class Client:
    """A connection that takes everything, or is clogged by the first line."""

    def __init__(self, *, clogs: bool = False) -> None:
        self.is_clear, self.clogs, self.is_cut = True, clogs, False
        self.lines: list[bytes] = []
        self.sent: list[tuple[bytes, ...]] = []

    def send(self, *parts: bytes) -> None:
        """Take a line."""
        line = b"".join(parts)
        assert line.endswith(b"\n")
        assert line.count(b"\n") == 1
        self.lines.append(line)
        self.sent.append(parts)
        self.is_clear = not self.clogs

    def abort(self) -> None:
        """Be cut off."""
        self.is_cut = True

    def events(self) -> list[dict[str, Any]]:
        """Give what came since the last time, and forget it."""
        lines, self.lines = self.lines, []
        return [json.loads(line) for line in lines]


class Pushing:
    """A market, its hub, and a reactor."""

    def __init__(self, market: Market | None = None) -> None:
        self.market = market or Market()
        self.turns = Turns()
        self.hub = Hub(self.market.cache, self.turns)
        self.errors: list[AssertionError] = []

    def ask(
        self,
        client: Client,
        request_id: str | int = 1,
        tickers: Sequence[str] | None = None,
        since: tuple[int, str] | None = None,
    ) -> dict[str, Any]:
        """Subscribe."""
        data: dict[str, Any] = json.loads(self.hub.subscribe(client, request_id, tickers, since))
        return data

    def quote(self, ticker: str, price: float, *restated: Restated) -> None:
        """Publish, and tell."""
        self.market.quote(ticker, price)
        self.hub.published(restated)

    def remove(self, ticker: str) -> None:
        """Remove, and tell."""
        self.market.remove(ticker)
        self.hub.published()

    @property
    def epoch(self) -> int:
        """Of the market."""
        return self.market.writer.epoch


@pytest.fixture
def pushing() -> Pushing:
    """Give a small market: AAPL and MSFT have values, NEWCO is only enlisted."""
    return Pushing()


def restated(ticker: str, bars: int = 1, interval: str = "1d") -> Restated:
    """Say that a vendor changed so many bars."""
    before = np.arange(5.0 * bars).reshape(5, bars)
    return Restated(
        ticker, interval, Restatements(np.arange(bars), before, before + 0.5), removed=2
    )


# -- the reply -------------------------------------------------------------------------------


def test_the_reply_is_the_whole_snapshot_of_its_epoch(pushing: Pushing) -> None:
    """With what a client needs to judge staleness and silence."""
    data = pushing.ask(Client())

    assert data["epoch"] == pushing.epoch
    assert data["instance"] == pushing.market.writer.instance
    assert data["resumed"] is False
    assert data["freshness_ms"] == 1000
    assert data["heartbeat_s"] == 5.0
    assert data["missing"] == []
    assert data["quotes"] == {
        ticker: json.loads(pushing.market.cache.body(ticker)) for ticker in ("AAPL", "MSFT")
    }


def test_a_subset_is_what_was_named_and_what_is_missing_is_said(pushing: Pushing) -> None:
    """Once each, in the order of the request."""
    data = pushing.ask(Client(), tickers=["XXXX", "AAPL", "NEWCO", "AAPL", "XXXX", "*"])

    assert list(data["quotes"]) == ["AAPL"]
    assert data["missing"] == ["XXXX", "NEWCO", "*"]


def test_a_name_that_no_ticker_can_have_is_missing_and_not_kept(pushing: Pushing) -> None:
    """However long."""
    name = "x" * 60_000
    assert pushing.ask(Client(), tickers=[name, "AAPL"])["missing"] == [name]
    assert pushing.hub._selections.keys() == {frozenset({"AAPL"})}


# -- events ----------------------------------------------------------------------------------


def test_a_commit_is_one_event_of_what_changed(pushing: Pushing) -> None:
    """With the id, and nothing skipped."""
    client = Client()
    pushing.ask(client, "s1")
    pushing.quote("AAPL", 200.0)

    (event,) = client.events()
    assert event["id"] == "s1"
    assert (event["type"], event["op"]) == ("event", "quotes")
    assert (event["epoch"], event["skipped"]) == (pushing.epoch, 0)
    assert event["data"] == {"AAPL": json.loads(pushing.market.cache.body("AAPL"))}


@pytest.mark.parametrize("request_id", [0, -5, 2**64 - 1, "", 'a"\\/', "é\u2028", "\x7f\x1f"])
def test_an_id_comes_back_as_it_was(pushing: Pushing, request_id: str | int) -> None:
    """Whatever JSON has to do to it."""
    client = Client()
    pushing.ask(client, request_id)
    pushing.quote("AAPL", 1.0)
    pushing.market.clock.now_ms += 5000
    pushing.hub.beat()

    assert [event["id"] for event in client.events()] == [request_id] * 2


def test_a_subset_is_told_of_its_own_tickers_only(pushing: Pushing) -> None:
    """Also of those that are named by several subscriptions of one client."""
    client, other = Client(), Client()
    pushing.ask(client, 1, ["AAPL"])
    pushing.ask(client, 2, ["MSFT", "AAPL"])
    pushing.ask(other, 1, ["NEWCO", "XXXX"])
    pushing.quote("MSFT", 1.0)
    assert [(e["id"], list(e["data"])) for e in client.events()] == [(2, ["MSFT"])]
    pushing.quote("AAPL", 1.0)
    assert sorted(e["id"] for e in client.events()) == [1, 2]
    assert other.events() == []


def test_a_ticker_that_comes_later_is_told_to_who_named_it(pushing: Pushing) -> None:
    """One that was enlisted, one that nobody knew, and again after it went."""
    client = Client()
    pushing.ask(client, 1, ["NEWCO", "LATER"])
    pushing.quote("NEWCO", 1.0)
    pushing.market.add("LATER")
    pushing.quote("LATER", 2.0)
    pushing.remove("LATER")
    pushing.market.add("LATER")
    pushing.quote("LATER", 3.0)

    prices = [
        {ticker: quote and quote["price"] for ticker, quote in event["data"].items()}
        for event in client.events()
    ]
    assert prices == [{"NEWCO": 1.0}, {"LATER": 2.0}, {"LATER": None}, {"LATER": 3.0}]


def test_many_tickers_that_come_later_are_found_at_once(pushing: Pushing) -> None:
    """A market that is being loaded, with a segment that grows under it."""
    names = [f"T{n}" for n in range(300)]
    client, everyone = Client(), Client()
    pushing.ask(client, 1, [*names, "NEVER"])
    pushing.ask(everyone)
    pushing.market.add(*names)
    rows = pushing.market.rows(*names)
    values = np.ones((300, 6))
    pushing.market.write(quotes=[Quotes(rows, np.zeros(300, np.int64), values)])
    pushing.hub.published()

    for who in (client, everyone):
        (event,) = who.events()
        assert sorted(event["data"]) == sorted(names)
        assert event["skipped"] == 0
    assert pushing.hub._awaiting.keys() == {"NEVER"}


@pytest.mark.parametrize("count", [FEW_ROWS, FEW_ROWS + 1])
def test_few_and_many_rows_find_the_same_subscriptions(pushing: Pushing, count: int) -> None:
    """From the side of the rows, or from that of the subscriptions."""
    names = [f"T{n}" for n in range(100)]
    pushing.market.add(*names)
    for name in names:
        pushing.market.quote(name, 1.0)
    clients = [Client() for _ in names]
    for client, name in zip(clients, names, strict=True):
        pushing.ask(client, 1, [name, "AAPL"])
    rows = pushing.market.rows(*names[:count])
    pushing.market.write(quotes=[Quotes(rows, np.zeros(count, np.int64), np.ones((count, 6)))])
    pushing.hub.published()
    pushing.turns.settle()

    told = [[name for e in client.events() for name in e["data"]] for client in clients]
    assert told == [*([name] for name in names[:count]), *([] for _ in names[count:])]


def test_a_slow_client_gets_the_latest_values_and_how_many_it_missed(pushing: Pushing) -> None:
    """Only commits of its own tickers count; a removal in between is seen, a return as a value."""
    client = Client(clogs=True)
    pushing.ask(client, 1, ["AAPL"])
    pushing.quote("AAPL", 1.0)
    client.events()
    for price in (2.0, 3.0, 4.0):
        pushing.quote("AAPL", price)
        pushing.quote("MSFT", price)
    pushing.remove("AAPL")
    assert client.events() == []
    client.is_clear = True
    pushing.hub.caught_up(client)
    (event,) = client.events()
    assert event["data"] == {"AAPL": None}
    assert event["skipped"] == 3
    assert event["epoch"] == pushing.epoch


def test_a_client_that_has_caught_up_and_missed_nothing_is_told_nothing(pushing: Pushing) -> None:
    """Clear, clogged, and clear again."""
    client = Client()
    pushing.ask(client)
    pushing.hub.caught_up(client)
    assert client.events() == []
    pushing.hub.caught_up(Client())


def test_a_turn_tells_so_many_and_the_next_commit_may_split_it(pushing: Pushing) -> None:
    """Those of later turns are told once, of both commits, and it is counted."""
    clients = [Client() for _ in range(2 * TURN_SUBSCRIPTIONS + 1)]
    for client in clients:
        pushing.ask(client)
    pushing.quote("AAPL", 1.0)
    assert [bool(client.lines) for client in clients].count(True) == TURN_SUBSCRIPTIONS
    first = pushing.epoch
    pushing.quote("MSFT", 2.0)
    assert [bool(client.lines) for client in clients].count(True) == TURN_SUBSCRIPTIONS
    assert len(pushing.turns.waiting) == 1
    pushing.turns.settle()

    for n, client in enumerate(clients):
        told = [(event["epoch"], event["skipped"]) for event in client.events()]
        if n < TURN_SUBSCRIPTIONS:
            assert told == [(first, 0), (pushing.epoch, 0)]
        else:
            assert told == [(pushing.epoch, 1)]


def test_commits_faster_than_turns_do_not_starve_the_last_client(pushing: Pushing) -> None:
    """Who is due longest is told first."""
    clients = [Client() for _ in range(3 * TURN_SUBSCRIPTIONS)]
    for client in clients:
        pushing.ask(client)
    for n in range(12):
        pushing.quote("AAPL", float(n))
        pushing.turns.turn()
    assert min(len(client.lines) for client in clients) >= 3


# -- resuming --------------------------------------------------------------------------------


def test_who_comes_back_gets_only_what_changed_meanwhile(pushing: Pushing) -> None:
    """With null for what was removed."""
    since = pushing.epoch, pushing.market.writer.instance
    pushing.quote("NEWCO", 5.0)
    pushing.remove("MSFT")
    data = pushing.ask(Client(), since=since)

    assert data["resumed"] is True
    assert data["quotes"]["MSFT"] is None
    assert sorted(data["quotes"]) == ["MSFT", "NEWCO"]
    assert pushing.ask(Client(), since=(pushing.epoch, since[1]))["quotes"] == {}
    named = pushing.ask(Client(), tickers=["MSFT", "AAPL"], since=since)
    assert named["quotes"] == {"MSFT": None}
    assert named["missing"] == ["MSFT"]


@pytest.mark.parametrize("ahead", [1, 2, 2**63, 2**70])
def test_an_epoch_of_the_future_is_not_resumed_from(pushing: Pushing, ahead: int) -> None:
    """The whole snapshot comes instead."""
    data = pushing.ask(Client(), since=(pushing.epoch + ahead, pushing.market.writer.instance))
    assert data["resumed"] is False
    assert len(data["quotes"]) == 2


def test_another_instance_is_not_resumed_from(pushing: Pushing) -> None:
    """Nor is what was so before the segment grew."""
    since = pushing.epoch, pushing.market.writer.instance
    assert pushing.ask(Client(), since=(since[0], "0" * 32))["resumed"] is False
    pushing.market.add(*(f"T{n}" for n in range(100)))
    assert pushing.ask(Client(), since=since)["resumed"] is False


def test_epoch_zero_is_everything_and_no_ticker_that_never_had_a_value(pushing: Pushing) -> None:
    """As a client that has nothing yet may ask."""
    pushing.market.add("EMPTY")
    pushing.quote("AAPL", 1.0)
    data = pushing.ask(Client(), since=(0, pushing.market.writer.instance))
    assert data["resumed"] is True
    assert sorted(data["quotes"]) == ["AAPL", "MSFT"]


def test_a_writer_that_adopts_the_segment_goes_on_where_the_other_was_killed() -> None:
    """Instance and epochs are the same, so who comes back resumes."""
    with tempfile.TemporaryDirectory() as folder:
        market = Market(Path(folder))
        before = Pushing(market)
        replica, client = Replica(), Client()
        replica.begin(before.ask(client))
        before.quote("NEWCO", 3.0)
        for event in client.events():
            replica.take(event)
        before.quote("AAPL", 4.0)  # it was not told of this one
        before.remove("MSFT")
        lock = market.writer._lock
        assert lock is not None
        lock.release()  # as a kill does
        market.writer = SegmentWriter.open(market.writer.spec, market.clock)
        market.cache = QuoteCache(market.writer, market.clock)
        after = Pushing(market)
        after.quote("NEWCO", 5.0)
        data = after.ask(client, since=(replica.epoch, replica.instance))

        assert data["resumed"] is True
        replica.begin(data)
        assert replica.quotes == state_of(market, None)
        assert sorted(data["quotes"]) == ["AAPL", "MSFT", "NEWCO"]
        market.writer.close()


# -- restatements ----------------------------------------------------------------------------


def test_a_restatement_comes_before_the_quotes_of_its_commit(pushing: Pushing) -> None:
    """With the bars, and only to who has the ticker."""
    client, other = Client(), Client()
    pushing.ask(client, 1, ["AAPL"])
    pushing.ask(other, 1, ["MSFT"])
    pushing.quote("AAPL", 1.0, restated("AAPL", 2), restated("MSFT", 1, "1m"))
    first, second = client.events()

    assert (first["op"], second["op"]) == ("restated", "quotes")
    assert first["epoch"] == second["epoch"] == pushing.epoch
    assert first["data"] == [
        {
            "ticker": "AAPL",
            "interval": "1d",
            "count": 2,
            "removed": 2,
            "cause": "vendor",
            "bars": [
                {"time": 0, "before": [0, 2, 4, 6, 8], "after": [0.5, 2.5, 4.5, 6.5, 8.5]},
                {"time": 1, "before": [1, 3, 5, 7, 9], "after": [1.5, 3.5, 5.5, 7.5, 9.5]},
            ],
        },
    ]
    assert other.events() == []  # none of its quotes changed; it is told with the next one
    pushing.quote("MSFT", 1.0)
    assert [event["op"] for event in other.events()] == ["restated", "quotes"]


def test_so_many_bars_are_listed_and_no_more(pushing: Pushing) -> None:
    """The count is of all of them."""
    client = Client()
    pushing.ask(client)
    pushing.quote("AAPL", 1.0, restated("AAPL", 1000))
    (what,) = client.events()[0]["data"]
    assert what["count"] == 1000
    assert len(what["bars"]) == LISTED_BARS


def test_a_slow_client_gets_the_bars_of_what_was_restated_once_and_last(pushing: Pushing) -> None:
    """Of everything else it learns that it was, and that the bars are to be asked for."""
    client = Client(clogs=True)
    pushing.ask(client)
    pushing.quote("AAPL", 1.0)
    client.events()
    pushing.quote("AAPL", 1.0, restated("AAPL"))
    pushing.quote("AAPL", 1.0, restated("AAPL"), restated("MSFT"))
    client.is_clear = True
    pushing.hub.caught_up(client)
    event, quotes = client.events()
    bars = {what["ticker"]: what["bars"] is not None for what in event["data"]}
    assert bars == {"AAPL": False, "MSFT": True}
    assert event["skipped"] == quotes["skipped"] == 1


def test_who_comes_back_is_told_what_was_restated_meanwhile(pushing: Pushing) -> None:
    """In the reply, so that nobody who got it can have missed it; once."""
    since = pushing.epoch, pushing.market.writer.instance
    pushing.quote("AAPL", 1.0, restated("AAPL"))
    pushing.quote("MSFT", 1.0, restated("MSFT"))
    client = Client()
    data = pushing.ask(client, 1, ["AAPL"], since)
    assert [(what["ticker"], what["bars"]) for what in data["restated"]] == [("AAPL", None)]
    again = pushing.ask(client, 2, ["AAPL"], (data["epoch"], data["instance"]))
    assert again["restated"] == []
    pushing.turns.settle()
    assert client.lines == []
    pushing.quote("AAPL", 2.0, restated("AAPL"))
    first, second, *_ = client.events()
    assert [first["op"], second["op"]] == ["restated", "quotes"]
    assert first["data"][0]["bars"] is not None


def test_who_was_away_while_the_server_began_anew_is_told_that_it_does_not_know(
    pushing: Pushing,
) -> None:
    """It has the quotes since, but what was restated in its life before is forgotten."""
    since = pushing.epoch, pushing.market.writer.instance
    pushing.quote("AAPL", 1.0, restated("AAPL"))
    hub = Hub(pushing.market.cache, pushing.turns)
    data = json.loads(hub.subscribe(Client(), 1, None, since))
    assert data["resumed"]
    assert list(data["quotes"]) == ["AAPL"]
    assert data["restated"] is None
    known = json.loads(hub.subscribe(Client(), 1, None, (pushing.epoch, since[1])))
    assert known["restated"] == []
    assert json.loads(hub.subscribe(Client(), 1, None))["restated"] == []


# -- heartbeats ------------------------------------------------------------------------------


def test_a_quiet_market_is_told_from_a_mute_connection(pushing: Pushing) -> None:
    """After so long without another event, and not before."""
    client, clock = Client(), pushing.market.clock
    pushing.ask(client)
    clock.now_ms += 4999
    pushing.hub.beat()
    assert client.events() == []
    clock.now_ms += 1
    pushing.hub.beat()
    (event,) = client.events()
    assert (event["op"], event["epoch"], event["skipped"]) == ("heartbeat", pushing.epoch, 0)
    assert event["data"] == {
        "now_ms": clock.now_ms,
        "last_update_ms": pushing.market.writer.last_update_ms,
    }
    pushing.hub.beat()
    assert client.events() == []
    clock.now_ms += 4000
    pushing.quote("AAPL", 1.0)
    clock.now_ms += 4000
    pushing.hub.beat()
    assert [event["op"] for event in client.events()] == ["quotes"]


def test_a_thousand_heartbeats_take_several_turns(pushing: Pushing) -> None:
    """And who is clogged gets none."""
    clients = [Client() for _ in range(1000)]
    for client in clients:
        pushing.ask(client)
    clients[0].is_clear = False
    pushing.market.clock.now_ms += 5000
    pushing.hub.beat()
    assert [len(client.lines) for client in clients].count(1) <= TURN_SUBSCRIPTIONS
    pushing.turns.settle()
    assert [len(client.lines) for client in clients] == [0] + [1] * 999


# -- leaving, limits -------------------------------------------------------------------------


def test_no_event_comes_after_the_end_of_a_subscription(pushing: Pushing) -> None:
    """Of one by its id, or of all of the connection; what was due is not told either."""
    client, hub = Client(clogs=True), pushing.hub
    for n in (1, "1", 3):
        pushing.ask(client, n)
    pushing.quote("AAPL", 1.0)
    client.is_clear, client.clogs = True, False
    client.events()
    assert json.loads(hub.unsubscribe(client, "1")) == {"unsubscribed": ["1"]}
    hub.caught_up(client)
    assert [event["id"] for event in client.events()] == [3]
    assert json.loads(hub.unsubscribe(client)) == {"unsubscribed": [1, 3]}
    pushing.quote("AAPL", 2.0)
    pushing.turns.settle()
    assert client.events() == []
    assert not hub.has(client)
    assert len(hub) == 0


def test_an_unknown_subscription_cannot_be_ended(pushing: Pushing) -> None:
    """Nor one twice; of none at all nothing is."""
    client = Client()
    assert json.loads(pushing.hub.unsubscribe(client)) == {"unsubscribed": []}
    pushing.ask(client, 1)
    with pytest.raises(RequestError) as caught:
        pushing.hub.unsubscribe(client, "1")
    assert caught.value.code is ErrorCode.NOT_FOUND


def test_an_id_names_one_subscription_of_a_connection(pushing: Pushing) -> None:
    """It may be used again after that, and by others."""
    client = Client()
    pushing.ask(client, "a")
    pushing.ask(Client(), "a")
    with pytest.raises(RequestError) as caught:
        pushing.ask(client, "a")
    assert caught.value.code is ErrorCode.BAD_REQUEST
    pushing.hub.unsubscribe(client, "a")
    pushing.ask(client, "a")
    pushing.quote("AAPL", 1.0)
    assert len(client.events()) == 1


def test_a_connection_has_so_many_subscriptions(pushing: Pushing) -> None:
    """One more is refused, and changes nothing."""
    client = Client()
    for n in range(MAX_SUBSCRIPTIONS):
        pushing.ask(client, n)
    with pytest.raises(RequestError) as caught:
        pushing.ask(client, "one more")
    assert caught.value.code is ErrorCode.OVERLOADED
    assert len(pushing.hub) == MAX_SUBSCRIPTIONS


def test_a_connection_names_so_many_tickers(pushing: Pushing) -> None:
    """In all of its subscriptions: names that nobody knows cost memory, too."""
    client = Client()
    names = [f"X{n}" for n in range(MAX_NAMED)]
    pushing.ask(client, 1, names[1:])
    with pytest.raises(RequestError) as caught:
        pushing.ask(client, 2, names[:2])
    assert caught.value.code is ErrorCode.OVERLOADED
    pushing.ask(client, 2, names[:1])
    pushing.ask(client, 3)
    assert len(pushing.hub) == 3


def test_a_subscription_that_fails_leaves_nothing_behind(pushing: Pushing) -> None:
    """The client has an error, and is not told of anything."""
    client = Client()
    with (
        mock.patch.object(pushing.market.cache, "missing", side_effect=ZeroDivisionError),
        pytest.raises(ZeroDivisionError),
    ):
        pushing.ask(client, 1, ["AAPL", "NOPE"])
    assert_empty(pushing.hub)


def test_nothing_is_left_of_who_is_gone(pushing: Pushing) -> None:
    """Whatever it had named, and whatever it was owed."""
    for n in range(50):
        client = Client(clogs=n % 2 == 0)
        pushing.ask(client, 1, ["AAPL", f"X{n}"])
        pushing.ask(client, 2)
        pushing.ask(client, 3, ["MSFT"], (2, pushing.market.writer.instance))
        pushing.quote("AAPL", float(n), restated("MSFT"))
        pushing.hub.leave(client)
        pushing.hub.leave(client)
    assert_empty(pushing.hub)


def test_who_subscribes_and_ends_all_the_time_is_due_once(pushing: Pushing) -> None:
    """What waits for a turn does not grow between two of them."""
    since = pushing.epoch, pushing.market.writer.instance
    pushing.quote("AAPL", 1.0, restated("AAPL"))
    client = Client()
    for _ in range(1000):
        pushing.ask(client, 1, since=since)
        pushing.hub.caught_up(client)
        pushing.hub.unsubscribe(client)
    assert len(pushing.turns.waiting) <= 1
    assert_empty(pushing.hub)
    pushing.ask(client, 1)
    client.is_clear = False
    pushing.quote("AAPL", 1.0)
    pushing.turns.waiting.append(lambda: None)
    for _ in range(1000):
        client.is_clear = True
        with mock.patch.object(pushing.hub, "_tell"):
            pushing.hub.caught_up(client)
        client.is_clear = False
    assert len(pushing.hub._due) == 1


def assert_empty(hub: Hub) -> None:
    """See that nobody is kept."""
    assert len(hub) == 0
    kept = (hub._selections, hub._of_row, hub._awaiting, hub._of_client, hub._due)
    assert [len(of) for of in kept] == [0] * 5


# -- what goes wrong -------------------------------------------------------------------------


def failures(act: Callable[[], object]) -> list[Any]:
    """Give the failures that something logs."""
    found: list[Any] = []

    def observe(event: Any) -> None:
        if "log_failure" in event:
            found.append(event["log_failure"].value)

    publisher = cast("Any", globalLogPublisher)
    publisher.addObserver(observe)
    try:
        act()
    finally:
        publisher.removeObserver(observe)
    return found


def test_a_client_that_fails_is_cut_and_the_others_are_told(pushing: Pushing) -> None:
    """The publisher hears nothing of it."""
    bad, good = Client(), Client()
    pushing.ask(bad)
    pushing.ask(good)
    with mock.patch.object(bad, "send", side_effect=ZeroDivisionError):
        (error,) = failures(lambda: pushing.quote("AAPL", 1.0))
    assert isinstance(error, ZeroDivisionError)
    assert bad.is_cut
    assert len(good.events()) == 1


def test_an_exception_in_the_hub_does_not_reach_the_publisher(pushing: Pushing) -> None:
    """It is logged, and the next commit tells all of it."""
    client = Client()
    pushing.ask(client)
    with mock.patch.object(pushing.market.cache, "changed", side_effect=ZeroDivisionError):
        assert len(failures(lambda: pushing.quote("AAPL", 1.0))) == 1
    pushing.quote("MSFT", 1.0)
    (event,) = client.events()
    assert sorted(event["data"]) == ["AAPL", "MSFT"]


# -- cost ------------------------------------------------------------------------------------


def test_an_event_is_made_once_for_all_who_are_owed_the_same(pushing: Pushing) -> None:
    """And its largest part is one object for all of them."""
    clients = [Client() for _ in range(1000)]
    for n, client in enumerate(clients):
        pushing.ask(client, n, None if n % 2 else ["AAPL", "MSFT"] if n % 4 else ["MSFT", "AAPL"])
    pushing.market.quote("AAPL", 1.0)
    with mock.patch.object(push, "_encode", wraps=push._encode) as encode:  # noqa: SIM117 (one each)
        with mock.patch.object(
            pushing.market.cache, "object", wraps=pushing.market.cache.object
        ) as made:
            pushing.hub.published((restated("AAPL"),))
            pushing.turns.settle()
    assert made.call_count == 2
    assert encode.call_count == 2  # the restatement
    assert len({id(parts[2]) for client in clients for parts in client.sent}) == 4


def test_slow_clients_that_are_behind_by_different_commits_share_what_they_are_told(
    pushing: Pushing,
) -> None:
    """As many rows that changed are the same rows."""
    clients = [Client(clogs=True) for _ in range(100)]
    for client in clients:
        pushing.ask(client)
        pushing.quote("MSFT", 0.0)  # so each one is clogged since another commit
    pushing.quote("AAPL", 1.0)
    pushing.quote("MSFT", 2.0)
    for client in clients:
        client.events()
        client.sent.clear()
        client.is_clear = True
        pushing.hub.caught_up(client)
    assert {event["skipped"] for client in clients for event in client.events()} >= {1, 2, 50}
    assert len({id(parts[2]) for client in clients for parts in client.sent}) == 1


def test_what_is_kept_of_events_is_gone_a_second_later(pushing: Pushing) -> None:
    """A quiet market holds on to nothing, and a quote that went stale is told as stale."""
    client = Client(clogs=True)
    pushing.ask(client, 1)
    other = Client()
    pushing.ask(other, 1)
    pushing.quote("AAPL", 1.0)
    pushing.quote("AAPL", 2.0)
    pushing.hub.beat()
    assert not pushing.hub._events
    assert not pushing.hub._objects
    pushing.market.clock.now_ms += 2000
    client.events()
    client.is_clear = True
    pushing.hub.caught_up(client)
    (event,) = client.events()
    assert event["data"]["AAPL"]["stale"] is True


def test_telling_costs_what_changed_not_how_many_subscribed_to_other_things(
    pushing: Pushing,
) -> None:
    """Subscriptions to other tickers are not looked at."""
    pushing.market.add("A", "B")
    pushing.quote("A", 1.0)
    for n in range(1000):
        pushing.ask(Client(), 1, ["B", f"X{n}"])
    client = Client()
    pushing.ask(client, 1, ["A"])
    with mock.patch.object(Hub, "_tell_one", autospec=True) as told:  # noqa: SIM117 (one each)
        with mock.patch.object(Selection, "has") as looked:
            pushing.quote("A", 2.0)
    assert told.call_count == 1
    assert not looked.called


# -- everything at once ----------------------------------------------------------------------

TICKERS = ("AAPL", "MSFT", "NEWCO", "A", "B", "C", "D", "E", "F", "G", "H")


def state_of(market: Market, tickers: Iterable[str] | None) -> dict[str, dict[str, Any]]:
    """Give the server's quotes as a client should have them."""
    quotes = market.cache.snapshot(tickers).quotes
    return {ticker: lasting(as_json(quote)) for ticker, quote in quotes.items()}


def as_json(quote: Quote) -> dict[str, Any]:
    """Give a quote as JSON has it."""
    found: dict[str, Any] = json.loads(push._encode(quote))
    return found


class Watcher(Client):
    """A client that checks each event as it comes."""

    def __init__(self, pushing: Pushing, tickers: tuple[str, ...] | None) -> None:
        super().__init__()
        self.pushing, self.tickers = pushing, tickers
        self.replica = Replica()
        self.is_there = False
        self.missed = 0  # commits of its tickers that it was not told of yet
        self.missed_tickers: set[str] = set()  # that they changed
        self.missed_restated: dict[str, list[int]] = {}  # ticker -> epochs

    def subscribe(self, *, resume: bool) -> None:
        """Come, or come back."""
        since = (self.replica.epoch, self.replica.instance) if resume else None
        data = self.pushing.ask(self, "w", self.tickers, since)
        writer = self.pushing.market.writer
        assert data["resumed"] is (resume and self.replica.instance == writer.instance)
        told = {what["ticker"] for what in data["restated"]}
        assert told == (self.missed_restated.keys() if data["resumed"] else set())
        self.missed_restated.clear()
        self.replica.begin(data)
        if data["resumed"]:
            assert data["quotes"].keys() == self.missed_tickers
        self.missed, self.is_there, self.is_clear = 0, True, True
        self.missed_tickers.clear()
        self.check()

    def send(self, *parts: bytes) -> None:
        """Take an event; whoever sends it would only cut off a client that raises."""
        try:
            self.take(*parts)
        except AssertionError as error:
            self.pushing.errors.append(error)

    def take(self, *parts: bytes) -> None:
        """Hold an event against the market, and against what is owed."""
        assert self.is_there
        assert self.is_clear
        super().send(*parts)
        (event,) = self.events()
        assert event["id"] == "w"
        self.replica.take(event)
        assert event["epoch"] == self.pushing.epoch
        if event["op"] == "restated":
            expected = {
                ticker: epochs == [self.pushing.epoch]
                for ticker, epochs in self.missed_restated.items()
            }
            bars = {what["ticker"]: what["bars"] is not None for what in event["data"]}
            assert bars == expected
            assert event["skipped"] == max(0, self.missed - 1)
            self.missed_restated.clear()
            return
        assert not self.missed_restated
        if event["op"] == "quotes":
            assert event["skipped"] == self.missed - 1
            assert event["data"].keys() == self.missed_tickers
            self.missed = 0
            self.missed_tickers.clear()
        else:
            assert self.missed == 0
        self.check()

    def has(self, ticker: str) -> bool:
        """Tell whether it is one of those asked for."""
        return self.tickers is None or ticker in self.tickers

    def check(self) -> None:
        """Hold all of it against the market."""
        assert self.replica.quotes == state_of(self.pushing.market, self.tickers)


class PushMachine(RuleBasedStateMachine):
    """Commits of all kinds, and clients that are slow, die, and come back."""

    @initialize()
    def start(self) -> None:
        """Begin with a small market, that will grow beyond its segment."""
        self.pushing = Pushing()
        self.market = self.pushing.market
        self.watchers: list[Watcher] = []
        self.price = 0.0

    @rule(
        quoted=st.sets(st.sampled_from(TICKERS)),
        confirmed=st.sets(st.sampled_from(TICKERS)),
        removed=st.sets(st.sampled_from(TICKERS), max_size=3),
        restates=st.booleans(),
    )
    def commit(
        self, quoted: set[str], confirmed: set[str], removed: set[str], *, restates: bool
    ) -> None:
        """Publish, in one commit; tickers that were removed come back with a value."""
        market, writer = self.market, self.market.writer
        self.price += 1
        market.clock.now_ms += 10
        market.add(*sorted(quoted))
        there = {ticker for ticker in TICKERS if market.cache.snapshot([ticker]).quotes}
        confirmed = (confirmed & there) - quoted
        removed = (removed & there) - quoted - confirmed
        names = sorted(quoted)
        values = np.full((len(names), 6), self.price)
        batch = Batch(
            market.clock.now_ms,
            quotes=[Quotes(market.rows(*names), np.zeros(len(names), np.int64), values)],
            confirmed=market.rows(*sorted(confirmed)) if confirmed else None,
            removed=market.rows(*removed).tolist(),
        )
        writer.write_data(batch)
        changed = quoted | confirmed | removed
        told = sorted(quoted | confirmed)[:2] if restates else []
        for watcher in self.watchers:
            watcher.missed += any(map(watcher.has, changed))
            watcher.missed_tickers.update(filter(watcher.has, changed))
            for ticker in filter(watcher.has, told):
                watcher.missed_restated.setdefault(ticker, []).append(writer.epoch)
        self.pushing.hub.published([restated(ticker) for ticker in told])

    @rule(tickers=st.none() | st.sets(st.sampled_from((*TICKERS, "NEVER")), min_size=1))
    def come(self, tickers: set[str] | None) -> None:
        """Have a client subscribe."""
        watcher = Watcher(self.pushing, None if tickers is None else tuple(tickers))
        self.watchers.append(watcher)
        watcher.subscribe(resume=False)

    @precondition(lambda self: self.watchers)
    @rule(data=st.data())
    def slow_down(self, data: st.DataObject) -> None:
        """Have a client not read."""
        data.draw(st.sampled_from(self.watchers)).is_clear = False

    @precondition(lambda self: self.watchers)
    @rule(data=st.data())
    def catch_up(self, data: st.DataObject) -> None:
        """Have a client read everything."""
        watcher = data.draw(st.sampled_from(self.watchers))
        watcher.is_clear = True
        if watcher.is_there:
            self.pushing.hub.caught_up(watcher)

    @precondition(lambda self: self.watchers)
    @rule(data=st.data(), says_so=st.booleans())
    def go(self, data: st.DataObject, *, says_so: bool) -> None:
        """Have a client die, or end its subscription."""
        watcher = data.draw(st.sampled_from(self.watchers))
        if watcher.is_there:
            if says_so:
                self.pushing.hub.unsubscribe(watcher, "w")
            else:
                self.pushing.hub.leave(watcher)
            watcher.is_there = False

    @precondition(lambda self: self.watchers)
    @rule(data=st.data(), resume=st.booleans())
    def come_back(self, data: st.DataObject, *, resume: bool) -> None:
        """Have a client here again."""
        watcher = data.draw(st.sampled_from(self.watchers))
        if not watcher.is_there:
            watcher.subscribe(resume=resume)

    @precondition(lambda self: self.watchers)
    @rule(data=st.data(), quoted=st.sets(st.sampled_from(TICKERS), min_size=1), turns=st.booleans())
    def miss(self, data: st.DataObject, quoted: set[str], *, turns: bool) -> None:
        """Have a client miss something of which it is told as it comes back."""
        watcher = data.draw(st.sampled_from(self.watchers))
        if watcher.is_there:
            self.pushing.hub.leave(watcher)
            watcher.is_there = False
        self.commit(quoted, set(), set(), restates=True)
        watcher.subscribe(resume=watcher.replica.epoch > 0)
        if turns:
            self.pushing.turns.turn()

    @rule(ms=st.integers(0, 6000))
    def pass_time(self, ms: int) -> None:
        """Spend a second, or more, without a commit."""
        self.market.clock.now_ms += ms
        self.pushing.hub.beat()

    @rule()
    def turn(self) -> None:
        """Let the reactor come round."""
        self.pushing.turns.turn()

    @invariant()
    def nothing_was_wrong(self) -> None:
        """Raise what a client has found."""
        if hasattr(self, "pushing") and self.pushing.errors:
            raise self.pushing.errors.pop()

    @invariant()
    def who_is_due_is_there(self) -> None:
        """See that what waits is bounded by the subscriptions."""
        if hasattr(self, "pushing"):
            hub = self.pushing.hub
            assert len(hub._due) <= len(hub) == sum(w.is_there for w in self.watchers)

    def teardown(self) -> None:
        """In the end everybody who reads has everything."""
        if not hasattr(self, "pushing"):
            return
        for watcher in self.watchers:
            watcher.is_clear = True
            if watcher.is_there:
                self.pushing.hub.caught_up(watcher)
        self.pushing.turns.settle()
        self.nothing_was_wrong()
        for watcher in self.watchers:
            if watcher.is_there:
                watcher.check()
                assert watcher.missed == 0
                assert not watcher.missed_restated
                self.pushing.hub.leave(watcher)
        assert_empty(self.pushing.hub)


PushMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestPush = PushMachine.TestCase
TestPush.__doc__ = PushMachine.__doc__
