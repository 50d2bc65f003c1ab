"""How the daemon stands, in words."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from quoteshm.service.refresh import Trouble
from quoteshm.service.standing import HEARTBEAT_OLD_S, DaemonStanding
from quoteshm.sources.base import Reason
from tests.published import FRESHNESS_MS, Market


class Scene:
    """A market, a source that may fail, and a heart that may stop."""

    def __init__(self) -> None:
        self.market, self.age_s = Market(), 0.0
        source = SimpleNamespace(name="yahoo")
        self.refresh = SimpleNamespace(source=source, troubles={}, error=None, closed=frozenset())
        refresh: Any = self.refresh
        self.standing = DaemonStanding(
            self.market.writer, refresh, self.market.clock, lambda: self.age_s
        )

    def fail(self, ticker: str, at_ms: int, message: str) -> None:
        """Have a ticker fail."""
        self.refresh.troubles[ticker] = Trouble(Reason.NOT_FOUND, message, 0, 1, at_ms, 0.0)


@pytest.fixture
def scene() -> Scene:
    """Give AAPL and MSFT, fresh, and NEWCO, which has no value."""
    return Scene()


def test_it_counts_what_is_fresh_and_what_is_stale(scene: Scene) -> None:
    """What has no value is neither."""
    assert scene.standing.words() == "yahoo: 2 tickers, all fresh"
    scene.market.clock.now_ms += FRESHNESS_MS + 1
    assert scene.standing.words() == "yahoo: 2 tickers, all stale"
    scene.market.quote("AAPL", 190.0)
    assert scene.standing.words() == "yahoo: 2 tickers, 1 fresh, 1 stale"


def test_a_closed_market_is_no_riddle(scene: Scene) -> None:
    """What nobody asks for is stale, and why is said with it."""
    scene.refresh.closed = frozenset({"AAPL", "NEWCO"})
    assert scene.standing.words() == "yahoo: 2 tickers, all fresh"
    scene.market.clock.now_ms += FRESHNESS_MS + 1
    assert scene.standing.words() == "yahoo: 2 tickers, all stale (market closed for 1)"
    scene.refresh.closed = frozenset({"AAPL", "MSFT"})
    assert scene.standing.words() == "yahoo: 2 tickers, all stale (market closed)"
    scene.market.quote("MSFT", 370.0)
    assert scene.standing.words() == "yahoo: 2 tickers, 1 fresh, 1 stale (market closed)"


def test_it_says_what_failed_last(scene: Scene) -> None:
    """And that the source itself broke off."""
    scene.fail("NOPE", 5, "no such symbol")
    assert scene.standing.words().endswith("; 1 failing, NOPE: not found, no such symbol")
    scene.fail("OLD", 4, "gone")
    scene.refresh.error = "OSError: no network"
    assert scene.standing.words() == (
        "yahoo: 2 tickers, all fresh; 2 failing, the last one NOPE: not found, no such symbol; "
        "the source broke off: OSError: no network"
    )


def test_nothing_is_published_in_an_empty_market() -> None:
    """A ticker without a value is nothing to read."""
    scene = Scene()
    assert scene.standing.is_published()
    scene.market.writer._map.quotes[scene.market.writer._back ^ 1][:] = 0
    assert not scene.standing.is_published()
    assert scene.standing.words() == "yahoo: nothing is published yet"


def test_a_heart_that_stopped_is_a_reason_not_to_be_alive(scene: Scene) -> None:
    """As late as readers say so."""
    scene.age_s = HEARTBEAT_OLD_S
    assert scene.standing.unwell() is None
    scene.age_s += 0.1
    assert "heartbeat" in (scene.standing.unwell() or "")
