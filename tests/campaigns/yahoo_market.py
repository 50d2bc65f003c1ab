"""A market of one hour that two processes know alike, and a Yahoo that lives in it.

Everything follows from a seed and from the simulated time: what each bar is at any moment, when
Yahoo is out of order, what it restates. So the server, in a process of its own, and the checker
need not talk to each other. `python -m tests.campaigns.yahoo_market '{...}'` serves it.
"""

from __future__ import annotations

import functools
import json
import sys
import threading
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from quoteshm.model import DAY_MS, MINUTE_MS, Bars
from tests.yahoo_server import Listing, YahooServer

if TYPE_CHECKING:
    from numpy.typing import NDArray

ZONE: Final = "America/New_York"
DAYS: Final = 250
MINUTES: Final = 390
HOUR_MS: Final = 60 * MINUTE_MS


def _ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1000


#: Friday, 2024-11-22: no change of the clocks in the days before that have minutes.
MIDNIGHT_MS: Final = _ms("2024-11-22 05:00")
OPEN_MS: Final = _ms("2024-11-22 14:30")
CLOSE_MS: Final = _ms("2024-11-22 21:00")
BEGIN_MS: Final = CLOSE_MS - HOUR_MS  # of the hour
SETTLED_MS: Final = CLOSE_MS + HOUR_MS  # then the day's bar is closed

#: Minutes of the hour.
STORM: Final = (12, 16)  # each request is refused with 429
OUTAGE: Final = (30, 33)  # each is answered by a proxy that knows no better
RESTATED: Final = 22
SPLIT: Final = 40


@dataclass(frozen=True)
class World:
    """What both sides know."""

    seed: int
    tickers: int
    began_ms: int  # real time, since boot, at which the simulated time is `starts_ms`
    starts_ms: int
    speed: float
    night_speed: float  # from a while after the close on

    def now_ms(self) -> int:
        """Give the simulated time."""
        real_ms = time.clock_gettime_ns(time.CLOCK_BOOTTIME) / 1e6 - self.began_ms
        day_ms = (NIGHT_MS - self.starts_ms) / self.speed
        if real_ms <= day_ms:
            return int(self.starts_ms + real_ms * self.speed)
        return int(NIGHT_MS + (real_ms - day_ms) * self.night_speed)

    def real_s(self, at_ms: int) -> float:
        """Tell how many real seconds are left until a simulated moment."""
        now_ms, left_s = self.now_ms(), 0.0
        if now_ms < NIGHT_MS:
            left_s += (min(at_ms, NIGHT_MS) - now_ms) / self.speed / 1000
        return left_s + max(0, at_ms - max(now_ms, NIGHT_MS)) / self.night_speed / 1000

    @functools.cached_property
    def names(self) -> list[str]:
        """The tickers, the broken ones among them."""
        return [f"T{number:03}" for number in range(self.tickers)]

    def is_missing(self, symbol: str) -> bool:
        """Tell whether Yahoo knows no such symbol."""
        return int(symbol[1:]) % 97 == 5

    def is_deaf(self, symbol: str) -> bool:
        """Tell whether Yahoo never answers for a symbol."""
        return int(symbol[1:]) % 250 == 7

    def is_split(self, symbol: str) -> bool:
        """Tell whether a symbol's prices are halved in the middle."""
        return int(symbol[1:]) % 50 == 3

    def is_restated(self, symbol: str) -> bool:
        """Tell whether a minute that is over is corrected in the middle."""
        return int(symbol[1:]) % 10 == 1

    @property
    def broken(self) -> set[str]:
        """The tickers that nothing can be had of."""
        return {one for one in self.names if self.is_missing(one) or self.is_deaf(one)}


#: Then nothing is asked for any more but once: half an hour behind the close, and a round's time.
NIGHT_MS: Final = CLOSE_MS + 38 * MINUTE_MS


