"""Arrow IPC files, mapped: one file a ticker."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa

from bench.peers import base, tables


class Writer(base.Writer):
    """Writes each file once."""

    def store(self) -> None:
        """Write the files."""
        for row, symbol in enumerate(self.market.symbols):
            table = tables.arrow_of(self.market, row)
            with pa.ipc.new_file(str(self.folder / symbol), table.schema) as out:
                out.write_table(table)


class Reader(base.Reader):
    """Maps a file at each read: a file that is rewritten is another one."""

    def history(self, symbol: str) -> pd.DataFrame:
        """Map, read, copy into a frame of the reader's own."""
        with pa.memory_map(str(self.folder / symbol)) as source:
            return tables.frame_from(pa.ipc.open_file(source).read_all()).copy()

    def view(self, symbol: str) -> pd.DataFrame:
        """Map, and make a frame over the columns: a block a column, so that none is copied."""
        with pa.memory_map(str(self.folder / symbol)) as source:
            return tables.frame_from(pa.ipc.open_file(source).read_all())
