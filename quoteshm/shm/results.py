"""What a reader gives: views, snapshots, and what is known of the segment."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
import numpy as np
import pandas as pd

from quoteshm.model import Quote, Ticker
from quoteshm.shm import latch, layout, table
from quoteshm.shm.frames import frame_over, named

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pandas.arrays import DatetimeArray

    from quoteshm.model import Bars
    from quoteshm.shm.listing import Listing, Listings
    from quoteshm.shm.views import Words

#: Words of a quote row, by their names in a frame.
_PRICES: Final = {
    name: layout.word(layout.QUOTE_ROW, name)
    for name in ("price", "open", "high", "low", "prev_close", "volume")
}
_STAMPS: Final = {"ts": table.TS, "updated": layout.word(layout.QUOTE_ROW, "updated_ms")}
_BOOT: Final = layout.word(layout.QUOTE_ROW, "updated_boot_ms")
_FIELDS_END: Final = layout.word(layout.QUOTE_ROW, "changed_epoch")
_UTC: Final = pd.DatetimeTZDtype("ms", "UTC")


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


class SeriesView(msgspec.Struct, frozen=True, eq=False):
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
    _load_index: Callable[[], DatetimeArray]

    def __repr__(self) -> str:
        """Say what is viewed; the values are in `frame`."""
        state = "intact" if self.intact else "overwritten"
        return (
            f"<SeriesView of {self.ticker.symbol} {self.interval}: {len(self.time)} bars, {state}>"
        )

    @property
    def intact(self) -> bool:
        """Whether nothing of it has been overwritten: to be asked *after* using the values."""
        self._acquire()  # pairs with the writer's release behind rewrites_begun
        return latch.intact(self._rewrites, self._load_begun())

    @property
    def frame(self) -> pd.DataFrame:
        """The bars as a frame over the segment's own memory."""
        return frame_over(self.bars.ohlcv, named(self._load_index(), self.interval))

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


@dataclass(frozen=True, slots=True, eq=False, repr=False)
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
    _rows: Words  # the quote rows, by row number
    _taken_boot_ms: int
    _oldest_ms: int  # that a fresh quote could be then
    _listings: Listings
    _source: str

    def __repr__(self) -> str:
        """Say what is in it; the quotes are in `quotes` and `to_frame`."""
        return f"<Snapshot of epoch {self.epoch}: {len(self.tickers)} tickers>"

    def _present(self) -> Listing:
        """Give those with a published value."""
        listing = self._listings.listing(len(self._rows))
        return listing.those(self._rows[:, table.FLAGS] == layout.PRESENT_WORD)

    def _columns(self, rows: NDArray[np.intp]) -> tuple[Words, NDArray[np.bool_]]:
        """Give what is published of some rows, a line a field, and whether each was stale.

        In one strided copy: field by field out of rows of 128 bytes, memory is read many times.
        """
        columns = np.ascontiguousarray(self._rows[rows, :_FIELDS_END].T)
        age_ms = self._taken_boot_ms - columns[_BOOT].view(np.int64)
        return columns, table.is_stale(age_ms, self._oldest_ms)

    @property
    def tickers(self) -> list[str]:
        """The tickers with a published value, sorted."""
        return list(self._present().symbols)

    @property
    def quotes(self) -> dict[str, Quote]:
        """The quotes by ticker: those with a published value, sorted."""
        listing = self._present()
        columns, stale = self._columns(listing.rows)
        prices = [columns[word].view(np.float64).tolist() for word in _PRICES.values()]
        stamps = [columns[word].view(np.int64).tolist() for word in _STAMPS.values()]
        symbols, source = listing.symbols, itertools.repeat(self._source)
        quotes = map(Quote, symbols, *prices, listing.currencies, *stamps, stale.tolist(), source)
        return dict(zip(symbols, quotes, strict=True))

    def to_frame(self) -> pd.DataFrame:
        """Give the quotes as a frame, a row a ticker, sorted; times are zoned, UTC."""
        listing = self._present()
        columns, stale = self._columns(listing.rows)
        index, currencies = listing.columns
        data: dict[str, object] = {
            name: columns[word].view(np.float64) for name, word in _PRICES.items()
        }
        data["currency"] = currencies
        for name, word in _STAMPS.items():
            data[name] = pd.DatetimeIndex(columns[word].view(np.int64), dtype=_UTC, copy=False)
        data["stale"] = stale
        return pd.DataFrame(data, index=index)
