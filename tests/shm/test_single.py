"""The short path of one tick stores what the ordinary one stores, and takes nothing else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quoteshm.errors import BatchError, SegmentError, UnknownIntervalError
from quoteshm.model import DAY_MS
from quoteshm.shm import table
from quoteshm.shm.batch import Batch, History, Quotes, Ticks
from quoteshm.shm.single import Said, SinglePath, batch_of, said
from quoteshm.shm.writer import SegmentWriter
from tests.shm.helpers import (
    AAPL,
    IBM,
    SONY,
    START_MS,
    FixedClock,
    at,
    make_bars,
    make_quotes,
    spec_in,
    tick,
)

NAN = float("nan")
ALL = slice(0, 3)
ONE = slice(1, 2)


class Pair:
    """Two writers of the same batches, one of which knows no short path."""

    def __init__(self) -> None:
        self.clock = FixedClock()
        self.short, self.plain = (
            SegmentWriter.anonymous(spec_in(Path()), self.clock) for _ in range(2)
        )
        self.plain._single.plan = lambda *_: None  # type: ignore[method-assign]
        for writer in (self.short, self.plain):
            writer.enlist([AAPL, IBM, SONY])
        histories = [History("1d", row, make_bars(0, 5), forming=True) for row in range(3)]
        self.publish(Batch(1, histories=histories))

    def publish(self, batch: Batch) -> None:
        """Publish a batch on both, and compare all that readers see."""
        self.clock.move(7)
        for writer in (self.short, self.plain):
            writer.write_data(batch)
        self.compare()

    def publish_tick(self, tick: Said) -> None:
        """Publish a tick as numbers on one, and as a batch on the other."""
        self.clock.move(7)
        self.short.write_tick(*tick)
        self.plain.write_data(batch_of(*tick))
        self.compare()

    def compare(self) -> None:
        """Compare all that readers see, word for word."""
        mine, its = self.short._map, self.plain._map
        buffer = self.short.epoch >> 1 & 1
        assert mine.epoch == its.epoch
        assert mine.superblock["last_update_ms"] == its.superblock["last_update_ms"]
        for one, other in zip(
            (mine.quotes[buffer], *mine.series[buffer], mine.headers[buffer], *mine.entries),
            (its.quotes[buffer], *its.series[buffer], its.headers[buffer], *its.entries),
            strict=True,
        ):
            assert np.array_equal(one, other)

    def is_short(self, batch: Batch) -> bool:
        """Tell whether a batch takes the short path."""
        writer, tick = self.short, said(batch)
        if tick is None:
            return False
        return writer._single.plan(*tick, writer.epoch, 3, self.clock) is not None

    def close(self) -> None:
        """Let go."""
        self.short.close()
        self.plain.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Give two writers of a small market, whose fifth day is forming."""
    pair = Pair()
    yield pair
    pair.close()


@pytest.mark.parametrize("rows", [ONE, at(1)], ids=["slice", "numbers"])
@pytest.mark.parametrize("quoted", [True, False])
@pytest.mark.parametrize("updated_ms", [START_MS + 5, START_MS + 10**9, 0, -5])
def test_one_tick_is_stored_as_many_are(
    pair: Pair, rows: slice, updated_ms: int, *, quoted: bool
) -> None:
    """With its quote or without, confirmed now, in the future, or long ago."""
    batch = Batch(updated_ms, [tick(rows, 4, 9.0)], quotes=[make_quotes(rows, 9.0)] * quoted)
    assert pair.is_short(batch)
    for _ in range(3):
        pair.publish(batch)


@pytest.mark.parametrize("quote", [None, (START_MS, -1.0, NAN, 3, NAN, 4.5, 6.0)])
@pytest.mark.parametrize("updated_ms", [START_MS + 5, START_MS + 10**9, 0, -5])
def test_numbers_are_stored_as_the_batch_that_says_them(
    pair: Pair, updated_ms: int, quote: tuple[float, ...] | None
) -> None:
    """Whole ones too, and those that are not known."""
    for price in (1.0, 2, NAN):
        pair.publish_tick(
            (1, "1d", (START_MS + 4 * DAY_MS, price, 2, 3, 4, 5e300), quote, updated_ms)
        )
    assert pair.short._dirty_one == (0, 1, quote is not None)


