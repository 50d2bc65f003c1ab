"""Bars: what is let through, and what of an answer is published."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from quoteshm.market.bars import (
    FIRST_MS,
    LAST_MS,
    Action,
    Flaw,
    Merge,
    Problem,
    is_sound,
    merge,
    sound,
    validate,
)
from quoteshm.model import DAY_MS, Bars

if TYPE_CHECKING:
    from collections.abc import Iterable

NAN, INF = float("nan"), float("inf")
GOOD = (10.0, 12.0, 9.0, 11.0, 100.0)


def columns(rows: Iterable[tuple[float, ...]]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Give bars, one tuple each, as columns."""
    return np.array(list(rows), np.float64).reshape(-1, 5).T.copy()


def times(*days: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Give midnights, by the number of the day."""
    return np.array(days, np.int64) * DAY_MS


def flaws(problems: Iterable[Problem]) -> dict[Flaw, tuple[int, int]]:
    """Give count and day of the first, by flaw."""
    return {one.flaw: (one.count, one.time_ms // DAY_MS) for one in problems}


# -- validate ----------------------------------------------------------------------------------


def test_good_bars_come_back_as_they_are_without_a_copy() -> None:
    """Nothing is copied where nothing is wrong."""
    time, ohlcv = times(1, 2, 3), columns([GOOD] * 3)
    bars, problems = validate(time, ohlcv)
    assert bars.time is time
    assert bars.ohlcv is ohlcv
    assert problems == ()


def test_no_bars_are_fine() -> None:
    """An empty answer has no problems."""
    bars, problems = validate(times(), columns([]))
    assert len(bars) == 0
    assert problems == ()


@pytest.mark.parametrize(
    ("bar", "flaw"),
    [
        ((NAN, 12, 9, 11, 100), Flaw.BAD_PRICE),
        ((10, 12, 9, NAN, 100), Flaw.BAD_PRICE),
        ((10, INF, 9, 11, 100), Flaw.BAD_PRICE),
        ((10, 12, -INF, 11, 100), Flaw.BAD_PRICE),
        ((NAN, NAN, NAN, NAN, NAN), Flaw.BAD_PRICE),
        ((10, 10.5, 9, 11, 100), Flaw.BAD_RANGE),
        ((10, 12, 10.5, 11, 100), Flaw.BAD_RANGE),
        ((10, 9, 12, 11, 100), Flaw.BAD_RANGE),
        ((10, 12, 9, 11, -1), Flaw.BAD_VOLUME),
        ((10, 12, 9, 11, INF), Flaw.BAD_VOLUME),
    ],
)
def test_a_bar_that_breaks_a_rule_is_dropped_and_told(bar: tuple[float, ...], flaw: Flaw) -> None:
    """The bad bar goes, with its reason and time; its neighbours stay as they are."""
    time, ohlcv = times(1, 2, 3), columns([GOOD, bar, GOOD])
    bars, problems = validate(time, ohlcv)
    assert bars.time.tolist() == times(1, 3).tolist()
    assert bars.ohlcv.T.tolist() == [list(GOOD)] * 2
    assert flaws(problems) == {flaw: (1, 2)}
    assert not flaw.is_repaired


def test_a_last_bar_without_prices_is_dropped() -> None:
    """Vendors end an answer with a row that has no values yet."""
    bars, problems = validate(times(1, 2), columns([GOOD, (NAN,) * 5]))
    assert bars.time.tolist() == times(1).tolist()
    assert flaws(problems) == {Flaw.BAD_PRICE: (1, 2)}


def test_negative_prices_are_prices() -> None:
    """A future was sold at -37.63 once."""
    _, problems = validate(times(1), columns([(-30.0, 5.0, -40.0, -37.63, 100.0)]))
    assert problems == ()


def test_of_bars_with_the_same_time_the_last_one_counts() -> None:
    """A vendor's second word on a bar is the better one."""
    later = (20.0, 22.0, 19.0, 21.0, 200.0)
    bars, problems = validate(times(1, 2, 2, 2), columns([GOOD, GOOD, GOOD, later]))
    assert bars.time.tolist() == times(1, 2).tolist()
    assert bars.ohlcv[:, 1].tolist() == list(later)
    assert flaws(problems) == {Flaw.DUPLICATE: (2, 2)}

    # So many that a sort which is not stable would mix them up.
    closes = np.arange(1000.0)
    many = columns((close, close, close, close, 1.0) for close in closes)
    bars, _ = validate(times(*[2, 1] * 500), many)
    assert bars.field("close").tolist() == [999.0, 998.0]


def test_a_bad_bar_does_not_take_the_place_of_a_good_one() -> None:
    """What is dropped is dropped before times are compared."""
    bars, _ = validate(times(1, 1), columns([GOOD, (NAN,) * 5]))
    assert bars.ohlcv[:, 0].tolist() == list(GOOD)


def test_bars_out_of_order_are_sorted_and_told() -> None:
    """Files that begin with the newest bar are common."""
    bars, problems = validate(times(3, 2, 1), columns([GOOD] * 3))
    assert bars.time.tolist() == times(1, 2, 3).tolist()
    assert flaws(problems) == {Flaw.UNSORTED: (2, 2)}


def test_an_unknown_volume_is_none_at_all() -> None:
    """Indices and currencies have prices and no volume."""
    bars, problems = validate(times(1), columns([(*GOOD[:4], NAN)]))
    assert bars.ohlcv[:, 0].tolist() == [*GOOD[:4], 0.0]
    assert flaws(problems) == {Flaw.NO_VOLUME: (1, 1)}
    assert Flaw.NO_VOLUME.is_repaired


def test_high_and_low_that_miss_by_rounding_are_stretched() -> None:
    """Adjusted prices are multiplied field by field, and miss by the last bit."""
    close = 11.0
    given_ = columns([(10.0, np.nextafter(close, 0), 10.0 + 1e-9, close, 5.0)])
    before = given_.copy()
    bars, problems = validate(times(1), given_)
    assert bars.ohlcv[:, 0].tolist() == [10.0, 11.0, 10.0, 11.0, 5.0]
    assert flaws(problems) == {Flaw.ROUNDED: (1, 1)}
    assert given_.tolist() == before.tolist()


@pytest.mark.parametrize("time", [FIRST_MS - 1, LAST_MS + 1, np.iinfo(np.int64).min, 10**18])
def test_a_time_that_no_calendar_has_is_dropped(time: int) -> None:
    """Not-a-time, and nanoseconds taken for milliseconds, are no times of bars."""
    bars, problems = validate(np.array([0, time]), columns([GOOD] * 2))
    assert bars.time.tolist() == [0]
    assert [(one.flaw, one.count, one.time_ms) for one in problems] == [(Flaw.BAD_TIME, 1, time)]


def test_shapes_that_do_not_fit_are_a_fault_of_the_program() -> None:
    """It is not the vendor who mixes up columns and rows."""
    with pytest.raises(ValueError, match="expected"):
        validate(times(1, 2), np.zeros((2, 5)))


prices = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True),
    st.integers(-3, 3).map(float),
)


