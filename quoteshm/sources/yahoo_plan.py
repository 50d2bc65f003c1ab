"""What to ask Yahoo for, and whether the last bar of its answer can still change. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
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
#: For longer bars: yfinance's own limit.
_LONGEST_MS: Final = 99 * 365 * DAY_MS

#: Of a day, the part that the shortest usual session trades; of a week, five days.
_SESSION: Final = 6 / 24
_WORKDAYS: Final = 5 / 7

#: Bars that are asked for again, behind the newest published one.
_OVERLAP: Final = 5

#: A daily bar is closed so long after the regular trading hours: volumes come in late.
_SETTLING_MS: Final = HOUR_MS

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
        if known is None:
            return cls(kind, None, whole, whole)
        overlap = _OVERLAP * kind.interval_ms
        if not kind.is_intraday:
            overlap = int(overlap / _WORKDAYS)
        return cls(kind, known, max(whole, known.time_ms - overlap), whole)


def is_forming(
    interval: str,
    last_ms: int,
    now_ms: int,
    zone: str,
    regular_end_ms: int | None,
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

    """
    if interval != "1d":
        length = _LONGEST_BAR_MS.get(interval, INTERVALS[interval])
        return last_ms + length > now_ms
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
