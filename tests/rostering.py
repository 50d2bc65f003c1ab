"""What a server has that serves other tickers when it is told to, over a small market."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from twisted.internet import task

from quoteshm.service.publisher import Publisher
from quoteshm.service.refresh import EAGER, RefreshService
from quoteshm.service.roster import Roster
from quoteshm.sources.synthetic import Synthetic
from tests.published import KINDS

if TYPE_CHECKING:
    from tests.published import Market


def have_roster(market: Market, *tickers: str) -> None:
    """Let the tickers of a market be changed; those that come are never fetched."""
    publisher = Publisher(market.writer, market.clock)
    refresh = RefreshService(
        Synthetic(market.clock),
        publisher,
        tickers,
        KINDS,
        refresh_s=1.0,
        failures=market.cache.failures,
        reactor=task.Clock(),  # type: ignore[arg-type]
        clock=market.clock,
        rng=random.Random(1),  # noqa: S311 (for jitter)
        patience=EAGER,
    )
    market.cache.wanted = refresh.wanted
    market.context.roster = Roster(refresh, publisher)
