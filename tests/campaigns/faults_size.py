"""How much of each fault the campaign in `faults` makes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much of each is done."""

    call_stride: int  # every so many calls one is failed
    daemon_runs: int  # with a fault somewhere in each
    flips: int  # of bits; a 25th of them in each table
    writers: tuple[int, ...]  # that start together


FULL: Final = Size(call_stride=1, daemon_runs=36, flips=20_000, writers=(2, 20))
SHORT: Final = Size(call_stride=43, daemon_runs=2, flips=200, writers=(2, 6))
