"""Events that wait for a slow reader."""

from __future__ import annotations

from quoteshm.client import _inbox
from quoteshm.client._inbox import Inbox, fold
from quoteshm.client.events import (
    Event,
    HeartbeatEvent,
    LostEvent,
    QuotesEvent,
    RestatedEvent,
    ResumedEvent,
    SnapshotEvent,
)
from tests.cli.test_output import a_quote


def changed(epoch: int, *tickers: str, skipped: int = 0) -> QuotesEvent:
    """Give an event with quotes whose price is the epoch."""
    return QuotesEvent(epoch, skipped, {t: a_quote(t, float(epoch)) for t in tickers})


SNAPSHOT = SnapshotEvent(4, "1" * 32, 1000, 5.0, {}, [])
LOST = LostEvent("it fell")


def test_events_are_kept_apart_up_to_a_number() -> None:
    """One more, and there is one."""
    inbox = Inbox(2)
    for epoch in (2, 4):
        inbox.put(changed(epoch, "A"))
    assert len(inbox) == 2
    inbox.put(changed(6, "B", skipped=3))
    event = inbox.take()
    assert isinstance(event, QuotesEvent)
    assert (event.epoch, event.skipped) == (6, 5)
    assert {t: q.price for t, q in event.quotes.items() if q} == {"A": 4.0, "B": 6.0}
    assert inbox.take() is None


def test_many_quotes_are_folded_before_many_events() -> None:
    """Memory is what counts."""
    tickers = [f"T{n}" for n in range(_inbox.MAX_QUOTES // 4)]
    inbox = Inbox(1000)
    for epoch in range(2, 100, 2):
        inbox.put(changed(epoch, *tickers))
        assert len(inbox) <= 4
    taken: list[Event] = []
    while (event := inbox.take()) is not None:
        taken.append(event)
    assert sum(event.skipped + 1 for event in taken if isinstance(event, QuotesEvent)) == 49
    inbox.put(changed(100, "A"))
    inbox.put(changed(102, "A"))
    assert len(inbox) == 2
    inbox.clear()
    assert len(inbox) == 0


def test_what_is_folded_leads_to_the_same() -> None:
    """A snapshot makes void what was before it; a loss counts until the connection is back."""
    restated = RestatedEvent(6, 0, [])
    beat = HeartbeatEvent(8, 1, 1)
    back = ResumedEvent(10, 1, {})
    assert fold([changed(2, "A"), restated, LOST, SNAPSHOT]) == [SNAPSHOT]
    assert fold([changed(2, "A"), LOST]) == [changed(2, "A"), LOST]
    assert fold([LOST, beat]) == [beat]
    assert fold([SNAPSHOT, restated, changed(6, "A")]) == [SNAPSHOT, restated, changed(6, "A")]
    folded = fold([changed(2, "A"), LOST, back, changed(12, "B")])
    assert [type(event) for event in folded] == [ResumedEvent]
    assert folded[0] == ResumedEvent(12, 3, {"A": a_quote("A", 2.0), "B": a_quote("B", 12.0)})