class Market:
    """What each bar is at a moment."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._ticks = functools.lru_cache(None)(self._make_ticks)

    def _make_ticks(self, symbol: str) -> tuple[NDArray[np.float64], Bars]:
        """Make four prices a minute of two days, and the daily bars before these."""
        rng = np.random.default_rng([self.world.seed, int(symbol[1:])])
        steps = rng.normal(0, 0.0005, 2 * MINUTES * 4)
        ticks = np.round(100 * np.exp(np.cumsum(steps)), 2).reshape(2 * MINUTES, 4)
        closes = np.round(100 * np.exp(np.cumsum(rng.normal(0, 0.01, DAYS))), 2)
        times, at_ms = list[int](), MIDNIGHT_MS - DAY_MS
        while len(times) < DAYS:
            if datetime.fromtimestamp(at_ms / 1000, UTC).weekday() < 5:
                times.append(_midnight_ms(at_ms))
            at_ms -= DAY_MS
        volume = np.floor(rng.uniform(1e6, 9e6, DAYS))
        daily = np.stack([closes, closes + 1, closes - 1, closes, volume])
        yesterday = ticks[:MINUTES]
        daily[:, -1] = _day(_minutes(yesterday))
        return ticks, Bars(np.array(times[::-1], np.int64), daily)

    def bars(self, symbol: str, now_ms: int) -> dict[str, Bars]:
        """Give the bars of all intervals as they stand."""
        ticks, daily = self._ticks(symbol)
        since_ms = min(now_ms, CLOSE_MS - 1) - OPEN_MS
        done, part = divmod(since_ms // (MINUTE_MS // 4), 4)
        ohlcv = _minutes(ticks[: MINUTES + done + 1])
        last = ticks[MINUTES + done, : part + 1]
        if now_ms < CLOSE_MS:
            ohlcv[:, -1] = last[0], last.max(), last.min(), last[-1], 100 * len(last)
        if self.world.is_restated(symbol) and now_ms >= BEGIN_MS + RESTATED * MINUTE_MS:
            at = MINUTES + (BEGIN_MS - OPEN_MS) // MINUTE_MS + RESTATED - 2
            ohlcv[1:, at] += 1, -1, 0.5, 1000
        time_ms = OPEN_MS + MINUTE_MS * np.arange(MINUTES, dtype=np.int64)
        times = np.concatenate([time_ms - DAY_MS, time_ms])[: ohlcv.shape[1]]
        whole = daily.ohlcv.copy()
        today = _day(ohlcv[:, MINUTES:])
        if self.world.is_split(symbol) and now_ms >= BEGIN_MS + SPLIT * MINUTE_MS:
            for values in (whole, ohlcv[:, :MINUTES]):
                values[:4] *= 0.5
                values[4] *= 2
        days = np.append(daily.time, MIDNIGHT_MS)
        return {
            "1d": Bars(days, np.column_stack([whole, today])),
            "1m": Bars(times, np.ascontiguousarray(ohlcv)),
        }

    def listing(self, symbol: str, now_ms: int) -> Listing:
        """Give what the server says of a symbol."""
        bars = self.bars(symbol, now_ms)
        is_split = self.world.is_split(symbol) and now_ms >= BEGIN_MS + SPLIT * MINUTE_MS
        return Listing(
            bars,
            zone=ZONE,
            splits_ms=[MIDNIGHT_MS] if is_split else [],
            hang=self.world.is_deaf(symbol),
            meta={
                "regularMarketPrice": float(bars["1m"].ohlcv[3, -1]),
                "regularMarketTime": min(now_ms, CLOSE_MS) // 1000,
            },
        )


def _midnight_ms(at_ms: int) -> int:
    """Give midnight in New York: summer time ended on 2024-11-03, and began on 2024-03-10."""
    summer = _ms("2024-03-10 07:00") <= at_ms < _ms("2024-11-03 06:00")
    winter = at_ms >= _ms("2023-11-05 06:00")
    early = 0 if winter and not summer else MINUTE_MS * 60
    return at_ms - early


def _minutes(ticks: NDArray[np.float64]) -> NDArray[np.float64]:
    """Make bars of four prices each."""
    volume = np.full(len(ticks), 400.0)
    return np.stack([ticks[:, 0], ticks.max(axis=1), ticks.min(axis=1), ticks[:, 3], volume])


def _day(ohlcv: NDArray[np.float64]) -> tuple[float, ...]:
    """Make one bar of many."""
    return (
        float(ohlcv[0, 0]),
        float(ohlcv[1].max()),
        float(ohlcv[2].min()),
        float(ohlcv[3, -1]),
        float(ohlcv[4].sum()),
    )


class MarketServer(YahooServer):
    """A Yahoo whose bars move on, and that is out of order at times."""

    def __init__(self, world: World, log: Path) -> None:
        super().__init__()
        self._world, self._market = world, Market(world)
        self._log, self._lock = log.open("w"), threading.Lock()

    def answer(self, path: str, query: dict[str, str]) -> Any:
        """Answer as things stand."""
        now_ms = self._world.now_ms()
        symbol = path.rpartition("/")[2] if "/chart/" in path else ""
        minute = (now_ms - BEGIN_MS) / MINUTE_MS
        with self._lock:
            self._log.write(f"{now_ms} {symbol or path}\n")
            self._log.flush()
        if STORM[0] <= minute < STORM[1]:
            return 429, "text/html", "Too Many Requests\r\n"
        if OUTAGE[0] <= minute < OUTAGE[1]:
            return 502, "text/html", "<html>Bad Gateway</html>"
        if symbol and not self._world.is_missing(symbol):
            listing = self._market.listing(symbol, now_ms)
            self.now_s = now_ms / 1000
            self.listings[symbol] = listing
        return super().answer(path, query)


def main(text: str, log: str) -> None:
    """Serve until stdin ends; print the port."""
    with MarketServer(World(**json.loads(text)), Path(log)) as server:
        sys.stdout.write(f"{server.port}\n")
        sys.stdout.flush()
        sys.stdin.read()


def arguments(world: World) -> str:
    """Give what a child is to know."""
    return json.dumps(asdict(world))


if __name__ == "__main__":
    main(*sys.argv[1:])
