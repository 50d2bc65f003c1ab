"""The part of the Yahoo source that runs in its worker thread: yfinance, one ticker at a time.

Importing this module imports yfinance, which takes half a second and complains on stderr: nobody
but that thread does it. yfinance keeps its session and its caches process-wide, so there is never
more than one download under way.
"""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
import yfinance
from curl_cffi.requests import Session
from curl_cffi.requests.exceptions import RequestException, Timeout
from yfinance.data import YfData
from yfinance.exceptions import YFDataException, YFException, YFRateLimitError

from quoteshm.model import FIELDS, INTERVALS, MINUTE_MS, Bars, Ticker
from quoteshm.sources.base import Failure, LastPrice, Reason, Series, TickerBars
from quoteshm.sources.yahoo_plan import StoppedError, is_forming

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from quoteshm.sources.yahoo_plan import Plan

_COLUMNS: Final = [name.capitalize() for name in FIELDS]
_PRICES: Final = 4  # the columns before the volume

_NOT_FOUND: Final = 404
_TOO_MANY: Final = 429
_REFUSED: Final = frozenset({401, 403})
_SERVER_ERRORS: Final = 500

_INFINITE: Final = float("inf")
_LAST_S: Final = 62_135_596_800  # 1969 years: a moment beyond them is none


class YahooSession(Session[Any]):
    """The one way to Yahoo: each request is counted, ends in time, and can be forbidden.

    Attributes
    ----------
    stopped : bool
        Once set, from whatever thread, every further request raises `StoppedError`.
    count : int
        Requests so far.
    chart : curl_cffi.requests.Response or None
        The last answer about bars, None while there is none.

    """

    def __init__(self, timeout_s: float = 10.0) -> None:
        super().__init__(impersonate="chrome")
        self.timeout_s = timeout_s
        self.stopped = False
        self.count = 0
        self.chart: Any = None

    @property
    def chart_status(self) -> int | None:
        """HTTP status of the last answer about bars."""
        return None if self.chart is None else int(self.chart.status_code)

    def chart_meta(self) -> dict[str, Any]:
        """Give what the last answer says about the ticker, as the vendor wrote it.

        That of yfinance has been worked over, and costs a request in some versions.
        """
        meta: dict[str, Any] = self.chart.json()["chart"]["result"][0]["meta"]
        return meta

    def request(self, method: Any, url: str, **options: Any) -> Any:  # type: ignore[override]  # noqa: ANN401 - curl_cffi's
        """Send a request, as `curl_cffi.requests.Session.request` does."""
        if self.stopped:
            raise StoppedError
        is_chart = "/finance/chart/" in url
        if is_chart:
            self.chart = None
        self.count += 1
        asked = options.get("timeout")
        allowed = self.timeout_s
        options["timeout"] = min(asked, allowed) if isinstance(asked, int | float) else allowed
        response = super().request(method, url, **options)
        if is_chart:
            self.chart = response
        if self.stopped:
            raise StoppedError
        return response


class NoBarsError(Exception):
    """Yahoo answered, and there were no bars in it."""


@dataclass(frozen=True, slots=True, eq=False)
class _Answer:
    """One answer of Yahoo, its rows without prices left out."""

    series: Series
    dropped: int
    last_split_ms: int
    meta: dict[str, Any]


