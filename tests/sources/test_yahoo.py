"""The real yfinance, asking a Yahoo on the loopback interface."""

from __future__ import annotations

import atexit
import functools
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from twisted.internet import defer, reactor
from twisted.trial.unittest import TestCase

from quoteshm.market.bars import validate
from quoteshm.model import DAY_MS, MINUTE_MS, Bars, SeriesKind
from quoteshm.sources.base import Failure, Fetched, Reason, TickerBars
from quoteshm.sources.files import Files
from quoteshm.sources.yahoo import Yahoo
from tests import sample_data
from tests.sources.asking import FakeClock, Shelf, collect
from tests.yahoo_server import Listing, YahooServer, sample_listings

DAILY = SeriesKind("1d", 5000)
MINUTES = SeriesKind("1m", 400)
HOUR_MS = 60 * MINUTE_MS
NEW_YORK = "America/New_York"
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
        cases = [("regularMarketPrice", value) for value in (None, "5", True, nan, inf)]
        for name, value in [*cases, ("regularMarketTime", inf), ("regularMarketTime", 1e30)]:
            listing = Listing({"1d": last_bars("IBM", 5)}, meta={name: value})
            self.server.listings["IBM"] = listing
            answer = await self.one("IBM")
            assert len(answer.series["1d"].bars) == 5
            assert answer.last_price is None, (name, value)

    async def test_what_is_published_is_not_downloaded_again(self) -> None:
        """A week of overlap, and no more."""
        self.server.listings = sample_listings()
        first = await self.one("IBM")
        assert self.asked_from_ms() < EVENING_MS - 7000 * DAY_MS
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
        assert not (await self.one("A", MINUTES)).series["1m"].forming

    async def test_a_price_of_the_moment_is_no_bar(self) -> None:
        """Yahoo ends some answers with one, at a time between two minutes."""
        bars = self.minutes(50, EVENING_MS)
        time = bars.time.copy()
        time[-1] -= 17_000
        self.server.listings["A"] = Listing({"5m": Bars(time, bars.ohlcv)}, zone=NEW_YORK)
        answer = await self.one("A", SeriesKind("5m", 100))
        assert (answer.series["5m"].bars.time % MINUTE_MS == 0).all()

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

    async def test_after_too_many_requests_there_are_no_more(self) -> None:
        """The rest of the tickers wait for the next refresh."""
        self.server.listings = {"BUSY": Listing({}, status=429), **sample_listings()}
        answers = await self.fetch("BUSY", "FB", "IBM")
        count = self.source.request_count
        reasons = [one.reason for one in answers if isinstance(one, Failure)]
        assert reasons == [Reason.RATE_LIMITED] * 3
        assert {symbol for symbol, _ in self.server.charts} == {"BUSY"}
        await self.one("FB")
        assert self.source.request_count > count

    async def test_after_several_silent_answers_the_rest_is_not_asked_for(self) -> None:
        """An outage costs three time-outs a refresh, not one for each ticker."""
        self.server.__exit__()
        answers = await self.fetch("A", "B", "C", "D", "E")
        assert [one.reason for one in answers if isinstance(one, Failure)] == [
            Reason.UNREACHABLE,
        ] * 5
        last = answers[-1]
        assert isinstance(last, Failure)
        assert last.message.startswith("not asked for, as C failed: ")

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
        await self.source.stop()


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
from twisted.internet import defer, reactor
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
