"""What a source answers becomes commits: quotes, histories, and no ticker in another's way."""

from __future__ import annotations

import gc
import sys
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.logger import globalLogPublisher

from quoteshm.errors import BatchError, SegmentFullError
from quoteshm.market.quotes import QuoteCache
from quoteshm.model import DAY_MS, MINUTE_MS, SeriesKind, Ticker
from quoteshm.service.publisher import Outcome, Publisher
from quoteshm.shm import layout
from quoteshm.shm.segment import SegmentSpec
from quoteshm.shm.writer import SegmentWriter
from quoteshm.sources.base import Known, LastPrice, Series, TickerBars, TickerTicks, Unchanged
from tests.published import NOW_MS, FakeClock
from tests.service.desk import TODAY, Desk, bar, days, ticks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from quoteshm.shm.batch import Batch
    from quoteshm.wire.push import Restated

NAN = float("nan")
MIXED = (SeriesKind("1d", 10), SeriesKind("1m", 100))


# -- no room -------------------------------------------------------------------------------


def test_who_finds_no_room_is_left_out_and_the_others_are_published(tmp_path: Path) -> None:
    """In two commits at the most, however many they are: it is known who needs room."""
    clock = FakeClock()
    names = tuple(f"T{n}" for n in range(12))
    spec = SegmentSpec(
        max_tickers=16,
        kinds=(SeriesKind("1d", 10),),
        source="synthetic",
        freshness_ms=1000,
        directory=tmp_path,
    )
    writer = SegmentWriter.open(spec, clock)
    publisher = Publisher(writer, clock)
    publisher.publish([ticks(names, [5.0] * 12)])  # forming bars need no block
    publisher.publish([days(name, 1.0, 2.0, last=TODAY) for name in names[:3]])
    full = SegmentFullError(spec.path, 4096, 0)
    with (
        mock.patch("quoteshm.shm.segment.allocate", side_effect=full) as allocate,
        mock.patch.object(writer, "write_data", wraps=writer.write_data) as written,
    ):
        tomorrow = (days("NEW", 7.0, 8.0), ticks(names, [6.0] * 12, TODAY + DAY_MS))
        outcome = publisher.publish(tomorrow)
    assert set(outcome.refused) == {*names[3:], "NEW"}
    assert outcome.refused["NEW"] == str(full)
    assert written.call_count == 2
    assert allocate.call_count == 1  # one that finds none is enough
    quotes = writer.quotes()
    assert quotes["price"].tolist() == [6.0] * 3 + [5.0] * 9 + [0.0]
    assert publisher.counts.refused == 10
    assert not publisher.publish(tomorrow).refused  # there is room again
    assert publisher.writer.quotes()["price"].tolist() == [6.0] * 12 + [8.0]
    writer.close()


# -- bars of one ticker ----------------------------------------------------------------------


def test_a_history_gives_bars_and_a_quote() -> None:
    """The price is the last close, of a bar that is made until now."""
    desk = Desk()

    outcome = desk.publisher.publish([days("AAPL", 1.0, 2.0, 3.0)])

    assert (outcome.epoch, outcome.refused) == (2, {})
    assert desk.closes("AAPL") == [1.0, 2.0, 3.0]
    quote = desk.quote("AAPL")
    assert (quote["open"], quote["high"], quote["low"]) == (2.0, 5.0, 0.0)
    assert (quote["price"], quote["volume"], quote["prev_close"]) == (3.0, 30.0, 2.0)
    assert (quote["ts_ms"], quote["updated_ms"]) == (NOW_MS, NOW_MS)


