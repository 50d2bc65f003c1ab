"""A folder of files: what is read, what is told about what cannot be read."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import defer, reactor, task
from twisted.trial.unittest import TestCase

from quoteshm.market.bars import validate
from quoteshm.model import DAY_MS, SeriesKind
from quoteshm.sources import files as module
from quoteshm.sources.base import Failure, Fetched, Reason, TickerBars, Unchanged
from quoteshm.sources.files import Files
from tests import sample_data
from tests.sources.asking import DAILY, MINUTES, Shelf, collect

HEADER = "Date,Open,High,Low,Close,Volume\n"
LINE = "2024-01-02,10,12,9,11,100\n"
SECOND = "2024-01-03,11,13,10,12,200\n"
DAY = int(np.datetime64("2024-01-02").astype("M8[ms]").astype(np.int64))
#: Says how many threads there are before a Parquet file is read, and behind it.
_COUNT_THREADS = """
import os, pathlib, sys
import pyarrow.dataset, pyarrow.parquet
from quoteshm.sources import files

print(len(os.listdir("/proc/self/task")))
files._read_file(pathlib.Path(sys.argv[1]), "1d", lambda: False)
print(len(os.listdir("/proc/self/task")))
"""


class FolderTestCase(TestCase):
    """A folder, a source that reads it, and somebody who remembers."""

    def setUp(self) -> None:
        """Make them, empty."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.shelf = Shelf()
        self.source = Files(self.folder, reactor=reactor)

    def write(self, name: str, text: str | bytes) -> Path:
        """Write a file the way it should be done."""
        path = self.folder / name
        new = self.folder / f".{name}.new"
        new.write_bytes(text if isinstance(text, bytes) else text.encode())
        new.replace(path)
        return path

    async def fetch(self, *tickers: str, kinds: tuple[SeriesKind, ...] = (DAILY,)) -> list[Fetched]:
        """Ask for tickers."""
        return await collect(self.source, self.shelf.requests(tickers, *kinds), self.shelf)

    async def one(self, ticker: str = "A") -> TickerBars:
        """Ask for a ticker that has bars."""
        (answer,) = await self.fetch(ticker)
        assert isinstance(answer, TickerBars), answer
        return answer

    async def failure(self, ticker: str = "A") -> Failure:
        """Ask for a ticker that has none."""
        (answer,) = await self.fetch(ticker)
        assert isinstance(answer, Failure), answer
        return answer


