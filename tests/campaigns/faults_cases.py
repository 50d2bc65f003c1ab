"""The lives of segments and archives in which each system call fails in turn.

``python -m tests.campaigns.faults_cases LIFE...`` runs in a process that has the library of
`faults_shim` preloaded. Each life is lived once with all going well, to count its calls, and then
in a forked child for every call, error and length of the fault. After that, all going well again,
it is seen that

- each step gave what is right, or a typed error, or an older value that was right;
- what was committed is there, whole, and nothing else; a writer goes on, and so does a new one;
- no file is left that should not be, and no descriptor of one.

It prints a line of JSON for each life: how many cases ended in which way, and what was wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import gc
import itertools
import json
import os
import pickle
import shutil
import signal
import sys
import tempfile
import traceback
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import pandas as pd

from quoteshm.clock import SystemClock
from quoteshm.errors import QuoteShmError
from quoteshm.market import archive
from quoteshm.market.archive import (
    Archive,
    FormingBars,
    Loaded,
    MarketRecord,
    SeriesRecord,
)
from quoteshm.model import Bars, SeriesKind, Ticker
from quoteshm.shm import layout, reader
from quoteshm.shm.batch import Batch, History, Quotes
from quoteshm.shm.reader import StockDataReader
from quoteshm.shm.segment import SegmentSpec
from quoteshm.shm.writer import SegmentWriter
from tests.campaigns import stamped
from tests.campaigns.faults_shim import CLOSE_ERRORS, ERRORS, NEVER, Orders
from tests.campaigns.report import ViolationError, check
from tests.campaigns.steps import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Key = tuple[str, str]

KINDS: Final = (SeriesKind("1m", 12), SeriesKind("5m", 6))
CLOCK: Final = SystemClock()
HANG_S: Final = 20
#: What Python calls again by itself (PEP 475): an interruption is never seen.
RETRIED: Final = frozenset(
    {
        *("open", "read", "write", "pread", "pwrite", "ftruncate", "fallocate", "fsync"),
        *("fchmod", "fchown", "fcntl"),
    }
)


# -- what is published -----------------------------------------------------------------------


class Book:
    """What was committed: the bars of each series, the last of them forming."""

    def __init__(self) -> None:
        self.series: dict[Key, Bars] = {}
        self.stamp = 0

    def copy(self) -> Book:
        """Keep what it says now."""
        book = Book()
        book.series, book.stamp = dict(self.series), self.stamp
        return book

    def bars(self, symbol: str, interval: str, first: int, count: int) -> Bars:
        """Make bars from a place on, of the batch that is being made."""
        places = np.arange(first, first + count)
        stamps = np.full(count, self.stamp)
        values = stamped.bars(stamped.salt(symbol, interval), places, stamps, stamps.astype(float))
        return Bars(places * stamped.INTERVALS_MS[interval], values)

    def publish(self, writer: SegmentWriter, *symbols: str, more: int, anew: bool = False) -> None:
        """Commit so many bars more of tickers, behind those they have or in a window anew."""
        self.stamp += 1
        after, histories = dict(self.series), []
        for symbol, kind in itertools.product(symbols, KINDS):
            had = self.series.get((symbol, kind.interval))
            last = -1 if had is None else int(had.time[-1]) // kind.interval_ms
            more = more if had is not None else max(1, more)
            whole = anew or had is None
            first = max(0, last + more + 1 - kind.capacity) if whole else max(0, last)
            bars = self.bars(symbol, kind.interval, first, last + more + 1 - first)
            row = writer.row_of[symbol]
            histories.append(History(kind.interval, row, bars, forming=True, replace=whole))
            if not whole:
                assert had is not None
                bars = Bars(
                    np.append(had.time[:-1], bars.time),
                    np.append(had.ohlcv[:, :-1], bars.ohlcv, axis=1),
                )
            after[symbol, kind.interval] = bars[-kind.capacity :]
        rows = np.array([writer.row_of[symbol] for symbol in symbols], np.intp)
        values = np.array([_quote(after[symbol, "1m"]) for symbol in symbols])
        quotes = Quotes(rows, np.full(len(rows), self.stamp), values)
        writer.write_data(Batch(CLOCK.wall_ms(), histories=histories, quotes=[quotes]))
        self.series = after

    def check(self, reader: StockDataReader) -> None:
        """See that a reader finds just this."""
        symbols = self.symbols
        found = reader.list_tickers()
        check(found == symbols, f"tickers {found}, committed were {symbols}")
        for symbol in symbols:
            quote = reader.get_quote(symbol)
            self.check_quote(quote.ticker, quote.open, quote.price)
            check(not quote.stale, f"{symbol}: a quote of this moment is stale")
        for (symbol, interval), bars in self.series.items():
            frame = reader.get_stock(symbol, interval)
            times = frame.index.as_unit("ms").asi8  # type: ignore[attr-defined]
            self.check_bars(symbol, interval, times, frame.to_numpy().T)
            view = reader.view(symbol, interval)
            closed = bars[:-1][-len(view.time) :] if len(view.time) else bars[:0]
            check(np.array_equal(view.close, closed.field("close")), f"{symbol}: a view")
        if symbols:
            self.check_panel(reader.panel("close", symbols, "1m"))

    @property
    def symbols(self) -> list[str]:
        """The tickers that have a value."""
        return sorted({symbol for symbol, _ in self.series})

    def check_panel(self, panel: pd.DataFrame) -> None:
        """See that closes of minutes are those that were committed last."""
        for symbol in panel.columns:
            found = panel[symbol].dropna().to_numpy()
            good = np.array_equal(found, self.series[symbol, "1m"].field("close"))
            check(good, f"{symbol}: a panel with other closes than were committed")

    def check_quote(self, symbol: str, opened: float, price: float) -> None:
        """See that a quote is the newest one."""
        bar = self.series[symbol, "1m"].ohlcv[:, -1]
        check((opened, price) == (bar[0], bar[3]), f"{symbol}: {price}, committed was {bar[3]}")

    def check_bars(self, symbol: str, interval: str, times: Any, ohlcv: Any) -> None:
        """See that bars are those that were committed last, and whole."""
        name, bars = f"{symbol} {interval}", self.series[symbol, interval]
        salt, step = stamped.salt(symbol, interval), stamped.INTERVALS_MS[interval]
        check(stamped.whole(salt, ohlcv, times, step), f"{name}: a torn bar")
        check(np.array_equal(times, bars.time), f"{name}: {len(times)} bars of {len(bars)}")
        check(np.array_equal(ohlcv, bars.ohlcv), f"{name}: other bars than were committed")


def _quote(bars: Bars) -> list[float]:
    open_, high, low, close, volume = bars.ohlcv[:, -1].tolist()
    return [open_, high, low, close, volume, close]


# -- lives -----------------------------------------------------------------------------------


class Life:
    """Something that is begun, lived while calls fail, and looked at when they do not."""

    def __init__(self, folder: Path, orders: Orders) -> None:
        self.folder, self.orders = folder, orders
        self.typed: list[str] = []
        self.stale = 0

    def prepare(self) -> None:
        """Make what is there before."""

    def live(self) -> None:
        """Do what may fail."""
        raise NotImplementedError

    def verify(self) -> None:
        """See that all is well, or can be made so."""
        raise NotImplementedError

    def tries(self, act: Callable[..., Any], *values: Any, **named: Any) -> Any:
        """Do a step; it may end in a typed error."""
        try:
            return act(*values, **named)
        except QuoteShmError as error:
            self.typed.append(f"{type(error).__name__}: {error}")
            return None

    def left(self) -> set[str]:
        """Give the names of the files that there are."""
        files = (path for path in self.folder.rglob("*") if not path.is_dir())
        return {str(path.relative_to(self.folder)) for path in files}


class SegmentLife(Life):
    """One of a segment's."""

    tickers: Final = ("A", "B")

    def __init__(self, folder: Path, orders: Orders) -> None:
        super().__init__(folder, orders)
        self.spec = SegmentSpec(
            max_tickers=2,
            kinds=KINDS,
            source="synthetic",
            freshness_ms=60_000,
            directory=folder,
            name="shm0",
        )
        self.book = Book()
        self.writer: SegmentWriter | None = None
        self.reader: StockDataReader | None = None

    def attach(self) -> StockDataReader:
        """Make a reader."""
        return StockDataReader(shm_name="shm0", shm_dir=self.folder)

    def began(self) -> SegmentWriter:
        """Make a writer, and some history."""
        writer = SegmentWriter.open(self.spec, CLOCK)
        writer.enlist(Ticker(symbol) for symbol in self.tickers)
        self.book.publish(writer, *self.tickers, more=8)
        self.book.publish(writer, *self.tickers, more=1)
        return writer

    def publish(self, *symbols: str, more: int, anew: bool = False) -> None:
        """Commit, as far as that can be done."""
        writer = self.writer
        if writer is not None and all(symbol in writer.row_of for symbol in symbols):
            self.tries(self.book.publish, writer, *symbols, more=more, anew=anew)

    def open(self) -> None:
        """Open a segment, or make one, and publish what comes next."""
        self.writer = self.tries(SegmentWriter.open, self.spec, CLOCK)
        if self.writer is not None:
            self.tries(self.writer.enlist, [Ticker(symbol) for symbol in self.tickers])
            self.publish(*self.tickers, more=2)
            self.tries(self.writer.heartbeat)

    def work(self) -> None:
        """Do all that a writer does."""
        writer = self.writer
        if writer is None:
            return
        self.tries(writer.enlist, [Ticker(symbol) for symbol in self.tickers])
        self.publish(*self.tickers, more=4)
        with self.orders.unseen():  # it is to see all that comes
            self.reader = self.reader or self.attach()
        self.publish("A", more=0)
        self.publish("A", "B", more=2)
        self.tries(writer.heartbeat)
        self.publish("A", more=1, anew=True)
        self.publish("B", more=9)
        self.tries(writer.enlist, [Ticker("C"), Ticker("D")])  # more than there is room for
        self.publish("C", "D", more=3)
        self.publish("A", "C", more=9, anew=True)
        self.tries(writer.heartbeat)

    def verify(self) -> None:
        """See what readers see, that this writer goes on, and that another one can."""
        reader, self.reader = self.reader, None
        if self.writer is not None:
            with self.attach() as fresh:
                self.book.check(fresh)
            if reader is not None:
                self.book.check(reader)
            self.carry_on(self.writer)
            if reader is not None:
                self.book.check(reader)
            self.writer.close(unlink=False)
            self.writer = None
        self.writer = SegmentWriter.open(self.spec, CLOCK)
        if self.writer.refused:
            raise ViolationError(f"refused: {self.writer.refused}")
        with self.attach() as fresh:
            self.book.check(fresh)
        self.carry_on(self.writer)
        self.writer.close()
        self.writer = reader = None
        check(self.left() == {"shm0.lock"}, f"files are left: {self.left()}")

    def carry_on(self, writer: SegmentWriter) -> None:
        """Write on."""
        symbols = (*self.tickers, "C", "D")
        writer.heartbeat()
        writer.enlist(Ticker(symbol) for symbol in symbols)
        self.book.publish(writer, *symbols, more=2)
        self.book.publish(writer, "B", "D", more=9, anew=True)
        with self.attach() as fresh:
            self.book.check(fresh)
            check(fresh.writer_status() == "live", f"the writer is {fresh.writer_status()}")


