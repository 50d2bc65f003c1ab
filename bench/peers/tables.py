"""Bars as Arrow tables, for the peers that keep those."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pyarrow as pa

from bench.market import COLUMNS, Market


def arrow_of(market: Market, row: int) -> Any:  # noqa: ANN401  pyarrow is not typed
    """Give a ticker's bars as a table: a time and five columns."""
    times = pa.array(market.times, pa.timestamp("ms", "UTC"))
    columns = dict(zip(COLUMNS, map(pa.array, market.history(row)), strict=True))
    return pa.table({"Date": times, **columns})


def frame_from(table: Any) -> pd.DataFrame:  # noqa: ANN401
    """Make a frame of a table, its time being the index."""
    frame: pd.DataFrame = table.to_pandas(split_blocks=True)
    return frame.set_index("Date")
