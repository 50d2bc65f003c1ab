"""Where bars come from: what a source is asked, and what it answers.

A source answers for each ticker on its own: with bars, with a failure, or with "unchanged". It
never raises for one ticker's sake, never blocks the reactor, and stops within a second when asked.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from quoteshm.model import Bars, SeriesKind, Ticker


class Known(NamedTuple):
    """The newest bar that is published of one series."""

    time_ms: int
    close: float
    forming: bool
    values: tuple[float, ...] = ()  # open, high, low, close, volume, where they are at hand
    before: tuple[int, float] | None = None  # time and close of the closed bar before a forming one

    @property
    def closed(self) -> tuple[int, float] | None:
        """Time and close of the newest closed bar."""
        return self.before if self.forming else (self.time_ms, self.close)


def _always(_request: Request) -> bool:
    return True


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """What is wanted of one ticker; the same object serves every refresh.

    A ticker that is taken out and wanted again comes in another object.
    """

    ticker: str
    kinds: tuple[SeriesKind, ...]
    known: Callable[[str, str], Known | None]  # (ticker, interval) -> what is published now
    ask: Callable[[Request], bool] = _always

    @property
    def is_wanted(self) -> bool:
        """Whether it still is: a long round outlives what is taken out."""
        return self.ask(self)


class Series(NamedTuple):
    """Bars of one interval, oldest first, unvalidated; ``forming``: the last one is not closed."""

    bars: Bars
    forming: bool


class LastPrice(NamedTuple):
    """The latest price, where a source knows it better than its bars tell."""

    price: float
    ts_ms: int
    open: float
    high: float
    low: float
    volume: float
    prev_close: float


@dataclass(frozen=True, slots=True, eq=False)
class TickerBars:
    """Bars of one ticker: its whole history, or the newest part of it."""

    ticker: Ticker
    series: Mapping[str, Series]  # by interval
    last_price: LastPrice | None = None
    dropped: int = 0  # rows of the vendor's answer that were no bars at all
    whole: bool = False  # all of history: what it lacks of what is published is to go
    whole_of: frozenset[str] = frozenset()  # or only so of these intervals
    cause: str = "vendor"  # of what it changes in closed bars: "split", "dividend", else "vendor"


@dataclass(frozen=True, slots=True, eq=False)
class TickerTicks:
    """The newest bar of one interval for each of many tickers, in columns.

    Attributes
    ----------
    tickers : tuple of str
        The same tuple object as long as they are the same tickers.
    interval : str
        Of the bars.
    time : ndarray of int64, shape (n,)
        Start of each bar, milliseconds UTC.
    ohlcv : ndarray of float64, shape (n, 5)
        One row a ticker; open, high, low, close, volume.
    ts_ms : int
        When the prices were made, milliseconds UTC.

    """

    tickers: tuple[str, ...]
    interval: str
    time: NDArray[np.int64]
    ohlcv: NDArray[np.float64]
    ts_ms: int


@dataclass(frozen=True, slots=True, eq=False)
class TickerPrices:
    """The latest prices of many tickers, without any bar, in columns.

    Attributes
    ----------
    tickers : tuple of str
        Each one once.
    ts_ms : ndarray of int64, shape (n,)
        When each price was made, milliseconds UTC.
    values : ndarray of float64, shape (n, 6)
        Open, high, low, price, volume, previous close; but for the price, NaN where nothing was
        said of it.

    """

    tickers: tuple[str, ...]
    ts_ms: NDArray[np.int64]
    values: NDArray[np.float64]


class Reason(enum.StrEnum):
    """Why a ticker could not be fetched."""

    NOT_FOUND = "not found"  # the source is sure that there is no such symbol
    RATE_LIMITED = "rate limited"
    UNREACHABLE = "unreachable"
    TIMED_OUT = "timed out"
    EMPTY = "no bars"
    BAD_DATA = "bad data"
    REFUSED = "not published"  # not the source's fault: no room, or bars that do not fit
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is nothing for one ticker, in words a person can act on.

    Attributes
    ----------
    retry_s : float or None
        The ticker has not been asked for, and is not to be before so many seconds have passed: no
        fault of its own, and no failed attempt.

    """

    ticker: str
    reason: Reason
    message: str
    retry_s: float | None = None


@dataclass(frozen=True, slots=True)
class Unchanged:
    """Tickers that the source has looked at, and that have nothing new."""

    tickers: tuple[str, ...]


Fetched = TickerBars | TickerTicks | Failure | Unchanged


class Source(ABC):
    """Where bars come from. What a source has nothing to say to, it leaves as it is here.

    Attributes
    ----------
    name : str
        What a quote says as its source: "yahoo", "files", "synthetic".
    adjustment : str
        What its prices are adjusted for: "none", "split", "all".

    """

    name: str
    adjustment: str

    @abstractmethod
    def fetch(self, wanted: Sequence[Request]) -> AsyncIterator[Fetched]:
        """Answer for every wanted ticker, as the answers come."""

    @abstractmethod
    async def stop(self) -> None:
        """End whatever is under way, within a second; a running `fetch` ends early."""

    def refuse(self, tickers: Sequence[str]) -> dict[str, str]:  # noqa: ARG002 (who refuses looks)
        """Say which tickers, of those that are to be added, it cannot have, and why."""
        return {}

    def forget(self, tickers: Iterable[str]) -> None:  # noqa: B027 (not all remember any)
        """Know nothing more of tickers that nobody wants."""

    def describe(self) -> dict[str, object]:
        """Give what ``get_info`` says of its requests; nothing of one that asks nobody."""
        return {}