class Writing(SegmentLife):
    """A writer from its first segment to a larger one."""

    def live(self) -> None:
        """Open and work."""
        self.writer = self.tries(SegmentWriter.open, self.spec, CLOCK)
        self.work()


class Adopting(SegmentLife):
    """A writer on the segment that another one left when it died."""

    def prepare(self) -> None:
        """Leave one, in the middle of a commit, and a larger one half made."""
        writer = self.began()
        writer._map.cells[layout.EPOCH_WORD] += 1
        (self.folder / "shm0.new").write_bytes(bytes(8192))
        _die(writer)

    def live(self) -> None:
        """Adopt it."""
        self.open()


class Growing(SegmentLife):
    """A writer that wants more than the segment that is there has room for."""

    def prepare(self) -> None:
        """Leave one that is smaller."""
        writer = self.began()
        _die(writer)
        self.spec = replace(self.spec, max_tickers=3)

    live = Adopting.live


class Replacing(SegmentLife):
    """A writer that finds its segment damaged."""

    def prepare(self) -> None:
        """Leave one in which a row cannot be."""
        writer = self.began()
        for buffer in (0, 1):
            writer._map.quotes[buffer][0, 0] = 1 << 40
        _die(writer)
        self.book = Book()

    def live(self) -> None:
        """Open, which begins anew."""
        self.open()

    def verify(self) -> None:
        """See the same as of others, but for that the damage may be there still."""
        if self.writer is None:
            writer = SegmentWriter.open(self.spec, CLOCK)
            writer.close(unlink=False)
        super().verify()


