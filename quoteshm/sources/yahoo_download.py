"""The part of the Yahoo source that runs in its worker thread: yfinance, one ticker at a time.

Importing this module imports yfinance, which takes half a second and complains on stderr:
`Yahoo.load` does it before the reactor runs, or else that thread. yfinance keeps its session and
its caches process-wide, so there is never more than one download under way.
"""

from __future__ import annotations

import logging
import threading
import time
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
import yfinance
from curl_cffi.requests import Session
from curl_cffi.requests.exceptions import RequestException, Timeout
from yfinance.data import YfData
from yfinance.exceptions import YFDataException, YFException, YFRateLimitError

from quoteshm.model import DAY_MS, FIELDS, INTERVALS, MINUTE_MS, Bars, Ticker
from quoteshm.sources.base import Failure, LastPrice, Reason, Series, TickerBars
from quoteshm.sources.environment import trusted_file, without_passwords
from quoteshm.sources.yahoo_plan import AHEAD_MS, StoppedError, is_forming

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from quoteshm.sources.budget import Budget
    from quoteshm.sources.yahoo_plan import Plan

_COLUMNS: Final = [name.capitalize() for name in FIELDS]
_PRICES: Final = 4  # the columns before the volume

_NOT_FOUND: Final = 404
_TOO_MANY: Final = 429
_REFUSED: Final = frozenset({401, 403})
_SERVER_ERRORS: Final = 500

#: So long, and two bars, a whole history may begin after what it is asked from: closed days.
_GAP_MS: Final = 10 * DAY_MS

_INFINITE: Final = float("inf")
_LAST_S: Final = 62_135_596_800  # 1969 years: a moment beyond them is none


class YahooSession(Session[Any]):
    """The one way to Yahoo: each request is counted, ends in time, and can be forbidden.

    Parameters
    ----------
    timeout_s : float
        The longest that any request takes.
    seconds : callable
        The clock of the budget.

    Attributes
    ----------
    count : int
        Requests so far.
    budget : Budget or None
        What each request waits for, in the thread that makes it.
    is_waiting : bool
        Whether a request does so now.
    chart : curl_cffi.requests.Response or None
        The last answer about bars, None while there is none.

    """

    def __init__(
        self, timeout_s: float = 10.0, seconds: Callable[[], float] = time.monotonic
    ) -> None:
        # Said aloud: which variables count by themselves has changed from version to version.
        super().__init__(impersonate="chrome", verify=trusted_file() or True)  # type: ignore[arg-type]
        self.timeout_s = timeout_s
        self.count = 0
        self.budget: Budget | None = None
        self.is_waiting = False
        self.chart: Any = None
        self._seconds = seconds
        self._stop = threading.Event()
        self._is_refused = False
        self._is_late: Timeout | None = None

    @property
    def stopped(self) -> bool:
        """Whether every further request raises `StoppedError`."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Forbid further requests, from whatever thread; one that waits for its turn ends."""
        self._stop.set()

    def begin(self) -> None:
        """Forget what was said about the ticker before."""
        self.chart, self._is_refused, self._is_late = None, False, None

    @property
    def chart_status(self) -> int | None:
        """HTTP status of the last answer about bars."""
        return None if self.chart is None else int(self.chart.status_code)

    def chart_result(self) -> dict[str, Any]:
        """Give the last answer about bars as the vendor wrote it: bars, events, metadata.

        What yfinance has of it has been worked over, and costs a request in some versions.
        """
        result: dict[str, Any] = self.chart.json()["chart"]["result"][0]
        return result

    def request(self, method: Any, url: str, **options: Any) -> Any:  # type: ignore[override]  # noqa: ANN401 - curl_cffi's
        """Send a request, as `curl_cffi.requests.Session.request` does."""
        if self._is_refused:
            # yfinance tries again at once, in another way: that is one request too many more.
            raise YFRateLimitError
        if self._is_late is not None:
            raise self._is_late  # the same: whoever is next has waited for long enough
        self._wait_for_turn()
        is_chart = "/finance/chart/" in url
        if is_chart:
            self.chart = None
        self.count += 1
        asked = options.get("timeout")
        allowed = self.timeout_s
        options["timeout"] = min(asked, allowed) if isinstance(asked, int | float) else allowed
        try:
            response = super().request(method, url, **options)
        except Timeout as error:
            if is_chart:  # without a cookie yfinance goes on
                self._is_late = error
            raise
        if is_chart:
            self.chart = response
            self._is_refused = response.status_code == _TOO_MANY
        if self.stopped:
            raise StoppedError
        return response

    def _wait_for_turn(self) -> None:
        """Take a request out of the budget, which may take its time; a stop ends the wait."""
        while not self.stopped:
            wait_s = 0.0 if self.budget is None else self.budget.take(self._seconds())
            self.is_waiting = wait_s > 0
            if not self.is_waiting:
                return
            self._stop.wait(wait_s)
        raise StoppedError