class Downloader:
    """Fetches the bars of one ticker after the other through yfinance.

    Parameters
    ----------
    session : YahooSession
        What all requests go through.
    cache_dir : Path, optional
        Where yfinance keeps time zones and cookies; a folder of the user's if not given.

    """

    def __init__(self, session: YahooSession, cache_dir: Path | None = None) -> None:
        self._session = session
        # The last split that each whole history knew of: an answer with a later one means that
        # all older bars have changed.
        self._splits: dict[tuple[str, str], int] = {}
        yfinance.config.debug.hide_exceptions = False
        if cache_dir is not None:
            yfinance.set_tz_cache_location(str(cache_dir))
        # What it says in words comes as an exception too, and is told in the ticker's failure.
        logging.getLogger("yfinance").addHandler(logging.NullHandler())
        # Importing it switches them on. They are about its own use of pandas.
        warned = getattr(pd.errors, "Pandas4Warning", None)
        if warned is not None:
            warnings.filterwarnings("ignore", category=warned, module="yfinance")

    def fetch(self, symbol: str, plans: Sequence[Plan], now_ms: int) -> TickerBars | Failure:
        """Give the bars of a ticker, of every interval that Yahoo has bars of."""
        series: dict[str, Series] = {}
        dropped = 0
        empty: Failure | None = None
        ticker = yfinance.Ticker(symbol, session=self._session)
        meta: dict[str, Any] = {}
        for plan in plans:
            try:
                answer = self._interval(ticker, symbol, plan, now_ms)
            except Exception as error:  # noqa: BLE001 - whatever yfinance raises is this ticker's
                YfData.cache_get.cache_clear()  # it keeps bad answers about time zones, too
                failure = self._failure(symbol, error, plans)
                if failure.reason is not Reason.EMPTY:
                    return failure
                empty = failure
                continue
            meta = answer.meta
            dropped += answer.dropped
            series[plan.kind.interval] = answer.series
        if not series and empty is not None:
            return empty
        zone = str(meta.get("exchangeTimezoneName") or "UTC")
        return TickerBars(
            ticker=Ticker(symbol, str(meta.get("currency") or ""), zone),
            series=series,
            last_price=_last_price(meta, series.get("1d"), zone),
            dropped=dropped,
        )

    def _interval(self, ticker: Any, symbol: str, plan: Plan, now_ms: int) -> _Answer:  # noqa: ANN401 - yfinance has no types
        """Fetch one interval: what is new, and all of it if the past has changed."""
        interval = plan.kind.interval
        answer = self._history(ticker, interval, plan.start_ms, now_ms)
        if plan.known is not None:
            bars = answer.series.bars
            same = bars.ohlcv[3][bars.time == plan.known.time_ms]
            split = answer.last_split_ms > self._splits.get((symbol, interval), 0)
            corrected = not plan.known.forming and bool((same != plan.known.close).any())
            if split or corrected:
                answer = self._history(ticker, interval, plan.whole_start_ms, now_ms)
        latest = max(answer.last_split_ms, self._splits.get((symbol, interval), 0))
        self._splits[symbol, interval] = latest
        return answer

    def _history(self, ticker: Any, interval: str, start_ms: int, now_ms: int) -> _Answer:  # noqa: ANN401 - yfinance has no types
        """Make one request for bars."""
        frame = ticker.history(
            start=datetime.fromtimestamp(start_ms // 1000, UTC),
            interval=interval,
            # Yahoo adjusts all prices for splits, and intraday ones for nothing else: only
            # unadjusted for dividends do all intervals, and the last price, fit together.
            auto_adjust=False,
            actions=True,
            timeout=self._session.timeout_s,
        )
        if frame.empty:
            raise NoBarsError
        meta = self._session.chart_meta()
        zone = str(meta.get("exchangeTimezoneName") or "UTC")
        index = frame.index
        if index.tz is None:
            index = index.tz_localize(zone, ambiguous=True, nonexistent="shift_forward")
        time = index.as_unit("ms").asi8
        ohlcv = np.ascontiguousarray(frame[_COLUMNS].to_numpy(np.float64).T)
        keep = np.isfinite(ohlcv[:_PRICES]).all(axis=0)
        if _is_intraday(interval):
            # A last row between two minutes is no bar but the price of that moment.
            keep &= time % MINUTE_MS == 0
        if not keep.any():
            raise NoBarsError
        bars = Bars(time[keep], ohlcv[:, keep])
        forming = is_forming(interval, int(bars.time[-1]), now_ms, zone, _regular_end_ms(meta))
        splits = np.flatnonzero(np.nan_to_num(frame["Stock Splits"].to_numpy(np.float64)))
        last_split_ms = int(time[splits[-1]]) if len(splits) else 0
        dropped = int(np.count_nonzero(~keep))
        return _Answer(Series(bars, forming), dropped, last_split_ms, meta)

    def _failure(self, symbol: str, error: Exception, plans: Sequence[Plan]) -> Failure:
        """Say in our words what went wrong."""
        status = self._session.chart_status
        was_there = any(plan.known is not None for plan in plans)
        text = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, StoppedError) or self._session.stopped:
            reason, text = Reason.STOPPED, "stopped"
        elif isinstance(error, YFRateLimitError) or status == _TOO_MANY:
            reason, text = Reason.RATE_LIMITED, "Yahoo has had too many requests (HTTP 429)"
        elif status == _NOT_FOUND and not was_there:
            reason, text = Reason.NOT_FOUND, "Yahoo knows no such symbol (HTTP 404)"
        elif isinstance(error, Timeout):
            reason = Reason.TIMED_OUT
            text = f"no answer from Yahoo within {self._session.timeout_s:g} s"
        elif status is not None and (status in _REFUSED or status >= _SERVER_ERRORS):
            reason, text = Reason.UNREACHABLE, f"Yahoo serves nobody (HTTP {status})"
        elif status == _NOT_FOUND:
            # For a healthy ticker that is a fault of Yahoo's more often than an end.
            reason, text = Reason.EMPTY, "Yahoo has no bars of it at the moment (HTTP 404)"
        elif isinstance(error, NoBarsError):
            reason, text = Reason.EMPTY, "Yahoo's answer has no bars"
        elif isinstance(error, YFDataException | RequestException) and status is None:
            reason, text = Reason.UNREACHABLE, f"Yahoo cannot be reached: {text}"
        elif isinstance(error, YFException):
            # Without a word of Yahoo's yfinance guesses: "possibly delisted".
            said = getattr(error, "yahoo_reason", None)
            reason, text = Reason.EMPTY, said or "Yahoo's answer has no bars"
        else:
            reason, text = Reason.BAD_DATA, f"{type(error).__name__}: {text}"
        return Failure(symbol, reason, text)


