"""The random market: believable, continuous, and cheap."""

from __future__ import annotations

import numpy as np
from twisted.trial.unittest import TestCase

from quoteshm.market.bars import validate
from quoteshm.model import DAY_MS, INTERVALS, MINUTE_MS, SeriesKind
from quoteshm.sources.base import TickerBars, TickerTicks
from quoteshm.sources.synthetic import Synthetic, bar_start, bar_starts, synthetic_tickers
from tests.sources.asking import DAILY, MINUTES, FakeClock, Shelf, collect

NOON_MS = 1_700_049_600_000  # 2023-11-15, a Wednesday
TODAY_MS = NOON_MS // DAY_MS * DAY_MS


class HistoryTests(TestCase):
    """The first answer for a ticker."""

    def setUp(self) -> None:
        """Begin on a Wednesday at noon."""
        self.clock, self.shelf = FakeClock(NOON_MS), Shelf()
        self.source = Synthetic(self.clock, seed=7)

    async def test_each_ticker_gets_a_full_history_that_ends_now(self) -> None:
        """As many bars as are kept, on one calendar, the last one forming."""
        wanted = self.shelf.requests(["A", "B"], DAILY, MINUTES)
        answers = await collect(self.source, wanted)
        assert [type(one) for one in answers] == [TickerBars, TickerBars]
        for one in answers:
            assert isinstance(one, TickerBars)
            assert (one.ticker.currency, one.ticker.time_zone) == ("USD", "UTC")
            for kind in (DAILY, MINUTES):
                bars, forming = one.series[kind.interval]
                assert forming
                assert (
                    bars.time.tolist() == bar_starts(kind.interval, NOON_MS, kind.capacity).tolist()
                )
            assert one.series["1d"].bars.time[-1] == TODAY_MS
            assert one.series["1m"].bars.time[-1] == NOON_MS

    async def test_all_bars_keep_the_rules(self) -> None:
        """Validation finds nothing, and no two bars are alike."""
        for one in await collect(self.source, self.shelf.requests(synthetic_tickers(50))):
            assert isinstance(one, TickerBars)
            bars = one.series["1d"].bars
            _, problems = validate(bars.time, bars.ohlcv)
            assert problems == ()
            assert len(np.unique(bars.field("close"))) > len(bars) // 3
            assert (bars.field("volume") > 0).all()
            assert (bars.field("volume") % 1 == 0).all()

    async def test_all_intervals_end_at_the_same_price(self) -> None:
        """A ticker has one price, whatever its bars are long."""
        (one,) = await collect(self.source, self.shelf.requests(["A"], DAILY, MINUTES))
        assert isinstance(one, TickerBars)
        closes = {series.bars.field("close")[-1] for series in one.series.values()}
        assert one.last_price is not None
        assert closes == {one.last_price.price}
        assert one.last_price.prev_close == one.series["1d"].bars.field("close")[-2]
        assert one.last_price.ts_ms == NOON_MS

    async def test_a_seed_makes_the_same_history_whoever_else_is_there(self) -> None:
        """A ticker's bars hang on its name and the seed alone."""
        first = await collect(self.source, self.shelf.requests(["A", "B"]))
        again = await collect(Synthetic(self.clock, seed=7), self.shelf.requests(["C", "B"]))
        other = await collect(Synthetic(self.clock, seed=8), self.shelf.requests(["B"]))
        closes = []
        for one in (first[1], again[1], other[0]):
            assert isinstance(one, TickerBars)
            closes.append(one.series["1d"].bars.field("close").tolist())
        assert closes[0] == closes[1]
        assert closes[0] != closes[2]

    async def test_histories_are_made_as_they_are_asked_for(self) -> None:
        """Whoever stops after the first has not paid for thousands; the others come next time."""
        wanted = self.shelf.requests(synthetic_tickers(5000))
        fetching = self.source.fetch(wanted)
        first = await anext(fetching)
        assert isinstance(first, TickerBars)
        self.shelf.take(first)
        await fetching.aclose()
        fetching = self.source.fetch(wanted)
        ticks, second = await anext(fetching), await anext(fetching)
        await fetching.aclose()
        assert isinstance(ticks, TickerTicks)
        assert ticks.tickers == ("SYN00001",)
        assert isinstance(second, TickerBars)
        assert second.ticker.symbol == "SYN00002"


