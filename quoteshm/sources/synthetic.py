"""Random bars and ticks that look like a market: the lightweight mode, without a network.

Prices are a seeded random walk. Each ticker gets a history as long as its series keep, then, with
every refresh, a tick that moves the forming bars of all its intervals at once. One clock and one
calendar serve all tickers; the clock runs `speed` times as fast as the machine's, so that bars
close and blocks fill while somebody watches. It trades at all hours, in UTC and USD.

Two refreshes that lie more than a bar apart leave out the bars between them, as a vendor does that
is asked too rarely. What the source has published before (a segment that a daemon carries on in)
is continued: the clock does not start before it, and only the bars that are missing are made.
"""

from __future__ import annotations

import math
import zlib
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from quoteshm.model import DAY_MS, FIELDS, INTERVALS, Bars, Ticker
from quoteshm.sources.base import LastPrice, Series, Source, TickerBars, TickerTicks

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from quoteshm.clock import Clock
    from quoteshm.model import SeriesKind
    from quoteshm.sources.base import Fetched, Known, Request

    _Rows = slice | NDArray[np.intp]

#: Standard deviation of a day's return.
_DAILY_MOVE: Final = 0.015
#: A tick moves a price at least so much, however short ago the last one was: a market to watch.
_LEAST_MOVE: Final = 1e-4
_MOST_MOVE: Final = 0.25
#: How far prices stray from their ticker's own level in the long run (of their logarithm).
_STRAY: Final = 0.25
_CENT: Final = 0.01
#: Logarithms of the least and the greatest level of a price, and of a day's volume.
_LEVELS: Final = (float(np.log(15.0)), float(np.log(600.0)))
_VOLUMES: Final = (float(np.log(3e5)), float(np.log(6e7)))

_WEEK_MS: Final = 7 * DAY_MS
_MONDAY_MS: Final = 4 * DAY_MS  # the first one after the Unix epoch
_MONTHS: Final = {"1mo": 1, "3mo": 3}

_HIGH, _LOW, _CLOSE, _VOLUME = (FIELDS.index(name) for name in FIELDS[1:])


def synthetic_tickers(n: int) -> tuple[str, ...]:
    """Give ``n`` made-up symbols: SYN00001, SYN00002, ..."""
    return tuple(f"SYN{i:05d}" for i in range(1, n + 1))


def bar_start(interval: str, now_ms: int) -> int:
    """Give the start of the bar that ``now_ms`` is in: UTC days, Mondays, firsts of a month."""
    if interval in _MONTHS:
        return int(_month_starts(_MONTHS[interval], now_ms, 1)[0])
    length = INTERVALS[interval]
    phase = _MONDAY_MS % length if length == _WEEK_MS else 0
    return (now_ms - phase) // length * length + phase


def bar_starts(interval: str, now_ms: int, n: int) -> NDArray[np.int64]:
    """Give the starts of the last ``n`` bars, the one that ``now_ms`` is in included."""
    if interval in _MONTHS:
        return _month_starts(_MONTHS[interval], now_ms, n)
    length = INTERVALS[interval]
    return bar_start(interval, now_ms) + np.arange(1 - n, 1, dtype=np.int64) * length


def _month_starts(step: int, now_ms: int, n: int) -> NDArray[np.int64]:
    """Do the same for bars of ``step`` calendar months."""
    month = int(np.datetime64(now_ms, "ms").astype("M8[M]").astype(np.int64))
    months = month // step * step + np.arange(1 - n, 1) * step
    return months.astype("M8[M]").astype("M8[ms]").astype(np.int64)


def _next_start(interval: str, start_ms: int) -> int:
    """Give the start of the bar after the one that starts at ``start_ms``."""
    # Longer than any month, shorter than two of them.
    longest = {"1mo": 31 * DAY_MS, "3mo": 92 * DAY_MS}.get(interval, INTERVALS[interval])
    return bar_start(interval, start_ms + longest)


class _Character(NamedTuple):
    """What stays the same about a ticker, whatever its price does."""

    level: float  # the price that it comes back to
    daily_volume: float


class _Stand(NamedTuple):
    """Where a ticker stands: what its next tick begins from."""

    character: _Character
    price: float
    forming: dict[str, tuple[int, NDArray[np.float64]]]  # by interval: start, values