class AnswerError(Exception):
    """Yahoo answered, and not with what it was asked for."""

    reason: Reason


class NoBarsError(AnswerError):
    """There were no bars in the answer."""

    reason = Reason.EMPTY

    def __init__(self) -> None:
        super().__init__("Yahoo's answer has no bars")


class PartialError(AnswerError):
    """A whole history was asked for, and something is left out."""

    reason = Reason.BAD_DATA

    def __init__(self) -> None:
        super().__init__("Yahoo's answer is not the whole history")


@dataclass(frozen=True, slots=True, eq=False)
class _Answer:
    """One answer of Yahoo, its rows without prices left out."""

    series: Series
    dropped: int
    events: dict[str, int]  # "split", "dividend" -> midnight before the last one
    meta: dict[str, Any]


class Downloader:
    """Fetches the bars of one ticker after the other through yfinance.

    Parameters
    ----------
    session : YahooSession
        What all requests go through.
    cache_dir : Path, optional
        Where yfinance keeps time zones and cookies; a folder of the user's if not given.
    adjust : str
        What prices are to be adjusted for: "split", "all", "none".

    """

    def __init__(
        self, session: YahooSession, cache_dir: Path | None = None, adjust: str = "split"
    ) -> None:
        self._session, self._adjust = session, adjust
        # The last split, or dividend, that each history knew of: an answer with a later one means
        # that all older bars have changed.
        self._events: dict[tuple[str, str, str], int] = {}
        # When each whole history began: a later one that begins much later is not whole.
        self._begins: dict[tuple[str, str], int] = {}
        # Those that began late since then: when, and when that was first seen.
        self._late: dict[tuple[str, str], tuple[int, int]] = {}
        # First answers that begin late: of a young ticker, or in part; asked for once more.
        self._short: set[tuple[str, str]] = set()
        # Yahoo's own prices are adjusted for splits, by which `_unsplit` multiplies them again.
        self._causes = ("split", "dividend") if adjust == "all" else ("split",)
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
        self._session.begin()
        answers: dict[str, _Answer] = {}
        empty: Failure | None = None
        cause: str | None = None
        try:
            ticker = yfinance.Ticker(symbol, session=self._session)  # of an ISIN it asks for more
            for plan in plans:
                try:
                    is_short = (symbol, plan.kind.interval) in self._short
                    start_ms = plan.whole_start_ms if is_short else plan.start_ms
                    answer = self._history(ticker, plan, start_ms, now_ms)
                except Exception as error:
                    empty = self._failure(symbol, error, plans)
                    if empty.reason is not Reason.EMPTY:
                        raise
                    YfData.cache_get.cache_clear()
                    continue
                answers[plan.kind.interval] = answer
                cause = _graver(cause, self._changed(symbol, plan, answer))
            if cause is not None:
                self._fetch_whole(ticker, symbol, plans, answers, cause=cause, now_ms=now_ms)
        except Exception as error:  # noqa: BLE001 - whatever yfinance raises is this ticker's
            YfData.cache_get.cache_clear()  # it keeps bad answers about time zones, too
            return self._failure(symbol, error, plans)
        if not answers:
            return empty or Failure(symbol, Reason.EMPTY, "no interval was asked for")
        self._remember(symbol, plans, answers)
        meta = next(reversed(answers.values())).meta
        zone = str(meta.get("exchangeTimezoneName") or "UTC")
        series = {interval: answer.series for interval, answer in answers.items()}
        return TickerBars(
            ticker=Ticker(symbol, str(meta.get("currency") or ""), zone),
            series=series,
            last_price=_last_price(meta, series.get("1d"), zone, now_ms),
            dropped=sum(answer.dropped for answer in answers.values()),
            # What Yahoo no longer gives cannot be adjusted. As traded, it is what it was.
            whole=cause in self._causes and self._adjust != "none",
            # What is older than all of an answer may have been split since.
            whole_of=frozenset(
                plan.kind.interval
                for plan in plans
                if plan.known is not None and plan.begins_anew and self._adjust != "none"
            ),
            cause=cause or "vendor",
        )

    def _changed(self, symbol: str, plan: Plan, answer: _Answer) -> str | None:
        """Tell why all that is published of a series is to be fetched anew, if it is."""
        if plan.known is None:
            return None
        bars, interval = answer.series.bars, plan.kind.interval
        closed = plan.known.closed
        corrected = closed is not None and bool(
            (bars.ohlcv[3][bars.time == closed[0]] != closed[1]).any()
        )
        for cause in self._causes:
            # Prices may follow their event by hours: the event is then known, and the cause still.
            last_ms = answer.events.get(cause, 0)
            if last_ms and (corrected or last_ms > self._events.get((symbol, interval, cause), 0)):
                return cause
        return "vendor" if corrected else None

    def _fetch_whole(  # noqa: PLR0913 - what `fetch` has at hand
        self,
        ticker: Any,  # noqa: ANN401 - yfinance has no types
        symbol: str,
        plans: Sequence[Plan],
        answers: dict[str, _Answer],
        *,
        cause: str,
        now_ms: int,
    ) -> None:
        """Put whole windows in the place of new bars: of all intervals, if prices are others."""
        for plan in plans:
            interval = plan.kind.interval
            part = answers.get(interval)
            if part is None or plan.begins_anew:
                continue  # none, or the whole already
            if cause == "vendor" and self._changed(symbol, plan, part) is None:
                continue
            answer = self._history(ticker, plan, plan.whole_start_ms, now_ms)
            bars = answer.series.bars
            if not np.isin(part.series.bars.time, bars.time).all():
                raise PartialError
            if self._is_late((symbol, interval), plan, int(bars.time[0]), now_ms):
                raise PartialError
            answers[interval] = answer

    def _is_late(self, series: tuple[str, str], plan: Plan, first_ms: int, now_ms: int) -> bool:
        """Tell whether a whole history lacks its beginning, and may have it another time."""
        begins_ms = self._begins.get(series)
        slack_ms = _GAP_MS + 2 * plan.kind.interval_ms
        if begins_ms is None or first_ms <= max(begins_ms, plan.whole_start_ms) + slack_ms:
            self._late.pop(series, None)
            return False
        late_ms, since_ms = self._late.get(series, (first_ms, now_ms))
        if abs(first_ms - late_ms) > slack_ms or now_ms < since_ms:
            late_ms, since_ms = first_ms, now_ms
        self._late[series] = late_ms, since_ms
        if now_ms - since_ms < DAY_MS:
            return True
        # So it has been for a day: Yahoo has no more of it.
        self._begins[series] = first_ms
        del self._late[series]
        return False

    def _remember(self, symbol: str, plans: Sequence[Plan], answers: Mapping[str, _Answer]) -> None:
        """Note what the bars that are now handed on know of."""
        for plan in plans:
            interval = plan.kind.interval
            answer = answers.get(interval)
            if answer is None:
                continue
            series, begins_ms = (symbol, interval), int(answer.series.bars.time[0])
            if plan.begins_anew:
                self._begins[series] = begins_ms
                if begins_ms > plan.whole_start_ms + _GAP_MS + 2 * plan.kind.interval_ms:
                    self._short.add(series)
            elif series in self._short:
                if begins_ms >= self._begins[series]:  # it is as old as that
                    self._short.discard(series)
                self._begins[series] = min(begins_ms, self._begins[series])
            for cause, last_ms in answer.events.items():
                key = (symbol, interval, cause)
                self._events[key] = max(last_ms, self._events.get(key, 0))

    def _history(self, ticker: Any, plan: Plan, start_ms: int, now_ms: int) -> _Answer:  # noqa: ANN401 - yfinance has no types
        """Make one request for bars."""
        interval = plan.kind.interval
        frame = ticker.history(
            start=plan.moment(start_ms),
            interval=interval,
            # Yahoo adjusts all prices for splits, and intraday ones for nothing else: only
            # unadjusted for dividends do all intervals, and the last price, fit together.
            auto_adjust=self._adjust == "all",
            actions=True,
            timeout=self._session.timeout_s,
        )
        if frame.empty:
            raise NoBarsError
        result = self._session.chart_result()
        meta = result["meta"]
        zone = str(meta.get("exchangeTimezoneName") or "UTC")
        index = frame.index
        if index.tz is None:
            index = index.tz_localize(zone, ambiguous=True, nonexistent="shift_forward")
        moments = index.as_unit("ms").asi8
        ohlcv = np.ascontiguousarray(frame[_COLUMNS].to_numpy(np.float64).T)
        keep = np.isfinite(ohlcv[:_PRICES]).all(axis=0)
        if _is_intraday(interval):
            # A last row between two minutes is no bar but the price of that moment.
            keep &= moments % MINUTE_MS == 0
        if not keep.any():
            raise NoBarsError
        bars = Bars(moments[keep], ohlcv[:, keep])
        splits = list(_splits(result, zone))
        if self._adjust == "none":
            bars = _unsplit(bars, splits)
        seen_ms, last_ms = _ms(meta.get("regularMarketTime")), int(bars.time[-1])
        end_ms = _regular_end_ms(meta)
        forming = is_forming(interval, last_ms, now_ms, zone, end_ms, seen_ms=seen_ms)
        events = {
            "split": max((ms for ms, _ in splits), default=0),
            "dividend": max((ms for ms, _ in _events(result, "dividends", zone)), default=0),
        }
        dropped = int(np.count_nonzero(~keep))
        return _Answer(Series(bars, forming), dropped, events, meta)

    def _failure(self, symbol: str, error: Exception, plans: Sequence[Plan]) -> Failure:
        """Say in our words what went wrong."""
        status = self._session.chart_status
        was_there = any(plan.known is not None for plan in plans)
        text = without_passwords(" ".join(str(error).split())) or type(error).__name__
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
        elif isinstance(error, AnswerError):
            reason = error.reason
        elif isinstance(error, YFDataException | RequestException) and status is None:
            reason = Reason.UNREACHABLE
            text = f"Yahoo cannot be reached: {text.partition(' See https://')[0]}"  # curl's advice
        elif isinstance(error, YFException):
            # Without a word of Yahoo's yfinance guesses: "possibly delisted".
            said = getattr(error, "yahoo_reason", None)
            reason, text = Reason.EMPTY, said or "Yahoo's answer has no bars"
        else:
            text = f"Yahoo's answer cannot be read: {type(error).__name__}: {text}"
            reason = Reason.BAD_DATA
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


