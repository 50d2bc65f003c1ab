"""A daemon on a stamped market: the real one, whose source this is, and which may be told to die.

``QUOTESHM_CRASH_AT=STEP python -m tests.campaigns.stamping [OPTIONS OF THE DAEMON]`` runs twistd;
`serve` runs the same daemon in a process that has imported it already. STEP is a name of `steps`,
with ``:N`` behind it for the Nth time that it is come to.
"""

from __future__ import annotations

import itertools
import os
import random
import sys
from typing import TYPE_CHECKING, Final, cast

import numpy as np
from twisted.scripts import twistd

from quoteshm.model import Bars, SeriesKind, Ticker
from quoteshm.service import daemon, making, refresh
from quoteshm.sources.base import LastPrice, Series, Source, TickerBars, TickerTicks
from tests.campaigns import stamped, steps
from tests.campaigns.stamped import CORE, LEDGER

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping, Sequence
    from types import MethodType

    from quoteshm.clock import Clock
    from quoteshm.service.publisher import Publisher
    from quoteshm.service.settings import Settings
    from quoteshm.sources.base import Fetched, Request

    Batch = list[Fetched]

FINEST: Final = "1m"
FIRST_BARS: Final = 30  # of a ticker's first history
BATCHES: Final = 200  # of one refresh


class Stamped(Source):
    """Answers with batch after batch, each of them one commit, as fast as they are taken."""

    name, adjustment = "synthetic", "none"

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)  # noqa: S311  which batch comes next
        self._stamp = 0
        self._stands: dict[tuple[str, str], tuple[int, float]] = {}  # the place and stamp of each
        self._tuples: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._stopping = False
        self.batch_ended = False

    async def stop(self) -> None:
        """Answer no more."""
        self._stopping = True

    async def fetch(self, wanted: Sequence[Request]) -> AsyncIterator[Fetched]:
        """Give batches; `batch_ended` is true as the last answer of each is given."""
        new = self._learn(wanted)
        batches = [new] if new else []
        kinds = wanted[0].kinds
        for _ in range(BATCHES):
            batch = batches.pop() if batches else self._batch(kinds)
            for number, answer in enumerate(batch, 1):
                self.batch_ended = number == len(batch)
                yield answer
            if self._stopping:
                return

    def _learn(self, wanted: Sequence[Request]) -> Batch:
        """See where the market stands, and give their histories to tickers that are asked for."""
        found = _published(wanted)
        if self._stands:
            if found != self._stands:
                raise AssertionError(f"published {found}, expected {self._stands}")
            return []
        # No stamp of a life before this one, also none of a batch that died with it.
        self._stamp = 10 + int(max((stamp for _, stamp in found.values()), default=0))
        self._stands = found
        kinds = wanted[0].kinds
        asked = [one.ticker for one in wanted if one.known(one.ticker, FINEST) is None]
        for ticker in asked:
            for kind in kinds:
                place, _ = found.get((ticker, kind.interval), (FIRST_BARS - 1, 0.0))
                self._stands[ticker, kind.interval] = place, float(self._stamp)
        batch: Batch = [self._history(ticker, kinds) for ticker in asked if ticker != LEDGER]
        if LEDGER in asked:
            return [*batch, self._history(LEDGER, kinds)]
        return [*batch, *self._ticks((), kinds)] if batch else []

    # -- batches -----------------------------------------------------------------------------

    def _batch(self, kinds: Sequence[SeriesKind]) -> Batch:
        """Make the next batch: ticks of all, of some or of one, new bars, several, or rewrites."""
        rng = self._rng
        self._stamp += 1
        plain = [t for t, interval in self._stands if interval == FINEST and t != LEDGER]
        dice = rng.random()
        if dice < 0.15:
            some = rng.sample(plain, rng.randint(1, 3))
            return [*self._histories(some, kinds), *self._ticks((), kinds, opening={LEDGER})]
        if dice > 0.8:
            return self._ticks((), kinds[:1])
        some = plain if dice < 0.5 else sorted(rng.sample(plain, rng.randint(1, len(plain))))
        share = rng.choice((0.0, 0.0, 0.3, 1.0))
        opening = {ticker for ticker in (*some, LEDGER) if rng.random() < share}
        return self._ticks(some, kinds if rng.random() < 0.5 else kinds[:1], opening)

    def _histories(self, tickers: Sequence[str], kinds: Sequence[SeriesKind]) -> Batch:
        """Give several bars that follow, or all of the window anew."""
        whole, count = self._rng.random() < 0.5, self._rng.randint(0, 3)
        batch: Batch = []
        for ticker in tickers:
            first = {}
            for kind in kinds:
                place, _ = self._stands[ticker, kind.interval]
                first[kind.interval] = place
                self._stands[ticker, kind.interval] = place + count, float(self._stamp)
            batch.append(self._history(ticker, kinds, None if whole else first))
        return batch

    def _ticks(
        self,
        tickers: Sequence[str],
        kinds: Sequence[SeriesKind],
        opening: Collection[str] = (),
    ) -> Batch:
        """Give the newest bar of each ticker, and of the ledger, all of this batch."""
        names = (*tickers, LEDGER)
        names = self._tuples.setdefault(names, names)
        for kind in kinds:
            for ticker in names:
                place, _ = self._stands[ticker, kind.interval]
                place += ticker in opening
                self._stands[ticker, kind.interval] = place, float(self._stamp)
        return [self._columns(names, kind.interval) for kind in kinds]

    def _columns(self, names: tuple[str, ...], interval: str) -> TickerTicks:
        places = np.array([self._stands[name, interval][0] for name in names], np.int64)
        salts = np.array([stamped.salt(name, interval) for name in names], np.uint64)
        words = np.array([self._word(name, interval) for name in names])
        bars = stamped.bars(salts, places, np.full(len(names), self._stamp), words)
        times = places * stamped.INTERVALS_MS[interval]
        return TickerTicks(names, interval, times, np.ascontiguousarray(bars.T), self._stamp)

    def _word(self, ticker: str, interval: str) -> float:
        """Say what a bar of this batch closes with."""
        if ticker != LEDGER:
            return float(self._stamp)
        return stamped.digest({name: self._stands[name, interval][1] for name in CORE})

    def _history(
        self,
        ticker: str,
        kinds: Sequence[SeriesKind],
        first: Mapping[str, int] | None = None,
    ) -> TickerBars:
        """Give bars from these places on, or the whole window, all of this batch."""
        series = {}
        for kind in kinds:
            place, _ = self._stands[ticker, kind.interval]
            start = max(0, place + 1 - kind.capacity) if first is None else first[kind.interval]
            places = np.arange(start, place + 1)
            stamps = np.full(len(places), self._stamp)
            words = np.full(len(places), self._word(ticker, kind.interval))
            bars = stamped.bars(stamped.salt(ticker, kind.interval), places, stamps, words)
            times = places * stamped.INTERVALS_MS[kind.interval]
            series[kind.interval] = Series(Bars(times, bars), forming=True)
        o, h, low, c, v = series[FINEST].bars.ohlcv[:, -1].tolist()
        quote = LastPrice(c, self._stamp, o, h, low, v, c)
        return TickerBars(Ticker(ticker, "USD"), series, quote, whole=first is None)


