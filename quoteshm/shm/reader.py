"""StockDataReader: the segment as any process of the machine reads it.

It maps the segment read-only and never writes, locks or waits for the writer. How a read is known
to be of one commit is told in `latch`; each public read is one such read, so it is of one epoch.
"""

from __future__ import annotations

import contextlib
import functools
import math
import operator
import os
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeVar

import numpy as np
import pandas as pd

from quoteshm.clock import NS_PER_MS
from quoteshm.errors import (
    REMOVED,
    UNPUBLISHED,
    ConnectionFailedError,
    CorruptSegmentError,
    ReaderClosedError,
    RequestError,
    SegmentError,
    UnknownIntervalError,
    UnknownTickerError,
)
from quoteshm.model import FIELDS, Quote, SnapshotState, several
from quoteshm.shm import (
    checks,
    discovery,
    files,
    futex,
    latch,
    layout,
    lock,
    panel,
    segment,
    table,
)
from quoteshm.shm.attachment import KNOWN_S, Attachment
from quoteshm.shm.classic import Entry, EntryHeader
from quoteshm.shm.fence import fences, ordered
from quoteshm.shm.frames import Moment, frame_over, named, to_ms
from quoteshm.shm.gather import gather
from quoteshm.shm.layout import KindGeometry
from quoteshm.shm.results import SegmentInfo, SeriesView, Snapshot
from quoteshm.shm.series import Series, SeriesRow

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from quoteshm.shm.views import Words

T = TypeVar("T")
WriterStatus = Literal["live", "hung", "dead", "closed"]

#: A heartbeat that is older is none.
HUNG_AFTER_MS: Final = 5_000
_LOOK_EACH_MS: Final = 100
_WAIT_SLICE_S: Final = 0.25
_EPOCH: Final = layout.EPOCH_WORD
_STATE: Final = layout.STATE_WORD
_LIVE: Final = layout.LIVE
# Globals of this module are found faster than attributes of another, and a quote is read in a
# fraction of a microsecond.
_FRESHNESS: Final = layout.FRESHNESS_WORD
_PRESENT: Final = layout.PRESENT_WORD
_MAX_EPOCH: Final = layout.MAX_EPOCH
_S_PER_MS: Final = 0.001
_BOOTTIME: Final = time.CLOCK_BOOTTIME
_now_s = time.clock_gettime
_LOW_WORD: Final = 0xFFFF_FFFF
_FORMING: Final = slice(5, 10)  # the forming bar's values in a `SeriesRow`


def _boot_ms() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // NS_PER_MS