def test_a_series_that_a_smaller_segment_had_cut_is_asked_for_as_a_whole(tmp_path: Path) -> None:
    """Once; one that was not full there has all there is."""
    clock = FakeClock()

    def publisher(capacity: int) -> Publisher:
        kinds = (SeriesKind("1d", capacity),)
        spec = SegmentSpec(
            max_tickers=4, kinds=kinds, source="synthetic", freshness_ms=1000, directory=tmp_path
        )
        return Publisher(SegmentWriter.open(spec, clock), clock)

    small = publisher(3)
    small.publish([days("AAPL", 1.0, 2.0, 3.0, 4.0), days("NEW", 7.0, 8.0)])
    assert small.known("AAPL", "1d") is not None
    small.writer.close(unlink=False)
    large = publisher(10)
    assert large.known("AAPL", "1d") is None
    assert large.known("NEW", "1d") is not None
    large.publish([days("AAPL", 1.0, 2.0, 3.0, 4.0)])
    assert large.known("AAPL", "1d") is not None
    bars_now, _ = large.writer.history(large.writer.row_of["AAPL"], "1d")
    assert list(bars_now.field("close")) == [1.0, 2.0, 3.0, 4.0]
    large.writer.close()


def test_the_same_answer_again_only_confirms() -> None:
    """Nothing changed but the age: also the time of the price stays."""
    desk = Desk()
    desk.publisher.publish([days("AAPL", 1.0, 2.0)])
    before = desk.quote("AAPL")
    desk.clock.now_ms += 60_000

    desk.publisher.publish([days("AAPL", 1.0, 2.0)])

    after = desk.quote("AAPL")
    assert after["updated_ms"] == before["updated_ms"] + 60_000
    assert after["ts_ms"] == before["ts_ms"]
    assert int(desk.writer.series("1d")["changed_epoch"][0]) == 2


def test_a_later_answer_extends_what_is_published() -> None:
    """The forming bar moves, then closes behind a new one: the previous close follows."""
    desk = Desk()
    desk.publisher.publish([days("AAPL", 1.0, 2.0)])

    desk.publisher.publish([days("AAPL", 2.5)])
    moved = desk.quote("AAPL")
    desk.clock.now_ms += DAY_MS
    desk.publisher.publish([days("AAPL", 2.6, 7.0, last=TODAY + DAY_MS)])

    assert (moved["price"], moved["prev_close"]) == (2.5, 1.0)
    assert desk.closes("AAPL") == [1.0, 2.6, 7.0]
    assert (desk.quote("AAPL")["price"], desk.quote("AAPL")["prev_close"]) == (7.0, 2.6)


def test_a_restatement_is_applied_and_counted() -> None:
    """A closed bar that the vendor changed, in one commit with the rest."""
    desk = Desk()
    desk.publisher.publish([days("AAPL", 1.0, 2.0, 3.0)])

    desk.publisher.publish([days("AAPL", 1.0, 2.2, 3.0)])

    assert desk.closes("AAPL") == [1.0, 2.2, 3.0]
    assert desk.publisher.counts.restated == 1
    assert int(desk.writer.series("1d")["restatements"][0]) == 1
    assert desk.quote("AAPL")["prev_close"] == 2.2


def test_what_is_restated_carries_the_cause_that_the_source_gives() -> None:
    """A split, a dividend, or whatever it is that vendors do."""
    desk = Desk()
    told: list[str] = []
    desk.publisher.announce = lambda restated: told.extend(one.cause for one in restated)
    desk.publisher.publish([days("A", 1.0, 2.0, 3.0)])
    desk.publisher.publish([days("A", 1.0, 2.5, 3.0)])
    split = replace(days("A", 0.5, 1.25, 1.5), whole=True, cause="split")
    desk.publisher.publish([split])
    assert told == ["vendor", "split"]
    assert desk.closes("A") == [0.5, 1.25, 1.5]


def test_one_interval_may_be_the_whole_by_itself() -> None:
    """What it lacks goes; of the others what is published stays."""
    desk = Desk()
    desk.publisher.publish([days("A", 1.0, 2.0, 3.0)])
    for whole_of, closes in [({"1m"}, [1.0, 2.0, 4.0]), ({"1d"}, [4.0])]:
        desk.publisher.publish([replace(days("A", 4.0), whole_of=frozenset(whole_of))])
        assert desk.closes("A") == closes


