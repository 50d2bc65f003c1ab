"""Redis with histories as Arrow streams, which other languages read as well."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa

from bench.peers import redis, tables


class Writer(redis.Writer):
    """Stores Arrow."""

    def blob(self, row: int) -> bytes:
        """Encode a history."""
        table, sink = tables.arrow_of(self.market, row), pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as out:
            out.write_table(table)
        encoded: bytes = sink.getvalue().to_pybytes()
        return encoded


class Reader(redis.Reader):
    """Reads Arrow."""

    def history(self, symbol: str) -> pd.DataFrame:
        """Get the stream and make a frame of it."""
        with pa.ipc.open_stream(self.client.get(symbol + ":bars")) as stream:
            return tables.frame_from(stream.read_all())
