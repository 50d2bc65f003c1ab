"""What a segment says, believed only after it was checked: or the field that cannot be is named."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from quoteshm.errors import (
    CorruptSegmentError,
    ForeignFileError,
    HalfMadeError,
    LayoutMismatchError,
    TruncatedError,
)
from quoteshm.model import INTERVALS, SeriesKind, Ticker
from quoteshm.shm import latch, layout, table
from quoteshm.shm.layout import Geometry, KindGeometry

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quoteshm.shm.views import SegmentMap, Words

_LISTED: Final = struct.Struct("<32s8s48sI36x")  # a directory row
_SUPERBLOCK_START: Final = struct.pack("<II", layout.LAYOUT_VERSION, layout.BYTE_ORDER)


def check_superblock(path: Path, head: bytes, file_nbytes: int) -> Geometry:
    """Believe a superblock, or say what is wrong with it.

    Raises
    ------
    ForeignFileError, HalfMadeError, LayoutMismatchError, TruncatedError, CorruptSegmentError

    """
    magic = head[: len(layout.MAGIC)]
    if len(head) < layout.PAGE and magic == layout.MAGIC:
        raise TruncatedError(path, file_nbytes, layout.PAGE)
    begun = len(head) == layout.PAGE and head[8:16] == _SUPERBLOCK_START
    if magic != layout.MAGIC:
        if begun and not any(magic):
            raise HalfMadeError(path)
        raise ForeignFileError(path, f"magic {magic!r}", f"{layout.MAGIC!r}")
    block = np.frombuffer(head, layout.SUPERBLOCK, 1)[0]
    version = int(block["layout_version"])
    if version != layout.LAYOUT_VERSION:
        raise LayoutMismatchError(version, layout.LAYOUT_VERSION)
    _expect("byte_order", int(block["byte_order"]), layout.BYTE_ORDER)
    state = int(block["state"])
    if state == layout.HALF_MADE:
        raise HalfMadeError(path)
    if state not in (layout.LIVE, layout.CLOSED):
        raise CorruptSegmentError("state", state, "1 or 2")
    if int(block["epoch"]) > layout.MAX_EPOCH:
        raise CorruptSegmentError("epoch", int(block["epoch"]), f"at most {layout.MAX_EPOCH}")
    geometry = _geometry(block)
    _expect("check", int(block["check"]), layout.superblock_check(head))
    freshness_of(*struct.unpack_from("<Q", head, 8 * layout.FRESHNESS_WORD))
    size = int(block["size"])
    if file_nbytes < size:
        raise TruncatedError(path, file_nbytes, size)
    _expect("size", size, file_nbytes)
    return geometry


def _geometry(block: np.void) -> Geometry:
    """Lay the segment out anew from its capacities, and compare every offset it says."""
    max_tickers = int(block["max_tickers"])
    if not 1 <= max_tickers <= layout.MAX_TICKERS:
        raise CorruptSegmentError("max_tickers", max_tickers, f"1 to {layout.MAX_TICKERS}")
    kinds = _kinds(block)
    geometry = Geometry.of(max_tickers, kinds)
    for field in ("directory_offset", "entries_offset", "quotes_offset", "series_offset", "size"):
        _expect(field, int(block[field]), getattr(geometry, field))
    for found, expected in zip(block["buffer_offsets"], geometry.buffer_offsets, strict=True):
        _expect("buffer_offsets", int(found), expected)
    for row, kind in zip(block["kinds"], geometry.kinds, strict=False):
        for field in ("rows", "blocks_offset", "block_nbytes"):
            _expect(field, int(row[field]), getattr(kind, field))
    return geometry


def _kinds(block: np.void) -> list[SeriesKind]:
    kind_count = int(block["kind_count"])
    if not 1 <= kind_count <= layout.MAX_KINDS:
        raise CorruptSegmentError("kind_count", kind_count, f"1 to {layout.MAX_KINDS}")
    kinds: dict[str, SeriesKind] = {}
    for row in block["kinds"][:kind_count]:
        interval = _text(bytes(row["interval"]), "interval")
        if interval not in INTERVALS:
            raise CorruptSegmentError("interval", repr(interval), "one of " + ", ".join(INTERVALS))
        if interval in kinds:
            raise CorruptSegmentError("interval", f"{interval} twice", "distinct ones")
        capacity = int(row["capacity"])
        if not 1 <= capacity <= layout.MAX_CAPACITY:
            raise CorruptSegmentError("capacity", capacity, f"1 to {layout.MAX_CAPACITY}")
        kinds[interval] = SeriesKind(interval, capacity)
    return list(kinds.values())


def _text(raw: bytes, field: str) -> str:
    """Decode a zero-padded text of the segment."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise CorruptSegmentError(field, raw, "UTF-8") from None


