"""A. One quote, in another process than the one that publishes it."""

from __future__ import annotations

import time
from collections.abc import Callable

from bench.crew import Crew
from bench.figures import Case
from bench.market import Market
from bench.peers import LIMIT, OURS
from bench.peers.base import ONE
from bench.setting import Ask, Setting

WHO = (OURS, LIMIT, "lmdb", "lmdb_raw", "iceoryx2", "ultradict", "redis", "memcached", "sqlite")
TICKERS = 500


def check_quotes(market: Market) -> Callable[[Crew], None]:
    """Make the check that a quote is the one published last, before and after a step."""

    def check(crew: Crew) -> None:
        symbol = market.symbols[ONE]
        number = 0
        while True:
            step = market.step(number)
            found = crew.reader.tell("call", "check_quote", symbol)
            expected = (*step.quotes[ONE].tolist(), float(step.time_ms))
            assert found == expected, f"a quote is {found}, expected {expected}"
            if number or crew.module == LIMIT:
                return
            number = crew.writer.tell("step")

    return check


def run(setting: Setting) -> None:
    """Read one quote again and again, then each once after all of them were published anew."""
    market = Market(min(TICKERS, setting.plan.markets[0]), 2)
    limit = "a dict of the same process"
    case = Case("A", "one quote, unchanged since the last read", limit_is=limit, headline=True)
    changed = Case("A", "one quote, changed since", limit_is=limit, headline=True)
    case.notes["ultradict"] = "its own copy; each reader replays all that is published"
    changed.notes["ultradict"] = "the first read replays all of them, and is not the median"
    symbol = market.symbols[ONE]
    setting.compare(market, [Ask(case, "quote", (symbol,), check_quotes(market), WHO)])

    def once(crew: Crew) -> None:
        until = time.monotonic() + 2 * setting.plan.seconds
        while time.monotonic() < until or crew.module not in changed.samples:
            if crew.module != LIMIT:
                crew.writer.tell("step")  # which touches every quote
            changed.add(crew.module, crew.reader.tell("time_each", "quote", calls))

    calls = [(symbol,) for symbol in market.symbols]
    setting.take_turns(WHO, market, [changed], check_quotes(market), once)
