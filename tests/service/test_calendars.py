"""Trading hours of real exchanges, as exchange-calendars has them."""

from __future__ import annotations

import warnings
from datetime import UTC, datetime

import pytest

from quoteshm.service import calendars
from quoteshm.service.hours import CALENDARS, Sessions

pytest.importorskip("exchange_calendars")


def ms(text: str) -> int:
    """Give a moment, UTC."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1000


NOW_MS = ms("2024-11-20 12:00")  # the week before Thanksgiving


@pytest.fixture(scope="module")
def new_york() -> Sessions:
    """Load once: without a warning that gets out, though they are errors here."""
    with warnings.catch_warnings():
        return calendars.load("XNYS", NOW_MS)


def test_a_holiday_has_no_session_and_half_a_day_ends_early(new_york: Sessions) -> None:
    """Thanksgiving 2024, and the Friday behind it."""
    thursday = new_york.at(ms("2024-11-28 15:00"))
    assert thursday is not None
    assert not thursday.is_open
    assert thursday.opens_ms == ms("2024-11-29 14:30")
    assert ms("2024-11-29 18:00") in new_york.closes


def test_hours_follow_the_clocks_of_the_exchange(new_york: Sessions) -> None:
    """Summer time ended on November 3."""
    assert ms("2024-11-01 13:30") in new_york.opens
    assert ms("2024-11-04 14:30") in new_york.opens


def test_every_calendar_has_a_name_that_is_known() -> None:
    """Whether each can be made depends on the releases of two libraries."""
    import exchange_calendars  # noqa: PLC0415 (where it is installed)

    names = set(exchange_calendars.get_calendar_names())
    assert set(CALENDARS.values()) <= names
    assert calendars.is_installed()
