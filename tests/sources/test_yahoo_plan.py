"""What Yahoo is asked for, and when a bar is closed."""

from __future__ import annotations

import pytest

from quoteshm.model import DAY_MS, INTERVALS, MINUTE_MS, SeriesKind
from quoteshm.sources.base import Known
from quoteshm.sources.yahoo_plan import LOOKBACK_MS, Plan, is_forming, wrong_symbol

NOON_MS = 1_700_049_600_000  # 2023-11-15 12:00 UTC, a Wednesday; 7:00 in New York
TODAY_MS = NOON_MS // DAY_MS * DAY_MS
HOUR_MS = 60 * MINUTE_MS
ZONE = "America/New_York"
MIDNIGHT_MS = TODAY_MS + 5 * HOUR_MS  # of New York
CLOSE_MS = TODAY_MS + 21 * HOUR_MS  # 16:00 in New York


@pytest.mark.parametrize("interval", INTERVALS)
def test_a_window_is_long_enough_for_its_bars_and_within_what_yahoo_gives(interval: str) -> None:
    """Nights, weekends and holidays have no bars; one minute goes back a week."""
    kind = SeriesKind(interval, 500)
    plan = Plan.make(kind, None, NOON_MS)
    span = NOON_MS - plan.start_ms
    reach = LOOKBACK_MS.get(interval, 99 * 365 * DAY_MS)
    assert plan.start_ms == plan.whole_start_ms
    anchored_ms = 92 * DAY_MS if kind.interval_ms > DAY_MS else 0  # at most that much earlier
    assert span <= reach + anchored_ms
    enough = 500 * kind.interval_ms * (7 / 5 if interval == "1d" else 1)
    assert span >= min(enough, reach)


def test_daily_bars_of_ten_years_need_ten_years() -> None:
    """252 days are traded in a year."""
    plan = Plan.make(SeriesKind("1d", 2520), None, NOON_MS)
    years = (NOON_MS - plan.start_ms) / DAY_MS / 365.25
    assert 10 < years < 10.5


def test_what_is_published_is_asked_for_again_only_a_little() -> None:
    """The overlap shows corrections; it never reaches back beyond the window."""
    known = Known(TODAY_MS, 10.0, forming=True)
    plan = Plan.make(SeriesKind("1d", 2520), known, NOON_MS)
    assert plan.start_ms == TODAY_MS - 7 * DAY_MS
    assert plan.whole_start_ms < plan.start_ms
    known = Known(NOON_MS - MINUTE_MS, 10.0, forming=True)
    plan = Plan.make(SeriesKind("1m", 390), known, NOON_MS)
    assert plan.start_ms == NOON_MS - 6 * MINUTE_MS
    known = Known(NOON_MS - 300 * DAY_MS, 10.0, forming=False)
    plan = Plan.make(SeriesKind("1m", 390), known, NOON_MS)
    assert plan.start_ms == plan.whole_start_ms


@pytest.mark.parametrize(
    ("now_ms", "end_ms", "forming"),
    [
        (MIDNIGHT_MS + 10 * HOUR_MS, CLOSE_MS, True),  # while trading goes on
        (CLOSE_MS + 30 * MINUTE_MS, CLOSE_MS, True),  # volumes come in late
        (CLOSE_MS + 2 * HOUR_MS, CLOSE_MS, False),
        (CLOSE_MS + 2 * HOUR_MS, None, True),  # hours not known: until midnight
        (CLOSE_MS + 2 * HOUR_MS, CLOSE_MS - DAY_MS, True),  # those of another day
        (MIDNIGHT_MS + DAY_MS - 1, None, True),
        (MIDNIGHT_MS + DAY_MS, None, False),
        (MIDNIGHT_MS + 3 * DAY_MS, CLOSE_MS + 3 * DAY_MS, False),
    ],
)
def test_a_daily_bar_forms_on_its_day_until_trading_has_ended(
    now_ms: int,
    end_ms: int | None,
    forming: bool,  # noqa: FBT001 - what is expected
) -> None:
    """The day is the exchange's."""
    assert is_forming("1d", MIDNIGHT_MS, now_ms, ZONE, end_ms) is forming


def test_other_bars_form_as_long_as_they_are() -> None:
    """A month counts as its longest."""
    for interval, length in [("1m", MINUTE_MS), ("1wk", 7 * DAY_MS), ("1mo", 31 * DAY_MS)]:
        assert is_forming(interval, NOON_MS, NOON_MS + length - 1, ZONE, None)
        assert not is_forming(interval, NOON_MS, NOON_MS + length, ZONE, None)


def test_a_late_bar_forms_until_its_end_was_seen() -> None:
    """Or for half an hour, where nobody trades."""
    end_ms = NOON_MS + MINUTE_MS
    late_ms = end_ms + 30 * MINUTE_MS
    for seen_ms, until_ms in [(None, end_ms), (end_ms, end_ms), (end_ms - 1, late_ms)]:
        assert is_forming("1m", NOON_MS, until_ms - 1, ZONE, None, seen_ms=seen_ms)
        assert not is_forming("1m", NOON_MS, until_ms, ZONE, None, seen_ms=seen_ms)


@pytest.mark.parametrize("interval", ["5d", "1wk", "1mo", "3mo"])
def test_long_bars_are_asked_for_from_where_one_begins(interval: str) -> None:
    """Whatever the day, and whatever is published: Yahoo counts from what it is asked from."""
    kind = SeriesKind(interval, 20)
    starts = set()
    for day in range(200):
        now_ms = NOON_MS + day * DAY_MS
        fresh = Plan.make(kind, None, now_ms)
        more = Plan.make(kind, Known(now_ms - 3 * DAY_MS, 10.0, forming=True), now_ms)
        starts |= {plan.moment(plan.start_ms) for plan in (fresh, more)}
    assert all(start.tzinfo is None and start.hour == start.minute == 0 for start in starts)
    if interval in {"5d", "1wk"}:
        days = 7 if interval == "1wk" else 35
        first = min(starts)
        assert {start.weekday() for start in starts} == {0}
        assert all((start - first).days % days == 0 for start in starts)
    else:
        months = range(1, 13) if interval == "1mo" else (1, 4, 7, 10)
        assert {start.day for start in starts} == {1}
        assert {start.month for start in starts} <= set(months)


def test_what_lies_behind_the_window_is_begun_anew() -> None:
    """Nothing of it can be in the answer."""
    kind = SeriesKind("1m", 390)
    whole_ms = Plan.make(kind, None, NOON_MS).whole_start_ms
    for known_ms, anew in [(whole_ms - MINUTE_MS, True), (whole_ms, False)]:
        known = Known(known_ms, 10.0, forming=False)
        assert Plan.make(kind, known, NOON_MS).begins_anew is anew
    assert Plan.make(kind, None, NOON_MS).begins_anew


def test_a_symbol_may_hold_whatever_does_not_end_it_in_a_url() -> None:
    """Indices, currencies, futures, shares of all exchanges."""
    for symbol in ("AAPL", "^GSPC", "EURUSD=X", "ES=F", "BRK-B", "0700.HK", "M&M.NS", "ÄÖ"):
        assert wrong_symbol(symbol) is None
    for symbol in ("A/B", "A?B", "A%B", "A#B", "A\\B", "A B", "..", "."):
        assert wrong_symbol(symbol)
