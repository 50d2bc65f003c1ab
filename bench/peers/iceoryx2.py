"""iceoryx2: its blackboard for values, its publish-subscribe and its events for changes."""

from __future__ import annotations

import ctypes
import hashlib
from typing import Any

import iceoryx2

from bench.market import QUOTE_FIELDS, Step
from bench.peers import base

iceoryx2.set_log_level(iceoryx2.LogLevel.Error)


class Quote(ctypes.Structure):
    """What a blackboard's entry holds."""

    _fields_ = (*((name, ctypes.c_double) for name in QUOTE_FIELDS), ("ts_ms", ctypes.c_int64))


class _Services:
    """The services of one store."""

    def __init__(self, folder: object) -> None:
        self.name = "bench/" + hashlib.sha1(str(folder).encode()).hexdigest()[:16]  # noqa: S324  no secret
        self.node = iceoryx2.NodeBuilder.new().create(iceoryx2.ServiceType.Ipc)

    def builder(self, kind: str) -> Any:  # noqa: ANN401  not typed
        name = iceoryx2.ServiceName.new(f"{self.name}/{kind}")
        return self.node.service_builder(name)

    def pushes(self) -> Any:  # noqa: ANN401
        return self.builder("pushes").publish_subscribe(Quote).open_or_create()

    def events(self) -> Any:  # noqa: ANN401
        return self.builder("events").event().open_or_create()


class Writer(base.Writer):
    """One entry a ticker, each updated by itself; a change of one is sent and notified, too."""

    def open(self) -> None:
        """Make the services."""
        self.services = _Services(self.folder)

    def store(self) -> None:
        """Make the blackboard with all its keys: it takes no others later."""
        creator = self.services.builder("board").blackboard_creator(ctypes.c_uint64)
        step = self.market.step(0)
        for row, values in enumerate(step.quotes.tolist()):
            creator = creator.add(ctypes.c_uint64(row), Quote(*values, step.time_ms))
        self.board = creator.create()
        self.writer = self.board.writer_builder().create()
        self.entries = [
            self.writer.entry(ctypes.c_uint64(row), Quote) for row in range(self.market.tickers)
        ]
        self.pushes, self.events = self.services.pushes(), self.services.events()
        self.publisher = self.pushes.publisher_builder().create()
        self.notifier = self.events.notifier_builder().create()

    def publish(self, step: Step) -> None:
        """Update each entry with its quote; the blackboard keeps no bars."""
        stamp = step.time_ms
        for entry, values in zip(self.entries, step.quotes.tolist(), strict=True):
            entry.update_with_copy(Quote(*values, stamp))

    def tick_one(self, step: Step) -> None:
        """Update one entry."""
        quote = Quote(*step.quotes[0].tolist(), step.time_ms)
        self.entries[base.ONE].update_with_copy(quote)

    def push(self, step: Step) -> None:
        """Send one quote to subscribers, and notify listeners."""
        self.publisher.send_copy(Quote(*step.quotes[0].tolist(), step.time_ms))
        self.notifier.notify()

    def close(self) -> None:
        """Take the services away."""
        for port in (*self.entries, self.writer, self.publisher, self.notifier):
            port.delete()
        del self.entries, self.writer, self.publisher, self.notifier
        del self.board, self.pushes, self.events, self.services


class Reader(base.Reader):
    """A handle a ticker, kept in a dict."""

    def open(self) -> None:
        """Open the services."""
        self.services = _Services(self.folder)
        opener = self.services.builder("board").blackboard_opener(ctypes.c_uint64)
        self.board = opener.open()
        self.reader = self.board.reader_builder().create()
        self.entries = {
            symbol: self.reader.entry(ctypes.c_uint64(row), Quote)
            for row, symbol in enumerate(self.market.symbols)
        }
        self.pushes, self.events = self.services.pushes(), self.services.events()
        self.subscriber = self.pushes.subscriber_builder().create()
        self.listener = self.events.listener_builder().create()

    def quote(self, symbol: str) -> Quote:
        """Get and decode: bytes are of no use to anybody."""
        found: Quote = self.entries[symbol].get().decode_as(Quote)
        return found

    def facts(self, quote: Quote) -> base.Facts:
        """Give a quote's facts."""
        return (*(getattr(quote, name) for name in QUOTE_FIELDS), quote.ts_ms)

    def records(self) -> dict[str, Quote]:
        """Read entry after entry: each is whole, the market is not of one moment."""
        return {symbol: entry.get().decode_as(Quote) for symbol, entry in self.entries.items()}

    def price(self) -> float:
        """Read one price."""
        price: float = self.quote(self.market.symbols[base.ONE]).price
        return price

    def spin(self, last: float) -> float:  # noqa: ARG002  each sample is new
        """Ask publish-subscribe again and again."""
        receive = self.subscriber.receive
        while (sample := receive()) is None:
            pass
        price: float = sample.payload().contents.price
        sample.delete()
        return price

    def sleep(self, last: float) -> float:  # noqa: ARG002
        """Sleep on the listener until there is a sample."""
        while (sample := self.subscriber.receive()) is None:
            self.listener.timed_wait(iceoryx2.Duration.from_millis(1_000))
        price: float = sample.payload().contents.price
        sample.delete()
        return price

    def close(self) -> None:
        """Let go."""
        for port in (*self.entries.values(), self.reader, self.subscriber, self.listener):
            if hasattr(port, "delete"):
                port.delete()
        del self.entries, self.reader, self.subscriber, self.listener
        del self.board, self.pushes, self.events, self.services