class Closing(SegmentLife):
    """A writer that takes its leave."""

    def prepare(self) -> None:
        """Have one."""
        self.writer = self.began()

    def live(self) -> None:
        """Close it."""
        assert self.writer is not None
        self.tries(self.writer.close)
        self.tries(self.writer.close)
        self.writer = None

    def verify(self) -> None:
        """See that another one can begin, and if the name could not be taken away, carry on."""
        if not self.spec.path.exists():
            self.book = Book()
        super().verify()


class Reading(SegmentLife):
    """A reader, while its segment is replaced by a larger one, and closed."""

    def prepare(self) -> None:
        """Have a writer."""
        self.writer = self.began()
        self.older: list[Book] = []

    def live(self) -> None:
        """Read in every way."""
        self.read()
        with self.orders.unseen():
            assert self.writer is not None
            self.older.append(self.book.copy())
            self.writer.enlist([Ticker("C")])
            self.book.publish(self.writer, "A", "B", "C", more=2)
        self.read()
        with self.orders.unseen():
            _die(self.writer)
            self.spec.path.unlink()
            self.writer = SegmentWriter.open(self.spec, CLOCK)
            self.writer.enlist(Ticker(symbol) for symbol in "ABC")
            self.older.append(self.book.copy())
            self.book.series = {}
            self.book.publish(self.writer, "A", "B", "C", more=5)
        self.read()

    def read(self) -> None:
        """Attach if that is still to be done, and read in every way."""
        self.reader = reader = self.reader or self.tries(self.attach)
        if reader is None:
            return
        for number, symbol in itertools.product(range(2), "AB"):
            self.tries(self.holds, lambda s=symbol: self.read_quote(s))
            self.tries(self.holds, lambda s=symbol, n=number: self.read_bars(s, KINDS[n].interval))
        self.tries(self.holds, self.read_panel)
        self.tries(reader.wait, reader.snapshot_state.epoch, 0)
        self.tries(lambda: reader.info)
        self.tries(reader.snapshot)
        if reader.writer_status() != "live":
            self.typed.append(reader.writer_status())

    def holds(self, read: Callable[[], Callable[[Book], None]]) -> None:
        """See that what is read was committed: last, or to a segment that it has not left yet."""
        compare = read()
        try:
            compare(self.book)
        except ViolationError:
            if not any(_holds(compare, book) for book in self.older):
                raise
            self.stale += 1

    def read_quote(self, symbol: str) -> Callable[[Book], None]:
        """Read a quote."""
        assert self.reader is not None
        quote = self.reader.get_quote(symbol)
        return lambda book: book.check_quote(symbol, quote.open, quote.price)

    def read_bars(self, symbol: str, interval: str) -> Callable[[Book], None]:
        """Read a history, as a copy."""
        assert self.reader is not None
        frame = self.reader.get_stock(symbol, interval)
        times = frame.index.as_unit("ms").asi8  # type: ignore[attr-defined]
        return lambda book: book.check_bars(symbol, interval, times, frame.to_numpy().T)

    def read_panel(self) -> Callable[[Book], None]:
        """Read closes at one epoch."""
        assert self.reader is not None
        panel = self.reader.panel("close", ["A", "B"], "1m")
        view = self.reader.view("A")

        def compare(book: Book) -> None:
            book.check_panel(panel)
            bars = book.series["A", "1m"]
            check(np.array_equal(view.close, bars.field("close")[:-1]), "a view")

        return compare

    def verify(self) -> None:
        """See that the reader finds the newest segment, then the same as of others."""
        self.reader = self.reader or self.attach()
        self.book.check(self.reader)
        check(self.reader.writer_status() == "live", f"it is {self.reader.writer_status()}")
        super().verify()


