"""``GET /metrics``: what there is to count, in the text format of Prometheus.

Nothing is counted for this page: all of it is read where it is counted anyway, when somebody asks.
No metric has a ticker for a label, so there are as many lines for 5,000 tickers as for five.
"""
# mypy: allow-untyped-calls
# Twisted is typed only in part, and `untyped_calls_exclude` does not reach what we inherit.

from __future__ import annotations

import importlib.metadata
import math
import platform
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, Protocol

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from twisted.web.resource import Resource

from quoteshm.sources.base import Reason
from quoteshm.wire.tally import BOUNDS_S

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from quoteshm.web.watched import Watched
    from quoteshm.wire.tally import Histogram

_VERSION: Final = importlib.metadata.version("quoteshm")
#: The one that every version of Prometheus reads; the library's own newest is for some alone.
TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"
_BLOCK_NBYTES: Final = 512  # of `st_blocks`, whatever the file system's own


class Answering(Protocol):
    """A site, as far as it counts."""

    answers: dict[tuple[str, int], int]


class DaemonCollector:
    """Reads a daemon's numbers, each time that it is asked.

    Parameters
    ----------
    watched : Watched
        The daemon.
    site : Answering
        What it is asked over.

    """

    def __init__(self, watched: Watched, site: Answering) -> None:
        self._watched, self._site = watched, site

    def describe(self) -> list[Metric]:
        """Say nothing of names beforehand: it would take a scrape."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Read all of it."""
        yield from self._about()
        yield from self._market()
        yield from self._publishing()
        yield from self._refreshing()
        yield from self._wire()
        yield from self._push()
        yield from self._http()

    def _about(self) -> Iterator[Metric]:
        watched, context = self._watched, self._watched.factory.context
        yield InfoMetricFamily(
            "quoteshm_build",
            "What runs here.",
            {
                "version": _VERSION,
                "python": platform.python_version(),
                "source": watched.writer.spec.source,
                "adjustment": watched.writer.spec.adjustment,
            },
        )
        uptime_ms = watched.clock.boot_ms() - context.started_boot_ms
        yield _gauge("quoteshm_uptime_seconds", "Time since the daemon started.", uptime_ms / 1000)
        age_s = watched.heartbeat_age_s()
        if math.isfinite(age_s):
            says = "Time since the segment was last stamped, which is done each second."
            yield _gauge("quoteshm_heartbeat_age_seconds", says, age_s)

    def _market(self) -> Iterator[Metric]:
        writer, ages = self._watched.writer, self._watched.ages()
        yield _gauge("quoteshm_epoch", "The epoch; it grows by two with each commit.", writer.epoch)
        yield _gauge("quoteshm_tickers", "Tickers that have a value.", ages.tickers)
        yield _gauge("quoteshm_stale_tickers", "Those whose quote is stale.", ages.stale)
        says = "Tickers with a value that nobody asks for until their exchange opens."
        yield _gauge("quoteshm_closed_tickers", says, ages.closed)
        says = "Tickers that the segment has room for."
        yield _gauge("quoteshm_ticker_capacity", says, writer.spec.max_tickers)
        for name, age_ms in (("newest", ages.newest_ms), ("oldest", ages.oldest_ms)):
            if age_ms is not None:
                says = f"Time since the {name} quote was confirmed."
                yield _gauge(f"quoteshm_{name}_quote_age_seconds", says, age_ms / 1000)
        says = "Time after which a quote is stale."
        yield _gauge("quoteshm_freshness_seconds", says, writer.spec.freshness_ms / 1000)
        bars = GaugeMetricFamily("quoteshm_bars", "Closed bars that are kept.", labels=["interval"])
        for kind in writer.spec.kinds:
            bars.add_metric([kind.interval], int(writer.series(kind.interval)["count"].sum()))
        yield bars
        says = "Bytes of the segment, holes included."
        yield _gauge("quoteshm_segment_size_bytes", says, writer.size)
        if writer.path is not None:
            try:
                nbytes = writer.path.stat().st_blocks * _BLOCK_NBYTES
            except OSError:  # somebody has deleted it; the daemon goes on
                return
            says = "Bytes of memory that the segment takes."
            yield _gauge("quoteshm_segment_allocated_bytes", says, nbytes)

    def _publishing(self) -> Iterator[Metric]:
        publisher = self._watched.publisher
        counts = publisher.counts
        yield _counter("quoteshm_batches", "Commits of what a source has answered.", counts.commits)
        yield _histogram(
            "quoteshm_publish_seconds",
            "How long publishing took: checking, comparing, and the commit.",
            publisher.durations,
        )
        says = "Rows of the source that were no bars, or broke a rule of bars."
        yield _counter("quoteshm_bars_dropped", says, counts.dropped)
        says = "Bars older than what is published."
        yield _counter("quoteshm_bars_late", says, counts.late)
        says = "Closed bars that the vendor changed after the fact."
        yield _counter("quoteshm_bars_restated", says, counts.restated)
        says = "Answers that the segment would not take."
        yield _counter("quoteshm_answers_refused", says, counts.refused)

    def _refreshing(self) -> Iterator[Metric]:
        refresh = self._watched.refresh
        errors = CounterMetricFamily(
            "quoteshm_refresh_errors", "Attempts for a ticker that failed.", labels=["reason"]
        )
        failing = GaugeMetricFamily(
            "quoteshm_failing_tickers", "Tickers that fail at present.", labels=["reason"]
        )
        now = Counter(trouble.reason for trouble in refresh.troubles.values())
        for reason in Reason:
            name = reason.value.replace(" ", "_")
            errors.add_metric([name], refresh.failed.get(reason, 0))
            failing.add_metric([name], now[reason])
        yield errors
        yield failing
        for name, says, at_ms in (
            ("attempt", "When any ticker was last asked for.", refresh.last_attempt_ms),
            ("success", "When an answer was last published.", refresh.last_success_ms),
        ):
            if at_ms is not None:
                yield _gauge(f"quoteshm_last_{name}_timestamp_seconds", says, at_ms / 1000)
        says = "Whether the last refresh broke off as a whole."
        yield _gauge("quoteshm_source_broken", says, refresh.error is not None)
        yield from _requests(self._watched.describe_source())

    def _wire(self) -> Iterator[Metric]:
        factory = self._watched.factory
        tally = factory.tally
        requests = CounterMetricFamily(
            "quoteshm_requests", "Requests answered, over all ways in.", labels=["op", "code"]
        )
        for (op, code), count in sorted(tally.requests().items()):
            requests.add_metric([op, code], count)
        yield requests
        yield _histogram(
            "quoteshm_request_seconds",
            "From when a request was read to when its turn of the reactor had sent all replies.",
            tally.latency,
        )
        yield _gauge("quoteshm_connections", "Clients at present.", factory.connections.count)
        says = "Connections there may be."
        yield _gauge("quoteshm_connection_limit", says, factory.connections.total)
        yield _counter("quoteshm_connections_accepted", "Clients let in.", tally.connected)
        says = "Clients for which there was no room."
        yield _counter("quoteshm_connections_turned_away", says, tally.turned_away)
        says = "Clients that were cut because they did not read."
        yield _counter("quoteshm_connections_cut", says, tally.cut_off)
        says = "Clients that were closed because they said nothing."
        yield _counter("quoteshm_connections_idle_closed", says, tally.idle)
        clients = tuple(factory.clients)
        pending = sum(client.queued_nbytes for client in clients)
        says = "What waits for clients to read it; the same bytes count for each of them."
        yield _gauge("quoteshm_pending_bytes", says, pending)
        sent = tally.sent_nbytes + sum(client.sent_nbytes for client in clients)
        yield _counter("quoteshm_sent_bytes", "What clients were sent.", sent)

    def _push(self) -> Iterator[Metric]:
        hub = self._watched.factory.hub
        yield _gauge("quoteshm_subscriptions", "Subscriptions at present.", len(hub))
        says = "Events sent to subscriptions, heartbeats apart."
        yield _counter("quoteshm_events", says, hub.told)
        says = "Commits that slow clients were told of only together with a later one."
        yield _counter("quoteshm_conflations", says, hub.skipped)

    def _http(self) -> Iterator[Metric]:
        answers = CounterMetricFamily(
            "quoteshm_http_requests", "Requests answered over HTTP.", labels=["path", "status"]
        )
        for (path, status), count in sorted(self._site.answers.items()):
            answers.add_metric([path, str(status)], count)
        yield answers


