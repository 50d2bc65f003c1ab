"""Flip bits in every structural field of a segment, and see that nobody is told anything wrong.

A market that uses all there is (both blocks of a series, windows that have slid, removed tickers,
one without bars, one without a quote, quotes that are stale) is left by a dead writer. Then a
field, or several, become another value: one bit flipped, or a few, a number that cannot be, or
anything. A reader that was attached before and one that attaches now read in every way, and a
writer adopts what it finds. Whatever they give is a typed error, or what was published (also the
version before, where the epoch was hit), or that and marked stale.

Prices, volumes and times are values and carry no checksum: no bit is flipped there.
"""

from __future__ import annotations

import functools
import itertools
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import hypothesis
import numpy as np
from hypothesis import strategies as st

from quoteshm.clock import SystemClock
from quoteshm.errors import (
    ForeignFileError,
    HalfMadeError,
    QuoteShmError,
    SegmentError,
    UnknownIntervalError,
    UnknownTickerError,
)
from quoteshm.model import MINUTE_MS, Bars, Quote, SeriesKind, Ticker
from quoteshm.shm import layout, reader
from quoteshm.shm.batch import Batch, History
from quoteshm.shm.reader import StockDataReader
from quoteshm.shm.views import SegmentMap
from quoteshm.shm.writer import SegmentWriter
from tests.campaigns.faults_child import Note, in_child
from tests.campaigns.report import ViolationError, check
from tests.shm.helpers import AAPL, IBM, SONY, Market, at, make_bars, make_quotes, spec_in, tick

if TYPE_CHECKING:
    import pandas as pd

    from tests.campaigns.faults_size import Size

BARE, MUTE, GONE, BACK, OLD = (
    Ticker(name, "USD") for name in ("BARE", "MUTE", "GONE", "BACK", "OLD")
)
TICKERS: Final = (AAPL, IBM, SONY, BARE, GONE, BACK, OLD, MUTE)
NEXT: Final = Ticker("NEXT")  # in the directory, and in no commit
KINDS: Final = (SeriesKind("1d", 8), SeriesKind("1m", 4))
INTERVALS: Final = tuple(kind.interval for kind in KINDS)
SPEC: Final[Mapping[str, Any]] = {"max_tickers": 10, "kinds": KINDS, "freshness_ms": 600_000}
LONG_AGO_MS: Final = 3_600_000

#: Fields that are no structure: prices, volumes, times.
VALUES: Final[Mapping[str, frozenset[str]]] = {
    "quote": frozenset(layout.QUOTE_ROW.names or ()) - {"flags", "flags_check", "changed_epoch"},
    "series": frozenset({"time", "open", "high", "low", "close", "volume", "last_update_ms"}),
}
#: What a field says of itself, where it is only told on: the reads that tell it.
ECHOES: Final[Mapping[tuple[str, str], str]] = {
    ("superblock", "epoch"): "epoch",
    ("header", "last_update_ms"): "epoch",
    ("series", "entry_epoch"): "header",
}
#: Without these a file is not known for a segment that was live: a writer leaves it alone.
NOT_OURS: Final = frozenset({"superblock.magic", "superblock.state"})
#: What a number may become: too small, too large, and one more than fits somewhere.
EDGES: Final = (
    *(0, 1, 2, 3, 4, -1, 1 << 31, 1 << 32, 1 << 63, layout.MAX_EPOCH, layout.MAX_EPOCH + 2),
    *(count + 1 for kind in KINDS for count in (kind.capacity, layout.rows_for(kind.capacity))),
    *(len(TICKERS) - 1, len(TICKERS) + 1, SPEC["max_tickers"] + 1),
)
CASE_S: Final = 10  # the longest a case may take
READ_S: Final = 0.003  # the longest a read may try
CHUNK: Final = 500  # cases of a process


class Field(NamedTuple):
    """One field of one row, and where it is in the file."""

    table: str
    name: str
    row: int
    offset: int
    nbytes: int

    def __str__(self) -> str:
        return f"{self.table}.{self.name}"


Change = tuple[Field, bytes]  # what it becomes
Case = tuple[Change, ...]
Part = Callable[[], str]  # gives its figures
Answer = tuple[object, tuple[bool, ...]]  # a value, and which quotes in it are stale


