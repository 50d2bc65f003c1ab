"""StockDataReader: the segment as any process of the machine reads it.

It maps the segment read-only and never writes, locks or waits for the writer. How a read is known
to be of one commit is told in `latch`; each public read is one such read, so it is of one epoch.
"""

from __future__ import annotations

import contextlib
import functools
import os
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
    CorruptSegmentError,
    ReaderClosedError,
    RequestError,
    SegmentError,
    UnknownIntervalError,
    UnknownTickerError,
)
from quoteshm.model import FIELDS, Bars, Quote, SnapshotState
from quoteshm.shm import discovery, futex, latch, layout, panel, segment, table
from quoteshm.shm.attachment import Attachment, SeriesRow
from quoteshm.shm.classic import Entry, EntryHeader
from quoteshm.shm.fence import fences, ordered
from quoteshm.shm.frames import to_frame, to_ms
from quoteshm.shm.layout import KindGeometry
from quoteshm.shm.results import SegmentInfo, SeriesView, Snapshot

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from quoteshm.shm.segment import Words

T = TypeVar("T")
Moment = int | str | pd.Timestamp
WriterStatus = Literal["live", "hung", "dead", "closed"]

_HUNG_AFTER_MS: Final = 5_000
_LOOK_EACH_MS: Final = 100
_WAIT_SLICE_S: Final = 0.25
_EPOCH: Final = layout.EPOCH_WORD
_STATE: Final = layout.STATE_WORD
_LIVE: Final = layout.LIVE
_STATES: Final = table.STATE
# Globals of this module are found faster than attributes of another, and a quote is read in a
# fraction of a microsecond.
_FRESHNESS: Final = layout.FRESHNESS_WORD
_PRESENT: Final = layout.PRESENT_WORD
_ROW_NBYTES: Final = layout.ROW_NBYTES
_BOOTTIME: Final = time.CLOCK_BOOTTIME
_now_ns = time.clock_gettime_ns
_LOW_WORD: Final = 0xFFFF_FFFF


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
        The longest a read may take, in seconds.

    Raises
    ------
    SegmentError
        There is no such segment, or it is not one; of the kind that says what was found.
    ConnectionFailedError, RequestError
        The server does not answer, or has no segment.

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
        directory, name, instance = discovery.ask(host, port)
        path = Path(shm_dir or directory) / name
        mapped, fd = segment.attach(path)
        segment.close_fd(fd)
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
        with contextlib.suppress(OSError):  # it is looked again, and the values are there
            if os.fstat(attached.fd.number).st_nlink:
                return
            age_ms = now_ms - int(attached.map.superblock["heartbeat_boot_ms"])
            if not 0 <= age_ms <= _HUNG_AFTER_MS or not segment.is_locked(attached.fd.number):
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
                raise UnknownTickerError(ticker)

    # -- quotes ------------------------------------------------------------------------------

    def get_quote(self, ticker: str) -> Quote:
        """Give the latest quote of a ticker.

        Raises
        ------
        UnknownTickerError
            No such ticker, or no value yet.
        ReadTimeoutError

        """
        attached = self._attached
        if attached is None or (row := attached.rows.get(ticker)) is None:
            return self._get_quote(ticker)
        # The fast way: what `_read` does, one try, inline.
        cells = attached.cells
        before = cells[_EPOCH]
        if self._reorders:
            self._acquire()
        fields = attached.load_row(
            attached.buffer,
            attached.quote_offsets[before >> 1 & 1] + row * _ROW_NBYTES,
        )
        if self._reorders:
            self._acquire()
        if latch.unbroken(before, cells[_EPOCH]) and cells[_STATE] == _LIVE:
            return self._quote(attached, row, fields)
        return self._get_quote(ticker)

    def _get_quote(self, ticker: str) -> Quote:
        """Give a quote the long way: a new ticker, or a commit that came in between."""
        return self._quote(*self._read_row(ticker, Attachment.quote_row))

    def _quote(self, attached: Attachment, row: int, fields: tuple[Any, ...]) -> Quote:
        flags, ts_ms, open_, high, low, price, volume, prev_close, updated_ms, boot_ms, _ = fields
        symbol, currency, _ = attached.tickers[row]
        if flags != _PRESENT:
            _check_flags(flags, fields[-1])
            raise UnknownTickerError(symbol, REMOVED if flags == layout.REMOVED_WORD else None)
        age_ms = _now_ns(_BOOTTIME) // NS_PER_MS - boot_ms
        if attached.cells[_FRESHNESS] != attached.freshness_word:
            attached.load_oldest()
        stale = not 0 <= age_ms <= attached.oldest_ms
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
            header = attached.geometry.buffer_offsets[buffer] // 8
            rows = np.empty((count, layout.ROW_WORDS), np.uint64)
            attached.copy(rows, attached.map.quotes[buffer][:count])
            return count, attached.cells[header + 1], rows

        attached, epoch, (count, last_update_ms, rows) = self._read(load)
        attached.learn(count)
        segment.check_flags(rows[:, _STATES])
        quotes = rows.view(layout.QUOTE_ROW)[:, 0]
        age_ms = _boot_ms() - quotes["updated_boot_ms"]
        stale = (age_ms < 0) | (age_ms > attached.load_oldest())
        return Snapshot(
            epoch, last_update_ms, quotes, stale, attached.tickers[:count], attached.source
        )

    @property
    def snapshot_state(self) -> SnapshotState:
        """How far the market is: the stable epoch, and when the last batch was confirmed."""

        def load(attached: Attachment, buffer: int) -> int:
            last_update_ms: int = attached.cells[attached.geometry.buffer_offsets[buffer] // 8 + 1]
            return last_update_ms

        _, epoch, last_update_ms = self._read(load)
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
    ) -> tuple[Attachment, int, SeriesRow]:
        """Give a ticker's row and its series row, of one epoch."""

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
        return attached, row, SeriesRow(*fields)

    @staticmethod
    def _closed(
        attached: Attachment, kind: KindGeometry, row: int, series: SeriesRow
    ) -> tuple[Words, NDArray[np.float64]]:
        """View the closed bars of a series row, after checking that they lie on backed memory."""
        start, count, block = series.start, series.held, series.rewrites & 1
        if not series.is_sound:
            expected = layout.series_check(*series[:4])
            raise CorruptSegmentError(f"check of series row {row}", series.check, expected)
        if count > kind.kind.capacity or start > kind.rows - count:
            raise CorruptSegmentError("start + count", start + count, f"<= {kind.rows}")
        if count and not series.flags & layout.BACKED[block]:
            raise CorruptSegmentError("flags", series.flags, f"block {block} to be backed")
        times, values = attached.map.columns(kind, row, block)
        return times[start : start + count], values[:, start : start + count]

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
        since : int (milliseconds UTC), str or Timestamp, optional
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

        """
        attached, row, bars = self._bars(ticker, interval, last, since)
        kind = self._kind(attached, interval)
        return to_frame(bars, kind.kind.interval, attached.tickers[row].time_zone)

    def _bars(
        self, ticker: str, interval: str | None, last: int | None, since: Moment | None
    ) -> tuple[Attachment, int, Bars]:
        """Copy bars, all of one epoch."""
        _check_last(last)
        tries = latch.attempts(self._timeout_s)
        while True:
            attached, row, series = self._series_row(ticker, interval, tries)
            kind = self._kind(attached, interval)
            times, values = self._closed(attached, kind, row, series)
            forming = series.forming()
            floor = None if since is None else _to_ms(since, attached.tickers[row].time_zone)
            if forming is not None and floor is not None and forming.time[0] < floor:
                forming = None
            room = None if last is None else last - (forming is not None)
            first = 0 if floor is None else int(np.searchsorted(times.view(np.int64), floor))
            if room is not None:
                first = max(first, len(times) - room)
            bars = Bars.empty(len(times) - first + (forming is not None))
            closed = len(times) - first
            attached.copy(bars.time[:closed].view(np.uint64), times[first:])
            attached.copy(bars.ohlcv[:, :closed], values[:, first:])
            self._acquire()  # pairs with the writer's release behind rewrites_begun
            if latch.intact(series.rewrites, attached.begun(kind, row)):
                if forming is not None:
                    bars.time[closed:], bars.ohlcv[:, closed:] = forming.time, forming.ohlcv
                return attached, row, bars

    def view(self, ticker: str, interval: str | None = None) -> SeriesView:
        """View the closed bars of a ticker where they stand, without a copy.

        Good for as long as `SeriesView.intact` holds: ticks and new bars do not touch it, the
        second rewrite of the window from now on does.

        Raises
        ------
        UnknownTickerError, UnknownIntervalError, ReadTimeoutError

        """
        tries = latch.attempts(self._timeout_s)
        while True:
            attached, row, series = self._series_row(ticker, interval, tries)
            kind = self._kind(attached, interval)
            times, values = self._closed(attached, kind, row, series)
            view = SeriesView(
                Bars(times.view(np.int64), values),
                kind.kind.interval,
                attached.tickers[row],
                series.rewrites,
                functools.partial(attached.begun, kind, row),
                self._acquire,
            )
            if view.intact:
                return view

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
        UnknownTickerError, UnknownIntervalError, ReadTimeoutError, ValueError

        """
        _check_last(last)
        if field.lower() not in FIELDS:
            raise ValueError(f"field: found {field!r}, expected one of {', '.join(FIELDS)}")
        tries = latch.attempts(self._timeout_s)
        while True:
            attached, rows, series = self._series_table(tickers, interval, tries)
            kind = self._kind(attached, interval)
            cells = _gather(attached, kind, rows, series, FIELDS.index(field.lower()), last)
            self._acquire()  # pairs with the writer's release behind rewrites_begun
            if latch.all_intact(series["rewrites"], attached.begun_of(kind, rows)):
                columns = [attached.tickers[row] for row in rows.tolist()]
                return panel.to_frame(cells, columns, kind.kind.interval, last)

    def _series_table(
        self, tickers: Sequence[str] | None, interval: str | None, tries: Iterator[int]
    ) -> tuple[Attachment, NDArray[np.intp], NDArray[np.void]]:
        """Give the rows of tickers and their series rows, all of one epoch."""

        def load(attached: Attachment, buffer: int) -> tuple[Words, Words]:
            count, kind = attached.ticker_count(buffer), self._kind(attached, interval)
            states = np.empty((count, 2), np.uint64)
            series = np.empty((count, layout.ROW_WORDS), np.uint64)
            attached.copy(states, attached.map.quotes[buffer][:count, _STATES])
            attached.copy(series, attached.map.series[buffer][kind.index][:count])
            return states, series

        attached, _, (states, series) = self._read(load, tries)
        attached.learn(len(states))
        segment.check_flags(states)
        present = {
            attached.tickers[row].symbol: row
            for row in np.flatnonzero(states[:, 0] == _PRESENT).tolist()
        }
        wanted = sorted(present) if tickers is None else list(tickers)
        if unknown := [ticker for ticker in wanted if ticker not in present]:
            raise UnknownTickerError(", ".join(map(str, unknown)))
        rows = np.array([present[ticker] for ticker in wanted], np.intp)
        return attached, rows, series[rows].view(layout.SERIES_ROW)[:, 0]

    # -- waiting and looking after the writer ------------------------------------------------

    def wait(self, epoch: int, timeout: float) -> int:
        """Block until the market is past an epoch, or the time is up.

        Parameters
        ----------
        epoch : int
            The stable epoch that the caller has seen.
        timeout : float
            Seconds.

        Returns
        -------
        int
            The stable epoch, also when the time is up. A lower one than was asked for tells of a
            daemon that has begun anew.

        """
        deadline = time.monotonic() + timeout
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
                if not segment.is_locked(attached.fd.number):
                    return "dead"
            age_ms = _boot_ms() - int(attached.map.superblock["heartbeat_boot_ms"])
        except (SegmentError, RequestError, OSError):
            return "closed"
        return "live" if 0 <= age_ms <= _HUNG_AFTER_MS else "hung"

    @property
    def intervals(self) -> tuple[str, ...]:
        """The intervals that the segment holds, the default one first."""
        return tuple(self._attachment().kinds)

    @property
    def info(self) -> SegmentInfo:
        """What the segment holds, who writes it, and since when."""
        attached, _, count = self._read(Attachment.ticker_count)
        segment.check_superblock(attached.path, attached.map.head, attached.geometry.size)
        block = attached.map.superblock
        return SegmentInfo(
            attached.path,
            bytes(block["instance"]).hex(),
            int(block["layout_version"]),
            int(block["size"]),
            attached.source,
            bytes(block["adjustment"]).decode(errors="replace"),
            segment.freshness_of(attached.cells[_FRESHNESS]),
            int(block["created_ms"]),
            int(block["writer_pid"]),
            attached.geometry.max_tickers,
            count,
            {name: kind.kind.capacity for name, kind in attached.kinds.items()},
        )

    # -- the mapping -------------------------------------------------------------------------

    def __getitem__(self, ticker: str) -> Entry:
        """Give the live entry of a ticker: its header, and its history of the first interval."""
        self._series_row(ticker, None)
        header = EntryHeader(functools.partial(self._header, ticker))
        return Entry(header, functools.partial(self.get_stock, ticker))

    def _header(self, ticker: str, field: str) -> int:
        attached, _, series = self._series_row(ticker, None)
        if field == "epoch":
            return series.entry_epoch
        if field == "last_update_ms":
            return series.last_update_ms
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
    segment.check_flags(np.array([[flags, changed_epoch]], np.uint64))