def _graver(one: str | None, other: str | None) -> str | None:
    """Give the cause that explains more."""
    order = (None, "vendor", "dividend", "split")
    return max(one, other, key=order.index)


def _events(
    result: Mapping[str, Any], kind: str, zone: str
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Give the events of an answer: the midnight before each, of the exchange, and its words."""
    for event in ((result.get("events") or {}).get(kind) or {}).values():
        moment_ms = _ms(event.get("date"))
        if moment_ms is not None:
            moment = pd.Timestamp(moment_ms, unit="ms", tz="UTC").tz_convert(zone)
            yield int(moment.normalize().timestamp()) * 1000, event


def _splits(result: Mapping[str, Any], zone: str) -> Iterator[tuple[int, float]]:
    """Give the splits of an answer: midnight before each, and how many shares became of one."""
    for midnight_ms, event in _events(result, "splits", zone):
        new, old = _finite(event.get("numerator")), _finite(event.get("denominator"))
        if new and old and new * old > 0:
            yield midnight_ms, new / old


def _unsplit(bars: Bars, splits: Sequence[tuple[int, float]]) -> Bars:
    """Give prices and volumes as they were traded. Every answer has all splits after its bars."""
    ohlcv = bars.ohlcv.copy()
    for midnight_ms, ratio in splits:
        before = bars.time < midnight_ms
        ohlcv[:_PRICES, before] *= ratio
        ohlcv[_PRICES, before] /= ratio
    ohlcv[_PRICES] = np.rint(ohlcv[_PRICES])
    return Bars(bars.time, ohlcv)


def _regular_end_ms(meta: Mapping[str, Any]) -> int | None:
    """Give the end of the regular trading hours of this day or the last one, if it is known."""
    try:
        return _ms(meta["currentTradingPeriod"]["regular"]["end"])
    except (KeyError, TypeError):
        return None


def _last_price(
    meta: Mapping[str, Any], daily: Series | None, zone: str, now_ms: int
) -> LastPrice | None:
    """Give the last price and its time; the values of the day are those of the daily bar."""
    price, ts_ms = _finite(meta.get("regularMarketPrice")), _ms(meta.get("regularMarketTime"))
    # 0 and -1 stand for none; where one is real, the bars tell.
    if price is None or ts_ms is None or price <= 0 or ts_ms > now_ms + AHEAD_MS:
        return None
    nan = float("nan")
    if daily is None:
        high, low, volume = (
            nan if (value := _finite(meta.get(name))) is None else value
            for name in ("regularMarketDayHigh", "regularMarketDayLow", "regularMarketVolume")
        )
        return LastPrice(price, ts_ms, nan, max(high, price), min(low, price), volume, nan)
    bars = daily.bars
    day, of = (pd.Timestamp(ms, unit="ms", tz=zone).date() for ms in (int(bars.time[-1]), ts_ms))
    if day != of:  # a day that has a price, and no bar yet
        return None
    open_, high, low, _, volume = bars.ohlcv[:, -1].tolist()
    prev_close = float(bars.ohlcv[3, -2]) if len(bars) > 1 else nan
    # The price may be newer than the bar. NaN stays NaN.
    high, low = max(high, price), min(low, price)
    return LastPrice(price, ts_ms, open_, high, low, volume, prev_close)
