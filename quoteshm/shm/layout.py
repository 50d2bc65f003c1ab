"""Every offset, dtype and constant of the segment. No I/O.

All integers and floats are little-endian, every table is aligned to 4096 bytes, and what is not
named here is zero. The file is sparse: its size covers all capacities, its blocks are backed
when they are first used. What tells where things are has a check beside it, so that damage there
is an error and never a wrong answer; prices, volumes and times of bars have none::

    superblock                                       4096 bytes
    directory     max_tickers rows of 128 bytes      one a ticker
    entries       kinds x max_tickers rows of 32     one a (kind, ticker), kind by kind
    buffer A      header, quotes, series             the latch's first buffer
    buffer B      the same                           its second
    blocks        kinds x max_tickers x 2 blocks     kind by kind; a ticker's two side by side

Superblock::

    offset  field                 type
         0  magic                 8 bytes  b"QUOTESHM", stored last of all
         8  layout_version        u32
        12  byte_order            u32      0x01020304
        16  size                  u64      bytes of the whole file
        24  state                 u64      0 half made, 1 live, 2 closed
        32  instance              16 bytes random, another for each segment ever made
        48  created_ms            i64      Unix time, milliseconds
        56  freshness_ms          u32      a quote confirmed longer ago than this is stale
        60  freshness_check       u32      its complement, in the same word: both change at once
        64  max_tickers           u32      rows there is room for
        68  kind_count            u32      series kinds, 1 to 8
        72  check                 u32      CRC-32 of what never changes: bytes 8 to 23, 32 to 55,
                                           64 to 71, 80 to 131, 144 to 159, 512 to 1535
        80  directory_offset      u64
        88  entries_offset        u64
        96  buffer_offsets        2 x u64  of buffer A, of buffer B
       112  quotes_offset         u64      of the quote rows within a buffer
       120  series_offset         u64      of the series rows within a buffer
       128  version               u32      the global header: the layout version again
       132  writer_pid            u32      of the process that writes, or wrote last
       136  last_update_ms        i64      a copy, for people and classic readers
       144  boot_id               16 bytes the kernel's, of the boot whose CLOCK_BOOTTIME is stamped
       256  epoch                 u64      the latch: odd while a write is in progress;
                                           alone on its line of 128 bytes
       384  heartbeat_boot_ms     i64      CLOCK_BOOTTIME, milliseconds, stamped each second
       392  heartbeat_ms          i64      the same moment as Unix time
       512  source                32 bytes UTF-8, zero-padded: where the bars come from
       544  adjustment            16 bytes UTF-8: what prices are adjusted for
       576  name                  64 bytes UTF-8: the segment's own name, cut to fit
      1024  kinds                 8 rows of 64 bytes

Series kind::

         0  interval              16 bytes UTF-8
        16  capacity              u64      bars kept, the forming one included
        24  rows                  u64      bars a block has room for
        32  blocks_offset         u64      of the kind's first block
        40  block_nbytes          u64      from one block to the next

Directory row, written before a buffer counts it, never changed after::

         0  symbol                32 bytes UTF-8
        32  currency              8 bytes  ISO 4217
        40  time_zone             48 bytes IANA name
        88  check                 u32      CRC-32 of the 88 bytes before it

Entry; a copy for people and classic readers, but for ``rewrites_begun``::

         0  version               u32
         4  writer_pid            u32
         8  epoch                 u64      odd while the entry is being written
        16  last_update_ms        i64
        24  rewrites_begun        u64      rewrites of the series ever begun

Buffer header, 4096 bytes::

         0  ticker_count          u32      directory rows that count
         4  count_check           u32      its complement, in the same word
         8  last_update_ms        i64      ``updated_ms`` of the newest batch
        16  commit_ms             i64      when the commit was made, Unix time
        24  commit_boot_ms        i64      the same by CLOCK_BOOTTIME
        32  epoch                 u64      the even epoch that this commit ends with

Quote row, 128 bytes::

         0  flags                 u32      1 present, 2 removed, 0 neither
         4  flags_check           u32      their complement, in the same word; a row that nothing
                                           was ever published in is zero
         8  ts_ms                 i64      when the price was made
        16  open                  f64
        24  high                  f64
        32  low                   f64
        40  price                 f64
        48  volume                f64
        56  prev_close            f64
        64  updated_ms            i64      when it was last confirmed
        72  updated_boot_ms       i64      the same by CLOCK_BOOTTIME; -2**62 for what came out of
                                           an archive and has not been confirmed since
        80  changed_epoch         u64      the even epoch of the commit that wrote the row

Series row, 128 bytes::

         0  rewrites              u64      of the whole window; the block in use is its last bit
         8  start                 u64      first closed bar in the block
        16  count                 u64      closed bars
        24  flags                 u64      1 has a forming bar, 2 block 0 is backed, 4 block 1 is
        32  time                  i64      the forming bar: its start
        40  open                  f64
        48  high                  f64
        56  low                   f64
        64  close                 f64
        72  volume                f64
        80  entry_epoch           u64      the even value that the entry's epoch will have
        88  last_update_ms        i64
        96  changed_epoch         u64      the even epoch of the commit that wrote the row
       104  restatements          u64      closed bars that the vendor changed, ever
       112  check                 u64      rewrites x C0 + start x C1 + count x C2 + flags x C3,
                                           modulo 2^64, with C0 to C3 of `SERIES_CHECK`

Block: six columns of ``rows`` items each, one after the other::

         0           time         i64      start of each bar, milliseconds UTC
    8 x rows         open         f64
   16 x rows         high         f64
   24 x rows         low          f64
   32 x rows         close        f64
   40 x rows         volume       f64
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from quoteshm.model import SeriesKind

MAGIC: Final = b"QUOTESHM"
LAYOUT_VERSION: Final = 1
BYTE_ORDER: Final = 0x01020304
PAGE: Final = 4096
MAX_KINDS: Final = 8
MAX_TICKERS: Final = 1 << 24
MAX_CAPACITY: Final = 1 << 32
LOW_HALF: Final = (1 << 32) - 1  # of a word
MAX_EPOCH: Final = 1 << 62  # no writer gets there: a greater one is damage
MAX_ADOPTED_EPOCH: Final = 1 << 61  # so that a writer has as many before it again

# Superblock.state
HALF_MADE: Final = 0
LIVE: Final = 1
CLOSED: Final = 2

# Quote row flags, and the whole word: with their complement in the upper half
PRESENT: Final = 1
REMOVED: Final = 2
PRESENT_WORD: Final = 0xFFFF_FFFE_0000_0001
REMOVED_WORD: Final = 0xFFFF_FFFD_0000_0002
ABSENT_WORD: Final = 0xFFFF_FFFF_0000_0000  # added again, and without a value since

#: The age of a quote that came out of an archive, and has not been confirmed since: stale.
UNCONFIRMED_BOOT_MS: Final = -(1 << 62)

# Series row flags
HAS_FORMING: Final = 1
BACKED: Final = (2, 4)  # by block


def _record(nbytes: int, fields: Mapping[str, tuple[int, str]]) -> np.dtype[np.void]:
    """Make a dtype of ``nbytes`` from {name: (offset, format)}."""
    return np.dtype(
        {
            "names": list(fields),
            "formats": [form for _, form in fields.values()],
            "offsets": [offset for offset, _ in fields.values()],
            "itemsize": nbytes,
        },
    )


KIND: Final = _record(
    64,
    {
        "interval": (0, "S16"),
        "capacity": (16, "<u8"),
        "rows": (24, "<u8"),
        "blocks_offset": (32, "<u8"),
        "block_nbytes": (40, "<u8"),
    },
)

SUPERBLOCK: Final = np.dtype(
    {
        "names": [
            "magic", "layout_version", "byte_order", "size", "state", "instance", "created_ms",
            "freshness_ms", "freshness_check", "max_tickers", "kind_count", "check",
            "directory_offset", "entries_offset", "buffer_offsets", "quotes_offset",
            "series_offset", "version", "writer_pid", "last_update_ms",
            "boot_id", "epoch", "heartbeat_boot_ms", "heartbeat_ms", "source", "adjustment",
            "name", "kinds",
        ],
        "formats": [
            "V8", "<u4", "<u4", "<u8", "<u8", "V16", "<i8",
            "<u4", "<u4", "<u4", "<u4", "<u4",
            "<u8", "<u8", "(2,)<u8", "<u8",
            "<u8", "<u4", "<u4", "<i8",
            "V16", "<u8", "<i8", "<i8", "S32", "S16",
            "S64", (KIND, (MAX_KINDS,)),
        ],
        "offsets": [
            0, 8, 12, 16, 24, 32, 48,
            56, 60, 64, 68, 72,
            80, 88, 96, 112,
            120, 128, 132, 136,
            144, 256, 384, 392, 512, 544,
            576, 1024,
        ],
        "itemsize": PAGE,
    },
)  # fmt: skip

DIRECTORY_ROW: Final = _record(
    128,
    {
        "symbol": (0, "S32"),
        "currency": (32, "S8"),
        "time_zone": (40, "S48"),
        "check": (88, "<u4"),
    },
)

ENTRY: Final = _record(
    32,
    {
        "version": (0, "<u4"),
        "writer_pid": (4, "<u4"),
        "epoch": (8, "<u8"),
        "last_update_ms": (16, "<i8"),
        "rewrites_begun": (24, "<u8"),
    },
)

BUFFER_HEADER: Final = _record(
    PAGE,
    {
        "ticker_count": (0, "<u4"),
        "count_check": (4, "<u4"),
        "last_update_ms": (8, "<i8"),
        "commit_ms": (16, "<i8"),
        "commit_boot_ms": (24, "<i8"),
        "epoch": (32, "<u8"),
    },
)

QUOTE_ROW: Final = _record(
    128,
    {
        "flags": (0, "<u4"),
        "flags_check": (4, "<u4"),
        "ts_ms": (8, "<i8"),
        "open": (16, "<f8"),
        "high": (24, "<f8"),
        "low": (32, "<f8"),
        "price": (40, "<f8"),
        "volume": (48, "<f8"),
        "prev_close": (56, "<f8"),
        "updated_ms": (64, "<i8"),
        "updated_boot_ms": (72, "<i8"),
        "changed_epoch": (80, "<u8"),
    },
)

SERIES_ROW: Final = _record(
    128,
    {
        "rewrites": (0, "<u8"),
        "start": (8, "<u8"),
        "count": (16, "<u8"),
        "flags": (24, "<u8"),
        "time": (32, "<i8"),
        "open": (40, "<f8"),
        "high": (48, "<f8"),
        "low": (56, "<f8"),
        "close": (64, "<f8"),
        "volume": (72, "<f8"),
        "entry_epoch": (80, "<u8"),
        "last_update_ms": (88, "<i8"),
        "changed_epoch": (96, "<u8"),
        "restatements": (104, "<u8"),
        "check": (112, "<u8"),
    },
)

ROW_NBYTES: Final = 128
ROW_WORDS: Final = ROW_NBYTES // 8
ENTRY_WORDS: Final = ENTRY.itemsize // 8
BAR_NBYTES: Final = 48  # time and five values

#: ``struct`` formats of the front of a quote row and of a series row: the fastest way to one.
QUOTE_FORMAT: Final = "<QqddddddqqQ"
SERIES_FORMAT: Final = "<QQQQqdddddQqQQQ"

STATE_WORD: Final = 24 // 8
FRESHNESS_WORD: Final = 56 // 8
EPOCH_WORD: Final = 256 // 8
EPOCH_OFFSET: Final = 256


def word(record: np.dtype[np.void], field: str) -> int:
    """Give the 8-byte column of ``field`` in a row that is seen as words."""
    assert record.fields is not None  # noqa: S101  for the type checker: all records have fields
    return record.fields[field][1] // 8


_ONE: Final = np.uint64(1)
_BACKED: Final = np.uint64(BACKED[0])  # the other block's is the next bit


def backed(rewrites: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Give, for each series row, the flag that says that the block in use is backed."""
    return _BACKED << (rewrites & _ONE)


