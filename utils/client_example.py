#!/usr/bin/env python
"""A tour of a running server: everything a client program can ask, with the lines that go by.

Start a server first, then this, in another terminal::

    quoteshm serve --synthetic
    python utils/client_example.py
"""

from __future__ import annotations

import argparse
import logging
import sys

from quoteshm import QuoteClient, QuoteShmError, RequestError, SegmentError, StockDataReader

SHOWN = 3  # tickers, and bars of history


def tour(client: QuoteClient) -> None:
    """Ask a server everything."""
    headline("Which tickers have a value?")
    tickers = client.list_tickers()
    print(f"{len(tickers)} tickers: {', '.join(tickers[:10])}")

    headline("What are their quotes?")
    for ticker in tickers[:SHOWN]:
        quote = client.get_quote(ticker)
        age = "stale" if quote.stale else "fresh"
        print(f"{quote.ticker:6} {quote.price:10.2f} {quote.currency} ({age}, {quote.source})")

    headline("Where does the market stand, and what is the whole of it at one epoch?")
    state = client.get_snapshot_epoch()
    print(f"epoch {state.epoch}, last update {state.last_update_ms} ms")
    snapshot = client.get_quotes()
    print(f"{len(snapshot.quotes)} quotes, all of epoch {snapshot.epoch}")

    headline("Where is the shared memory?")
    try:
        address = client.get_shm_name()
        print(f"{address.shm_name} in {address.shm_dir}, {address.size:,} bytes of address space")
        # The reader asks once more, and makes sure that what is there is this server's.
        with StockDataReader(client.host, client.port) as reader:
            headline("What does a reader see in it? From here on nothing goes over the network.")
            read(reader, tickers)
    except (RequestError, SegmentError) as error:
        print(f"{error}: history comes over TCP")
        for ticker in tickers[:1]:
            print(client.get_history(ticker, last=SHOWN))


def read(reader: StockDataReader, tickers: list[str]) -> None:
    """Read shared memory."""
    print(f"writer {reader.writer_status()}, {reader.snapshot_state}")
    print(f"intervals: {', '.join(reader.intervals)}")
    for ticker in tickers[:1]:
        print(f"\n{ticker}, the last {SHOWN} bars:\n{reader.get_stock(ticker, last=SHOWN)}")
    table = reader.snapshot().to_frame().head(SHOWN).to_string()
    print(f"\nthe whole market at one epoch:\n{table}")


def headline(text: str) -> None:
    """Print a line that stands out."""
    print(f"\n# {text}")


def main() -> int:
    """Run the tour; give the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--host", default="127.0.0.1", help="of the server (%(default)s)")
    parser.add_argument("--port", type=int, default=9000, help="of the server (%(default)s)")
    options = parser.parse_args()

    # The client logs each line that it sends and gets.
    lines = logging.StreamHandler(sys.stdout)
    lines.setFormatter(logging.Formatter("  %(message)s"))
    logging.getLogger("quoteshm.client").addHandler(lines)
    logging.getLogger("quoteshm.client").setLevel(logging.DEBUG)

    try:
        with QuoteClient(options.host, options.port) as client:
            tour(client)
    except (QuoteShmError, TimeoutError) as error:
        print(f"client_example: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