def test_a_tick_without_a_time_is_confirmed_now(pair: Pair) -> None:
    """By one look at the clock, which dates all of it."""
    pair.short.write_tick(1, "1d", (START_MS + 4 * DAY_MS, 1.0, 2.0, 3.0, 4.0, 5.0))
    assert pair.short.last_update_ms == pair.clock.wall
    pair.short.write_tick(1, "1d", (START_MS + 5 * DAY_MS, 1.0, 2.0, 3.0, 4.0, 5.0))
    assert pair.short.last_update_ms == pair.clock.wall


def test_a_quote_is_given_as_numbers_where_there_is_one(pair: Pair) -> None:
    """And nothing of a ticker that has none, or is removed."""
    assert pair.short.quote_of(1) is None
    pair.publish(Batch(2, quotes=[make_quotes(ONE, 9.0)]))
    assert pair.short.quote_of(1) == tuple(make_quotes(ONE, 9.0).values[0])
    pair.publish(Batch(3, removed=[1]))
    assert pair.short.quote_of(1) is None


NUMBER = st.integers(0, 2)
WAYS = ["one", "bare", "all", "open", "quote", "number", "bare number", "open number"]
WHAT = st.tuples(st.sampled_from(WAYS), NUMBER)


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(WHAT, max_size=12))
def test_in_any_company_it_stores_what_the_ordinary_path_stores(
    steps: list[tuple[str, int]],
) -> None:
    """Single ticks, as arrays and as numbers, among ticks of all, new bars, and quotes alone."""
    pair = Pair()
    days = [4, 4, 4]
    for number, (what, row) in enumerate(steps):
        days[row] += what in {"open", "open number"}
        rows: slice = slice(row, row + 1)
        price, quotes = float(number), [make_quotes(rows, float(number))]
        ticks = [tick(rows, days[row], price)]
        if "number" in what:
            bar = START_MS + days[row] * DAY_MS, price, 1.0, 2.0, 3.0, 4.0
            quote = None if what == "bare number" else (number, 1.0, 2.0, 3.0, price, 4.0, 5.0)
            pair.publish_tick((row, "1d", bar, quote, number))
            continue
        if what == "all":
            times = START_MS + np.array(days, np.int64) * DAY_MS
            ticks = [Ticks("1d", ALL, times, np.full((3, 5), price))]
            quotes = [make_quotes(ALL, price)]
        pair.publish(
            Batch(number, [] if what == "quote" else ticks, (), [] if what == "bare" else quotes)
        )
    pair.close()


def a_tick(**changes: object) -> Ticks:
    """Make the tick of one row, but for what is said."""
    one = tick(ONE, 4, 1.0)
    fields = {"interval": "1d", "rows": ONE, "time": one.time, "ohlcv": one.ohlcv, **changes}
    return Ticks(**fields)  # type: ignore[arg-type]


OTHERS: dict[str, Callable[[], Batch]] = {
    "nothing": lambda: Batch(1),
    "two kinds": lambda: Batch(1, [tick(ONE, 4, 1.0), tick(ONE, 4, 1.0, "1m")]),
    "many rows": lambda: Batch(1, [tick(ALL, 4, 1.0)]),
    "no rows": lambda: Batch(1, [tick(slice(1, 1), 4, 1.0)]),
    "a bar that opens": lambda: Batch(1, [tick(ONE, 5, 1.0)]),
    "a series without bars": lambda: Batch(1, [tick(ONE, 4, 1.0, "1m")]),
    "a history too": lambda: Batch(
        1, [tick(ONE, 4, 1.0)], [History("1d", 0, make_bars(0, 1), forming=True, replace=True)]
    ),
    "confirmed too": lambda: Batch(1, [tick(ONE, 4, 1.0)], confirmed=slice(0, 1)),
    "removed too": lambda: Batch(1, [tick(ONE, 4, 1.0)], removed=[0]),
    "another's quote": lambda: Batch(1, [tick(ONE, 4, 1.0)], quotes=[make_quotes(at(2), 1.0)]),
    "two quotes": lambda: Batch(1, [tick(ONE, 4, 1.0)], quotes=[make_quotes(ONE, 1.0)] * 2),
    "an archived quote": lambda: Batch(
        1,
        [tick(ONE, 4, 1.0)],
        quotes=[Quotes(ONE, np.array([1]), np.ones((1, 6)), np.array([1]))],
    ),
}


