"""The archive's service: what is written when, and what a start makes of it."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from twisted.internet import defer, task
from twisted.logger import globalLogPublisher
from twisted.trial import unittest

from quoteshm.errors import BatchError, SegmentFullError, WriterRunningError
from quoteshm.market.archive import Archive
from quoteshm.market.quotes import QuoteCache
from quoteshm.model import DAY_MS, MINUTE_MS, Bars, SeriesKind, Ticker
from quoteshm.service.archiver import (
    INTRADAY_S,
    QUOTES_S,
    RETRY_S,
    SERIES_S,
    STOP_S,
    ArchiveService,
)
from quoteshm.service.publisher import Publisher
from quoteshm.shm import layout
from quoteshm.shm.batch import Batch
from quoteshm.shm.segment import SegmentSpec
from quoteshm.shm.writer import SegmentWriter
from quoteshm.sources.base import Series, TickerBars, Unchanged
from tests.published import NOW_MS, FakeClock

if TYPE_CHECKING:
    from quoteshm.market.archive import Loaded, MarketRecord, Record, SeriesRecord

KINDS = (SeriesKind("1d", 10), SeriesKind("1m", 10))
TODAY = NOW_MS // DAY_MS * DAY_MS
FRESHNESS_MS = 5000


def some_bars(count: int, close: float = 100.0, step_ms: int = DAY_MS) -> Bars:
    """Make bars of which the last one is of now."""
    closes = close + np.arange(count)
    ohlcv = np.array([closes, closes + 1, closes - 1, closes, closes * 10])
    last = NOW_MS // step_ms * step_ms
    return Bars(last + step_ms * np.arange(1 - count, 1, dtype=np.int64), ohlcv)


class Noting(Archive):
    """An archive that notes what is asked of it, and fails when it is told to."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "files", "none")
        self.stored: list[str] = []
        self.read: list[str] = []
        self.broken: set[str] = set()

    def take(self) -> list[str]:
        """Give the names of the files written since the last time."""
        taken, self.stored = self.stored, []
        return sorted(taken)

    def store(self, records: Sequence[Record]) -> list[OSError | None]:
        """Write, but for those files that are to fail."""
        names = [self.path(record).stem for record in records]
        if self.broken & {*names, "all"}:
            full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return [full if self.broken & {name, "all"} else None for name in names]
        self.stored += names
        return super().store(records)

    def load_market(self) -> Loaded[MarketRecord]:
        """Note that it was asked for."""
        self.read.append("quotes")
        return super().load_market()

    def load_series(self, symbol: str, interval: str) -> Loaded[SeriesRecord]:
        """Note that it was asked for."""
        self.read.append(f"{symbol} {interval}")
        return super().load_series(symbol, interval)


class Life:
    """One life of a daemon: a writer in memory, its archive, and a clock."""

    def __init__(self, folder: Path, *wanted: str, **spec: Any) -> None:
        self.clock, self.reactor = FakeClock(), task.Clock()
        given: dict[str, Any] = {
            "max_tickers": 64,
            "kinds": KINDS,
            "source": "files",
            "freshness_ms": FRESHNESS_MS,
        }
        self.writer = SegmentWriter.anonymous(SegmentSpec(**(given | spec)), self.clock)
        self.publisher = Publisher(self.writer, self.clock)
        self.cache = QuoteCache(self.writer, self.clock)
        self.archive = Noting(folder / "archive")
        self.run: Callable[..., Any] = lambda work: defer.succeed(work())
        self.service = ArchiveService(
            self.archive,
            self.writer,
            wanted,
            run=self._run_later,
            reactor=self.reactor,
            clock=self.clock,
        )

    def _run_later(self, work: Callable[[], Any]) -> Any:
        return self.run(work)  # as it is by then

    def start(self) -> Life:
        """Start, and load."""
        self.service.startService()
        for _ in range(1000):
            if not self.service._is_loading:
                break
            self.reactor.advance(0)
        return self

    def publish(
        self, symbol: str, *, bars: Bars, forming: bool = True, interval: str = "1d"
    ) -> None:
        """Publish what a source answers."""
        answer = TickerBars(Ticker(symbol, "USD"), {interval: Series(bars, forming)})
        assert self.publisher.publish([answer]).refused == {}

    def pass_s(self, seconds: float) -> None:
        """Let time pass, second by second."""
        for _ in range(round(seconds)):
            self.reactor.advance(1)
            self.clock.now_ms += 1000

    def history(self, symbol: str, interval: str = "1d") -> tuple[list[int], list[float], bool]:
        """Give times and closes of what is published, and whether the last one is forming."""
        bars, forming = self.writer.history(self.writer.row_of[symbol], interval)
        return bars.time.tolist(), bars.field("close").tolist(), forming


