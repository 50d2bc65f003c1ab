"""The latest quotes as the daemon answers them: the writer's own rows, read in its own thread.

Nothing is kept twice. The rows stay in the writer; what is kept here is the JSON of each quote,
made when it is first asked for after it changed, and thrown away when it changes again.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
import numpy as np

from quoteshm.errors import REMOVED, UnknownTickerError
from quoteshm.model import Quote, SnapshotState
from quoteshm.shm import layout
from quoteshm.shm.table import is_stale

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from quoteshm.clock import Clock
    from quoteshm.model import Ticker
    from quoteshm.shm.writer import SegmentWriter

_EVER: Final = 1 << 62
_PRESENT: Final = layout.PRESENT_WORD
_FRONT: Final = struct.Struct(layout.QUOTE_FORMAT)
# A whole row, the unused end of it skipped: what `iter_unpack` steps over.
_ROW: Final = struct.Struct(f"{layout.QUOTE_FORMAT}{layout.ROW_NBYTES - _FRONT.size}x")
_encode: Final = msgspec.json.Encoder().encode


class Snapshot(NamedTuple):
    """Quotes of many tickers at one epoch, and those that have none."""

    epoch: int
    quotes: dict[str, Quote]
    missing: list[str]


class _Row(NamedTuple):
    """A quote row of the segment, field by field as `layout.QUOTE_FORMAT` has them."""

    flags: int
    ts_ms: int
    open: float
    high: float
    low: float
    price: float
    volume: float
    prev_close: float
    updated_ms: int
    updated_boot_ms: int
    changed_epoch: int


class _Body(NamedTuple):
    """The JSON of a quote, and what it was made of: as long as that holds, so does this."""

    changed_epoch: int
    stale: bool
    text: bytes


class QuoteCache:
    """The latest quote of every ticker. In the reactor's thread only, as its writer.

    Parameters
    ----------
    writer : SegmentWriter
        Whose rows these are.
    clock : Clock
        What tells how old a quote is.

    Attributes
    ----------
    failures : dict of str to str
        For wanted tickers without a value: why there is none, in words. The refresh service's.
    wanted : collection of str
        The tickers that are asked for, also those of which nothing has come yet.

    """

    def __init__(self, writer: SegmentWriter, clock: Clock) -> None:
        self.writer, self.clock = writer, clock
        self.failures: dict[str, str] = {}
        self.wanted: Container[str] = ()
        self._bodies: dict[str, _Body] = {}
        self._listed: tuple[bytes, list[str]] = (b"", [])
        self._known: Sequence[Ticker] = ()
        self._table_epoch = -1

    @property
    def state(self) -> SnapshotState:
        """Where the market stands."""
        return SnapshotState(self.writer.epoch, self.writer.last_update_ms)

    def tickers(self) -> list[str]:
        """Give the tickers that have a published value, sorted; the list is the caller's."""
        self._refresh()
        present = self.writer.present()
        key = present.tobytes()
        if key != self._listed[0]:
            places = zip(self._known, present.tolist(), strict=False)
            self._listed = key, sorted(known.symbol for known, there in places if there)
        return self._listed[1].copy()

    def row_of(self, ticker: str) -> int:
        """Give the row of a ticker that has a published value.

        Raises
        ------
        UnknownTickerError
            There is no such ticker, or it has no value; it says why, where that is known.

        """
        self._find(ticker)
        return self.writer.row_of[ticker]

    def get(self, ticker: str) -> Quote:
        """Give the quote of a ticker.

        Raises
        ------
        UnknownTickerError
            As `row_of`.

        """
        known, row = self._find(ticker)
        age_ms = self.clock.boot_ms() - row.updated_boot_ms
        return self._quote(known, row, stale=is_stale(age_ms, self.writer.spec.freshness_ms))

    def body(self, ticker: str) -> bytes:
        """Give the quote of a ticker as JSON, encoded once for each change.

        Raises
        ------
        UnknownTickerError
            As `row_of`.

        """
        return self._body(*self._find(ticker), self.clock.boot_ms())

    def dated_body(self, ticker: str) -> tuple[bytes, int]:
        """Give what `body` gives, and until when by the boot clock it is right without a commit.

        That is when `is_stale` will tell something else.

        Raises
        ------
        UnknownTickerError
            As `row_of`.

        """
        known, row = self._find(ticker)
        now_ms = self.clock.boot_ms()
        fresh_until_ms = row.updated_boot_ms + self.writer.spec.freshness_ms
        until_ms = fresh_until_ms if now_ms <= fresh_until_ms else _EVER
        if now_ms < row.updated_boot_ms:
            until_ms = row.updated_boot_ms - 1
        return self._body(known, row, now_ms), until_ms

    def snapshot(self, tickers: Iterable[str] | None = None) -> Snapshot:
        """Give the quotes of ``tickers``, or of all, at one epoch; each ticker counts once."""
        now_ms, freshness_ms = self.clock.boot_ms(), self.writer.spec.freshness_ms
        found, missing = self._select(tickers)
        quotes = {}
        for known, row in found:
            stale = is_stale(now_ms - row.updated_boot_ms, freshness_ms)
            quotes[known.symbol] = self._quote(known, row, stale=stale)
        return Snapshot(self.writer.epoch, quotes, missing)

    def bodies(self, tickers: Iterable[str] | None = None) -> tuple[dict[str, bytes], list[str]]:
        """Give what `snapshot` gives, each quote as `body` gives it; and the missing ones."""
        now = self.clock.boot_ms()
        found, missing = self._select(tickers)
        return {known.symbol: self._body(known, row, now) for known, row in found}, missing

    def missing(self, tickers: Iterable[str]) -> list[str]:
        """Give those of ``tickers`` that have no value."""
        return self._select(tickers)[1]

    def changed(self, epoch: int, rows: NDArray[np.intp] | None = None) -> NDArray[np.intp]:
        """Give those of ``rows``, or of all, that changed after an epoch, if only to no value."""
        self._refresh()
        epochs = self._table["changed_epoch"]
        if rows is None:
            return np.flatnonzero(epochs > epoch)
        rows = rows[rows < len(epochs)]
        return rows[epochs[rows] > epoch]

    def object(self, rows: NDArray[np.intp], *, removed: bool) -> bytes:
        """Give the quotes of rows as a JSON object by ticker.

        Parameters
        ----------
        rows : ndarray of intp
            As `changed` gives them.
        removed : bool
            Whether those that have no value any more are in it, as null.

        """
        table, known = self._table[rows], self._known
        age_ms = self.clock.boot_ms() - table["updated_boot_ms"]
        stale = is_stale(age_ms, self.writer.spec.freshness_ms)
        quotes: dict[str, Quote | None] = {}
        places = zip(rows.tolist(), stale.tolist(), _ROW.iter_unpack(table.tobytes()), strict=True)
        for place, too_old, fields in places:
            if fields[0] == _PRESENT:
                quotes[known[place].symbol] = self._quote(known[place], fields, stale=too_old)
            elif removed:
                quotes[known[place].symbol] = None
        return _encode(quotes)

    def _refresh(self) -> None:
        """Look at the rows of the last commit."""
        if self.writer.epoch != self._table_epoch:
            self._table_epoch, self._table = self.writer.epoch, self.writer.quotes()
            self._bytes: memoryview = self._table.view(np.uint8).data
            if len(self._known) < len(self._table):  # tickers are only ever added
                self._known = self.writer.tickers

    def _find(self, ticker: str) -> tuple[Ticker, _Row]:
        self._refresh()
        place = self.writer.row_of.get(ticker)
        # A ticker that was enlisted after the last commit has no row yet.
        if place is not None and place < len(self._table):
            row = _Row._make(_FRONT.unpack_from(self._bytes, place * layout.ROW_NBYTES))
            if row.flags == _PRESENT:
                return self._known[place], row
        reason = self.failures.get(ticker)
        is_removed = place is not None and self.writer.is_removed(place)
        if reason is None and (ticker in self.wanted or (place is not None and not is_removed)):
            reason = "not fetched yet"
        if reason is None and is_removed:
            reason = REMOVED
        instead = None
        if reason is None and ticker.upper() in self.writer.row_of:
            instead = ticker.upper()
        raise UnknownTickerError(ticker, reason, instead=instead)

    def _select(self, tickers: Iterable[str] | None) -> tuple[list[tuple[Ticker, _Row]], list[str]]:
        if tickers is None:
            return sorted(self._present()), []
        found, missing = [], []
        for ticker in dict.fromkeys(tickers):
            try:
                found.append(self._find(ticker))
            except UnknownTickerError:
                missing.append(ticker)
        return found, missing

    def _present(self) -> Iterator[tuple[Ticker, _Row]]:
        self._refresh()
        rows = map(_Row._make, _ROW.iter_unpack(self._bytes))
        for known, row in zip(self._known, rows, strict=False):
            if row.flags == _PRESENT:
                yield known, row

    def _quote(self, known: Ticker, row: tuple[Any, ...], *, stale: bool) -> Quote:
        _, ts_ms, open_, high, low, price, volume, prev_close, updated_ms, _, _ = row
        return Quote(
            known.symbol,
            price,
            open_,
            high,
            low,
            prev_close,
            volume,
            known.currency,
            ts_ms,
            updated_ms,
            stale,
            self.writer.spec.source,
        )

    def _body(self, known: Ticker, row: _Row, boot_ms: int) -> bytes:
        stale = is_stale(boot_ms - row.updated_boot_ms, self.writer.spec.freshness_ms)
        kept = self._bodies.get(known.symbol)
        if kept is not None and kept.changed_epoch == row.changed_epoch and kept.stale is stale:
            return kept.text
        text = _encode(self._quote(known, row, stale=stale))
        self._bodies[known.symbol] = _Body(row.changed_epoch, stale, text)
        return text
