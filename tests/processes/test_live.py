"""Live quotes of a real daemon, from streams that break."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from quoteshm import StockDataReader
from tests import sample_data
from tests.processes.daemons import WAIT_S, daemon
from tests.yahoo_proxy import YahooProxy
from tests.yahoo_server import YahooServer, sample_listings
from tests.yahoo_streamer import Streamer, message

if TYPE_CHECKING:
    from pathlib import Path

    from tests.processes.daemons import Running


def test_live_quotes_reach_readers_and_come_back_after_a_drop(tmp_path: Path) -> None:
    """Bars by HTTP, prices over the stream, through a proxy with TLS, as a user starts it."""
    with (
        YahooServer(sample_listings()) as server,
        Streamer() as streamer,
        YahooProxy(tmp_path, server, streamer) as proxy,
    ):
        tickers = ",".join(sample_data.TICKERS)
        argv = ("--source", "yahoo", "--live", "--tickers", tickers, "--bars", "4000")
        with daemon(tmp_path, *argv, env=proxy.environment) as running:
            with StockDataReader(port=running.port) as reader:
                epoch, until = 0, time.monotonic() + WAIT_S
                while len(reader.list_tickers()) < len(sample_data.TICKERS):
                    assert time.monotonic() < until, running.log
                    epoch = reader.wait(epoch, 1)
                assert sorted(streamer.asked()) == sorted(sample_data.TICKERS)
                check_price(running, reader, streamer, 123.45)
                streamer.drop()
                assert sorted(streamer.asked()) == sorted(sample_data.TICKERS)
                check_price(running, reader, streamer, 123.46)
            told = running.ask("get_info")["data"]["live"]
            assert (told["state"], told["connections"], told["bad"]) == ("live", 2, 0)
            running.stop()
            assert "closed the segment" in running.log
            assert "Traceback" not in running.log
        assert proxy.refused == []
        assert proxy.tunnels["streamer.finance.yahoo.com"] == 2


def check_price(
    running: Running, reader: StockDataReader, streamer: Streamer, price: float
) -> None:
    """Stream a price, and see it come out of the segment and over the wire."""
    now_ms = time.time_ns() // 1_000_000
    streamer.send(message("AAPL", price, now_ms))
    epoch, until = 0, time.monotonic() + WAIT_S
    while reader.get_quote("AAPL").price != price:
        assert time.monotonic() < until, running.log
        epoch = reader.wait(epoch, 1)
    quote = running.ask("get_quote", ticker="AAPL")["data"]
    assert (quote["price"], quote["ts_epoch_ms"], quote["stale"]) == (price, now_ms, False)
