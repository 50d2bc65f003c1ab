"""A folder of CSV or Parquet files, one file per ticker.

`AAPL.csv` holds the bars of AAPL in the first of the wanted intervals, `AAPL.1m.parquet` those of
one minute. Files that change (by time, size or inode) are read again; the others are unchanged.
Whoever writes them writes to another name and renames, so that no half of a file is ever read.

Columns may stand in any order and case: `Open High Low Close`, `Volume` (0 where there is none) and
a time in `Date`, `Datetime`, `Timestamp` or `Time`, in `Date` and `Time` together, or in a first
column without a name (what a saved index is). An `Adj Close` is recognised and kept apart: it is
never taken for the close, and prices are published as the file gives them, unadjusted. Other
columns are ignored.

Times are ISO 8601, or whole numbers since the Unix epoch (seconds, milliseconds, microseconds or
nanoseconds, by their size); days may be written 20240131. Without an offset they are UTC. A
Parquet column keeps its time zone; a CSV file knows offsets only, so its tickers are in UTC. In a
series of days and more, a midnight with an offset (`2026-11-02 00:00:00+01:00`, how an index of
Berlin is saved) is that date: as a moment it would be the day before. An empty cell, `nan`, `null`
and the like are no number: that bar is left out.

Everything is read in a worker thread, some thousands of lines at a time.
"""

from __future__ import annotations

import contextlib
import csv
import io
import os
import re
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar, cast
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import pandas as pd

from quoteshm.model import DAY_MS, FIELDS, INTERVALS, Bars, Ticker
from quoteshm.sources.base import Failure, Reason, Series, Source, TickerBars, Unchanged
from quoteshm.sources.worker import AbandonedError, Worker
from quoteshm.text import printable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray
    from twisted.internet.interfaces import IReactorFromThreads

    from quoteshm.sources.base import Fetched, Request

_T = TypeVar("_T")

_CSV: Final = ".csv"
_PARQUET: Final = frozenset({".parquet", ".pq"})

#: Lines handled at a time: a C function that takes all of them keeps other threads waiting.
_CHUNK: Final = 2000

_TIME_NAMES: Final = ("datetime", "timestamp", "date", "time")
_INDEX_NAMES: Final = frozenset({"", "index", "unnamed: 0", "__index_level_0__"})
_NO_NUMBER: Final = frozenset({"", "-", "na", "n/a", "nan", "none", "null"})
_WHOLE_NUMBER: Final = re.compile(r"[+-]?\d+")
_MIDNIGHT: Final = re.compile(
    r"\s*(\d{4}-\d\d-\d\d)[T ]00:00(?::00(?:\.0+)?)?[+-]\d\d(?::?\d\d)?\s*", re.ASCII
)
_COMPACT_DAY_DIGITS: Final = 8
_SHOWN: Final = 200  # characters: what stands in a file can be of any length

#: Less than this is the number of a row: in seconds, the first days of 1970.
_LEAST_EPOCH: Final = 10**6
#: Numbers since the Unix epoch smaller than the first are multiplied by the second, divided by
#: the third: seconds, milliseconds, microseconds, nanoseconds.
_EPOCH_UNITS: Final[tuple[tuple[int | None, int, int], ...]] = (
    (10**11, 1000, 1),
    (10**14, 1, 1),
    (10**17, 1, 1000),
    (None, 1, 10**6),
)


class _BadFileError(Exception):
    """A file that is no series of bars: what was found, what was expected, and where."""


class _StoppedError(Exception):
    """The source was stopped in the middle of a file."""


class _Signature(NamedTuple):
    """What changes when a file does."""

    mtime_ns: int
    nbytes: int
    inode: int

    @classmethod
    def of(cls, stat: os.stat_result) -> _Signature:
        return cls(stat.st_mtime_ns, stat.st_size, stat.st_ino)


class _File(NamedTuple):
    """A file of the folder, by what its name says."""

    path: Path
    signature: _Signature


class _Read(NamedTuple):
    """What a file holds."""

    bars: Bars
    time_zone: str
    signature: _Signature


