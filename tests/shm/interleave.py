"""Every interleaving of the real writer's stores with the real reader's loads.

The writer runs as it ships, traced opcode by opcode; what an opcode changed in the segment is a
store, and a store of many words is taken apart into words, in either order. The reader runs as
it ships too; its load points (see `attachment`) let the test put any number of those stores before
each load.

All interleavings are explored, or so many of them by lot, but for those that cannot differ: a load
is tried at its earliest place, and again behind each later store that changes a word it loads. Each
run must give a value that was published, whole, not older than what was published when the run
began, and not newer than what was published when it ended.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import quoteshm.shm
from quoteshm.clock import SystemClock
from quoteshm.errors import UnknownTickerError
from quoteshm.model import Bars, SeriesKind, Ticker
from quoteshm.shm import layout
from quoteshm.shm.attachment import Attachment
from quoteshm.shm.batch import Batch, History, Quotes, Ticks
from quoteshm.shm.reader import StockDataReader
from quoteshm.shm.segment import SegmentSpec
from quoteshm.shm.writer import SegmentWriter

TRACED = str(Path(quoteshm.shm.__file__).parent)
KIND = SeriesKind("1d", 3)
DAY_MS = 86_400_000
#: More interleavings than this are not what a scene was made for.
LIMIT = 20_000
Words = NDArray[np.uint64]


def reader_of(spec: SegmentSpec) -> StockDataReader:
    """Give a reader that has time: whole commits are replayed between two of its loads."""
    return StockDataReader(shm_name=spec.name, shm_dir=spec.directory, timeout_s=60)


BOOT_MS = SystemClock().boot_ms()


class FixedClock:
    """A clock that stands; what it stamps is fresh, so that readers take their fast ways."""

    def wall_ms(self) -> int:
        """Give a fixed Unix time."""
        return 1_700_000_000_000

    def boot_ms(self) -> int:
        """Give a fixed time since boot."""
        return BOOT_MS


# -- stores ----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Store:
    """Words that one step of the writer changes."""

    places: Words
    contents: Words
    published: int = 0  # how many commits are in force behind it


def record(words: Words, act: Callable[[], object]) -> list[tuple[Words, Words]]:
    """Run ``act``, and list what each opcode of the package changed in ``words``."""
    shadow, stores = words.copy(), list[tuple[Words, Words]]()

    def look() -> None:
        if (changed := np.flatnonzero(words != shadow)).size:
            stores.append((changed.astype(np.uint64), words[changed].copy()))
            shadow[changed] = words[changed]

    def local(frame: FrameType, event: str, _arg: object) -> Any:
        if event in ("opcode", "return"):
            look()
        return local

    def trace(frame: FrameType, _event: str, _arg: object) -> Any:
        if not frame.f_code.co_filename.startswith(TRACED):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return local

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        act()
    finally:
        sys.settrace(before)
    look()
    return stores


@dataclass(frozen=True)
class Cut:
    """How bulk stores are taken apart: into so many parts at most, from which end on."""

    parts: int
    backwards: bool = False

    def apart(self, places: Words, values: Words) -> list[Store]:
        """Take one store apart."""
        chunks = np.array_split(np.arange(len(places)), min(self.parts, len(places)))
        stores = [Store(places[chunk], values[chunk]) for chunk in chunks]
        return stores[::-1] if self.backwards else stores


WORDS, HALVES, BACKWARDS, WHOLE = Cut(1 << 30), Cut(2), Cut(2, backwards=True), Cut(1)


# -- the market as it should be --------------------------------------------------------------


@dataclass(eq=False)
class Market:
    """A naive model: bars and quotes by ticker, and how each commit is said to the writer."""

    number: int = 0  # of the commit
    bars: dict[str, list[tuple[float, ...]]] = field(default_factory=dict)
    prices: dict[str, float] = field(default_factory=dict)

    def copy(self) -> Market:
        """Give a model that goes on by itself."""
        return Market(
            self.number, {name: list(bars) for name, bars in self.bars.items()}, dict(self.prices)
        )

    def _bar(self, name: str, day: int) -> tuple[float, ...]:
        value = float(1000 * self.number + 10 * day + (name == "B"))
        return (day * DAY_MS, value, value + 1, value - 1, value + 0.5, value * 2)

    def value(self, name: str) -> Any:
        """Give what a reader must see of a ticker's history."""
        return tuple(self.bars[name]) if name in self.bars else None

    def _quotes(self, rows: NDArray[np.intp], names: Sequence[str]) -> Quotes:
        for name in names:
            self.prices[name] = float(7000 * self.number + (name == "B"))
        values = np.repeat([[self.prices[name]] for name in names], 6, axis=1)
        return Quotes(rows, np.full(len(names), 5, np.int64), values)

    def tick(self, writer: SegmentWriter, names: str, *, opens: bool = False) -> None:
        """Publish one bar for each ticker: the forming one again, or the next."""
        self.number += 1
        rows = writer.enlist([Ticker(name, "USD") for name in names])
        times, values = [], []
        for name in names:
            bars = self.bars.setdefault(name, [])
            day = int(bars[-1][0]) // DAY_MS + opens if bars else 1
            if bars and not opens:
                bars.pop()
            bars.append(self._bar(name, day))
            del bars[: -KIND.capacity]
            times.append(int(bars[-1][0]))
            values.append(bars[-1][1:])
        ticks = Ticks("1d", rows, np.array(times, np.int64), np.array(values))
        writer.write_data(Batch(self.number, ticks=[ticks], quotes=[self._quotes(rows, names)]))

    def rewrite(self, writer: SegmentWriter, names: str) -> None:
        """Publish whole windows anew."""
        self.number += 1
        rows = writer.enlist([Ticker(name, "USD") for name in names])
        histories = []
        for row, name in zip(rows.tolist(), names, strict=True):
            first = int(self.bars[name][0][0]) // DAY_MS if name in self.bars else 1
            bars = [self._bar(name, first + i) for i in range(KIND.capacity)]
            self.bars[name] = bars
            table = np.array(bars)
            data = Bars(table[:, 0].astype(np.int64), np.ascontiguousarray(table[:, 1:].T))
            histories.append(History("1d", row, data, forming=True, replace=True))
        quotes = self._quotes(rows, names)
        writer.write_data(Batch(self.number, histories=histories, quotes=[quotes]))

    def remove(self, writer: SegmentWriter, name: str) -> None:
        """Take a ticker out of the market."""
        self.number += 1
        del self.bars[name], self.prices[name]
        writer.write_data(Batch(self.number, removed=[writer.row_of[name]]))


