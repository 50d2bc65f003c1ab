"""One mapped segment as a reader holds it: the points at which shared memory is loaded.

Whether what was loaded is of one commit is for `reader` to find out.
"""

from __future__ import annotations

import contextlib
import struct
import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from quoteshm.errors import CorruptSegmentError
from quoteshm.model import Bars, Ticker
from quoteshm.shm import layout, segment
from quoteshm.shm.layout import KindGeometry

if TYPE_CHECKING:
    from numpy.typing import NDArray

_QUOTE: Final = struct.Struct(layout.QUOTE_FORMAT)
_SERIES: Final = struct.Struct(layout.SERIES_FORMAT)
_NEVER_FRESH: Final = -1  # no quote is as young as that


class SeriesRow(NamedTuple):
    """A series row; the fields of `layout.SERIES_FORMAT`."""

    rewrites: int
    start: int
    held: int  # closed bars
    flags: int
    time: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    entry_epoch: int
    last_update_ms: int
    changed_epoch: int
    restatements: int
    check: int

    @property
    def is_sound(self) -> bool:
        """Whether it tells of the bars that the writer meant."""
        return self.check == layout.series_check(*self[:4])

    def forming(self) -> Bars | None:
        """Give the forming bar."""
        if not self.flags & layout.HAS_FORMING:
            return None
        values = np.array(self[5:10]).reshape(5, 1)
        return Bars(np.array(self[4:5], np.int64), values)


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
        # The points at which shared memory is loaded; each is one call, so that a test can step
        # a writer between any two of them.
        self.cells = self.map.cells
        self.load_row = _QUOTE.unpack_from
        self.load_series = _SERIES.unpack_from
        self.copy = np.copyto
        self.take = np.take
        self._learning = threading.Lock()
        self.tickers: list[Ticker] = []
        self.rows: dict[str, int] = {}
        self.quote_offsets = tuple(self.map.quote_offset(buffer, 0) for buffer in (0, 1))

    def is_written(self) -> bool:
        """Tell whether a writer holds its lock."""
        with contextlib.suppress(OSError):
            return segment.is_locked(self.fd.number)
        return False

    def load_oldest(self) -> int:
        """Load how old a fresh quote may be, milliseconds, as the writer has set it last."""
        word: int = self.cells[layout.FRESHNESS_WORD]
        if word != self.freshness_word:
            self.oldest_ms, self.freshness_word = self._oldest_ms(word), word
        return self.oldest_ms

    def _oldest_ms(self, word: int) -> int:
        freshness_ms = segment.freshness_of(word)
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
        return segment.count_of(word, self.geometry.max_tickers)

    def quote_row(self, buffer: int, row: int) -> tuple[Any, ...]:
        """Load a quote row, the fields of `layout.QUOTE_FORMAT`."""
        return self.load_row(self.buffer, self.quote_offsets[buffer] + row * layout.ROW_NBYTES)

    def series_row(self, buffer: int, kind: KindGeometry, row: int) -> tuple[Any, ...]:
        """Load a series row, the fields of `layout.SERIES_FORMAT`."""
        return self.load_series(self.map.buffer, self.map.series_offset(buffer, kind.index, row))

    def begun(self, kind: KindGeometry, row: int) -> int:
        """Load how many rewrites of a series have begun."""
        begun: int = self.cells[self.map.entry_word(kind.index, row) + 3]
        return begun

    def begun_of(self, kind: KindGeometry, rows: NDArray[np.intp]) -> NDArray[np.uint64]:
        """Load the same of many series, shape (n,)."""
        words = self.map.entry_word(kind.index, 0) + rows * layout.ENTRY_WORDS + 3
        return self.take(self.map.words, words)

    def learn(self, count: int) -> None:
        """Read the directory rows that are new; rows that count never change."""
        with self._learning:
            known = len(self.tickers)
            fresh = segment.tickers_of(self.map, known, count)
            self.tickers += fresh
            self.rows.update((ticker.symbol, known + i) for i, ticker in enumerate(fresh))


class _Fd:
    """Closes its descriptor with its owner."""

    def __init__(self, number: int) -> None:
        self.number = number
        weakref.finalize(self, segment.close_fd, number)
