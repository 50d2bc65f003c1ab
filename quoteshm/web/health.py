"""Whether the daemon is alive, and whether it has anything to serve: with reasons, for machines.

The two are asked by different parties. Who is not alive is to be started anew; who is not ready is
not to be sent any clients for now, and starting it anew gains nothing.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from quoteshm.web.watched import Watched

#: Heartbeats come each second; so many may be missing before the daemon counts as stuck.
HEARTBEAT_LIMIT_S: Final = 10.0


class Verdict(NamedTuple):
    """Yes or no, why not, and the figures behind it."""

    well: bool
    told: dict[str, object]


def alive(watched: Watched) -> Verdict:
    """Whether the daemon still stamps its segment; that it answers at all says the rest."""
    reasons = _heartbeat_reasons(watched)
    told = {
        "alive": not reasons,
        "reasons": reasons,
        "heartbeat_age_s": _finite(watched.heartbeat_age_s()),
    }
    return Verdict(not reasons, told)


def ready(watched: Watched) -> Verdict:
    """Whether something is published, and confirmed within the freshness window.

    One stale ticker among many is no reason: the market as a whole is, when not even its newest
    quote is fresh, although somebody should have asked: not while all exchanges are closed.
    """
    reasons = _heartbeat_reasons(watched)
    ages, window_ms = watched.ages(), watched.writer.spec.freshness_ms
    if ages.newest_ms is None:
        reasons.append("nothing is published yet")
    elif ages.stale == ages.tickers > ages.closed:
        newest_s, window_s = ages.newest_ms / 1000, window_ms / 1000
        reasons.append(f"no quote was confirmed for {newest_s:g} s, stale after {window_s:g} s")
    if reasons and watched.refresh.error is not None:
        reasons.append(f"the source broke off: {watched.refresh.error}")
    told = {
        "ready": not reasons,
        "reasons": reasons,
        "epoch": watched.writer.epoch,
        "tickers": ages.tickers,
        "stale": ages.stale,
        "closed": ages.closed,
        "failing": len(watched.refresh.troubles),
        "newest_age_s": _seconds(ages.newest_ms),
        "oldest_age_s": _seconds(ages.oldest_ms),
        "freshness_s": window_ms / 1000,
    }
    return Verdict(not reasons, told)


def _heartbeat_reasons(watched: Watched) -> list[str]:
    age_s = watched.heartbeat_age_s()
    if _finite(age_s) is None:
        return ["the segment was never stamped"]
    if age_s > HEARTBEAT_LIMIT_S:
        return [f"no heartbeat for {age_s:.1f} s"]
    return []


def _finite(seconds: float) -> float | None:
    return round(seconds, 3) if math.isfinite(seconds) else None


def _seconds(ms: int | None) -> float | None:
    return None if ms is None else ms / 1000