# -- the market ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scene:
    """A segment that a dead writer left, and what reads of it gave."""

    folder: Path
    image: tuple[tuple[int, bytes], ...]  # the file's data, holes left out
    nbytes: int
    now: Mapping[str, Answer]
    before: Mapping[str, Answer]  # one commit earlier
    fields: tuple[Field, ...]

    @property
    def path(self) -> Path:
        """Where the segment is."""
        return self.folder / "shm0"

    def restore(self) -> None:
        """Put the segment there as it was left, in a new file."""
        self.path.unlink(missing_ok=True)
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        os.ftruncate(fd, self.nbytes)
        for offset, data in self.image:
            os.pwrite(fd, data, offset)
        os.close(fd)

    def change(self, case: Case) -> list[tuple[int, bytes]]:
        """Damage the file; give what was there."""
        fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        there = []
        for field, content in case:
            there.append((field.offset, os.pread(fd, field.nbytes, field.offset)))
            os.pwrite(fd, content, field.offset)
        os.close(fd)
        return there

    def put_back(self, there: Iterable[tuple[int, bytes]]) -> None:
        """Undo the damage."""
        fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        for offset, content in there:
            os.pwrite(fd, content, offset)
        os.close(fd)

    def reader(self) -> StockDataReader:
        """Attach."""
        return StockDataReader(shm_name="shm0", shm_dir=self.folder, timeout_s=READ_S)

    def original(self, field: Field) -> bytes:
        """Give what a field holds."""
        for offset, data in self.image:
            if offset <= field.offset < offset + len(data):
                start = field.offset - offset
                return data[start : start + field.nbytes]
        raise AssertionError(field)


def build(folder: Path) -> Scene:
    """Publish a market that uses all that a segment has, and let its writer die."""
    folder.mkdir()
    market = Market(folder, TICKERS[:-1], **SPEC)
    rows = {ticker.symbol: row for row, ticker in enumerate(TICKERS)}
    market.writer.enlist([MUTE])
    with_bars = [rows[ticker.symbol] for ticker in (AAPL, IBM, SONY, GONE, BACK, OLD, MUTE)]
    for price in (100.0, 300.0, 500.0):  # both blocks, with other bars in each
        market.publish(
            histories=[
                History(
                    kind.interval,
                    row,
                    make_bars(0, 4, price + row, kind.interval_ms),
                    forming=True,
                    replace=True,
                )
                for row in with_bars
                for kind in KINDS
            ]
        )
    for number in range(4, 13):  # the windows slide
        market.publish(
            ticks=[tick(at(*with_bars[:3]), number, 600.0 + number, each) for each in INTERVALS]
        )
    market.publish(removed=[rows["GONE"], rows["BACK"]])
    market.add(BACK, price=50.0)
    market.replace_bars(rows["BACK"], make_bars(0, 3, 50.0))
    old_ms = market.clock.wall_ms() - LONG_AGO_MS
    market.writer.write_data(Batch(old_ms, quotes=[make_quotes(at(rows["OLD"]), 40.0)]))
    with market.reader() as reading:
        before = answers(reading)
        market.publish(
            ticks=[tick(at(rows["AAPL"]), 13, 700.0)],
            histories=[_window(rows["IBM"], make_bars(20, 6, 7.0), forming=False)],
            quotes=[make_quotes(at(rows["AAPL"], rows["6758.T"]), 222.0)],
        )
        now = answers(reading)
        check(reading.get_quote("AAPL").price == 222.0, "the market is another one")
        check(len(reading.get_stock("IBM")) == 6, "the market is another one")
        check(reading.get_quote("OLD").stale, "the old quote is not stale")
    market.writer.enlist([NEXT])
    market.die()
    scene = Scene(folder, *_image(market.path), now, before, tuple(fields(market.writer._map)))
    market.stop()
    return scene


def _window(row: int, bars: Bars, interval: str = "1d", *, forming: bool = True) -> History:
    """Give a whole window, for a series' other block."""
    return History(interval, row, bars, forming=forming, replace=True)


