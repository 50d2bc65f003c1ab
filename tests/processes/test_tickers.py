"""Tickers at run time, out of the sources that are not made up."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from quoteshm import QuoteClient, StockDataReader
from tests import sample_data
from tests.processes.daemons import WAIT_S, daemon, unique_name
from tests.processes.test_real_input import ROOM, expected
from tests.yahoo_proxy import YahooProxy
from tests.yahoo_server import YahooServer, sample_listings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a folder on shared memory."""
    path = Path("/dev/shm") / unique_name()  # noqa: S108 (shared memory is what is tried here)
    path.mkdir()
    yield path
    for left in sorted(path.rglob("*"), reverse=True):
        left.rmdir() if left.is_dir() else left.unlink()
    path.rmdir()


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait until something is so."""
    until = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.01)  # of another process: there is nothing to wait on


def test_yahoo_is_asked_for_what_is_added_and_no_more_for_what_is_removed(
    folder: Path, tmp_path: Path
) -> None:
    """At once; a symbol that does not exist says so."""
    path, first = folder / "q.sock", sample_data.TICKERS[0]
    more = sample_data.TICKERS[1]
    with YahooServer(sample_listings()) as server, YahooProxy(tmp_path, server) as proxy:
        argv = ("--source", "yahoo", "--tickers", first, "--requests-per-minute", "6000")
        unix = ("--endpoint", f"unix:{path}", *ROOM)
        with (
            daemon(folder, *argv, *unix, env=proxy.environment) as running,
            QuoteClient(path=path) as client,
            StockDataReader(port=running.port) as reader,
        ):
            running.wait_for("epoch 2: 1 tickers")
            assert client.add_tickers([more, "NOSUCH"]).added == [more, "NOSUCH"]
            wait_until(lambda: more in client.list_tickers())
            assert reader.get_quote(more).price == expected(more)["Close"].iloc[-1]
            wait_until(lambda: "NOSUCH" in client.get_info()["failures"])
            status = client.get_info()["ticker_status"]
            assert status["NOSUCH"]["state"] == "not found"
            assert status["NOSUCH"]["quarantined_until_ms"] > time.time() * 1000
            assert status[more]["bars"]["1d"] == len(reader.get_stock(more))

            assert client.remove_tickers([first, "NOSUCH"]).unknown == []
            assert client.list_tickers() == [more]
            assert list(client.get_info()["ticker_status"]) == [more]
            assert client.get_info()["failures"] == {}


def test_a_folder_of_files_has_what_it_has(folder: Path) -> None:
    """Of all that is there, one is served; another can be added, what has no file cannot."""
    (folder / "bars").mkdir()
    sample_data.write_csv(folder / "bars")
    first, more = sample_data.TICKERS[:2]
    path = folder / "q.sock"
    argv = ("--source", "files", "--files", str(folder / "bars"), "--tickers", first)
    with (
        daemon(folder, *argv, "--endpoint", f"unix:{path}") as running,
        QuoteClient(path=path) as client,
    ):
        running.wait_for("epoch 2: 1 tickers")
        answer = client.add_tickers([more, "NOSUCH"])
        assert answer.added == [more]
        assert answer.refused == {
            "NOSUCH": f"no file NOSUCH.csv or NOSUCH.parquet in {folder / 'bars'}"
        }
        wait_until(lambda: more in client.list_tickers())
        assert client.get_quote(more).price == expected(more)["Close"].iloc[-1]