class TickTests(TestCase):
    """Every answer after the first."""

    async def _start(self, *kinds: SeriesKind, speed: float = 1.0, n: int = 3) -> None:
        self.clock, self.shelf = FakeClock(NOON_MS), Shelf()
        self.source = Synthetic(self.clock, seed=7, speed=speed)
        self.wanted = self.shelf.requests(synthetic_tickers(n), *kinds)
        await collect(self.source, self.wanted, self.shelf)

    async def _tick(self, ms: int) -> list[TickerTicks]:
        self.clock.advance(ms)
        answers = await collect(self.source, self.wanted, self.shelf)
        assert all(isinstance(one, TickerTicks) for one in answers)
        return [one for one in answers if isinstance(one, TickerTicks)]

    async def test_one_answer_an_interval_for_all_tickers(self) -> None:
        """Columns, not objects: the same tuple of tickers, refresh after refresh."""
        await self._start(DAILY, MINUTES)
        first, second = await self._tick(1000), await self._tick(1000)
        assert [one.interval for one in first] == ["1d", "1m"]
        assert first[0].tickers == synthetic_tickers(3)
        assert first[0].tickers is second[0].tickers
        assert first[0].tickers is first[1].tickers
        assert first[0].ohlcv.shape == (3, 5)
        assert first[0].ts_ms == NOON_MS + 1000
        assert not np.array_equal(first[0].ohlcv, second[0].ohlcv)

    async def test_a_tick_moves_the_forming_bar_of_every_interval(self) -> None:
        """Open stays, high and low widen, volume grows, and the price is one."""
        await self._start(DAILY, MINUTES)
        for _ in range(50):
            before = {
                (name, interval): bars[max(bars)]
                for (name, interval), bars in self.shelf.bars.items()
            }
            daily, minutes = await self._tick(500)
            assert (daily.ohlcv[:, 3] == minutes.ohlcv[:, 3]).all()
            for name, values in zip(daily.tickers, daily.ohlcv.tolist(), strict=True):
                was = before[name, "1d"]
                assert values[0] == was[0]
                assert values[1] == max(was[1], values[3])
                assert values[2] == min(was[2], values[3])
                assert values[4] > was[4]

    async def test_a_bar_closes_when_its_time_is_over(self) -> None:
        """The next one opens where it closed."""
        await self._start(MINUTES)
        await self._tick(59_000)
        (ticks,) = await self._tick(1_000)
        assert ticks.time.tolist() == [NOON_MS + MINUTE_MS] * 3
        for name, values in zip(ticks.tickers, ticks.ohlcv.tolist(), strict=True):
            assert values[0] == self.shelf.series(name, "1m").field("close")[-2]

    async def test_the_clock_runs_as_fast_as_it_is_told(self) -> None:
        """At a day a second a daily bar closes each second."""
        await self._start(DAILY, speed=86_400)
        for day in range(1, 4):
            (ticks,) = await self._tick(1000)
            assert ticks.time[0] == TODAY_MS + day * DAY_MS

    async def test_whatever_was_ticked_keeps_the_rules(self) -> None:
        """Thousands of ticks later the bars are still sound, and prices near their level."""
        await self._start(DAILY, MINUTES, speed=20_000)
        begin = [self.shelf.series(name).field("close")[-1] for name in synthetic_tickers(3)]
        for _ in range(2000):
            await self._tick(100)
        for name, price in zip(synthetic_tickers(3), begin, strict=True):
            for interval in ("1d", "1m"):
                bars = self.shelf.series(name, interval)
                assert validate(bars.time, bars.ohlcv)[1] == ()
            closes = self.shelf.series(name).field("close")
            assert price / 4 < closes[-1] < price * 4

    async def test_a_ticker_added_later_gets_its_history_while_the_others_tick(self) -> None:
        """Both come in one refresh, and from the next on they tick together."""
        await self._start()
        self.wanted = [*self.wanted, *self.shelf.requests(["NEW"])]
        self.clock.advance(1000)
        ticks, bars = await collect(self.source, self.wanted, self.shelf)
        assert isinstance(ticks, TickerTicks)
        assert ticks.tickers == synthetic_tickers(3)
        assert isinstance(bars, TickerBars)
        assert bars.ticker.symbol == "NEW"
        (ticks,) = await self._tick(1000)
        assert ticks.tickers == (*synthetic_tickers(3), "NEW")

    async def test_a_ticker_that_was_removed_and_comes_back_gets_a_history_again(self) -> None:
        """Nothing of it is published any more, so ticks would hang in the air."""
        await self._start()
        everyone, self.wanted = self.wanted, self.wanted[:2]
        await self._tick(1000)
        del self.shelf.bars["SYN00003", "1d"]
        answers = await collect(self.source, everyone, self.shelf)
        assert [type(one) for one in answers] == [TickerTicks, TickerBars]

    async def test_a_history_that_was_refused_is_given_again(self) -> None:
        """Until it is published: ticks alone would leave the ticker without its past."""
        clock, shelf = FakeClock(NOON_MS), Shelf()
        source, wanted = Synthetic(clock, seed=3), shelf.requests(["A", "B"])
        for _ in range(3):
            answers = await collect(source, wanted)
            assert isinstance(answers[-1], TickerBars)
            assert answers[-1].ticker.symbol == "B"
            for one in answers[:-1]:
                shelf.take(one)
            clock.advance(1000)
        await collect(source, wanted, shelf)
        (ticks,) = await collect(source, wanted, shelf)
        assert isinstance(ticks, TickerTicks)
        assert ticks.tickers == ("A", "B")
        assert len(shelf.series("B")) == DAILY.capacity

    async def test_some_of_the_tickers_can_be_asked_for(self) -> None:
        """The others go on from where they were."""
        await self._start(n=5)
        everyone, self.wanted = self.wanted, [self.wanted[3], self.wanted[1]]
        (ticks,) = await self._tick(1000)
        assert ticks.tickers == ("SYN00004", "SYN00002")
        self.wanted = everyone
        (ticks,) = await self._tick(1000)
        assert ticks.tickers == synthetic_tickers(5)
        for name in ticks.tickers:
            bars = self.shelf.series(name)
            assert validate(bars.time, bars.ohlcv)[1] == ()

    async def test_requests_may_ask_for_different_intervals(self) -> None:
        """Each ticker ticks in the intervals that it has."""
        self.clock, self.shelf = FakeClock(NOON_MS), Shelf()
        self.source = Synthetic(self.clock)
        self.wanted = [
            *self.shelf.requests(["A"], DAILY, MINUTES),
            *self.shelf.requests(["B"], DAILY),
        ]
        await collect(self.source, self.wanted, self.shelf)
        daily, minutes = await self._tick(1000)
        assert (daily.tickers, minutes.tickers) == (("A", "B"), ("A",))
        assert minutes.ohlcv[0, 3] == daily.ohlcv[0, 3]

    async def test_a_stopped_source_gives_nothing_more(self) -> None:
        """A fetch that is under way ends at the next ticker."""
        await self._start(n=1)
        wanted = [*self.wanted, *self.shelf.requests(["X", "Y"])]
        fetching = self.source.fetch(wanted)
        await anext(fetching)
        await anext(fetching)
        await self.source.stop()
        assert [one async for one in fetching] == []
        assert await collect(self.source, wanted) == []


