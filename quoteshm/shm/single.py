"""The short path of one tick: a bar that goes on, and at most its ticker's quote.

Such a commit changes two rows of fixed places. Their words, packed at an even epoch out of plain
numbers, are what the ordinary planner would store; a tenth of its time is enough for them, most of
which it spends on being ready for many rows. Any other batch, and one that is wrong, is left to
that planner.
"""

from __future__ import annotations

import struct
from array import array
from operator import index
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from quoteshm.errors import BatchError
from quoteshm.shm import layout, table
from quoteshm.shm.batch import Batch, Quotes, Ticks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from quoteshm.clock import Clock
    from quoteshm.shm.batch import Rows
    from quoteshm.shm.views import SegmentMap

#: What a tick changes: the kind and the row of a series, and whether the row of quotes as well.
Place = tuple[int, int, bool]
#: The stores of one tick: its place, the words of a series row that change, the quote row (empty
#: where there is none), the buffer's header, when it was confirmed, the entry's cell and the even
#: epoch that it will have. No class of its own: one would cost as much as half of the stores.
Single = tuple[Place, bytes, bytes, bytes, int, int, int]
#: A tick as numbers: row, interval, bar, quote and time, as `SegmentWriter.write_tick` takes them.
Said = tuple[int, str, "Sequence[float]", "Sequence[float] | None", int]

_QUOTE: Final = struct.Struct(layout.QUOTE_FORMAT)
_SERIES: Final = struct.Struct("<dddddQqQ")  # of `layout.SERIES_ROW`, from _FIRST on
_FIRST: Final = 8 * table.OHLCV.start
_HEADER: Final = struct.Struct("<QqqqQ")  # the front of `layout.BUFFER_HEADER`
_LAST_UPDATE_CELL: Final = layout.word(layout.SUPERBLOCK, "last_update_ms")
# As globals of this module, which cost less than what another one's do; so `epoch >> 1 & 1` stands
# here for `latch.stable_buffer`, which would be a call.
_EPOCH: Final = layout.EPOCH_WORD
_ENTRY_EPOCH: Final = table.EPOCH
_ENTRY_UPDATED: Final = table.UPDATED
_TIME: Final = table.TIME
_FLAGS: Final = table.SERIES_FLAGS
_NBYTES: Final = layout.ROW_NBYTES
_SERIES_NBYTES: Final = _SERIES.size
_QUOTE_NBYTES: Final = _QUOTE.size
_HEADER_NBYTES: Final = _HEADER.size
# By identity, which costs half of a comparison: an equal one takes the ordinary path.
_INT64: Final = np.dtype(np.int64)
_FLOAT64: Final = np.dtype(np.float64)
_INTP: Final = np.dtype(np.intp)


