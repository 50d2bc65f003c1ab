"""A Yahoo on the loopback interface: cookie, crumb and chart, as the real yfinance asks for them.

Nothing of it is in the product, and yfinance runs unchanged. In process the session through which
the Yahoo source makes its requests is replaced by one that takes this for its proxy, and leaves out
TLS (`YahooServer.session`, `loopback_session`). Real processes come through `tests.yahoo_proxy`, on
ordinary environment variables.
"""

from __future__ import annotations

import functools
import json
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs, unquote, urlsplit
from zoneinfo import ZoneInfo

import numpy as np

from quoteshm.model import DAY_MS, INTERVALS, Bars
from tests import sample_data

if TYPE_CHECKING:
    from quoteshm.sources.yahoo_download import YahooSession

COOKIE_HOST = "fc.yahoo.com"
_COOKIE = "A3=a-cookie; Max-Age=31557600; Domain=.yahoo.com; Path=/"
_VALID_RANGES = ["1d", "5d", "1mo", "3mo", "6mo", "1y", "2y", "5y", "10y", "ytd", "max"]
_OPEN_S, _CLOSE_S = 34_200, 57_600  # 9:30 and 16:00, after local midnight


@dataclass
class Fault:
    """How to misbehave, and how many times.

    ``how`` is an HTTP status, or "html" (in place of JSON), "empty" (no bars), "partial" (the
    last ten bars), "hang" (no answer), "drop" (the connection ends), or "trickle" (a byte now and
    then, without end).
    """

    how: int | str
    times: float = math.inf
    taken: int = 0

    def take(self) -> int | str | None:
        """Give how to misbehave this time."""
        if self.taken >= self.times:
            return None
        self.taken += 1
        return self.how


@dataclass
class Listing:
    """What the server knows of a symbol.

    Bars of a day and longer begin at local midnight, as the source gives them back; on the wire
    they carry the hour when trading begins, as Yahoo's do.
    """

    bars: dict[str, Bars]  # by interval
    zone: str = "UTC"
    currency: str = "USD"
    adjusted: list[float] | None = None  # closes of the daily bars, adjusted for dividends
    splits_ms: list[int] = field(default_factory=list)
    status: int = 200  # of the answers about it
    meta: dict[str, Any] = field(default_factory=dict)  # what it says instead of the truth
    hang: bool = False  # never answer
    fault: Fault | None = None  # of the answers about it
    dividends_ms: list[int] = field(default_factory=list)
    closes_s: dict[str, int] = field(
        default_factory=dict
    )  # ISO date -> of half days, after midnight


