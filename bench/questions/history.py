"""B. The history of one ticker as a DataFrame: a copy of the reader's own, and a view."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from bench.crew import Crew
from bench.figures import Case
from bench.market import Market
from bench.peers import LIMIT, OURS
from bench.peers.base import ONE
from bench.setting import Ask, Setting

COPY = (
    OURS,
    LIMIT,
    "lmdb",
    "arrow_ipc",
    "npy",
    "redis",
    "redis_arrow",
    "parquet",
    "duckdb",
    "arcticdb",
    "flight",
)
VIEW = (OURS, LIMIT, "lmdb", "arrow_ipc", "npy")
AFTER = (OURS, LIMIT, "lmdb")
TICKERS = 4


def check_history(market: Market, how: str) -> Callable[[Crew], None]:
    """Make the check that all bars are those that were stored."""
    row = ONE

    def check(crew: Crew) -> None:
        given = 0 if crew.module == LIMIT else row  # it has one history only
        times, values = crew.reader.tell("call", "check_history", market.symbols[row], how)
        # A view has no forming bar: it is not in the block.
        closed = slice(0, len(times))
        assert len(times) >= market.bars - (how == "view"), f"{len(times)} bars"
        np.testing.assert_array_equal(times, market.times[closed])
        np.testing.assert_array_equal(values, market.history(given)[:, closed])

    return check


def run(setting: Setting) -> None:
    """Read the same history again and again; nothing is published meanwhile but by us."""
    for bars in setting.plan.lengths:
        market = Market(TICKERS, bars)
        symbol = market.symbols[ONE]
        asks = []
        for how, who, words in (("history", COPY, "a copy"), ("view", VIEW, "a view")):
            what = f"{bars:,} bars as a frame, {words}"
            limit = "memcpy and pandas' constructor" if how == "history" else "pandas' constructor"
            case = Case("B", what, limit_is=limit, headline=how == "history")
            asks.append(Ask(case, how, (symbol,), check_history(market, how), who))
        setting.compare(market, asks, ticking=False)
        after_a_bar(setting, market)


def after_a_bar(setting: Setting, market: Market) -> None:
    """Read each time after a new bar, when the reader has no index yet that it could give again."""
    case = Case("B", f"{market.bars:,} bars as a frame, the first copy after a new bar")
    case.limit_is = "memcpy and pandas' constructor, of a process just woken"
    case.notes["lmdb"] = "the history as stored: a new bar is a record of its own"
    calls = [(market.symbols[ONE],)]

    def once(crew: Crew) -> None:
        until = time.monotonic() + setting.plan.seconds
        time_ms = 0
        while time.monotonic() < until or not time_ms:
            time_ms = crew.writer.tell("bar")
            case.add(crew.module, crew.reader.tell("time_each", "history", calls))
        if crew.module != OURS:
            return
        times, _ = crew.reader.tell("call", "check_history", *calls[0], "history")
        assert times[-1] == time_ms, f"the newest bar is {times[-1]}, expected {time_ms}"

    setting.take_turns(AFTER, market, [case], check_history(market, "history"), once)
