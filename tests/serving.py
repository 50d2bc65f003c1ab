"""A real server on a free port, for tests that speak to one."""
# mypy: allow-untyped-calls
# Twisted is typed only in part, and `untyped_calls_exclude` does not reach what we inherit.

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.trial import unittest

from quoteshm.wire.bounds import Bounds
from quoteshm.wire.operations import Context
from quoteshm.wire.protocol import QuoteFactory, QuoteProtocol
from tests.published import Market

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.python.failure import Failure

    from quoteshm.wire.limits import Schedule


class WatchedFactory(QuoteFactory):
    """A factory that knows which connections are open."""

    def __init__(self, context: Context, turns: Schedule) -> None:
        super().__init__(context, turns)
        self.open: set[QuoteProtocol] = set()
        self.made = 0
        self._waiting: list[Deferred[None]] = []

    def buildProtocol(self, addr: object) -> QuoteProtocol:
        """Make a protocol, and watch it."""
        protocol = super().buildProtocol(addr)
        lost = protocol.connectionLost
        self.open.add(protocol)
        self.made += 1

        def connection_lost(reason: Failure) -> None:
            lost(reason)
            self.open.discard(protocol)
            if not self.open:
                for waiting in self._waiting:
                    waiting.callback(None)
                self._waiting.clear()

        protocol.connectionLost = connection_lost  # type: ignore[assignment, method-assign]
        return protocol

    def closed(self) -> Deferred[None]:
        """Wait until no connection is open."""
        waiting: Deferred[None] = Deferred()
        if self.open:
            self._waiting.append(waiting)
        else:
            waiting.callback(None)
        return waiting


class ServedCase(unittest.TestCase):
    """A test with a small market that is served on a free port of the loopback."""

    timeout = 60
    directory: Path | None = None  # for a segment in a file
    bounds = Bounds()

    def setUp(self) -> None:
        """Publish and listen."""
        # At import it would be installed before another test may choose.
        from twisted.internet import reactor  # noqa: PLC0415

        self.reactor: Any = reactor
        self.market = Market(self.directory)
        self.addCleanup(self.market.writer.close)
        context = Context(self.market.writer, self.market.cache, self.bounds)
        self.factory = WatchedFactory(context, self.reactor)
        self.addCleanup(self.factory.closed)
        self.listen()

    def listen(self, port: int = 0) -> None:
        """Listen, on a free port unless told otherwise."""
        self.listening = self.reactor.listenTCP(port, self.factory, interface="127.0.0.1")
        self.port: int = self.listening.getHost().port
        self.addCleanup(self.listening.stopListening)

    def in_thread(self, act: Callable[..., Any], *args: object, **named: object) -> Deferred[Any]:
        """Do something that blocks, while the server runs."""
        result: Deferred[Any] = deferToThread(act, *args, **named)
        return result
