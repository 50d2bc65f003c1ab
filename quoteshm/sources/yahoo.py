"""Yahoo Finance, through yfinance: daily and intraday bars of whatever it has.

One ticker is downloaded after the other, in one worker thread. What is published already is not
asked for again, but for a few bars of overlap, in which corrections show; a split, or a correction
of the last closed bar, has the whole window fetched anew.

Prices are adjusted for splits and not for dividends: Yahoo's intraday prices never are, so it is
the one adjustment in which all intervals, the last price and the previous close fit together.

How far back Yahoo goes depends on the interval: of one minute it gives eight days at a time
(`yahoo_plan`). A request that fails says why, as far as Yahoo lets that be known. After one that is
refused for being too many, and after several in a row that had no answer at all, the rest of the
tickers are not asked for until the next refresh.
"""

from __future__ import annotations

import queue
import threading
from functools import partial
from typing import TYPE_CHECKING, Final, cast

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure as TwistedFailure

from quoteshm.sources.base import Failure, Reason, TickerBars
from quoteshm.sources.yahoo_plan import Plan, StoppedError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence
    from pathlib import Path

    from twisted.internet.interfaces import IReactorFromThreads

    from quoteshm.clock import Clock
    from quoteshm.sources.base import Fetched, Request
    from quoteshm.sources.yahoo_download import Downloader, YahooSession

#: After so many answers in a row that did not come, nobody else is asked for.
_GIVE_UP: Final = 3


class Yahoo:
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

    """

    name = "yahoo"
    adjustment = "split"

    def __init__(
        self,
        clock: Clock,
        *,
        reactor: IReactorFromThreads | None = None,
        session: Callable[[], YahooSession] | None = None,
        cache_dir: Path | None = None,
    ) -> None:
        self._clock, self._reactor = clock, reactor
        self._make_session, self._cache_dir = session, cache_dir
        self._worker: _Worker | None = None
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
            self._session.stopped = True
        if self._worker is not None:
            self._worker.stop()

    async def fetch(self, wanted: Sequence[Request]) -> AsyncGenerator[Fetched, None]:
        """Download one ticker after the other."""
        given_up: Failure | None = None
        silent = 0
        for request in wanted:
            if self._stopped:
                return
            if given_up is not None:
                message = f"not asked for, as {given_up.ticker} failed: {given_up.message}"
                yield Failure(request.ticker, given_up.reason, message)
                continue
            now_ms = self._clock.wall_ms()
            plans = [
                Plan.make(kind, request.known(request.ticker, kind.interval), now_ms)
                for kind in request.kinds
            ]
            try:
                work = partial(self._download, request.ticker, plans, now_ms)
                answer = await self._running_worker().run(work)
            except StoppedError:
                return
            yield answer
            reason = answer.reason if isinstance(answer, Failure) else None
            silent = silent + 1 if reason in {Reason.TIMED_OUT, Reason.UNREACHABLE} else 0
            if isinstance(answer, Failure) and (
                reason is Reason.RATE_LIMITED or silent >= _GIVE_UP
            ):
                given_up = answer

    def _running_worker(self) -> _Worker:
        if self._worker is None:
            reactor = self._reactor
            if reactor is None:
                from twisted.internet import reactor as default  # noqa: PLC0415 - installs it

                reactor = cast("IReactorFromThreads", default)
            self._worker = _Worker(reactor)
        return self._worker

    def _download(self, ticker: str, plans: list[Plan], now_ms: int) -> TickerBars | Failure:
        """Fetch one ticker. In the worker thread."""
        try:
            if self._downloader is None:
                # Half a second, and complaints on stderr: in this thread, and only when needed.
                from quoteshm.sources.yahoo_download import (  # noqa: PLC0415
                    Downloader,
                    YahooSession,
                )

                self._session = (self._make_session or YahooSession)()
                self._session.stopped = self._stopped
                self._downloader = Downloader(self._session, self._cache_dir)
            return self._downloader.fetch(ticker, plans, now_ms)
        except Exception as error:  # noqa: BLE001 - it must not end the thread
            return Failure(ticker, Reason.UNREACHABLE, f"yfinance does not work: {error!r}")


class _Worker:
    """A thread that does one thing after the other, and that nobody ever waits for.

    It is no thread of the reactor's pool: the reactor would not end before a download does.
    """

    def __init__(self, reactor: IReactorFromThreads) -> None:
        self._reactor = reactor
        self._work: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._waiting: set[Deferred[TickerBars | Failure]] = set()
        self._stopped = False
        threading.Thread(target=self._loop, name="yahoo", daemon=True).start()

    def run(self, work: _Job) -> Deferred[TickerBars | Failure]:
        """Have something done; the result comes in the reactor's thread."""
        done: Deferred[TickerBars | Failure] = Deferred()
        if self._stopped:
            done.errback(StoppedError())
            return done
        self._waiting.add(done)
        self._work.put((work, done))
        return done

    def stop(self) -> None:
        """Let nobody wait any longer; the thread ends after what it is at."""
        self._stopped = True
        self._work.put(None)
        for done in list(self._waiting):
            self._deliver(done, TwistedFailure(StoppedError()))

    def _deliver(
        self,
        done: Deferred[TickerBars | Failure],
        result: TickerBars | Failure | TwistedFailure,
    ) -> None:
        if done in self._waiting:
            self._waiting.remove(done)
            done.callback(result)

    def _loop(self) -> None:
        while (item := self._work.get()) is not None:
            work, done = item
            if not self._stopped:
                self._reactor.callFromThread(self._deliver, done, work())


if TYPE_CHECKING:
    _Job = Callable[[], TickerBars | Failure]
    _Work = tuple[_Job, Deferred[TickerBars | Failure]]
