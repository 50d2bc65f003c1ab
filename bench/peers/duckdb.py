"""DuckDB over Parquet files, so that another process may write them: its own file takes one."""

from __future__ import annotations

from collections.abc import Sequence

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from bench.market import COLUMNS
from bench.peers import base, tables

#: Tickers a file: a row group a ticker, sorted, so that statistics find the ones wanted.
FILE = "market.parquet"


class Writer(base.Writer):
    """Writes one file for all tickers, sorted, a row group a ticker."""

    def store(self) -> None:
        """Write the file."""
        out = None
        for row, symbol in enumerate(self.market.symbols):
            table = tables.arrow_of(self.market, row)
            table = table.append_column("symbol", pa.array([symbol] * len(table)))
            out = out or pq.ParquetWriter(self.folder / FILE, table.schema, compression="none")
            out.write_table(table, row_group_size=len(table))
        assert out is not None
        out.close()


class Reader(base.Reader):
    """One connection with one thread for each core, the default."""

    def open(self) -> None:
        """Connect."""
        self.db = duckdb.connect()
        self.db.execute("set enable_object_cache = true")
        self.db.execute("set timezone = 'UTC'")
        self.source = f"read_parquet('{self.folder / FILE}')"

    def history(self, symbol: str) -> pd.DataFrame:
        """Select one ticker's bars."""
        query = f"select Date, {', '.join(COLUMNS)} from {self.source} where symbol = ?"  # noqa: S608  our own
        frame: pd.DataFrame = self.db.execute(query, [symbol]).df()
        return frame.set_index("Date")

    def panel(self, symbols: Sequence[str], last: int) -> pd.DataFrame:
        """Select the last closes of all, which come sorted, and fold them."""
        since = int(self.market.times[-last])
        query = (
            f"select Date, Close from {self.source} "  # noqa: S608
            "where Date >= make_timestamptz(?) and symbol in (select unnest(?)) "
            "order by symbol, Date"
        )
        found = self.db.execute(query, [since * 1_000, list(symbols)]).fetchnumpy()
        values = np.asarray(found["Close"]).reshape(len(symbols), last)
        index = pd.DatetimeIndex(found["Date"][:last])
        return pd.DataFrame(values.T, index=index, columns=pd.Index(sorted(symbols)), copy=False)

    def close(self) -> None:
        """Disconnect."""
        self.db.close()
