"""A served market that changes while clients are told of it."""
# mypy: allow-untyped-calls

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.threads import blockingCallFromThread

from quoteshm.client.events import QuotesEvent, SnapshotEvent
from tests.serving import ServedCase

if TYPE_CHECKING:
    from collections.abc import Callable

    from quoteshm.client.events import Event
    from quoteshm.model import Quote


class PushedCase(ServedCase):
    """A test whose clients run in other threads than the server."""

    def on_server(self, act: Callable[..., Any], *args: object) -> Any:
        """Do something in the server's thread, from a client's."""
        return blockingCallFromThread(self.reactor, act, *args)

    def publish(self, symbol: str, price: float) -> None:
        """Publish a quote, and tell whoever listens."""
        self.market.quote(symbol, price)
        self.factory.hub.published()

    def remove(self, symbol: str) -> None:
        """Take a ticker out, and tell whoever listens."""
        self.market.remove(symbol)
        self.factory.hub.published()

    def cut(self) -> None:
        """Cut all connections."""
        for protocol in list(self.factory.open):
            protocol.abort()

    def prices(self, quotes: dict[str, Quote]) -> None:
        """Check that a copy is the market."""
        now = self.market.cache.snapshot().quotes
        assert {t: q.price for t, q in quotes.items()} == {t: q.price for t, q in now.items()}


def changed(event: Event | None) -> dict[str, float | None]:
    """Give the prices that an event tells."""
    assert isinstance(event, SnapshotEvent | QuotesEvent), event
    return {t: None if q is None else q.price for t, q in event.quotes.items()}
