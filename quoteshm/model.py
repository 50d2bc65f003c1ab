"""The records that every floor speaks of: tickers, bars, quotes, intervals.

Time is int64 milliseconds since the Unix epoch, UTC, everywhere. Prices and volumes are float64;
a missing price is NaN here and ``null`` on the wire.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
import numpy as np

from quoteshm.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

MINUTE_MS: Final = 60_000
DAY_MS: Final = 86_400_000

#: Nominal length of each interval, in milliseconds; the names are Yahoo's.
INTERVALS: Final[dict[str, int]] = {
    "1m": MINUTE_MS,
    "2m": 2 * MINUTE_MS,
    "5m": 5 * MINUTE_MS,
    "15m": 15 * MINUTE_MS,
    "30m": 30 * MINUTE_MS,
    "1h": 60 * MINUTE_MS,
    "60m": 60 * MINUTE_MS,
    "90m": 90 * MINUTE_MS,
    "1d": DAY_MS,
    "5d": 5 * DAY_MS,
    "1wk": 7 * DAY_MS,
    "1mo": 30 * DAY_MS,
    "3mo": 91 * DAY_MS,
}

#: The five values of a bar, in the order of every table of this package.
FIELDS: Final = ("open", "high", "low", "close", "volume")
#: The six values of a quote, in the order of every table of them.
QUOTE_VALUES: Final = ("open", "high", "low", "price", "volume", "prev_close")


class Ticker(NamedTuple):
    """A symbol and what does not change about it."""

    symbol: str  # at most 32 bytes of UTF-8, case-sensitive
    currency: str = ""  # ISO 4217, or empty where unknown
    time_zone: str = "UTC"  # of its exchange, an IANA name


class SeriesKind(NamedTuple):
    """An interval and how many bars of it are kept, the forming one included."""

    interval: str
    capacity: int

    @property
    def interval_ms(self) -> int:
        """Nominal length of a bar, milliseconds."""
        return INTERVALS[self.interval]

    @property
    def is_intraday(self) -> bool:
        """Whether a bar is shorter than a day."""
        return self.interval_ms < DAY_MS


class Quote(msgspec.Struct, frozen=True, gc=False):
    """The latest quote of one ticker, as the wire's ``get_quote`` gives it."""

    ticker: str
    price: float
    open: float
    high: float
    low: float
    prev_close: float
    volume: float
    currency: str
    ts_epoch_ms: int  # when the price was made
    updated_ms: int  # when it was last confirmed
    stale: bool  # whether that is longer ago than the freshness window
    source: str


class SnapshotState(NamedTuple):
    """How far the market is."""

    epoch: int  # the stable epoch
    last_update_ms: int  # when the last batch was confirmed


@dataclass(frozen=True, slots=True, eq=False)
class Bars:
    """OHLCV bars of one series, oldest first.

    Attributes
    ----------
    time : ndarray of int64, shape (n,)
        Start of each bar, milliseconds since the Unix epoch, strictly increasing.
    ohlcv : ndarray of float64, shape (5, n)
        Open, high, low, close, volume: one row a field.

    """

    time: NDArray[np.int64]
    ohlcv: NDArray[np.float64]

    def __len__(self) -> int:
        """Count the bars."""
        return len(self.time)

    def __getitem__(self, part: slice) -> Bars:
        """Give a part of the bars, as views."""
        return Bars(self.time[part], self.ohlcv[:, part])

    def field(self, name: str) -> NDArray[np.float64]:
        """Give one column by its name, a view of shape (n,)."""
        row: NDArray[np.float64] = self.ohlcv[FIELDS.index(name)]
        return row

    @classmethod
    def empty(cls, n: int = 0) -> Bars:
        """Give room for ``n`` bars, not initialised."""
        return cls(np.empty(n, np.int64), np.empty((len(FIELDS), n), np.float64))


def several(tickers: Iterable[str]) -> list[str]:
    """Give tickers as a list.

    Raises
    ------
    SettingsError
        It is one text: its letters may well be tickers, but they are not meant.

    """
    if isinstance(tickers, str | bytes):
        raise SettingsError("tickers", tickers, f"a list of them, as in [{tickers!r}]")
    return list(tickers)
