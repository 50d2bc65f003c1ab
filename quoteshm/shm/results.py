"""What a reader gives: views, snapshots, and what is known of the segment."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import pandas as pd

from quoteshm.model import Quote, Ticker
from quoteshm.shm import latch, layout
from quoteshm.shm.frames import to_frame

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quoteshm.model import Bars

_PRICES: Final = ("price", "open", "high", "low", "prev_close", "volume")


class SegmentInfo(NamedTuple):
    """What a segment holds, who writes it, and since when."""

    path: Path
    instance: str
    layout_version: int
    size: int  # bytes, holes included
    source: str
    adjustment: str
    freshness_ms: int
    created_ms: int
    writer_pid: int
    max_tickers: int
    ticker_count: int
    capacities: dict[str, int]  # bars kept, by interval


@dataclass(frozen=True, slots=True, eq=False)
class SeriesView:
    """The closed bars of one series where they stand in the segment: read-only, no copy.

    Attributes
    ----------
    bars : Bars
        Views of shape (n,) and (5, n).

    """

    bars: Bars
    interval: str
    ticker: Ticker
    _rewrites: int
    _load_begun: Callable[[], int]
    _acquire: Callable[[], object]

    @property
    def intact(self) -> bool:
        """Whether nothing of it has been overwritten: to be asked *after* using the values."""
        self._acquire()  # pairs with the writer's release behind rewrites_begun
        return latch.intact(self._rewrites, self._load_begun())

    @property
    def frame(self) -> pd.DataFrame:
        """The bars as a frame over the segment's own memory."""
        return to_frame(self.bars, self.interval, self.ticker.time_zone)

    @property
    def time(self) -> NDArray[np.int64]:
        """Starts of the bars, milliseconds UTC, shape (n,)."""
        return self.bars.time

    @property
    def open(self) -> NDArray[np.float64]:
        """Opening prices, shape (n,)."""
        return self.bars.field("open")

    @property
    def high(self) -> NDArray[np.float64]:
        """Highest prices, shape (n,)."""
        return self.bars.field("high")

    @property
    def low(self) -> NDArray[np.float64]:
        """Lowest prices, shape (n,)."""
        return self.bars.field("low")

    @property
    def close(self) -> NDArray[np.float64]:
        """Closing prices, shape (n,)."""
        return self.bars.field("close")

    @property
    def volume(self) -> NDArray[np.float64]:
        """Volumes, shape (n,)."""
        return self.bars.field("volume")


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """The latest quotes of the whole market, all of one epoch.

    Attributes
    ----------
    epoch : int
        Of all of it.
    last_update_ms : int
        When the newest batch was confirmed, milliseconds UTC.

    """

    epoch: int
    last_update_ms: int
    _rows: NDArray[np.void]  # layout.QUOTE_ROW, by row number
    _stale: NDArray[np.bool_]
    _tickers: Sequence[Ticker]
    _source: str

    def _present(self) -> list[int]:
        """Give the rows with a published value, by symbol."""
        rows: list[int] = np.flatnonzero(self._rows["flags"] == layout.PRESENT).tolist()
        return sorted(rows, key=lambda row: self._tickers[row].symbol)

    @property
    def tickers(self) -> list[str]:
        """The tickers with a published value, sorted."""
        return [self._tickers[row].symbol for row in self._present()]

    @property
    def quotes(self) -> dict[str, Quote]:
        """The quotes by ticker: those with a published value, sorted."""
        rows = self._present()
        table, stale = self._rows[rows], self._stale[rows].tolist()
        prices = [table[name].tolist() for name in _PRICES]
        stamps = [table[name].tolist() for name in ("ts_ms", "updated_ms")]
        symbols = [self._tickers[row].symbol for row in rows]
        currencies = [self._tickers[row].currency for row in rows]
        source = itertools.repeat(self._source)
        return dict(
            zip(
                symbols,
                map(Quote, symbols, *prices, currencies, *stamps, stale, source),
                strict=True,
            )
        )

    def to_frame(self) -> pd.DataFrame:
        """Give the quotes as a frame, a row a ticker, sorted; times are zoned, UTC."""
        rows = self._present()
        tickers = [self._tickers[row] for row in rows]
        index = pd.Index([ticker.symbol for ticker in tickers], name="ticker", dtype=object)
        frame = pd.DataFrame({name: self._rows[name][rows] for name in _PRICES}, index=index)
        frame["currency"] = [ticker.currency for ticker in tickers]
        utc = pd.DatetimeTZDtype("ms", "UTC")
        for name, field in (("ts", "ts_ms"), ("updated", "updated_ms")):
            frame[name] = pd.DatetimeIndex(self._rows[field][rows], dtype=utc)
        frame["stale"] = self._stale[rows]
        return frame