def _published(wanted: Sequence[Request]) -> dict[tuple[str, str], tuple[int, float]]:
    """Give the place and the stamp of each newest bar; also where the daemon asks for it anew."""
    writer = cast("Publisher", cast("MethodType", wanted[0].known).__self__).writer
    removed = writer.removed()
    found = {}
    for request, kind in itertools.product(wanted, wanted[0].kinds):
        row, rows = writer.row_of.get(request.ticker), writer.series(kind.interval)
        if row is not None and row < len(rows) and not removed[row]:
            place = int(rows["time"][row]) // stamped.INTERVALS_MS[kind.interval]
            found[request.ticker, kind.interval] = place, float(rows["open"][row])
    return found


def install() -> None:
    """Give the daemon of this process a stamped source, and the step it is to die at, if any."""
    source = Stamped(seed=os.getpid())

    def make_source(settings: Settings, clock: Clock) -> tuple[Source, tuple[str, ...]]:
        return source, settings.tickers

    making.make_source = make_source
    refresh._Run.is_full = property(lambda _: source.batch_ended)  # type: ignore[assignment,method-assign]
    steps.die_with_parent()
    if step := os.environ.get(steps.VARIABLE):
        steps.arm(step)


def serve(argv: Sequence[str]) -> int:
    """Run the daemon in this process."""
    install()
    return daemon.serve(argv)


def main() -> None:
    """Run twistd."""
    install()
    sys.argv = ["twistd", "-n", "--pidfile=", "quoteshm", *sys.argv[1:]]
    twistd.run()


if __name__ == "__main__":
    main()