def _requests(told: Mapping[str, object]) -> Iterator[Metric]:
    """Say what a source that asks somebody else says of its requests."""
    count, per_minute = told.get("count"), told.get("per_minute")
    waited_s, state = told.get("waited_s"), told.get("state")
    if isinstance(count, int):
        yield _counter("quoteshm_vendor_requests", "Requests to the vendor.", count)
    if isinstance(per_minute, int | float):
        says = "Requests to the vendor that there may be in a minute."
        yield _gauge("quoteshm_vendor_requests_per_minute_limit", says, per_minute)
    if isinstance(waited_s, int | float):
        says = "Time that requests to the vendor have waited for that."
        yield _counter("quoteshm_vendor_wait_seconds", says, waited_s)
    if isinstance(state, str):
        says = "Whether the vendor is not asked at present, for it did not answer."
        yield _gauge("quoteshm_vendor_paused", says, state != "closed")


def _gauge(name: str, says: str, value: float) -> Metric:
    return GaugeMetricFamily(name, says, float(value))


def _counter(name: str, says: str, value: float) -> Metric:
    return CounterMetricFamily(name, says, value)


def _histogram(name: str, says: str, found: Histogram) -> Metric:
    bounds = [*(repr(bound) for bound in BOUNDS_S), "+Inf"]
    buckets = list(zip(bounds, found.cumulated(), strict=True))
    return HistogramMetricFamily(name, says, buckets, found.sum_s)


class Metrics(Resource):
    """All metrics of a daemon and of its process.

    Parameters
    ----------
    watched : Watched
        The daemon.
    site : Answering
        What is asked.

    """

    isLeaf = True

    def __init__(self, watched: Watched, site: Answering) -> None:
        super().__init__()
        self._registry = CollectorRegistry()  # its own: the one of the library is for everybody
        collector: Any = DaemonCollector(watched, site)
        self._registry.register(collector)
        ProcessCollector(registry=self._registry)

    def render_GET(self, request: Any) -> bytes:  # noqa: ANN401, N802  Twisted's
        """Write all of them down."""
        request.setHeader(b"content-type", TYPE)
        request.setHeader(b"cache-control", b"no-store")
        return generate_latest(self._registry)