class Synthetic(Source):
    """A `quoteshm.sources.base.Source` of random bars.

    Parameters
    ----------
    clock : Clock
        The machine's.
    seed : int
        The same seed makes the same histories, whatever other tickers there are.
    speed : float
        How many times as fast as the machine's clock its own one runs.

    """

    name = "synthetic"
    adjustment = "none"

    def __init__(self, clock: Clock, *, seed: int = 0, speed: float = 1.0) -> None:
        self._clock, self._seed, self._speed = clock, seed, speed
        self._rng = np.random.default_rng(seed)
        self._started: tuple[int, int] | None = None  # own time, and boot time, of the start
        self._stopped = False
        self._market = _Market()
        self._wanted: tuple[Request, ...] = ()  # of the last fetch
        self._unmade: list[Request] = []  # those of them that have no history yet
        self._ticking: tuple[Request, ...] = ()  # those that have
        self._plan = _Plan(slice(0), [])

    async def stop(self) -> None:
        """End a running `fetch` after the ticker it is at."""
        self._stopped = True

    async def fetch(self, wanted: Sequence[Request]) -> AsyncGenerator[Fetched, None]:
        """Give a tick for the tickers that have a history, and a history for the others.

        Histories are made one by one, as they are asked for (some 0.1 ms each): whoever iterates
        over thousands gives the reactor a turn from time to time.
        """
        if self._stopped or not wanted:
            return
        requests = tuple(wanted)
        now = self._now(requests)
        # The same requests, refresh after refresh: no loop over tickers then.
        if requests != self._wanted or self._unmade:
            self._sort_out(requests, now)
        unmade = self._unmade  # before the first yield: another fetch may come between two answers
        if self._ticking:
            for ticks in self._market.tick(self._plan, self._rng, now):
                yield ticks
                if self._stopped:
                    return
        made: list[tuple[Request, _Stand]] = []
        try:
            for request in unmade:
                stand, answer = self._past(request, now)
                made.append((request, stand))
                yield answer
                if self._stopped:
                    return
        finally:
            self._market.add(made, now)

    def _now(self, requests: Iterable[Request]) -> int:
        """Give the own time; the first call starts the clock, behind all that is published."""
        boot = self._clock.boot_ms()
        if self._started is None:
            start = self._clock.wall_ms()
            for request in requests:
                for kind in request.kinds:
                    known = request.known(request.ticker, kind.interval)
                    if known is None:
                        continue
                    # A closed bar is never opened again: go on with the next one.
                    newest = known.time_ms
                    if not known.forming:
                        newest = _next_start(kind.interval, newest)
                    start = max(start, newest)
            self._started = (start, boot)
        start, start_boot = self._started
        return start + int((boot - start_boot) * self._speed)

    def _sort_out(self, requests: tuple[Request, ...], now: int) -> None:
        """Find out who has a history, and so gets ticks, and who is to get one."""
        # A history that was made last time may have been refused, as where a disk is full.
        # By identity: a ticker that was removed and added again comes with another request.
        before = {id(request) for request in self._wanted}
        before -= {id(request) for request in self._unmade}
        taken_up: list[tuple[Request, _Stand]] = []
        ticking: list[Request] = []
        unmade: list[Request] = []
        for request in requests:
            if self._market.serves(request) and (id(request) in before or _is_published(request)):
                ticking.append(request)
            elif _is_current(request, now):
                taken_up.append((request, self._past(request, now)[0]))
                ticking.append(request)
            else:
                unmade.append(request)
        self._market.add(taken_up, now)
        if tuple(ticking) != self._ticking:
            self._ticking = tuple(ticking)
            self._plan = self._market.plan(self._ticking)
        self._wanted, self._unmade = requests, unmade

    def _past(self, request: Request, now: int) -> tuple[_Stand, TickerBars]:
        """Make the bars that a ticker lacks, from what is published up to now."""
        ticker = request.ticker
        rng = np.random.default_rng((self._seed, zlib.crc32(ticker.encode())))
        character = _Character(
            level=float(np.exp(rng.uniform(*_LEVELS))),
            daily_volume=float(np.exp(rng.uniform(*_VOLUMES))),
        )
        published = {
            kind.interval: known
            for kind in request.kinds
            if (known := request.known(ticker, kind.interval)) is not None
        }
        price = character.level
        if published:
            newest = max(published.values(), key=lambda known: known.time_ms)
            price = newest.close
            if not _is_current(request, now):
                gone = now - newest.time_ms
                price *= float(np.exp(_move(gone) * rng.standard_normal()))
        price = max(round(price, 2), _CENT)

        series: dict[str, Series] = {}
        forming: dict[str, tuple[int, NDArray[np.float64]]] = {}
        for kind in request.kinds:
            known = published.get(kind.interval)
            times = bar_starts(kind.interval, now, kind.capacity)
            if known is not None and known.time_ms >= times[-1]:
                values = known.values or (known.close, known.close, known.close, known.close, 0.0)
                forming[kind.interval] = (known.time_ms, np.array(values))
                continue
            if known is not None:
                times = times[np.searchsorted(times, known.time_ms, side="right") :]
            begin = None if known is None else known.close
            volume = character.daily_volume * kind.interval_ms / DAY_MS
            bars = _walk(rng, times, kind, volume, (begin, price))
            series[kind.interval] = Series(bars, forming=True)
            forming[kind.interval] = (int(times[-1]), bars.ohlcv[:, -1].copy())
        answer = TickerBars(
            ticker=Ticker(ticker, currency="USD"),
            series=series,
            last_price=_last_price(request.kinds, series, published, now),
        )
        return _Stand(character, price, forming), answer