#: The files of one ticker, by interval.
_Named = tuple[tuple[str, _File], ...]


@dataclass(frozen=True, slots=True)
class _Told:
    """What was answered for a ticker, and on which files."""

    files: _Named
    failure: Failure | None


#: Files by ticker, then by interval ("" where the name says none); more than one is a mistake.
_Folder = dict[str, dict[str, list[_File]]]


class Files(Source):
    """A `quoteshm.sources.base.Source` that reads a folder.

    Parameters
    ----------
    folder : path
        Where the files are. It need not exist yet.
    reactor : IReactorFromThreads, optional
        Where answers are delivered; Twisted's own if not given.

    """

    name = "files"
    adjustment = "none"

    def __init__(self, folder: str | Path, *, reactor: IReactorFromThreads | None = None) -> None:
        self.folder = Path(folder)
        self._reactor = reactor
        self._stopped = False
        self._worker: Worker | None = None
        self._told: dict[str, _Told] = {}
        self._unchanged: tuple[str, ...] = ()

    def tickers(self) -> tuple[str, ...]:
        """List the tickers that have a file, sorted; reads the folder at once.

        Raises
        ------
        OSError
            If there is no such folder, or none that may be read.

        """
        return tuple(sorted(_survey(self.folder)))

    def refuse(self, tickers: Sequence[str]) -> dict[str, str]:
        """Say which tickers the folder has no file of; reads it at once."""
        try:
            known = set(self.tickers())
        except OSError as error:
            return dict.fromkeys(tickers, f"{self.folder}: {error.strerror}")
        return {
            ticker: f"no file {ticker}.csv or {ticker}.parquet in {self.folder}"
            for ticker in tickers
            if ticker not in known
        }

    async def stop(self) -> None:
        """End a running `fetch`, and the reading of a file; wait for neither."""
        self._stopped = True
        if self._worker is not None:
            self._worker.abandon()

    async def fetch(self, wanted: Sequence[Request]) -> AsyncGenerator[Fetched, None]:
        """Give the bars of every file that is new or has changed, whole."""
        if self._stopped or not wanted:
            return
        with contextlib.suppress(AbandonedError):
            try:
                folder = await self._in_thread(lambda: _survey(self.folder))
            except OSError as error:
                for request in wanted:
                    yield Failure(request.ticker, Reason.UNREACHABLE, str(error))
                return
            changed, unchanged, failures = self._sort_out(wanted, folder)
            if unchanged:
                yield Unchanged(unchanged)
            for failure in failures:
                yield failure
            for request, files in changed:
                if self._stopped:
                    return
                answer, told = await self._in_thread(partial(self._read, request.ticker, files))
                self._told.pop(request.ticker, None)
                if told is not None:
                    self._told[request.ticker] = told
                yield answer

    def _sort_out(
        self,
        wanted: Sequence[Request],
        folder: _Folder,
    ) -> tuple[list[tuple[Request, _Named]], tuple[str, ...], list[Failure]]:
        """Tell what is to be read, what is unchanged, and what cannot be read."""
        changed: list[tuple[Request, _Named]] = []
        unchanged: list[str] = []
        failures: list[Failure] = []
        for request in wanted:
            files = self._files_of(request, folder)
            if isinstance(files, Failure):
                self._told.pop(request.ticker, None)
                failures.append(files)
                continue
            told = self._told.get(request.ticker)
            if told is None or told.files != files:
                changed.append((request, files))
            elif told.failure is not None:
                failures.append(told.failure)
            elif all(request.known(request.ticker, interval) for interval, _ in files):
                unchanged.append(request.ticker)
            else:  # what was answered then is not published, or not any more
                changed.append((request, files))
        if self._unchanged != (names := tuple(unchanged)):
            self._unchanged = names
        # The same tuple as long as they are the same.
        return changed, self._unchanged, failures

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        """Do something in a thread that nobody waits for: a disk may not answer."""
        if self._worker is None:
            self._worker = Worker(self._reactor, "files")
        return await self._worker.run(work)

    def _files_of(
        self,
        request: Request,
        folder: _Folder,
    ) -> _Named | Failure:
        """Choose the files of a ticker, by interval."""
        named = folder.get(request.ticker, {})
        files: list[tuple[str, _File]] = []
        for i, kind in enumerate(request.kinds):
            found = named.get(kind.interval, [])
            if i == 0:
                found = found + named.get("", [])
            if len(found) > 1:
                names = " and ".join(sorted(file.path.name for file in found))
                message = f"found {names}, expected one file for its bars of {kind.interval}"
                return Failure(request.ticker, Reason.BAD_DATA, message)
            files.extend((kind.interval, file) for file in found)
        if not files:
            message = f"no file {request.ticker}.csv or {request.ticker}.parquet in {self.folder}"
            return Failure(request.ticker, Reason.NOT_FOUND, message)
        return tuple(files)

    def _read(
        self,
        ticker: str,
        files: _Named,
    ) -> tuple[TickerBars | Failure, _Told | None]:
        """Read the files of a ticker, in a worker thread; and say what to remember of that."""
        series: dict[str, Series] = {}
        seen: list[tuple[str, _File]] = []
        time_zone = "UTC"
        reason, message = Reason.EMPTY, ""
        for interval, file in files:
            try:
                read = _read_file(file.path, interval, lambda: self._stopped)
            except _StoppedError:
                reason, message = Reason.STOPPED, "stopped while it was being read"
            except _BadFileError as error:
                reason, message = Reason.BAD_DATA, str(error)
            except OSError as error:
                reason, message = Reason.UNREACHABLE, str(error)
            except Exception as error:  # noqa: BLE001 - whatever a file does harms no other
                reason, message = Reason.BAD_DATA, f"{file.path.name}: {error!r}"
            else:
                seen.append((interval, _File(file.path, read.signature)))
                if len(read.bars):
                    series[interval] = Series(read.bars, forming=False)
                    time_zone = read.time_zone
                    continue
                message = f"{file.path.name}: no bars"
            failure = Failure(ticker, reason, message)
            is_lasting = reason in {Reason.BAD_DATA, Reason.EMPTY}
            return failure, _Told(files, failure) if is_lasting else None
        answer = TickerBars(Ticker(ticker, time_zone=time_zone), series, whole=True)
        return answer, _Told(tuple(seen), None)