class YahooServer:
    """The server: a context manager that listens on a port of its own.

    Attributes
    ----------
    listings : dict of str to Listing
        What it has; may be changed while it runs.
    charts : list of (str, dict)
        Every request for bars: symbol and parameters.
    asked_s : list of float
        When each request came, of whatever kind, by the monotonic clock.
    kinds : collections.Counter of str
        How many there were of each kind: "cookie", "consent", "crumb", "chart", "other".
    fault : Fault or None
        Of the answers about all symbols.

    """

    def __init__(self, listings: dict[str, Listing] | None = None, port: int = 0) -> None:
        self.listings = dict(listings or {})
        self.charts: list[tuple[str, dict[str, str]]] = []
        self.hanging = threading.Event()  # set when a request begins to hang
        self.released = threading.Event()
        self.asked_s: list[float] = []
        self.kinds: Counter[str] = Counter()
        self.fault: Fault | None = None
        self.now_s: float | None = None  # stands for the time in trading hours
        self._http = ThreadingHTTPServer(("127.0.0.1", port), functools.partial(_Handler, self))
        self._http.daemon_threads = True
        self._http.block_on_close = False
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._http.server_address[1])

    def __enter__(self) -> Self:
        """Begin to serve."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End, and let what hangs go."""
        self.released.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def session(self) -> Callable[[], YahooSession]:
        """Give what makes sessions that end up here."""
        return loopback_session(self.port)

    def most_requests(self, window_s: float = 60.0) -> int:
        """Give the most requests of any stretch of time."""
        times = np.array(sorted(self.asked_s))
        ends = np.searchsorted(times, times + window_s, side="left")
        return int((ends - np.arange(len(times))).max(initial=0))

    def answer(self, path: str, query: dict[str, str]) -> tuple[int, str, str]:
        """Answer a request: status, content type, body; status 0 is none at all."""
        self.asked_s.append(time.monotonic())
        if path == "/v1/test/getcrumb":
            return 200, "text/plain", "a.crumb"
        if path.startswith("/v8/finance/chart/"):
            return self._chart(unquote(path.rpartition("/")[2]), query)
        if path.startswith("/v10/"):
            return 404, "application/json", _error("quoteSummary", "Not Found")
        return 200, "text/html", "<html></html>"

    def _chart(self, symbol: str, query: dict[str, str]) -> tuple[int, str, str]:
        self.charts.append((symbol, query))
        listing = self.listings.get(symbol)
        if listing is None:
            message = "No data found, symbol may be delisted"
            return 404, "application/json", _error("chart", message)
        if listing.hang:
            self.hanging.set()
            self.released.wait(60)
        fault = self.fault or listing.fault
        how = None if fault is None else fault.take()
        status = how if isinstance(how, int) else listing.status
        if how == "hang":
            self.hanging.set()
            self.released.wait(60)
        if status != 200 or how in {"drop", "html"}:
            return 0 if how == "drop" else status, "text/html", "<html>out of order</html>"
        if how in {"empty", "partial"}:
            rest = slice(-10, None) if how == "partial" else slice(0)
            fewer = {interval: bars[rest] for interval, bars in listing.bars.items()}
            listing = replace(listing, bars=fewer, adjusted=(listing.adjusted or [])[rest])
        result = self._result(symbol, listing, query)
        kind = "trickle" if how == "trickle" else "application/json"
        return 200, kind, json.dumps({"chart": {"result": [result], "error": None}})

    def _result(self, symbol: str, listing: Listing, query: dict[str, str]) -> dict[str, Any]:
        interval = query["interval"]
        bars = listing.bars.get(interval)
        if bars is None:
            begin_s = float(query.get("period1", 0))
            bars = _long_bars(listing, interval, begin_s) or Bars.empty()
        is_daily = INTERVALS[interval] >= DAY_MS
        stamps = [ms // 1000 + (_OPEN_S if is_daily else 0) for ms in bars.time.tolist()]
        begin = float(query.get("period1", "-inf"))
        end = float(query.get("period2", "inf"))
        chosen = [i for i, stamp in enumerate(stamps) if begin <= stamp < end]
        if query.get("range") == "1d":
            chosen = chosen[-1:]
        meta = self._meta(symbol, listing, bars, stamps)
        if not is_daily and stamps and "regularMarketTime" not in listing.meta:
            last_s = stamps[-1] + INTERVALS[interval] // 1000
            meta["regularMarketTime"] = int(min(self.now_s or time.time(), last_s))
        if not is_daily:
            meta["tradingPeriods"] = _trading_periods(
                listing.zone, [stamps[i] for i in chosen], listing.closes_s
            )
        result: dict[str, Any] = {"meta": meta, "indicators": {"quote": [{}]}}
        if not chosen:
            return result
        result["timestamp"] = [stamps[i] for i in chosen]
        columns = ("open", "high", "low", "close", "volume")
        values = dict(zip(columns, bars.ohlcv[:, chosen].tolist(), strict=True))
        result["indicators"]["quote"] = [
            {name: [_number(value, name) for value in column] for name, column in values.items()},
        ]
        if is_daily:
            adjusted = listing.adjusted or bars.ohlcv[3].tolist()
            closes = [_number(adjusted[i], "close") for i in chosen]
            result["indicators"]["adjclose"] = [{"adjclose": closes}]
        splits = [ms // 1000 + _OPEN_S for ms in listing.splits_ms]
        events = {
            str(stamp): {"date": stamp, "numerator": 2, "denominator": 1, "splitRatio": "2:1"}
            for stamp in splits
            if begin <= stamp < end
        }
        dividends = {
            str(stamp): {"date": stamp, "amount": 1.0}
            for stamp in (ms // 1000 + _OPEN_S for ms in listing.dividends_ms)
            if begin <= stamp < end
        }
        kinds = {"splits": events, "dividends": dividends}
        if events or dividends:
            result["events"] = {kind: told for kind, told in kinds.items() if told}
        return result

    def _meta(
        self,
        symbol: str,
        listing: Listing,
        bars: Bars,
        stamps: list[int],
    ) -> dict[str, Any]:
        now_s = self.now_s or time.time()
        today = _trading_periods(listing.zone, [int(now_s)], listing.closes_s)[0][0]
        closes = bars.ohlcv[3][np.isfinite(bars.ohlcv[3])]
        return {
            "currency": listing.currency,
            "symbol": symbol,
            "exchangeName": "NMS",
            "instrumentType": "EQUITY",
            "regularMarketTime": stamps[-1] if stamps else None,
            "regularMarketPrice": float(closes[-1]) if len(closes) else None,
            "gmtoffset": today["gmtoffset"],
            "timezone": today["timezone"],
            "exchangeTimezoneName": listing.zone,
            "priceHint": 2,
            "currentTradingPeriod": {name: dict(today) for name in ("pre", "regular", "post")},
            "dataGranularity": "1d",
            "range": "",
            "validRanges": _VALID_RANGES,
            **listing.meta,
        }


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two packets: 40 ms for each answer

    def __init__(self, server: YahooServer, *args: Any) -> None:
        self._yahoo = server
        super().__init__(*args)

    def do_GET(self) -> None:
        """Answer; a caller that has gone is none of our business."""
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        host = parts.hostname or self.headers.get("Host", "").partition(":")[0]
        self._yahoo.kinds[_kind(host, parts.path)] += 1
        status, kind, body = self._yahoo.answer(parts.path, query)
        data = body.encode()
        if not status:
            self.close_connection = True
            return
        try:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            if host == COOKIE_HOST:
                self.send_header("Set-Cookie", _COOKIE)
            self.end_headers()
            if kind == "trickle":
                for place in range(len(data)):
                    self.wfile.write(data[place : place + 1])
                    if self._yahoo.released.wait(0.05):
                        return
            self.wfile.write(data)
        except OSError:
            self.close_connection = True

    do_POST = do_GET  # noqa: N815 - http.server's name

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _long_bars(listing: Listing, interval: str, begin_s: float) -> Bars | None:
    """Make long bars of daily ones, as Yahoo does: where they begin follows from what was asked.

    Weeks begin on the weekday, and quarters with the month, from which they are asked for.
    """
    daily = listing.bars.get("1d")
    if daily is None or interval not in {"5d", "1wk", "1mo", "3mo"}:
        return None
    zone = ZoneInfo(listing.zone)
    first = datetime.fromtimestamp(begin_s, zone).date()

    def begin_of(day: date) -> date:
        if interval in {"5d", "1wk"}:
            length = 5 if interval == "5d" else 7
            return day - timedelta(days=(day - first).days % length)
        month = day.year * 12 + day.month - 1
        month -= (month - first.year * 12 - first.month + 1) % (3 if interval == "3mo" else 1)
        return date(month // 12, month % 12 + 1, 1)

    columns: dict[date, list[int]] = {}
    for i, ms in enumerate(daily.time.tolist()):
        day = datetime.fromtimestamp(ms / 1000, zone).date()
        if day >= first:  # of the first bar there is no more than was asked for
            columns.setdefault(max(first, begin_of(day)), []).append(i)
    parts = [daily.ohlcv[:, chosen] for chosen in columns.values()]
    ohlcv = np.array(
        [[p[0, 0], p[1].max(), p[2].min(), p[3, -1], p[4].sum()] for p in parts]
    ).reshape(-1, 5)
    times = [_midnight_ms(str(day), listing.zone) for day in columns]
    return Bars(np.array(times, np.int64), np.ascontiguousarray(ohlcv.T))


def _kind(host: str, path: str) -> str:
    if path == "/v1/test/getcrumb":
        return "crumb"
    if path.startswith("/v8/finance/chart/"):
        return "chart"
    if host == COOKIE_HOST:
        return "cookie"
    return "consent" if host in {"guce.yahoo.com", "consent.yahoo.com"} else "other"


def _error(what: str, message: str) -> str:
    error = {"code": "Not Found", "description": message}
    return json.dumps({what: {"result": None, "error": error}})


def _number(value: float, name: str) -> float | int | None:
    if math.isnan(value):
        return None
    return int(value) if name == "volume" else value


def _trading_periods(
    zone: str, stamps: Iterable[int], closes_s: Mapping[str, int]
) -> list[list[dict[str, Any]]]:
    """Give the regular hours of each day on which one of the moments falls."""
    periods = {}
    for stamp in stamps:
        local = datetime.fromtimestamp(stamp, ZoneInfo(zone))
        midnight = local.replace(hour=0, minute=0, second=0, microsecond=0)
        offset = (local.utcoffset() or timedelta()).total_seconds()
        periods[midnight] = {
            "timezone": local.tzname(),
            "start": int(midnight.timestamp()) + _OPEN_S,
            "end": int(midnight.timestamp()) + closes_s.get(f"{midnight:%Y-%m-%d}", _CLOSE_S),
            "gmtoffset": int(offset),
        }
    return [[period] for _, period in sorted(periods.items())]


def loopback_session(port: int) -> Callable[[], YahooSession]:
    """Give what makes sessions that send every URL of Yahoo's to a local port."""

    def make() -> YahooSession:
        # In the worker thread, as the session itself: it brings yfinance.
        from curl_cffi import CurlOpt  # noqa: PLC0415

        from quoteshm.sources.yahoo_download import YahooSession  # noqa: PLC0415

        class LoopbackSession(YahooSession):
            """Takes a local port for its proxy, past any other, and leaves out TLS."""

            def __init__(self) -> None:
                super().__init__()
                self.proxies = {"http": f"http://127.0.0.1:{port}"}
                self.curl_options = {CurlOpt.NOPROXY: ""}

            def request(self, method: Any, url: str, **options: Any) -> Any:  # type: ignore[override]
                """Send a request."""
                return super().request(method, url.replace("https://", "http://", 1), **options)

        return LoopbackSession()

    return make


def sample_listings(zone: str = "UTC") -> dict[str, Listing]:
    """List the tickers of the sample data, their days at local midnight."""
    listings = {}
    for ticker in sample_data.TICKERS:
        bars = sample_data.bars(ticker)
        days = bars.time.astype("M8[ms]").astype("M8[D]")
        local = np.array([_midnight_ms(day, zone) for day in days.astype(str)], np.int64)
        listings[ticker] = Listing(
            {"1d": Bars(local, bars.ohlcv)},
            zone=zone,
            adjusted=sample_data.adjusted_closes(ticker),
        )
    return listings


def _midnight_ms(day: str, zone: str) -> int:
    return int(datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(zone)).timestamp()) * 1000
