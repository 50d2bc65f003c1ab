"""A Yahoo on the loopback interface: cookie, crumb and chart, as the real yfinance asks for them.

Nothing of it is in the product. The session through which the Yahoo source makes its requests is
replaced by one that sends every `*.yahoo.com` URL here; yfinance itself runs unchanged. Tests use
`YahooServer` and `loopback_session`; for real processes there is

    python -m tests.yahoo_server serve [--zone ZONE]    # the sample bars; prints its port
    python -m tests.yahoo_server twistd PORT -n --pidfile= quoteshm --source yahoo ...
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs, unquote, urlsplit
from zoneinfo import ZoneInfo

import numpy as np

from quoteshm.model import DAY_MS, INTERVALS, Bars
from tests import sample_data

if TYPE_CHECKING:
    from quoteshm.sources.yahoo_download import YahooSession

_YAHOO = re.compile(r"https?://[\w.-]*yahoo\.com(:\d+)?")
_VALID_RANGES = ["1d", "5d", "1mo", "3mo", "6mo", "1y", "2y", "5y", "10y", "ytd", "max"]
_OPEN_S, _CLOSE_S = 34_200, 57_600  # 9:30 and 16:00, after local midnight


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


class YahooServer:
    """The server: a context manager that listens on a port of its own.

    Attributes
    ----------
    listings : dict of str to Listing
        What it has; may be changed while it runs.
    charts : list of (str, dict)
        Every request for bars: symbol and parameters.

    """

    def __init__(self, listings: dict[str, Listing] | None = None, port: int = 0) -> None:
        self.listings = dict(listings or {})
        self.charts: list[tuple[str, dict[str, str]]] = []
        self.hanging = threading.Event()  # set when a request begins to hang
        self.released = threading.Event()
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

    def answer(self, path: str, query: dict[str, str]) -> tuple[int, str, str]:
        """Answer a request: status, content type, body."""
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
        if listing.status == 429:
            return 429, "text/html", "Too Many Requests\r\n"
        if listing.status != 200:
            return listing.status, "text/html", "<html>out of order</html>"
        result = self._result(symbol, listing, query)
        return 200, "application/json", json.dumps({"chart": {"result": [result], "error": None}})

    def _result(self, symbol: str, listing: Listing, query: dict[str, str]) -> dict[str, Any]:
        interval = query["interval"]
        empty = Bars(np.empty(0, np.int64), np.empty((5, 0)))
        bars = listing.bars.get(interval, empty)
        is_daily = INTERVALS[interval] >= DAY_MS
        stamps = [ms // 1000 + (_OPEN_S if is_daily else 0) for ms in bars.time.tolist()]
        begin = float(query.get("period1", "-inf"))
        end = float(query.get("period2", "inf"))
        chosen = [i for i, stamp in enumerate(stamps) if begin <= stamp < end]
        if query.get("range") == "1d":
            chosen = chosen[-1:]
        meta = self._meta(symbol, listing, bars, stamps)
        if not is_daily:
            meta["tradingPeriods"] = _trading_periods(listing.zone, [stamps[i] for i in chosen])
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
        if events:
            result["events"] = {"splits": events}
        return result

    def _meta(
        self,
        symbol: str,
        listing: Listing,
        bars: Bars,
        stamps: list[int],
    ) -> dict[str, Any]:
        now_s = self.now_s or time.time()
        today = _trading_periods(listing.zone, [int(now_s)])[0][0]
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

    def __init__(self, server: YahooServer, *args: Any) -> None:
        self._yahoo = server
        super().__init__(*args)

    def do_GET(self) -> None:
        """Answer; a caller that has gone is none of our business."""
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        status, kind, body = self._yahoo.answer(parts.path, query)
        data = body.encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            if parts.path == "/":
                self.send_header("Set-Cookie", "A3=a-cookie; Path=/")
            self.end_headers()
            self.wfile.write(data)
        except OSError:
            self.close_connection = True

    do_POST = do_GET  # noqa: N815 - http.server's name

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _error(what: str, message: str) -> str:
    error = {"code": "Not Found", "description": message}
    return json.dumps({what: {"result": None, "error": error}})


def _number(value: float, name: str) -> float | int | None:
    if math.isnan(value):
        return None
    return int(value) if name == "volume" else value


def _trading_periods(zone: str, stamps: Iterable[int]) -> list[list[dict[str, Any]]]:
    """Give the regular hours of each day on which one of the moments falls."""
    periods = {}
    for stamp in stamps:
        local = datetime.fromtimestamp(stamp, ZoneInfo(zone))
        midnight = local.replace(hour=0, minute=0, second=0, microsecond=0)
        offset = (local.utcoffset() or timedelta()).total_seconds()
        periods[midnight] = {
            "timezone": local.tzname(),
            "start": int(midnight.timestamp()) + _OPEN_S,
            "end": int(midnight.timestamp()) + _CLOSE_S,
            "gmtoffset": int(offset),
        }
    return [[period] for _, period in sorted(periods.items())]


def loopback_session(port: int) -> Callable[[], YahooSession]:
    """Give what makes sessions that send every URL of Yahoo's to a local port."""

    def make() -> YahooSession:
        # In the worker thread, as the session itself: it brings yfinance.
        from quoteshm.sources.yahoo_download import YahooSession  # noqa: PLC0415

        class LoopbackSession(YahooSession):
            """Sends every URL of Yahoo's to a local port, past any proxy."""

            def request(self, method: Any, url: str, **options: Any) -> Any:  # type: ignore[override]
                """Send a request."""
                return super().request(
                    method, _YAHOO.sub(f"http://127.0.0.1:{port}", url), **options
                )

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


def redirect(port: int, cache_dir: Path | None = None) -> None:
    """Have every Yahoo source that this process makes ask a local port."""
    from quoteshm.sources.yahoo import Yahoo  # noqa: PLC0415

    Yahoo.__init__ = functools.partialmethod(  # type: ignore[method-assign,assignment]
        Yahoo.__init__,
        session=loopback_session(port),
        cache_dir=cache_dir,
    )


def main(arguments: list[str]) -> None:
    """Serve the sample bars, or run twistd with a Yahoo source that asks a local port."""
    parser = argparse.ArgumentParser(prog="tests.yahoo_server")
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve")
    serve.add_argument("--zone", default="UTC")
    serve.add_argument("--port", type=int, default=0)
    twistd = commands.add_parser("twistd")
    twistd.add_argument("port", type=int)
    twistd.add_argument("--cache-dir", type=Path)
    options, rest = parser.parse_known_args(arguments)
    if options.command == "serve":
        with YahooServer(sample_listings(options.zone), options.port) as server:
            sys.stdout.write(f"{server.port}\n")
            sys.stdout.flush()
            threading.Event().wait()
    redirect(options.port, options.cache_dir)
    from twisted.scripts.twistd import run  # noqa: PLC0415

    sys.argv = ["twistd", *rest]
    run()


if __name__ == "__main__":
    main(sys.argv[1:])
