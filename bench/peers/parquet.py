"""Parquet files, uncompressed: one file a ticker."""

from __future__ import annotations

import pandas as pd
import pyarrow.parquet as pq

from bench.peers import base, tables


class Writer(base.Writer):
    """Writes each file once, without compression and dictionaries: quickest to read."""

    def store(self) -> None:
        """Write the files."""
        for row, symbol in enumerate(self.market.symbols):
            table = tables.arrow_of(self.market, row)
            path = self.folder / f"{symbol}.parquet"
            pq.write_table(table, path, compression="none", use_dictionary=False)


class Reader(base.Reader):
    """Reads by pyarrow, as pandas does."""

    def history(self, symbol: str) -> pd.DataFrame:
        """Read a file."""
        path = str(self.folder / f"{symbol}.parquet")
        return tables.frame_from(pq.read_table(path, memory_map=True, partitioning=None))
