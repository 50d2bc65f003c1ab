"""All three clients follow one real server through whatever happens to their connections."""
# mypy: allow-untyped-calls

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from quoteshm.client.aio import AsyncQuoteClient
from quoteshm.client.blocking import QuoteClient
from quoteshm.client.events import Event, LostEvent, QuotesEvent, SnapshotEvent
from quoteshm.client.tx import TxQuoteClient
from tests.client.pushing import PushedCase

if TYPE_CHECKING:
    from quoteshm.model import Quote

STEPS = 150


class Copy:
    """A copy of the market, and whether it was ever another than the market was."""

    def __init__(self, at: dict[int, dict[str, float]]) -> None:
        self._at = at  # the prices by epoch
        self.quotes: dict[str, Quote] = {}
        self.epoch = 0
        self.losses = 0
        self.wrong: list[Event] = []

    def take(self, event: Event) -> bool:
        """Apply an event; say whether it is the last one."""
        if isinstance(event, LostEvent):
            self.losses += 1
        if isinstance(event, SnapshotEvent | QuotesEvent):
            event.apply(self.quotes)
            self.epoch = event.epoch
            prices = {ticker: quote.price for ticker, quote in self.quotes.items()}
            if prices != self._at[event.epoch]:
                self.wrong.append(event)
        return self.epoch >= max(self._at) and -1.0 in self._at[self.epoch].values()


class FollowingTests(PushedCase):
    """One market, three clients."""

    def publish_at_random(self, chance: random.Random) -> None:
        """Change a price, or take a ticker out."""
        ticker = chance.choice(["AAPL", "MSFT", "NEWCO"])
        if chance.random() < 0.2 and ticker in self.market.cache.tickers():
            self.market.remove(ticker)
        else:
            self.market.quote(ticker, float(chance.randint(1, 99)))
        self.note()

    def note(self) -> None:
        """Remember the prices, and tell whoever listens."""
        quotes = self.market.cache.snapshot().quotes
        prices = {ticker: quote.price for ticker, quote in quotes.items()}
        self.at[self.market.writer.epoch] = prices
        self.factory.hub.published()

    async def test_each_copy_is_the_market_at_every_epoch_it_is_told(self) -> None:
        """Fast or slow, cut off at any moment."""
        self.at: dict[int, dict[str, float]] = {}
        self.note()
        copies = [Copy(self.at) for _ in range(4)]
        ends: list[Deferred[Any]] = [
            self.in_thread(self.follow_blocking, copies[0], 0.0),
            self.in_thread(self.follow_blocking, copies[1], 0.01),
            self.in_thread(lambda: asyncio.run(self.follow_async(copies[2]))),
            Deferred.fromCoroutine(self.follow_twisted(copies[3])),
        ]
        while len(self.factory.hub) < len(copies):
            await deferLater(self.reactor, 0.005)
        chance = random.Random(5)  # noqa: S311  of the test
        for _ in range(STEPS):
            for _ in range(chance.randint(1, 3)):
                self.publish_at_random(chance)
            for protocol in list(self.factory.open):
                if chance.random() < 0.02:
                    protocol.abort()
            await deferLater(self.reactor, chance.choice([0.0, 0.002]))
        self.market.quote("AAPL", -1.0)  # the last one
        self.note()
        await gatherResults(ends)

        assert [copy.wrong for copy in copies] == [[]] * len(copies)
        assert sum(copy.losses for copy in copies) > 3

    def follow_blocking(self, copy: Copy, pause_s: float) -> None:
        """Follow in a thread, more or less quickly."""
        with QuoteClient(port=self.port) as client, client.subscribe(max_pending=3) as events:
            for event in events:
                if copy.take(event):
                    return
                time.sleep(pause_s)

    async def follow_async(self, copy: Copy) -> None:
        """Follow in an event loop; ask in between."""
        async with AsyncQuoteClient(port=self.port) as client, client.subscribe() as events:
            async for event in events:
                if copy.take(event):
                    return
                await client.ping()

    async def follow_twisted(self, copy: Copy) -> None:
        """Follow in the server's own reactor."""
        client, over = TxQuoteClient(port=self.port), Deferred[None]()

        def take(event: Event) -> None:
            if copy.take(event) and not over.called:
                over.callback(None)

        await client.subscribe("*", take)
        await over
        await client.close()