def test_a_restatement_never_comes_without_its_quote() -> None:
    """Changed, or confirmed with the same price: those who are told go by the quotes' rows."""
    desk = Desk(MIXED)
    cache, told = QuoteCache(desk.writer, desk.clock), list[list[str]]()

    def announce(restated: Sequence[Restated]) -> None:
        rows = [desk.writer.row_of[one.ticker] for one in restated]
        assert set(rows) <= set(cache.changed(desk.writer.epoch - 1).tolist())
        told.append([one.ticker for one in restated])

    desk.publisher.announce = announce
    names = ("AAPL", "MSFT", "NVDA")
    last = LastPrice(5.0, NOW_MS, 4.0, 6.0, 3.0, 50.0, 1.0)
    desk.publisher.publish([days(name, 1.0, 2.0, 3.0, 4.0) for name in names])
    desk.publisher.publish([days("AAPL", 1.0, 2.2, 3.0, 4.0)])  # the quote stays as it is
    desk.publisher.publish([days("AAPL", 1.0, 2.2, 3.3, 4.0), days("MSFT", 1.1, 2.0, 3.0, 4.0)])
    desk.publisher.publish([ticks(names[:2], [4.5, 4.5]), days("NVDA", 1.0, 2.2, 3.0, 4.0)])
    for price in (1.5, 1.6):  # as the source has it, and the same again
        answer = days("NVDA", price, 2.2, 3.0, 4.0)
        desk.publisher.publish([replace(answer, last_price=last)])
    with mock.patch.object(desk.writer, "write_data", wraps=desk.writer.write_data) as written:
        written.side_effect = [BatchError("not together"), mock.DEFAULT, mock.DEFAULT]
        desk.publisher.publish([days(name, 1.7, 2.7, 3.7, 4.7) for name in names[:2]])

    assert told == [
        [],
        ["AAPL"],
        ["AAPL", "MSFT"],
        ["NVDA"],
        ["NVDA"],
        ["NVDA"],
        ["AAPL"],
        ["MSFT"],
    ]


def test_what_is_no_bar_is_dropped_and_counted() -> None:
    """A last row without prices is common; the one before it is the newest then, and closed."""
    desk = Desk()
    answer = days("AAPL", 1.0, 2.0, NAN)

    desk.publisher.publish([answer, days("MSFT", 5.0)])

    assert desk.closes("AAPL") == [1.0, 2.0]
    assert desk.publisher.known("AAPL", "1d") == Known(TODAY - DAY_MS, 2.0, forming=False)
    assert desk.publisher.counts.dropped == 1


def test_a_ticker_without_one_good_bar_harms_no_other() -> None:
    """It is named; the others of its group are published."""
    desk = Desk()

    outcome = desk.publisher.publish([days("AAPL", 1.0), days("BAD", NAN), days("MSFT", 2.0)])

    assert list(outcome.refused) == ["BAD"]
    assert (desk.quote("AAPL")["price"], desk.quote("MSFT")["price"]) == (1.0, 2.0)
    assert desk.publisher.known("BAD", "1d") is None


def test_a_symbol_that_does_not_fit_harms_no_other() -> None:
    """The writer refuses it; so do the halves of every group that it is in."""
    desk = Desk()

    outcome = desk.publisher.publish([days("x" * 33, 1.0), days("MSFT", 2.0)])

    assert list(outcome.refused) == ["x" * 33]
    assert desk.quote("MSFT")["price"] == 2.0


def test_a_ticker_twice_in_a_group_is_taken_one_after_the_other() -> None:
    """The second answer is compared with what the first one published."""
    desk = Desk()

    desk.publisher.publish([days("AAPL", 1.0, 2.0), days("AAPL", 2.0, 3.0, last=TODAY + DAY_MS)])

    assert desk.closes("AAPL") == [1.0, 2.0, 3.0]


