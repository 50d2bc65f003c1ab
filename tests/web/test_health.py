"""Alive and ready: each reason is said, and a status goes with it."""
# mypy: allow-untyped-calls
# Twisted is typed only in part, and `untyped_calls_exclude` does not reach what we inherit.

from __future__ import annotations

import json
import math

from quoteshm.sources.base import Reason
from quoteshm.web.health import alive, ready
from tests.published import FRESHNESS_MS
from tests.web.talking import Failing, SiteCase


class TestHealth(SiteCase):
    """A market of which two tickers have values."""

    async def test_a_daemon_that_does_well_is_alive_and_ready(self) -> None:
        """200, and nothing to complain of."""
        found = await self.get("/healthz")
        assert found.status == 200
        assert found.headers["content-type"] == "application/json"
        assert found.headers["cache-control"] == "no-store"
        assert json.loads(found.body) == {"alive": True, "reasons": [], "heartbeat_age_s": 0.5}

        found = await self.get("/readyz")
        assert found.status == 200
        told = json.loads(found.body)
        assert (told["ready"], told["reasons"]) == (True, [])
        assert (told["tickers"], told["stale"], told["failing"]) == (2, 0, 0)

    async def test_one_without_a_heartbeat_is_neither(self) -> None:
        """503, and the reason."""
        self.heartbeat_age_s = 11.25
        for path in ("/healthz", "/readyz"):
            found = await self.get(path)
            assert found.status == 503
            assert json.loads(found.body)["reasons"] == ["no heartbeat for 11.2 s"]
        self.heartbeat_age_s = math.inf
        told = alive(self.watched).told
        assert told["reasons"] == ["the segment was never stamped"]
        assert told["heartbeat_age_s"] is None

    def test_a_stale_market_is_not_ready_a_stale_ticker_is_no_reason(self) -> None:
        """The newest quote decides."""
        self.market.clock.now_ms += FRESHNESS_MS + 1
        self.refreshing.troubles["MSFT"] = Failing(Reason.TIMED_OUT)
        found = ready(self.watched)
        assert not found.well
        assert found.told["reasons"] == ["no quote was confirmed for 1.001 s, stale after 1 s"]

        self.market.quote("AAPL", 1.0)
        found = ready(self.watched)
        assert found.well
        assert (found.told["stale"], found.told["failing"]) == (1, 1)
        assert (found.told["newest_age_s"], found.told["oldest_age_s"]) == (0.0, 1.001)
        assert alive(self.watched).well

    def test_what_was_confirmed_in_the_future_is_stale(self) -> None:
        """As the wire says it: it was so before the machine started anew."""
        self.market.clock.now_ms -= 4_500
        self.market.quote("AAPL", 1.0)
        self.market.clock.now_ms -= 200
        assert self.watched.factory.context.cache.get("AAPL").stale
        assert self.watched.ages().stale == 2
        assert not ready(self.watched).well

    def test_a_closed_market_is_ready(self) -> None:
        """Nobody asks for it, so its age is no fault; that of one which is asked for is."""
        self.market.clock.now_ms += FRESHNESS_MS + 1
        self.refreshing.closed = frozenset({"AAPL", "MSFT", "NEWCO", "UNHEARD"})
        found = ready(self.watched)
        assert (found.well, found.told["reasons"]) == (True, [])
        assert (found.told["stale"], found.told["closed"]) == (2, 2)

        self.refreshing.closed = frozenset({"AAPL"})
        found = ready(self.watched)
        assert not found.well
        assert found.told["reasons"] == ["no quote was confirmed for 1.001 s, stale after 1 s"]
        assert (found.told["stale"], found.told["closed"]) == (2, 1)

    def test_a_market_without_a_value_is_not_ready(self) -> None:
        """And why the source gives none is said with it."""
        self.market.remove("AAPL")
        self.market.remove("MSFT")
        self.refreshing.error = "OSError: no network"
        found = ready(self.watched)
        assert found.told["reasons"] == [
            "nothing is published yet",
            "the source broke off: OSError: no network",
        ]
        assert found.told["newest_age_s"] is None