def _image(path: Path) -> tuple[tuple[tuple[int, bytes], ...], int]:
    """Copy a file's data, and tell its size."""
    parts = []
    with path.open("rb") as file:
        size = offset = 0
        size = os.fstat(file.fileno()).st_size
        with suppress(OSError):  # there is no data behind this
            while offset < size:
                start = os.lseek(file.fileno(), offset, os.SEEK_DATA)
                offset = os.lseek(file.fileno(), start, os.SEEK_HOLE)
                parts.append((start, os.pread(file.fileno(), offset - start, start)))
    return tuple(parts), size


def fields(mapped: SegmentMap) -> Iterator[Field]:
    """Name every structural field of a segment."""
    g = mapped.geometry
    yield from _fields("superblock", layout.SUPERBLOCK, -1, 0)
    assert layout.SUPERBLOCK.fields is not None
    kinds = layout.SUPERBLOCK.fields["kinds"][1]
    for kind in g.kinds:
        yield from _fields("kind", layout.KIND, -1, kinds + kind.index * layout.KIND.itemsize)
    for buffer in (0, 1):
        yield from _fields("header", layout.BUFFER_HEADER, -1, g.buffer_offsets[buffer])
    for row in range(len(TICKERS)):
        at_row = g.directory_offset + row * layout.DIRECTORY_ROW.itemsize
        yield from _fields("directory", layout.DIRECTORY_ROW, row, at_row)
        for buffer in (0, 1):
            yield from _fields("quote", layout.QUOTE_ROW, row, mapped.quote_offset(buffer, row))
        for kind in g.kinds:
            yield from _fields("entry", layout.ENTRY, row, 8 * mapped.entry_word(kind.index, row))
            for buffer in (0, 1):
                offset = mapped.series_offset(buffer, kind.index, row)
                yield from _fields("series", layout.SERIES_ROW, row, offset)


def _fields(table: str, record: np.dtype[np.void], row: int, base: int) -> Iterator[Field]:
    for name, (form, offset, *_) in (record.fields or {}).items():
        if name not in VALUES.get(table, ()):
            yield Field(table, name, row, base + offset, form.itemsize)


# -- reading in all ways ---------------------------------------------------------------------


def _frame(frame: pd.DataFrame) -> object:
    index: Any = frame.index
    times = index.as_unit("ms").asi8.tolist(), str(index.tz), index.name
    return times, list(frame.columns), np.ascontiguousarray(frame.to_numpy()).tobytes()


def _quote(quote: Quote) -> tuple[object, bool]:
    return (
        *(getattr(quote, name) for name in Quote.__struct_fields__ if name != "stale"),
    ), quote.stale


def _view(reading: StockDataReader, ticker: str, interval: str) -> object:
    view = reading.view(ticker, interval)
    shown = view.time.tolist(), view.bars.ohlcv.tobytes(), view.ticker, _frame(view.frame)
    check(view.intact, "a view of a segment that nobody writes is not intact")
    return shown


def _snapshot(reading: StockDataReader) -> Answer:
    snapshot = reading.snapshot()
    quotes = [_quote(quote) for quote in snapshot.quotes.values()]
    frame = snapshot.to_frame()
    stale = tuple(is_stale for _, is_stale in quotes)
    check(frame.pop("stale").tolist() == list(stale), "a frame and its quotes differ")
    prices = frame[["price", "open", "high", "low", "prev_close", "volume"]].to_numpy().tobytes()
    return (snapshot.tickers, [value for value, _ in quotes], prices), stale


def _epochs(reading: StockDataReader) -> object:
    snapshot, state = reading.snapshot(), reading.snapshot_state
    return snapshot.epoch, snapshot.last_update_ms, tuple(state)


def _waited(reading: StockDataReader) -> int:
    epoch = reading.wait(1 << 61, 0.0)  # nothing comes after it
    reading.wait(epoch, 0.0005)
    return epoch


def _header(reading: StockDataReader, ticker: str) -> object:
    header = dict(reading[ticker]["header"])
    header.pop("writer_pid")  # of the last one who wrote: for people
    return header


def _status(reading: StockDataReader) -> str:
    status = reading.writer_status()
    check(status in {"live", "hung", "dead", "closed"}, f"the writer is {status}")
    return "one of four"