#: Odd, so that any one bit that flips in a factor changes the sum.
SERIES_CHECK: Final = (
    0x9E37_79B9_7F4A_7C15,
    0xBF58_476D_1CE4_E5B9,
    0x94D0_49BB_1331_11EB,
    0xD6E8_FEB8_6659_FD93,
)
_FACTORS: Final = np.array(SERIES_CHECK, np.uint64)
_MASK: Final = (1 << 64) - 1

#: The bytes of the superblock that never change, and that its check is of.
CONSTANT: Final = ((8, 24), (32, 56), (64, 72), (80, 132), (144, 160), (512, 1536))
_LISTED: Final = 88  # bytes of a directory row, up to its check


def series_check(rewrites: int, start: int, count: int, flags: int) -> int:
    """Give the check of a series row."""
    a, b, c, d = SERIES_CHECK
    return (rewrites * a + start * b + count * c + flags * d) & _MASK


def series_checks(rows: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Give the same of many, seen as words, shape (n, 16)."""
    return checks_of(*(rows[:, place] for place in range(len(SERIES_CHECK))))


def checks_of(
    rewrites: NDArray[np.uint64],
    start: NDArray[np.uint64],
    count: NDArray[np.uint64],
    flags: NDArray[np.uint64],
) -> NDArray[np.uint64]:
    """Give the same of many, column by column: four times faster than row by row."""
    a, b, c, d = _FACTORS
    checks: NDArray[np.uint64] = rewrites * a
    for column, factor in ((start, b), (count, c), (flags, d)):
        checks += column * factor
    return checks


def superblock_check(head: bytes | memoryview) -> int:
    """Give the check of a superblock, from its bytes."""
    check = 0
    for start, stop in CONSTANT:
        check = zlib.crc32(head[start:stop], check)
    return check


def directory_check(row: bytes) -> int:
    """Give the check of a directory row, from its bytes."""
    return zlib.crc32(row[:_LISTED])


def checked_word(number: int) -> int:
    """Give the word that says a number of 32 bits, and its complement in the upper half."""
    return number | (number ^ LOW_HALF) << 32


def rows_for(capacity: int) -> int:
    """Give the bars a block has room for: the window and room to grow behind it."""
    return capacity + max(64, capacity // 4)


def aligned(nbytes: int) -> int:
    """Round up to whole pages."""
    return -(-nbytes // PAGE) * PAGE


@dataclass(frozen=True, slots=True)
class KindGeometry:
    """Where one series kind lies. Offsets and sizes in bytes."""

    kind: SeriesKind
    index: int
    rows: int
    blocks_offset: int
    block_nbytes: int

    def block_offset(self, row: int, block: int) -> int:
        """Give the offset of one of a ticker's two blocks."""
        return self.blocks_offset + (2 * row + block) * self.block_nbytes


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where everything lies in a segment with these capacities. Offsets in bytes."""

    max_tickers: int
    kinds: tuple[KindGeometry, ...]
    directory_offset: int
    entries_offset: int
    buffer_offsets: tuple[int, int]
    quotes_offset: int
    series_offset: int
    size: int

    @classmethod
    def of(cls, max_tickers: int, kinds: Sequence[SeriesKind]) -> Self:
        """Lay out a segment."""
        directory_offset = PAGE
        entries_offset = directory_offset + aligned(max_tickers * DIRECTORY_ROW.itemsize)
        buffer_a = entries_offset + aligned(len(kinds) * max_tickers * ENTRY.itemsize)
        quotes_offset = PAGE
        series_offset = quotes_offset + aligned(max_tickers * ROW_NBYTES)
        buffer_nbytes = series_offset + aligned(len(kinds) * max_tickers * ROW_NBYTES)
        buffer_b = buffer_a + buffer_nbytes
        offset = buffer_b + buffer_nbytes
        placed = []
        for index, kind in enumerate(kinds):
            rows = rows_for(kind.capacity)
            block_nbytes = aligned(rows * BAR_NBYTES)
            placed.append(KindGeometry(kind, index, rows, offset, block_nbytes))
            offset += 2 * max_tickers * block_nbytes
        return cls(
            max_tickers,
            tuple(placed),
            directory_offset,
            entries_offset,
            (buffer_a, buffer_b),
            quotes_offset,
            series_offset,
            offset,
        )
