"""Events that wait for whoever reads them: some of them apart, more of them folded into few.

As the server does for a slow client, so a client does for a slow consumer: it keeps the latest
value of each ticker, and counts what is left out.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

import msgspec

from quoteshm.client.events import (
    Event,
    HeartbeatEvent,
    LostEvent,
    QuotesEvent,
    RestatedEvent,
    Restatement,
    ResumedEvent,
    SnapshotEvent,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_PENDING: Final = 64
MAX_QUOTES: Final = 65_536  # some 30 MB


class Inbox:
    """The events of one subscription that are still to be read.

    Parameters
    ----------
    max_pending : int
        How many are kept apart; when there are more, or too many quotes in them, all are folded
        into four at most.

    """

    def __init__(self, max_pending: int = MAX_PENDING) -> None:
        self.max_pending = max_pending
        self._events: deque[Event] = deque()
        self._quote_count = 0

    def __len__(self) -> int:
        return len(self._events)

    def put(self, event: Event) -> None:
        """Add an event."""
        self._events.append(event)
        self._quote_count += _size(event)
        if len(self._events) > self.max_pending or self._quote_count > MAX_QUOTES:
            self._events = deque(fold(self._events))
            self._quote_count = sum(map(_size, self._events))

    def take(self) -> Event | None:
        """Give the next event, if there is any."""
        if not self._events:
            return None
        event = self._events.popleft()
        self._quote_count -= _size(event)
        return event

    def clear(self) -> None:
        """Forget all of them."""
        self._events.clear()
        self._quote_count = 0


def _size(event: Event) -> int:
    return len(event.quotes) if isinstance(event, SnapshotEvent | QuotesEvent) else 0


def fold(events: Iterable[Event]) -> list[Event]:
    """Give few events that lead to the same state as many.

    A snapshot makes all before it void. After it come, one of each at most, restatements, quotes,
    and a heartbeat or the loss of the connection.
    """
    snapshot: SnapshotEvent | None = None
    restated: RestatedEvent | None = None
    quotes: QuotesEvent | None = None
    last: HeartbeatEvent | LostEvent | None = None
    for event in events:
        last = None
        match event:
            case SnapshotEvent():
                snapshot, restated, quotes = event, None, None
            case RestatedEvent():
                restated = event if restated is None else _fold_restated(restated, event)
            case QuotesEvent():
                quotes = event if quotes is None else _fold_quotes(quotes, event)
            case HeartbeatEvent() | LostEvent():
                last = event
    return [event for event in (snapshot, restated, quotes, last) if event is not None]


def _fold_quotes(one: QuotesEvent, two: QuotesEvent) -> QuotesEvent:
    skipped, quotes = one.skipped + two.skipped + 1, one.quotes | two.quotes
    back = [event for event in (one, two) if isinstance(event, ResumedEvent)]
    if not back:
        return QuotesEvent(two.epoch, skipped, quotes)
    # That the connection has been away is still to be told.
    known = all(event.is_restated_known for event in back)
    return ResumedEvent(two.epoch, skipped, quotes, known)


def _fold_restated(one: RestatedEvent, two: RestatedEvent) -> RestatedEvent:
    series: dict[tuple[str, str], Restatement] = {}
    for found in (*one.series, *two.series):
        key = found.ticker, found.interval
        before = series.get(key)
        series[key] = (
            found
            if before is None
            else msgspec.structs.replace(
                found,
                count=before.count + found.count,
                removed=before.removed + found.removed,
                bars=None,
            )
        )
    return RestatedEvent(two.epoch, one.skipped + two.skipped + 1, list(series.values()))
