"""Yahoo Finance, through yfinance: daily and intraday bars of whatever it has.

One ticker is downloaded after the other, in one worker thread. What is published already is not
asked for again, but for a few bars of overlap, in which corrections show; a split, or a correction
of the last closed bar, has the whole window fetched anew.

Prices are adjusted for splits and not for dividends, unless told otherwise: Yahoo's intraday prices
never are, so it is the one adjustment in which all intervals, the last price and the previous close
fit together. "all" adjusts for dividends too, where every interval is a day or longer. "none" gives
prices as they were traded: Yahoo's own are adjusted for splits, and multiplied by them again, so
they are exact up to Yahoo's rounding; for a day and shorter, as a longer bar may hold a split.

How far back Yahoo goes depends on the interval: of one minute it gives eight days at a time
(`yahoo_plan`). A request that fails says why, as far as Yahoo lets that be known. Each request is
taken out of a budget; when several tickers in a row get no answer, or are too many for Yahoo,
nobody is asked for until a pause is over (`breaker`).
"""

from __future__ import annotations

import contextlib
import random
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final

from twisted.logger import Logger

from quoteshm.sources.base import Failure, Reason, Source, TickerBars
from quoteshm.sources.breaker import Breaker, State
from quoteshm.sources.worker import AbandonedError, Worker
from quoteshm.sources.yahoo_plan import Plan, wrong_symbol

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
    from pathlib import Path

    from twisted.internet.interfaces import IReactorFromThreads

    from quoteshm.clock import Clock
    from quoteshm.sources.base import Fetched, Request
    from quoteshm.sources.budget import Budget
    from quoteshm.sources.yahoo_download import Downloader, YahooSession

#: Failures that may be everybody's, and the longest pause after them. Where nothing was reached,
#: asking costs nobody anything.
_PAUSES_S: Final = {
    Reason.RATE_LIMITED: 900.0,
    Reason.UNREACHABLE: 120.0,
    Reason.TIMED_OUT: 120.0,
}


