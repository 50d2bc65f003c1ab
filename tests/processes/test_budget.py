"""Two daemons that share one budget, as the server counts their requests."""

from __future__ import annotations

import time
from pathlib import Path

from tests import sample_data
from tests.processes.daemons import WAIT_S, daemon
from tests.yahoo_proxy import YahooProxy
from tests.yahoo_server import YahooServer, sample_listings

PER_MINUTE = 120
BURST = 12
PER_S = (PER_MINUTE - BURST + 1) / 60


def test_two_daemons_together_ask_for_no_more_than_one(tmp_path: Path) -> None:
    """Both go at it as fast as they may; each has its share."""
    argv = (
        *("--source", "yahoo", "--intervals", "1d", "--bars", "100", "--refresh", "0.2"),
        *("--tickers", ",".join(sample_data.TICKERS)),
        *("--requests-per-minute", str(PER_MINUTE)),
    )
    with YahooServer(sample_listings()) as server, YahooProxy(tmp_path, server) as proxy:
        with (
            daemon(tmp_path, *argv, env=proxy.environment) as one,
            daemon(tmp_path, *argv, env=proxy.environment) as other,
        ):
            told = [{"count": 0}, {"count": 0}]
            until = time.monotonic() + WAIT_S
            while len(server.asked_s) < 3 * BURST or min(each["count"] for each in told) < 5:
                assert time.monotonic() < until, (told, one.log, other.log)
                time.sleep(0.05)  # of other processes: there is nothing to wait on
                told = [each.ask("get_info")["data"]["requests"] for each in (one, other)]
        assert all(each["shared"] for each in told), told
    for window_s in (1.0, 3.0, 10.0):
        # A request takes some time to the server, and not always the same.
        allowed = BURST + PER_S * (window_s + 0.5) + 1
        assert server.most_requests(window_s) <= allowed, window_s