def calls(
    reading: StockDataReader, symbols: Iterable[str]
) -> Iterator[tuple[str, Callable[[], Answer]]]:
    """Name every way to read: all of the market, and these of its tickers."""

    def plain(load: Callable[..., object], *arguments: object) -> Callable[[], Answer]:
        return lambda: (load(*arguments), ())

    def quoted(symbol: str) -> Answer:
        value, stale = _quote(reading.get_quote(symbol))
        return value, (stale,)

    yield "quotes", lambda: _snapshot(reading)
    yield "tickers", plain(lambda: (reading.list_tickers(), len(reading), list(reading)))
    yield "epoch of a snapshot", plain(_epochs, reading)
    yield "epoch waited for", plain(_waited, reading)
    yield "info", plain(lambda: reading.info._replace(writer_pid=0))
    yield "intervals", plain(lambda: reading.intervals)
    yield "status", plain(_status, reading)
    for interval in INTERVALS:
        yield f"panel {interval}", plain(lambda i=interval: _frame(reading.panel("close", None, i)))
        yield (
            f"panel {interval} last",
            plain(lambda i=interval: _frame(reading.panel("open", None, i, last=2))),
        )
    for symbol in symbols:
        yield f"quote {symbol}", functools.partial(quoted, symbol)
        yield f"contains {symbol}", plain(lambda s=symbol: s in reading)
        yield f"header {symbol}", plain(_header, reading, symbol)
        yield f"item {symbol}", plain(lambda s=symbol: _frame(reading[s]["data"]))
        for interval in INTERVALS:
            yield (
                f"bars {symbol} {interval}",
                plain(lambda s=symbol, i=interval: _frame(reading.get_stock(s, i))),
            )
            yield (
                f"bars {symbol} {interval} last",
                plain(
                    lambda s=symbol, i=interval: _frame(
                        reading.get_stock(s, i, last=3, since=MINUTE_MS)
                    )
                ),
            )
            yield f"view {symbol} {interval}", plain(_view, reading, symbol, interval)


def answers(reading: StockDataReader) -> dict[str, Answer]:
    """Read in every way; what is refused as unknown is an answer too."""
    found: dict[str, Answer] = {}
    for name, call in calls(reading, [ticker.symbol for ticker in TICKERS]):
        try:
            found[name] = call()
        except UnknownTickerError:
            found[name] = "unknown", ()
    return found


# -- judging ---------------------------------------------------------------------------------

RIGHT, STALE, ERROR, WRONG = "right", "stale", "error", "WRONG"
_RANK: Final = (RIGHT, STALE, ERROR, WRONG)


def _judge(call: Callable[[], Answer], good: Sequence[Answer]) -> tuple[str, str]:
    """Make one read; tell what it is, and what is wrong with it."""
    try:
        value, stale = call()
    except UnknownTickerError:
        value, stale = "unknown", ()
    except UnknownIntervalError as error:
        return WRONG, repr(error)
    except QuoteShmError as error:
        return ERROR, repr(error)
    except Exception as error:  # noqa: BLE001  it is what is looked for
        return WRONG, f"raises {error!r}"
    for expected, was_stale in good:
        if value == expected:
            if any(old and not new for new, old in zip(stale, was_stale, strict=True)):
                return WRONG, "a stale quote is passed off as fresh"
            return (RIGHT if stale == was_stale else STALE), ""
    return WRONG, f"gives {value!r:.300}, expected {good[0][0]!r:.300}"


@dataclass
class Tally:
    """What came of the cases so far."""

    counts: Counter[str]
    hit: set[str]
    wrong: dict[str, list[str]]  # by the fields that were changed

    def add(self, case: Case, verdict: str, why: str) -> None:
        """Count a case."""
        self.counts[verdict] += 1
        names = [str(field) for field, _ in case]
        self.hit.update(names)
        if verdict == WRONG:
            self.wrong.setdefault(" and ".join(names), []).append(why)

    def to_json(self) -> object:
        """Give it as what JSON can carry."""
        return [self.counts, sorted(self.hit), self.wrong]

    def take(self, said: Any) -> None:
        """Add what another process has counted."""
        counts, hit, wrong = said
        self.counts.update(counts)
        self.hit.update(hit)
        for name, why in wrong.items():
            self.wrong.setdefault(name, []).extend(why)

    def sum_up(self, of: Iterable[str]) -> str:
        """Give the figures, or stop if anything was wrong."""
        if self.wrong:
            said = [f"{name}: {len(why)} times, {why[0]}" for name, why in self.wrong.items()]
            raise ViolationError(
                f"{self.counts[WRONG]} of {self.counts.total()} wrong: " + "\n".join(said[:40])
            )
        ends = ", ".join(f"{self.counts[end]:,} {end}" for end in (ERROR, RIGHT, STALE))
        names = set(of)
        return (
            f"{self.counts.total():,} cases: {ends}; {len(self.hit & names)} of {len(names)} fields"
        )


