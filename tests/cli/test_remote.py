"""Tests of the copy of a market that a thread keeps up to date."""

from __future__ import annotations

import queue
from typing import TYPE_CHECKING, Any, Self

import pytest

from quoteshm.cli import output
from quoteshm.cli.remote import Connection, RemoteMarket
from quoteshm.client.events import (
    Event,
    HeartbeatEvent,
    LostEvent,
    QuotesEvent,
    ResumedEvent,
    SnapshotEvent,
)
from quoteshm.errors import ErrorCode, RequestError
from tests.cli.test_output import a_quote

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW_MS = 1_700_000_000_000
FRESHNESS_MS = 1000


class Server:
    """A client of a server that tells what a test says."""

    address = "there:9000"

    def __init__(self) -> None:
        self.asked: object = None
        self.told: queue.SimpleQueue[Event | Exception | None] = queue.SimpleQueue()
        self.tell(SnapshotEvent(2, "1" * 32, FRESHNESS_MS, 5.0, quotes(1.0), []))

    def tell(self, event: Event | Exception | None) -> None:
        """Tell an event, the end, or an error."""
        self.told.put(event)

    def get_info(self) -> dict[str, Any]:
        """Say what it is."""
        return {"shm_name": None, "source": "synthetic"}

    def subscribe(self, tickers: object, *, heartbeats: bool) -> Self:
        """Be the subscription as well."""
        assert heartbeats
        self.asked = tickers
        return self

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        """Give the next event."""
        event = self.told.get()
        if event is None:
            raise StopIteration
        if isinstance(event, Exception):
            raise event
        return event

    def close(self) -> None:
        """End."""
        self.tell(None)


def quotes(price: float) -> Any:
    """Give a quote by its ticker, just confirmed."""
    return {"A": a_quote("A", price, updated_ms=NOW_MS, stale=False)}


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Own the time."""
    time = [NOW_MS]
    monkeypatch.setattr(output, "now_ms", lambda: time[0])
    return time


@pytest.fixture
def server() -> Server:
    """Have a server."""
    return Server()


@pytest.fixture
def market(server: Server) -> Iterator[RemoteMarket]:
    """Follow it."""
    client: Any = server
    with RemoteMarket(client, []) as market:
        yield market


def test_the_copy_follows_what_is_told(server: Server, market: RemoteMarket) -> None:
    """And says that the connection is there."""
    first = market.look()
    assert server.asked == "*"
    assert (first.epoch, first.quotes["A"].price) == (2, 1.0)
    assert (first.segment, first.source) == ("there:9000", "synthetic")
    assert first.state == Connection("there:9000")
    assert first.state.words == "connected to there:9000"
    assert not market.wait(first, 0.0)

    server.tell(QuotesEvent(4, 0, quotes(2.0)))
    assert market.wait(first, 5.0)
    assert market.look().quotes["A"].price == 2.0


def test_a_connection_that_is_lost_is_told_in_words(server: Server, market: RemoteMarket) -> None:
    """Until it is back."""
    first = market.look()
    server.tell(LostEvent("refused"))
    assert market.wait(first, 5.0)
    lost = market.look()
    assert not lost.state.is_well
    assert lost.state.words.startswith("CONNECTION LOST to there:9000: refused; these are the last")

    server.tell(ResumedEvent(2, 0, {}))
    assert market.wait(lost, 5.0)
    assert market.look().state.is_well


def test_what_is_not_confirmed_grows_stale(
    server: Server, market: RemoteMarket, now: list[int]
) -> None:
    """By the server's clock, as far as it is known."""
    assert not market.look().quotes["A"].stale
    now[0] += FRESHNESS_MS
    assert not market.look().quotes["A"].stale
    now[0] += 1
    seen = market.look()
    assert seen.quotes["A"].stale

    server.tell(HeartbeatEvent(4, NOW_MS + 500, NOW_MS))  # this machine's clock is ahead
    assert market.wait(seen, 5.0)
    corrected = market.look()
    assert not corrected.quotes["A"].stale
    assert corrected.now_ms == NOW_MS + 500


def test_what_ends_it_is_raised_where_it_is_looked_at(server: Server, market: RemoteMarket) -> None:
    """In the thread that draws."""
    seen = market.look()
    server.tell(RequestError(ErrorCode.BAD_REQUEST, "unknown op: subscribe"))
    assert market.wait(seen, 5.0)
    with pytest.raises(RequestError, match="unknown op"):
        market.look()