@pytest.mark.parametrize("other", OTHERS)
def test_every_other_batch_takes_the_ordinary_path(pair: Pair, other: str) -> None:
    """And is published by it."""
    batch = OTHERS[other]()
    assert not pair.is_short(batch)
    pair.publish(batch)


WRONG: dict[str, Callable[[], Batch]] = {
    "late": lambda: Batch(1, [tick(ONE, 3, 1.0)]),
    "an unknown row": lambda: Batch(1, [tick(slice(3, 4), 4, 1.0)]),
    "a negative row": lambda: Batch(1, [a_tick(rows=at(-1))]),
    "a stepped slice": lambda: Batch(1, [a_tick(rows=slice(1, 2, 2))]),
    "an open slice": lambda: Batch(1, [a_tick(rows=slice(2, None))]),
    "small rows": lambda: Batch(1, [a_tick(rows=np.array([1], np.int16))]),
    "time of float": lambda: Batch(1, [a_tick(time=np.array([1.5]))]),
    "two times": lambda: Batch(1, [a_tick(time=np.array([1, 2]))]),
    "small prices": lambda: Batch(1, [a_tick(ohlcv=np.ones((1, 5), np.float32))]),
    "six prices": lambda: Batch(1, [a_tick(ohlcv=np.ones((1, 6)))]),
    "quote: two times": lambda: Batch(
        1, [a_tick()], quotes=[Quotes(ONE, np.array([1, 2]), np.ones((1, 6)))]
    ),
    "quote: five values": lambda: Batch(
        1, [a_tick()], quotes=[Quotes(ONE, np.array([1]), np.ones((1, 5)))]
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_left_to_the_ordinary_path_to_refuse(pair: Pair, wrong: str) -> None:
    """Nothing is stored of it."""
    words = pair.short._map.words
    before = words[: 1 << 14].copy()
    with pytest.raises(BatchError):
        pair.short.write_data(WRONG[wrong]())
    assert np.array_equal(words[: 1 << 14], before)


@pytest.mark.parametrize("updated_ms", [1 << 63, -(1 << 63) - 1])
def test_a_time_that_does_not_fit_fails_before_anything_is_stored(
    pair: Pair, updated_ms: int
) -> None:
    """The rows are packed at an even epoch, and the error is the ordinary path's."""
    epoch = pair.short.epoch
    with pytest.raises(BatchError, match="updated_ms"):
        pair.short.write_data(Batch(updated_ms, [tick(ONE, 4, 1.0)]))
    assert pair.short.epoch == epoch == pair.short._map.epoch


BAR = START_MS + 4 * DAY_MS, 1.0, 2.0, 3.0, 4.0, 5.0
NO_TICK: dict[str, tuple[type[Exception], tuple[Any, ...]]] = {
    "unknown row": (BatchError, (3, "1d", BAR)),
    "negative row": (BatchError, (-1, "1d", BAR)),
    "unknown interval": (UnknownIntervalError, (1, "2d", BAR)),
    "late": (BatchError, (1, "1d", (START_MS + 3 * DAY_MS, *BAR[1:]))),
    "four values": (BatchError, (1, "1d", BAR[:5])),
    "six values": (BatchError, (1, "1d", (*BAR, 6.0))),
    "no values": (BatchError, (1, "1d", ())),
    "a word": (BatchError, (1, "1d", (*BAR[:5], "x"))),
    "a number as a word": (BatchError, (1, "1d", (*BAR[:5], "5"))),
    "none of a value": (BatchError, (1, "1d", (*BAR[:5], None))),
    "none of a bar": (BatchError, (1, "1d", None)),
    "a value too great": (BatchError, (1, "1d", (*BAR[:5], 10**400))),
    "a time that is none": (BatchError, (1, "1d", (NAN, *BAR[1:]))),
    "a bar's time too great": (BatchError, (1, "1d", (1 << 63, *BAR[1:]))),
    "a time in words": (BatchError, (1, "1d", BAR, None, "now")),
    "a row in words": (BatchError, ("1", "1d", BAR)),
    "a row between two": (BatchError, (1.5, "1d", BAR)),
    "a row too great": (BatchError, (1 << 70, "1d", BAR)),
    "no interval": (UnknownIntervalError, (1, ["1d"], BAR)),
    "a quote of five": (BatchError, (1, "1d", BAR, (1, 1.0, 2.0, 3.0, 4.0, 5.0))),
    "a time too great": (BatchError, (1, "1d", BAR, None, 1 << 63)),
    "a quote's time too great": (BatchError, (1, "1d", BAR, (1 << 63, 1, 2, 3, 4, 5, 6))),
}


@pytest.mark.parametrize("name", NO_TICK)
def test_wrong_numbers_are_left_to_the_ordinary_path_to_refuse(pair: Pair, name: str) -> None:
    """Nothing is stored of them."""
    error, tick = NO_TICK[name]
    words = pair.short._map.words
    before = words[: 1 << 14].copy()
    with pytest.raises(error):
        pair.short.write_tick(*tick)
    assert np.array_equal(words[: 1 << 14], before)
    pair.publish_tick((1, "1d", BAR, None, 2))


@pytest.mark.parametrize("number", [np.uint8, np.int8, np.int16, np.uint64, np.intp, bool])
def test_a_row_is_an_integer_of_any_type(pair: Pair, number: type[int]) -> None:
    """Small ones would overflow where offsets are made of them."""
    pair.publish_tick((number(1), "1d", BAR, None, 2))
    pair.publish_tick((1, "1d", (BAR[0], *[6.0] * 5), None, 2))


def test_a_ticker_that_comes_back_takes_the_ordinary_path(pair: Pair) -> None:
    """It is another life: the bars and the quote of the one before are not gone on with."""
    for writer in (pair.short, pair.plain):
        writer.write_data(Batch(2, removed=[1]))
        writer.enlist([IBM])
    pair.publish_tick((1, "1d", BAR, (1, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0), 3))
    assert int(pair.short.series("1d")["count"][1]) == 0


def test_a_closed_writer_takes_no_tick(pair: Pair) -> None:
    """Nor does a forked child's copy: the segment may be another writer's by now."""
    pair.short.close()
    with pytest.raises(SegmentError, match="closed"):
        pair.short.write_tick(1, "1d", BAR)


def lines_of(function: Callable[..., object]) -> list[int]:
    """Give the numbers of the lines of a function's body."""
    code = function.__code__
    lines = {line for _, _, line in code.co_lines() if line}
    return sorted(lines - {code.co_firstlineno})


def dying(function: Callable[..., object], line: int, act: Callable[[], object]) -> bool:
    """Run ``act``, with an exception before a line of a function; tell whether it came to it."""
    came = False

    def local(frame: FrameType, event: str, _: object) -> Any:
        nonlocal came
        if event == "line" and frame.f_lineno == line and not came:
            came = True
            raise KeyboardInterrupt
        return local

    before = sys.gettrace()
    sys.settrace(lambda frame, *_: local if frame.f_code is function.__code__ else None)
    try:
        act()
    except KeyboardInterrupt:
        assert came
    finally:
        sys.settrace(before)
    return came


@pytest.mark.parametrize("is_same", [True, False], ids=["the same row", "another row"])
@pytest.mark.parametrize("line", lines_of(SinglePath.commit))
def test_an_exception_in_the_short_path_is_a_death_and_an_adoption(
    pair: Pair, line: int, *, is_same: bool
) -> None:
    """At each of its lines: all of the tick is published or nothing, and the next one whole."""
    writer = pair.short
    for row in (1, 1 if is_same else 2):
        writer.write_tick(row, "1d", (BAR[0], *[5.0] * 5), (1, *[5.0] * 6))
    epoch = writer.epoch
    came = dying(
        SinglePath.commit,
        line,
        lambda: writer.write_tick(1, "1d", (BAR[0], *[6.0] * 5), (2, *[6.0] * 6)),
    )
    assert writer.epoch % 2 == 0
    assert writer.epoch == writer._map.epoch >= epoch
    assert writer._map.entries[0][:, table.EPOCH].max() % 2 == 0
    there = float(writer.series("1d")["open"][1])
    assert there in {5.0, 6.0}
    assert writer.quote_of(1) == (there,) * 6
    assert came or there == 6.0
    writer.write_tick(0, "1d", (BAR[0], *[7.0] * 5))
    writer.write_tick(0, "1d", (BAR[0], *[8.0] * 5))
    others = 104.0 if is_same else 5.0
    assert writer.series("1d")["open"].tolist() == [8.0, there, others]
    assert writer.quote_of(1) == (there,) * 6
    assert writer._map.entries[0][:, table.EPOCH].max() % 2 == 0
