"""How many requests are let through, and when."""

from __future__ import annotations

import random

import pytest

from quoteshm.sources.budget import Budget


def moments(per_minute: int, until_s: float, seed: int = 1) -> list[float]:
    """Give when requests are made by somebody who always has one more to make."""
    budget = Budget(per_minute, random.Random(seed))  # noqa: S311 (for jitter)
    now_s, made = 1000.0, []
    while now_s < 1000 + until_s:
        wait_s = budget.take(now_s)
        if wait_s:
            now_s += wait_s
        else:
            made.append(now_s)
    return made


@pytest.mark.parametrize("per_minute", [1, 2, 9, 10, 60, 1000])
@pytest.mark.parametrize("seed", range(3))
def test_no_minute_has_more_requests_than_allowed(per_minute: int, seed: int) -> None:
    """Wherever it begins, the burst at the start included."""
    made = moments(per_minute, 400, seed)
    most = max(sum(one <= other < one + 60 for other in made) for one in made[:300])
    assert most <= per_minute
    assert len(made) >= 400 / 60 * per_minute * 0.7


def test_a_quiet_time_saves_up_one_burst_and_no_more() -> None:
    """A tenth of a minute's requests."""
    budget = Budget(60, random.Random(1))  # noqa: S311 (for jitter)
    for start_s in (0.0, 10_000.0):
        taken = 0
        while not budget.take(start_s):
            taken += 1
        assert taken == 6


def test_waits_are_never_quite_the_same_and_enough() -> None:
    """After the wait there is a request to take; the waits are counted."""
    budget = Budget(2, random.Random(1))  # noqa: S311 (for jitter)
    assert budget.take(0.0) == 0.0
    waits = [budget.take(0.0) for _ in range(20)]
    assert min(waits) > 30
    assert max(waits) <= 30 * 1.25
    assert len(set(waits)) == 20
    assert budget.take(min(waits)) == 0.0
    assert budget.waited_s == pytest.approx(sum(waits))


def test_a_clock_that_goes_back_gives_nothing() -> None:
    """Nor does it take anything away."""
    budget = Budget(1, random.Random(1))  # noqa: S311 (for jitter)
    assert budget.take(100.0) == 0.0
    assert budget.take(10.0) > 0
    assert budget.take(69.9) > 0
    assert budget.take(70.0) == 0.0
