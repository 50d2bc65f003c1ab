"""Quotes: made of bars, of ticks, of prices without bars, and of what is published already.

Of bars a quote is the source's own last price, where it gives one; else the finest bar's close, in
the day that the daily bar tells of. Ticks and prices move a quote that is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np

from quoteshm.errors import BatchError
from quoteshm.model import DAY_MS, INTERVALS, MINUTE_MS, QUOTE_VALUES, Bars, SeriesKind
from quoteshm.shm import layout, table
from quoteshm.shm.batch import Quotes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from quoteshm.clock import Clock
    from quoteshm.shm.batch import History, Rows, Ticks
    from quoteshm.shm.writer import SegmentWriter
    from quoteshm.sources.base import LastPrice

DAILY: Final = "1d"
#: An answer that is older than the last one is out of a cache; one that is so for longer is right.
CACHED_MS: Final = 30 * MINUTE_MS
_BAR: Final = slice(0, 5)  # of a quote's values those that a bar has, in the same order


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """A series as it is to stand: bars, and the forming one last if there is one."""

    kind: SeriesKind
    bars: Bars
    before: float = np.nan  # the close before the first of these bars


class Pricer:
    """Makes the quotes of what is to be published; all are rows of one writer.

    Parameters
    ----------
    writer : SegmentWriter
        What is published, which a quote may go on from.
    clock : Clock
        What no price is later than.

    """

    def __init__(self, writer: SegmentWriter, clock: Clock) -> None:
        self._writer, self._clock = writer, clock
        self._has_days = any(kind.interval == DAILY for kind in writer.spec.kinds)
        self._live: set[int] = set()  # rows whose price came without bars
        self._days: dict[int, tuple[int, int]] = {}  # of rows: a day of its exchange, in ms
        # Of rows: when the last price of an answer was made, and when that answer came.
        self._answered: dict[int, tuple[int, int]] = {}

    def forget(self, row: int) -> None:
        """Know nothing more of a ticker that is removed."""
        self._live.discard(row)
        self._answered.pop(row, None)

    def is_priced(self, row: int) -> bool:
        """Tell whether a ticker has a quote."""
        return self._writer.is_present(row)

    def is_old(self, row: int, last: LastPrice | None) -> bool:
        """Tell whether an answer is older than one that came before, out of some cache."""
        if last is None or row not in self._answered:
            return False
        made_ms, came_ms = self._answered[row]
        passed_ms = self._clock.wall_ms() - came_ms
        return last.ts_ms < made_ms and 0 <= passed_ms < CACHED_MS

    # -- of bars -------------------------------------------------------------------------------

    def of_bars(self, row: int, last: LastPrice | None, states: Sequence[State]) -> Quotes | None:
        """Make the quote of a ticker of its bars; None where it is the same as before.

        Raises
        ------
        BatchError
            There is no bar to make it of.

        """
        now_ms = self._clock.wall_ms()
        if last is not None:
            self._answered[row] = last.ts_ms, now_ms
        made = quote_of(last, states, now_ms)
        if made is None:
            message = "no bars that could be published"
            raise BatchError(message)
        ts_ms, values = made
        quotes = self._writer.quotes()
        if self.is_priced(row):
            live_ms = int(quotes["ts_ms"][row])
            if row in self._live and ts_ms < live_ms:
                if not self._keep_live(row, ts_ms, values):
                    return None
                ts_ms = live_ms
            stable = [quotes[name][row] for name in QUOTE_VALUES]
            if np.array_equal(stable, values, equal_nan=True):
                return None  # the same price was made when it was made before
        rows = np.array([row], np.intp)
        return Quotes(rows, np.array([ts_ms], np.int64), values.reshape(1, 6))

    # -- of ticks ------------------------------------------------------------------------------

    def of_tick(
        self, interval: str, values: Sequence[float], before: Sequence[float]
    ) -> tuple[float, ...]:
        """Make the quote of one ticker's bar that goes on, of the quote that was before."""
        open_, high, low, price, volume = values
        day_open, day_high, day_low, _, day_volume, prev_close = before
        if interval != DAILY and self._has_days:  # as `_keep_day` does
            open_, volume = day_open, day_volume
            high, low = max(high, day_high), min(low, day_low)  # the first of them, if NaN is
        return open_, high, low, price, volume, prev_close

    def of_ticks(self, ticks: Ticks, ts_ms: int, *, goes_on: bool) -> Quotes:
        """Make quotes of the bars: a new bar's previous close is that of the bar it closes.

        Where it is known that all bars go on, no more is looked at than their quotes.
        """
        n = len(ticks.time)
        quotes = self._writer.quotes()
        rows: Rows = ticks.rows
        counted: slice | NDArray[np.bool_] = slice(None)  # of the rows, those that have a state
        if not isinstance(rows, slice) or rows.stop > len(quotes):
            numbers = table.numbers(rows)
            counted = numbers < len(quotes)
            rows = numbers[counted]
        present = self._writer.present(rows)
        before = quotes["prev_close"][rows].copy()
        before[~present] = np.nan
        if not goes_on:
            series = self._writer.series(ticks.interval)
            forming = (series["flags"][rows] & layout.HAS_FORMING) != 0
            opens = forming & (ticks.time[counted] > series["time"][rows])
            before[opens] = series["close"][rows][opens]
            # Rare: the first tick behind a history whose bars are all closed.
            for place in np.flatnonzero(~forming & (series["count"][rows] > 0)).tolist():
                row = int(table.numbers(rows)[place])
                bars, _ = self._writer.history(row, ticks.interval)
                before[place] = bars.field("close")[-1]
        values = np.empty((n, 6))
        table.part(values, _BAR)[:] = table.items(ticks.ohlcv, _BAR)
        if len(before) < n:
            values[:, 5] = np.nan
        values[counted, 5] = before
        if ticks.interval != DAILY and self._has_days:
            self._keep_day(values, rows, counted, present, quotes)
        return Quotes(ticks.rows, np.full(n, ts_ms, np.int64), values)

    def _keep_day(
        self,
        values: NDArray[np.float64],
        rows: Rows,
        counted: slice | NDArray[np.bool_],
        present: NDArray[np.bool_],
        quotes: NDArray[np.void],
    ) -> None:
        """Keep what the daily bar said of the day; only the price and its reach are new."""
        new = values[counted]
        kept = np.stack([quotes[name][rows] for name in ("open", "high", "low")], axis=1)
        kept[:, 1] = np.fmax(kept[:, 1], new[:, 1])
        kept[:, 2] = np.fmin(kept[:, 2], new[:, 2])
        new[present, :3] = kept[present]
        new[present, 4] = quotes["volume"][rows][present]
        new[present, 5] = quotes["prev_close"][rows][present]
        values[counted] = new

    # -- of prices without bars ----------------------------------------------------------------

    def of_prices(
        self, rows: NDArray[np.intp], ts_ms: NDArray[np.int64], new: NDArray[np.float64]
    ) -> Quotes:
        """Make quotes of prices: what they do not say of the day stays as it is published."""
        quotes = self._writer.quotes()
        kept = np.stack([quotes[name][rows] for name in QUOTE_VALUES], axis=1)
        before_ms = quotes["ts_ms"][rows].tolist()
        for place, row in enumerate(rows.tolist()):
            if ts_ms[place] >= self._day_of(row, before_ms[place])[1]:
                kept[place] = np.nan  # that day is over
        price = new[:, 3]
        values = np.where(np.isnan(new), kept, new)
        # What does not change within a day is better known by its bar than by a short float.
        values[:, [0, 5]] = np.where(np.isnan(kept), new, kept)[:, [0, 5]]
        values[:, 1] = np.fmax(np.fmax(kept[:, 1], new[:, 1]), price)
        values[:, 2] = np.fmin(np.fmin(kept[:, 2], new[:, 2]), price)
        self._live.update(rows.tolist())
        return Quotes(rows, ts_ms, values)

    def _day_of(self, row: int, ts_ms: int) -> tuple[int, int]:
        """Give begin and end of the day of a ticker's exchange in which a price was made.

        One that was made at midnight was made with the last bar of the day that ends there.
        """
        begin_ms, end_ms = self._days.get(row, (0, 0))
        if not begin_ms < ts_ms <= end_ms:
            begin_ms, end_ms = _day_of(ts_ms - 1, self._writer.tickers[row].time_zone)
            self._days[row] = begin_ms, end_ms
        return begin_ms, end_ms

    def _keep_live(self, row: int, ts_ms: int, values: NDArray[np.float64]) -> bool:
        """Put the later price without bars into a quote; False where that is of a later day."""
        published = self._writer.quotes()[row]
        if ts_ms <= self._day_of(row, int(published["ts_ms"]))[0]:
            return False
        values[1] = np.fmax(values[1], published["high"])
        values[2] = np.fmin(values[2], published["low"])
        values[3] = published["price"]
        values[4] = np.fmax(values[4], published["volume"])
        return True