def _check_last(last: int | None) -> None:
    if last is not None and last < 1:
        raise ValueError(f"last: found {last}, expected at least 1")


def _to_ms(moment: Moment, time_zone: str) -> int:
    """Give a moment as milliseconds UTC; one without a zone is the exchange's."""
    if isinstance(moment, int | np.integer):
        return int(moment)
    return to_ms(pd.Timestamp(moment), time_zone)


def _gather(  # noqa: PLR0913, PLR0917  the parts of one read
    attached: Attachment,
    kind: KindGeometry,
    rows: NDArray[np.intp],
    series: NDArray[np.void],
    field: int,
    last: int | None,
) -> panel.Cells:
    """Copy one field of the newest bars of many series, without a loop over them."""
    forming = (series["flags"] & layout.HAS_FORMING) != 0
    start, count = (series[name].astype(np.intp) for name in ("start", "count"))
    block = (series["rewrites"] & 1).astype(np.intp)
    backed = (series["flags"] & layout.backed(series["rewrites"])) != 0
    sound = (series["count"] <= kind.kind.capacity) & (series["start"] <= kind.rows)
    sound &= (start + count <= kind.rows) & (backed | (count == 0))
    checks = layout.series_checks(series.view(np.uint64).reshape(-1, layout.ROW_WORDS))
    sound &= series["check"] == checks
    if not sound.all():
        found = series[~sound][0]
        where = f"{found['start']} + {found['count']}, flags {found['flags']}"
        expected = f"<= {kind.rows}, in a backed block, with the check of these"
        raise CorruptSegmentError("start + count", where, expected)
    kept = count if last is None else np.minimum(count, last - forming)
    base = (2 * rows + block) * (kind.block_nbytes // 8) + start + count - kept
    ends = np.cumsum(kept)
    owner = np.repeat(np.arange(len(rows)), kept)
    words = np.arange(len(owner)) + np.repeat(base - (ends - kept), kept)
    times = attached.take(attached.map.blocks[kind.index], words).view(np.int64)
    values = attached.take(attached.map.float_blocks[kind.index], words + (field + 1) * kind.rows)
    return panel.Cells(
        np.concatenate((owner, np.flatnonzero(forming))),
        np.concatenate((times, series["time"][forming])),
        np.concatenate((values, series[FIELDS[field]][forming])),
    )
