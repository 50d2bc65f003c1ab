"""quoteshm over the wire: `subscribe`, with the server in the writer's process."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np

from bench.peers import base, quoteshm
from quoteshm import QuoteClient
from quoteshm.client.events import QuotesEvent
from quoteshm.market.quotes import QuoteCache
from quoteshm.wire.operations import Context
from quoteshm.wire.protocol import QuoteFactory


class Writer(quoteshm.Writer):
    """Publishes in the reactor's thread and tells the subscribers, as the daemon does."""

    def store(self) -> None:
        """Publish, and listen."""
        from twisted.internet import reactor  # noqa: PLC0415  not before it is needed

        super().store()
        self.reactor: Any = reactor
        cache = QuoteCache(self.writer, self.clock)
        self.factory = QuoteFactory(Context(self.writer, cache), self.reactor, log_traffic=False)
        path = str(self.folder / "quotes.sock")
        self.reactor.listenUNIX(path, self.factory)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        self.reactor.run(installSignalHandlers=False)

    def pulse(self, count: int, gap_s: float) -> None:
        """Publish from a timer of the reactor's."""
        done, rng = threading.Event(), np.random.default_rng(3)

        def next_pulse(left: int) -> None:
            price = float(time.perf_counter_ns()) if left else 1.0
            self.tick_one(self.market.one(price))
            self.factory.hub.published()
            if left:
                self.reactor.callLater(gap_s * rng.uniform(0.5, 1.5), next_pulse, left - 1)
            else:
                done.set()

        self.reactor.callFromThread(next_pulse, count)
        done.wait()

    def close(self) -> None:
        """Stop."""
        self.reactor.callFromThread(self.reactor.stop)
        self.thread.join(10)
        super().close()


class Reader(base.Reader):
    """A blocking client."""

    def open(self) -> None:
        """Subscribe to one ticker."""
        self.client = QuoteClient(path=str(self.folder / "quotes.sock"))
        self.one = self.market.symbols[base.ONE]
        self.events = iter(self.client.subscribe([self.one]))
        next(self.events)  # the snapshot

    def price(self) -> float:
        """Ask for the price."""
        return self.client.get_quote(self.one).price

    def sleep(self, last: float) -> float:  # noqa: ARG002  each event is new
        """Wait for the next event that tells of it."""
        while True:
            event = next(self.events)
            if isinstance(event, QuotesEvent) and (quote := event.quotes.get(self.one)) is not None:
                return quote.price

    def close(self) -> None:
        """Disconnect."""
        self.client.close()
