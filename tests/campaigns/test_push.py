"""A short run of the campaign in `push`, and that its checker would see what it looks for."""

from __future__ import annotations

from typing import Any

import pytest

from tests.campaigns import push
from tests.campaigns.push import Books, Crowd, Lines, SharedReplica, Told
from tests.wire.replaying import Replica


def test_a_crowd_is_told_everything_while_the_daemon_is_killed() -> None:
    """A smaller one: prompt, slow and deaf clients, that die and come back, and one kill."""
    crowd = Crowd(prompt=60, subsets=10, slow=5, deaf=2)
    result = push.run(10, kills=1, crowd=crowd, tickers=500)

    assert result["problems"] == []
    assert result["resumed"] > 40
    assert result["compared"] > 100
    assert result["events"] > 1000
    assert result["without an event"] == 0


def quotes(epoch: int, skipped: int, **data: Any) -> dict[str, Any]:
    """Make an event."""
    head: dict[str, Any] = {"v": 1, "id": "s", "type": "event", "op": "quotes"}
    return {**head, "epoch": epoch, "skipped": skipped, "data": data}


@pytest.mark.parametrize("kind", [Replica, SharedReplica])
def test_an_event_that_is_told_twice_is_seen(kind: type[Replica]) -> None:
    """As one that comes too late."""
    replica = kind()
    replica.begin({"epoch": 4, "instance": "i", "resumed": False, "quotes": {"A": {"ticker": "A"}}})
    replica.take(quotes(6, 0, A=None))
    assert replica.quotes == {}
    for epoch in (6, 4):
        with pytest.raises(AssertionError):
            replica.take(quotes(epoch, 0, A={"ticker": "A"}))


def test_clients_that_differ_are_seen() -> None:
    """From each other, and from the server."""
    books, one, other = Books(Told()), Replica(), Replica()
    for replica, price in ((one, 1.0), (other, 2.0)):
        quote = {"ticker": "A", "price": price, "stale": False}
        replica.begin({"epoch": 4, "instance": "i", "resumed": False, "quotes": {"A": quote}})
    books.agree(one)
    books.agree(one)
    books.confirm({"epoch": 4, "quotes": one.quotes})
    with pytest.raises(AssertionError, match="two clients differ"):
        books.agree(other)
    with pytest.raises(AssertionError, match="clients and server differ"):
        books.confirm({"epoch": 4, "quotes": other.quotes})


def test_the_same_text_is_read_once() -> None:
    """Whatever was skipped before it; another text of that length is another one."""
    lines = Lines()
    form = b'{"v":1,"id":"s","type":"event","op":"quotes","epoch":4,"skipped":%d,"data":%b}'
    a = lines.read(form % (0, b'{"A":{"ticker":"A","stale":true}}'))
    b = lines.read(form % (7, b'{"A":{"ticker":"A","stale":true}}'))
    c = lines.read(form % (7, b'{"A":{"ticker":"B","stale":true}}'))
    assert a["data"] is b["data"]
    assert (a["skipped"], b["skipped"]) == (0, 7)
    assert a["data"] == {"A": {"ticker": "A"}}
    assert c["data"]["A"]["ticker"] == "B"