class Case(unittest.TestCase):
    """Lives of a daemon in one folder."""

    def setUp(self) -> None:
        """Make the folder, and note the log."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.events: list[Any] = []
        note: Any = self.events.append
        globalLogPublisher.addObserver(note)
        self.addCleanup(globalLogPublisher.removeObserver, note)

    def life(self, *wanted: str, **spec: Any) -> Life:
        """Begin a life."""
        return Life(self.folder, *(wanted or ("AAPL", "MSFT")), **spec).start()

    def stop(self, life: Life) -> None:
        """End it cleanly."""
        self.successResultOf(life.service.stopService())

    def logged(self, part: str) -> list[Any]:
        """Give the events whose format holds this."""
        return [event for event in self.events if part in (event.get("log_format") or "")]


class TestWriting(Case):
    """What is written, and when."""

    def test_only_what_has_changed_is_written(self) -> None:
        """Ticks change no closed bar; the quotes are written every few seconds."""
        life = self.life()
        life.publish("AAPL", bars=some_bars(3))
        life.publish("MSFT", bars=some_bars(3))
        life.pass_s(1)
        assert life.archive.take() == ["AAPL", "MSFT", "quotes"]
        for tick in range(10):
            life.publish("AAPL", bars=some_bars(1, 50.0 + tick))
            life.pass_s(1)
        assert set(life.archive.take()) == {"quotes"}
        life.publish("AAPL", bars=Bars(np.array([TODAY + DAY_MS]), some_bars(1).ohlcv))
        life.pass_s(SERIES_S)
        assert [name for name in life.archive.take() if name != "quotes"] == ["AAPL"]
        life.pass_s(SERIES_S)
        assert life.archive.take() == []

    def test_a_series_is_written_once_a_minute_at_most(self) -> None:
        """However often its bars change; one of minutes every ten."""
        for interval, wait_s in (("1d", SERIES_S), ("1m", INTRADAY_S)):
            life = self.life()
            written = 0
            for change in range(round(3 * wait_s)):
                bars = some_bars(3, 100.0 + change, KINDS[interval == "1m"].interval_ms)
                life.publish("AAPL", bars=bars, interval=interval, forming=False)
                life.pass_s(1)
                written += life.archive.take().count("AAPL")
            assert written == 3
            self.stop(life)

    def test_a_stop_writes_what_was_not_due(self) -> None:
        """And the quotes with the forming bars last."""
        life = self.life()
        life.publish("AAPL", bars=some_bars(3))
        life.pass_s(1)
        life.publish("AAPL", bars=some_bars(3, 50.0))
        life.archive.take()
        self.stop(life)
        assert life.archive.take() == ["AAPL", "quotes"]
        after = self.life()
        assert after.history("AAPL") == life.history("AAPL")
        assert after.history("AAPL")[2]

    def test_a_stop_waits_only_so_long(self) -> None:
        """For a disk that does not answer."""
        life = self.life()
        life.publish("AAPL", bars=some_bars(3))
        life.run = lambda work: defer.Deferred()
        life.pass_s(1)
        stopped = life.service.stopService()
        self.assertNoResult(stopped)
        life.reactor.advance(STOP_S)
        self.successResultOf(stopped)
        assert len(self.logged("was not written within")) == 1

    def test_a_full_disk_is_told_of_once_and_tried_again(self) -> None:
        """Publishing goes on; when there is room, what was missed is written."""
        life = self.life()
        life.archive.broken = {"all"}
        life.publish("AAPL", bars=some_bars(3))
        life.pass_s(10 * RETRY_S)
        life.publish("MSFT", bars=some_bars(3))
        life.pass_s(10 * RETRY_S)
        assert life.archive.take() == []
        assert len(self.logged("cannot write")) == 1
        described: Any = life.service.describe()
        assert described["error"] == os.strerror(errno.ENOSPC)
        life.archive.broken = set()
        life.pass_s(3 * SERIES_S)
        assert set(life.archive.take()) == {"AAPL", "MSFT", "quotes"}
        assert len(self.logged("being written again")) == 1
        described = life.service.describe()
        assert described["error"] is None

    def test_a_file_that_fails_keeps_no_other_back(self) -> None:
        """It alone is missing."""
        life = self.life()
        life.archive.broken = {"AAPL"}
        life.publish("AAPL", bars=some_bars(3))
        life.pass_s(1)
        life.publish("MSFT", bars=some_bars(3))
        life.pass_s(SERIES_S * 2)
        assert "MSFT" in life.archive.take()
        assert len(self.logged("cannot write")) == 1

    def test_whatever_is_raised_does_not_end_it(self) -> None:
        """It is logged, and the next attempt works."""
        life = self.life()
        life.publish("AAPL", bars=some_bars(3))
        run, life.run = life.run, lambda work: defer.fail(ZeroDivisionError())
        life.pass_s(2)
        assert self.flushLoggedErrors(ZeroDivisionError)
        life.run = run
        life.pass_s(RETRY_S + SERIES_S)
        assert "AAPL" in life.archive.take()

    def test_a_folder_that_cannot_be_made_is_tried_again(self) -> None:
        """The daemon starts without it."""
        (self.folder / "archive").write_text("in the way")
        life = self.life()
        life.publish("AAPL", bars=some_bars(3))
        life.pass_s(3 * RETRY_S)
        assert len(self.logged("cannot write")) == 1
        (self.folder / "archive").unlink()
        life.pass_s(RETRY_S + SERIES_S)
        assert set(life.archive.take()) == {"AAPL", "quotes"}

    def test_two_daemons_do_not_share_an_archive(self) -> None:
        """The second one does not start; it does once the first one has gone."""
        first = self.life()
        with pytest.raises(WriterRunningError) as caught:
            self.life()
        assert caught.value.pid == os.getpid()
        self.stop(first)
        self.stop(self.life())

    def test_a_ticker_that_was_removed_is_not_written(self) -> None:
        """What is on disk of it stays there."""
        life = self.life()
        life.publish("AAPL", bars=some_bars(3))
        life.publish("MSFT", bars=some_bars(3))
        life.pass_s(1)
        life.publish("MSFT", bars=some_bars(3, 50.0))
        life.writer.write_data(Batch(NOW_MS, removed=[life.writer.row_of["MSFT"]]))
        life.archive.take()
        self.stop(life)
        assert life.archive.take() == ["quotes"]
        assert self.life().history("MSFT")[1] == [100.0, 101.0]


class TestLoading(Case):
    """What a start finds."""

    def before(self, *symbols: str) -> Life:
        """Live a life that ends cleanly."""
        life = self.life(*symbols)
        for number, symbol in enumerate(symbols or ("AAPL", "MSFT")):
            life.publish(symbol, bars=some_bars(4, 100.0 * (number + 1)))
            minutes = some_bars(3, 100.0, MINUTE_MS)
            life.publish(symbol, bars=minutes, interval="1m")
        self.stop(life)
        return life

    def test_everything_is_back_and_stale(self) -> None:
        """With the times at which it was confirmed, until the source confirms it."""
        old = self.before()
        new = self.life()
        for symbol in ("AAPL", "MSFT"):
            before, after = old.cache.get(symbol), new.cache.get(symbol)
            assert not before.stale
            assert after.stale
            assert after.updated_ms == before.updated_ms
            assert after.ts_epoch_ms == before.ts_epoch_ms
            assert (after.price, after.currency) == (before.price, "USD")
            for interval in ("1d", "1m"):
                assert new.history(symbol, interval) == old.history(symbol, interval)
                known = new.publisher.known(symbol, interval)
                assert known == old.publisher.known(symbol, interval)
        assert new.writer.last_update_ms == old.writer.last_update_ms
        new.publisher.publish([Unchanged(("AAPL",))])
        assert not new.cache.get("AAPL").stale
        assert new.cache.get("MSFT").stale

    def test_what_is_wanted_no_more_is_not_loaded(self) -> None:
        """Also where its file was read already."""
        self.before()
        life = Life(self.folder, "AAPL", "MSFT")
        restore = life.service._start._publish

        def remove_first(found: Any) -> bool:
            life.service.drop(["MSFT"])
            life.publisher.remove(["MSFT"])
            return restore(found)

        self.patch(life.service._start, "_publish", remove_first)
        life.start()
        assert life.cache.tickers() == ["AAPL"]

    def test_it_is_stale_whatever_the_clocks_say(self) -> None:
        """Set back or forward, shortly or long after boot: nobody can tell how old it is."""
        self.before()
        for wall_ms in (-400 * DAY_MS, -1, 0, 1, FRESHNESS_MS, DAY_MS):
            life = Life(self.folder, "AAPL", "MSFT")
            life.clock.now_ms += wall_ms
            life.start()
            for _ in range(3):
                assert life.cache.get("AAPL").stale
                life.clock.now_ms += FRESHNESS_MS
            life.service._lock.release()  # type: ignore[union-attr]

    def test_what_was_loaded_is_not_written_again(self) -> None:
        """Nothing has changed but the quotes' file."""
        self.before()
        life = self.life()
        life.pass_s(SERIES_S)
        self.stop(life)
        assert set(life.archive.take()) <= {"quotes"}

    def test_quotes_come_first_and_all_at_once(self) -> None:
        """Before a single bar is read."""
        symbols = tuple(f"T{number:03}" for number in range(150))
        self.before(*symbols)
        life = Life(self.folder, *symbols)
        jobs: list[tuple[Any, defer.Deferred[Any]]] = []

        def later(work: Any) -> defer.Deferred[Any]:
            jobs.append((work, defer.Deferred()))
            return jobs[-1][1]

        life.run = later
        life.service.startService()
        work, done = jobs.pop(0)
        done.callback(work())
        assert life.cache.tickers() == sorted(symbols)
        assert life.archive.read == ["quotes"]
        turns = 0
        while jobs:
            assert len(jobs) <= 3
            work, done = jobs.pop(0)
            done.callback(work())
            life.reactor.advance(0)
            turns += 1
        assert turns > 2
        self.successResultOf(life.service.loaded)
        assert life.history(symbols[-1])[1] == [100.0 * 150 + day for day in range(4)]

    def test_a_damaged_file_costs_only_its_ticker(self) -> None:
        """It is named in the log, and set aside; the ticker's quote is there nevertheless."""
        old = self.before()
        path = old.archive._stem("AAPL", "1d").with_suffix(".parquet")
        path.write_bytes(path.read_bytes()[:-1])
        life = self.life()
        (event,) = self.logged("aside")
        assert event["path"] == str(path)
        assert path.with_name(event["name"]).exists()
        assert life.cache.get("AAPL").price == old.cache.get("AAPL").price
        assert life.history("AAPL") == ([], [], False)
        assert life.publisher.known("AAPL", "1d") is None
        assert life.history("AAPL", "1m") == old.history("AAPL", "1m")
        assert life.history("MSFT") == old.history("MSFT")
        described: Any = life.service.describe()
        assert (described["loaded"], described["set_aside"]) == (2, 1)

    def test_quotes_that_are_damaged_are_made_of_the_bars(self) -> None:
        """Stale, and of when the bars last changed; no forming bar is there."""
        old = self.before()
        path = old.archive.folder / "quotes.parquet"
        path.write_bytes(b"?")
        life = self.life()
        assert life.cache.tickers() == ["AAPL", "MSFT"]
        quote = life.cache.get("MSFT")
        assert quote.stale
        assert quote.updated_ms == old.cache.get("MSFT").updated_ms
        assert quote.price in old.history("MSFT")[1] + old.history("MSFT", "1m")[1]
        assert not life.history("MSFT")[2]

    def test_a_forming_bar_is_never_put_behind_a_gap(self) -> None:
        """Where the bars on disk are older than it, the source is to fill in what is between."""
        life = self.life()
        life.publish("AAPL", bars=some_bars(3))
        life.pass_s(1)
        following = Bars(TODAY + DAY_MS * np.arange(1, 4), some_bars(3).ohlcv)
        life.archive.take()
        life.publish("AAPL", bars=following)
        life.pass_s(2 * QUOTES_S)
        assert set(life.archive.take()) == {"quotes"}
        life.service._lock.release()  # type: ignore[union-attr]
        after = self.life()
        assert after.history("AAPL")[0] == [TODAY - 2 * DAY_MS, TODAY - DAY_MS]
        assert not after.history("AAPL")[2]
        assert after.cache.get("AAPL").price == life.cache.get("AAPL").price

    def test_a_ticker_of_one_forming_bar_comes_back(self) -> None:
        """There is no file of closed bars."""
        life = self.life()
        life.publish("AAPL", bars=some_bars(1))
        self.stop(life)
        assert life.archive.take() == ["quotes"]
        assert self.life().history("AAPL") == ([TODAY], [100.0], True)

    def test_what_the_segment_has_is_not_read(self) -> None:
        """A daemon that carries on reads what is missing in the segment, and nothing else."""
        self.before()
        life = Life(self.folder, "AAPL", "MSFT")
        life.publish("AAPL", bars=some_bars(3, 7.0))
        life.start()
        assert life.archive.read == ["quotes", "AAPL 1m", "MSFT 1d", "MSFT 1m"]
        assert life.history("AAPL")[1] == [7.0, 8.0, 9.0]
        assert not life.cache.get("AAPL").stale
        self.stop(life)

        whole = Life(self.folder, "AAPL")
        whole.publish("AAPL", bars=some_bars(3))
        whole.publish("AAPL", bars=some_bars(3, 7.0, MINUTE_MS), interval="1m")
        whole.start()
        assert whole.archive.read == []

    def test_tickers_that_are_not_wanted_stay_on_disk(self) -> None:
        """And are there when they are wanted again, with a quote of their bars."""
        old = self.before()
        life = self.life("AAPL")
        assert life.cache.tickers() == ["AAPL"]
        self.stop(life)
        again = self.life()
        assert again.cache.tickers() == ["AAPL", "MSFT"]
        assert again.history("MSFT")[0] == old.history("MSFT")[0][:-1]

    def test_a_smaller_capacity_keeps_the_newest_bars(self) -> None:
        """And a series that is no longer kept is not read."""
        old = self.before()
        life = self.life(kinds=(SeriesKind("1d", 2),))
        assert life.history("AAPL")[0] == old.history("AAPL")[0][-2:]

    def refusing(self, refuse: Callable[[set[str]], None]) -> Life:
        """Start with a writer that is asked before it publishes bars of tickers."""
        symbols = ("AAPL", "BAD", "KO", "MSFT")
        self.before(*symbols)
        life = Life(self.folder, *symbols)
        write = life.writer.write_data

        def write_data(batch: Batch) -> int:
            refuse({life.writer.tickers[history.row].symbol for history in batch.histories})
            return write(batch)

        self.patch(life.writer, "write_data", write_data)
        return life.start()

    def test_a_ticker_that_is_refused_keeps_no_other_back(self) -> None:
        """It is named; the others of its group are published."""

        def refuse(symbols: set[str]) -> None:
            if "BAD" in symbols:
                raise BatchError("found this, expected that")

        life = self.refusing(refuse)
        assert [event["ticker"] for event in self.logged("is not loaded")] == ["BAD"]
        assert [len(life.history(s)[0]) for s in ("AAPL", "BAD", "KO", "MSFT")] == [4, 0, 4, 4]
        assert life.service._looking.running

    def test_no_room_in_the_segment_is_no_end(self) -> None:
        """It is told; the quotes are there, and the daemon goes on."""

        def refuse(symbols: set[str]) -> None:
            if symbols:
                raise SegmentFullError(Path("shm0"), 2, 1)

        life = self.refusing(refuse)
        assert len(self.logged("not loaded any further")) == 1
        assert len(life.cache.tickers()) == 4
        assert life.service._looking.running
        self.successResultOf(life.service.loaded)

    def test_no_room_for_more_tickers_is_no_end(self) -> None:
        """A larger segment may find none: it is told, of the quotes and of the bars."""
        self.before()
        life = Life(self.folder, "AAPL", "MSFT")

        def enlist(_tickers: object) -> None:
            raise SegmentFullError(Path("shm0"), 2, 1)

        self.patch(life.writer, "enlist", enlist)
        life.start()
        assert len(self.logged("archived quotes are not published")) == 1
        assert len(self.logged("not loaded any further")) == 1
        assert life.service._looking.running
        self.successResultOf(life.service.loaded)

    def test_a_load_that_breaks_is_no_end(self) -> None:
        """Whatever it is, it is logged, and the source is asked."""

        def refuse(_symbols: set[str]) -> None:
            raise ZeroDivisionError

        life = self.refusing(refuse)
        assert self.flushLoggedErrors(ZeroDivisionError)
        assert life.service._looking.running
        self.successResultOf(life.service.loaded)

    def test_a_stop_while_loading_writes_nothing(self) -> None:
        """The quotes on disk are more than those in memory."""
        old = self.before()
        path = old.archive.folder / "quotes.parquet"
        whole = path.read_bytes()
        life = Life(self.folder, "AAPL", "MSFT")
        life.run = lambda work: defer.Deferred()
        life.service.startService()
        self.stop(life)
        assert path.read_bytes() == whole

    def test_a_mark_says_that_a_quote_is_unconfirmed(self) -> None:
        """For readers in any language."""
        self.before()
        row = self.life().writer.quotes()[0]
        assert row["updated_boot_ms"] == layout.UNCONFIRMED_BOOT_MS