def _is_intraday(interval: str) -> bool:
    """Tell whether bars of an interval are shorter than a day."""
    return INTERVALS[interval] < INTERVALS["1d"]


def _finite(value: object) -> float | None:
    """Give a number of the vendor's metadata, if it is one; JSON as Python reads it has NaN."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if abs(value) < _INFINITE else None


def _ms(moment_s: object) -> int | None:
    """Give a moment of the vendor's metadata in milliseconds."""
    moment = _finite(moment_s)
    return None if moment is None or abs(moment) > _LAST_S else int(moment) * 1000


def _regular_end_ms(meta: Mapping[str, Any]) -> int | None:
    """Give the end of the regular trading hours of this day or the last one, if it is known."""
    try:
        return _ms(meta["currentTradingPeriod"]["regular"]["end"])
    except (KeyError, TypeError):
        return None


def _last_price(meta: Mapping[str, Any], daily: Series | None, zone: str) -> LastPrice | None:
    """Give the last price and its time; the values of the day are those of the daily bar."""
    price, ts_ms = _finite(meta.get("regularMarketPrice")), _ms(meta.get("regularMarketTime"))
    if price is None or ts_ms is None:
        return None
    nan = float("nan")
    if daily is None:
        high, low, volume = (
            nan if (value := _finite(meta.get(name))) is None else value
            for name in ("regularMarketDayHigh", "regularMarketDayLow", "regularMarketVolume")
        )
        return LastPrice(price, ts_ms, nan, high, low, volume, nan)
    bars = daily.bars
    day, of = (pd.Timestamp(ms, unit="ms", tz=zone).date() for ms in (int(bars.time[-1]), ts_ms))
    if day != of:  # a day that has a price, and no bar yet
        return None
    open_, high, low, _, volume = bars.ohlcv[:, -1].tolist()
    prev_close = float(bars.ohlcv[3, -2]) if len(bars) > 1 else nan
    return LastPrice(price, ts_ms, open_, high, low, volume, prev_close)
