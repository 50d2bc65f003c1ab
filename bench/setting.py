"""What all questions share: how much is measured, and the peers' processes."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from bench.crew import Crew, PeerError
from bench.figures import Case, Found
from bench.market import Market


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    rounds: int
    seconds: float  # for each timing of each round
    lengths: tuple[int, ...]  # bars of the histories
    markets: tuple[int, ...]  # tickers that are read at once
    batches: tuple[int, ...]  # tickers that are published at once
    stored: tuple[int, ...]  # bars that the tickers hold while others are published
    bars: int  # that all tickers hold where it is not the question
    readers: tuple[int, ...]
    pulses: int
    panel: tuple[int, int]  # tickers and bars
    memory: tuple[int, ...]  # tickers
    growth: int  # batches


FULL = Plan(
    rounds=5,
    seconds=0.2,
    lengths=(2_520, 98_280, 1_000_000),
    markets=(500, 5_000, 50_000),
    batches=(500, 5_000),
    stored=(252, 2_520, 25_200),
    bars=2_520,
    readers=(0, 1, 8, 64),
    pulses=1_000,
    panel=(500, 252),
    memory=(500, 5_000, 20_000),
    growth=100_000,
)
CHECK = Plan(
    rounds=1,
    seconds=0.002,
    lengths=(50,),
    markets=(20,),
    batches=(20,),
    stored=(20, 40),
    bars=50,
    readers=(0, 2),
    pulses=5,
    panel=(10, 20),
    memory=(20,),
    growth=200,
)


class Ask(NamedTuple):
    """One thing that readers are timed at."""

    case: Case
    method: str
    args: tuple[object, ...]
    check: Callable[[Crew], None]
    who: tuple[str, ...]


@dataclass
class Setting:
    """The processes, the folder, and what is found."""

    plan: Plan
    folder: Path
    crews: dict[str, Crew]
    found: Found = field(default_factory=Found)

    @contextlib.contextmanager
    def storing(
        self, who: Sequence[str], market: Market, cases: Sequence[Case]
    ) -> Iterator[list[str]]:
        """Have the market stored by all of these; the block is given those who could."""
        with contextlib.ExitStack() as stack:
            alive = []
            for name in who:
                note(f"  {market.tickers} tickers, {market.bars} bars: {name}")
                try:
                    stack.enter_context(self.crews[name].storing(market, self.folder))
                except PeerError as error:
                    leave_out(cases, name, error)
                else:
                    alive.append(name)
            yield alive

    def attempt(self, name: str, cases: Sequence[Case], act: Callable[[Crew], None]) -> bool:
        """Do something with a peer; if it fails, its rows say why, and it is ended."""
        crew = self.crews[name]
        try:
            act(crew)
        except (PeerError, AssertionError) as error:
            leave_out(cases, name, error)
            crew.end()
            return False
        return True

    def take_turns(
        self,
        who: Sequence[str],
        market: Market,
        cases: Sequence[Case],
        check: Callable[[Crew], None],
        once: Callable[[Crew], None],
    ) -> None:
        """Have each store the market, check it, then let them take turns for some rounds."""
        with self.storing(who, market, cases) as alive:
            for act in (check, *[once] * self.plan.rounds):
                for name in tuple(alive):
                    if not self.attempt(name, cases, act):
                        alive.remove(name)
        self.found.cases += cases

    def compare(self, market: Market, asks: Sequence[Ask], *, ticking: bool = True) -> None:
        """Time what readers do, all in turn, each while its own writer publishes."""

        def check(crew: Crew) -> None:
            for ask in asks:
                if crew.module in ask.who:
                    ask.check(crew)

        def once(crew: Crew) -> None:
            if ticking:
                crew.writer.tick()
            for ask in asks:
                if crew.module in ask.who:
                    order = (self.plan.seconds, ask.method, *ask.args)
                    ask.case.add(crew.module, crew.reader.tell("time", *order))
            crew.writer.tell("pid")  # which ends the ticking

        who = tuple(dict.fromkeys(name for ask in asks for name in ask.who))
        self.take_turns(who, market, [ask.case for ask in asks], check, once)


def check_nothing(crew: Crew) -> None:
    """Check nothing: there is nobody who reads it, or what is read is the check."""


def leave_out(cases: Sequence[Case], name: str, error: Exception) -> None:
    """Let the rows of a peer say why there are no figures."""
    note(f"  {name}: {error}")
    for case in cases:
        case.samples.pop(name, None)
        case.left_out[name] = str(error) or type(error).__name__


def note(text: str) -> None:
    """Say what is under way."""
    print(text, file=sys.stderr, flush=True)