Step = Callable[[SegmentWriter, Market], None]


# -- reading ---------------------------------------------------------------------------------


class Schedule:
    """Puts the writer's stores before the reader's loads."""

    def __init__(self, words: Words, stores: Sequence[Store], script: Sequence[int]) -> None:
        self.words, self.stores, self.script = words, stores, script
        self.position = 0
        self.loads: list[tuple[int, frozenset[int]]] = []

    def before_load(self, places: Iterable[int]) -> None:
        """Make the stores that the script wants before this load."""
        turn = len(self.loads)
        if turn < len(self.script):
            self.advance(self.script[turn])
        self.loads.append((self.position, frozenset(places)))

    def advance(self, position: int) -> None:
        """Make all stores up to a position."""
        for store in self.stores[self.position : position]:
            self.words[store.places] = store.contents
        self.position = max(self.position, position)

    @property
    def published(self) -> int:
        """How many commits are in force by now."""
        return self.stores[self.position - 1].published if self.position else 0

    def branches(self) -> Iterable[tuple[int, ...]]:
        """Give the scripts that differ from this run in one later load, and matter."""
        stay = [position for position, _ in self.loads]
        for turn in range(len(self.script), len(self.loads)):
            position, places = self.loads[turn]
            for later in range(position, len(self.stores)):
                if not places.isdisjoint(self.stores[later].places.tolist()):
                    yield (*stay[:turn], later + 1)


class _Cells:
    """The segment's cells, stepping the writer before each load."""

    def __init__(self, cells: memoryview, schedule: Schedule) -> None:
        self._cells, self._schedule = cells, schedule

    def __getitem__(self, place: int) -> int:
        self._schedule.before_load((place,))
        value: int = self._cells[place]
        return value