class StockDataReader(Mapping[str, "Entry"]):
    """Reads a segment: history, quotes, the whole market, each at one epoch.

    A context manager; safe to use from several threads; attaches anew after a fork; pickles as its
    address. When the segment is replaced or its writer restarts, it follows by itself.

    Parameters
    ----------
    host, port : str, int
        The server that is asked for the segment's name, unless it is given.
    shm_name : str, optional
        The segment's name; then no server is asked.
    shm_dir : path, optional
        Its folder, `/dev/shm` unless given.
    timeout_s : float
        The longest a read may take, in seconds; but it is tried `latch.LEAST_TRIES` times, though
        the process was off its core for longer than that.

    Raises
    ------
    SegmentError
        There is no such segment, or it is not one; of the kind that says what was found.
    SettingsError, ConnectionFailedError, RequestError
        There can be no such server; it does not answer; it has no segment.

    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 9000,
        *,
        shm_name: str | None = None,
        shm_dir: str | os.PathLike[str] | None = None,
        timeout_s: float = latch.DEFAULT_TIMEOUT_S,
    ) -> None:
        self._address = (host, port, shm_name, shm_dir, timeout_s)
        self._timeout_s = timeout_s
        self._acquire, _ = fences()
        self._reorders = not ordered()
        self._is_closed = False
        self._attached: Attachment | None = None
        self._last: Attachment | None = None
        self._lock = threading.Lock()
        self._next_look_ms = self._next_try_ms = 0
        self._next_look_s = 0.0  # the same as seconds
        self._left_epoch = 0  # of the last segment that was left for one of its own epochs
        self._path = self._find()
        self._attachment()
        _readers.add(self)

    def _find(self) -> Path:
        host, port, shm_name, shm_dir, _ = self._address
        if shm_name is not None:
            return Path(shm_dir or segment.DEFAULT_DIRECTORY) / shm_name
        path, found = self._ask(host, port, shm_dir)
        if found is not None:  # the segment may have been replaced since the server's answer
            path, found = self._ask(host, port, shm_dir)
        if found is not None:
            raise SegmentError(found)
        return path

    @staticmethod
    def _ask(
        host: str, port: int, shm_dir: str | os.PathLike[str] | None
    ) -> tuple[Path, str | None]:
        """Ask the server for its segment; say if the one found here is another machine's."""
        try:
            directory, name, instance = discovery.ask(host, port)
        except (ConnectionFailedError, RequestError) as error:
            error.add_note("Whoever knows the segment's name need not ask: shm_name='shm0'")
            raise
        path = Path(shm_dir or directory) / name
        mapped, fd = segment.attach(path)
        files.close_fd(fd)
        found = bytes(mapped.superblock["instance"]).hex()
        if found == instance:
            return path, None
        return path, (
            f"{path}: found instance {found}, the server's is {instance}: is it on this machine?"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, self._address

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the segment; views and frames over it stay good."""
        self._is_closed = True
        self._attached = self._last = None

    # -- attaching ---------------------------------------------------------------------------

    def _attachment(self) -> Attachment:
        """Give the attached segment: this one, or its successor if it was closed."""
        attached = self._attached
        if attached is not None and attached.cells[_STATE] == _LIVE:
            return attached
        return self._attach_anew()

    def _attach_anew(self) -> Attachment:
        if self._is_closed:
            raise ReaderClosedError
        with self._lock:
            if (present := self._attached) is not None and present.cells[_STATE] == _LIVE:
                return present  # another thread was here first
            now_ms = _boot_ms()
            if self._last is not None and now_ms < self._next_try_ms:
                return self._last
            try:
                found = Attachment(self._path)
            except SegmentError:
                if self._last is None:
                    raise
                found = self._last  # no successor yet: the last values, which grow stale
            if found.map.cells[_STATE] != _LIVE and self._last is not None:
                self._next_try_ms = now_ms + _LOOK_EACH_MS
                return self._last
            if self._last is not None:
                with contextlib.suppress(CorruptSegmentError):  # one that cannot be says nothing
                    self._left_epoch = max(self._left_epoch, self._last.epoch())
            self._attached = self._last = found
            if self._is_closed:  # by another thread, in the meantime
                self._attached = self._last = None
            return found

    def _look_for_successor(self, attached: Attachment) -> None:
        """Leave, now and then, a segment whose writer is dead or silent and whose name is gone."""
        now_ms = _boot_ms()
        if now_ms < self._next_look_ms:
            return
        self._next_look_ms = now_ms + _LOOK_EACH_MS
        self._next_look_s = self._next_look_ms * _S_PER_MS
        with contextlib.suppress(OSError):  # it is looked again, and the values are there
            if os.fstat(attached.fd.number).st_nlink:
                return
            age_ms = now_ms - int(attached.map.superblock["heartbeat_boot_ms"])
            if not 0 <= age_ms <= HUNG_AFTER_MS or not lock.is_locked(attached.fd.number):
                self._attached = None

    def _after_fork(self) -> None:
        self._lock = threading.Lock()
        self._attached = self._last = None

    # -- latched reads -----------------------------------------------------------------------

    def _read(
        self, load: Callable[[Attachment, int], T], tries: Iterator[int] | None = None
    ) -> tuple[Attachment, int, T]:
        """Load from the stable buffer until it is of one commit; give its epoch and the value.

        ``tries`` are those of the whole call, where there is more to it than this.

        Raises
        ------
        ReadTimeoutError

        """
        for _ in tries or latch.attempts(self._timeout_s):
            attached = self._attachment()
            try:
                before = attached.epoch()
                self._acquire()  # pairs with the writer's release before its even epoch
                value = load(attached, latch.stable_buffer(before))
            except CorruptSegmentError:  # which a writer will have replaced, or will
                self._look_for_successor(attached)
                raise
            self._acquire()  # pairs with the writer's release behind its odd epoch
            if latch.unbroken(before, attached.cells[_EPOCH]):
                self._look_for_successor(attached)
                return attached, latch.stable_epoch(before), value
        raise AssertionError  # not reached: attempts() ends with an exception

    def _read_row(
        self,
        ticker: str,
        load: Callable[[Attachment, int, int], T],
        tries: Iterator[int] | None = None,
    ) -> tuple[Attachment, int, T]:
        """Load something of one ticker at one epoch; give its row and the value.

        A new ticker's directory row is believed only after the count that tells of it was.

        Raises
        ------
        UnknownTickerError, ReadTimeoutError

        """

        def load_known(attached: Attachment, buffer: int) -> tuple[int, int | None, T | None]:
            row = attached.rows.get(ticker)
            value = None if row is None else load(attached, buffer, row)
            return attached.ticker_count(buffer), row, value

        while True:
            attached, _, (count, row, value) = self._read(load_known, tries)
            if row is not None and value is not None:
                return attached, row, value
            tries = None  # what was learnt is not to be lost for want of time
            attached.learn(count)
            if ticker not in attached.rows:
                raise _unknown(ticker, attached.rows)

    # -- quotes ------------------------------------------------------------------------------

    def get_quote(self, ticker: str) -> Quote:
        """Give the latest quote of a ticker.

        Raises
        ------
        UnknownTickerError
            No such ticker, or no value yet.
        ReadTimeoutError, CorruptSegmentError

        """
        attached = self._attached
        if attached is None:
            return self._get_quote(ticker)
        try:
            known = attached.known_quotes[ticker]
        except KeyError:
            if (row := attached.rows.get(ticker)) is None:
                return self._get_quote(ticker)
            known = attached.know_quote(row)
        epoch, until_s, quote, first, second, symbol, currency = known
        cells = attached.cells
        before = cells[_EPOCH]
        if before == epoch and cells[_STATE] == _LIVE and _now_s(_BOOTTIME) < until_s:
            return quote  # nothing was committed since it was read, and it is as fresh
        # What `_read` does, one try, inline, without fences: in a fifth of the time.
        fields = attached.load_row(attached.buffer, second if before & 2 else first)
        is_whole = cells[_EPOCH] == before <= _MAX_EPOCH and cells[_STATE] == _LIVE
        if not is_whole or self._reorders:
            return self._get_quote(ticker)
        flags, ts_ms, open_, high, low, price, volume, prev_close, updated_ms, boot_ms, _ = fields
        now_s = _now_s(_BOOTTIME)
        if now_s >= self._next_look_s:
            self._look_for_successor(attached)
        if not (
            flags == _PRESENT
            and cells[_FRESHNESS] == attached.freshness_word
            and 0.0 <= now_s - boot_ms * _S_PER_MS < attached.young_s  # surely not `is_stale`
        ):
            return self._quote(attached, attached.rows[ticker], fields)
        quote = Quote(
            symbol,
            price,
            open_,
            high,
            low,
            prev_close,
            volume,
            currency,
            ts_ms,
            updated_ms,
            False,  # noqa: FBT003  stale
            attached.source,
        )
        attached.known_quotes[ticker] = (
            before, now_s + KNOWN_S, quote, first, second, symbol, currency,
        )  # fmt: skip
        return quote

    def _get_quote(self, ticker: str) -> Quote:
        """Give a quote the long way: of a new ticker, or a stale one, or while commits come in."""
        attached, row, fields = self._read_row(ticker, Attachment.quote_row)
        return self._quote(attached, row, fields)

    def _quote(self, attached: Attachment, row: int, fields: tuple[Any, ...]) -> Quote:
        flags, ts_ms, open_, high, low, price, volume, prev_close, updated_ms, boot_ms, _ = fields
        symbol, currency, _ = attached.tickers[row]
        if flags != _PRESENT:
            _check_flags(flags, fields[-1])
            raise UnknownTickerError(symbol, REMOVED if flags == layout.REMOVED_WORD else None)
        stale = table.is_stale(_boot_ms() - boot_ms, attached.load_oldest())
        if stale:
            self._look_for_successor(attached)
        return Quote(
            symbol,
            price,
            open_,
            high,
            low,
            prev_close,
            volume,
            currency,
            ts_ms,
            updated_ms,
            stale,
            attached.source,
        )

    def list_tickers(self) -> list[str]:
        """List the tickers that have a published value, sorted."""
        return self.snapshot().tickers

    def snapshot(self) -> Snapshot:
        """Copy the latest quotes of the whole market, all of one epoch."""

        def load(attached: Attachment, buffer: int) -> tuple[int, int, Words]:
            count = attached.ticker_count(buffer)
            rows = np.empty((count, layout.ROW_WORDS), np.uint64)
            attached.copy(rows, attached.map.quotes[buffer][:count])
            return count, attached.last_update_ms(buffer), rows

        attached, epoch, (count, last_update_ms, rows) = self._read(load)
        attached.learn(count)
        checks.check_flags(rows[:, table.FLAGGED])
        return Snapshot(
            epoch,
            last_update_ms,
            rows,
            _boot_ms(),
            attached.load_oldest(),
            attached.listings,
            attached.source,
        )

    @property
    def snapshot_state(self) -> SnapshotState:
        """How far the market is: the stable epoch, and when the last batch was confirmed."""
        _, epoch, last_update_ms = self._read(Attachment.last_update_ms)
        return SnapshotState(epoch, last_update_ms)

    # -- history -----------------------------------------------------------------------------

    def _kind(self, attached: Attachment, interval: str | None) -> KindGeometry:
        if interval is None:
            return attached.geometry.kinds[0]
        try:
            return attached.kinds[interval]
        except KeyError:
            raise UnknownIntervalError(interval, tuple(attached.kinds)) from None

    def _series_row(
        self, ticker: str, interval: str | None, tries: Iterator[int] | None = None
    ) -> tuple[Attachment, Series, SeriesRow]:
        """Give a ticker's series and its row, of one epoch."""

        def load(
            attached: Attachment, buffer: int, row: int
        ) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
            quote = attached.quote_row(buffer, row)
            return quote, attached.series_row(buffer, self._kind(attached, interval), row)

        attached, row, (quote, fields) = self._read_row(ticker, load, tries)
        if quote[0] != _PRESENT:
            _check_flags(quote[0], quote[-1])
            if quote[0] == layout.REMOVED_WORD:
                raise UnknownTickerError(ticker, REMOVED)
        series = attached.known_series.get((ticker, interval))
        if series is None:
            series = attached.know_series(interval, self._kind(attached, interval), row)
        return attached, series, SeriesRow._make(fields)

    def _known_series_row(
        self, ticker: str, interval: str | None
    ) -> tuple[Attachment, Series, SeriesRow] | None:
        """Give the same by one try of `_read`, inline; None on any doubt."""
        attached = self._attached
        if attached is None or (series := attached.known_series.get((ticker, interval))) is None:
            return None
        cells = attached.cells
        before = cells[_EPOCH]
        self._acquire()  # pairs with the writer's release before its even epoch
        buffer = latch.stable_buffer(before)
        flags = cells[series.flags_words[buffer]]
        fields = attached.load_series(attached.buffer, series.row_offsets[buffer])
        self._acquire()  # pairs with the writer's release behind its odd epoch
        sound = flags == _PRESENT and before <= _MAX_EPOCH and cells[_STATE] == _LIVE
        if not (latch.unbroken(before, cells[_EPOCH]) and sound):
            return None
        self._look_for_successor(attached)
        return attached, series, SeriesRow._make(fields)

    def _series_rows(
        self, ticker: str, interval: str | None
    ) -> Iterator[tuple[Attachment, Series, SeriesRow]]:
        """Give a ticker's series and its row again and again, until the time is up."""
        if (known := self._known_series_row(ticker, interval)) is not None:
            yield known
        tries = latch.attempts(self._timeout_s)
        while True:
            yield self._series_row(ticker, interval, tries)

    def get_stock(
        self,
        ticker: str,
        interval: str | None = None,
        *,
        last: int | None = None,
        since: Moment | None = None,
    ) -> pd.DataFrame:
        """Copy the history of a ticker, the forming bar included.

        Parameters
        ----------
        ticker : str
            Its symbol.
        interval : str, optional
            The first of `intervals` unless given.
        last : int, optional
            Only so many of the newest bars, at least 1.
        since : int (milliseconds UTC), str or datetime, optional
            Only bars from this time on; without a zone it is the exchange's. Applies before
            ``last``.

        Returns
        -------
        DataFrame
            Columns ``Open High Low Close Volume`` (float64), oldest first, index in the exchange's
            time zone.

        Raises
        ------
        UnknownTickerError, UnknownIntervalError, ReadTimeoutError
        ValueError, TypeError
            ``last`` or ``since`` is not what it can be.
        CorruptSegmentError
            What the segment says of the bars cannot be.

        """
        last = _checked_last(last)
        for attached, series, row in self._series_rows(ticker, interval):
            _, times, values, _ = closed = series.closed(row)
            forming_time, first, held = row.forming_time, 0, row.held
            if since is not None:
                floor = to_ms(since, series.ticker.time_zone)
                first = int(np.searchsorted(times.view(np.int64), floor))
                if forming_time is not None and forming_time < floor:
                    forming_time = None
            is_forming = forming_time is not None
            if last is not None:
                first = max(first, held - (last - is_forming))
            count = held - first
            ohlcv = np.empty((len(FIELDS), count + is_forming))
            attached.copy(ohlcv[:, :count], values[:, first:])
            key = closed.said, forming_time, first
            if (index := series.known_index(key)) is None:
                time_ms = np.empty(count + is_forming, np.int64)
                attached.copy(time_ms[:count].view(np.uint64), times[first:])
            self._acquire()  # pairs with the writer's release behind rewrites_begun
            if not latch.intact(row.rewrites, attached.begun(series)):
                continue
            if is_forming:
                ohlcv[:, count] = row[_FORMING]
            if index is None:
                if forming_time is not None:
                    time_ms[count] = forming_time
                index = attached.index(time_ms, series.ticker.time_zone)
                series.keep_index(key, index)
            return frame_over(ohlcv, named(index, series.kind.kind.interval))
        raise AssertionError  # not reached: `_series_rows` ends with an exception

    def view(self, ticker: str, interval: str | None = None) -> SeriesView:
        """View the closed bars of a ticker where they stand, without a copy.

        Good for as long as `SeriesView.intact` holds: ticks and new bars do not touch it, the
        second rewrite of the window from now on does.

        Raises
        ------
        UnknownTickerError, UnknownIntervalError, ReadTimeoutError, CorruptSegmentError

        """
        for attached, series, row in self._series_rows(ticker, interval):
            closed = series.closed(row)
            view = SeriesView(
                closed.bars,
                series.kind.kind.interval,
                series.ticker,
                row.rewrites,
                functools.partial(attached.begun, series),
                self._acquire,
                functools.partial(series.view_index, closed),
            )
            if view.intact:
                return view
        raise AssertionError  # not reached: `_series_rows` ends with an exception

    def panel(
        self,
        field: str,
        tickers: Sequence[str] | None = None,
        interval: str | None = None,
        *,
        last: int | None = None,
    ) -> pd.DataFrame:
        """Copy one field of many tickers, all of one epoch: time down, tickers across.

        Parameters
        ----------
        field : str
            ``open``, ``high``, ``low``, ``close`` or ``volume``, in any case.
        tickers : sequence of str, optional
            In the order of the columns; all that have a value unless given, sorted.
        interval : str, optional
            The first of `intervals` unless given.
        last : int, optional
            Only so many of the newest times, at least 1.

        Returns
        -------
        DataFrame
            float64, NaN where a ticker has no bar. The index is the sorted union of the times, in
            the tickers' zone, or UTC where they differ; bars of a day and more are aligned by
            their exchange's local date then.

        Raises
        ------
        UnknownTickerError, UnknownIntervalError, ReadTimeoutError, CorruptSegmentError
        ValueError, TypeError
            ``field`` or ``last`` is not what it can be.

        """
        last = _checked_last(last)
        if field.lower() not in FIELDS:
            raise ValueError(f"field: found {field!r}, expected one of {', '.join(FIELDS)}")
        tries = latch.attempts(self._timeout_s)
        while True:
            attached, rows, series = self._series_table(tickers, interval, tries)
            kind = self._kind(attached, interval)
            bars = gather(attached, kind, rows, series, FIELDS.index(field.lower()), last)
            self._acquire()  # pairs with the writer's release behind rewrites_begun
            if latch.all_intact(series["rewrites"], attached.begun_of(kind, rows)):
                columns = [attached.tickers[row] for row in rows.tolist()]
                return panel.to_frame(bars, columns, kind.kind.interval, last)

    def _series_table(
        self, tickers: Sequence[str] | None, interval: str | None, tries: Iterator[int]
    ) -> tuple[Attachment, NDArray[np.intp], NDArray[np.void]]:
        """Give the rows of tickers and their series rows, all of one epoch."""

        def load(attached: Attachment, buffer: int) -> tuple[Words, Words]:
            count, kind = attached.ticker_count(buffer), self._kind(attached, interval)
            states = np.empty((count, 2), np.uint64)
            series = np.empty((count, layout.ROW_WORDS), np.uint64)
            attached.copy(states, attached.map.quotes[buffer][:count, table.FLAGGED])
            attached.copy(series, attached.map.series[buffer][kind.index][:count])
            return states, series

        attached, _, (states, series) = self._read(load, tries)
        attached.learn(len(states))
        checks.check_flags(states)
        present = {
            attached.tickers[row].symbol: row
            for row in np.flatnonzero(states[:, 0] == _PRESENT).tolist()
        }
        wanted = sorted(present) if tickers is None else several(tickers)
        if unknown := [ticker for ticker in wanted if ticker not in present]:
            if len(unknown) == 1:
                raise _unknown(unknown[0], present)
            raise UnknownTickerError(", ".join(map(str, unknown)), UNPUBLISHED)
        rows = np.array([present[ticker] for ticker in wanted], np.intp)
        return attached, rows, series[rows].view(layout.SERIES_ROW)[:, 0]

    # -- waiting and looking after the writer ------------------------------------------------

    def wait(self, epoch: int, timeout: float | None) -> int:
        """Block until the market is past an epoch, or the time is up.

        Parameters
        ----------
        epoch : int
            The stable epoch that the caller has seen.
        timeout : float or None
            Seconds; None waits for ever.

        Returns
        -------
        int
            The stable epoch, also when the time is up. Epochs go on from one daemon to the next; a
            lower one than was asked for tells of one that began anew, as after a reboot.

        """
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            attached = self._attachment()
            try:
                now = attached.epoch()
            except CorruptSegmentError:
                self._look_for_successor(attached)
                raise
            left_s = deadline - time.monotonic()
            stable = latch.stable_epoch(now)
            begun_anew = stable < epoch <= self._left_epoch  # by another daemon, from zero
            if stable > epoch or begun_anew or left_s <= 0:
                return stable
            address = attached.map.headers[0].ctypes.data - attached.geometry.buffer_offsets[0]
            address += layout.EPOCH_OFFSET
            futex.wait(address, now & _LOW_WORD, min(left_s, _WAIT_SLICE_S))
            self._look_for_successor(attached)

    def writer_status(self) -> WriterStatus:
        """Tell how the writer is; never raises.

        Returns
        -------
        str
            ``live``; ``hung``: it holds its lock, and has not stamped its heartbeat for 5 seconds;
            ``dead``: its lock is free; ``closed``: it took its leave, or there is no segment.

        """
        try:
            attached = self._attachment()
            if attached.cells[_STATE] != _LIVE:
                return "closed"
            self._look_for_successor(attached)
            with contextlib.suppress(OSError):  # then its heartbeat tells
                if not lock.is_locked(attached.fd.number):
                    return "dead"
            age_ms = _boot_ms() - int(attached.map.superblock["heartbeat_boot_ms"])
        except (SegmentError, RequestError, OSError):
            return "closed"
        return "live" if 0 <= age_ms <= HUNG_AFTER_MS else "hung"

    @property
    def intervals(self) -> tuple[str, ...]:
        """The intervals that the segment holds, the default one first."""
        return tuple(self._attachment().kinds)

    @property
    def info(self) -> SegmentInfo:
        """What the segment holds, who writes it, and since when."""
        attached, _, count = self._read(Attachment.ticker_count)
        checks.check_superblock(attached.path, attached.map.head, attached.geometry.size)
        block = attached.map.superblock
        return SegmentInfo(
            attached.path,
            bytes(block["instance"]).hex(),
            int(block["layout_version"]),
            int(block["size"]),
            attached.source,
            bytes(block["adjustment"]).decode(errors="replace"),
            checks.freshness_of(attached.cells[_FRESHNESS]),
            int(block["created_ms"]),
            int(block["writer_pid"]),
            attached.geometry.max_tickers,
            count,
            {name: kind.kind.capacity for name, kind in attached.kinds.items()},
        )

    # -- the mapping -------------------------------------------------------------------------

    def __getitem__(self, ticker: str) -> Entry:
        """Give the live entry of a ticker: its header, and its history of the first interval."""
        next(self._series_rows(ticker, None))
        header = EntryHeader(functools.partial(self._header, ticker))
        return Entry(header, functools.partial(self.get_stock, ticker))

    def _header(self, ticker: str, field: str) -> int:
        attached, _, row = next(self._series_rows(ticker, None))
        if field == "epoch":
            return row.entry_epoch
        if field == "last_update_ms":
            return row.last_update_ms
        if field == "version":
            return layout.LAYOUT_VERSION  # checked when it was attached
        return int(attached.map.superblock[field])

    def __iter__(self) -> Iterator[str]:
        return iter(self.list_tickers())

    def __len__(self) -> int:
        return len(self.list_tickers())

    def __contains__(self, ticker: object) -> bool:
        if not isinstance(ticker, str):
            return False
        try:
            self.get_quote(ticker)
        except UnknownTickerError:
            return False
        return True

    def __repr__(self) -> str:
        return f"<StockDataReader of {self._path}: {self.writer_status()}>"

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)


