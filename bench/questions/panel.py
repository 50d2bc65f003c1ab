"""E. One column of many histories, as one frame of one moment."""

from __future__ import annotations

import numpy as np

from bench.crew import Crew
from bench.figures import Case
from bench.market import Market
from bench.peers import LIMIT, OURS
from bench.setting import Ask, Setting

WHO = (OURS, LIMIT, "lmdb", "redis", "arcticdb", "duckdb")


def run(setting: Setting) -> None:
    """Read the panel again and again."""
    tickers, last = setting.plan.panel
    market = Market(tickers, setting.plan.bars)

    def check(crew: Crew) -> None:
        found = crew.reader.tell("call", "check_panel", market.symbols, last)
        closes = [market.history(row)[3, -last:] for row in range(tickers)]
        np.testing.assert_array_equal(found, np.stack(closes, axis=1))

    case = Case("E", f"close of {tickers} tickers, {last} bars", headline=True)
    case.limit_is = "memcpy and pandas' constructor"
    case.notes = {
        "redis": "GETRANGEs of the column's end in one pipeline",
        "arcticdb": "read_batch",
        "duckdb": "one query over Parquet",
        "lmdb": "gets in one transaction",
    }
    ask = Ask(case, "panel", (market.symbols, last), check, WHO)
    setting.compare(market, [ask], ticking=False)