def step(attached: Attachment, real: Attachment, schedule: Schedule) -> None:
    """Put a schedule under an attachment's load points."""
    base = attached.map.words.ctypes.data

    def words_of(array: NDArray[Any]) -> Iterable[int]:
        offsets = np.zeros(array.shape, np.intp)
        for axis, stride in enumerate(array.strides):
            offsets += np.indices(array.shape)[axis] * stride
        places: list[int] = ((array.ctypes.data - base + offsets.ravel()) // 8).tolist()
        return places

    def load_row(buffer: Any, offset: int) -> tuple[Any, ...]:
        schedule.before_load(range(offset // 8, offset // 8 + layout.ROW_WORDS))
        return real.load_row(buffer, offset)

    def load_series(buffer: Any, offset: int) -> tuple[Any, ...]:
        schedule.before_load(range(offset // 8, offset // 8 + layout.ROW_WORDS))
        return real.load_series(buffer, offset)

    def copy(to: NDArray[Any], source: NDArray[Any]) -> None:
        schedule.before_load(words_of(source))
        np.copyto(to, source)

    def take(source: NDArray[Any], places: NDArray[np.intp]) -> NDArray[Any]:
        first = (source.ctypes.data - base) // 8
        schedule.before_load((first + places).tolist())
        return np.take(source, places)

    def take_runs(source: NDArray[Any], starts: NDArray[np.intp], count: int) -> NDArray[Any]:
        first = (source.ctypes.data - base) // 8
        schedule.before_load((first + starts[:, None] + np.arange(count)).ravel().tolist())
        return real.take_runs(source, starts, count)

    attached.cells = _Cells(real.map.cells, schedule)  # type: ignore[assignment]
    attached.load_row = load_row  # type: ignore[assignment]
    attached.load_series = load_series  # type: ignore[assignment]
    attached.copy, attached.take = copy, take  # type: ignore[assignment]
    attached.take_runs = take_runs


Read = Callable[[StockDataReader, str], Any]


def read_quote(reader: StockDataReader, name: str) -> Any:
    """Read one quote."""
    try:
        quote = reader.get_quote(name)
    except UnknownTickerError:
        return None
    assert quote.open == quote.high == quote.low == quote.volume == quote.prev_close == quote.price
    return quote.price


def read_quote_long(reader: StockDataReader, name: str) -> Any:
    """Read one quote the way that a reader goes while commits come in."""
    try:
        return reader._get_quote(name).price
    except UnknownTickerError:
        return None


def read_history(reader: StockDataReader, name: str) -> Any:
    """Copy one history."""
    try:
        frame = reader.get_stock(name)
    except UnknownTickerError:
        return None
    rows = zip(_times(frame), frame.to_numpy().tolist(), strict=True)
    return tuple((t, *row) for t, row in rows)


def _times(frame: pd.DataFrame) -> list[int]:
    index = frame.index
    assert isinstance(index, pd.DatetimeIndex)
    return index.asi8.tolist()


def read_view(reader: StockDataReader, name: str) -> Any:
    """View one history, and use it while it is intact."""
    while True:
        try:
            view = reader.view(name)
        except UnknownTickerError:
            return None
        attached = reader._attached
        assert attached is not None
        times, values = np.empty(len(view.time), np.int64), np.empty((5, len(view.time)))
        attached.copy(times, view.time)
        attached.copy(values, view.bars.ohlcv)
        if view.intact:
            return tuple(
                (t, *row) for t, row in zip(times.tolist(), values.T.tolist(), strict=True)
            )


def read_snapshot(reader: StockDataReader, _name: str) -> Any:
    """Copy the market."""
    return tuple((name, quote.price) for name, quote in reader.snapshot().quotes.items())


def read_panel(reader: StockDataReader, _name: str) -> Any:
    """Copy the closes of all tickers."""
    frame = reader.panel("close")
    times = _times(frame)
    return tuple(
        (name, tuple((t, close) for t, close in zip(times, closes, strict=True) if close == close))  # noqa: PLR0124 (not so of NaN)
        for name, closes in zip(frame.columns, frame.to_numpy().T.tolist(), strict=True)
    )


#: What each way of reading must give, by the model.
EXPECTED: dict[Read, Callable[[Market, str], Any]] = {
    read_quote: lambda market, name: market.prices.get(name),
    read_quote_long: lambda market, name: market.prices.get(name),
    read_history: lambda market, name: market.value(name),
    read_view: lambda market, name: (bars := market.value(name)) and bars[:-1],
    read_snapshot: lambda market, _: tuple(sorted(market.prices.items())),
    read_panel: lambda market, _: tuple(
        (name, tuple((bar[0], bar[4]) for bar in bars))
        for name, bars in sorted(market.bars.items())
    ),
}


# -- a run of the writer, and what can be read on the way --------------------------------------


@dataclass(frozen=True)
class Lots:
    """How many interleavings are tried where there are too many, and what draws them."""

    most: int
    rng: Random


class Film:
    """The writer's stores over some steps, from a first image of the segment on."""

    def __init__(self, folder: Path, cut: Cut = WORDS) -> None:
        self.spec = SegmentSpec(
            max_tickers=2,
            kinds=(KIND,),
            source="test",
            freshness_ms=layout.LOW_HALF,  # 49 days
            directory=folder,
        )
        self.cut = cut
        self.writer = SegmentWriter.open(self.spec, FixedClock())
        self.market = Market()
        self.stores: list[Store] = []
        self.image = self.writer._map.words.copy()
        self.states = [self.market.copy()]

    def prepare(self, *steps: Step) -> None:
        """Make steps that are not filmed."""
        for one in steps:
            one(self.writer, self.market)
        self.image = self.writer._map.words.copy()
        self.states = [self.market.copy()]

    def shoot(self, *steps: Step) -> None:
        """Film steps, each of which ends in a commit."""
        for one in steps:
            self._film(self.writer._map.words, functools.partial(one, self.writer, self.market))
            self.states.append(self.market.copy())
        self._number()

    def _film(self, words: Words, act: Callable[[], object]) -> None:
        for places, values in record(words, act):
            self.stores += self.cut.apart(places, values)

    def _number(self) -> None:
        """Say behind each store how many commits are in force: where the epoch became even."""
        buffer = int(self.image[layout.EPOCH_WORD]) >> 1
        numbered, published = [], 0
        for store in self.stores:
            if layout.EPOCH_WORD in store.places:
                epoch = int(store.contents[store.places == layout.EPOCH_WORD][0])
                if epoch % 2 == 0 and (epoch >> 1) & 1 != buffer & 1:
                    published, buffer = published + 1, epoch >> 1
            numbered.append(Store(store.places, store.contents, published))
        self.stores = numbered

    def die_and_be_adopted(self, position: int) -> None:
        """Kill the writer behind a store, and let a new one take over; film that too."""
        del self.stores[position:], self.states[self.published_at(position) + 1 :]
        self.market = self.states[-1].copy()
        words = self.writer._map.words
        self.writer.close(unlink=False)
        self._show(words, position)
        self._film(words, self._adopt)
        assert self.writer.adopted

    def _adopt(self) -> None:
        self.writer = SegmentWriter.open(self.spec, FixedClock())

    def _show(self, words: Words, position: int) -> None:
        """Make the segment what it was behind a store."""
        words[:] = self.image
        for store in self.stores[:position]:
            words[store.places] = store.contents

    def published_at(self, position: int) -> int:
        """Give how many commits are in force behind a store."""
        return self.stores[position - 1].published if position else 0

    def check_reads(self, published: int) -> None:
        """Read everything in every way; all of it must be the state of that commit."""
        with reader_of(self.spec) as reader:
            for read, expected in EXPECTED.items():
                for name in "AB":
                    seen, wanted = read(reader, name), expected(self.states[published], name)
                    assert seen == wanted, f"{read.__name__} {name}: {seen}, expected {wanted}"

    def freeze(self, position: int) -> None:
        """Leave the segment as a writer that died behind a store does."""
        words = self.writer._map.words
        self.writer.close(unlink=False)
        self._show(words, position)

    def explore(
        self, read: Read, *, times: int = 2, known: bool = False, lots: Lots | None = None
    ) -> int:
        """Read ticker A so many times at every interleaving; give how many there were.

        With ``known`` the reader has read it before: it takes its fast ways from the first load on.
        With ``lots`` only so many interleavings are tried, in an order that is drawn.
        """
        name = "A"
        expected = [EXPECTED[read](state, name) for state in self.states]
        real = Attachment(self.spec.path)
        words = self.writer._map.words
        todo: list[tuple[int, ...]] = [()]
        final, runs = words.copy(), 0
        try:
            while todo and (lots is None or runs < lots.most):
                if lots is not None:
                    drawn = lots.rng.randrange(len(todo))
                    todo[drawn], todo[-1] = todo[-1], todo[drawn]
                script = todo.pop()
                words[:] = self.image
                schedule = Schedule(words, self.stores, script)
                reader = reader_of(self.spec)
                if known:
                    read(reader, name)
                    read(reader, name)
                attached = reader._attachment()
                attached.learn(self._counted())
                step(attached, real, schedule)
                self._check_run(functools.partial(read, reader, name), times, expected, schedule)
                reader.close()
                todo += schedule.branches()
                runs += 1
                assert runs < LIMIT, "too many interleavings"
        finally:
            words[:] = final
        return runs

    def _check_run(
        self,
        read: Callable[[], Any],
        times: int,
        expected: list[Any],
        schedule: Schedule,
    ) -> None:
        """Read by one schedule: whole, of its time, and never back in time."""
        oldest = 0
        for _ in range(times):
            turn = len(schedule.loads)
            seen = read()
            begun = self.published_at(schedule.loads[turn][0])
            ended = min(self.published_at(schedule.position), len(expected) - 1)
            of = [i for i in range(ended + 1) if expected[i] == seen]
            where = f"{seen}, of {expected}, by {schedule.script}"
            assert of, f"torn or mixed: {where}"
            assert max(of) >= begun, f"old: {where}"
            assert max(of) >= oldest, f"back in time: {where}"
            oldest = min(of)

    def _counted(self) -> int:
        """Give how many tickers there were in the first image."""
        epoch = int(self.image[layout.EPOCH_WORD])
        offset = self.writer._map.geometry.buffer_offsets[epoch >> 1 & 1]
        return int(self.image[offset // 8]) & layout.LOW_HALF

    def close(self) -> None:
        """Take the segment away."""
        self.writer.close()