def test_another_currency_or_time_zone_is_said_once() -> None:
    """A row keeps what it was listed with, also when it comes back."""
    desk = Desk()
    events: list[dict[str, Any]] = []
    globalLogPublisher.addObserver(events.append)  # type: ignore[arg-type]
    try:
        desk.publisher.publish([days("A", 1.0)])
        french = replace(days("A", 1.0), ticker=Ticker("A", "EUR", "Europe/Paris"))
        desk.publisher.publish([french])
        desk.publisher.publish([french])
        unsaid = replace(days("A", 1.0), ticker=Ticker("A", "", ""))
        desk.publisher.publish([unsaid])
        desk.publisher.remove(["A"])
        desk.publisher.publish([french])
    finally:
        globalLogPublisher.removeObserver(events.append)  # type: ignore[arg-type]
    said = [one["said"] for one in events if "said" in one]
    words = "currency EUR, published as USD and time zone Europe/Paris, published as UTC"
    assert said == [words, words]
    assert desk.writer.tickers[0] == Ticker("A", "USD")


# -- ticks of many tickers -------------------------------------------------------------------


def test_ticks_move_bars_and_quotes_of_all_tickers_at_once() -> None:
    """One commit; price and bar from the tick, the previous close from before."""
    desk = Desk()
    tickers = ("A", "B", "C")
    desk.publisher.publish([days(ticker, 1.0, 2.0) for ticker in tickers])

    outcome = desk.publisher.publish([ticks(tickers, [3.0, 4.0, 5.0])])

    assert outcome.epoch == 4
    assert [desk.closes(ticker) for ticker in tickers] == [[1.0, 3.0], [1.0, 4.0], [1.0, 5.0]]
    quote = desk.quote("B")
    assert (quote["price"], quote["open"], quote["prev_close"]) == (4.0, 3.0, 1.0)
    assert quote["ts_ms"] == NOW_MS - 5


def test_rows_are_looked_up_once_for_each_tuple() -> None:
    """Contiguous ones become a slice; another tuple is another lookup."""
    desk = Desk()
    tickers = ("A", "B", "C")
    batches: list[Batch] = []
    write_data = desk.writer.write_data

    def noting(batch: Batch) -> int:
        batches.append(batch)
        return write_data(batch)

    with mock.patch.object(desk.writer, "write_data", noting):
        desk.publisher.publish([ticks(tickers, [1.0, 2.0, 3.0])])
        desk.publisher.publish([ticks(tickers, [1.5, 2.5, 3.5])])
        desk.publisher.publish([ticks(("C", "A"), [4.0, 5.0])])

    rows: list[Any] = [batch.ticks[0].rows for batch in batches]
    assert rows[0] == rows[1] == slice(0, 3)
    assert np.array_equal(rows[2], [2, 0])
    assert [desk.quote(ticker)["price"] for ticker in tickers] == [5.0, 2.5, 4.0]


def test_late_and_broken_ticks_are_left_out_and_counted() -> None:
    """An older bar, and one without a price, keep none of the others back."""
    desk = Desk()
    tickers = ("A", "B", "C")
    desk.publisher.publish([days(ticker, 1.0, 2.0) for ticker in tickers])
    late = ticks(tickers, [3.0, NAN, 5.0])
    late.time[0] -= DAY_MS

    outcome = desk.publisher.publish([late])

    assert outcome.refused == {}
    assert [desk.quote(ticker)["price"] for ticker in tickers] == [2.0, 2.0, 5.0]
    assert (desk.publisher.counts.late, desk.publisher.counts.dropped) == (1, 1)