class SinglePath:
    """Plans and stores single ticks in one segment.

    Parameters
    ----------
    mapped : SegmentMap
        The segment.
    release : callable
        The release fence.

    """

    def __init__(self, mapped: SegmentMap, release: Callable[[], object]) -> None:
        self._buffer, self._cells, self._release = mapped.buffer, mapped.cells, release
        self._times = memoryview(mapped.buffer).cast("q")  # the same cells, signed
        g = mapped.geometry
        self._kinds = {kind.kind.interval: kind.index for kind in g.kinds}
        self._headers = g.buffer_offsets
        self._quotes = tuple(mapped.quote_offset(buffer, 0) for buffer in (0, 1))
        self._series = tuple(
            tuple(mapped.series_offset(buffer, kind.index, 0) for kind in g.kinds)
            for buffer in (0, 1)
        )
        # The same in cells.
        self._rows = tuple(tuple(offset // 8 for offset in offsets) for offsets in self._series)
        self._entries = tuple(mapped.entry_word(kind.index, 0) for kind in g.kinds)
        self._count = 0
        self._counted = layout.checked_word(0)

    def plan(  # noqa: PLR0913, PLR0917  (numbers as they are, in place of an object made for one call)
        self,
        row: int,
        interval: str,
        bar: Sequence[float],
        quote: Sequence[float] | None,
        updated_ms: int | None,
        epoch: int,
        count: int,
        clock: Clock,
    ) -> Single | None:
        """Give the stores of one tick; nothing where it is more than a bar that goes on, or wrong.

        Parameters
        ----------
        row, interval, bar, quote, updated_ms
            As `SegmentWriter.write_tick` takes them.
        epoch : int
            The stable epoch.
        count : int
            Of the tickers enlisted.
        clock : Clock
            What tells when it was confirmed.

        """
        try:
            kind = self._kinds.get(interval)
        except TypeError:  # it is no text
            return None
        if kind is None or not 0 <= row < count:
            return None
        at = self._rows[epoch >> 1 & 1][kind] + row * layout.ROW_WORDS
        entry = self._entries[kind] + row * layout.ENTRY_WORDS
        cells = self._cells
        try:
            time_ms, open_, high, low, close, volume = bar
            if self._times[at + _TIME] != time_ms or not cells[at + _FLAGS] & layout.HAS_FORMING:
                return None
            entry_epoch, epoch = cells[entry + table.EPOCH] + 2, epoch + 2
            now_ms, boot_ms = clock.wall_ms(), clock.boot_ms()
            if updated_ms is None or updated_ms == now_ms:
                updated_ms, updated_boot_ms = now_ms, boot_ms
            else:
                updated_boot_ms = boot_ms - max(0, now_ms - updated_ms)
            values = _SERIES.pack(open_, high, low, close, volume, entry_epoch, updated_ms, epoch)
            if count != self._count:
                self._count, self._counted = count, layout.checked_word(count)
            header = _HEADER.pack(self._counted, updated_ms, now_ms, boot_ms, epoch)
            if quote is None:
                return (kind, row, False), values, b"", header, updated_ms, entry, entry_epoch
            ts_ms, open_, high, low, close, volume, before = quote
            row_of_quote = _QUOTE.pack(
                layout.PRESENT_WORD, ts_ms, open_, high, low, close, volume, before,
                updated_ms, updated_boot_ms, epoch,
            )  # fmt: skip
        except (TypeError, ValueError, struct.error):  # too few numbers, or what fits no field
            return None
        return (kind, row, True), values, row_of_quote, header, updated_ms, entry, entry_epoch

    def is_forming(self, row: int, interval: str, time_ms: int, epoch: int) -> bool:
        """Tell whether a series has a forming bar of this time, at a stable epoch."""
        kind = self._kinds.get(interval)
        if kind is None:
            return False
        at = self._rows[epoch >> 1 & 1][kind] + row * layout.ROW_WORDS
        has_forming = self._cells[at + _FLAGS] & layout.HAS_FORMING
        return bool(has_forming) and self._times[at + _TIME] == time_ms

    def catch_up(self, place: Place, epoch: int) -> None:
        """Bring the back buffer up to date after a last commit that changed this place."""
        buffer, stable = self._buffer, epoch >> 1 & 1
        kind, row, has_quote = place
        offset = row * layout.ROW_NBYTES
        to, source = self._series[stable ^ 1][kind] + offset, self._series[stable][kind] + offset
        buffer[to : to + layout.ROW_NBYTES] = buffer[source : source + layout.ROW_NBYTES]
        if has_quote:
            to, source = self._quotes[stable ^ 1] + offset, self._quotes[stable] + offset
            buffer[to : to + layout.ROW_NBYTES] = buffer[source : source + layout.ROW_NBYTES]

    def commit(
        self, one: Single, epoch: int, dirty: Place | None, catch_up_all: Callable[[], object]
    ) -> None:
        """Make the stores of one tick, from an even epoch to the next.

        Parameters
        ----------
        one : Single
            The stores.
        epoch : int
            The stable epoch.
        dirty : tuple, optional
            What the last commit changed, where that was a tick as well. What both change need not
            be brought up to date, and a tick leaves all else of its rows as it is.
        catch_up_all : callable
            Brings the back buffer up to date after any other commit.

        """
        place, values, quote, header, updated_ms, entry, entry_epoch = one
        cells, buffer, back = self._cells, self._buffer, epoch >> 1 & 1 ^ 1
        cells[_EPOCH] = epoch + 1
        self._release()  # pairs with the reader's fence before its second load
        cells[entry + _ENTRY_EPOCH] = entry_epoch - 1
        if dirty is None:
            catch_up_all()
        elif dirty != place:
            self.catch_up(dirty, epoch)
        kind, row, _ = place
        at = self._series[back][kind] + row * _NBYTES + _FIRST
        buffer[at : at + _SERIES_NBYTES] = values
        if quote:
            at = self._quotes[back] + row * _NBYTES
            buffer[at : at + _QUOTE_NBYTES] = quote
        at = self._headers[back]
        buffer[at : at + _HEADER_NBYTES] = header
        self._times[_LAST_UPDATE_CELL] = updated_ms
        self._release()  # pairs with the reader's fence behind its first load
        cells[_EPOCH] = epoch + 2
        self._times[entry + _ENTRY_UPDATED] = updated_ms
        cells[entry + _ENTRY_EPOCH] = entry_epoch

    def quote(self, row: int, epoch: int) -> tuple[float, ...] | None:
        """Give the six values of the stable quote of a row, or nothing where there is none."""
        found = _QUOTE.unpack_from(
            self._buffer, self._quotes[epoch >> 1 & 1] + row * layout.ROW_NBYTES
        )
        return found[2:8] if found[0] == layout.PRESENT_WORD else None


def said(batch: Batch) -> Said | None:
    """Give what a batch says as one tick, or nothing where it says anything else, or wrongly."""
    if len(batch.ticks) != 1 or not _is_bare(batch):
        return None
    ticks, quotes = batch.ticks[0], batch.quotes
    row = _row_of_tick(ticks)
    if row < 0 or (quotes and _row_of_quote(quotes[0]) != row):
        return None
    bar = [ticks.time.item(), *ticks.ohlcv.tolist()[0]]
    quote = [quotes[0].ts_ms.item(), *quotes[0].values.tolist()[0]] if quotes else None
    return row, ticks.interval, bar, quote, batch.updated_ms


def batch_of(
    row: int,
    interval: str,
    bar: Sequence[float],
    quote: Sequence[float] | None,
    updated_ms: int,
) -> Batch:
    """Give the batch that says one tick.

    Raises
    ------
    BatchError
        Something of it is no number, or fits no field.

    """
    try:
        rows = np.array([row], np.intp)
        quotes = [] if quote is None else [Quotes(rows, *_numbers(quote))]
        return Batch(_whole(updated_ms), [Ticks(interval, rows, *_numbers(bar))], quotes=quotes)
    except (TypeError, ValueError, OverflowError) as error:
        raise BatchError(f"a tick of row {row}: {error}") from error


def _numbers(said: Sequence[float]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Give a time and the values behind it, of what `struct` takes for numbers too."""
    times = [_whole(time) for time in said[:1]]
    return np.array(times, np.int64), np.array([array("d", said[1:])], np.float64)


def _whole(number: float) -> int:
    return int(number) if isinstance(number, float | np.floating) else index(number)


def _is_bare(batch: Batch) -> bool:
    """Tell whether a batch says nothing but ticks and a quote or none."""
    return (
        not batch.histories
        and len(batch.quotes) <= 1
        and batch.confirmed is None
        and len(batch.removed) == 0
    )


def _row_of_tick(ticks: Ticks) -> int:
    """Give the row where there is one, and all is as it should be, else -1."""
    time, ohlcv = ticks.time, ticks.ohlcv
    is_time = time.dtype is _INT64 and time.shape == (1,)
    is_bar = ohlcv.dtype is _FLOAT64 and ohlcv.shape == (1, 5)
    return _only(ticks.rows) if is_time and is_bar else -1


def _row_of_quote(quotes: Quotes) -> int:
    """Do the same for a quote."""
    ts_ms, values = quotes.ts_ms, quotes.values
    is_time = ts_ms.dtype is _INT64 and ts_ms.shape == (1,) and quotes.updated_ms is None
    is_quote = values.dtype is _FLOAT64 and values.shape == (1, 6)
    return _only(quotes.rows) if is_time and is_quote else -1


def _only(rows: Rows) -> int:
    """Give the row where there is one, else -1."""
    if isinstance(rows, slice):
        start, stop = rows.start or 0, rows.stop
        return start if stop == start + 1 and rows.step is None else -1
    is_one: Any = isinstance(rows, np.ndarray) and rows.shape == (1,) and rows.dtype is _INTP
    return int(rows[0]) if is_one else -1
