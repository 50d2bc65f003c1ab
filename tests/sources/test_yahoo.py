"""The real yfinance, asking a Yahoo on the loopback interface."""

from __future__ import annotations

import atexit
import functools
import random
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import numpy as np
from twisted.internet import defer, reactor, task
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import TestCase

from quoteshm.market.bars import validate
from quoteshm.model import DAY_MS, INTERVALS, MINUTE_MS, Bars, SeriesKind
from quoteshm.sources.base import Failure, Fetched, Reason, TickerBars
from quoteshm.sources.budget import Budget
from quoteshm.sources.files import Files
from quoteshm.sources.yahoo import Yahoo
from tests import sample_data
from tests.sources.asking import FakeClock, Shelf, collect
from tests.yahoo_server import Fault, Listing, YahooServer, sample_listings

if TYPE_CHECKING:
    from quoteshm.sources.yahoo_download import YahooSession

DAILY = SeriesKind("1d", 5000)
MINUTES = SeriesKind("1m", 400)
HOUR_MS = 60 * MINUTE_MS
NEW_YORK = "America/New_York"
RNG = random.Random(1)  # noqa: S311 (for jitter)
# 2013-03-01, the last day of the sample data, 20:00 UTC.
EVENING_MS = 1_362_168_000_000
CHECKOUT = Path(__file__).parents[2]


def last_bars(ticker: str, n: int, **changes: float) -> Bars:
    """Give the last bars of a ticker; ``changes`` to its last one, by field."""
    bars = sample_data.bars(ticker)[-n:]
    ohlcv = bars.ohlcv.copy()
    for name, value in changes.items():
        ohlcv[("open", "high", "low", "close", "volume").index(name), -1] = value
    return Bars(bars.time, ohlcv)


@functools.cache
def cache_dir() -> Path:
    """Give the folder of yfinance's caches: one for the process, as its caches are."""
    folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    atexit.register(folder.cleanup)
    return Path(folder.name)


class YahooTestCase(TestCase):
    """A server, a source that asks it, and somebody who remembers."""

    def setUp(self) -> None:
        """Make them."""
        self.server = YahooServer()
        self.server.__enter__()
        self.addCleanup(self.server.__exit__)
        self.server.now_s = EVENING_MS / 1000
        folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.clock, self.shelf = FakeClock(EVENING_MS), Shelf()
        self.source = self.make_source()

    def make_source(self) -> Yahoo:
        """Make a source that asks the server."""
        source = Yahoo(
            self.clock,
            reactor=reactor,
            session=self.server.session(),
            cache_dir=cache_dir(),
        )
        self.addCleanup(source.stop)
        return source

    async def fetch(self, *tickers: str, kinds: tuple[SeriesKind, ...] = (DAILY,)) -> list[Fetched]:
        """Ask for tickers."""
        return await collect(self.source, self.shelf.requests(tickers, *kinds), self.shelf)

    async def one(self, ticker: str, *kinds: SeriesKind) -> TickerBars:
        """Ask for a ticker that has bars."""
        (answer,) = await self.fetch(ticker, kinds=kinds or (DAILY,))
        assert isinstance(answer, TickerBars), answer
        return answer

    async def failure(self, ticker: str) -> Failure:
        """Ask for a ticker that has none."""
        (answer,) = await self.fetch(ticker)
        assert isinstance(answer, Failure), answer
        return answer

    def asked_from_ms(self) -> int:
        """Tell from when on the last request asked for bars."""
        return int(self.server.charts[-1][1]["period1"]) * 1000


