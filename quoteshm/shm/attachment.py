"""One mapped segment as a reader holds it: the points at which shared memory is loaded.

Whether what was loaded is of one commit is for `reader` to find out.
"""

from __future__ import annotations

import contextlib
import math
import struct
import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from quoteshm.errors import CorruptSegmentError
from quoteshm.model import Quote
from quoteshm.shm import checks, files, layout, lock, segment, table
from quoteshm.shm.layout import KindGeometry
from quoteshm.shm.listing import Listings
from quoteshm.shm.series import Indexes, Series

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pandas.arrays import DatetimeArray

    #: What is known of a quote: until which epoch, and until when by CLOCK_BOOTTIME in seconds, it
    #: is this one, and is fresh; then the offsets of its row in both buffers, symbol, currency.
    KnownQuote = tuple[int, float, Quote, int, int, str, str]

_QUOTE: Final = struct.Struct(layout.QUOTE_FORMAT)
_SERIES: Final = struct.Struct(layout.SERIES_FORMAT)
_NEVER_FRESH: Final = -1  # no quote is as young as that
#: How long a quote that was read fresh is known to be so, seconds: a younger one than `young_s`
#: is fresh for as long, and if the writer changes the freshness window, it is seen after this.
KNOWN_S: Final = 0.1
_NAN: Final = math.nan
_NEVER_READ: Final = -1  # is no epoch
_NO_QUOTE: Final = Quote("", _NAN, _NAN, _NAN, _NAN, _NAN, _NAN, "", 0, 0, stale=True, source="")
#: How many quotes, and how many series, are kept as known: some 500 and 1,000 bytes each.
_MAX_KNOWN: Final = 8_192


