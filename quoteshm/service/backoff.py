"""How long to leave alone what has failed: longer with each attempt, never quite the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import random

#: How far, either way, chance moves the next attempt.
JITTER: Final = 0.25
_MOST_DOUBLINGS: Final = 16


def backoff_s(first_s: float, longest_s: float, attempts: int, rng: random.Random) -> float:
    """Say how long to wait after so many attempts that failed, at least one.

    Parameters
    ----------
    first_s : float
        The first wait; each attempt doubles it.
    longest_s : float
        No wait is longer, jitter apart.
    attempts : int
        How many failed, one after the other.
    rng : random.Random
        Where the jitter comes from.

    """
    wait_s = min(longest_s, first_s * 2.0 ** min(attempts - 1, _MOST_DOUBLINGS))
    return wait_s * rng.uniform(1 - JITTER, 1 + JITTER)