def _tell(case: Case) -> str:
    return ", ".join(
        f"{field} of row {field.row} at {field.offset} becomes {content.hex()}"
        for field, content in case
    )


def _symbols(case: Case, number: int) -> list[str]:
    """Choose tickers to read: those that were hit, and another one."""
    rows = dict.fromkeys([field.row for field, _ in case if field.row >= 0])
    return [
        TICKERS[row].symbol for row in [*list(rows)[:2], *({number % len(TICKERS)} - set(rows))]
    ]


def _read(
    scene: Scene, case: Case, reading: StockDataReader, symbols: list[str], skip: Sequence[str] = ()
) -> tuple[str, str]:
    """Read in every way; give the worst that came of it."""
    hit = {(field.table, field.name) for field, _ in case}
    earlier = ("superblock", "epoch") in hit
    echoes = *(ECHOES[one] for one in hit if one in ECHOES), *skip
    worst = RIGHT, ""
    for name, call in calls(reading, symbols):
        good = [scene.now[name], scene.before[name]] if earlier else [scene.now[name]]
        verdict, why = _judge(call, good)
        if verdict == WRONG and name.startswith(echoes) and not why.startswith("raises"):
            continue
        if _RANK.index(verdict) > _RANK.index(worst[0]):
            worst = verdict, f"{name}: {why} ({_tell(case)})"
    return worst


def _read_case(scene: Scene, case: Case, number: int) -> tuple[str, str]:
    """Damage the segment under a reader and before another one; give the worst of both."""
    symbols = _symbols(case, number)
    with scene.reader() as attached:
        attached.panel("close")  # it has looked around
        there = scene.change(case)
        try:
            held = _read(scene, case, attached, symbols)
            try:
                fresh_reader = scene.reader()
            except SegmentError:
                fresh = ERROR, ""
            except Exception as error:  # noqa: BLE001  it is what is looked for
                fresh = WRONG, f"attaching raises {error!r} ({_tell(case)})"
            else:
                with fresh_reader:
                    fresh = _read(scene, case, fresh_reader, symbols)
        finally:
            scene.put_back(there)
    return max(held, fresh, key=lambda one: _RANK.index(one[0]))


# -- adopting --------------------------------------------------------------------------------


def _adopt_case(scene: Scene, case: Case, number: int) -> tuple[str, str]:
    """Let a writer adopt what is damaged, under a reader; then all is right, or gone."""
    scene.restore()
    with scene.reader() as attached:
        attached.panel("close")
        scene.change(case)
        try:
            writer = SegmentWriter.open(spec_in(scene.folder, **SPEC), SystemClock())
        except (ForeignFileError, HalfMadeError) as error:  # it may not be ours to replace
            is_unknown = any(str(field) in NOT_OURS for field, _ in case)
            return (ERROR, "") if is_unknown else (WRONG, f"refused: {error!r} ({_tell(case)})")
        except Exception as error:  # noqa: BLE001  it is what is looked for
            return WRONG, f"a writer raises {error!r} ({_tell(case)})"
        try:
            if writer.adopted and writer.refused is None:
                return _adopted(scene, case, writer, attached, number)
            check(writer.refused is not None, "it is replaced without a word")
            return _replaced(scene, writer, attached)
        except Exception as error:  # noqa: BLE001  it is what is looked for
            return WRONG, f"after adopting: {error!r} ({_tell(case)})"
        finally:
            writer.close()


