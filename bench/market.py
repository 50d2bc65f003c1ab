"""The market that every peer stores: the same in each process, without being sent to it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PLACES: Final = np.arange(5, dtype=np.intp)
DAY_MS: Final = 86_400_000
MINUTE_MS: Final = 60_000
COLUMNS: Final = ("Open", "High", "Low", "Close", "Volume")
#: The facts of a quote that every peer stores, in the order of their arrays.
QUOTE_FIELDS: Final = ("open", "high", "low", "price", "volume", "prev_close")


@dataclass(frozen=True, eq=False)
class Step:
    """What is published at once: one bar and one quote a ticker."""

    time_ms: int  # the bar's start, and when the prices were made
    bars: NDArray[np.float64]  # (tickers, 5)
    quotes: NDArray[np.float64]  # (tickers, 6)


@dataclass(frozen=True)
class Market:
    """So many tickers with so many bars."""

    tickers: int
    bars: int

    @property
    def interval(self) -> str:
        """Of the bars: days, or minutes where there are more than fit a century of days."""
        return "1d" if self.bars <= 25_200 else "1m"

    @property
    def interval_ms(self) -> int:
        """The same in milliseconds."""
        return DAY_MS if self.interval == "1d" else MINUTE_MS

    @cached_property
    def symbols(self) -> list[str]:
        """The tickers, sorted."""
        return [f"T{row:05d}" for row in range(self.tickers)]

    @cached_property
    def times(self) -> NDArray[np.int64]:
        """The bars' starts, (bars,)."""
        return np.arange(1, self.bars + 1, dtype=np.int64) * self.interval_ms

    @cached_property
    def _walk(self) -> NDArray[np.float64]:
        return np.random.default_rng(7).standard_normal(self.bars).cumsum() / 100

    def history(self, row: int) -> NDArray[np.float64]:
        """Give the bars of one ticker, (5, bars); the last one is that of step 0."""
        close = 100.0 + row + self._walk
        volume = np.full(self.bars, 1e6)
        ohlcv = np.stack((close - 0.5, close + 1, close - 1, close, volume))
        ohlcv[:, -1] = self._bars(0)[row]
        return ohlcv

    def _bars(self, number: int) -> NDArray[np.float64]:
        close = 100.0 + np.arange(self.tickers) + number % 1_000 * 0.01
        return np.stack((close - 0.5, close + 1, close - 1, close, np.full_like(close, 1e6)), 1)

    def step(self, number: int, bar: int = 0) -> Step:
        """Give the prices of a step, in the last bar, or so many bars after it."""
        bars = self._bars(number)
        quotes = np.concatenate((bars, bars[:, 3:4] - 1), axis=1)
        return Step(int(self.times[-1]) + bar * self.interval_ms, bars, quotes)

    def one(self, price: float, bar: int = 0) -> Step:
        """Give a quote and a bar for one ticker alone, at this price."""
        bars = np.array([[price, price, price, price, 1e6]])
        quotes = np.array([[price, price, price, price, 1e6, price]])
        return Step(int(self.times[-1]) + bar * self.interval_ms, bars, quotes)


@functools.cache
def _zoned(name: str) -> tuple[Any, Any]:
    """Make what frames of all lengths share."""
    import pandas as pd  # noqa: PLC0415  loaded where it is needed only

    return pd.DatetimeTZDtype("ms", name), pd.Index(COLUMNS)


@functools.cache
def _from_blocks() -> Any:  # noqa: ANN401
    """Give what makes frames since pandas 3 without looking at what it is given; or nothing."""
    try:
        from pandas.api.internals import (  # type: ignore[import-not-found]  # noqa: PLC0415
            create_dataframe_from_blocks,
        )
    except ImportError:
        return None
    return create_dataframe_from_blocks


def index_of(times: NDArray[np.int64], interval: str) -> Any:  # noqa: ANN401
    """Make an index over times without a copy: pandas' fastest public way, for all alike."""
    import pandas as pd  # noqa: PLC0415

    name = "Date" if interval == "1d" else "Datetime"
    return pd.DatetimeIndex(times, dtype=_zoned("UTC")[0], copy=False, name=name)


def frame_of(times: NDArray[np.int64], ohlcv: NDArray[np.float64], interval: str) -> Any:  # noqa: ANN401
    """Make a frame over columns without a copy: pandas' fastest public way, for all alike."""
    return frame_over(ohlcv, index_of(times, interval))


def frame_over(ohlcv: NDArray[np.float64], index: Any) -> Any:  # noqa: ANN401
    """Make a frame over an index that is there: by the constructor that ours uses."""
    columns, from_blocks = _zoned("UTC")[1].view(), _from_blocks()
    if from_blocks is None:
        import pandas as pd  # noqa: PLC0415

        return pd.DataFrame(ohlcv.T, index=index, columns=columns, copy=False)
    return from_blocks([(ohlcv, _PLACES)], index=index, columns=columns)


def panel_of(
    times: NDArray[np.int64], values: NDArray[np.float64], symbols: Sequence[str], interval: str
) -> Any:  # noqa: ANN401
    """Make a panel of values, (tickers, bars), without a copy."""
    import pandas as pd  # noqa: PLC0415

    columns = pd.Index(symbols)
    return pd.DataFrame(values.T, index=index_of(times, interval), columns=columns, copy=False)
