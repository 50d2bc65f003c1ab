"""What a source answered, turned into commits: bars checked and merged, quotes made (`pricing`).

One call of `Publisher.publish` is one commit, of whatever mixture of answers; but bars of a ticker
that comes twice begin another, as they are compared with what is published. The newest bars of
many tickers (`TickerTicks`) stay columns all the way: nothing on that path loops over tickers. A
commit that the writer refuses is tried again without the tickers for which there is no room, or in
halves, so that only the ticker at fault is left out.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
from twisted.logger import Logger
from twisted.python.failure import Failure

from quoteshm.errors import BatchError, SegmentError, SegmentFullError
from quoteshm.market.bars import Flaw, Merge, Problem, is_sound, merge, sound, validate
from quoteshm.model import FIELDS, MINUTE_MS, Bars, Ticker
from quoteshm.service.pricing import Pricer, State, after, preference
from quoteshm.shm import layout, table
from quoteshm.shm.batch import Batch, History, Quotes, Ticks
from quoteshm.sources.base import (
    Known,
    TickerBars,
    TickerPrices,
    TickerTicks,
    Unchanged,
)
from quoteshm.wire.push import Restated
from quoteshm.wire.tally import Histogram

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from quoteshm.clock import Clock
    from quoteshm.shm.batch import Rows
    from quoteshm.shm.writer import SegmentWriter

#: Row, interval, bar and quote: what `SegmentWriter.write_tick` takes.
_Tick = tuple[int, str, tuple[float, ...], tuple[float, ...]]
_Answer = TickerBars | TickerPrices | TickerTicks | Unchanged

NO_BARS: Final = Bars.empty()
#: A price that was made so long after now was not: no other one is late for its sake.
AHEAD_MS: Final = MINUTE_MS


def _announce_nothing(_restated: Sequence[Restated]) -> None:
    """Tell nobody."""


@dataclass(slots=True)
class Counts:
    """What has been left out or corrected since the start, in bars."""

    dropped: int = 0  # were no bars: the vendor's rows, or bars that break a rule
    late: int = 0  # older than what is published
    restated: int = 0  # closed bars that the vendor changed
    refused: int = 0  # answers that the writer would not take
    commits: int = 0
    late_prices: int = 0  # prices without bars that were older than what is published
    early_prices: int = 0  # prices of tickers of which no bars are published


@dataclass(slots=True)
class Outcome:
    """What became of one call of `publish`."""

    epoch: int
    refused: dict[str, str] = field(default_factory=dict)  # ticker -> why


@dataclass(slots=True, eq=False)
class _Part:
    """What a commit says of some tickers; never more than one of them but in columns."""

    tickers: tuple[str, ...]
    ticks: Ticks | None = None
    histories: list[History] = field(default_factory=list)
    quotes: Quotes | None = None
    confirmed: NDArray[np.intp] | slice | None = None
    restated: list[Restated] = field(default_factory=list)
    is_live: bool = False  # prices without bars, many times a second

    def halves(self) -> list[_Part]:
        """Cut columns in two; one ticker cannot be cut."""
        n = len(self.tickers)
        if n < 2:  # noqa: PLR2004 (two halves need two)
            return [self]
        first = np.arange(n) < n // 2
        return [self.cut(first), self.cut(~first)]

    @property
    def rows(self) -> NDArray[np.intp]:
        """The rows of the tickers, in their order."""
        if self.histories:
            return np.array([self.histories[0].row], np.intp)
        said = self.ticks or self.quotes
        if said is not None:
            return table.numbers(said.rows)
        return table.numbers(slice(0, 0) if self.confirmed is None else self.confirmed)

    def cut(self, part: NDArray[np.bool_]) -> _Part:
        """Give columns of some of the tickers."""
        cut = _Part(tuple(np.array(self.tickers, object)[part]), is_live=self.is_live)
        if self.ticks is not None:
            ticks = self.ticks
            cut.ticks = Ticks(
                ticks.interval,
                table.numbers(ticks.rows)[part],
                ticks.time[part],
                ticks.ohlcv[part],
            )
        if self.quotes is not None:
            quotes = self.quotes
            rows = table.numbers(quotes.rows)[part]
            cut.quotes = Quotes(rows, quotes.ts_ms[part], quotes.values[part])
        if self.confirmed is not None:
            cut.confirmed = table.numbers(self.confirmed)[part]
        return cut


class Publisher:
    """Publishes what a source answers. In the reactor's thread only.

    Parameters
    ----------
    writer : SegmentWriter
        Where it goes.
    clock : Clock
        What says when it was confirmed.
    announce : callable, optional
        Told of each commit, with what the vendor changed in it.
    verbose : bool
        Whether each ticker of a commit gets a log line of its own, at debug.
    quiet : bool
        Whether nobody listens to the lines of commits, at info: they are not made then. One costs
        as much as all else that a single tick does.

    """

    log = Logger()

    def __init__(
        self,
        writer: SegmentWriter,
        clock: Clock,
        announce: Callable[[Sequence[Restated]], object] = _announce_nothing,
        *,
        verbose: bool = False,
        quiet: bool = False,
    ) -> None:
        self.writer, self.clock, self.verbose, self.quiet = writer, clock, verbose, quiet
        self.announce = announce
        self.counts, self.durations = Counts(), Histogram()
        self._kinds = {kind.interval: kind for kind in writer.spec.kinds}
        # By identity: a source gives the same tuple as long as they are the same tickers.
        self._rows: dict[int, tuple[tuple[str, ...], Rows]] = {}
        self._problems: dict[tuple[str, str], tuple[Problem, ...]] = {}
        self.restated: dict[str, int] = {}  # ticker -> closed bars that the vendor changed
        self._pricer = Pricer(writer, clock)
        self._other: dict[int, Ticker] = {}  # rows whose ticker is not what answers say it is
        # Series that a smaller segment had cut: asked for as if nothing of them were known, once.
        self._cut = {
            (writer.tickers[row].symbol, interval)
            for interval, capacity in writer.grown.items()
            for row in np.flatnonzero(_held(writer.series(interval)) >= capacity).tolist()
        }

    # -- what is published -------------------------------------------------------------------

    def known(self, ticker: str, interval: str) -> Known | None:
        """Tell the newest published bar of a series; nothing where all of it is to be fetched."""
        row = self.writer.row_of.get(ticker)
        if row is None or interval not in self._kinds or not self._is_there(row):
            return None
        if (ticker, interval) in self._cut:
            return None
        state, closed = self.writer.series(interval)[row], self.writer.newest_closed(row, interval)
        if int(state["flags"]) & layout.HAS_FORMING:
            values = tuple(float(state[name]) for name in FIELDS)
            time_ms, close = int(state["time"]), float(state["close"])
            return Known(time_ms, close, forming=True, values=values, before=closed)
        return None if closed is None else Known(*closed, forming=False)

    def retire(self, wanted: Iterable[str]) -> list[str]:
        """Remove, in one commit, every published ticker that is not wanted; give their names."""
        keep = set(wanted)
        names = self.remove(ticker for ticker in self.writer.row_of if ticker not in keep)
        if names:
            self.log.info("removed {count} tickers that are not wanted", count=len(names))
        return names

    def remove(self, tickers: Iterable[str]) -> list[str]:
        """Remove tickers in one commit; give the names of those that were published."""
        row_of, removed = self.writer.row_of, self.writer.removed().tolist()
        there = range(len(removed))
        names = [
            ticker
            for ticker in tickers
            if (row := row_of.get(ticker)) in there and not removed[row]
        ]
        if names:
            rows = [row_of[ticker] for ticker in names]
            for row in rows:
                self._pricer.forget(row)
                self._other.pop(row, None)
            self.writer.write_data(Batch(self.clock.wall_ms(), removed=rows))
            self.announce(())
        return names

    def bar_counts(self, tickers: Sequence[str]) -> dict[str, list[int]]:
        """Count the bars that are published of tickers, by interval, in their order."""
        row_of, count = self.writer.row_of, len(self.writer.quotes())
        rows = np.array([row_of.get(ticker, count) for ticker in tickers], np.intp)
        there = rows < count
        there[there] = ~self.writer.removed(rows[there])
        counts = {}
        for interval in self._kinds:
            held = np.zeros(len(rows), np.int64)
            held[there] = _held(self.writer.series(interval)[rows[there]])
            counts[interval] = held.tolist()
        return counts

    def _is_there(self, row: int) -> bool:
        quotes = self.writer.quotes()
        return row < len(quotes) and not int(quotes["flags"][row]) & layout.REMOVED

    # -- publishing --------------------------------------------------------------------------

    def publish(self, results: Sequence[_Answer]) -> Outcome:
        """Publish answers, in one commit where each ticker has bars once.

        A ticker that cannot be published is left out and named in the outcome; it never keeps
        the others back.
        """
        began_s = time.perf_counter()
        outcome = Outcome(self.writer.epoch)
        if len(results) != 1 or not self._publish_single(results[0], outcome):
            self._publish_all(results, outcome)
        self.durations.add(time.perf_counter() - began_s)
        return outcome

    def _publish_all(self, results: Sequence[_Answer], outcome: Outcome) -> None:
        parts: list[_Part] = []
        seen: set[str] = set()
        ticks = [result for result in results if isinstance(result, TickerTicks)]
        priced = self._priced(ticks)
        for result in results:
            try:
                if isinstance(result, TickerTicks):
                    part = self._ticks_part(result, with_quotes=result in priced)
                elif isinstance(result, Unchanged):
                    part = self._unchanged_part(result)
                elif isinstance(result, TickerPrices):
                    part = self._prices_part(result)
                else:
                    if result.ticker.symbol in seen:  # its second bars go on from its first
                        self._commit(parts, outcome)
                        parts, seen = [], set()
                    seen.add(result.ticker.symbol)
                    part = self._bars_part(result)
            except Exception as error:  # noqa: BLE001 (whatever one answer does harms no other)
                self._refuse(_names(result), error, outcome)
            else:
                if part is not None:
                    parts.append(part)
        self._commit(parts, outcome)

    def _commit(self, parts: list[_Part], outcome: Outcome) -> None:
        """Write the parts in one commit, or in several where the writer refuses one of them."""
        if not parts:
            return
        try:
            outcome.epoch = self.writer.write_data(_batch(parts, self.clock.wall_ms()))
        except SegmentFullError as error:
            self._commit(self._with_room(parts, error, outcome), outcome)
            return
        except Exception as error:  # noqa: BLE001 (whatever one ticker does harms no other)
            halves = parts if len(parts) > 1 else parts[0].halves()
            if len(halves) == 1:
                self._refuse(halves[0].tickers, error, outcome)
                return
            middle = len(halves) // 2
            self._commit(halves[:middle], outcome)
            self._commit(halves[middle:], outcome)
            return
        self.announce([one for part in parts for one in part.restated])
        self.counts.commits += 1
        self.counts.restated += sum(len(one.bars) for part in parts for one in part.restated)
        is_live = all(part.is_live for part in parts)
        self._log_commit([part.tickers for part in parts], outcome.epoch, is_live=is_live)

    def _log_commit(
        self, tickers: Sequence[tuple[str, ...]], epoch: int, *, is_live: bool = False
    ) -> None:
        if self.quiet:
            return
        log = self.log.debug if is_live else self.log.info
        # Each interval has a part of its own, most often with the very same tuple of tickers.
        first, *others = {id(names): names for names in tickers}.values()
        named = list(dict.fromkeys(itertools.chain(first, *others))) if others else first
        log("epoch {epoch}: {count} tickers", epoch=epoch, count=len(named))
        if self.verbose:
            for ticker in named:
                self.log.debug("epoch {epoch}: {ticker}", epoch=epoch, ticker=ticker)

    def _with_room(
        self, parts: list[_Part], error: SegmentFullError, outcome: Outcome
    ) -> list[_Part]:
        """Leave out, and note, the tickers for which there is no room."""
        rest, starved = [], np.array(sorted(error.rows), np.intp)
        for part in parts:
            out = np.isin(part.rows, starved)
            if out.any():
                self._refuse(tuple(np.array(part.tickers, object)[out]), error, outcome)
            if not out.all():
                rest.append(part.cut(~out) if out.any() else part)
        return rest

    def _refuse(self, tickers: tuple[str, ...], error: Exception, outcome: Outcome) -> None:
        self.counts.refused += len(tickers)
        if not isinstance(error, BatchError | SegmentError):
            failure = Failure(error)
            self.log.failure("{tickers} could not be published", failure, tickers=tickers[:5])
        why = f"{error}" if isinstance(error, BatchError | SegmentError) else repr(error)
        outcome.refused |= dict.fromkeys(tickers, why)

    # -- a single tick -----------------------------------------------------------------------

    def _single(self, result: TickerTicks) -> _Tick | None:
        """Give a tick of one ticker, checked and with its quote, as numbers.

        Nothing where the bar does not go on, breaks a rule, or has no quote yet: `_ticks_part`
        knows what to do then. Live prices come one by one, and what arrays of length one cost is
        ten times what is to be worked out.
        """
        time, ohlcv = result.time, result.ohlcv
        if time.shape != (1,) or ohlcv.shape != (1, 5) or len(result.tickers) != 1:
            return None
        row = self.writer.row_of.get(result.tickers[0])
        if row is None or time.dtype != np.int64 or ohlcv.dtype != np.float64:
            return None
        time_ms, values = time.item(), ohlcv.tolist()[0]
        before = self.writer.quote_of(row)
        if before is None or not is_sound(time_ms, values):
            return None
        if not self.writer.is_forming(row, result.interval, time_ms):
            return None
        quote = self._pricer.of_tick(result.interval, values, before)
        return row, result.interval, (time_ms, *values), (result.ts_ms, *quote)

    def _publish_single(self, result: object, outcome: Outcome) -> bool:
        """Write an answer in a commit of its own, if it is a single tick; tell whether it is."""
        if not isinstance(result, TickerTicks):
            return False
        try:
            if (tick := self._single(result)) is None:
                return False
            outcome.epoch = self.writer.write_tick(*tick, self.clock.wall_ms())
        except Exception as error:  # noqa: BLE001  (whatever one ticker does harms no other)
            self._refuse(result.tickers, error, outcome)
            return True
        self.counts.commits += 1
        self.announce(())
        self._log_commit([result.tickers], outcome.epoch)
        return True

    # -- the newest bars of many tickers -----------------------------------------------------

    def _priced(self, ticks: list[TickerTicks]) -> list[TickerTicks]:
        """Choose whose bars the quotes are made of: the daily ones, else the finest."""
        best: dict[int, TickerTicks] = {}
        for one in ticks:
            other = best.get(id(one.tickers))
            if other is None or preference(one.interval) < preference(other.interval):
                best[id(one.tickers)] = one
        return list(best.values())

    def _ticks_part(self, result: TickerTicks, *, with_quotes: bool) -> _Part | None:
        rows = self._rows_of(result.tickers)
        ticks = Ticks(result.interval, rows, result.time, result.ohlcv)
        tickers = result.tickers
        good, removed = sound(ticks.time, ticks.ohlcv.T), self._are_removed(rows)
        goes_on = self.writer.goes_on(ticks) and bool(good.all()) and not removed.any()
        late = None if goes_on else self.writer.late(ticks)
        # One that was removed comes back with a history, not with a bar behind its former one.
        if late is not None and not (keep := good & ~late & ~removed).all():
            self._count_left_out(result, good, late)
            numbers = table.numbers(rows)[keep]
            ticks = Ticks(result.interval, numbers, result.time[keep], result.ohlcv[keep])
            tickers = tuple(np.array(tickers, object)[keep])
            if not tickers:
                return None
        part = _Part(tickers, ticks=ticks)
        if with_quotes:
            part.quotes = self._pricer.of_ticks(ticks, result.ts_ms, goes_on=goes_on)
        return part

    def _are_removed(self, rows: Rows) -> NDArray[np.bool_]:
        count, numbers = len(self.writer.quotes()), table.numbers(rows)
        if not len(numbers) or numbers.max() < count:
            return self.writer.removed(rows)
        removed = np.zeros(len(numbers), np.bool_)
        counted = numbers < count
        removed[counted] = self.writer.removed(numbers[counted])
        return removed

    def _rows_of(self, tickers: tuple[str, ...]) -> Rows:
        """Give the rows of tickers, looked up once for each tuple."""
        found = self._rows.get(id(tickers))
        if found is not None:
            return found[1]
        row_of = self.writer.row_of
        unknown = [Ticker(ticker) for ticker in tickers if ticker not in row_of]
        if unknown:
            self.writer.enlist(unknown)
        numbers = np.array([row_of[ticker] for ticker in tickers], np.intp)
        rows: Rows = numbers
        if len(numbers) and (np.diff(numbers) == 1).all():
            rows = slice(int(numbers[0]), int(numbers[-1]) + 1)
        if len(self._rows) > 64:  # noqa: PLR2004 (a source that makes new tuples all the time)
            self._rows.clear()
        self._rows[id(tickers)] = (tickers, rows)  # the tuple is kept, so its id stays its own
        return rows

    def _count_left_out(
        self, result: TickerTicks, good: NDArray[np.bool_], late: NDArray[np.bool_]
    ) -> None:
        bad, behind = ~good, late & good
        self.counts.dropped += int(np.count_nonzero(bad))
        self.counts.late += int(np.count_nonzero(behind))
        for mask, why in ((bad, "breaks a rule of bars"), (behind, "older than what is published")):
            if mask.any():
                self.log.warn(
                    "{interval}: {count} bars left out, {why}; the first is {ticker}'s",
                    interval=result.interval,
                    count=int(np.count_nonzero(mask)),
                    why=why,
                    ticker=result.tickers[int(mask.argmax())],
                )

    def _unchanged_part(self, result: Unchanged) -> _Part | None:
        rows = self._rows_of(result.tickers)
        tickers, numbers = result.tickers, table.numbers(rows)
        counted = numbers < len(self.writer.quotes())
        counted[counted] = self.writer.present(numbers[counted])
        if not counted.all():
            rows, tickers = numbers[counted], tuple(np.array(tickers, object)[counted])
        return _Part(tickers, confirmed=rows) if tickers else None

    # -- prices without bars -----------------------------------------------------------------

    def _prices_part(self, result: TickerPrices) -> _Part | None:
        """Take prices that are not older than what is published.

        Those of tickers without bars wait for these, which tell currency and time zone.
        """
        row_of, quotes = self.writer.row_of, self.writer.quotes()
        rows = np.array([row_of.get(ticker, len(quotes)) for ticker in result.tickers], np.intp)
        known = rows < len(quotes)
        known[known] = self.writer.present(rows[known])
        keep = known.copy()
        published_ms = quotes["ts_ms"][rows[known]]
        is_ahead = published_ms > self.clock.wall_ms() + AHEAD_MS
        keep[known] = is_ahead | (result.ts_ms[known] >= published_ms)
        self.counts.early_prices += int(np.count_nonzero(~known))
        self.counts.late_prices += int(np.count_nonzero(known & ~keep))
        if not keep.any():
            return None
        made = self._pricer.of_prices(rows[keep], result.ts_ms[keep], result.values[keep])
        tickers = tuple(np.array(result.tickers, object)[keep])
        return _Part(tickers, quotes=made, is_live=True)

    # -- several bars of one ticker ----------------------------------------------------------

    def _bars_part(self, result: TickerBars) -> _Part:
        ticker = result.ticker.symbol
        row = int(self.writer.enlist([result.ticker])[0])
        part = _Part((ticker,))
        self._note_other(row, result.ticker)
        self.counts.dropped += result.dropped
        is_old, has_newest = self._pricer.is_old(row, result.last_price), False
        states = []
        for interval, kind in self._kinds.items():
            current, forming = NO_BARS, False
            if self._is_there(row):
                current, forming = self.writer.history(row, interval)
            state = State(kind, current)
            given = result.series.get(interval)
            if given is not None:
                self._cut.discard((ticker, interval))
                bars, problems = validate(given.bars.time, given.bars.ohlcv)
                self._note(ticker, interval, problems)
                last = len(given.bars) and len(bars) and bars.time[-1] == given.bars.time.max()
                opened = given.forming and bool(last)
                whole = result.whole or interval in result.whole_of
                behind = _is_behind(bars, current, or_equal=True)
                if is_old and opened and behind and not whole:
                    bars, opened = bars[:-1], False  # it is published as it was later
                lacks = _is_behind(bars, current) and (forming or not whole)
                has_newest = has_newest or (len(bars) > 0 and not lacks)
                merged = merge(current, forming, bars, opened, kind.capacity, whole=whole)
                part.restated += self._note_restated(ticker, interval, merged, result.cause)
                history = merged.history(interval, row)
                if history is not None:
                    part.histories.append(history)
                    state = after(kind, current, history)
            states.append(state)
        # An old price, or a bar that was there before, says nothing new of the price.
        is_known = not has_newest if result.last_price is None else is_old
        is_anew = bool(part.restated) and result.cause != "vendor"
        if is_anew or not (is_known and self._pricer.is_priced(row)):
            part.quotes = self._pricer.of_bars(row, result.last_price, states)
        if part.quotes is None:
            part.confirmed = np.array([row], np.intp)
        return part

    def _note_other(self, row: int, ticker: Ticker) -> None:
        """Say in words that a ticker has another currency or time zone than is published.

        A row keeps what it was listed with: readers look once.
        """
        listed = self.writer.tickers[row]
        said = [
            f"{name} {new}, published as {old or 'none'}"
            for name, new, old in (
                ("currency", ticker.currency, listed.currency),
                ("time zone", ticker.time_zone, listed.time_zone),
            )
            if new and new != old
        ]
        if not said:
            self._other.pop(row, None)
        elif self._other.get(row) != ticker:
            self._other[row] = ticker
            self.log.warn(
                "{ticker}: {said}; it stays so until a daemon makes a new segment",
                ticker=ticker.symbol,
                said=" and ".join(said),
            )

    def _note(self, ticker: str, interval: str, problems: tuple[Problem, ...]) -> None:
        """Count what was wrong with bars, and log it when it is not what was wrong last time."""
        for problem in problems:
            if not problem.flaw.is_repaired:
                self.counts.dropped += problem.count
        key = (ticker, interval)
        if problems == self._problems.get(key, ()):
            return
        self._problems[key] = problems
        for problem in problems:
            self.log.warn(
                "{ticker} {interval}: {count} bars {done}, {flaw}; the first at {time_ms} ms",
                ticker=ticker,
                interval=interval,
                count=problem.count,
                done="mended" if problem.flaw.is_repaired else "dropped",
                flaw=Flaw(problem.flaw).value,
                time_ms=problem.time_ms,
            )

    def _note_restated(
        self, ticker: str, interval: str, merged: Merge, cause: str
    ) -> list[Restated]:
        if not (len(merged.restatements) or merged.removed):
            return []
        self.log.warn(
            "{ticker} {interval}: {count} bars restated, {removed} gone ({cause})",
            ticker=ticker,
            interval=interval,
            count=len(merged.restatements),
            removed=merged.removed,
            cause=cause,
        )
        count = len(merged.restatements) + merged.removed
        self.restated[ticker] = self.restated.get(ticker, 0) + count
        return [Restated(ticker, interval, merged.restatements, merged.removed, cause)]


def _names(result: _Answer) -> tuple[str, ...]:
    return (result.ticker.symbol,) if isinstance(result, TickerBars) else result.tickers


def _held(series: NDArray[np.void]) -> NDArray[np.uint64]:
    """Count the bars of each series row, the forming one included."""
    held: NDArray[np.uint64] = series["count"] + (series["flags"] & layout.HAS_FORMING)
    return held


def _is_behind(bars: Bars, current: Bars, *, or_equal: bool = False) -> bool:
    """Tell whether the newest published bar is later than those of an answer."""
    if not len(bars) or not len(current):
        return False
    last_ms, newest_ms = int(bars.time[-1]), int(current.time[-1])
    return last_ms < newest_ms or (or_equal and last_ms == newest_ms)


def _batch(parts: Sequence[_Part], updated_ms: int) -> Batch:
    """Join parts into one commit, the quotes of single tickers into one table."""
    columns = [part.quotes for part in parts if part.ticks is not None and part.quotes is not None]
    single = [part.quotes for part in parts if part.ticks is None and part.quotes is not None]
    if single:
        rows = np.concatenate([table.numbers(quotes.rows) for quotes in single])
        ts_ms = np.concatenate([quotes.ts_ms for quotes in single])
        columns.append(Quotes(rows, ts_ms, np.concatenate([quotes.values for quotes in single])))
    confirmed = [part.confirmed for part in parts if part.confirmed is not None]
    return Batch(
        updated_ms,
        ticks=[part.ticks for part in parts if part.ticks is not None],
        histories=[history for part in parts for history in part.histories],
        quotes=columns,
        confirmed=confirmed[0]
        if len(confirmed) == 1
        else np.unique(np.concatenate([table.numbers(rows) for rows in confirmed]))
        if confirmed
        else None,
    )
