"""The main job on real input: real bars through real daemons, read out of shared memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from quoteshm import QuoteClient, StockDataReader
from tests import sample_data
from tests.processes.daemons import WAIT_S, Running, daemon, unique_name
from tests.yahoo_proxy import YahooProxy
from tests.yahoo_server import YahooServer, sample_listings

FIELDS = ["Open", "High", "Low", "Close", "Volume"]
ROOM = ("--bars", "10000", "--intervals", "1d")


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a folder on shared memory."""
    path = Path("/dev/shm") / unique_name()  # noqa: S108  shared memory is the point
    path.mkdir()
    yield path
    for left in sorted(path.rglob("*"), reverse=True):
        left.rmdir() if left.is_dir() else left.unlink()
    path.rmdir()


def expected(ticker: str) -> pd.DataFrame:
    """Give the file's own bars by the plainest way there is."""
    rows = sample_data.rows()[ticker]
    index = pd.DatetimeIndex([row["Date"] for row in rows], tz="UTC", name="Date").as_unit("ms")
    return pd.DataFrame({name: [float(row[name]) for row in rows] for name in FIELDS}, index)


def check(running: Running) -> None:
    """Compare everything that can be read with the file, value by value."""
    with (
        StockDataReader(port=running.port) as reader,
        QuoteClient(port=running.port) as client,
    ):
        assert reader.list_tickers() == list(sample_data.TICKERS)
        for ticker in sample_data.TICKERS:
            wanted = expected(ticker)
            frame = reader.get_stock(ticker)
            pd.testing.assert_frame_equal(frame, wanted, check_freq=False)
            pd.testing.assert_frame_equal(reader.view(ticker).frame, wanted, check_freq=False)
            pd.testing.assert_frame_equal(client.get_history(ticker), wanted, check_freq=False)
            quote = reader.get_quote(ticker)
            assert quote.price == wanted["Close"].iloc[-1]
            assert quote.prev_close == wanted["Close"].iloc[-2]
            assert quote == client.get_quote(ticker)
        panel = reader.panel("close")
        together = pd.concat({t: expected(t)["Close"] for t in sample_data.TICKERS}, axis=1)
        np.testing.assert_array_equal(panel.to_numpy(), together.sort_index().to_numpy())


def test_a_folder_of_files_is_served_value_by_value(folder: Path) -> None:
    """The daily bars of five stocks, 2000 to 2013, written as one CSV a ticker."""
    (folder / "bars").mkdir()
    sample_data.write_csv(folder / "bars")
    with daemon(folder, "--source", "files", "--files", str(folder / "bars"), *ROOM) as running:
        running.wait_for("epoch 2: 5 tickers")
        check(running)


def test_yahoo_is_served_value_by_value(folder: Path, tmp_path: Path) -> None:
    """The same bars, downloaded by the real yfinance from a local server."""
    with YahooServer(sample_listings()) as server, YahooProxy(tmp_path, server) as proxy:
        wanted = ("--source", "yahoo", "--tickers", ",".join(sample_data.TICKERS))
        argv = (*wanted, "--requests-per-minute", "6000", *ROOM)
        with daemon(folder, *argv, env=proxy.environment) as running:
            with StockDataReader(port=running.port) as reader:
                epoch, until = 0, time.monotonic() + WAIT_S
                while len(reader.list_tickers()) < len(sample_data.TICKERS):
                    assert time.monotonic() < until, running.log
                    epoch = reader.wait(epoch, 1)
            check(running)
        assert proxy.refused == []
        # Of each ticker its bars, and before them its time zone, which yfinance asks for once.
        assert server.kinds == {"cookie": 1, "crumb": 1, "chart": 2 * len(sample_data.TICKERS)}
