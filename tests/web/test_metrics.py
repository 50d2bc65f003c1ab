"""The metrics: read by the reader of prometheus-client, complete, and the same for any market."""
# mypy: allow-untyped-calls
# Twisted is typed only in part, and `untyped_calls_exclude` does not reach what we inherit.

from __future__ import annotations

import json
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

from quoteshm.sources.base import Reason
from tests.web.talking import Failing, SiteCase

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

LABELS = {"interval", "op", "code", "reason", "path", "status", "le"}
UNITS = ("_seconds", "_bytes", "_total", "_info", "_per_minute_limit")
DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"


class TestMetrics(SiteCase):
    """A small market and its site."""

    async def scrape(self) -> dict[str, Metric]:
        """Ask, and read all of it."""
        found = await self.get("/metrics")
        assert found.status == 200
        assert found.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        families = list(text_string_to_metric_families(found.body.decode()))
        assert len({one.name for one in families}) == len(families)
        return {one.name: one for one in families}

    async def values(self) -> dict[tuple[str, ...], float]:
        """Give each sample by its name and the values of its labels."""
        told = await self.scrape()
        return {
            (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
            for one in told.values()
            for sample in one.samples
        }

    async def test_the_parser_reads_them_and_each_is_documented(self) -> None:
        """With a type and help; and no page says anything of what is not there."""
        self.requests = {"count": 7, "per_minute": 60, "waited_s": 1.5, "state": "open"}
        self.refreshing.last_attempt_ms = self.refreshing.last_success_ms = 1_700_000_000_000
        told = await self.scrape()
        assert all(one.documentation and one.type != "unknown" for one in told.values())
        own = {name for name in told if name.startswith("quoteshm_")}
        documented = set(re.findall(r"^\| `(quoteshm_[a-z_]+)", DOCS.read_text(), re.MULTILINE))
        samples = {name + ("_total" if told[name].type == "counter" else "") for name in own} - {
            "quoteshm_segment_allocated_bytes"
        }
        assert documented - {"quoteshm_segment_allocated_bytes"} == samples

    async def test_no_label_grows_with_the_market(self) -> None:
        """Nor does any value of one come from a client."""
        before = await self.scrape()
        self.market.add("T1", "T2")
        self.market.quote("T1", 1.0)
        self.refreshing.troubles["T2"] = Failing(Reason.EMPTY)
        await self.get("/some/path/of/mine")
        after = await self.scrape()
        for one in after.values():
            for sample in one.samples:
                assert set(sample.labels) <= LABELS or one.name == "quoteshm_build_info"
                assert not {"T1", "T2"} & set(sample.labels.values())
        assert len(after["quoteshm_bars"].samples) == len(before["quoteshm_bars"].samples)
        assert all("mine" not in str(sample) for one in after.values() for sample in one.samples)

    async def test_requests_count_by_op_and_code(self) -> None:
        """Over TCP, the short way too, and over the WebSocket."""

        def ask_both_ways() -> None:
            with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
                lines = b'{"v":1,"id":1,"type":"get_quote","ticker":"AAPL"}\n' * 3
                connection.sendall(lines + b'{"v":1,"id":1,"type":"ping"}\n')
                replies = connection.makefile("rb")
                for _ in range(4):
                    replies.readline()

        await self.in_thread(ask_both_ways)
        opened = await self.socket()
        await self.in_thread(opened.ask, "get_quote", ticker="NONE")
        told = await self.values()
        assert told["quoteshm_requests_total", "OK", "get_quote"] == 3
        assert told["quoteshm_requests_total", "NOT_FOUND", "get_quote"] == 1
        assert told["quoteshm_requests_total", "OK", "ping"] == 1
        assert told["quoteshm_request_seconds_count",] == 5
        assert told["quoteshm_request_seconds_bucket", "+Inf"] == 5
        assert told["quoteshm_connections_accepted_total",] == 2
        assert told["quoteshm_connections",] >= 1  # that of the WebSocket
        assert told["quoteshm_sent_bytes_total",] > 4 * len(b'{"v":1}')

    async def test_the_market_and_what_is_wrong_with_it_are_told(self) -> None:
        """Ages in seconds, failures by reason, and what a source says of its requests."""
        self.market.clock.now_ms += 400
        self.market.quote("AAPL", 1.0)
        self.refreshing.troubles |= {"A": Failing(Reason.EMPTY), "B": Failing(Reason.EMPTY)}
        self.refreshing.closed = frozenset({"MSFT", "NEWCO"})  # the latter has no value
        self.refreshing.failed[Reason.RATE_LIMITED] = 9
        self.refreshing.last_success_ms = 1_700_000_000_000
        self.requests = {"count": 7, "per_minute": 60, "waited_s": 1.5, "state": "open"}
        told = await self.values()
        assert told["quoteshm_tickers",] == 2
        assert told["quoteshm_epoch",] == self.market.writer.epoch
        assert told["quoteshm_oldest_quote_age_seconds",] == 0.4
        assert told["quoteshm_newest_quote_age_seconds",] == 0
        assert told["quoteshm_closed_tickers",] == 1
        assert told["quoteshm_bars", "1d"] == 2
        assert told["quoteshm_failing_tickers", "no_bars"] == 2
        assert told["quoteshm_refresh_errors_total", "rate_limited"] == 9
        assert told["quoteshm_last_success_timestamp_seconds",] == 1_700_000_000
        assert told["quoteshm_vendor_requests_total",] == 7
        assert told["quoteshm_vendor_requests_per_minute_limit",] == 60
        assert told["quoteshm_vendor_paused",] == 1
        assert told["quoteshm_bars_restated_total",] == 3
        assert told["quoteshm_heartbeat_age_seconds",] == 0.5
        assert ("quoteshm_segment_allocated_bytes",) not in told  # it has no file

    async def test_conflation_and_what_waits_are_told(self) -> None:
        """A subscriber that does not read is told of several commits at once."""
        self.market.add(*(f"T{n}" for n in range(400)))
        for n in range(400):
            self.market.quote(f"T{n}", 1.0)
        opened = await self.socket()
        await self.in_thread(opened.ask, "subscribe", tickers="*")
        pushed = 0
        while not self.factory.hub.skipped:
            pushed += 1
            for n in range(400):
                self.market.quote(f"T{n}", float(pushed))
            self.factory.hub.published()
            if pushed > 200:
                await self.in_thread(drain, opened.socket, self.factory.hub)
        told = await self.values()
        assert told["quoteshm_conflations_total",] > 0
        assert told["quoteshm_subscriptions",] == 1
        assert told["quoteshm_events_total",] > 0

    async def test_an_empty_market_has_no_ages_but_a_count(self) -> None:
        """So an alert on ages alone would say nothing; the count is what to ask for."""
        self.market.remove("AAPL")
        self.market.remove("MSFT")
        told = await self.values()
        assert ("quoteshm_newest_quote_age_seconds",) not in told
        assert told["quoteshm_tickers",] == 0
        assert "or quoteshm_tickers == 0" in DOCS.read_text()

    async def test_build_info_says_what_runs(self) -> None:
        """Its value is one."""
        told = await self.scrape()
        (sample,) = told["quoteshm_build_info"].samples
        assert sample.value == 1
        assert set(sample.labels) == {"version", "python", "source", "adjustment"}
        assert "process_resident_memory_bytes" in told
        assert json.loads((await self.get("/healthz")).body)["alive"]


def drain(connection: socket.socket, hub: object) -> None:
    """Read some, so that the server is told that there is room again."""
    del hub
    connection.settimeout(0.5)
    try:
        while connection.recv(1 << 20):
            pass
    except TimeoutError:
        return