def test_a_commit_that_is_refused_is_tried_again_in_halves() -> None:
    """One ticker at fault among many: all the others are published, as few commits as can be."""
    desk = Desk()
    tickers = tuple("ABCDEFGH")
    write_data, calls = desk.writer.write_data, count()

    def refusing(batch: Batch) -> int:
        next(calls)
        for one in batch.ticks:
            if (one.ohlcv[:, 3] == 6.0).any():
                message = "found 6"
                raise BatchError(message)
        return write_data(batch)

    with mock.patch.object(desk.writer, "write_data", refusing):
        outcome = desk.publisher.publish([ticks(tickers, range(1, 9))])

    assert outcome.refused == {"F": "found 6"}
    prices = [desk.quote(ticker)["price"] for ticker in tickers if ticker != "F"]
    assert prices == [1.0, 2.0, 3.0, 4.0, 5.0, 7.0, 8.0]
    assert next(calls) == 7


def test_a_fault_of_the_program_harms_one_ticker_too() -> None:
    """Whatever it is, the others are published."""
    desk = Desk()
    nothing: Any = None
    broken = TickerBars(Ticker("B"), {"1d": Series(nothing, forming=False)})
    with mock.patch.object(desk.publisher, "log"):
        outcome = desk.publisher.publish([days("A", 1.0), broken, days("C", 3.0)])

    assert list(outcome.refused) == ["B"]
    assert (desk.quote("A")["price"], desk.quote("C")["price"]) == (1.0, 3.0)


# -- confirming, knowing, removing -----------------------------------------------------------


def test_unchanged_tickers_are_confirmed() -> None:
    """Their age is new, nothing else; those without a quote have nothing to confirm."""
    desk = Desk()
    desk.publisher.publish([days("A", 1.0), days("B", 2.0)])
    desk.clock.now_ms += 60_000

    outcome = desk.publisher.publish([Unchanged(("B", "NEW"))])

    assert outcome.refused == {}
    assert desk.quote("B")["updated_ms"] == NOW_MS + 60_000
    assert desk.quote("A")["updated_ms"] == NOW_MS
    assert desk.quote("B")["price"] == 2.0


def test_the_newest_published_bar_is_known() -> None:
    """To the source that asks: by ticker and interval."""
    desk = Desk()
    desk.publisher.publish([days("A", 1.0, 2.0), days("B", 3.0, forming=False)])

    known = desk.publisher.known

    before = TODAY - DAY_MS, 1.0
    assert known("A", "1d") == Known(TODAY, 2.0, True, tuple(bar(2.0)), before)  # noqa: FBT003
    assert known("B", "1d") == Known(TODAY, 3.0, forming=False)
    assert known("A", "1m") is None
    assert known("Z", "1d") is None


def test_tickers_that_are_not_wanted_are_removed_in_one_commit() -> None:
    """After an adoption; one that is wanted again begins anew."""
    desk = Desk()
    desk.publisher.publish([days(ticker, 1.0, 2.0) for ticker in "ABCD"])

    removed = desk.publisher.retire(["B"])

    assert removed == ["A", "C", "D"]
    assert desk.writer.epoch == 4
    flags = desk.writer.quotes()["flags"].tolist()
    assert [bool(flag & layout.REMOVED) for flag in flags] == [True, False, True, True]
    assert desk.publisher.retire(["B"]) == []
    assert desk.publisher.known("A", "1d") is None

    desk.publisher.publish([days("A", 5.0)])

    assert desk.closes("A") == [5.0]
    assert np.isnan(desk.quote("A")["prev_close"])


def test_a_bar_brings_no_removed_ticker_back() -> None:
    """It would stand behind a history of before; a history does, in the ticker's own row."""
    desk = Desk()
    desk.publisher.publish([days(ticker, 1.0, 2.0) for ticker in "ABC"])

    assert desk.publisher.remove(["C", "A", "NOPE"]) == ["C", "A"]
    assert desk.publisher.remove(["C"]) == []
    for tickers in (("A", "B", "C"), ("C", "B"), ("C",), ("C", "NEW")):
        desk.publisher.publish([ticks(tickers, [9.0] * len(tickers))])
        flags = desk.writer.quotes()["flags"].tolist()
        assert flags[:3] == [layout.REMOVED, layout.PRESENT, layout.REMOVED]
    assert flags[3] == layout.PRESENT

    desk.publisher.publish([days("C", 5.0)])
    assert desk.writer.quotes()["flags"].tolist()[2] == layout.PRESENT
    assert len(desk.writer.history(2, "1d")[0]) == 1