def _survey(folder: Path) -> _Folder:
    """List the files of a folder by what their names say."""
    found: _Folder = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            path = Path(entry.path)
            if path.suffix.lower() not in {_CSV, *_PARQUET} or path.name.startswith("."):
                continue
            try:
                path.stem.encode()
                if not entry.is_file():
                    continue
                signature = _Signature.of(entry.stat())
            except (OSError, UnicodeEncodeError):  # gone since, a link to nowhere, no text
                continue
            ticker, dot, interval = path.stem.rpartition(".")
            if not dot or interval not in INTERVALS:
                ticker, interval = path.stem, ""
            found.setdefault(ticker, {}).setdefault(interval, []).append(_File(path, signature))
    return found


def _read_file(path: Path, interval: str, is_stopped: Callable[[], bool]) -> _Read:
    """Read one file, whole."""
    is_daily = INTERVALS[interval] >= DAY_MS
    with path.open("rb") as file:
        # Before the reading: what changes during it is read again.
        signature = _Signature.of(os.fstat(file.fileno()))
        data = file.read()
    if path.suffix.lower() == _CSV:
        bars, time_zone = _read_csv(path.name, data, is_stopped, is_daily=is_daily)
    else:
        bars, time_zone = _read_parquet(path.name, data, is_daily=is_daily)
    _check_spacing(path, bars.time, interval)
    return _Read(bars, time_zone, signature)