class DailyTests(YahooTestCase):
    """Bars of a day."""

    async def test_real_bars_come_out_value_by_value_and_equal_those_of_files(self) -> None:
        """Five tickers, thirteen years; the closes not adjusted for dividends."""
        self.server.listings = sample_listings()
        sample_data.write_csv(self.folder)
        wanted = self.shelf.requests(sample_data.TICKERS, DAILY)
        answers = await collect(self.source, wanted)
        from_files = await collect(Files(self.folder, reactor=reactor), wanted)
        for ticker, answer, file in zip(sample_data.TICKERS, answers, from_files, strict=True):
            assert isinstance(answer, TickerBars), answer
            assert isinstance(file, TickerBars)
            bars, expected = answer.series["1d"].bars, sample_data.bars(ticker)
            assert np.array_equal(bars.time, expected.time)
            assert np.array_equal(bars.ohlcv, expected.ohlcv)
            assert np.array_equal(bars.time, file.series["1d"].bars.time)
            assert np.array_equal(bars.ohlcv, file.series["1d"].bars.ohlcv)
            assert validate(bars.time, bars.ohlcv)[1] == ()
            assert (answer.ticker.symbol, answer.ticker.currency) == (ticker, "USD")
            assert answer.dropped == 0

    async def test_days_begin_at_midnight_of_the_exchange(self) -> None:
        """In summer and in winter, whatever hour is on the wire."""
        self.server.listings = sample_listings(NEW_YORK)
        answer = await self.one("FB")
        assert answer.ticker.time_zone == NEW_YORK
        bars, expected = answer.series["1d"].bars, sample_data.bars("FB")
        offsets = (bars.time - expected.time) // HOUR_MS
        assert set(offsets.tolist()) == {4, 5}
        assert np.array_equal(bars.ohlcv, expected.ohlcv)

    async def test_the_last_bar_forms_until_the_day_is_over(self) -> None:
        """The hours that Yahoo tells, and some time for volumes to come in."""
        self.server.listings = sample_listings(NEW_YORK)
        assert (await self.one("FB")).series["1d"].forming
        self.clock.advance(2 * HOUR_MS + 1)
        assert not (await self.one("FB")).series["1d"].forming

    async def test_a_last_row_without_prices_is_left_out(self) -> None:
        """And the bar before it, of yesterday, is closed."""
        nan = float("nan")
        bars = last_bars("IBM", 5, open=nan, high=nan, low=nan, close=nan, volume=nan)
        self.server.listings["IBM"] = Listing({"1d": bars})
        series = (await self.one("IBM")).series["1d"]
        assert np.array_equal(series.bars.time, bars.time[:-1])
        assert not series.forming

    async def test_the_last_price_has_the_time_that_yahoo_gives(self) -> None:
        """With the values of its day, and the close of the day before."""
        self.server.listings = sample_listings(NEW_YORK)
        answer = await self.one("IBM")
        bars = answer.series["1d"].bars
        last = answer.last_price
        assert last is not None
        assert (last.price, last.ts_ms) == (bars.field("close")[-1], bars.time[-1] + 34_200_000)
        assert [last.open, last.high, last.low] == bars.ohlcv[:3, -1].tolist()
        assert last.volume == bars.field("volume")[-1]
        assert last.prev_close == bars.field("close")[-2]

    async def test_a_last_price_that_is_none_is_left_out(self) -> None:
        """The bars are good; the quote is made of them."""
        nan, inf = float("nan"), float("inf")
        prices = (None, "5", True, nan, inf, 0, 0.0, -1)
        times = (inf, 1e30, EVENING_MS // 1000 + 61)
        cases = [("regularMarketPrice", value) for value in prices]
        for name, value in [*cases, *(("regularMarketTime", value) for value in times)]:
            listing = Listing({"1d": last_bars("IBM", 5)}, meta={name: value})
            self.server.listings["IBM"] = listing
            answer = await self.one("IBM")
            assert len(answer.series["1d"].bars) == 5
            assert answer.last_price is None, (name, value)

    async def test_the_last_price_is_within_its_day(self) -> None:
        """Where it is newer than the day's bar, high and low go with it."""
        for price in (1.0, 1000.0):
            meta = {"regularMarketPrice": price}
            self.server.listings["IBM"] = Listing({"1d": last_bars("IBM", 5)}, meta=meta)
            last = (await self.one("IBM")).last_price
            assert last is not None
            assert last.low <= last.price <= last.high

    async def test_what_is_published_is_not_downloaded_again(self) -> None:
        """A week of overlap, and no more."""
        self.server.listings = sample_listings()
        first = await self.one("IBM")
        assert self.asked_from_ms() < EVENING_MS - 7000 * DAY_MS
        await self.one("IBM")  # the whole again, as it is shorter than it was asked for
        second = await self.one("IBM")
        newest = int(first.series["1d"].bars.time[-1])
        assert self.asked_from_ms() == newest - 7 * DAY_MS
        bars = second.series["1d"].bars
        assert 3 <= len(bars) <= 6
        assert bars.time[-1] == newest
        assert not second.whole

    async def test_a_split_has_the_whole_window_fetched_once(self) -> None:
        """All older prices have changed with it."""
        self.server.listings["IBM"] = Listing({"1d": last_bars("IBM", 300)})
        await self.one("IBM")
        before = last_bars("IBM", 300)
        self.server.listings["IBM"] = Listing(
            {"1d": Bars(before.time, before.ohlcv / 2)},
            splits_ms=[int(before.time[-2])],
        )
        answer = await self.one("IBM")
        assert len(answer.series["1d"].bars) == 300
        assert len((await self.one("IBM")).series["1d"].bars) < 10

    async def test_a_correction_of_the_last_closed_bar_has_the_whole_window_fetched(self) -> None:
        """What else has changed is not known."""
        self.clock.advance(DAY_MS)
        self.server.listings["IBM"] = Listing({"1d": last_bars("IBM", 300)})
        await self.one("IBM")
        self.server.listings["IBM"] = Listing({"1d": last_bars("IBM", 300, close=201.5)})
        assert len((await self.one("IBM")).series["1d"].bars) == 300
        assert len((await self.one("IBM")).series["1d"].bars) < 10

    async def test_a_correction_is_seen_while_a_later_bar_forms(self) -> None:
        """The newest closed bar is that of the day before."""
        self.server.listings = sample_listings(NEW_YORK)
        await self.one("IBM")
        bars = self.server.listings["IBM"].bars["1d"]
        later = Bars(bars.time, bars.ohlcv.copy())
        later.ohlcv[2:4, :-1] -= 0.01
        self.server.listings["IBM"].bars["1d"] = later
        answer = await self.one("IBM")
        assert answer.series["1d"].forming
        assert (answer.cause, len(answer.series["1d"].bars)) == ("vendor", len(bars))
        assert np.array_equal(self.shelf.series("IBM").ohlcv, later.ohlcv)
        assert len((await self.one("IBM")).series["1d"].bars) < 10

    async def test_a_history_that_is_shorter_for_good_is_taken_after_a_day(self) -> None:
        """Until then it may be an answer in part."""
        self.clock.advance(DAY_MS)
        bars = last_bars("IBM", 3000)
        self.server.listings["IBM"] = Listing({"1d": bars})
        await self.one("IBM")
        shorter = Bars(bars.time[-1000:], bars.ohlcv[:, -1000:] * 0.99)
        self.server.listings["IBM"] = Listing({"1d": shorter})
        for _ in range(2):
            assert (await self.failure("IBM")).reason is Reason.BAD_DATA
            self.clock.advance(DAY_MS // 2)
        assert len((await self.one("IBM")).series["1d"].bars) == 1000
        assert len((await self.one("IBM")).series["1d"].bars) < 10

    async def test_histories_that_begin_at_different_times_are_never_taken(self) -> None:
        """They are answers in part, one day and the next."""
        self.clock.advance(DAY_MS)
        bars = last_bars("IBM", 3000)
        self.server.listings["IBM"] = Listing({"1d": bars})
        await self.one("IBM")
        for n in (1000, 500, 1000, 500):
            part = Bars(bars.time[-n:], bars.ohlcv[:, -n:] * 0.99)
            self.server.listings["IBM"] = Listing({"1d": part})
            assert (await self.failure("IBM")).reason is Reason.BAD_DATA
            self.clock.advance(DAY_MS)


class LongTests(YahooTestCase):
    """Bars longer than a day."""

    async def test_they_begin_at_the_same_time_whenever_they_are_asked_for(self) -> None:
        """On Mondays, with months, with quarters, and so on the next day and the day after."""
        # A ticker of its own for each: yfinance keeps zones by ticker, for the whole process.
        for ticker, zone in (("LNY", NEW_YORK), ("LTK", "Asia/Tokyo"), ("LUTC", "UTC")):
            whole = sample_listings(zone)["IBM"].bars["1d"]
            for interval in ("1wk", "1mo", "3mo"):
                self.clock.now_ms = EVENING_MS - 12 * DAY_MS
                self.shelf.bars.clear()
                kind = SeriesKind(interval, 30)
                for _ in range(12):
                    self.clock.advance(DAY_MS)
                    self.server.now_s = self.clock.now_ms / 1000
                    past = whole[: int(np.searchsorted(whole.time, self.clock.now_ms))]
                    self.server.listings[ticker] = Listing({"1d": past}, zone=zone)
                    await self.one(ticker, kind)
                found = self.shelf.series(ticker, interval)
                begins = [datetime.fromtimestamp(ms / 1000, ZoneInfo(zone)) for ms in found.time]
                assert {(day.hour, day.minute) for day in begins} == {(0, 0)}
                days = {day.weekday() if interval == "1wk" else day.day for day in begins}
                assert days == {0 if interval == "1wk" else 1}
                if interval == "3mo":
                    assert {day.month for day in begins} == {1, 4, 7, 10}
                for begin_ms, end_ms, bar in zip(
                    found.time, [*found.time[1:], EVENING_MS], found.ohlcv.T, strict=True
                ):
                    of = whole.ohlcv[:, (whole.time >= begin_ms) & (whole.time < end_ms)]
                    expected = of[0, 0], of[1].max(), of[2].min(), of[3, -1], of[4].sum()
                    assert bar.tolist() == list(expected), (zone, interval)


class IntradayTests(YahooTestCase):
    """Bars shorter than a day."""

    def minutes(self, n: int, end_ms: int) -> Bars:
        """Make bars of a minute, the last one beginning at ``end_ms``."""
        time = end_ms + np.arange(1 - n, 1, dtype=np.int64) * MINUTE_MS
        close = 100.0 + np.arange(n) % 7
        return Bars(time, np.stack([close, close + 1, close - 1, close, close * 10]))

    async def test_minutes_come_out_value_by_value(self) -> None:
        """Within regular hours; the last one forms while it lasts."""
        bars = self.minutes(200, EVENING_MS)
        self.server.listings["A"] = Listing({"1m": bars}, zone=NEW_YORK)
        series = (await self.one("A", MINUTES)).series["1m"]
        assert np.array_equal(series.bars.time, bars.time)
        assert np.array_equal(series.bars.ohlcv, bars.ohlcv)
        assert series.forming
        assert EVENING_MS - self.asked_from_ms() < 8 * DAY_MS
        self.clock.advance(MINUTE_MS)
        self.server.now_s = self.clock.now_ms / 1000
        assert not (await self.one("A", MINUTES)).series["1m"].forming

    async def test_a_minute_that_comes_late_forms_until_yahoo_has_seen_its_end(self) -> None:
        """Many exchanges are a quarter of an hour late: each answer has more of it."""
        bars = self.minutes(200, EVENING_MS - 15 * MINUTE_MS)
        for volume in (100.0, 200.0, 300.0):
            bars.ohlcv[4, -1] = volume
            seen = {"regularMarketTime": int(bars.time[-1]) // 1000 + 30}
            self.server.listings["A"] = Listing({"1m": bars}, zone=NEW_YORK, meta=seen)
            count = len(self.server.charts)
            series = (await self.one("A", MINUTES)).series["1m"]
            assert series.forming
            assert series.bars.ohlcv[4, -1] == volume
            assert len(self.server.charts) - count <= 2
            self.clock.advance(20_000)
        # A ticker without trades is not waited for much longer than prices are late.
        self.clock.advance(16 * MINUTE_MS)
        assert not (await self.one("A", MINUTES)).series["1m"].forming

    def session_bars(self, interval: str, n: int, days: list[str]) -> Bars:
        """Make the first bars of regular trading in New York on some days."""
        times = [
            int(
                datetime.fromisoformat(f"{day}T09:30")
                .replace(tzinfo=ZoneInfo(NEW_YORK))
                .timestamp()
            )
            * 1000
            + i * INTERVALS[interval]
            for day in days
            for i in range(n)
        ]
        close = 100.0 + np.arange(len(times)) % 7
        ohlcv = np.stack([close, close + 1, close - 1, close, close * 10])
        return Bars(np.array(times, np.int64), ohlcv)

    async def test_every_intraday_interval_comes_out_value_by_value(self) -> None:
        """Those of half an hour too, which yfinance makes of quarters."""
        for interval in ("1m", "2m", "5m", "15m", "1h", "60m", "90m"):
            bars = self.session_bars(interval, 4, ["2013-02-28", "2013-03-01"])
            self.server.listings["A"] = Listing({interval: bars}, zone=NEW_YORK)
            series = (await self.one("A", SeriesKind(interval, 100))).series[interval]
            assert np.array_equal(series.bars.time, bars.time), interval
            assert np.array_equal(series.bars.ohlcv, bars.ohlcv), interval
        quarters = self.session_bars("15m", 8, ["2013-02-28", "2013-03-01"])
        self.server.listings["A"] = Listing({"15m": quarters}, zone=NEW_YORK)
        half = (await self.one("A", SeriesKind("30m", 100))).series["30m"].bars
        open_, high, low, close, volume = quarters.ohlcv.reshape(5, 8, 2)
        assert np.array_equal(half.time, quarters.time[::2])
        expected = (open_[:, 0], high.max(1), low.min(1), close[:, 1], volume.sum(1))
        assert np.array_equal(half.ohlcv, np.stack(expected))

    async def test_a_first_half_hour_is_never_half_of_one(self) -> None:
        """Whatever the minute in which Yahoo is asked."""
        quarters = self.session_bars("15m", 8, ["2013-02-28", "2013-03-01"])
        self.server.listings["A"] = Listing({"15m": quarters}, zone=NEW_YORK)
        kind = SeriesKind("30m", 2)
        self.clock.advance(-17 * MINUTE_MS)
        await self.one("A", kind)
        assert self.asked_from_ms() % (30 * MINUTE_MS) == 0

    async def test_hours_are_right_on_both_sides_of_a_change_of_the_clock(self) -> None:
        """In New York it was on 10 March 2013."""
        monday_ms = EVENING_MS + 10 * DAY_MS
        self.clock.now_ms, self.server.now_s = monday_ms, monday_ms / 1000
        days = ["2013-03-08", "2013-03-11"]
        bars = self.session_bars("5m", 20, days)
        self.server.listings["A"] = Listing({"5m": bars}, zone=NEW_YORK)
        series = (await self.one("A", SeriesKind("5m", 100))).series["5m"]
        assert np.array_equal(series.bars.time, bars.time)
        hours = [ms // HOUR_MS % 24 for ms in series.bars.time[[0, 20]].tolist()]
        assert hours == [14, 13]
        assert np.array_equal(series.bars.ohlcv, bars.ohlcv)

    async def test_a_half_day_is_over_early(self) -> None:
        """What comes after its end is no regular bar, and its day closes with it."""
        day, one_pm = "2013-03-01", 13 * 3600
        minutes = self.session_bars("5m", 50, [day])
        midnight = minutes.time[:1] - 9 * HOUR_MS - 30 * MINUTE_MS
        days = Bars(midnight, np.full((5, 1), 100.0))
        self.server.listings["A"] = Listing(
            {"1d": days, "5m": minutes}, zone=NEW_YORK, closes_s={day: one_pm}
        )
        self.clock.now_ms = int(midnight[0]) + 14 * HOUR_MS - 1
        kinds = (DAILY, SeriesKind("5m", 100))
        answer = await self.one("A", *kinds)
        assert answer.series["1d"].forming
        regular = minutes.time < midnight + one_pm * 1000
        assert np.array_equal(answer.series["5m"].bars.time, minutes.time[regular])
        self.clock.advance(1)
        assert not (await self.one("A", *kinds)).series["1d"].forming

    async def test_a_price_of_the_moment_is_no_bar(self) -> None:
        """Yahoo ends some answers with one, at a time between two minutes."""
        bars = self.minutes(50, EVENING_MS)
        time = bars.time.copy()
        time[-1] -= 17_000
        self.server.listings["A"] = Listing({"5m": Bars(time, bars.ohlcv)}, zone=NEW_YORK)
        answer = await self.one("A", SeriesKind("5m", 100))
        assert (answer.series["5m"].bars.time % MINUTE_MS == 0).all()

    async def test_none_gives_minutes_as_they_were_traded(self) -> None:
        """Those of the day before a split, and those behind it."""
        split_ms = EVENING_MS - EVENING_MS % DAY_MS
        before, after = self.minutes(50, EVENING_MS - DAY_MS), self.minutes(50, EVENING_MS)
        seen = before.ohlcv.copy()
        seen[:4] /= 2
        seen[4] *= 2
        bars = Bars(np.append(before.time, after.time), np.append(seen, after.ohlcv, axis=1))
        self.server.listings["A"] = Listing(
            {"1m": bars}, zone=NEW_YORK, splits_ms=[split_ms + 5 * HOUR_MS]
        )
        self.source = Yahoo(
            self.clock,
            reactor=reactor,
            session=self.server.session(),
            cache_dir=cache_dir(),
            adjust="none",
        )
        self.addCleanup(self.source.stop)
        found = (await self.one("A", SeriesKind("1m", 2000))).series["1m"].bars
        assert np.array_equal(found.time, bars.time)
        assert np.array_equal(found.ohlcv, np.append(before.ohlcv, after.ohlcv, axis=1))

    async def test_several_intervals_come_in_one_answer(self) -> None:
        """One that has no bars harms no other."""
        self.server.listings["IBM"] = Listing(
            {"1d": last_bars("IBM", 50), "1m": self.minutes(60, EVENING_MS)},
            zone=NEW_YORK,
        )
        hours = SeriesKind("1h", 100)
        answer = await self.one("IBM", DAILY, MINUTES, hours)
        assert set(answer.series) == {"1d", "1m"}
        assert len(answer.series["1d"].bars) == 50
        assert (answer.ticker.currency, answer.ticker.time_zone) == ("USD", NEW_YORK)


class FailureTests(YahooTestCase):
    """Everything that is no bars."""

    async def test_each_cause_has_its_reason(self) -> None:
        """Told by what Yahoo answered, not by what yfinance guesses."""
        listings = self.server.listings
        listings["BUSY"] = Listing({}, status=429)
        listings["BROKEN"] = Listing({}, status=500)
        listings["EMPTY"] = Listing({})
        listings["BLOCKED"] = Listing({}, status=403)
        for ticker, reason in [
            ("NOSUCH", Reason.NOT_FOUND),
            ("EMPTY", Reason.EMPTY),
            ("BROKEN", Reason.UNREACHABLE),
            ("BLOCKED", Reason.UNREACHABLE),
            ("BUSY", Reason.RATE_LIMITED),
        ]:
            failure = await self.failure(ticker)
            assert (failure.ticker, failure.reason) == (ticker, reason), failure
            assert "delisted" not in failure.message
            assert "Yahoo" in failure.message, failure

    async def test_a_ticker_that_failed_works_as_soon_as_yahoo_does(self) -> None:
        """Its time zone is asked for again, too: yfinance keeps bad answers."""
        self.server.listings["IBM"] = Listing({"1d": last_bars("IBM", 5)}, status=500)
        await self.failure("IBM")
        self.server.listings["IBM"].status = 200
        await self.one("IBM")

    async def test_a_healthy_ticker_that_is_not_found_is_not_given_up(self) -> None:
        """Its bars are published: the fault is Yahoo's."""
        self.server.listings["IBM"] = Listing({"1d": last_bars("IBM", 5)})
        await self.one("IBM")
        del self.server.listings["IBM"]
        assert (await self.failure("IBM")).reason is Reason.EMPTY

    async def test_a_bad_ticker_harms_no_other(self) -> None:
        """Each one is asked for by itself."""
        self.server.listings = sample_listings()
        answers = await self.fetch("FB", "NOSUCH", "IBM")
        assert [type(one) for one in answers] == [TickerBars, Failure, TickerBars]

    async def test_what_cannot_be_a_symbol_is_not_asked_for(self) -> None:
        """In a URL it would be something else, and its answer nobody's."""
        for symbol in ("../../v1/test/getcrumb", "A?range=1d", "A%20B", "A#", "A B", "..", "."):
            failure = await self.failure(symbol)
            assert failure.reason is Reason.NOT_FOUND
            assert "no symbol of Yahoo's" in failure.message
        assert self.server.asked_s == []

    async def test_a_security_number_without_an_answer_is_its_own_trouble(self) -> None:
        """For an ISIN yfinance asks for its symbol; no other ticker waits for it."""
        self.server.listings = sample_listings()
        answers = await self.fetch("US0378331005", "US5949181045", "US88160R1014", "IBM")
        *failures, last = answers
        assert [one.reason for one in failures if isinstance(one, Failure)] == [Reason.BAD_DATA] * 3
        assert isinstance(last, TickerBars)
        assert self.source.describe()["state"] == "closed"

    async def test_one_ticker_that_is_refused_delays_nobody_else(self) -> None:
        """And is asked for once: yfinance's second attempt is not made."""
        self.server.listings = {"BUSY": Listing({}, status=429), **sample_listings()}
        answers = await self.fetch("BUSY", "FB", "IBM", "BUSY")
        assert [type(one) for one in answers] == [Failure, TickerBars, TickerBars, Failure]
        assert [symbol for symbol, _ in self.server.charts].count("BUSY") <= 3

    async def test_after_three_refused_tickers_nobody_is_asked_for_a_while(self) -> None:
        """Until the pause is over, and another ticker has been answered."""
        self.server.listings = sample_listings()
        self.server.fault = Fault(429)
        answers = await self.fetch("FB", "IBM", "MSFT", "GOOG", "AAPL")
        failures = [one for one in answers if isinstance(one, Failure)]
        assert [one.reason for one in failures] == [Reason.RATE_LIMITED] * 5
        assert [one.retry_s is not None for one in failures] == [False] * 3 + [True] * 2
        assert failures[-1].message.startswith("not asked for until 20:00:")
        assert {symbol for symbol, _ in self.server.charts} == {"FB", "IBM", "MSFT"}
        assert self.source.describe()["state"] == "open"
        count = self.source.request_count
        await self.failure("GOOG")
        assert self.source.request_count == count
        self.server.fault = None
        self.clock.advance(40_000)
        assert self.source.describe()["state"] == "probing"
        self.server.charts.clear()
        answers = await self.fetch("FB", "IBM", "MSFT", "GOOG", "AAPL")
        assert [type(one) for one in answers] == [TickerBars] * 5
        assert self.server.charts[0][0] == "GOOG"
        assert self.source.describe()["state"] == "closed"

    async def test_what_is_taken_out_is_not_asked_for_and_forgotten(self) -> None:
        """Of a long round too; the pause, which the others are for, stays."""
        self.server.listings = sample_listings()
        requests = self.shelf.requests(["IBM", "FB", "MSFT", "GOOG"], DAILY)
        wanted = {"IBM", "MSFT"}
        requests = [replace(one, ask=lambda one: one.ticker in wanted) for one in requests]
        answers = self.source.fetch(requests)
        names = []
        async for answer in answers:
            assert isinstance(answer, TickerBars)
            names.append(answer.ticker.symbol)
            wanted.clear()
        assert names == ["IBM"]
        assert {symbol for symbol, _ in self.server.charts} == {"IBM"}
        self.server.fault = Fault(429)
        await self.fetch("FB", "IBM", "MSFT")
        self.source.forget(["FB", "IBM", "MSFT"])
        assert self.source.describe()["state"] == "open"

    async def test_a_storm_is_two_lines_of_the_log(self) -> None:
        """One when nobody is asked any more, one when somebody is, and none for what is between."""
        self.server.listings = sample_listings()
        self.server.fault = Fault(429)
        with capturedLogs() as logged:
            for _ in range(3):
                await self.fetch("FB", "IBM", "MSFT", "GOOG", "AAPL")
                self.clock.advance(200_000)
            self.server.fault = None
            await self.fetch("FB", "IBM")
        said = [
            (str(one["log_level"].name), str(formatEvent(one)).partition(" until ")[0])
            for one in logged
            if one.get("log_namespace") == "quoteshm.sources.yahoo.Yahoo"
            and one["log_level"] >= LogLevel.info
        ]
        assert said == [
            ("warn", "Yahoo is not asked"),
            ("info", "Yahoo is asked again: it answers"),
        ]

    async def test_after_several_silent_answers_the_rest_is_not_asked_for(self) -> None:
        """An outage costs three time-outs, and one more after each pause."""
        self.server.__exit__()
        answers = await self.fetch("A", "B", "C", "D", "E")
        failures = [one for one in answers if isinstance(one, Failure)]
        assert [one.reason for one in failures] == [Reason.UNREACHABLE] * 5
        assert [one.retry_s is not None for one in failures] == [False] * 3 + [True] * 2
        self.clock.advance(40_000)
        answers = await self.fetch("A", "B", "C", "D", "E")
        failures = [one for one in answers if isinstance(one, Failure)]
        assert [one.ticker for one in failures if one.retry_s is None] == ["D"]

    async def test_no_answer_is_a_time_out(self) -> None:
        """Whatever yfinance would have waited for."""
        self.server.listings["SLOW"] = Listing({}, hang=True)
        make = self.server.session()

        def impatient() -> object:
            session = make()
            session.timeout_s = 0.3
            return session

        self.source = Yahoo(self.clock, reactor=reactor, session=impatient, cache_dir=cache_dir())  # type: ignore[arg-type]
        failure = await self.failure("SLOW")
        assert (failure.reason, failure.message) == (
            Reason.TIMED_OUT,
            "no answer from Yahoo within 0.3 s",
        )
        # Whoever is next waits for one time-out only: yfinance's second attempt is not made.
        assert len(self.server.charts) == 1
        await self.source.stop()


class MisbehaviourTests(YahooTestCase):
    """What Yahoo does on a bad day, to one ticker between two good ones."""

    def make_source(self) -> Yahoo:
        """Make a source that does not wait for long."""
        make = self.server.session()

        def impatient() -> YahooSession:
            session = make()
            session.timeout_s = 0.4
            return session

        source = Yahoo(self.clock, reactor=reactor, session=impatient, cache_dir=cache_dir())
        self.addCleanup(source.stop)
        return source

    async def test_nothing_healthy_waits_for_what_is_broken(self) -> None:
        """And the broken one has its bars as soon as it is mended."""
        cases: list[tuple[int | str, Reason]] = [
            (429, Reason.RATE_LIMITED),
            (404, Reason.NOT_FOUND),
            (502, Reason.UNREACHABLE),
            ("html", Reason.BAD_DATA),
            ("empty", Reason.EMPTY),
            ("hang", Reason.TIMED_OUT),
            ("trickle", Reason.TIMED_OUT),
            ("drop", Reason.UNREACHABLE),
        ]
        for how, reason in cases:
            self.shelf.bars.clear()
            self.server.listings = sample_listings()
            self.server.listings["IBM"].fault = Fault(how)
            began = time.monotonic()
            first, broken, last = await self.fetch("FB", "IBM", "MSFT")
            assert time.monotonic() - began < 8, how
            assert isinstance(first, TickerBars)
            assert isinstance(last, TickerBars)
            assert isinstance(broken, Failure), how
            assert broken.reason is reason, (how, broken)
            assert "Yahoo" in broken.message, broken
            self.server.listings["IBM"].fault = None
            assert len((await self.one("IBM")).series["1d"].bars) > 3000

    async def test_a_fault_leaves_published_bars_alone(self) -> None:
        """Nor does an answer with fewer bars take any away."""
        self.server.listings = sample_listings()
        await self.one("IBM")
        before = self.shelf.series("IBM")
        faults: list[int | str] = [429, 404, 500, "html", "empty", "partial", "drop"]
        for how in faults:
            self.server.listings["IBM"].fault = Fault(how)
            await self.fetch("IBM")
            self.server.listings["IBM"].fault = None
            answer = await self.one("IBM")
            assert not answer.whole
            assert np.array_equal(self.shelf.series("IBM").ohlcv, before.ohlcv), how

    async def test_a_split_answered_in_part_is_asked_for_again(self) -> None:
        """Half a history is never put in the place of a whole one."""
        before = last_bars("IBM", 300)
        self.server.listings["IBM"] = Listing({"1d": before})
        await self.one("IBM")
        after = Bars(before.time, before.ohlcv / 2)
        split = [int(before.time[-2])]
        self.server.listings["IBM"] = Listing(
            {"1d": after}, splits_ms=split, fault=Fault("partial")
        )
        assert (await self.failure("IBM")).reason is Reason.BAD_DATA
        self.server.listings["IBM"].fault = None
        answer = await self.one("IBM")
        assert (answer.whole, answer.cause) == (True, "split")
        assert np.array_equal(answer.series["1d"].bars.ohlcv[:4], after.ohlcv[:4])

    async def test_a_first_history_given_in_part_is_asked_for_again(self) -> None:
        """Ten bars are taken for what they are, and the others come with the next refresh."""
        bars = last_bars("IBM", 300)
        self.server.listings["IBM"] = Listing({"1d": bars}, fault=Fault("partial"))
        assert len((await self.one("IBM")).series["1d"].bars) == 10
        self.server.listings["IBM"].fault = None
        assert len((await self.one("IBM")).series["1d"].bars) == 300
        assert np.array_equal(self.shelf.series("IBM").ohlcv, bars.ohlcv)
        # A ticker that is no older is believed the second time.
        await self.one("IBM")
        assert len((await self.one("IBM")).series["1d"].bars) < 10

    async def test_bars_given_twice_and_in_disorder_come_out_in_order(self) -> None:
        """Each time once, as far as bars that can be published go."""
        bars = last_bars("IBM", 30)
        order = np.array([5, 3, 3, *range(30), 29, 7])
        ohlcv = bars.ohlcv[:, order]
        ohlcv[:4, -4] = float("nan")  # the last but one of the days
        self.server.listings["IBM"] = Listing({"1d": Bars(bars.time[order], ohlcv)})
        series = (await self.one("IBM")).series["1d"]
        clean, _ = validate(series.bars.time, series.bars.ohlcv)
        good = np.arange(30) != 28
        assert np.array_equal(clean.time, bars.time[good])
        assert np.array_equal(clean.ohlcv, bars.ohlcv[:, good])


class BudgetTests(YahooTestCase):
    """Requests within the budget, as the server counts them."""

    def make_source(self) -> Yahoo:
        """Make a source with a budget."""
        source = Yahoo(
            self.clock,
            reactor=reactor,
            session=self.server.session(),
            cache_dir=cache_dir(),
            budget=Budget(300, RNG),
        )
        self.addCleanup(source.stop)
        return source

    async def test_the_server_counts_no_more_requests_than_allowed(self) -> None:
        """Five a second, and those of one burst."""
        for ticker in sample_data.TICKERS:
            self.server.listings[ticker] = Listing({"1d": last_bars(ticker, 30)})
        for _ in range(5):
            await self.fetch(*sample_data.TICKERS)
        told = self.source.describe()
        assert told["count"] == len(self.server.asked_s) >= 25
        # Of the budget's minute, a second's share: the burst, and what comes in meanwhile.
        assert self.server.most_requests(1.0) <= 20 + 5 + 1
        assert (told["per_minute"], told["waiting"]) == (300, False)

    async def test_a_stop_ends_the_wait_for_the_budget_at_once(self) -> None:
        """Nobody waits for a turn that would come in a minute."""
        self.server.listings = sample_listings()
        budget = Budget(1, RNG)
        budget.take(time.monotonic())
        self.source = Yahoo(
            self.clock,
            reactor=reactor,
            session=self.server.session(),
            cache_dir=cache_dir(),
            budget=budget,
        )
        fetching = defer.Deferred.fromCoroutine(self.fetch("FB"))
        while not self.source.describe()["waiting"]:
            await task.deferLater(reactor, 0.01)
        began = time.monotonic()
        await self.source.stop()
        assert await fetching == []
        assert time.monotonic() - began < 1
        assert self.server.asked_s == []
        while any(one.name == "yahoo" and one.is_alive() for one in threading.enumerate()):
            assert time.monotonic() - began < 5
            await task.deferLater(reactor, 0.01)


class AdjustmentTests(YahooTestCase):
    """What prices are adjusted for."""

    def adjusting(self, adjust: str) -> None:
        """Have another source."""
        self.source = Yahoo(
            self.clock,
            reactor=reactor,
            session=self.server.session(),
            cache_dir=cache_dir(),
            adjust=adjust,
        )
        self.addCleanup(self.source.stop)

    async def test_all_has_dividends_in_every_price(self) -> None:
        """The closes are those that Yahoo calls adjusted; the volumes stay."""
        self.server.listings = sample_listings()
        self.adjusting("all")
        answer = await self.one("IBM")
        bars, plain = answer.series["1d"].bars, sample_data.bars("IBM")
        adjusted = np.array(sample_data.adjusted_closes("IBM"))
        assert np.array_equal(bars.ohlcv[3], adjusted)
        np.testing.assert_allclose(bars.ohlcv[0], plain.ohlcv[0] * adjusted / plain.ohlcv[3])
        assert np.array_equal(bars.ohlcv[4], plain.ohlcv[4])
        assert self.source.adjustment == "all"

    async def test_a_dividend_restates_what_is_adjusted_for_it(self) -> None:
        """The whole history at once, and nothing of what is not adjusted for dividends."""
        bars = last_bars("IBM", 300)
        closes = bars.ohlcv[3].tolist()
        later = [close * 0.99 for close in closes[:-1]] + closes[-1:]
        for adjust, whole, count in [("all", True, 300), ("split", False, 5)]:
            self.shelf.bars.clear()
            self.server.listings["IBM"] = Listing({"1d": bars}, adjusted=closes)
            self.adjusting(adjust)
            for _ in range(2):  # the first answer is shorter than it was asked for
                await self.one("IBM")
            paid = [int(bars.time[-1])]
            self.server.listings["IBM"] = Listing({"1d": bars}, adjusted=later, dividends_ms=paid)
            answer = await self.one("IBM")
            assert answer.whole is whole
            assert answer.cause == ("dividend" if whole else "vendor")
            assert abs(len(answer.series["1d"].bars) - count) <= 2
            assert not (await self.one("IBM")).whole

    async def test_none_gives_prices_as_they_were_traded(self) -> None:
        """Before a split and after it, of days and of minutes."""
        traded = last_bars("IBM", 100)
        split_ms = int(traded.time[-3])
        seen = traded.ohlcv.copy()
        seen[:4, :-3] /= 2
        seen[4, :-3] *= 2
        self.server.listings["IBM"] = Listing(
            {"1d": Bars(traded.time, seen)}, zone="UTC", splits_ms=[split_ms]
        )
        self.adjusting("none")
        answer = await self.one("IBM")
        assert np.array_equal(answer.series["1d"].bars.ohlcv, traded.ohlcv)
        assert not (await self.one("IBM")).whole

    async def test_a_split_restates_all_intervals_at_once(self) -> None:
        """Minutes have another base too, and what Yahoo no longer gives of them is to go."""
        days = last_bars("IBM", 300)
        time_ms = EVENING_MS + np.arange(-19, 1, dtype=np.int64) * MINUTE_MS
        minutes = Bars(time_ms, np.full((5, 20), 200.0))
        listing = Listing({"1d": days, "1m": minutes}, zone=NEW_YORK)
        self.server.listings["IBM"] = listing
        await self.one("IBM", DAILY, MINUTES)
        halves = {name: Bars(b.time, b.ohlcv / 2) for name, b in listing.bars.items()}
        # Yahoo tells the event of the day to both.
        split = [int(days.time[-1]) + 5 * HOUR_MS]
        self.server.listings["IBM"] = Listing(halves, zone=NEW_YORK, splits_ms=split)
        answer = await self.one("IBM", DAILY, MINUTES)
        assert (answer.whole, answer.cause) == (True, "split")
        assert len(answer.series["1d"].bars) == 300
        assert np.array_equal(answer.series["1m"].bars.ohlcv, halves["1m"].ohlcv)

    async def test_prices_that_follow_their_split_while_a_bar_forms_are_noticed(self) -> None:
        """The event comes in the morning, the prices hours later; of dividends the same."""
        bars = last_bars("IBM", 300)
        bars = Bars(sample_listings(NEW_YORK)["IBM"].bars["1d"].time[-300:], bars.ohlcv)
        paid, closes = [int(bars.time[-1])], bars.ohlcv[3].tolist()
        halves = bars.ohlcv / 2
        halves[:, -1] = bars.ohlcv[:, -1]
        less = [close * 0.98 for close in closes[:-1]] + closes[-1:]
        for adjust, event, later in [
            ("split", "splits_ms", Listing({"1d": Bars(bars.time, halves)}, zone=NEW_YORK)),
            ("all", "dividends_ms", Listing({"1d": bars}, zone=NEW_YORK, adjusted=less)),
        ]:
            self.shelf.bars.clear()
            self.adjusting(adjust)
            listing = Listing({"1d": bars}, zone=NEW_YORK, adjusted=closes)
            self.server.listings["IBM"] = listing
            for _ in range(2):
                await self.one("IBM")
            setattr(listing, event, paid)
            assert (await self.one("IBM")).whole
            assert not (await self.one("IBM")).whole
            setattr(later, event, paid)
            self.server.listings["IBM"] = later
            answer = await self.one("IBM")
            assert (answer.whole, answer.series["1d"].forming) == (True, True)
            assert answer.cause == event.removesuffix("s_ms")
            expected = less if adjust == "all" else halves[3].tolist()
            np.testing.assert_allclose(self.shelf.series("IBM").ohlcv[3], expected, rtol=1e-12)
            assert not (await self.one("IBM")).whole

    async def test_a_split_that_could_not_be_published_comes_again(self) -> None:
        """The disk was full, say: what counts is what is published."""
        self.server.listings = sample_listings(NEW_YORK)
        listing = self.server.listings["IBM"]
        await self.one("IBM")
        bars = listing.bars["1d"]
        listing.bars["1d"] = Bars(bars.time, bars.ohlcv / 2)
        listing.splits_ms = [int(bars.time[-1])]
        for _ in range(3):
            (refused,) = await collect(self.source, self.shelf.requests(["IBM"], DAILY))
            assert isinstance(refused, TickerBars)
            assert (refused.whole, refused.cause) == (True, "split")
            assert len(refused.series["1d"].bars) == len(bars)
        await self.one("IBM")
        assert not (await self.one("IBM")).whole

    async def test_bars_of_before_a_gap_do_not_stay_beside_those_behind_it(self) -> None:
        """Of a split in between there is no word; as traded, all of them fit together."""
        time_ms = EVENING_MS + np.arange(-59, 1, dtype=np.int64) * MINUTE_MS
        full = Bars(time_ms, np.full((5, 60), 100.0))
        half = Bars(time_ms + 14 * DAY_MS, np.full((5, 60), 50.0))
        days = last_bars("IBM", 30)
        for adjust, whole_of, prices in [("split", {"1m"}, {50.0}), ("none", set(), {50.0, 100.0})]:
            self.shelf.bars.clear()
            self.clock.now_ms = EVENING_MS
            self.server.now_s = EVENING_MS / 1000
            self.server.listings["A"] = Listing({"1m": full, "1d": days}, zone=NEW_YORK)
            self.adjusting(adjust)
            await self.one("A", DAILY, MINUTES)
            self.adjusting(adjust)  # a daemon of two weeks later
            self.clock.now_ms += 14 * DAY_MS
            self.server.now_s = self.clock.now_ms / 1000
            self.server.listings["A"] = Listing({"1m": half, "1d": days}, zone=NEW_YORK)
            answer = await self.one("A", DAILY, MINUTES)
            assert not answer.whole
            assert answer.whole_of == whole_of
            assert set(self.shelf.series("A", "1m").ohlcv[3].tolist()) == prices
            assert len(self.shelf.series("A").time) == 30


class StopTests(YahooTestCase):
    """The end of a source that is waiting."""

    async def test_a_stop_ends_a_fetch_at_once_and_forbids_further_requests(self) -> None:
        """Nobody waits for the download that hangs."""
        self.server.listings = {"SLOW": Listing({}, hang=True), **sample_listings()}
        fetching = defer.Deferred.fromCoroutine(self.fetch("FB", "SLOW", "IBM"))
        hung: defer.Deferred[None] = defer.Deferred()

        def wait() -> None:
            self.server.hanging.wait(30)
            reactor.callFromThread(hung.callback, None)

        threading.Thread(target=wait, daemon=True).start()
        await hung
        began = time.monotonic()
        await self.source.stop()
        answers = await fetching
        assert time.monotonic() - began < 1
        assert [type(one) for one in answers] == [TickerBars]
        assert await self.fetch("IBM") == []
        count = self.source.request_count
        self.server.released.set()
        assert self.source.request_count == count

    def test_a_process_with_a_hung_download_ends_within_two_seconds(self) -> None:
        """The reactor does not wait for the thread, nor does the interpreter."""
        self.server.listings["SLOW"] = Listing({}, hang=True)
        process = subprocess.Popen(
            [sys.executable, "-c", _HUNG_PROGRAM, str(self.server.port), str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=CHECKOUT,
        )
        try:
            assert self.server.hanging.wait(60)
            began = time.monotonic()
            process.terminate()
            output, _ = process.communicate(timeout=20)
            assert time.monotonic() - began < 2
        finally:
            process.kill()
            process.wait()
        assert output == b"[]\n"
        assert process.returncode == 0

    def test_yfinance_is_imported_by_nobody_before_it_is_needed(self) -> None:
        """Not by the source, nor by making one."""
        program = (
            "import sys; from quoteshm.clock import SystemClock; "
            "from quoteshm.sources.yahoo import Yahoo; Yahoo(SystemClock()); "
            "sys.exit('yfinance' in sys.modules or 'pandas' in sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, check=False)
        assert done.returncode == 0


_HUNG_PROGRAM = """
import sys
from pathlib import Path
from twisted.internet import defer, reactor, task
from quoteshm.clock import SystemClock
from quoteshm.sources.yahoo import Yahoo
from tests.sources.asking import Shelf, collect
from tests.yahoo_server import loopback_session

source = Yahoo(
    SystemClock(), session=loopback_session(int(sys.argv[1])), cache_dir=Path(sys.argv[2])
)
fetching = defer.Deferred.fromCoroutine(collect(source, Shelf().requests(["SLOW", "NEXT"])))
fetching.addCallback(print)
stop = lambda: defer.Deferred.fromCoroutine(source.stop())
reactor.addSystemEventTrigger("before", "shutdown", stop)
reactor.run()
"""