class Attachment:
    """One mapped segment, and what its directory says. Dropped, never closed: views live on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.map, fd = segment.attach(path)
        self.fd = _Fd(fd)
        self.buffer = self.map.buffer
        block = self.map.superblock
        self.geometry = self.map.geometry
        self.kinds = {kind.kind.interval: kind for kind in self.geometry.kinds}
        self.source = bytes(block["source"]).decode(errors="replace")
        # Another boot's clock tells no age: in what it left, on a disk, everything is stale. Where
        # the writer lives it is this boot, though a container may give it another name.
        self._is_ageless = segment.is_of_another_boot(self.map) and not self.is_written()
        self.freshness_word: int = self.map.cells[layout.FRESHNESS_WORD]
        self.oldest_ms = self._oldest_ms(self.freshness_word)
        self.young_s = self.oldest_ms / 1000 - KNOWN_S
        # The points at which shared memory is loaded; each is one call, so that a test can step
        # a writer between any two of them.
        self.cells = self.map.cells
        self.load_row = _QUOTE.unpack_from
        self.load_series = _SERIES.unpack_from
        self.copy = np.copyto
        self.take = np.take
        self.take_runs = _take_runs
        self._learning = threading.Lock()
        self.listings = Listings()
        self.tickers = self.listings.tickers
        self.rows: dict[str, int] = {}
        self.quote_offsets = tuple(self.map.quote_offset(buffer, 0) for buffer in (0, 1))
        # What is known may be dropped at any time, and is set one whole item at a time, so that
        # threads share it without a lock.
        self.known_quotes: dict[str, KnownQuote] = {}
        self.known_series: dict[tuple[str, str | None], Series] = {}
        self.indexes = Indexes()

    def is_written(self) -> bool:
        """Tell whether a writer holds its lock."""
        with contextlib.suppress(OSError):
            return lock.is_locked(self.fd.number)
        return False

    def load_oldest(self) -> int:
        """Load how old a fresh quote may be, milliseconds, as the writer has set it last."""
        word: int = self.cells[layout.FRESHNESS_WORD]
        if word != self.freshness_word:
            self.oldest_ms = self._oldest_ms(word)
            self.young_s = self.oldest_ms / 1000 - KNOWN_S
            self.freshness_word = word  # last: `get_quote` takes `young_s` for that of this one
        return self.oldest_ms

    def _oldest_ms(self, word: int) -> int:
        freshness_ms = checks.freshness_of(word)
        return _NEVER_FRESH if self._is_ageless else freshness_ms

    def epoch(self) -> int:
        """Load the global epoch."""
        epoch: int = self.cells[layout.EPOCH_WORD]
        if epoch > layout.MAX_EPOCH:
            raise CorruptSegmentError("epoch", epoch, f"at most {layout.MAX_EPOCH}")
        return epoch

    def ticker_count(self, buffer: int) -> int:
        """Load the count of tickers that a buffer tells of."""
        word: int = self.cells[self.geometry.buffer_offsets[buffer] // 8]
        return checks.count_of(word, self.geometry.max_tickers)

    def last_update_ms(self, buffer: int) -> int:
        """Load when the newest batch that a buffer tells of was confirmed."""
        header = self.geometry.buffer_offsets[buffer] // 8
        last_update_ms: int = self.cells[header + table.NEWEST_UPDATE]
        return last_update_ms

    def quote_row(self, buffer: int, row: int) -> tuple[Any, ...]:
        """Load a quote row, the fields of `layout.QUOTE_FORMAT`."""
        return self.load_row(self.buffer, self.quote_offsets[buffer] + row * layout.ROW_NBYTES)

    def series_row(self, buffer: int, kind: KindGeometry, row: int) -> tuple[Any, ...]:
        """Load a series row, the fields of `layout.SERIES_FORMAT`."""
        return self.load_series(self.map.buffer, self.map.series_offset(buffer, kind.index, row))

    def begun(self, series: Series) -> int:
        """Load how many rewrites of a series have begun."""
        begun: int = self.cells[series.begun_word]
        return begun

    def begun_of(self, kind: KindGeometry, rows: NDArray[np.intp]) -> NDArray[np.uint64]:
        """Load the same of many series, shape (n,)."""
        words = self.map.entry_word(kind.index, 0) + rows * layout.ENTRY_WORDS + table.BEGUN
        return self.take(self.map.words, words)

    def know_quote(self, row: int) -> KnownQuote:
        """Keep where a quote is, which was not read yet, for the fast way to it, and give it."""
        if len(self.known_quotes) >= _MAX_KNOWN:
            self.known_quotes = {}
        (first, second), offset = self.quote_offsets, row * layout.ROW_NBYTES
        symbol, currency, _ = self.tickers[row]
        known = _NEVER_READ, 0.0, _NO_QUOTE, first + offset, second + offset, symbol, currency
        self.known_quotes[symbol] = known
        return known

    def know_series(self, interval: str | None, kind: KindGeometry, row: int) -> Series:
        """Keep where a series is, under the name by which it was asked for, and give it."""
        if len(self.known_series) >= _MAX_KNOWN:
            self.known_series = {}
        series = Series(self.map, kind, row, self.tickers[row])
        self.known_series[series.ticker.symbol, interval] = series
        return series

    def index(self, time_ms: NDArray[np.int64], time_zone: str) -> DatetimeArray:
        """Make an index over times that nobody may change from now on."""
        if self.indexes.are_full():  # the series have them too
            self.indexes, self.known_series = Indexes(), {}
        return self.indexes.make(time_ms, time_zone)

    def learn(self, count: int) -> None:
        """Read the directory rows that are new; rows that count never change."""
        with self._learning:
            known = len(self.tickers)
            fresh = checks.tickers_of(self.map, known, count)
            self.tickers += fresh
            self.rows.update((ticker.symbol, known + i) for i, ticker in enumerate(fresh))


def _take_runs(source: NDArray[Any], starts: NDArray[np.intp], count: int) -> NDArray[Any]:
    """Copy ``count`` items in a row from each of several places, shape (n, count)."""
    step = source.itemsize
    # All runs there are, as `sliding_window_view` has them at ten times the price.
    windows = np.ndarray((len(source) - count + 1, count), source.dtype, source, 0, (step, step))
    runs: NDArray[Any] = windows[starts]
    return runs


class _Fd:
    """Closes its descriptor with its owner."""

    def __init__(self, number: int) -> None:
        self.number = number
        weakref.finalize(self, files.close_fd, number)
