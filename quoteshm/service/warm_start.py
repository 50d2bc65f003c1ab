"""A warm start: whatever the segment lacks is loaded out of the archive and published.

The quotes come first, all in one commit, then the bars, in groups with a turn for the reactor after
each. Quotes out of an archive are stale until the source confirms them: how old they are, only the
wall's clock could say, and it may have been set since.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeVar

import numpy as np
from twisted.internet import defer, task
from twisted.logger import Logger

from quoteshm.errors import BatchError, SegmentError
from quoteshm.market.archive import NEVER, Archive, Loaded, MarketRecord, Note, SeriesRecord
from quoteshm.model import Bars, Ticker
from quoteshm.service.pricing import State, quote_of
from quoteshm.shm import layout
from quoteshm.shm.batch import Batch, History, Quotes

if TYPE_CHECKING:
    from quoteshm.clock import Clock
    from quoteshm.shm.writer import SegmentWriter

T = TypeVar("T")

#: Bars, and tickers, that are published between two turns of the reactor.
GROUP_BARS: Final = 60_000
GROUP_TICKERS: Final = 64
#: Groups that are being read, or wait to be published.
AHEAD: Final = 3


class Run(Protocol):
    """Does something in another thread."""

    def __call__(self, work: Callable[[], T], /) -> defer.Deferred[T]:
        """Give its result, in the reactor's thread."""


class _Lacking(NamedTuple):
    """A ticker, and the series that the segment lacks bars of."""

    symbol: str
    intervals: tuple[str, ...]


class _Found(NamedTuple):
    """What the archive has of a ticker, by interval."""

    symbol: str
    series: dict[str, Loaded[SeriesRecord]]


class _Restored(NamedTuple):
    """What is to be published of a ticker, all in one commit."""

    histories: list[History]
    quotes: list[Quotes]  # one, where the archive had none


