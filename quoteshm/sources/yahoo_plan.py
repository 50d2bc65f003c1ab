"""What to ask Yahoo for, and whether the last bar of its answer can still change. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo

from quoteshm.model import DAY_MS, INTERVALS

if TYPE_CHECKING:
    from quoteshm.model import SeriesKind
    from quoteshm.sources.base import Known

HOUR_MS: Final = 3_600_000

#: How far back Yahoo gives bars in one answer; less an hour, for clocks and for the way there.
LOOKBACK_MS: Final = {
    "1m": 8 * DAY_MS - HOUR_MS,
    **dict.fromkeys(("2m", "5m", "15m", "30m", "90m"), 60 * DAY_MS - HOUR_MS),
    **dict.fromkeys(("60m", "1h"), 730 * DAY_MS - HOUR_MS),
}
#: For longer bars: what yfinance takes for everything.
_LONGEST_MS: Final = 99 * 365 * DAY_MS

#: Of a day, the part that the shortest usual session trades; of a week, five days.
_SESSION: Final = 6 / 24
_WORKDAYS: Final = 5 / 7

#: Bars that are asked for again, behind the newest published one.
_OVERLAP: Final = 5

#: A daily bar is closed so long after the regular trading hours: volumes come in late.
_SETTLING_MS: Final = HOUR_MS
#: Prices of many exchanges come so much later, at most.
_LATE_MS: Final = HOUR_MS // 2
#: A price of later than this is none: it would keep all others from being published.
AHEAD_MS: Final = 60_000

#: Days from one Monday on which these bars begin to the next; that of the year 1 is day 1.
_ANCHORS: Final = {"5d": 35, "1wk": 7}

#: What yfinance would not ask for, but for something else: a symbol goes into the URL as it is.
_NO_LETTERS: Final = frozenset("/?%#\\")

#: Nominal lengths that are shorter than the longest of their kind.
_LONGEST_BAR_MS: Final = {"1mo": 31 * DAY_MS, "3mo": 92 * DAY_MS}


class StoppedError(Exception):
    """The source was stopped; no request is made any more."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be fetched of one interval."""

    kind: SeriesKind
    known: Known | None
    start_ms: int  # of what is to be fetched
    whole_start_ms: int  # of the whole window

    @classmethod
    def make(cls, kind: SeriesKind, known: Known | None, now_ms: int) -> Plan:
        """Plan for what is published: all of the window, or what is new with some overlap."""
        reach = LOOKBACK_MS.get(kind.interval, _LONGEST_MS)
        span = kind.capacity * kind.interval_ms
        if kind.is_intraday:
            span = int(span / _SESSION / _WORKDAYS) + 4 * DAY_MS
        elif kind.interval_ms == DAY_MS:
            span = int(span / _WORKDAYS * 1.06) + 10 * DAY_MS  # holidays
        else:
            span += 2 * max(kind.interval_ms, _LONGEST_BAR_MS.get(kind.interval, 0))
        whole = now_ms - min(span, reach)
        # yfinance makes bars of half an hour of shorter ones: its first would be half of one.
        whole = _anchored(kind.interval, whole - whole % min(kind.interval_ms, HOUR_MS // 2))
        if known is None:
            return cls(kind, None, whole, whole)
        overlap = _OVERLAP * kind.interval_ms
        if not kind.is_intraday:
            overlap = int(overlap / _WORKDAYS)
        start = _anchored(kind.interval, known.time_ms - overlap)
        return cls(kind, known, max(whole, start), whole)

    @property
    def begins_anew(self) -> bool:
        """Whether the answer begins behind all that is published, if anything is."""
        return self.known is None or self.known.time_ms < self.whole_start_ms

    def moment(self, ms: int) -> datetime:
        """Give a moment as yfinance takes it: of long bars a day, at midnight of the exchange."""
        moment = datetime.fromtimestamp(ms // 1000, UTC)
        return moment.replace(tzinfo=None) if self.kind.interval_ms > DAY_MS else moment


def _anchored(interval: str, start_ms: int) -> int:
    """Go back to where a long bar begins, whenever it is asked for.

    Yahoo's weeks begin on the weekday that it is asked from, its quarters with that month. As the
    day is taken for one of the exchange, it may be a bar too early.
    """
    if INTERVALS[interval] <= DAY_MS:
        return start_ms
    day = datetime.fromtimestamp(start_ms // 1000, UTC).date()
    if interval in _ANCHORS:
        day -= timedelta(days=(day.toordinal() - 1) % _ANCHORS[interval])
    else:
        month = day.month if interval == "1mo" else (day.month - 1) // 3 * 3 + 1
        day = day.replace(month=month, day=1)
    return int(datetime.combine(day, time(), UTC).timestamp()) * 1000


def wrong_symbol(symbol: str) -> str | None:
    """Say why a symbol cannot be one of Yahoo's, if it cannot."""
    wrong = sorted(letter for letter in set(symbol) if letter in _NO_LETTERS or letter.isspace())
    if wrong:
        return f"no symbol of Yahoo's holds {' '.join(map(repr, wrong))}"
    return None if symbol.strip(".") else "no symbol of Yahoo's is only dots"


def is_forming(  # noqa: PLR0913 (of the bar, of the moment, of the exchange)
    interval: str,
    last_ms: int,
    now_ms: int,
    zone: str,
    regular_end_ms: int | None,
    *,
    seen_ms: int | None = None,
) -> bool:
    """Tell whether the last bar can still change.

    Parameters
    ----------
    interval : str
        Of the bar.
    last_ms, now_ms : int
        Start of the bar, and now.
    zone : str
        Time zone of the exchange.
    regular_end_ms : int or None
        End of the regular trading hours of the current, or the last, trading day.
    seen_ms : int, optional
        When the latest price was made: those of many exchanges are late, and so is the end of
        their bars.

    """
    if interval != "1d":
        end_ms = last_ms + _LONGEST_BAR_MS.get(interval, INTERVALS[interval])
        is_late = seen_ms is not None and seen_ms < end_ms
        return now_ms < end_ms + (_LATE_MS if is_late else 0)
    local = ZoneInfo(zone)
    day, today = (
        datetime.fromtimestamp(ms / 1000, UTC).astimezone(local).date() for ms in (last_ms, now_ms)
    )
    if day < today:
        return False
    # Hours of another day say nothing about this one.
    is_over = (
        regular_end_ms is not None
        and last_ms < regular_end_ms
        and now_ms >= regular_end_ms + _SETTLING_MS
    )
    return not is_over
