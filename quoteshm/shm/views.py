"""The views over a segment's bytes, a writer's or a reader's."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING

import numpy as np

from quoteshm.shm import layout, table
from quoteshm.shm.checks import count_of
from quoteshm.shm.layout import Geometry, KindGeometry

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Words = NDArray[np.uint64]


class SegmentMap:
    """Typed views over the bytes of a segment, a writer's or a reader's.

    Attributes
    ----------
    cells : memoryview of u64
        The whole segment; one item, loaded or stored, is one aligned access: the epochs go
        through it. `words` is the same as an array.
    quotes, series : per buffer (and kind), ndarray of u64, shape (max_tickers, 16)
        Rows as words.
    quote_items, series_items : the same rows, ndarray of void, shape (max_tickers,)
        For what copies rows, or neighbouring words of them, as one item each: see `table.field`.
    entries : per kind, ndarray of u64, shape (max_tickers, 4)
    blocks : per kind, ndarray of u64, one-dimensional
        All blocks of the kind; `float_blocks` are the same words as float64.

    """

    def __init__(self, buffer: mmap.mmap, geometry: Geometry) -> None:
        self.buffer, self.geometry = buffer, geometry
        self.cells: memoryview = memoryview(buffer).cast("Q")
        self.words: Words = np.frombuffer(buffer, np.uint64)
        g, n = geometry, geometry.max_tickers
        self.superblock = np.frombuffer(buffer, layout.SUPERBLOCK, 1)[0]
        self.directory = np.frombuffer(buffer, layout.DIRECTORY_ROW, n, g.directory_offset)
        self.headers = [self._words(offset, layout.PAGE // 8) for offset in g.buffer_offsets]
        self.quotes = [self._rows(offset + g.quotes_offset, n) for offset in g.buffer_offsets]
        self.series = [
            [self._rows(self.series_offset(b, k.index, 0), n) for k in g.kinds] for b in (0, 1)
        ]
        self.quote_items = [table.whole(rows) for rows in self.quotes]
        self.series_items = [[table.whole(rows) for rows in kinds] for kinds in self.series]
        self.intervals = tuple(kind.kind.interval for kind in g.kinds)
        entry_nbytes = layout.ENTRY.itemsize
        self.entries = [
            self._words(g.entries_offset + k.index * n * entry_nbytes, n * layout.ENTRY_WORDS)
            .reshape(n, layout.ENTRY_WORDS)
            for k in g.kinds
        ]  # fmt: skip
        self.blocks = [
            self._words(k.blocks_offset, 2 * n * k.block_nbytes // 8) for k in g.kinds
        ]  # fmt: skip
        self.float_blocks = [words.view(np.float64) for words in self.blocks]

    def _words(self, offset: int, count: int) -> Words:
        return np.frombuffer(self.buffer, np.uint64, count, offset)

    def _rows(self, offset: int, count: int) -> Words:
        return self._words(offset, count * layout.ROW_WORDS).reshape(count, layout.ROW_WORDS)

    def quote_offset(self, buffer: int, row: int) -> int:
        """Give the byte offset of a quote row."""
        g = self.geometry
        return g.buffer_offsets[buffer] + g.quotes_offset + row * layout.ROW_NBYTES

    def series_offset(self, buffer: int, kind: int, row: int) -> int:
        """Give the byte offset of a series row."""
        g = self.geometry
        place = kind * g.max_tickers + row
        return g.buffer_offsets[buffer] + g.series_offset + place * layout.ROW_NBYTES

    def entry_word(self, kind: int, row: int) -> int:
        """Give the cell of an entry's first word."""
        place = kind * self.geometry.max_tickers + row
        return (self.geometry.entries_offset + place * layout.ENTRY.itemsize) // 8

    def columns(
        self, kind: KindGeometry, row: int, block: int
    ) -> tuple[Words, NDArray[np.float64]]:
        """View a block as its times, words of shape (rows,), and its values, (5, rows)."""
        first = (kind.block_offset(row, block) - kind.blocks_offset) // 8
        times = self.blocks[kind.index][first : first + kind.rows]
        values = self.float_blocks[kind.index][first + kind.rows : first + 6 * kind.rows]
        return times, values.reshape(5, kind.rows)

    @property
    def head(self) -> bytes:
        """The superblock's bytes as they stand, a copy."""
        return self.buffer[: layout.PAGE]

    def ticker_count(self, buffer: int) -> int:
        """Load the count of tickers that a buffer tells of."""
        word = self.cells[self.geometry.buffer_offsets[buffer] // 8]
        return count_of(word, self.geometry.max_tickers)

    @property
    def epoch(self) -> int:
        """The global epoch as it stands."""
        return int(self.cells[layout.EPOCH_WORD])
