"""Waits after failures."""

from __future__ import annotations

import random

from quoteshm.service.backoff import JITTER, backoff_s


class Middle(random.Random):
    """Chance that moves nothing."""

    def uniform(self, a: float, b: float) -> float:
        """Give what is in the middle."""
        return (a + b) / 2


def test_each_attempt_doubles_the_wait_up_to_the_longest() -> None:
    """However many there are."""
    waits = [backoff_s(1.0, 10.0, attempts, Middle()) for attempts in (1, 2, 3, 4, 5, 10**6)]
    assert waits == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_chance_moves_each_wait_a_little() -> None:
    """Either way, so those who failed together do not come back together."""
    rng = random.Random(1)  # noqa: S311 (jitter)
    waits = [backoff_s(8.0, 8.0, 3, rng) for _ in range(100)]
    assert 8 * (1 - JITTER) <= min(waits) < 7
    assert 9 < max(waits) <= 8 * (1 + JITTER)