@given(st.lists(st.tuples(st.integers(-3, 3), *[prices] * 5), max_size=8))
def test_whatever_comes_in_only_sound_bars_go_out(rows: list[tuple[float, ...]]) -> None:
    """Sorted, unique, sound; each bar is accounted for; a second pass finds nothing."""
    time = np.array([row[0] for row in rows], np.int64)
    bars, problems = validate(time, columns(row[1:] for row in rows))
    assert sound(bars.time, bars.ohlcv).all()
    assert all(a < b for a, b in pairwise(bars.time.tolist()))
    lost = sum(one.count for one in problems if not one.flaw.is_repaired)
    assert len(bars) + lost == len(rows)
    again, none = validate(bars.time, bars.ohlcv)
    assert again.time is bars.time
    assert none == ()


@given(
    st.sampled_from([0, FIRST_MS, LAST_MS, FIRST_MS - 1, LAST_MS + 1]),
    st.tuples(*[prices] * 5) | st.just(GOOD),
)
def test_one_bar_is_judged_as_many_are(time: int, row: tuple[float, ...]) -> None:
    """By plain numbers, and by columns."""
    assert sound(np.array([time]), columns([row])).tolist() == [is_sound(time, row)]


# -- merge -------------------------------------------------------------------------------------

Model = dict[int, float]  # time to value; the five values of a bar are the same here