def test_bars_are_counted_by_interval() -> None:
    """None of what was removed, or never published."""
    desk = Desk()
    desk.publisher.publish([days("A", 1.0, 2.0), days("B", 1.0)])
    assert desk.publisher.bar_counts(("NOPE", "B", "A"))["1d"] == [0, 1, 2]
    desk.publisher.remove(["A"])
    assert desk.publisher.bar_counts(("A", "B"))["1d"] == [0, 1]
    assert desk.publisher.bar_counts(())["1d"] == []


# -- a tick of one ticker ----------------------------------------------------------------------


def test_a_single_tick_that_is_none_is_refused_as_any_is() -> None:
    """Whatever it is made of: `publish` does not raise."""
    desk = Desk()
    desk.publisher.publish([days("A", 1.0, 2.0)])
    broken = TickerTicks(("A",), "1d", [TODAY], [bar(3.0)], NOW_MS)  # type: ignore[arg-type]

    outcome = desk.publisher.publish([broken])

    assert list(outcome.refused) == ["A"]
    assert desk.closes("A") == [1.0, 2.0]


VALUE = st.sampled_from([0.0, 1.0, 2.5, 30.0, -1.0, NAN, float("inf"), -float("inf")])
BAR = st.tuples(VALUE, VALUE, VALUE, VALUE, VALUE) | st.sampled_from([bar(9.0), bar(50.0)])
STEP = st.tuples(
    st.sampled_from(["A", "B", "C", "D"]),  # with a history, closed, with a tick alone, unknown
    st.sampled_from(["1d", "1m"]),
    st.integers(-1, 1),
    BAR,
)


@settings(max_examples=150, deadline=None)
@given(steps=st.lists(STEP, max_size=8))
def test_a_tick_of_one_ticker_is_published_as_those_of_many_are(
    steps: list[tuple[str, str, int, tuple[float, ...]]],
) -> None:
    """Word for word, whatever it says: bars that go on, open, are late, or break a rule."""
    short, plain = Desk(MIXED), Desk(MIXED)
    for desk in (short, plain):
        closed = days("B", 1.0, 2.0, forming=False, last=TODAY - DAY_MS)
        desk.publisher.publish([days("A", 1.0, 20.0), closed])
        desk.publisher.publish([ticks(("C", "A"), [3.0, 4.0], TODAY, "1m")])
    with mock.patch.object(plain.publisher, "_single", return_value=None):
        for ticker, interval, number, values in steps:
            time = TODAY + number * (DAY_MS if interval == "1d" else MINUTE_MS)
            tick = TickerTicks(
                (ticker,), interval, np.array([time]), np.array([values]), NOW_MS - 5
            )
            outcomes = [desk.publisher.publish([tick]) for desk in (short, plain)]
            assert outcomes[0] == outcomes[1]
            for desk in (short, plain):
                desk.clock.now_ms += 3
    assert short.publisher.counts == plain.publisher.counts
    assert short.writer.quotes().tobytes() == plain.writer.quotes().tobytes()
    for kind in MIXED:
        mine, its = (desk.writer.series(kind.interval) for desk in (short, plain))
        assert mine.tobytes() == its.tobytes()


def test_a_tick_of_one_ticker_makes_no_arrays() -> None:
    """A bar that goes on is written as numbers; its subscribers are told."""
    desk, told = Desk(MIXED), mock.Mock()
    desk.publisher.publish([days("A", 1.0, 20.0)])
    desk.publisher.announce = told
    with mock.patch.object(desk.writer, "write_data", side_effect=AssertionError):
        outcome = desk.publisher.publish([ticks(("A",), [30.0])])
    assert outcome == Outcome(desk.writer.epoch)
    assert desk.quote("A")["price"] == 30.0
    told.assert_called_once_with(())