def freshness_of(word: int) -> int:
    """Believe the word that says the freshness window; give it in milliseconds.

    Raises
    ------
    CorruptSegmentError

    """
    return _checked("freshness_ms", word)


def count_of(word: int, max_tickers: int) -> int:
    """Believe the word of a buffer header that says how many tickers there are.

    Raises
    ------
    CorruptSegmentError

    """
    count = _checked("ticker_count", word)
    if count > max_tickers:
        raise CorruptSegmentError("ticker_count", count, f"<= {max_tickers}")
    return count


def check_flags(states: Words) -> None:
    """Believe the flags of quote rows: of each the words `table.FLAGGED`, shape (n, 2).

    Raises
    ------
    CorruptSegmentError

    """
    flags = states[:, 0]
    good = flags == layout.PRESENT_WORD
    if good.all():  # as it is nearly always
        return
    good |= (flags == layout.REMOVED_WORD) | (flags == layout.ABSENT_WORD)
    if not good.all():
        good |= (states == 0).all(axis=1)  # nothing was ever published there
        _all("quote flags", flags, good, "present or removed, and the complement")


def _checked(field: str, word: int) -> int:
    """Give the number of a word whose upper half is its complement."""
    number = word & layout.LOW_HALF
    if word != layout.checked_word(number):
        raise CorruptSegmentError(field, hex(word), "a word whose halves are complements")
    return number


def tickers_of(segment: SegmentMap, start: int, stop: int) -> list[Ticker]:
    """Believe directory rows, from ``start`` up to ``stop``.

    Raises
    ------
    CorruptSegmentError

    """
    raw = segment.directory[start:stop].tobytes()
    tickers = []
    for row, (*texts, check) in enumerate(_LISTED.iter_unpack(raw)):
        found = layout.directory_check(raw[row * _LISTED.size : (row + 1) * _LISTED.size])
        _expect(f"check of directory row {start + row}", check, found)
        stripped = (text.rstrip(b"\0") for text in texts)
        tickers.append(Ticker(*map(_text, stripped, Ticker._fields)))
    return tickers


def check_series(kind: KindGeometry, rows: NDArray[np.void]) -> None:
    """Believe that the closed bars of series rows, `layout.SERIES_ROW`, are on backed memory.

    `Series.closed` does the same with one row, of plain numbers: an array would cost it more.

    Raises
    ------
    CorruptSegmentError

    """
    start, count, flags = rows["start"], rows["count"], rows["flags"]
    check = layout.series_checks(rows.view(np.uint64).reshape(-1, layout.ROW_WORDS))
    _all("check of a series row", rows["check"], rows["check"] == check, "that of its words")
    _all("count", count, count <= kind.kind.capacity, f"<= {kind.kind.capacity}")
    _all("start", start, start <= kind.rows - count, f"<= {kind.rows} - count")
    backed = (flags & layout.backed(rows["rewrites"])) != 0
    _all("flags", flags, backed | (count == 0), "a block that is backed")


def check_rows(segment: SegmentMap) -> None:
    """Check every row that counts, as a writer must before it carries on from them.

    Raises
    ------
    CorruptSegmentError
        Naming the first field that cannot be.

    """
    if segment.epoch > layout.MAX_ADOPTED_EPOCH:
        raise CorruptSegmentError("epoch", segment.epoch, f"at most {layout.MAX_ADOPTED_EPOCH}")
    buffer = latch.stable_buffer(segment.epoch)
    count = segment.ticker_count(buffer)
    symbols = [ticker.symbol for ticker in tickers_of(segment, 0, count)]
    if "" in symbols or len(set(symbols)) != count:
        raise CorruptSegmentError("symbol", "empty or twice there", "distinct symbols")
    check_flags(segment.quotes[buffer][:count, table.FLAGGED])
    for kind in segment.geometry.kinds:
        rows = segment.series[buffer][kind.index][:count].view(layout.SERIES_ROW)[:, 0]
        check_series(kind, rows)
        flags = rows["flags"]
        _all("series flags", flags, flags <= layout.HAS_FORMING | sum(layout.BACKED), "0 to 7")
        begun = segment.entries[kind.index][:count, table.BEGUN]
        _all("rewrites_begun", begun, begun - rows["rewrites"] <= 1, "rewrites, or one more")


def _expect(field: str, found: int, expected: int) -> None:
    if found != expected:
        raise CorruptSegmentError(field, found, expected)


def _all(field: str, found: Words, good: NDArray[np.bool_], expected: str) -> None:
    if not good.all():
        raise CorruptSegmentError(field, int(found[~good][0]), expected)
