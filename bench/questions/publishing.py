"""D. Publishing: what it costs, and what the cost grows with."""

from __future__ import annotations

from collections.abc import Sequence

from bench.crew import Crew
from bench.figures import Case, Fact
from bench.market import Market
from bench.peers import LIMIT, OURS, base
from bench.questions.quote import check_quotes
from bench.setting import Plan, Setting, note

ALL = (OURS, LIMIT, "lmdb", "redis", "sqlite", "ultradict", "naive")
ONE = (OURS, LIMIT, "lmdb", "iceoryx2", "redis", "sqlite", "ultradict", "naive")
GROWTH = "D. What a batch of new bars costs us, and what that grows with"


def cases_of(tickers: int, plan: Plan) -> dict[str, Case]:
    """Give the cases of one market: by the writer's method."""
    held = f"{plan.bars:,} bars each"
    limit = "memcpy of what changes"
    return {
        "publish": Case(
            "D", f"a new bar for each of {tickers:,}, {held}", limit_is=limit, headline=True
        ),
        "tick": Case("D", f"a tick for each of {tickers:,}", limit_is=limit),
        "tick_one": Case("D", f"a single tick, among {tickers:,}", limit_is=limit, headline=True),
    }


def time_writers(setting: Setting, who: Sequence[str], market: Market) -> None:
    """Time each writer in turn, one reader being attached."""
    cases = cases_of(market.tickers, setting.plan)
    right = check_quotes(market)

    def check(crew: Crew) -> None:
        if crew.module != LIMIT:
            right(crew)

    def once(crew: Crew) -> None:
        for method, case in cases.items():
            if crew.module != "iceoryx2" or method == "tick_one":  # its blackboard keeps no bars
                order = ("time_publish", setting.plan.seconds, method, 1)
                case.add(crew.module, crew.writer.tell(*order))
                if crew.module != LIMIT:
                    check_last(crew, market.symbols[base.ONE])

    setting.take_turns(who, market, list(cases.values()), check, once)


def check_last(crew: Crew, symbol: str) -> None:
    """Compare what a reader gets with what was published last while the clock ran."""
    quote, bar = crew.writer.tell("last")
    found = crew.reader.tell("call", "check_quote", symbol)
    assert found == quote, f"a quote is {found}, expected {quote}"
    found = crew.reader.tell("call", "check_bar", symbol, int(bar[0]))
    assert found in {None, bar}, f"a bar is {found}, expected {bar}"


def run(setting: Setting) -> None:
    """Publish again and again; then ours alone, with more of everything."""
    plan = setting.plan
    for tickers in plan.batches:
        who = ONE if tickers <= 500 else ALL
        time_writers(setting, who, Market(tickers, plan.bars))
    first = plan.batches[0]
    for tickers in plan.batches:
        alone(setting, Market(tickers, plan.bars), "tickers")
    for bars in plan.stored:
        alone(setting, Market(first, bars), "bars stored")
    for readers in plan.readers:
        alone(setting, Market(first, plan.bars), "readers that wait", readers)


def alone(setting: Setting, market: Market, grows: str, readers: int = 0) -> None:
    """Time our own writer, with so many readers asleep on the next commit."""
    note(f"  {grows}: {market}, {readers} readers")
    crew = setting.crews[OURS]
    with crew.storing(market, setting.folder):
        if readers:
            crew.reader.tell("call", "attach", readers, "wait", crew.cores[1:])
        timed = {
            method: crew.writer.tell("time_publish", 2 * setting.plan.seconds, method, 20)
            for method in ("publish", "tick", "tick_scattered", "tick_one")
        }
        if readers:
            crew.reader.tell("call", "detach")
    cells: dict[str, str | int | float] = {
        "what grows": grows,
        "tickers": market.tickers,
        "bars each": market.bars,
        "readers": readers,
    }
    words = {
        "publish": "new bars",
        "tick": "ticks",
        "tick_scattered": "in no order",
        "tick_one": "single",
    }
    for method, samples in timed.items():
        cells[f"{words[method]}, us"] = round(samples.p50_us, 2)
        cells[f"{words[method]} p99"] = round(samples.p99_us, 2)
    setting.found.facts.append(Fact(GROWTH, cells))