class ReadingTests(FolderTestCase):
    """Which files are read, and when."""

    async def test_real_bars_come_out_value_by_value(self) -> None:
        """Five tickers, thirteen years, every float64 the one that the text means."""
        sample_data.write_csv(self.folder)
        assert self.source.tickers() == sample_data.TICKERS
        answers = await self.fetch(*sample_data.TICKERS)
        for ticker, answer in zip(sample_data.TICKERS, answers, strict=True):
            assert isinstance(answer, TickerBars)
            assert (answer.ticker.symbol, answer.ticker.time_zone) == (ticker, "UTC")
            assert answer.whole
            bars, forming = answer.series["1d"]
            expected = sample_data.bars(ticker)
            assert not forming
            assert np.array_equal(bars.time, expected.time)
            assert np.array_equal(bars.ohlcv, expected.ohlcv)
            assert validate(bars.time, bars.ohlcv)[1] == ()

    async def test_an_adjusted_close_is_never_taken_for_the_close(self) -> None:
        """It is known, and left alone, wherever it stands."""
        self.write("A.csv", "adj close,Date,Open,High,Low,Close\n1.5,2024-01-02,10,12,9,11\n")
        assert (await self.one()).series["1d"].bars.field("close").tolist() == [11.0]
        self.write("B.csv", "Date,Open,High,Low,Adj Close\n2024-01-02,10,12,9,11\n")
        failure = await self.failure("B")
        assert failure.message.endswith("Adj Close, expected also close")

    async def test_a_file_that_did_not_change_is_not_read_again(self) -> None:
        """What has changed by time, size or inode is."""
        path = self.write("A.csv", HEADER + LINE)
        self.write("B.csv", HEADER + LINE)
        await self.fetch("A", "B")
        first = await self.fetch("A", "B")
        (unchanged,) = await self.fetch("A", "B")
        assert first == [Unchanged(("A", "B"))]
        assert isinstance(unchanged, Unchanged)
        assert isinstance(first[0], Unchanged)
        assert unchanged.tickers is first[0].tickers
        self.write("A.csv", HEADER + LINE + SECOND)
        unchanged, bars = await self.fetch("A", "B")
        assert unchanged == Unchanged(("B",))
        assert isinstance(bars, TickerBars)
        assert len(bars.series["1d"].bars) == 2
        stat = path.stat()
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
        assert len((await self.one()).series["1d"].bars) == 2

    async def test_a_file_that_changes_behind_the_reader_is_read_again(self) -> None:
        """One that changed before it was read is not: what was read is remembered."""
        read_file = module._read_file

        def before(*asked: Any) -> Any:
            self.write("A.csv", HEADER + LINE + SECOND)
            return read_file(*asked)

        def after(*asked: Any) -> Any:
            read = read_file(*asked)
            self.write("A.csv", HEADER + LINE + SECOND)
            return read

        for change, count, then in ((before, 2, Unchanged), (after, 1, TickerBars)):
            self.write("A.csv", HEADER + LINE)
            with mock.patch.object(module, "_read_file", change):
                assert len((await self.one()).series["1d"].bars) == count
            (answer,) = await self.fetch("A")
            assert isinstance(answer, then)

    async def test_a_file_that_may_not_be_read_is_tried_again(self) -> None:
        """Who may read it is no part of what a file is known by."""
        self.write("A.csv", HEADER + LINE)
        with mock.patch.object(module, "_read_file", side_effect=PermissionError("no")):
            assert (await self.failure()).reason is Reason.UNREACHABLE
        await self.one()

    async def test_what_was_answered_and_is_not_published_is_read_again(self) -> None:
        """A ticker that was removed and comes back needs its bars."""
        self.write("A.csv", HEADER + LINE)
        await self.one()
        self.shelf.bars.clear()
        await self.one()

    async def test_a_missing_file_is_not_found_until_it_is_there(self) -> None:
        """The message says what it would be called."""
        failure = await self.failure()
        assert failure.reason is Reason.NOT_FOUND
        assert "A.csv" in failure.message
        self.write("A.csv", HEADER + LINE)
        await self.one()

    async def test_a_missing_folder_fails_every_ticker(self) -> None:
        """It may be there the next time."""
        self.source = Files(self.folder / "no")
        answers = await self.fetch("A", "B")
        assert [one.reason for one in answers if isinstance(one, Failure)] == [
            Reason.UNREACHABLE,
            Reason.UNREACHABLE,
        ]

    async def test_a_name_can_say_the_interval(self) -> None:
        """A file without one is of the first interval; a dot in a ticker stays in it."""
        for name in ("VOD.L.csv", "VOD.L.1m.csv", "VOD.L.5m.csv", "ignored.txt", ".A.csv"):
            self.write(name, HEADER + LINE)
        (self.folder / "directory.csv").mkdir()
        (self.folder / "nowhere.csv").symlink_to("nothing")
        self.write(os.fsdecode(b"\xff.csv"), HEADER + LINE)
        assert self.source.tickers() == ("VOD.L",)
        (answer,) = await self.fetch("VOD.L", kinds=(DAILY, MINUTES))
        assert isinstance(answer, TickerBars)
        assert set(answer.series) == {"1d", "1m"}

    async def test_two_files_for_the_same_bars_are_a_failure_that_names_both(self) -> None:
        """Which one is meant cannot be guessed."""
        self.write("A.csv", HEADER + LINE)
        self.write("A.1d.csv", HEADER + LINE)
        failure = await self.failure()
        assert failure.reason is Reason.BAD_DATA
        assert "A.1d.csv and A.csv" in failure.message

    async def test_a_ticker_is_no_way_out_of_the_folder(self) -> None:
        """Files are found by listing, never by joining a name to a path."""
        self.write("A.csv", HEADER + LINE)
        failure = await self.failure(f"../{self.folder.name}/A")
        assert failure.reason is Reason.NOT_FOUND

    async def test_a_bad_file_harms_no_other(self) -> None:
        """Its failure comes again, without another reading, until it changes."""
        self.write("A.csv", HEADER + LINE)
        self.write("B.csv", HEADER + LINE + "2024-01-03,11,x,10,12,200\n")
        answers = await self.fetch("A", "B")
        assert [type(one) for one in answers] == [TickerBars, Failure]
        with mock.patch.object(module, "_read_file", side_effect=AssertionError):
            unchanged, failure = await self.fetch("A", "B")
        assert unchanged == Unchanged(("A",))
        assert failure == answers[1]
        self.write("B.csv", HEADER + LINE)
        await self.one("B")

    async def test_nothing_is_parsed_in_the_reactor_thread(self) -> None:
        """The reactor has other things to do."""
        self.write("A.csv", HEADER + LINE)
        readers: list[int] = []
        real = module._read_file

        def spy(*args: object) -> object:
            readers.append(threading.get_ident())
            return real(*args)  # type: ignore[arg-type]

        with mock.patch.object(module, "_read_file", spy):
            await self.one()
        assert len(readers) == 1
        assert readers != [threading.get_ident()]

    async def test_a_stop_ends_a_fetch_that_is_under_way(self) -> None:
        """Also in the middle of a long file."""
        for ticker in "ABC":
            self.write(f"{ticker}.csv", HEADER + LINE * 100_000)
        fetching = defer.Deferred.fromCoroutine(self.fetch("A", "B", "C"))
        await self.source.stop()
        assert await fetching == []
        assert await self.fetch("A") == []
        path = self.folder / "A.csv"
        with pytest.raises(module._StoppedError):
            module._read_file(path, "1d", lambda: True)

    async def test_a_stop_does_not_wait_for_a_disk_that_does_not_answer(self) -> None:
        """Nor does the end of the process: the thread is none of the reactor's pool."""
        gate = threading.Event()
        self.addCleanup(gate.set)
        self.write("A.csv", HEADER + LINE)
        self.patch(module, "_read_file", lambda *_: gate.wait())
        fetching = defer.Deferred.fromCoroutine(self.fetch("A"))
        await task.deferLater(reactor, 0.05)
        await self.source.stop()
        assert await fetching == []