def _adopted(
    scene: Scene, case: Case, writer: SegmentWriter, attached: StockDataReader, number: int
) -> tuple[str, str]:
    """See that all is there, and stays so while others are published."""
    symbols = list(dict.fromkeys([*_symbols(case, number), "BACK"]))
    skip = ("epoch", "header")  # they go on, as may those of the entries
    with scene.reader() as fresh:
        for reading in (fresh, attached):
            verdict, why = _read(scene, case, reading, symbols, skip)
            if verdict in {ERROR, WRONG}:
                return WRONG, f"after adopting: {why}"
    rows = writer.enlist([AAPL, IBM])
    for price in (901.0, 902.0):  # each buffer once
        window = make_bars(30, 8, price)
        writer.write_data(
            Batch(
                SystemClock().wall_ms(),
                ticks=[tick(rows[:1], 40 + int(price), price)],
                histories=[_window(int(rows[1]), window)],
                quotes=[make_quotes(rows, price)],
            )
        )
        with scene.reader() as fresh:
            for reading in (fresh, attached):
                check(reading.get_quote("IBM").price == price, "a quote is not there")
                check(reading.get_stock("AAPL")["Open"].iloc[-1] == price, "a bar is not there")
                found = reading.get_stock("IBM").to_numpy()
                check(np.array_equal(found, window.ohlcv.T), "a window is another one")
                others = [symbol for symbol in symbols if symbol not in {"AAPL", "IBM"}]
                for name, call in calls(reading, others):
                    if name.split()[-1] in others or (
                        len(name.split()) > 1 and name.split()[1] in others
                    ):
                        if name.startswith(skip):
                            continue
                        verdict, why = _judge(call, [scene.now[name], scene.before[name]])
                        check(verdict in {RIGHT, STALE}, f"{name}: {why}")
    return RIGHT, ""


def _replaced(scene: Scene, writer: SegmentWriter, attached: StockDataReader) -> tuple[str, str]:
    """See that all is gone, also for those who had it, and that what comes is there."""
    with scene.reader() as fresh:
        for reading in (fresh, attached):
            with suppress(SegmentError):  # the first look may be at what is damaged
                reading.list_tickers()
            check(reading.list_tickers() == [], "what was refused is still told")
            check(reading.info.instance == writer.instance, "a reader has stayed behind")
        window = make_bars(0, 8, 900.0)
        rows = writer.enlist(TICKERS)
        writer.write_data(
            Batch(
                SystemClock().wall_ms(),
                histories=[_window(row, window) for row in rows.tolist()],
                quotes=[make_quotes(rows, 900.0)],
            )
        )
        for reading in (fresh, attached):
            check(len(reading.list_tickers()) == len(TICKERS), "a ticker is not there")
            for ticker in TICKERS:
                check(reading.get_quote(ticker.symbol).price == 900.0, "a quote is not there")
                found = reading.get_stock(ticker.symbol).to_numpy()
                check(np.array_equal(found, window.ohlcv.T), "a window is another one")
    return ERROR, ""


# -- cases -----------------------------------------------------------------------------------


def _number(field: Field, value: int) -> bytes:
    return (value % (1 << 8 * field.nbytes)).to_bytes(field.nbytes, "little")


@st.composite
def changes(draw: st.DrawFn, scene: Scene, choice: Sequence[Sequence[Field]]) -> Change:
    """Choose a field, and what it becomes."""
    field = draw(st.sampled_from(draw(st.sampled_from(choice))))
    good = scene.original(field)
    match draw(st.sampled_from(("bit", "bits", "edge", "more", "any"))):
        case "bit":
            flip = 1 << draw(st.integers(0, 8 * field.nbytes - 1))
            return field, _number(field, int.from_bytes(good, "little") ^ flip)
        case "bits":
            bits = draw(
                st.lists(st.integers(0, 8 * field.nbytes - 1), min_size=2, max_size=8, unique=True)
            )
            return field, _number(
                field, int.from_bytes(good, "little") ^ sum(1 << bit for bit in bits)
            )
        case "edge":
            return field, _number(field, draw(st.sampled_from(EDGES)))
        case "more":
            return field, _number(
                field, int.from_bytes(good, "little") + draw(st.sampled_from((1, -1, 2, -2)))
            )
        case _:
            return field, draw(st.binary(min_size=field.nbytes, max_size=field.nbytes))


