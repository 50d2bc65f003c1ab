"""C. The whole market at once, of one moment: as one table, and as a record a ticker."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bench.crew import Crew
from bench.figures import Case
from bench.market import Market
from bench.peers import LIMIT, OURS
from bench.setting import Ask, Setting

TABLE = (OURS, LIMIT, "redis")
RECORDS = (OURS, "lmdb", "redis", "ultradict", "iceoryx2")


def check_market(market: Market, form: str) -> Callable[[Crew], None]:
    """Make the check that all prices are those of the step published last."""

    def check(crew: Crew) -> None:
        number = 0 if crew.module == LIMIT else crew.writer.tell("step")
        expected = market.step(number).quotes[:, 3]
        found = crew.reader.tell("call", f"check_{form}")
        if form == "records":
            assert sorted(found) == market.symbols
            found = np.array([found[symbol] for symbol in market.symbols])
        np.testing.assert_array_equal(found, expected)

    return check


def run(setting: Setting) -> None:
    """Read all quotes again and again while all are published."""
    for tickers in setting.plan.markets:
        market = Market(tickers, 2)
        table = Case(
            "C", f"{tickers:,} quotes, a table", limit_is="memcpy", headline=tickers == 5_000
        )
        table.notes["redis"] = "one value that holds all, set with each batch"
        records = Case("C", f"{tickers:,} quotes, records")
        records.notes = {
            "lmdb": "a cursor in one transaction",
            "redis": "MGET",
            "ultradict": "not of one moment",
            "iceoryx2": "not of one moment",
        }
        records_by = RECORDS if tickers <= 500 else RECORDS[:4] if tickers <= 5_000 else RECORDS[:3]
        for name in set(RECORDS) - set(records_by):
            records.left_out[name] = "takes minutes to set up with so many"
        setting.compare(
            market,
            [
                Ask(table, "table", (), check_market(market, "table"), TABLE),
                Ask(records, "records", (), check_market(market, "records"), records_by),
            ],
            ticking=tickers <= 5_000,
        )