def _unpickled(
    host: str, port: int, shm_name: str | None, shm_dir: str | None, timeout_s: float
) -> StockDataReader:
    return StockDataReader(host, port, shm_name=shm_name, shm_dir=shm_dir, timeout_s=timeout_s)


_readers: weakref.WeakSet[StockDataReader] = weakref.WeakSet()


def _after_fork() -> None:
    for reader in tuple(_readers):
        reader._after_fork()  # noqa: SLF001  the module's own class


os.register_at_fork(after_in_child=_after_fork)


def _check_flags(flags: int, changed_epoch: int) -> None:
    checks.check_flags(np.array([[flags, changed_epoch]], np.uint64))


def _checked_last(last: int | None) -> int | None:
    """Give a count of bars as a plain number that fits a word: no series has more."""
    if last is None:
        return None
    if (count := int(operator.index(last))) < 1:
        raise ValueError(f"last: found {last}, expected at least 1")
    return min(count, sys.maxsize)


def _unknown(ticker: object, known: Mapping[str, int]) -> UnknownTickerError:
    """Give what is raised of a ticker that there is not."""
    upper = ticker.upper() if isinstance(ticker, str) else ""
    instead = upper if upper in known else None
    return UnknownTickerError(ticker, UNPUBLISHED, instead=instead)
