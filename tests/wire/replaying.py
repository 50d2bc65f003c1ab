"""The checker of push: it replays events over a snapshot, and minds that none is missing."""

from __future__ import annotations

from typing import Any


class Replica:
    """What a client holds of the market, made of nothing but what it was told.

    Attributes
    ----------
    quotes : dict
        By ticker, without what follows the clock (`stale`).
    epoch, instance : int, str
        Of the newest of it, and of what.
    skipped, told : int
        Commits that were folded into others, and events with quotes, since `begin`.

    """

    def __init__(self) -> None:
        self.quotes: dict[str, dict[str, Any]] = {}
        self.epoch, self.instance = 0, ""
        self.skipped = self.told = 0

    @property
    def since(self) -> dict[str, Any]:
        """What to ask for to resume."""
        return {"since_epoch": self.epoch, "instance": self.instance}

    def begin(self, data: dict[str, Any]) -> None:
        """Take the reply to a subscription."""
        if data["resumed"]:
            assert data["instance"] == self.instance
            assert data["epoch"] >= self.epoch, (data["epoch"], self.epoch)
        else:
            self.quotes.clear()
            assert None not in data["quotes"].values()
        self.epoch, self.instance = data["epoch"], data["instance"]
        self.skipped = self.told = 0
        self._apply(data["quotes"])

    def take(self, event: dict[str, Any]) -> None:
        """Take an event."""
        assert event["v"] == 1
        assert event["type"] == "event"
        assert event["skipped"] >= 0
        if event["op"] == "quotes":
            assert event["epoch"] > self.epoch, (event["epoch"], self.epoch)
            assert event["data"]
            self._apply(event["data"])
            self.epoch = event["epoch"]
            self.skipped += event["skipped"]
            self.told += 1
        else:  # a restatement comes before the quotes of its epoch, a heartbeat says no news
            assert event["op"] in ("restated", "heartbeat")
            assert event["epoch"] >= self.epoch

    def _apply(self, changes: dict[str, Any]) -> None:
        for ticker, quote in changes.items():
            if quote is None:
                self.quotes.pop(ticker, None)
            else:
                assert quote["ticker"] == ticker
                self.quotes[ticker] = lasting(quote)


def lasting(quote: dict[str, Any]) -> dict[str, Any]:
    """Give a quote without what follows the clock; itself where it has none of that."""
    if "stale" not in quote:
        return quote
    return {name: value for name, value in quote.items() if name != "stale"}