class ContinuationTests(TestCase):
    """A daemon that carries on in the segment of the one before it."""

    async def _before(self, *kinds: SeriesKind, ticks: int = 3, speed: float = 1.0) -> None:
        self.clock, self.shelf = FakeClock(NOON_MS), Shelf()
        self.wanted = self.shelf.requests(synthetic_tickers(3), *kinds)
        source = Synthetic(self.clock, seed=7, speed=speed)
        for _ in range(ticks):
            await collect(source, self.wanted, self.shelf)
            self.clock.advance(1000)

    async def test_what_is_up_to_date_ticks_on_in_the_same_bar(self) -> None:
        """No history is made anew; open, range and volume of the day go on."""
        await self._before()
        before = {name: self.shelf.series(name) for name in synthetic_tickers(3)}
        (ticks,) = await collect(Synthetic(self.clock, seed=9), self.wanted)
        assert isinstance(ticks, TickerTicks)
        for name, time, values in zip(ticks.tickers, ticks.time, ticks.ohlcv, strict=True):
            was = before[name]
            assert time == was.time[-1]
            assert values[0] == was.field("open")[-1]
            assert values[1] >= was.field("high")[-1]
            assert values[2] <= was.field("low")[-1]
            assert values[4] > was.field("volume")[-1]
            assert abs(values[3] / was.field("close")[-1] - 1) < 0.01

    async def test_only_the_missing_bars_are_made(self) -> None:
        """They follow the last close, and end with the bar of this moment."""
        await self._before(DAILY, MINUTES)
        before = {name: self.shelf.series(name, "1m") for name in synthetic_tickers(3)}
        self.clock.advance(10 * MINUTE_MS)
        answers = await collect(Synthetic(self.clock, seed=9), self.wanted, self.shelf)
        assert len(answers) == 3
        for one in answers:
            assert isinstance(one, TickerBars)
            assert set(one.series) == {"1m"}
            bars, forming = one.series["1m"]
            was = before[one.ticker.symbol]
            assert forming
            assert bars.time.tolist() == (was.time[-1] + np.arange(1, 11) * MINUTE_MS).tolist()
            assert abs(bars.field("open")[0] / was.field("close")[-1] - 1) < 0.01
            all_ = self.shelf.series(one.ticker.symbol, "1m")
            assert validate(all_.time, all_.ohlcv)[1] == ()

    async def test_after_a_long_time_no_more_bars_are_made_than_are_kept(self) -> None:
        """A year of minutes is not made for a window of twenty."""
        await self._before(MINUTES)
        self.clock.advance(365 * DAY_MS)
        for one in await collect(Synthetic(self.clock), self.wanted):
            assert isinstance(one, TickerBars)
            assert len(one.series["1m"].bars) == MINUTES.capacity

    async def test_the_clock_starts_no_earlier_than_what_is_published(self) -> None:
        """A fast clock of the run before has left the machine's behind."""
        await self._before(DAILY, MINUTES, ticks=5, speed=86_400)
        newest = self.shelf.series("SYN00001", "1m").time[-1]
        assert newest > self.clock.wall_ms()
        answers = await collect(Synthetic(self.clock), self.wanted, self.shelf)
        assert [type(one) for one in answers] == [TickerTicks, TickerTicks]
        assert self.shelf.series("SYN00001", "1m").time[-1] == newest

    async def test_a_closed_bar_is_not_opened_again(self) -> None:
        """The clock starts with the bar after it."""
        await self._before(DAILY)
        self.shelf.forming = dict.fromkeys(self.shelf.forming, False)
        answers = await collect(Synthetic(self.clock), self.wanted)
        assert len(answers) == 3
        for one in answers:
            assert isinstance(one, TickerBars)
            assert one.series["1d"].bars.time.tolist() == [TODAY_MS + DAY_MS]

    async def test_an_interval_that_is_new_gets_its_whole_history(self) -> None:
        """It ends at the price that the others have."""
        await self._before(DAILY)
        wanted = self.shelf.requests(["SYN00001"], DAILY, MINUTES)
        price = self.shelf.series("SYN00001").field("close")[-1]
        (one,) = await collect(Synthetic(self.clock), wanted)
        assert isinstance(one, TickerBars)
        assert set(one.series) == {"1m"}
        assert len(one.series["1m"].bars) == MINUTES.capacity
        assert abs(one.series["1m"].bars.field("close")[-1] / price - 1) < 0.02


class CalendarTests(TestCase):
    """When bars begin."""

    def test_bars_begin_where_people_expect_it(self) -> None:
        """Days at midnight UTC, weeks on Mondays, months on their first."""
        begin = {name: np.datetime64(bar_start(name, NOON_MS), "ms") for name in INTERVALS}
        assert begin["1m"] == np.datetime64("2023-11-15T12:00")
        assert begin["1d"] == np.datetime64("2023-11-15")
        assert begin["1wk"] == np.datetime64("2023-11-13")
        assert begin["1mo"] == np.datetime64("2023-11-01")
        assert begin["3mo"] == np.datetime64("2023-10-01")

    def test_the_last_of_the_starts_is_that_of_this_moment(self) -> None:
        """For every interval, also across months of different lengths."""
        for name in INTERVALS:
            starts = bar_starts(name, NOON_MS, 30)
            assert (np.diff(starts) > 0).all()
            assert [bar_start(name, int(start)) for start in starts] == starts.tolist()
            assert starts[-1] == bar_start(name, NOON_MS)