@pytest.mark.parametrize(
    ("values", "time"),
    [
        (np.ones((1, 5), np.float32), np.array([TODAY])),
        (np.ones((1, 6)), np.array([TODAY])),
        (np.ones((1, 5)), np.array([float(TODAY)])),
        (np.ones((2, 5)), np.array([TODAY, TODAY])),
    ],
)
def test_a_tick_of_another_form_than_it_should_have_is_refused(
    values: NDArray[Any], time: NDArray[Any]
) -> None:
    """Whatever a source makes of its arrays: it harms that ticker alone."""
    desk = Desk()
    desk.publisher.publish([days("A", 1.0, 20.0)])
    outcome = desk.publisher.publish([TickerTicks(("A",), "1d", time, values, NOW_MS)])
    assert list(outcome.refused) == ["A"]
    assert desk.quote("A")["price"] == 20.0


def test_a_tick_that_the_writer_refuses_is_the_tickers_failure() -> None:
    """As one in a commit of many is."""
    desk = Desk()
    desk.publisher.publish([days("A", 1.0, 20.0)])
    error = BatchError("no")
    with mock.patch.object(desk.writer, "write_tick", side_effect=error):
        outcome = desk.publisher.publish([ticks(("A",), [30.0])])
    assert outcome.refused == {"A": "no"}
    assert desk.publisher.counts.refused == 1


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("verbose", [False, True])
def test_commits_are_logged_where_somebody_listens(*, many: bool, verbose: bool) -> None:
    """A line each, at debug one for each ticker too; and none is made where nobody does."""
    desk, names = Desk(), ("A", "B") if many else ("A",)
    desk.publisher.publish([days(name, 1.0, 20.0) for name in names])
    for quiet in (False, True):
        desk.publisher.quiet, desk.publisher.verbose = quiet, verbose
        with mock.patch.object(Publisher, "log") as log:
            desk.publisher.publish([ticks(names, [30.0] * len(names))])
        assert log.info.call_count == (not quiet)
        assert log.debug.call_count == (len(names) if verbose and not quiet else 0)


@pytest.mark.parametrize("again", [("A", "B"), ("B",)], ids=["the same tuple", "another"])
def test_a_ticker_of_several_intervals_is_logged_once(again: tuple[str, ...]) -> None:
    """A commit of two tickers says two, however many series they have."""
    names = ("A", "B")
    again = names if again == names else again
    desk = Desk()
    desk.publisher.verbose = True
    desk.publisher.publish([days(name, 1.0, 20.0) for name in names])
    minute = ticks(again, [30.0] * len(again), interval="1m")
    with mock.patch.object(Publisher, "log") as log:
        desk.publisher.publish([ticks(names, [30.0, 30.0]), minute])
    assert [call.kwargs["count"] for call in log.info.call_args_list] == [2]
    assert [call.kwargs["ticker"] for call in log.debug.call_args_list] == ["A", "B"]


def test_nothing_on_the_ticks_path_costs_by_the_ticker() -> None:
    """As many calls, of Python's and of C's, for sixteen tickers as for two."""
    counts = set()
    for n in (2, 5, 16):
        desk = Desk()
        tickers = tuple(f"T{i}" for i in range(n))
        desk.publisher.publish([ticks(tickers, [1.0] * n)])
        answer, calls = ticks(tickers, [2.0] * n), count()

        gc.disable()  # what it calls is other tests' leftovers
        sys.setprofile(lambda *_, calls=calls: next(calls))
        try:
            desk.publisher.publish([answer])
        finally:
            sys.setprofile(None)
            gc.enable()
        counts.add(next(calls))

    assert len(counts) == 1
