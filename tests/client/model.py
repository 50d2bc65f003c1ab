"""A market that speaks the wire's push, without a server: what clients are checked against."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from quoteshm.client.events import QuotesEvent, SnapshotEvent
from quoteshm.model import FIELDS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from quoteshm.client.events import Event
    from quoteshm.model import Quote

HEARTBEAT_S = 5.0


class ModelMarket:
    """Prices by ticker, and what each of one connection's subscriptions has been told."""

    def __init__(self) -> None:
        self.prices: dict[str, float] = {}
        self.commits = 0  # all that ever were
        self.at: dict[tuple[str, int], dict[str, float]] = {}  # by instance and epoch
        self.begin("1" * 32)

    def begin(self, instance: str) -> None:
        """Go on in another segment."""
        self.instance, self.epoch = instance, 2
        self.changed = dict.fromkeys(self.prices, 2)
        self.at[instance, 2] = dict(self.prices)
        self.told: dict[str, int] = {}
        self.owed: dict[str, int] = {}

    def disconnect(self) -> None:
        """Forget the subscriptions."""
        self.told.clear()
        self.owed.clear()

    def commit(self, changes: Mapping[str, float | None]) -> None:
        """Publish prices; None takes a ticker out."""
        self.epoch += 2
        for ticker, price in changes.items():
            self.changed[ticker] = self.epoch
            if price is None:
                self.prices.pop(ticker, None)
            else:
                self.prices[ticker] = price
        self.at[self.instance, self.epoch] = dict(self.prices)
        if changes:
            self.owed = {name: count + 1 for name, count in self.owed.items()}
            self.commits += 1

    def reply(self, line: bytes) -> bytes:
        """Answer a request."""
        request = json.loads(line)
        data: Any = {}
        if request["type"] == "subscribe":
            data = self._subscribe(request)
        elif request["type"] == "unsubscribe":
            self.told.pop(request["subscription"], None)
        elif request["type"] == "get_quote":
            data = quote(request["ticker"], self.prices.get(request["ticker"], 1.0))
        return line_of(id=request["id"], type="response", op=request["type"], data=data)

    def _subscribe(self, request: dict[str, Any]) -> dict[str, Any]:
        resumed = request.get("instance") == self.instance
        since = request["since_epoch"] if resumed else 0
        assert since <= self.epoch
        self.told[request["id"]], self.owed[request["id"]] = self.epoch, 0
        return {
            "epoch": self.epoch,
            "instance": self.instance,
            "resumed": resumed,
            "freshness_ms": 1000,
            "heartbeat_s": HEARTBEAT_S,
            "quotes": self._since(since, removed=resumed),
            "missing": [],
        }

    def events(self) -> bytes:
        """Give what every subscription is owed, one event for each."""
        lines = []
        for name, told in self.told.items():
            changes, count = self._since(told, removed=True), self.owed[name]
            if changes:
                lines.append(event(name, self.epoch, changes, skipped=count - 1))
            self.told[name], self.owed[name] = self.epoch, 0
        return b"".join(lines)

    def _since(self, epoch: int, *, removed: bool) -> dict[str, Any]:
        return {
            ticker: quote(ticker, self.prices[ticker]) if ticker in self.prices else None
            for ticker, changed in self.changed.items()
            if changed > epoch and (removed or ticker in self.prices)
        }


class Follower:
    """Applies events, and checks that each leads to a state that the market had."""

    def __init__(self, market: ModelMarket) -> None:
        self.market = market
        self.quotes: dict[str, Quote] = {}
        self.instance = ""
        self.epoch = 0
        self.seen = 0  # commits, those that were folded included

    def apply(self, event: Event) -> None:
        """Take an event."""
        if isinstance(event, SnapshotEvent):
            self.instance = event.instance
        elif not isinstance(event, QuotesEvent):
            return
        else:
            assert event.epoch >= self.epoch or not self.seen
            self.seen += event.skipped + 1
        event.apply(self.quotes)
        self.epoch = event.epoch
        assert self.prices == self.market.at[self.instance, event.epoch]

    @property
    def prices(self) -> dict[str, float]:
        """The copy."""
        return {ticker: quote.price for ticker, quote in self.quotes.items()}


def quote(ticker: str, price: float) -> dict[str, Any]:
    """Give a quote as the wire has it; some of its prices are missing."""
    return {
        "ticker": ticker,
        "price": price,
        "open": None if price < 2 else price,
        "high": price,
        "low": price,
        "prev_close": price,
        "volume": 1.0,
        "currency": "USD",
        "ts_epoch_ms": 1,
        "updated_ms": 1,
        "stale": False,
        "source": "synthetic",
    }


def event(name: str, epoch: int, data: object, *, op: str = "quotes", skipped: int = 0) -> bytes:
    """Give the line of an event."""
    return line_of(id=name, type="event", op=op, epoch=epoch, skipped=skipped, data=data)


def line_of(**fields: object) -> bytes:
    """Give a line of the server."""
    return json.dumps({"v": 1, **fields}).encode() + b"\n"


def error_line(request_id: object, code: str, message: str = "no") -> bytes:
    """Give an error reply."""
    return line_of(id=request_id, type="error", error={"code": code, "message": message})


def history_of(request: dict[str, Any]) -> bytes:
    """Answer with a history of one bar, in New York."""
    data: dict[str, Any] = {"ticker": "AAPL", "interval": "1d", "time_zone": "America/New_York"}
    data |= {"forming": False, "time": [1], **{name: [1.0] for name in FIELDS}}
    return line_of(id=request["id"], type="response", op="get_history", data=data)
