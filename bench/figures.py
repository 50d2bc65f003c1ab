"""What is found: cases, each with the figures of all who took part."""

from __future__ import annotations

from dataclasses import dataclass, field

from bench.peers import NO_PEERS, OURS
from bench.timing import Samples


@dataclass
class Figure:
    """One contender's time, microseconds."""

    p50: float
    p99: float
    samples: int


@dataclass
class Case:
    """One thing that is done, by whom and how fast; names are those of modules."""

    question: str
    what: str
    figures: dict[str, Figure] = field(default_factory=dict)
    samples: dict[str, Samples] = field(default_factory=dict)  # until they are summed up
    left_out: dict[str, str] = field(default_factory=dict)  # and why
    limit_is: str = ""
    notes: dict[str, str] = field(default_factory=dict)  # how a peer does it, where it says more
    headline: bool = False  # one of the README's chart

    def add(self, who: str, samples: Samples) -> None:
        """Take in a contender's samples of one round."""
        self.samples.setdefault(who, Samples()).add(samples)

    def sum_up(self) -> None:
        """Make the figures of all rounds."""
        self.figures = {
            who: Figure(found.p50_us, found.p99_us, len(found.singles))
            for who, found in self.samples.items()
        }
        self.samples = {}

    @property
    def ours(self) -> float | None:
        """Our median."""
        found = self.figures.get(OURS)
        return None if found is None else found.p50

    @property
    def best_peer(self) -> str | None:
        """Who of the others has the lowest median."""
        peers = [who for who in self.figures if who not in NO_PEERS]
        return min(peers, key=lambda who: self.figures[who].p50, default=None)

    def ratio(self, who: str | None) -> float | None:
        """Give another's median by ours: above 1, ours is faster."""
        if who is None or who not in self.figures or not self.ours:
            return None
        return self.figures[who].p50 / self.ours


@dataclass
class Fact:
    """One line of a table that is not a comparison: memory, growth, readers."""

    table: str
    cells: dict[str, str | int | float]


@dataclass
class Found:
    """Everything that one run found."""

    about: dict[str, str | int] = field(default_factory=dict)
    cases: list[Case] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)  # what each question took