def _is_published(request: Request) -> bool:
    """Tell whether every series of a ticker has bars (after a removal it has none)."""
    return all(request.known(request.ticker, kind.interval) for kind in request.kinds)


def _is_current(request: Request, now: int) -> bool:
    """Tell whether every series of a ticker is published up to the bar of this moment."""
    for kind in request.kinds:
        known = request.known(request.ticker, kind.interval)
        if known is None or known.time_ms < bar_start(kind.interval, now):
            return False
    return True


def _move(passed_ms: float) -> float:
    """Give the standard deviation of a return over some time."""
    return min(_MOST_MOVE, max(_LEAST_MOVE, _DAILY_MOVE * math.sqrt(passed_ms / DAY_MS)))


def _round(price: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round to cents, and never to nothing. Monotone: high and low go on holding the others."""
    rounded: NDArray[np.float64] = np.maximum(np.rint(price * 100.0) / 100.0, _CENT)
    return rounded


def _walk(
    rng: np.random.Generator,
    times: NDArray[np.int64],
    kind: SeriesKind,
    volume: float,
    closes: tuple[float | None, float],
) -> Bars:
    """Make bars between two closes: that before the first bar, if there is one, and the last."""
    n = len(times)
    begin, end = closes
    move = _move(kind.interval_ms)
    bars = Bars(times, np.empty((len(FIELDS), n)))
    open_, high, low, close, volumes = bars.ohlcv
    steps = rng.standard_normal(n) * move
    path = np.cumsum(steps)
    if begin is None:
        begin = end * float(np.exp(-path[-1]))
        pull = np.zeros(())
    else:  # a bridge between two prices
        pull = (np.log(end / begin) - path[-1]) / n * np.arange(1, n + 1)
    np.multiply(np.exp(path + pull), begin, out=close)
    close[-1] = end
    chance = rng.random((4, n))
    # A bar opens near the last close, and strays beyond its body by less than a move.
    open_[0] = begin
    open_[1:] = close[:-1]
    open_ *= 1.0 + move * 0.3 * (chance[0] - 0.5)
    np.multiply(np.maximum(open_, close), 1.0 + move * chance[1], out=high)
    np.divide(np.minimum(open_, close), 1.0 + move * chance[2], out=low)
    bars.ohlcv[:_VOLUME] = _round(bars.ohlcv[:_VOLUME])
    np.rint(volume * (0.5 + chance[3] + np.abs(steps) * (0.3 / move)), out=volumes)
    return bars


def _last_price(
    kinds: Sequence[SeriesKind],
    series: Mapping[str, Series],
    published: Mapping[str, Known],
    now: int,
) -> LastPrice | None:
    """Give the quote of a ticker, by its daily bars where it has any."""
    intervals = [kind.interval for kind in kinds]
    interval = "1d" if "1d" in intervals else intervals[0]
    if interval not in series:
        return None
    bars = series[interval].bars
    open_, high, low, close, volume = bars.ohlcv[:, -1].tolist()
    prev_close = float("nan")
    if len(bars) > 1:
        prev_close = float(bars.ohlcv[_CLOSE, -2])
    elif interval in published:
        prev_close = published[interval].close
    return LastPrice(close, now, open_, high, low, volume, prev_close)


class _Part(NamedTuple):
    """The tickers that have one interval: all of the plan's, but for unusual requests."""

    interval: str
    tickers: tuple[str, ...]
    rows: _Rows  # in the market
    at: _Rows  # among the plan's


class _Plan(NamedTuple):
    """Which rows of the market a tick moves, and how it is told."""

    rows: _Rows
    parts: list[_Part]


class _Market:
    """Where all tickers stand, one row each, in columns."""

    def __init__(self) -> None:
        self._row_of: dict[str, int] = {}
        self._price = np.empty(0)  # not rounded
        self._level = np.empty(0)
        self._daily_volume = np.empty(0)
        # The forming bars of each interval: start (-1 where a ticker has no such series), values.
        self._forming: dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]] = {}
        self._ticked_ms = 0

    def serves(self, request: Request) -> bool:
        """Tell whether a ticker has all the series that are asked for."""
        row = self._row_of.get(request.ticker)
        if row is None:
            return False
        return all(
            kind.interval in self._forming and self._forming[kind.interval][0][row] >= 0
            for kind in request.kinds
        )

    def add(self, tickers: Sequence[tuple[Request, _Stand]], now: int) -> None:
        """Take up where tickers stand; those that have a row already go on in it."""
        if not tickers:
            return
        if not self._row_of:
            self._ticked_ms = now
        for request, _ in tickers:
            self._row_of.setdefault(request.ticker, len(self._row_of))
        more = len(self._row_of) - len(self._price)
        self._price = np.append(self._price, np.empty(more))
        self._level = np.append(self._level, np.empty(more))
        self._daily_volume = np.append(self._daily_volume, np.empty(more))
        for _, stand in tickers:
            for interval in stand.forming:
                self._forming.setdefault(interval, (np.empty(0, np.int64), np.empty((0, 5))))
        for interval, (time, ohlcv) in self._forming.items():
            lacking = len(self._row_of) - len(time)
            self._forming[interval] = (
                np.append(time, np.full(lacking, -1)),
                np.append(ohlcv, np.empty((lacking, 5)), axis=0),
            )
        for request, stand in tickers:
            row = self._row_of[request.ticker]
            self._price[row] = stand.price
            self._level[row], self._daily_volume[row] = stand.character
            for interval, (start, values) in stand.forming.items():
                time, ohlcv = self._forming[interval]
                time[row], ohlcv[row] = start, values

    def plan(self, requests: Sequence[Request]) -> _Plan:
        """Work out, once for a set of tickers, what a tick of theirs needs."""
        tickers = tuple(request.ticker for request in requests)
        numbers = np.array([self._row_of[ticker] for ticker in tickers], np.intp)
        asking: dict[str, list[int]] = {}
        for i, request in enumerate(requests):
            for kind in request.kinds:
                asking.setdefault(kind.interval, []).append(i)
        parts: list[_Part] = []
        for interval, some in asking.items():
            if len(some) == len(tickers):
                parts.append(_Part(interval, tickers, _rows(numbers), slice(None)))
            else:
                names = tuple(tickers[i] for i in some)
                at = np.array(some, np.intp)
                parts.append(_Part(interval, names, _rows(numbers[at]), at))
        return _Plan(_rows(numbers), parts)

    def tick(self, plan: _Plan, rng: np.random.Generator, now: int) -> list[TickerTicks]:
        """Move the prices of all planned tickers, and with them their forming bars."""
        passed, self._ticked_ms = now - self._ticked_ms, now
        rows = plan.rows
        move = _move(passed)
        before = self._price[rows]
        # The pull back to the level keeps the long run within `_STRAY` of it.
        pull = np.log(self._level[rows] / before) * (move**2 / (2 * _STRAY**2))
        after = before * np.exp(move * rng.standard_normal(len(before)) + pull)
        last, price = _round(before), _round(after)
        self._price[rows] = np.maximum(after, _CENT)  # may be what `before` is a view of
        busy = self._daily_volume[rows] * (min(passed, DAY_MS) / DAY_MS)
        traded = np.rint(busy * rng.standard_exponential(len(before))) + 1.0

        ticks: list[TickerTicks] = []
        for part in plan.parts:
            times, values = self._forming[part.interval]
            start = bar_start(part.interval, now)
            bars = values[part.rows].copy()
            opening = times[part.rows] < start
            bars[opening, :_VOLUME] = last[part.at][opening, np.newaxis]
            bars[opening, _VOLUME] = 0.0
            told = price[part.at]
            np.maximum(bars[:, _HIGH], told, out=bars[:, _HIGH])
            np.minimum(bars[:, _LOW], told, out=bars[:, _LOW])
            bars[:, _CLOSE] = told
            bars[:, _VOLUME] += traded[part.at]
            times[part.rows], values[part.rows] = start, bars
            time = np.full(len(bars), start, np.int64)
            ticks.append(TickerTicks(part.tickers, part.interval, time, bars, now))
        return ticks


def _rows(numbers: NDArray[np.intp]) -> _Rows:
    """Give rows as a slice where they are a run, the fast way to address them."""
    if len(numbers) and np.array_equal(numbers, np.arange(numbers[0], numbers[0] + len(numbers))):
        return slice(int(numbers[0]), int(numbers[0]) + len(numbers))
    return numbers