def _check_spacing(path: Path, time: NDArray[np.int64], interval: str) -> None:
    """Refuse bars that are mostly closer to each other than they can be in their series."""
    if len(time) < 3:  # noqa: PLR2004 (of one distance nobody can say that it is the usual one)
        return
    apart_ms = int(np.median(np.diff(np.sort(time))))
    if 0 < apart_ms < INTERVALS[interval] // 2:
        found = next((name for name, ms in INTERVALS.items() if ms == apart_ms), "")
        hint = f": name it {path.stem}.{found}{path.suffix}" if found else ""
        message = f"{path.name}: found bars {apart_ms // 1000} s apart in a series of {interval}"
        raise _BadFileError(message + hint)


# -- columns -----------------------------------------------------------------------------------


class _Columns(NamedTuple):
    """Where in a table the time and the five values are."""

    time: tuple[int, ...]  # two where date and time of day stand apart
    values: tuple[int | None, ...]  # in the order of FIELDS; None for a volume there is not


def _find_columns(names: Sequence[str], where: str, *, has_index: bool = False) -> _Columns:
    """Find the columns by name; with ``has_index`` the time may be the table's index."""
    places: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        places.setdefault(name.strip().lower(), []).append(i)
    needed = [*_TIME_NAMES, *FIELDS]
    twice = [name for name in needed if len(places.get(name, ())) > 1]
    if twice:
        message = f"{where}: found more than one column {twice[0]}, expected one"
        raise _BadFileError(message)
    missing = [name for name in FIELDS[:-1] if name not in places]
    time = tuple(places[name][0] for name in _TIME_NAMES if name in places)
    if "date" in places and "time" in places:
        time = (places["date"][0], places["time"][0])
    elif not time and names and names[0].strip().lower() in _INDEX_NAMES:
        time = (0,)
    if not time and not has_index:
        missing.insert(0, "date")
    if missing:
        found = _shown(", ".join(names))
        message = f"{where}: found columns {found}, expected also {', '.join(missing)}"
        raise _BadFileError(message)
    values = tuple(places[name][0] if name in places else None for name in FIELDS)
    both = "date" in places and "time" in places
    return _Columns(time if both else time[:1], values)


