"""Arrow Flight over a Unix socket, its server in the writer's process."""

from __future__ import annotations

import threading
from typing import Any

import pandas as pd
import pyarrow.flight as fl

from bench.peers import base, tables


class _Server(fl.FlightServerBase):  # type: ignore[misc]  # not typed
    """Gives a table by its name."""

    def __init__(self, place: str, held: dict[bytes, Any]) -> None:
        super().__init__(place)
        self.held = held

    def do_get(self, context: object, ticket: Any) -> Any:  # noqa: ANN401, ARG002
        """Stream one table."""
        return fl.RecordBatchStream(self.held[ticket.ticket])


class Writer(base.Writer):
    """Holds the tables."""

    def store(self) -> None:
        """Make the tables, and serve them."""
        held = {
            symbol.encode(): tables.arrow_of(self.market, row)
            for row, symbol in enumerate(self.market.symbols)
        }
        self.server = _Server(f"grpc+unix://{self.folder}/flight.sock", held)
        self.thread = threading.Thread(target=self.server.serve, daemon=True)
        self.thread.start()

    def close(self) -> None:
        """Stop serving."""
        self.server.shutdown()
        self.thread.join()


class Reader(base.Reader):
    """One client."""

    def open(self) -> None:
        """Connect."""
        self.client = fl.connect(f"grpc+unix://{self.folder}/flight.sock")

    def history(self, symbol: str) -> pd.DataFrame:
        """Get a table and make a frame of it."""
        return tables.frame_from(self.client.do_get(fl.Ticket(symbol.encode())).read_all())

    def close(self) -> None:
        """Disconnect."""
        self.client.close()
