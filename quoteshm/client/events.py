"""What a subscription tells: the same records in all three clients.

The first event is a `SnapshotEvent`, and each `QuotesEvent` after it says what has changed since
the event before. When the connection falls there is a `LostEvent`; when it is back, a
`ResumedEvent` with what changed meanwhile, or, where the server cannot tell, a new snapshot.

Examples
--------
A copy of the market that follows it::

    quotes = {}
    with client.subscribe() as events:
        for event in events:
            match event:
                case SnapshotEvent() | QuotesEvent():  # a ResumedEvent is a QuotesEvent
                    event.apply(quotes)
                case LostEvent():
                    print(f"{event.why}: what is here may be old")

"""

from __future__ import annotations

import msgspec

from quoteshm.model import Quote


class SnapshotEvent(msgspec.Struct, frozen=True):
    """All quotes that were asked for, at one epoch; whatever was known before is void."""

    epoch: int
    instance: str  # of the server's segment
    freshness_ms: int  # a quote that was confirmed longer ago is stale
    heartbeat_s: float
    quotes: dict[str, Quote]
    missing: list[str]  # asked for by name and without a value; it will be told when there is one

    def apply(self, quotes: dict[str, Quote]) -> None:
        """Bring a copy of the quotes up to date."""
        quotes.clear()
        quotes.update(self.quotes)


class QuotesEvent(msgspec.Struct, frozen=True):
    """What has changed: one commit, or some folded into one where they are read slowly.

    ``stale`` of a quote is as of the moment it was sent; later it is for the clock to tell, by
    ``updated_ms`` and the snapshot's ``freshness_ms``.
    """

    epoch: int
    skipped: int  # commits that are folded into this one, besides its own
    quotes: dict[str, Quote | None]  # None: the ticker was removed

    def apply(self, quotes: dict[str, Quote]) -> None:
        """Bring a copy of the quotes up to date."""
        for ticker, quote in self.quotes.items():
            if quote is None:
                quotes.pop(ticker, None)
            else:
                quotes[ticker] = quote


class ResumedEvent(QuotesEvent, frozen=True):
    """The connection is back, and this has changed since.

    ``skipped`` counts all commits of the market meanwhile, whichever tickers they touched. What was
    restated meanwhile is told before it, without the bars.
    """

    is_restated_known: bool = True  # False: the server has begun anew; ask for histories again


class BarChange(msgspec.Struct, frozen=True):
    """One bar that the vendor changed: open, high, low, close, volume; None for no bar."""

    time: int
    before: tuple[float | None, float | None, float | None, float | None, float | None] | None
    after: tuple[float | None, float | None, float | None, float | None, float | None] | None


class Restatement(msgspec.Struct, frozen=True):
    """Closed bars of one series that the vendor changed after the fact."""

    ticker: str
    interval: str
    count: int
    removed: int
    cause: str
    bars: list[BarChange] | None  # at most 100 of them; None: ask for the history anew


class RestatedEvent(msgspec.Struct, frozen=True):
    """Closed bars were changed after the fact; told before the quotes of the same commit."""

    epoch: int
    skipped: int
    series: list[Restatement]


class HeartbeatEvent(msgspec.Struct, frozen=True):
    """Nothing has changed up to this epoch; told only to who asks for it."""

    epoch: int
    now_ms: int  # the server's time
    last_update_ms: int


class LostEvent(msgspec.Struct, frozen=True):
    """The connection has fallen; it is being made anew."""

    why: str


Event = SnapshotEvent | QuotesEvent | RestatedEvent | HeartbeatEvent | LostEvent