def _shown(text: str) -> str:
    """Give a text from a file as a message has it."""
    return printable(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")


def _as_date(text: str) -> str:
    """Give a midnight with an offset as the date that is written: as a moment it may be another."""
    return _MIDNIGHT.sub(r"\1", text)


def _epoch_ms(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Convert whole numbers since the Unix epoch; their size, of the largest, tells the unit."""
    size = int(np.abs(numbers).max(initial=0))
    if len(numbers) and size < _LEAST_EPOCH:
        message = f"{size} is no time"
        raise ValueError(message)
    factor, part = next((f, p) for end, f, p in _EPOCH_UNITS if end is None or size < end)
    return numbers * factor // part


# -- CSV ---------------------------------------------------------------------------------------


def _read_csv(
    name: str, data: bytes, is_stopped: Callable[[], bool], *, is_daily: bool
) -> tuple[Bars, str]:
    """Read a CSV file: a header, then one bar a line."""
    # Decoded as it is read: all of a large text at once would keep other threads waiting.
    text = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig", newline="")
    parts = []
    try:
        table = _Table(name, text, is_daily=is_daily)
        for cells, lines in table.chunks():
            if is_stopped():
                raise _StoppedError
            parts.append(table.bars(cells, lines))
    except UnicodeDecodeError:
        raise _bad_text(name, data) from None
    if not parts:
        return Bars.empty(), "UTC"
    time = np.concatenate([part.time for part in parts])
    return Bars(time, np.concatenate([part.ohlcv for part in parts], axis=1)), "UTC"


def _bad_text(name: str, data: bytes) -> _BadFileError:
    """Say where a text is not UTF-8."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        found = data[error.start : error.end].hex(" ")
        return _BadFileError(f"{name}, line {line}: found the bytes {found}, expected UTF-8")
    return _BadFileError(f"{name}: expected UTF-8")


class _Table:
    """The lines of a CSV file, some thousands at a time."""

    def __init__(self, name: str, text: Iterable[str], *, is_daily: bool) -> None:
        self._name, self._is_daily = name, is_daily
        self._reader = csv.reader(text)
        self._header: list[str] = []
        try:
            self._header = next((row for row in self._reader if row), [])
        except csv.Error as error:
            raise self._bad(self._reader.line_num, str(error)) from error
        if not self._header:
            message = f"{name}: found nothing, expected a header line"
            raise _BadFileError(message)
        self._columns = _find_columns(self._header, f"{name}, line {self._reader.line_num}")

    def _bad(self, line: int, what: str) -> _BadFileError:
        return _BadFileError(f"{self._name}, line {line}: {what}")

    def chunks(self) -> Iterator[tuple[list[tuple[str, ...]], list[int]]]:
        """Give columns of cells, and the number of the line that each row stands on."""
        while True:
            rows: list[list[str]] = []
            lines: list[int] = []
            begin = self._reader.line_num
            try:
                for row in islice(self._reader, _CHUNK):
                    if row:  # else a blank line
                        rows.append(row)
                        lines.append(self._reader.line_num)
            except csv.Error as error:
                raise self._bad(self._reader.line_num, str(error)) from error
            if self._reader.line_num == begin:
                return
            if not rows:
                continue
            wide = len(self._header)
            for row, line in zip(rows, lines, strict=True):
                if len(row) != wide:
                    raise self._bad(line, f"found {len(row)} fields, expected {wide}")
            yield list(zip(*rows, strict=True)), lines

    def bars(self, cells: list[tuple[str, ...]], lines: list[int]) -> Bars:
        """Convert columns of cells."""
        stamps: Sequence[str] = cells[self._columns.time[0]]
        for further in self._columns.time[1:]:
            stamps = [f"{day} {time}" for day, time in zip(stamps, cells[further], strict=True)]
        bars = Bars(self._times(stamps, lines), np.zeros((len(FIELDS), len(lines))))
        for values, place in zip(bars.ohlcv, self._columns.values, strict=True):
            if place is not None:
                values[:] = self._numbers(cells[place], lines, self._header[place])
        return bars

    def _numbers(
        self,
        cells: Sequence[str],
        lines: list[int],
        column: str,
    ) -> NDArray[np.float64]:
        """Convert a column, each number to the nearest float64."""
        try:
            return np.fromiter(map(float, cells), np.float64, len(cells))
        except ValueError:
            numbers = np.empty(len(cells))
        for i, cell in enumerate(cells):
            try:
                numbers[i] = np.nan if cell.strip().lower() in _NO_NUMBER else float(cell)
            except ValueError:
                what = f"found {cell[:_SHOWN]!r} in column {_shown(column)}, expected a number"
                raise self._bad(lines[i], what) from None
        return numbers

    def _times(self, cells: Sequence[str], lines: list[int]) -> NDArray[np.int64]:
        """Convert the times."""
        if self._is_daily:
            cells = [_as_date(cell) for cell in cells]
        try:
            return _cell_times(cells)
        except (ValueError, OverflowError):
            for cell, line in zip(cells, lines, strict=True):
                try:
                    _cell_times([cell])
                except (ValueError, OverflowError):
                    what = (
                        f"found {cell[:_SHOWN]!r} for a time, expected ISO 8601, as in 2024-01-31"
                    )
                    raise self._bad(line, what) from None
            # Each is a time for itself: they are of two kinds.
            for cell, line in zip(cells, lines, strict=True):
                if _is_epoch(cell) != _is_epoch(cells[0]):
                    what = f"found {cell!r} for a time, expected one like {cells[0]!r}"
                    raise self._bad(line, what) from None
            raise


def _is_epoch(cell: str) -> bool:
    """Tell whether a cell is a number since the Unix epoch."""
    text = cell.strip()
    return len(text) != _COMPACT_DAY_DIGITS and _WHOLE_NUMBER.fullmatch(text) is not None


def _cell_times(cells: Sequence[str]) -> NDArray[np.int64]:
    """Convert the texts of times; a ValueError if one of them is none."""
    if _is_epoch(cells[0]):
        return _epoch_ms(np.fromiter(map(int, cells), np.int64, len(cells)))
    index = pd.to_datetime(np.array(cells, object), format="ISO8601", utc=True)
    return _index_ms(index)


def _index_ms(index: pd.DatetimeIndex) -> NDArray[np.int64]:
    """Give the milliseconds of a zoned index; a ValueError if a time is missing."""
    if index.hasnans:
        message = "a time is missing"
        raise ValueError(message)
    return cast("NDArray[np.int64]", index.as_unit("ms").asi8)


# -- Parquet -----------------------------------------------------------------------------------


def _read_parquet(name: str, data: bytes, *, is_daily: bool) -> tuple[Bars, str]:
    """Read a Parquet file: a column of times, or an index, and the five values."""
    try:
        # Not in threads of pyarrow's own: one that needs Python when that has ended, by a stop in
        # the middle of a file, would keep the process for ever.
        import pyarrow as pa  # noqa: PLC0415 (an extra, and only for these files)
        from pyarrow import parquet  # noqa: PLC0415 (the same)

        table = parquet.ParquetFile(pa.BufferReader(data)).read(use_threads=False)
        frame = table.to_pandas(use_threads=False)
    except ImportError as error:
        message = f"{name}: Parquet files need pyarrow: pip install 'quoteshm[parquet]'"
        raise _BadFileError(message) from error
    except (ValueError, OSError) as error:  # pyarrow's own errors are kinds of these
        message = f"{name}: no Parquet file: {error}"
        raise _BadFileError(message) from error
    names = [str(column) for column in frame.columns]
    has_index = not isinstance(frame.index, pd.RangeIndex)
    columns = _find_columns(names, name, has_index=has_index)
    stamps = pd.Index(frame.iloc[:, columns.time[0]]) if columns.time else frame.index
    if len(columns.time) > 1:
        days, times = (frame.iloc[:, place].astype(str) for place in columns.time)
        stamps = pd.Index(days + " " + times)
    try:
        time, time_zone = _frame_times(stamps, is_daily=is_daily)
    except (ValueError, TypeError, OverflowError) as error:
        message = f"{name}: found {stamps.dtype} for times, expected timestamps: {error}"
        raise _BadFileError(message) from error
    bars = Bars(time, np.zeros((len(FIELDS), len(frame))))
    for values, place in zip(bars.ohlcv, columns.values, strict=True):
        if place is None:
            continue
        try:
            values[:] = frame.iloc[:, place].astype(np.float64)
        except (ValueError, TypeError) as error:
            message = f"{name}: found {error} in column {names[place]}, expected numbers"
            raise _BadFileError(message) from error
    return bars, time_zone


def _frame_times(stamps: pd.Index, *, is_daily: bool) -> tuple[NDArray[np.int64], str]:
    """Convert an index of whatever can be a time; and tell its zone."""
    if pd.api.types.is_integer_dtype(stamps.dtype):
        return _epoch_ms(stamps.to_numpy(np.int64)), "UTC"
    if pd.api.types.is_float_dtype(stamps.dtype):
        message = "they are fractions"
        raise TypeError(message)
    zone = str(stamps.dtype.tz) if isinstance(stamps.dtype, pd.DatetimeTZDtype) else "UTC"
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError):  # a fixed offset
        zone = "UTC"
        if is_daily and isinstance(stamps, pd.DatetimeIndex) and stamps.equals(stamps.normalize()):
            stamps = stamps.tz_localize(None)  # as for texts, below
    if is_daily and not isinstance(stamps, pd.DatetimeIndex):
        stamps = stamps.map(lambda stamp: _as_date(stamp) if isinstance(stamp, str) else stamp)
    # Of texts pandas would guess the form: the day or the month of 01/02/2024.
    form = None if isinstance(stamps, pd.DatetimeIndex) else "ISO8601"
    try:
        index = pd.to_datetime(stamps, format=form, utc=True)
    except ValueError as error:  # with lines of advice about pandas
        raise ValueError(str(error).partition(". ")[0]) from error
    return _index_ms(index), zone