class Published(NamedTuple):
    """A series, the plain way."""

    bars: Model
    forming: bool


def closed(*bars: tuple[int, float]) -> Published:
    """Give a series without a forming bar."""
    return Published(dict(bars), forming=False)


def forming(*bars: tuple[int, float]) -> Published:
    """Give a series whose last bar is the forming one."""
    return Published(dict(bars), forming=True)


def series(model: Model) -> Bars:
    """Give a model as bars."""
    at = sorted(model)
    return Bars(np.array(at, np.int64), columns((model[t],) * 5 for t in at))


def model_of(bars: Bars) -> Model:
    """Give bars as a model."""
    return dict(zip(bars.time.tolist(), bars.ohlcv[0].tolist(), strict=True))


def merged(
    current: Published, incoming: Published, capacity: int = 10, *, whole: bool = False
) -> Merge:
    """Merge models."""
    return merge(
        series(current.bars),
        current.forming,
        series(incoming.bars),
        incoming.forming,
        capacity,
        whole=whole,
    )


def expected(current: Published, incoming: Published, capacity: int, *, whole: bool) -> Published:
    """Say, the plain way, what is to be published afterwards."""
    bars, open_ = dict(incoming.bars), incoming.forming
    if open_ and bars and current.bars and not whole:
        last, newest = max(bars), max(current.bars)
        if last < newest or (last == newest and not current.forming):
            del bars[last]
            open_ = False
    if not bars:
        return current
    result = bars if whole else {**current.bars, **bars}
    if max(result) != max(bars):
        open_ = current.forming
    return Published({t: result[t] for t in sorted(result)[-capacity:]}, open_)


def publish(current: Published, found: Merge, capacity: int) -> Published:
    """Do what the writer does with a history."""
    history = found.history("1d", 7)
    if history is None:
        return current
    assert (history.interval, history.row) == ("1d", 7)
    assert history.restated == len(found.restatements)
    bars = model_of(history.bars)
    if history.replace:
        assert len(bars) <= capacity
        return Published(bars, history.forming)
    newest = max(current.bars)
    assert min(bars) >= newest + (not current.forming)
    result = {**current.bars, **bars}
    return Published({t: result[t] for t in sorted(result)[-capacity:]}, history.forming)


models = st.builds(
    Published,
    st.dictionaries(st.integers(0, 12), st.integers(0, 1).map(float), max_size=10),
    st.booleans(),
)


