"""How a call is timed: a median over batches, a p99 over single calls."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

#: A call that is quicker than this is timed many at a time, or the clock would be measured.
SINGLY_NS = 4_000
#: So many at a time.
BATCH = 20
_now = time.perf_counter_ns


@dataclass
class Samples:
    """What calls took, nanoseconds."""

    means: list[float] = field(default_factory=list)  # of each batch, or of each call
    singles: list[float] = field(default_factory=list)

    def add(self, other: Samples) -> None:
        """Take in another round."""
        self.means += other.means
        self.singles += other.singles

    @property
    def p50_us(self) -> float:
        """The median, microseconds."""
        return float(np.median(self.means)) / 1e3

    @property
    def p99_us(self) -> float:
        """What 99 of 100 calls did not exceed, microseconds."""
        return float(np.percentile(self.singles, 99)) / 1e3


def clock_ns() -> float:
    """Tell what looking at the clock takes, which is in each single sample."""
    found = []
    for _ in range(200):
        begun = _now()
        found.append(_now() - begun)
    return float(np.median(found))


def measure(act: Callable[[], object], seconds: float, at_least: int = 3) -> Samples:
    """Time calls for so long."""
    act()  # what is made on the first call is not what a call costs
    spent = clock_ns()
    begun = _now()
    act()
    quick = _now() - begun < SINGLY_NS
    found = Samples()
    until = _now() + int(seconds * 1e9)
    while _now() < until or len(found.singles) < at_least:
        begun = _now()
        act()
        single = max(0.0, _now() - begun - spent)
        found.singles.append(single)
        if not quick:
            found.means.append(single)
            continue
        begun = _now()
        for _ in range(BATCH):
            act()
        found.means.append((_now() - begun) / BATCH)
    return found


def measure_each(act: Callable[..., object], calls: Sequence[tuple[Any, ...]]) -> Samples:
    """Time one call with each of these arguments: every second batch singly, the others as one."""
    spent = clock_ns()
    found = Samples()
    for at in range(0, len(calls), 2 * BATCH):
        for args in calls[at : at + BATCH]:
            begun = _now()
            act(*args)
            found.singles.append(max(0.0, _now() - begun - spent))
        if batch := calls[at + BATCH : at + 2 * BATCH]:
            begun = _now()
            for args in batch:
                act(*args)
            found.means.append((_now() - begun) / len(batch))
    found.means = found.means or found.singles
    return found