def each_once(scene: Scene, choice: Sequence[Sequence[Field]]) -> Iterator[Case]:
    """Give, for each field by its name, one case of one bit, another row each time."""
    for number, group in enumerate(choice):
        field = group[number % len(group)]
        flip = 1 << number % (8 * field.nbytes)
        yield ((field, _number(field, int.from_bytes(scene.original(field), "little") ^ flip)),)


def _choice(fields: Iterable[Field], tables: Sequence[str]) -> list[list[Field]]:
    """Give the fields of tables, those of one name together: so that each name comes as often."""
    named: dict[str, list[Field]] = {}
    for field in fields:
        if field.table in tables:
            named.setdefault(str(field), []).append(field)
    return list(named.values())


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is done, to which tables, and how often."""

    act: Callable[[Scene, Case, int], tuple[str, str]]
    tables: Sequence[str]
    at_once: int  # fields
    count: int  # cases that are made up, besides one of each field
    seed: int
    stride: int = 1  # every so many fields have that one


def _cases(note: Note, scene: Scene, choice: Sequence[Sequence[Field]], task: Task) -> object:
    """Do so many cases; give what came of them."""
    tally, numbers = Tally(Counter(), set(), {}), itertools.count()
    reader._LOOK_EACH_MS = 0  # type: ignore[misc]  # a successor is looked for at once

    def one(case: Case) -> None:
        case = tuple(change for change in case if change[1] != scene.original(change[0]))
        if not case:
            return
        note.write(_tell(case))
        signal.alarm(CASE_S)
        tally.add(case, *task.act(scene, case, next(numbers)))

    @hypothesis.seed(task.seed)
    @hypothesis.settings(
        max_examples=task.count,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(
        st.lists(changes(scene, choice), min_size=task.at_once, max_size=task.at_once)
    )
    def look(case: list[Change]) -> None:
        one(tuple({field.offset: (field, content) for field, content in case}.values()))

    if task.at_once == 1:
        for case in itertools.islice(each_once(scene, choice), 0, None, task.stride):
            one(case)
    look()
    return tally.to_json()


def _campaign(scene: Scene, task: Task) -> str:
    """Do cases in several processes, one after the other; give the figures."""
    choice = _choice(scene.fields, task.tables)
    scene.restore()
    blocks = scene.path.stat().st_blocks
    tally = Tally(Counter(), set(), {})
    for done in range(0, task.count, CHUNK):
        part = replace(task, count=min(CHUNK, task.count - done), seed=task.seed + done)
        do = functools.partial(_cases, scene=scene, choice=choice, task=part)
        tally.take(in_child(do, timeout_s=300))
    if task.act is _read_case:
        check(scene.path.stat().st_blocks == blocks, "a reader has allocated memory")
    return tally.sum_up(str(group[0]) for group in choice)


TABLES: Final = {
    "superblock": ("superblock", "kind"),
    "directory": ("directory",),
    "entries": ("entry",),
    "buffer headers": ("header",),
    "quote rows": ("quote",),
    "series rows": ("series",),
}
ALL: Final = tuple(itertools.chain.from_iterable(TABLES.values()))
FEW: Final = 1000  # flips: fewer are not told apart by table


def parts(size: Size, seed: int, folder: Path) -> list[tuple[str, Callable[[], str]]]:
    """Give the parts of the campaign: of each table, then of several at once, then adoptions."""
    scene = functools.cache(lambda: build(folder / "bits"))
    is_short = size.flips < FEW
    tables = {"every table": ALL} if is_short else TABLES
    share = max(10, size.flips // 25)

    def part(act: Callable[..., tuple[str, str]], names: Sequence[str], at_once: int = 1) -> Part:
        count = share if act is _read_case else max(10, share // 3)
        stride = 1 if not is_short else 2 if act is _read_case else 3
        task = Task(act=act, tables=names, at_once=at_once, count=count, seed=seed, stride=stride)
        return lambda: _campaign(scene(), task)

    return [
        *((f"bits flipped: {name}", part(_read_case, some)) for name, some in tables.items()),
        ("bits flipped: two fields at once", part(_read_case, ALL, 2)),
        *((f"adopting: {name}", part(_adopt_case, some)) for name, some in tables.items()),
        ("adopting: two fields at once", part(_adopt_case, ALL, 2)),
    ]