@given(models, models, st.integers(1, 8), st.booleans())
@example(Published({0: 1.0}, True), Published(dict.fromkeys(range(6), 1.0), True), 3, False)  # noqa: FBT003 - as hypothesis gives them
def test_what_is_published_is_what_the_plain_model_says(
    current: Published,
    incoming: Published,
    capacity: int,
    whole: bool,  # noqa: FBT001 - hypothesis gives it
) -> None:
    """Any two series, any window: the right bars, no more than needed, all changes told."""
    bars = {t: current.bars[t] for t in sorted(current.bars)[-capacity:]}
    current = Published(bars, current.forming and bool(bars))
    found = merged(current, incoming, capacity, whole=whole)
    want = expected(current, incoming, capacity, whole=whole)
    assert publish(current, found, capacity) == want
    assert len(found.bars) <= capacity
    assert (found.action is Action.NOTHING) == (want == current)

    result = want.bars
    ended = sorted(bars)[:-1] if current.forming else sorted(bars)
    restated = [t for t in ended if t in result and result[t] != bars[t]]
    assert found.restatements.time.tolist() == restated
    assert found.restatements.before[3].tolist() == [bars[t] for t in restated]
    assert found.restatements.after[3].tolist() == [result[t] for t in restated]
    reach = min(result, default=0) if len(result) == capacity else -1
    assert found.removed == sum(1 for t in bars if t >= reach and t not in result)
    if want != current and bars:
        follow = [t for t in result if not ended or t > ended[-1]]
        prefix = [t for t in result if t not in follow]
        room = min(len(ended), capacity - len(follow))
        keeps = len(prefix) == room and prefix == ended[len(ended) - room :]
        after = bool(follow) and min(follow) >= max(bars)
        cheap = keeps and after and not restated and not found.removed
        assert (found.action is Action.EXTEND) == cheap


def test_a_tick_gives_the_forming_bar_only() -> None:
    """The usual case costs one bar."""
    found = merged(forming((1, 1.0), (2, 2.0)), forming((2, 3.0)))
    assert found.action is Action.EXTEND
    assert model_of(found.bars) == {2: 3.0}
    assert found.forming


def test_an_overlap_that_agrees_is_cut_off() -> None:
    """Closed bars that came again, as they were, are not published again."""
    found = merged(
        forming((1, 1.0), (2, 2.0), (3, 3.0)),
        forming((1, 1.0), (2, 2.0), (3, 4.0), (4, 5.0)),
    )
    assert found.action is Action.EXTEND
    assert model_of(found.bars) == {3: 4.0, 4: 5.0}


def test_a_forming_bar_that_comes_back_closed_is_closed() -> None:
    """At the end of the day the last bar has no follower yet."""
    found = merged(forming((1, 1.0), (2, 2.0)), closed((2, 2.0)))
    assert found.action is Action.EXTEND
    assert not found.forming
    assert model_of(found.bars) == {2: 2.0}


def test_a_closed_bar_is_not_opened_by_a_late_answer() -> None:
    """An answer out of a cache still has the bar as it was forming."""
    found = merged(closed((1, 1.0), (2, 2.0)), forming((2, 1.5)))
    assert found.action is Action.NOTHING


def test_a_changed_closed_bar_is_a_restatement_and_replaces_the_window() -> None:
    """A split or a correction rewrites history, and says what it was."""
    found = merged(forming((1, 1.0), (2, 2.0)), forming((1, 0.5), (2, 2.0)))
    assert found.action is Action.REPLACE
    assert found.restatements.time.tolist() == [1]
    assert found.restatements.before[3].tolist() == [1.0]
    assert found.restatements.after[3].tolist() == [0.5]


def test_bars_older_than_a_full_window_are_ignored() -> None:
    """They would fall out at once."""
    found = merged(closed((5, 1.0), (6, 2.0)), closed((1, 9.0)), capacity=2)
    assert found.action is Action.NOTHING


def test_a_gap_that_is_filled_replaces_the_window() -> None:
    """A bar between closed ones cannot be appended."""
    found = merged(closed((1, 1.0), (3, 3.0)), closed((2, 2.0)))
    assert found.action is Action.REPLACE
    assert model_of(found.bars) == {1: 1.0, 2: 2.0, 3: 3.0}
    assert len(found.restatements) == 0


def test_what_a_whole_answer_lacks_is_removed_and_counted() -> None:
    """A file from which a line was deleted no longer has that bar."""
    found = merged(closed((1, 1.0), (2, 2.0), (3, 3.0)), closed((1, 1.0), (3, 3.0)), whole=True)
    assert found.action is Action.REPLACE
    assert found.removed == 1
    assert len(found.restatements) == 0