class CsvTests(FolderTestCase):
    """What a CSV file may look like."""

    async def test_names_come_in_any_case_and_order(self) -> None:
        """Columns that are not known are ignored."""
        self.write(
            "A.csv", "CLOSE,volume,Note,tImEsTaMp,low,HIGH,Open\n11,5,x,2024-01-02,9,12,10\n"
        )
        bars = (await self.one()).series["1d"].bars
        assert bars.time.tolist() == [DAY]
        assert bars.ohlcv[:, 0].tolist() == [10.0, 12.0, 9.0, 11.0, 5.0]

    async def test_times_come_in_many_ways(self) -> None:
        """All of these are the same moment."""
        hour = DAY + 14 * 3_600_000
        for header, cells in [
            ("Datetime", "2024-01-02 14:00"),
            ("Date", "2024-01-02T14:00:00Z"),
            ("Timestamp", "2024-01-02 09:00:00-05:00"),
            ("", "2024-01-02 14:00:00"),
            ("time", str(hour // 1000)),
            ("timestamp", str(hour)),
            ("timestamp", str(hour * 1000)),
            ("timestamp", str(hour * 1_000_000)),
            ("Date,Time", "2024-01-02,14:00"),
        ]:
            self.write("A.csv", f"{header},Open,High,Low,Close\n{cells},10,12,9,11\n")
            assert (await self.one()).series["1d"].bars.time.tolist() == [hour], header
        self.write("A.csv", "Date,Open,High,Low,Close\n20240102,10,12,9,11\n")
        assert (await self.one()).series["1d"].bars.time.tolist() == [DAY]

    async def test_offsets_that_change_with_the_season_are_understood(self) -> None:
        """That is how an index of New York is saved."""
        self.write(
            "A.csv",
            ",Open,High,Low,Close\n"
            "2024-03-08 00:00:00-05:00,10,12,9,11\n"
            "2024-03-11 00:00:00-04:00,10,12,9,11\n",
        )
        days = (await self.one()).series["1d"].bars.time.astype("M8[ms]").astype(str).tolist()
        assert days == ["2024-03-08T00:00:00.000", "2024-03-11T00:00:00.000"]

    async def test_a_day_east_of_greenwich_is_the_day_that_is_written(self) -> None:
        """As a moment it would be the evening before; in minutes it is a moment."""
        self.write(
            "A.csv",
            "Date,Open,High,Low,Close\n"
            "2024-03-29 00:00:00+01:00,10,12,9,11\n"
            "2024-04-02T00:00+0200,10,12,9,11\n"
            "2024-04-03 00:00:00+02,10,12,9,11\n",
        )
        days = (await self.one()).series["1d"].bars.time.astype("M8[ms]").astype("M8[D]")
        assert days.astype(str).tolist() == ["2024-03-29", "2024-04-02", "2024-04-03"]

    async def test_the_example_of_the_docs_is_as_they_say(self) -> None:
        """docs/files.md: two days; and what is said of a price that is none."""
        page = (Path(__file__).parents[2] / "docs/files.md").read_text()
        example = page.partition("```csv\n")[2].partition("```")[0]
        self.write("AAPL.csv", example)
        bars = (await self.one("AAPL")).series["1d"].bars
        assert bars.time.astype("M8[ms]").astype("M8[D]").astype(str).tolist() == [
            "2026-11-19",
            "2026-11-20",
        ]
        self.write("AAPL.csv", example.replace("185.60", "x"))
        failure = await self.failure("AAPL")
        assert failure.message in page

    async def test_bars_too_close_for_their_series_are_refused(self) -> None:
        """With the name that they would be right under; one day twice is no reason."""
        minutes = "".join(f"2024-01-02T10:{i:02}:00,10,12,9,11,1\n" for i in range(5))
        self.write("A.csv", HEADER + minutes)
        answer = await self.failure()
        assert answer.message == (
            "A.csv: found bars 60 s apart in a series of 1d: name it A.1m.csv"
        )
        self.write("A.csv", HEADER + LINE + LINE + SECOND)
        assert len((await self.one()).series["1d"].bars) == 3

    async def test_a_missing_price_is_no_number_and_a_missing_volume_column_is_none(self) -> None:
        """The bar goes when it is validated; the file is fine."""
        self.write("A.csv", "Date,Open,High,Low,Close\n2024-01-02,null,,NaN,11\n\n\n")
        bars = (await self.one()).series["1d"].bars
        assert np.isnan(bars.ohlcv[:3, 0]).all()
        assert bars.ohlcv[3:, 0].tolist() == [11.0, 0.0]

    async def test_a_mark_at_the_beginning_and_other_line_ends_are_fine(self) -> None:
        """Spreadsheets write both."""
        text = (HEADER + LINE + SECOND).replace("\n", "\r\n")
        self.write("A.csv", b"\xef\xbb\xbf" + text.encode())
        assert len((await self.one()).series["1d"].bars) == 2

    async def test_a_bad_line_is_named(self) -> None:
        """By its number in the file, blank lines and the header counted."""
        long = HEADER + LINE * 5000
        cases: list[tuple[str | bytes, str]] = [
            (HEADER + LINE + "2024-01-03,11,x,10,12,200\n", "line 3: found 'x' in column High"),
            (HEADER + "\n\n" + "2024-01-03,11,1e,10,12,200\n", "line 4: found '1e' in column High"),
            (HEADER + LINE + "Jan 3,11,13,10,12,200\n", "line 3: found 'Jan 3' for a time"),
            (HEADER + LINE + "01/03/2024,11,13,10,12,200\n", "line 3: found '01/03/2024'"),
            (HEADER + LINE + ",11,13,10,12,200\n", "line 3: found '' for a time"),
            (HEADER + LINE + "2024-01-03,11,13\n", "line 3: found 3 fields, expected 6"),
            (HEADER + LINE + LINE.strip() + ",7\n", "line 3: found 7 fields, expected 6"),
            (long + "2024-01-03,11,13,10,12,y\n", "line 5002: found 'y' in column Volume"),
            (long + "\n" * 5000 + "x,1,1,1,1,1\n", "line 10002: found 'x' for a time"),
            ("Open,High,Low,Close\n10,12,9,11\n", "line 1: found columns Open, High, Low, Close"),
            ("Date,Open,High,Low,Close,close\n", "line 1: found more than one column close"),
            (HEADER + "0,1,1,1,1,1\n1,1,1,1,1,1\n", "line 2: found '0' for a time"),
            (HEADER + LINE + "1704240000,1,1,1,1,1\n", "line 3: found '1704240000' for a time"),
            (HEADER + "1704153600,1,1,1,1,1\n" + LINE, "line 3: found '2024-01-02' for a time"),
            ("", "found nothing, expected a header line"),
            (HEADER.encode() + b"\xff", "line 2: found the bytes ff, expected UTF-8"),
        ]
        for text, expected in cases:
            self.write("A.csv", text)
            failure = await self.failure()
            assert failure.reason is Reason.BAD_DATA
            assert failure.message.startswith("A.csv"), failure.message
            assert expected in failure.message, failure.message

    async def test_what_is_told_of_a_file_has_a_length_and_no_control_characters(self) -> None:
        """However long its lines are, and whatever stands in them."""
        for text in (
            "\0" * 50_000,
            "\x1b[2J" + "x" * 50_000,
            HEADER + "2024-01-02," + "x" * 50_000,
        ):
            self.write("A.csv", text + ",1,1,1,1\n")
            message = (await self.failure()).message
            assert len(message) < 1500
            assert message.isprintable()

    async def test_a_file_without_bars_is_empty(self) -> None:
        """A header is no bar."""
        self.write("A.csv", HEADER)
        assert (await self.failure()).reason is Reason.EMPTY


class ParquetTests(FolderTestCase):
    """What a Parquet file may look like."""

    def frame(self, **columns: object) -> pd.DataFrame:
        """Give two bars."""
        values = {"Open": [10, 11], "High": [12, 13], "Low": [9, 10], "Close": [11, 12]}
        return pd.DataFrame({**columns, **values, "Adj Close": [1.0, 2.0], "Volume": [100, 200]})

    async def test_an_index_keeps_its_zone(self) -> None:
        """A saved frame of New York is one of New York."""
        zoned = pd.DatetimeIndex(["2024-01-02", "2024-01-03"], tz="America/New_York", name="Date")
        self.frame().set_index(zoned).to_parquet(self.folder / "A.parquet")
        answer = await self.one()
        assert answer.ticker.time_zone == "America/New_York"
        bars = answer.series["1d"].bars
        assert bars.time.tolist() == [DAY + 5 * 3_600_000, DAY + DAY_MS + 5 * 3_600_000]
        assert bars.ohlcv.tolist() == [[10, 11], [12, 13], [9, 10], [11, 12], [100, 200]]

    async def test_times_come_in_many_ways(self) -> None:
        """A column of any kind that can be a time; without a zone it is UTC."""
        days = ["2024-01-02", "2024-01-03"]
        for name, column in [
            ("date", days),
            ("Datetime", pd.DatetimeIndex(days)),
            ("timestamp", pd.DatetimeIndex(days, tz="UTC")),
            ("Date", pd.DatetimeIndex(days).date),
            ("time", [DAY // 1000, DAY // 1000 + 86_400]),
            ("date", ["2024-01-02 00:00:00+01:00", "2024-01-03T00:00-05:00"]),
        ]:
            self.frame(**{name: column}).to_parquet(self.folder / "A.parquet")
            answer = await self.one()
            assert answer.ticker.time_zone == "UTC"
            assert answer.series["1d"].bars.time.tolist() == [DAY, DAY + DAY_MS], name

    def test_a_parquet_file_is_read_in_no_thread_of_pyarrows_own(self) -> None:
        """One that needs Python when that has ended keeps the process for ever."""
        path = self.folder / "A.parquet"
        self.frame(date=["2024-01-02", "2024-01-03"], note=["a", "b"]).to_parquet(path)
        done = subprocess.run(
            [sys.executable, "-c", _COUNT_THREADS, str(path)],
            check=True,
            capture_output=True,
            timeout=60,
            text=True,
        )
        before, after = done.stdout.split()
        assert before == after

    async def test_a_zone_without_a_name_is_utc(self) -> None:
        """An offset is no place."""
        zoned = pd.DatetimeIndex(["2024-01-02", "2024-01-03"], tz="+02:00", name="Date")
        self.frame().set_index(zoned).to_parquet(self.folder / "A.parquet")
        answer = await self.one()
        assert answer.ticker.time_zone == "UTC"
        assert answer.series["1d"].bars.time[0] == DAY

    async def test_what_is_no_series_of_bars_is_a_failure(self) -> None:
        """It names the file, and what was found in it."""
        days = pd.DatetimeIndex(["2024-01-02", "2024-01-03"])
        for frame, expected in [
            (self.frame(), "expected also date"),
            (self.frame(Date=[1.5, 2.5]), "found float64 for times"),
            (self.frame(Date=["2024-01-02", "soon"]), "expected timestamps"),
            (self.frame(Date=["01/02/2024", "02/02/2024"]), "is not ISO8601"),
            (self.frame(Date=[3, 7]), "7 is no time"),
            (self.frame(Date=days).drop(columns="Close"), "expected also close"),
            (self.frame(Date=days).assign(Close=["11", "x"]), "in column Close"),
        ]:
            frame.to_parquet(self.folder / "A.parquet")
            failure = await self.failure()
            assert failure.reason is Reason.BAD_DATA
            assert failure.message.startswith("A.parquet"), failure.message
            assert expected in failure.message, failure.message
        self.write("A.parquet", b"PAR1 but not really")
        assert "no Parquet file" in (await self.failure()).message

    async def test_without_pyarrow_the_remedy_is_named(self) -> None:
        """It is an extra of the package."""
        self.write("A.parquet", b"PAR1")
        with mock.patch.dict(sys.modules, {"pyarrow": None}):
            failure = await self.failure()
        assert "quoteshm[parquet]" in failure.message


class NumberTests(TestCase):
    """Numbers and whatever else a cell can hold."""

    @given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
    def test_every_number_is_the_nearest_float64(self, numbers: list[float]) -> None:
        """What Python writes comes back bit for bit."""
        lines = "".join(f"2024-01-02,{x!r},{x!r},{x!r},{x!r},1\n" for x in numbers)
        bars, _ = module._read_csv("A.csv", (HEADER + lines).encode(), lambda: False, is_daily=True)
        assert bars.field("close").tolist() == numbers

    @given(st.binary(max_size=200))
    def test_no_file_raises_anything_but_the_error_for_bad_files(self, data: bytes) -> None:
        """Whatever stands in it."""
        for content in (data, HEADER.encode() + data, HEADER.encode() + b"2024-01-02," + data):
            with contextlib.suppress(module._BadFileError):
                module._read_csv("A.csv", content, lambda: False, is_daily=True)