class WarmStart:
    """Publishes what the archive has and the segment lacks.

    Parameters
    ----------
    archive : Archive
        The files.
    writer : SegmentWriter
        Where they are published.
    wanted : sequence of str
        The tickers to load.
    run : Run
        Does things in other threads.
    reactor
        Twisted's.
    clock : Clock
        What a quote that is made of archived bars goes by.
    restored : callable
        Told of each series that was published.
    committed : callable
        Told of each commit.

    Attributes
    ----------
    loaded_count, set_aside_count : int
        Tickers that were published, and files that nobody could use.
    is_stopping : bool
        Set to end it after the group it is at.

    """

    log = Logger()

    def __init__(  # noqa: PLR0913 (it is where all of them meet)
        self,
        archive: Archive,
        writer: SegmentWriter,
        wanted: Sequence[str],
        *,
        run: Run,
        reactor: Any,  # noqa: ANN401 (one of Twisted's, of several interfaces)
        clock: Clock,
        restored: Callable[[History], None],
        committed: Callable[[], object],
    ) -> None:
        self.archive, self.writer, self.wanted = archive, writer, tuple(wanted)
        self.loaded_count = 0
        self.set_aside_count = 0
        self.is_stopping = False
        self._run, self._reactor, self._clock = run, reactor, clock
        self._restored, self._committed = restored, committed
        self._kinds = {kind.interval: kind for kind in writer.spec.kinds}
        self._market: MarketRecord | None = None
        self._places: dict[str, int] = {}  # in that, by symbol

    def drop(self, tickers: Iterable[str]) -> None:
        """Publish nothing of tickers that are wanted no more."""
        gone = set(tickers)
        self.wanted = tuple(ticker for ticker in self.wanted if ticker not in gone)

    async def load(self) -> None:
        """Publish everything; nothing is read where nothing is lacking."""
        lacking = self._lacking()
        if not lacking:
            return
        started_s = self._reactor.seconds()
        found = await self._run(self.archive.load_market)
        self._note(found.notes)
        if self.is_stopping:
            return
        if found.record is not None:
            self._market = found.record
            self._places = {t.symbol: place for place, t in enumerate(found.record.tickers)}
            self._publish_quotes(found.record)
        await self._load_series(lacking)
        self._market, self._places = None, {}
        if self.loaded_count:
            self.log.info(
                "loaded the bars of {count} tickers in {seconds} s",
                count=self.loaded_count,
                seconds=round(self._reactor.seconds() - started_s, 3),
            )

    async def _load_series(self, lacking: Sequence[_Lacking]) -> None:
        """Publish bars in groups; the next ones are being read meanwhile."""
        bars = sum(kind.capacity for kind in self._kinds.values())
        size = max(1, min(GROUP_TICKERS, GROUP_BARS // bars))
        groups = iter([lacking[at : at + size] for at in range(0, len(lacking), size)])
        reading = deque(self._run(partial(self._read, one)) for one in islice(groups, AHEAD))
        while reading:
            found = await reading.popleft()
            reading += [self._run(partial(self._read, one)) for one in islice(groups, 1)]
            if self.is_stopping or not self._publish(found):
                return
            await task.deferLater(self._reactor, 0)

    def _read(self, group: Iterable[_Lacking]) -> list[_Found]:
        """Read the files of some tickers. In the other thread."""
        load = self.archive.load_series
        return [
            _Found(one.symbol, {i: load(one.symbol, i) for i in one.intervals}) for one in group
        ]

    def _note(self, notes: Iterable[Note]) -> None:
        for note in notes:
            if note.moved_to is None:
                self.log.warn("cannot use {path}: {why}", path=str(note.path), why=note.why)
                continue
            self.set_aside_count += 1
            self.log.warn(
                "set {path} aside as {name}: {why}",
                path=str(note.path),
                name=note.moved_to.name,
                why=note.why,
            )

    # -- what the segment lacks --------------------------------------------------------------

    def _lacking(self) -> list[_Lacking]:
        """Give the wanted tickers without a quote, or without bars of some series."""
        lacking = []
        for symbol in self.wanted:
            intervals = tuple(i for i in self._kinds if self._lacks(symbol, i))
            if intervals or not self._is_present(symbol):
                lacking.append(_Lacking(symbol, intervals))
        return lacking

    def _is_present(self, symbol: str) -> bool:
        row = self.writer.row_of.get(symbol)
        return row is not None and self.writer.is_present(row)

    def _lacks(self, symbol: str, interval: str) -> bool:
        """Tell whether a series has no bar; a removed ticker's is taken for none."""
        row, series = self.writer.row_of.get(symbol), self.writer.series(interval)
        if row is None or row >= len(series) or self.writer.is_removed(row):
            return True
        return not series["count"][row] and not int(series["flags"][row]) & layout.HAS_FORMING

    # -- publishing --------------------------------------------------------------------------

    def _enlist(self, ticker: Ticker) -> int | None:
        try:
            return int(self.writer.enlist([ticker])[0])
        except BatchError as error:  # this machine may not know its zone
            self.log.warn("{ticker} is not loaded: {why}", ticker=ticker.symbol, why=f"{error}")
            return None

    def _commit(self, updated_ms: int, restored: Sequence[_Restored]) -> None:
        """Write everything in one commit; loading makes the market no newer and no older."""
        quotes = [one for ticker in restored for one in ticker.quotes]
        histories = [one for ticker in restored for one in ticker.histories]
        updated_ms = max(self.writer.last_update_ms, updated_ms)
        joined = [_joined(quotes)] if quotes else []
        self.writer.write_data(Batch(updated_ms, histories=histories, quotes=joined))
        self._committed()

    def _publish_quotes(self, market: MarketRecord) -> None:
        """Publish, in one commit, the quotes that are wanted and not there."""
        wanted, rows, places = set(self.wanted), list[int](), list[int]()
        try:
            for place, ticker in enumerate(market.tickers):
                if ticker.symbol in wanted and not self._is_present(ticker.symbol):
                    row = self._enlist(ticker)
                    if row is not None:
                        rows.append(row)
                        places.append(place)
            if not rows:
                return
            quotes = Quotes(
                np.array(rows, np.intp),
                market.ts_ms[places],
                market.values[places],
                market.updated_ms[places],
            )
            self._commit(market.last_update_ms, [_Restored([], [quotes])])
        except (BatchError, SegmentError) as error:
            self.log.warn("archived quotes are not published: {why}", why=f"{error}")
        else:
            self.log.info("{count} quotes out of the archive, all stale", count=len(rows))

    def _publish(self, found: Iterable[_Found]) -> bool:
        """Publish the bars of a group; tell whether there is room for more."""
        try:
            wanted = set(self.wanted)  # now; they were read when others may have been
            restored = [self._restore(one) for one in found if one.symbol in wanted]
            self._publish_group([one for one in restored if one is not None])
        except SegmentError as error:
            self.log.warn("the archive is not loaded any further: {why}", why=f"{error}")
            return False
        return True

    def _publish_group(self, group: Sequence[_Restored]) -> None:
        """Publish tickers together, or in halves where one of them is refused."""
        if not group:
            return
        try:
            self._commit(max(h.updated_ms or 0 for one in group for h in one.histories), group)
        except BatchError as error:
            if len(group) > 1:
                middle = len(group) // 2
                self._publish_group(group[:middle])
                self._publish_group(group[middle:])
                return
            ticker = self.writer.tickers[group[0].histories[0].row].symbol
            self.log.warn("{ticker} is not loaded: {why}", ticker=ticker, why=f"{error}")
            return
        self.loaded_count += len(group)
        for one in group:
            for history in one.histories:
                self._restored(history)

    def _restore(self, found: _Found) -> _Restored | None:
        """Give what there is of one ticker that the segment still lacks."""
        symbol, histories, states = found.symbol, list[History](), list[State]()
        place = self._places.get(symbol)
        ticker = None if place is None or self._market is None else self._market.tickers[place]
        row: int | None = None
        for interval, loaded in found.series.items():
            self._note(loaded.notes)
            record = loaded.record
            if not self._lacks(symbol, interval):  # the source was faster
                continue
            bars, forming = self._with_forming(interval, record, place)
            if not len(bars):
                continue
            ticker = ticker or (None if record is None else record.ticker)
            if row is None and (ticker is None or (row := self._enlist(ticker)) is None):
                return None
            updated_ms = self._updated_ms(record, forming=forming)
            history = History(interval, row, bars, forming, replace=True, updated_ms=updated_ms)
            histories.append(history)
            states.append(State(self._kinds[interval], bars))
        if not histories:
            return None
        if self._is_present(symbol):
            return _Restored(histories, [])
        return _Restored(histories, self._quotes(histories, states))

    def _updated_ms(self, record: SeriesRecord | None, *, forming: bool) -> int:
        if self._market is not None and (forming or record is None):
            return self._market.last_update_ms
        return 0 if record is None else record.updated_ms

    def _with_forming(
        self, interval: str, record: SeriesRecord | None, place: int | None
    ) -> tuple[Bars, bool]:
        """Put the forming bar behind the closed ones, if it is those that it followed."""
        bars = Bars.empty() if record is None else record.bars
        forming = None if self._market is None else self._market.forming.get(interval)
        if forming is None or place is None or forming.time[place] == NEVER:
            return bars, False
        newest = bars.time[-1] if len(bars) else NEVER
        if forming.closed_ms[place] != newest or forming.time[place] <= newest:
            return bars, False
        time = np.append(bars.time, forming.time[place])
        return Bars(time, np.append(bars.ohlcv, forming.ohlcv[place][:, None], axis=1)), True

    def _quotes(self, histories: Sequence[History], states: Sequence[State]) -> list[Quotes]:
        """Make the quote of a ticker of its bars, where the archive has none."""
        made = quote_of(None, states, self._clock.wall_ms())
        if made is None:
            return []
        ts_ms, values = made
        updated_ms = max(history.updated_ms or 0 for history in histories)
        rows = np.array([histories[0].row], np.intp)
        moments = np.array([[ts_ms], [updated_ms]], np.int64)
        return [Quotes(rows, moments[0], values.reshape(1, 6), moments[1])]


def _joined(quotes: Sequence[Quotes]) -> Quotes:
    return Quotes(
        np.concatenate([np.asarray(one.rows) for one in quotes]),
        np.concatenate([one.ts_ms for one in quotes]),
        np.concatenate([one.values for one in quotes]),
        np.concatenate([one.updated_ms for one in quotes if one.updated_ms is not None]),
    )