class Yahoo(Source):
    """A `quoteshm.sources.base.Source` that asks Yahoo Finance.

    Parameters
    ----------
    clock : Clock
        What says whether a bar is still forming.
    reactor : IReactorFromThreads, optional
        Where answers are delivered; Twisted's own if not given.
    session : callable, optional
        Makes the session that all requests go through, in the worker thread.
    cache_dir : Path, optional
        Where yfinance keeps time zones and cookies.
    adjust : str
        What prices are to be adjusted for: "split", "all", "none".
    budget : Budget, optional
        What each request is taken out of; without it there is no limit.
    rng : random.Random, optional
        Where the jitter of pauses comes from.

    """

    log = Logger()
    name = "yahoo"

    def __init__(  # noqa: PLR0913 (all but the clock have a default)
        self,
        clock: Clock,
        *,
        reactor: IReactorFromThreads | None = None,
        session: Callable[[], YahooSession] | None = None,
        cache_dir: Path | None = None,
        adjust: str = "split",
        budget: Budget | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.adjustment = adjust
        self._budget = budget
        self._breaker = Breaker(rng or random.Random())  # noqa: S311 (for jitter)
        self._refusal: Failure | None = None  # what the pause is for
        self._clock, self._reactor = clock, reactor
        self._make_session, self._cache_dir = session, cache_dir
        self._worker: Worker | None = None
        self._session: YahooSession | None = None  # made in the worker thread
        self._downloader: Downloader | None = None
        self._stopped = False

    @property
    def request_count(self) -> int:
        """How many requests have been made of Yahoo."""
        return 0 if self._session is None else self._session.count

    async def stop(self) -> None:
        """Make no further request, and wait for none: a running `fetch` ends at once."""
        self._stopped = True
        if self._session is not None:
            self._session.stop()
        if self._worker is not None:
            self._worker.abandon()

    def forget(self, tickers: Iterable[str]) -> None:
        """Know nothing more of tickers that nobody wants."""
        self._breaker.forget(tickers)

    async def fetch(self, wanted: Sequence[Request]) -> AsyncGenerator[Fetched, None]:
        """Download one ticker after the other."""
        for request in self._breaker.order(wanted):
            if self._stopped:
                return
            if not request.is_wanted:
                continue
            if self._breaker.state(self._now_s()) is State.OPEN:
                yield self._not_asked(request.ticker)
                continue
            wrong = wrong_symbol(request.ticker)
            if wrong is not None:  # nobody has been asked, so the breaker is not told
                yield Failure(request.ticker, Reason.NOT_FOUND, wrong)
                continue
            now_ms = self._clock.wall_ms()
            plans = [
                Plan.make(kind, request.known(request.ticker, kind.interval), now_ms)
                for kind in request.kinds
            ]
            try:
                if self._worker is None:
                    self._worker = Worker(self._reactor, "yahoo")
                work = partial(self._download, request.ticker, plans, now_ms)
                answer = await self._worker.run(work)
            except AbandonedError:
                return
            self._note(answer)
            if not request.is_wanted:
                self.forget([request.ticker])
            yield answer

    def _now_s(self) -> float:
        return self._clock.boot_ms() / 1000

    def _note(self, answer: TickerBars | Failure) -> None:
        """Tell the breaker how it went, and the log if that has changed anything."""
        failure = answer if isinstance(answer, Failure) else None
        if failure is not None and failure.reason is Reason.STOPPED:
            return
        ticker = answer.ticker if isinstance(answer, Failure) else answer.ticker.symbol
        longest_s = None if failure is None else _PAUSES_S.get(failure.reason)
        if failure is None or longest_s is None:
            if self._breaker.answered(ticker, good=failure is None):
                self.log.info("Yahoo is asked again: it answers")
            return
        failed, now_s = self._breaker.failed, self._now_s()
        was_closed = self._breaker.state(now_s) is State.CLOSED
        if self._breaker.refused(failure.ticker, now_s, longest_s):
            self._refusal = failure
            # Once, however long it lasts: until when is told by `describe`, too.
            (self.log.warn if was_closed else self.log.debug)(
                "Yahoo is not asked until {until}: {count} tickers in a row failed, {ticker} "
                "last: {message}",
                until=self._until(),
                count=len(failed),
                ticker=failure.ticker,
                message=failure.message,
            )

    def _until_ms(self) -> int:
        """Tell when the pause is over, by the wall."""
        return self._clock.wall_ms() + int((self._breaker.until_s - self._now_s()) * 1000)

    def _until(self) -> str:
        moment = datetime.fromtimestamp(self._until_ms() / 1000, UTC)
        return f"{moment:%H:%M:%S} UTC"

    def _not_asked(self, ticker: str) -> Failure:
        """Say why a ticker is not asked for, and until when."""
        refusal = self._refusal
        assert refusal is not None  # noqa: S101 (for the type checker: the breaker is open)
        message = (
            f"not asked for until {self._until()}, as {refusal.ticker} failed: {refusal.message}"
        )
        left_s = self._breaker.until_s - self._now_s()
        return Failure(ticker, refusal.reason, message, max(0.0, left_s))

    def describe(self) -> dict[str, object]:
        """Give what ``get_info`` says of the requests."""
        session, state = self._session, self._breaker.state(self._now_s())
        budget = self._budget
        told: dict[str, object] = {
            "count": self.request_count,
            "per_minute": None if budget is None else budget.per_minute,
            "shared": budget is not None and budget.is_shared,
            "waited_s": 0.0 if budget is None else round(budget.waited_s, 3),
            "waiting": session is not None and session.is_waiting,
            "state": state.value,
        }
        if state is not State.CLOSED and self._refusal is not None:
            told["until_ms"] = self._until_ms()
            told["error"] = f"{self._refusal.ticker}: {self._refusal.message}"
        return told

    def load(self) -> None:
        """Import yfinance, which would keep a running reactor busy for a tenth of a second.

        If that fails, each download says so.
        """
        with contextlib.suppress(Exception):
            import quoteshm.sources.yahoo_download  # noqa: F401, PLC0415

    def _download(self, ticker: str, plans: list[Plan], now_ms: int) -> TickerBars | Failure:
        """Fetch one ticker. In the worker thread."""
        try:
            if self._downloader is None:
                # Half a second where `load` has not been called.
                from quoteshm.sources.yahoo_download import (  # noqa: PLC0415
                    Downloader,
                    YahooSession,
                )

                self._session = (self._make_session or YahooSession)()
                self._session.budget = self._budget
                if self._stopped:
                    self._session.stop()
                self._downloader = Downloader(self._session, self._cache_dir, self.adjustment)
            return self._downloader.fetch(ticker, plans, now_ms)
        except Exception as error:  # noqa: BLE001 - it must not end the thread
            # Whatever it is, a pause for all tickers does not mend it.
            return Failure(ticker, Reason.BAD_DATA, f"yfinance does not work: {error!r}")
