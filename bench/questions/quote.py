"""A. One quote, in another process than the one that publishes it."""

from __future__ import annotations

from collections.abc import Callable

from bench.crew import Crew
from bench.figures import Case
from bench.market import Market
from bench.peers import LIMIT, OURS
from bench.peers.base import ONE
from bench.setting import Ask, Setting

WHO = (OURS, LIMIT, "lmdb", "iceoryx2", "ultradict", "redis", "memcached", "sqlite")
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
    """Read the same quote again and again, while all of them are published ten times a second."""
    market = Market(min(TICKERS, setting.plan.markets[0]), 2)
    case = Case("A", "one quote", limit_is="a dict of the same process", headline=True)
    case.notes["ultradict"] = "its own copy; each reader replays all that is published"
    symbol = market.symbols[ONE]
    setting.compare(market, [Ask(case, "quote", (symbol,), check_quotes(market), WHO)])