def _holds(compare: Callable[[Book], None], book: Book) -> bool:
    try:
        compare(book)
    except ViolationError:
        return False
    return True


def _die(writer: SegmentWriter) -> None:
    """Let go of a segment as a killed writer does."""
    assert writer._fd is not None
    assert writer._lock is not None
    writer._fd.close()
    writer._lock.release()


# -- the archive -----------------------------------------------------------------------------


class Archiving(Life):
    """An archive that is written, written again, and read; one of its files is damaged."""

    parquet = True

    def prepare(self) -> None:
        """Have an archive of some series, one of them damaged, and none of the last."""
        self.archive = Archive(self.folder / "state", "synthetic", "none", parquet=self.parquet)
        self.book = Book()
        series, market = (self.series("A"), self.series("B")), self.market()
        stored = self.archive.store([*series, market])
        check(stored == [None] * 3, "a good archive cannot be written")
        bad = self.series("X")
        check(self.archive.store([bad]) == [None], "a good archive cannot be written")
        path = self.archive.path(bad)
        damaged = bytearray(path.read_bytes())
        damaged[len(damaged) // 2] ^= 1
        path.write_bytes(damaged)
        self.stored = {(one.ticker.symbol, one.interval): one for one in series}
        self.before: dict[Key, SeriesRecord | None] = {}
        self.markets = [market]

    def series(self, symbol: str, interval: str = "1m") -> SeriesRecord:
        """Make the record of a series."""
        self.book.stamp += 1
        bars = self.book.bars(symbol, interval, 0, 9 + self.book.stamp)
        return SeriesRecord(Ticker(symbol), interval, bars, self.book.stamp)

    def market(self) -> MarketRecord:
        """Make the record of the quotes."""
        self.book.stamp += 1
        moments, values = np.full(2, self.book.stamp), np.full((2, 6), float(self.book.stamp))
        forming = FormingBars(
            np.full(2, archive.NEVER), np.full((2, 5), np.nan), np.full(2, archive.NEVER)
        )
        tickers = (Ticker("A"), Ticker("B"))
        return MarketRecord(tickers, moments, moments, values, {"1m": forming}, self.book.stamp)

    def live(self) -> None:
        """Write what is new, into a new folder too, and read all of it."""
        self.save([self.series("A"), self.series("A", "5m"), self.market()])
        self.save([self.series("B")])
        self.load()
        found = self.archive.load_series("X", "1m")
        check(found.record is None, "a damaged file is believed")
        self.typed += [note.why for note in found.notes if "it is damaged" not in note.why]

    def save(self, records: Sequence[SeriesRecord | MarketRecord]) -> None:
        """Store; of what fails, the old version or the new one is to be found."""
        for record, problem in zip(records, self.archive.store(records), strict=True):
            check(problem is None or isinstance(problem, OSError), f"{problem!r}")
            if problem is not None:
                self.typed.append(f"stored: {problem}")
            if isinstance(record, MarketRecord):
                self.markets = [record] if problem is None else [*self.markets, record]
            else:
                key = record.ticker.symbol, record.interval
                if problem is None:
                    self.before.pop(key, None)
                else:
                    self.before[key] = self.stored.get(key)
                self.stored[key] = record

    def loaded(self, found: Loaded[Any]) -> Any:
        """See that what is not there is told of; give what is."""
        if found.notes:
            self.typed.extend(note.why for note in found.notes)
        return found.record

    def load(self) -> None:
        """Read all; what is read is the newest version, or what could not be replaced."""
        for key, record in self.stored.items():
            found: SeriesRecord | None = self.loaded(self.archive.load_series(*key))
            if found is None:
                unknown = key in self.before and self.before[key] is None
                check(self.typed or unknown, f"{key} is lost without a word")
                continue
            good = [one for one in (record, self.before.get(key)) if one is not None]
            check(any(_same(found, one) for one in good), f"{key}: a version that is neither")
        market: MarketRecord | None = self.loaded(self.archive.load_market())
        if market is None:
            check(self.typed, "the quotes are lost without a word")
        else:
            known = [one.last_update_ms for one in self.markets]
            check(market.last_update_ms in known, "quotes that are neither")
            whole = np.array_equal(market.ts_ms, np.full(2, market.last_update_ms))
            check(whole, "quotes of two files")

    def verify(self) -> None:
        """See that all is there, can be written anew, and that nothing is left of what failed."""
        told, self.typed = self.typed, []
        self.load()
        check(not self.typed, f"a good file is refused: {self.typed}")
        self.save([self.series("A"), self.series("B"), self.series("A", "5m"), self.market()])
        self.load()
        check(not self.typed, f"it cannot be written: {self.typed}")
        self.archive.load_series("X", "1m")
        self.typed = told
        suffix = self.archive.suffix
        expected = {f"state/synthetic-none/1m/{name}{suffix}" for name in ("A", "B")}
        expected |= {f"state/synthetic-none/5m/A{suffix}", f"state/synthetic-none/quotes{suffix}"}
        expected |= {f"state/synthetic-none/1m/X{suffix}.bad-1"}
        check(self.left() == expected, f"files {self.left()}")


class ArchivingNpz(Archiving):
    """The same without pyarrow."""

    parquet = False


def _same(a: SeriesRecord, b: SeriesRecord) -> bool:
    same = np.array_equal(a.bars.time, b.bars.time) and np.array_equal(a.bars.ohlcv, b.bars.ohlcv)
    return same and a.updated_ms == b.updated_ms


LIVES: Final[dict[str, type[Life]]] = {
    "writing": Writing,
    "adopting": Adopting,
    "growing": Growing,
    "replacing": Replacing,
    "closing": Closing,
    "reading": Reading,
    "archiving": Archiving,
    "archiving-npz": ArchivingNpz,
}


# -- cases -----------------------------------------------------------------------------------


class Fault(NamedTuple):
    """Which calls of a life fail, and how."""

    number: int
    error: int
    length: int  # how many calls

    def __str__(self) -> str:
        held = "" if self.length == 1 else " and all after it"
        return f"{errno.errorcode[self.error]} at call {self.number}{held}"


class Ending(NamedTuple):
    """How a case ended."""

    outcome: str  # right, typed, stale
    violation: str
    calls: list[str]
    failed: int


def faults(calls: Sequence[str]) -> Iterator[Fault]:
    """Give every fault of a life with these calls."""
    for number, name in enumerate(calls, 1):
        for error in CLOSE_ERRORS if name == "close" else ERRORS:
            yield Fault(number, error, 1)
            if error != errno.EINTR:  # not for ever: Python calls again as often as it takes
                yield Fault(number, error, NEVER)


def run_case(kind: type[Life], fault: Fault | None, folder: Path, orders: Orders) -> Ending:
    """Live a life here, with a fault in it."""
    life = kind(folder, orders)
    odd: list[str] = []
    sys.unraisablehook = lambda what: odd.append(f"unraisable {what.exc_value!r}")
    life.prepare()
    orders.watch(folder)
    if fault is not None:
        orders.fail(fault.error, fault.number, fault.length)
    violation = ""
    try:
        life.live()
        calls = [orders.name(number) for number in range(1, orders.calls + 1)]
        failed = orders.failed
        orders.heal()
        orders.folder = b""
        life.verify()
        interrupted = fault is not None and fault.error == errno.EINTR
        if interrupted and life.typed and calls[fault.number - 1] in RETRIED:  # type: ignore[union-attr]
            raise ViolationError(f"an interruption is seen: {life.typed}")  # noqa: TRY301
    except BaseException:  # noqa: BLE001  it is what is looked for
        orders.folder = b""
        calls, failed = [], orders.failed
        violation = traceback.format_exc()
    typed, stale = life.typed, life.stale
    del life
    gc.collect()
    held = _held(folder)
    if not violation and (held or odd):
        violation = f"left open: {held}; {odd}"
    return Ending("typed" if typed else "stale" if stale else "right", violation, calls, failed)


def _held(folder: Path) -> list[str]:
    """Give the files of a folder that are open here."""
    held = []
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208  names only
        with contextlib.suppress(OSError):
            path = os.readlink(f"/proc/self/fd/{name}")  # noqa: PTH115  it is no path
            if path.startswith(f"{folder}"):
                held.append(path)
    return held


class Child:
    """Does something in a forked process, and gives what it gave."""

    def __init__(self, act: Callable[[], Any], most_s: int = 0) -> None:
        read_fd, write_fd = os.pipe()
        self._process = os.fork()
        if self._process == 0:
            signal.alarm(most_s)
            os.close(read_fd)
            with os.fdopen(write_fd, "wb") as file:
                pickle.dump(act(), file)
            os._exit(0)
        os.close(write_fd)
        self._file = os.fdopen(read_fd, "rb")

    def result(self) -> Any:
        """Wait for it."""
        with self._file as file:
            told = file.read()
        _, status = os.waitpid(self._process, 0)
        if status or not told:
            signalled = status & 0x7F
            raise ViolationError(
                f"ended by {signal.Signals(signalled).name if signalled else status >> 8}"
            )
        return pickle.loads(told)  # noqa: S301  of our own child


def run_forked(kind: type[Life], fault: Fault | None, orders: Orders, room: Path) -> Ending:
    """Run a case in a child, whose end it is in any case."""
    folder = Path(tempfile.mkdtemp(dir=room))
    try:
        return Ending(*Child(lambda: tuple(run_case(kind, fault, folder, orders)), HANG_S).result())
    except ViolationError as error:
        return Ending("right", f"{error}", [], 0)
    finally:
        shutil.rmtree(folder)


class Sums(NamedTuple):
    """What came of a life's cases."""

    calls: Counter[str]
    outcomes: Counter[str]
    violations: list[str]


def run_life(
    kind: type[Life], stride: int, seed: int, room: Path, workers: int = os.cpu_count() or 1
) -> Sums:
    """Live a life with every fault, or with one of so many, and sum up."""
    orders = Orders.of_this_process()
    reader._LOOK_EACH_MS = 0  # type: ignore[misc]  # the same calls each time
    gc.freeze()  # what there is already is not looked at in each child
    well = run_forked(kind, None, orders, room)
    sums = Sums(Counter(well.calls), Counter(), [])
    if well.violation or (well.outcome != "right"):
        sums.violations.append(f"without a fault: {well.outcome} {well.violation}")
        return sums
    chosen = list(itertools.islice(faults(well.calls), seed % stride, None, stride))

    def work(first: int) -> tuple[Counter[str], list[str]]:
        outcomes: Counter[str] = Counter()
        violations: list[str] = []
        for fault in chosen[first::workers]:
            ending = run_forked(kind, fault, orders, room)
            violation = ending.violation or ("" if ending.failed else "nothing failed")
            if violation:
                violations.append(f"{fault}, {well.calls[fault.number - 1]}: {violation}")
            else:
                outcomes[ending.outcome] += 1
        return outcomes, violations

    for child in [Child(lambda n=n: work(n)) for n in range(workers)]:  # type: ignore[misc]
        outcomes, violations = child.result()
        sums.outcomes.update(outcomes)
        sums.violations.extend(violations)
    return sums


def main() -> int:
    """Run the cases of some lives."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("life", choices=LIVES, nargs="+")
    parser.add_argument("--stride", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True)
    said = parser.parse_args()
    die_with_parent()
    for name in said.life:
        sums = run_life(LIVES[name], said.stride, said.seed, said.folder)
        print(json.dumps({"life": name, **sums._asdict()}), flush=True)  # noqa: T201  what was asked for
    return 0


if __name__ == "__main__":
    sys.exit(main())