def _day_of(ts_ms: int, zone: str) -> tuple[int, int]:
    """Give begin and end of a moment's day, in milliseconds."""
    try:
        local = datetime.fromtimestamp(ts_ms / 1000, ZoneInfo(zone))
    except (ZoneInfoNotFoundError, ValueError):
        begin_ms = ts_ms // DAY_MS * DAY_MS
        return begin_ms, begin_ms + DAY_MS
    begin = local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    end = begin + timedelta(days=1)
    return int(begin.timestamp()) * 1000, int(end.timestamp()) * 1000


def preference(interval: str) -> tuple[bool, int]:
    """Order intervals by how well their bars make a quote, the best first."""
    return interval != DAILY, INTERVALS[interval]


def after(kind: SeriesKind, current: Bars, history: History) -> State:
    """Give the newest bars as they stand once a history is published."""
    if history.replace or not len(current):
        return State(kind, history.bars)
    at = int(np.searchsorted(current.time, history.bars.time[0]))
    return State(kind, history.bars, float(current.field("close")[at - 1]) if at else np.nan)


def quote_of(
    last: LastPrice | None, states: Sequence[State], now_ms: int
) -> tuple[int, NDArray[np.float64]] | None:
    """Make the quote of a ticker: the source's own, else of the finest bar and its day.

    A bar does not say when within its interval its last price was made: at the latest at its end,
    and not later than now.
    """
    if last is not None:
        values = (last.open, last.high, last.low, last.price, last.volume, last.prev_close)
        return last.ts_ms, np.array(values)
    there = [state for state in states if len(state.bars)]
    if not there:
        return None
    finest = min(there, key=lambda state: state.kind.interval_ms)
    daily = next((state for state in there if state.kind.interval == DAILY), None)
    if daily is not None and daily.bars.time[-1] > finest.bars.time[-1]:
        finest = daily
    ts_ms = min(now_ms, int(finest.bars.time[-1]) + finest.kind.interval_ms)
    price = finest.bars.ohlcv[3, -1]
    if daily is None or daily is finest:
        values = (*finest.bars.ohlcv[:, -1], _close_before(finest))
        open_, high, low, close, volume, before = values
        return ts_ms, np.array((open_, high, low, close, volume, before))
    end_ms = int(daily.bars.time[-1]) + DAY_MS
    if finest.bars.time[-1] < end_ms:
        open_, high, low, _, volume = daily.bars.ohlcv[:, -1]
        before = _close_before(daily)
    else:  # the day's own bar has not come yet
        today = finest.bars[int(np.searchsorted(finest.bars.time, end_ms)) :]
        open_, volume = today.ohlcv[0, 0], today.field("volume").sum()
        high, low = today.field("high").max(), today.field("low").min()
        before = daily.bars.ohlcv[3, -1]
    values = (open_, max(high, price), min(low, price), price, volume, before)
    return ts_ms, np.array(values)


def _close_before(state: State) -> float:
    """Give the close of the last bar but one."""
    closes = state.bars.field("close")
    return float(closes[-2]) if len(closes) > 1 else state.before
