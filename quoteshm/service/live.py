"""Live quotes: a stream of prices beside the refreshes, published many at a time.

The refreshes go on as if there were no stream: they bring the bars, and whenever the stream is not
well, they bring the quotes too. So falling back needs no switch, only somebody who notices. A
connection is given up when nothing at all comes through it, not even an answer to a ping; and when
no price comes while the refreshes show that prices move (it is mute). What is given up, or lost, is
tried again, after ever longer waits.

`heard` comes thousands of times a second on a busy day: it keeps the latest price of each ticker,
and what has come in a twentieth of a second is one commit.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
from twisted.application.service import Service
from twisted.internet import defer
from twisted.logger import Logger

from quoteshm.service.backoff import backoff_s
from quoteshm.service.periodic import Periodic
from quoteshm.sources.base import TickerPrices

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Sequence

    from twisted.python.failure import Failure

    from quoteshm.clock import Clock
    from quoteshm.service.publisher import Publisher
    from quoteshm.sources.yahoo_live import Decode, Ears, LivePrice

#: From one commit to the next, at least.
COMMIT_S: Final = 0.05
#: Between subscriptions and pings; so long yfinance waits, too.
REMIND_S: Final = 15.0
#: A connection through which nothing has come for so long is dead: two pings had no answer.
DEAD_S: Final = 45.0
#: Without any price for so long, while prices move, it is mute.
MUTE_S: Final = 30.0
LOOK_S: Final = 1.0
FIRST_WAIT_S: Final = 1.0
LONGEST_WAIT_S: Final = 120.0
#: One that was well for so long is well: the waits begin with the shortest again.
STEADY_S: Final = 60.0


class Condition(enum.StrEnum):
    """How the stream is; each change is one line of the log."""

    STARTING = "starting"
    LIVE = "live"
    QUIET = "quiet"  # connected, and nothing says that there should be prices
    MUTE = "mute"  # it was up, and brought nothing while prices moved
    DOWN = "down"


class Connection(Protocol):
    """A connection to a streamer, as `quoteshm.sources.yahoo_live.Stream` is one."""

    last_alive_s: float

    def subscribe(self, tickers: Sequence[str]) -> None:
        """Ask for the prices of tickers."""

    def ping(self) -> None:
        """Ask for a sign of life."""

    def abort(self) -> None:
        """End it at once, and tell nobody."""


class Feed(Protocol):
    """What is streamed: `quoteshm.sources.yahoo_live`."""

    def connect(self, ears: Ears) -> Connection:
        """Begin a connection."""

    def read(self, text: str, decode: Decode, now_ms: int) -> LivePrice | None:
        """Read a message; raises ValueError for one that cannot be read."""

    def load(self) -> defer.Deferred[Decode]:
        """Load what decodes messages, in a thread."""


class LiveService(Service):
    """Listens to a stream, publishes what it brings, and sees to it that it goes on.

    Parameters
    ----------
    feed : Feed
        What is streamed.
    publisher : Publisher
        Where prices go.
    tickers : iterable of str
        The wanted ones.
    reactor
        Twisted's.
    clock : Clock
        What prices are compared with.
    rng : random.Random
        Where the jitter comes from.

    Attributes
    ----------
    condition : Condition
        How the stream is.

    """

    log = Logger()

    def __init__(  # noqa: PLR0913 (it is where all of them meet)
        self,
        feed: Feed,
        publisher: Publisher,
        tickers: Iterable[str],
        *,
        reactor: Any,  # noqa: ANN401 (one of Twisted's, of several interfaces)
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self.condition, self.why = Condition.STARTING, ""
        self.messages = self.bad = self.connections = 0
        self.last_message_ms: int | None = None
        self._feed, self._publisher = feed, publisher
        self._reactor, self._clock, self._rng = reactor, clock, rng
        self._tickers = tuple(dict.fromkeys(tickers))
        self._wanted = frozenset(self._tickers)
        self._streamed: set[str] = set()  # those of which it has ever brought a price
        self._decode: Decode | None = None
        self._connection: Connection | None = None
        self._opened_ms: int | None = None  # when the present connection was opened
        self._opened_s = 0.0
        self._price_s: float | None = None  # when it brought its first price
        self._newest_live_ms = 0  # of its prices
        self._attempts = 0
        self._waiting: dict[str, LivePrice] = {}
        self._last_commit_s = -COMMIT_S
        self._commit: Any = None  # an IDelayedCall, as the next one
        self._retry: Any = None
        self._reminded_s = 0.0
        self._watchdog = Periodic(
            reactor, LOOK_S, self._look, failed="the stream could not be looked after"
        )

    def startService(self) -> None:
        """Load the decoder, then connect."""
        super().startService()  # type: ignore[no-untyped-call]
        self._feed.load().addCallbacks(self._loaded, self._not_loaded)

    def stopService(self) -> defer.Deferred[None]:
        """End the connection; what has come is published."""
        super().stopService()  # type: ignore[no-untyped-call]
        self._watchdog.stopService()
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self._hang_up()
        if self._commit is not None:
            self._commit.cancel()
            self._publish()
        return defer.succeed(None)

    def set_tickers(self, tickers: Iterable[str]) -> None:
        """Have the prices of other tickers: those that are not wanted any more are dropped.

        Yahoo sends them until the next connection.
        """
        self._tickers = tuple(dict.fromkeys(tickers))
        self._wanted = frozenset(self._tickers)
        self._streamed &= self._wanted
        if self._connection is not None and self._opened_ms is not None:
            self._connection.subscribe(self._tickers)

    def describe(self) -> dict[str, object]:
        """Give what ``get_info`` says of the stream."""
        counts = self._publisher.counts
        return {
            "state": self.condition.value,
            "why": self.why or None,
            "tickers": len(self._tickers),
            "connections": self.connections,
            "messages": self.messages,
            "bad": self.bad,
            "late": counts.late_prices,
            "without_bars": counts.early_prices,
            "last_message_ms": self.last_message_ms,
        }

    def _loaded(self, decode: Decode) -> None:
        self._decode = decode
        if self.running:
            self._connect()
            self._watchdog.startService()

    def _not_loaded(self, failure: Failure) -> None:
        self._turn(Condition.DOWN, f"yfinance does not work: {failure.getErrorMessage()}")

    # -- the connection ----------------------------------------------------------------------

    def _connect(self) -> None:
        self._retry = None
        self._opened_ms = self._price_s = None
        self._connection = self._feed.connect(self)

    def opened(self) -> None:
        """Subscribe."""
        self.connections += 1
        self._opened_ms = self._clock.wall_ms()
        self._reminded_s = self._opened_s = self._reactor.seconds()
        if self._connection is not None:
            self._connection.subscribe(self._tickers)

    def lost(self, why: str) -> None:
        """Try again later."""
        self._connection = None
        self._turn(Condition.DOWN, why)
        self._try_later()

    def _give_up(self, condition: Condition, why: str) -> None:
        self._hang_up()
        self._turn(condition, why)
        self._try_later()

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()

    def _try_later(self) -> None:
        if not self.running:
            return
        now_s = self._reactor.seconds()
        if self._price_s is not None and now_s - self._price_s >= STEADY_S:
            self._attempts = 0
        self._attempts += 1
        self._opened_ms = self._price_s = None
        wait_s = backoff_s(FIRST_WAIT_S, LONGEST_WAIT_S, self._attempts, self._rng)
        self._retry = self._reactor.callLater(wait_s, self._connect)

    def _turn(self, condition: Condition, why: str = "") -> None:
        """Note how the stream is, and log it where that is new."""
        before = self.condition
        # What is mute is so until it proves to be well, whatever becomes of its connections.
        if before is Condition.MUTE and condition is Condition.DOWN:
            return
        self.condition, self.why = condition, why
        if condition is before:
            return
        if condition is Condition.LIVE:
            self.log.info("live quotes of {count} tickers", count=len(self._tickers))
            return
        if condition is Condition.QUIET:
            self.log.info("connected for live quotes, none has come yet")
            return
        self.log.warn(
            "live quotes are {state}, quotes come with the refreshes: {why}",
            state=condition.value,
            why=why,
        )

    # -- the watchdog ------------------------------------------------------------------------

    def _look(self) -> None:
        """Remind the streamer of what is wanted, and give up a connection that is dead or mute."""
        connection, opened_ms = self._connection, self._opened_ms
        if connection is None or opened_ms is None:
            return
        now_s, now_ms = self._reactor.seconds(), self._clock.wall_ms()
        if now_s - connection.last_alive_s >= DEAD_S:
            self._give_up(Condition.DOWN, f"nothing has come for {DEAD_S:g} s")
            return
        # Not only by this machine's clock: a live price may have been made later than it says.
        heard_ms = max(opened_ms, self.last_message_ms or 0, self._newest_live_ms)
        if now_ms - heard_ms >= MUTE_S * 1000 and self._newest_ms(now_ms) > heard_ms:
            why = f"it is connected, and brings no price for {MUTE_S:g} s while prices move"
            self._give_up(Condition.MUTE, why)
            return
        if self.condition is not Condition.LIVE and now_s - self._opened_s >= STEADY_S:
            self._attempts = 0
            self._turn(Condition.QUIET)
        if now_s - self._reminded_s >= REMIND_S:
            self._reminded_s = now_s
            connection.ping()
            connection.subscribe(self._tickers)

    def _newest_ms(self, now_ms: int) -> int:
        """Tell when the newest published price was made: later than the stream's is the polls'.

        Some tickers are never streamed, and say nothing of a stream that brings others. A price of
        times to come says nothing at all.
        """
        quotes, row_of = self._publisher.writer.quotes(), self._publisher.writer.row_of
        rows = [row_of[one] for one in self._streamed or self._tickers if one in row_of]
        numbers = np.array([row for row in rows if row < len(quotes)], np.intp)
        made_ms = quotes["ts_ms"][numbers]
        return int(made_ms[made_ms <= now_ms].max(initial=0))

    # -- prices ------------------------------------------------------------------------------

    def heard(self, text: str) -> None:
        """Keep the price that a message brings, until the next commit."""
        assert self._decode is not None  # noqa: S101 (for the type checker: there is no stream before)
        self.messages += 1
        now_ms = self._clock.wall_ms()
        try:
            price = self._feed.read(text, self._decode, now_ms)
        except ValueError as error:
            self.bad += 1
            if self.bad == 1:  # once: it can be thousands a second
                self.log.warn("a message of the stream cannot be read: {why}", why=str(error)[:200])
            return
        if price is None or price.ticker not in self._wanted:
            return
        self.last_message_ms = now_ms
        self._streamed.add(price.ticker)
        self._newest_live_ms = max(self._newest_live_ms, price.ts_ms)
        if self._price_s is None:
            self._price_s = self._reactor.seconds()
        if self.condition is not Condition.LIVE:
            self._turn(Condition.LIVE)
        waiting = self._waiting.get(price.ticker)
        if waiting is not None and waiting.ts_ms > price.ts_ms:
            self._publisher.counts.late_prices += 1
            return
        self._waiting[price.ticker] = price if waiting is None else price.after(waiting)
        if self._commit is None:
            wait_s = self._last_commit_s + COMMIT_S - self._reactor.seconds()
            self._commit = self._reactor.callLater(max(0.0, wait_s), self._publish)

    def _publish(self) -> None:
        """Publish what has come, in one commit."""
        self._commit = None
        self._last_commit_s = self._reactor.seconds()
        waiting, self._waiting = self._waiting, {}
        prices = list(waiting.values())
        try:
            self._publisher.publish(
                [
                    TickerPrices(
                        tuple(waiting),
                        np.array([price.ts_ms for price in prices], np.int64),
                        np.array([price.values for price in prices], np.float64),
                    )
                ]
            )
        except Exception:  # noqa: BLE001 (the next ones may be better)
            self.log.failure("live prices were not published")
