"""Bars and quotes on disk, for a warm start: what the files hold, how they are written and read.

One file holds the closed bars of one series, and one more the latest quotes of all tickers with
their forming bars, so that all quotes are there at once. A source's files are in a folder of their
own, as its prices are adjusted in its own way::

    FOLDER/yahoo-split/quotes.parquet
    FOLDER/yahoo-split/1d/AAPL.parquet

Files are Parquet where there is pyarrow, and NumPy's ``.npz`` elsewhere; both have the same columns
and the same texts with them, and of two the newer one is read. The texts end with a checksum of the
whole file, taken with zeros in the checksum's own place: it is compared before any byte is parsed.
A file is written under another name, forced to disk, and renamed, so under its own name there is
the old one or the new one. What cannot be used is renamed and never deleted.

No Twisted in here, and nothing is kept: every function is good in any thread.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import os
import stat
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeVar
from urllib.parse import quote

import numpy as np

from quoteshm.errors import ArchiveFileError
from quoteshm.market.bars import validate
from quoteshm.model import FIELDS, QUOTE_VALUES, Bars, Ticker

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Column = NDArray[Any]
    Columns = Mapping[str, Column]
    Texts = Mapping[str, str]

FORMAT_VERSION: Final = 1
#: The moment that has not come: NumPy's NaT, a null in Parquet.
NEVER: Final = int(np.iinfo(np.int64).min)

PARQUET: Final = ".parquet"
NPZ: Final = ".npz"
NEW: Final = ".new"
BAD: Final = ".bad-"
QUOTES: Final = "quotes"

#: More than the longest series that there can be; what is longer is none of ours.
MAX_NBYTES: Final = 1 << 30

_KEY: Final = "quoteshm."
_DIGEST_MARK: Final = b"sha256:"
_NO_DIGEST: Final = b"0" * 64
_TEXTS: Final = "texts"  # the member of an .npz file that holds them, as JSON


# -- what is kept ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class SeriesRecord:
    """The closed bars of one series."""

    ticker: Ticker
    interval: str
    bars: Bars
    updated_ms: int  # when they last changed


@dataclass(frozen=True, slots=True, eq=False)
class FormingBars:
    """The forming bars of n tickers, and what they follow.

    Attributes
    ----------
    time : ndarray of int64, shape (n,)
        Start of each, milliseconds UTC; `NEVER` where there is none.
    ohlcv : ndarray of float64, shape (n, 5)
        One row a ticker.
    closed_ms : ndarray of int64, shape (n,)
        The newest closed bar before it, or `NEVER`: behind another one it would leave a gap.

    """

    time: NDArray[np.int64]
    ohlcv: NDArray[np.float64]
    closed_ms: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class MarketRecord:
    """The latest quotes of all tickers, and their forming bars.

    Attributes
    ----------
    tickers : sequence of Ticker
        Whose they are, n of them.
    ts_ms, updated_ms : ndarray of int64, shape (n,)
        When each price was made, and when it was last confirmed; milliseconds UTC.
    values : ndarray of float64, shape (n, 6)
        Open, high, low, price, volume, previous close.
    forming : mapping of str to FormingBars
        By interval.
    last_update_ms : int
        When the newest batch was confirmed, milliseconds UTC.

    """

    tickers: Sequence[Ticker]
    ts_ms: NDArray[np.int64]
    updated_ms: NDArray[np.int64]
    values: NDArray[np.float64]
    forming: Mapping[str, FormingBars]
    last_update_ms: int


Record = SeriesRecord | MarketRecord
R = TypeVar("R", bound=Record)


class Note(NamedTuple):
    """A file that could not be used: why, and the name it has now if it was set aside."""

    path: Path
    why: str
    moved_to: Path | None


class Loaded(NamedTuple, Generic[R]):
    """What was found of a record, and what could not be used."""

    record: R | None
    notes: tuple[Note, ...] = ()


class _NoPyarrowError(Exception):
    """A Parquet file can only be read with pyarrow."""


# -- the archive -----------------------------------------------------------------------------


class Archive:
    """The files of one source.

    Parameters
    ----------
    folder : Path
        The folder of all sources' archives; made when something is stored.
    source, adjustment : str
        Where the bars come from, and what their prices are adjusted for.
    parquet : bool, optional
        Whether to write Parquet; whether pyarrow is there unless given.

    """

    def __init__(
        self, folder: Path, source: str, adjustment: str, *, parquet: bool | None = None
    ) -> None:
        self.source, self.adjustment = source, adjustment
        self.folder = folder / file_stem(f"{source}-{adjustment}")
        self._parquet = parquet

    @property
    def suffix(self) -> str:
        """How the names of new files end."""
        use_parquet = _pyarrow() is not None if self._parquet is None else self._parquet
        return PARQUET if use_parquet else NPZ

    def path(self, record: Record) -> Path:
        """Give the path that a record is stored at."""
        if isinstance(record, MarketRecord):
            stem = self._stem()
        else:
            stem = self._stem(record.ticker.symbol, record.interval)
        return stem.with_name(stem.name + self.suffix)

    def _stem(self, symbol: str | None = None, interval: str = "") -> Path:
        if symbol is None:
            return self.folder / QUOTES
        return self.folder / interval / file_stem(symbol)

    def store(self, records: Sequence[Record]) -> list[OSError | None]:
        """Write records, each in a file of its own, all of it or nothing.

        Returns
        -------
        list of OSError or None
            For each record, why it could not be written.

        """
        problems: list[OSError | None] = [None] * len(records)
        folders: dict[Path, list[int]] = {}
        for place, record in enumerate(records):
            path = self.path(record)
            try:
                _write_new(path, encode(*self._contents(record), parquet=self.suffix == PARQUET))
                _new(path).rename(path)
            except OSError as error:
                problems[place] = error
                with contextlib.suppress(OSError):
                    _new(path).unlink(missing_ok=True)
            else:
                folders.setdefault(path.parent, []).append(place)
        for folder, places in folders.items():
            try:
                _sync(folder)
            except OSError as error:
                for place in places:
                    problems[place] = error
        return problems

    def _contents(self, record: Record) -> tuple[Columns, Texts]:
        texts = {
            "format": f"{FORMAT_VERSION}",
            "source": self.source,
            "adjustment": self.adjustment,
        }
        if isinstance(record, MarketRecord):
            texts |= {"content": "quotes", "last_update_ms": f"{record.last_update_ms}"}
            return _market_columns(record), texts
        texts |= {
            "content": "bars",
            **record.ticker._asdict(),
            "interval": record.interval,
            "updated_ms": f"{record.updated_ms}",
        }
        return {"time": _moments(record.bars.time), **_values(FIELDS, record.bars.ohlcv)}, texts

    def load_market(self) -> Loaded[MarketRecord]:
        """Read the quotes."""
        return self._load(self._stem(), self._parse_market)

    def load_series(self, symbol: str, interval: str) -> Loaded[SeriesRecord]:
        """Read the bars of one series."""
        parse = partial(self._parse_series, symbol, interval)
        return self._load(self._stem(symbol, interval), parse)

    def _load(self, stem: Path, parse: Callable[[Path, Columns, Texts], R]) -> Loaded[R]:
        """Read the newest file of a record that can be used, and set aside what cannot."""
        notes: list[Note] = []
        try:
            paths = _newest_first(stem)
        except OSError as error:  # an older file may not be taken for the newest
            return Loaded(None, (Note(Path(error.filename or stem), error.strerror or "", None),))
        for path in paths:
            try:
                columns, texts = decode(path)
                self._check(path, texts)
                return Loaded(parse(path, columns, texts), tuple(notes))
            except ArchiveFileError as error:
                try:
                    notes.append(Note(path, error.why, set_aside(path)))
                except OSError as stays:
                    notes.append(Note(path, f"{error.why}; it stays ({stays.strerror})", None))
            except _NoPyarrowError:
                notes.append(Note(path, "it takes pyarrow to read it", None))
            except OSError as error:  # nothing is said of what is in it
                notes.append(Note(path, error.strerror or f"{error}", None))
            except MemoryError:  # the same
                notes.append(Note(path, "no memory to read it", None))
        return Loaded(None, tuple(notes))

    def _check(self, path: Path, texts: Texts) -> None:
        _expect(path, "format", texts.get("format"), f"{FORMAT_VERSION}")
        _expect(path, "source", texts.get("source"), self.source)
        _expect(path, "adjustment", texts.get("adjustment"), self.adjustment)

    @staticmethod
    def _parse_series(
        symbol: str, interval: str, path: Path, columns: Columns, texts: Texts
    ) -> SeriesRecord:
        for name, expected in (("content", "bars"), ("symbol", symbol), ("interval", interval)):
            _expect(path, name, texts.get(name), expected)
        with _damage(path):
            ticker = Ticker(*(texts[name] for name in Ticker._fields))
            time, ohlcv = _times(columns["time"]), np.stack([_floats(columns[f]) for f in FIELDS])
            bars, problems = validate(time, ohlcv)
            record = SeriesRecord(ticker, interval, bars, int(texts["updated_ms"]))
        if problems:
            raise ArchiveFileError(path, problems[0].flaw.value, "bars that keep every rule")
        return record

    @staticmethod
    def _parse_market(path: Path, columns: Columns, texts: Texts) -> MarketRecord:
        _expect(path, "content", texts.get("content"), "quotes")
        with _damage(path):
            names = [columns[name].tolist() for name in Ticker._fields]
            record = MarketRecord(
                tickers=tuple(map(Ticker, *names)),
                ts_ms=_times(columns["ts"]),
                updated_ms=_times(columns["updated"]),
                values=np.stack([_floats(columns[name]) for name in QUOTE_VALUES], axis=1),
                forming=_forming(columns),
                last_update_ms=int(texts["last_update_ms"]),
            )
            lengths = {len(column) for column in columns.values()}
            count = len({ticker.symbol for ticker in record.tickers})
        if lengths != {count}:
            raise ArchiveFileError(path, f"columns of {sorted(lengths)} rows", f"{count} tickers")
        return record


# -- columns ---------------------------------------------------------------------------------


def _moments(time: NDArray[np.int64]) -> Column:
    return time.view("M8[ms]")


def _values(names: Sequence[str], values: NDArray[np.float64], prefix: str = "") -> dict[str, Any]:
    return {prefix + name: np.ascontiguousarray(v) for name, v in zip(names, values, strict=True)}


def _market_columns(record: MarketRecord) -> Columns:
    texts = zip(Ticker._fields, zip(*record.tickers, strict=True), strict=False)
    columns: dict[str, Column] = {name: np.array([], "U1") for name in Ticker._fields}
    columns |= {name: np.array(column, np.str_) for name, column in texts}
    columns |= {"ts": _moments(record.ts_ms), "updated": _moments(record.updated_ms)}
    columns |= _values(QUOTE_VALUES, record.values.T)
    for interval, forming in record.forming.items():
        prefix = f"{interval} "
        columns[prefix + "time"] = _moments(forming.time)
        columns[prefix + "closed"] = _moments(forming.closed_ms)
        columns |= _values(FIELDS, forming.ohlcv.T, prefix)
    return columns


def _forming(columns: Columns) -> dict[str, FormingBars]:
    intervals = [name.removesuffix(" closed") for name in columns if name.endswith(" closed")]
    return {
        interval: FormingBars(
            _times(columns[f"{interval} time"]),
            np.stack([_floats(columns[f"{interval} {name}"]) for name in FIELDS], axis=1),
            _times(columns[f"{interval} closed"]),
        )
        for interval in intervals
    }


def _times(column: Column) -> NDArray[np.int64]:
    if column.dtype != np.dtype("M8[ms]"):
        raise TypeError(f"{column.dtype}")
    return column.view(np.int64)


def _floats(column: Column) -> NDArray[np.float64]:
    if column.dtype != np.dtype(np.float64):
        raise TypeError(f"{column.dtype}")
    return column


def _expect(path: Path, name: str, found: str | None, expected: str) -> None:
    if found != expected:
        raise ArchiveFileError(path, f"{name} {found!r}", repr(expected))


@contextlib.contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Tell what goes wrong with the contents of a file by the file's name."""
    try:
        yield
    except MemoryError:  # says nothing of the file
        raise
    except Exception as error:
        raise ArchiveFileError(path, repr(error), "what this version writes") from error


# -- bytes -----------------------------------------------------------------------------------


@cache
def _pyarrow() -> tuple[Any, Any] | None:
    """Import pyarrow where it is first needed; it takes a moment, and is an extra."""
    try:
        import pyarrow as pa  # noqa: PLC0415 (as said above)
        from pyarrow import parquet  # noqa: PLC0415 (the same)
    except ImportError:
        return None
    return pa, parquet


def encode(columns: Columns, texts: Texts, *, parquet: bool) -> bytes:
    """Give the bytes of a file.

    Parameters
    ----------
    columns : mapping of str to ndarray
        Of datetime64[ms], float64 or str, all of one length.
    texts : mapping of str to str
        What is to be known of them.
    parquet : bool
        Whether it is to be Parquet, which takes pyarrow, or ``.npz``.

    """
    data = bytearray(_parquet_bytes(columns, texts) if parquet else _npz_bytes(columns, texts))
    place = data.rfind(_DIGEST_MARK) + len(_DIGEST_MARK)
    data[place : place + len(_NO_DIGEST)] = _digest(data, place)
    return bytes(data)


def _parquet_bytes(columns: Columns, texts: Texts) -> bytes:
    modules = _pyarrow()
    if modules is None:
        raise _NoPyarrowError
    arrow, parquet = modules
    utc = arrow.timestamp("ms", "UTC")
    table = arrow.table(
        {
            name: arrow.array(c).cast(utc) if c.dtype.kind == "M" else arrow.array(c)
            for name, c in columns.items()
        },
    )
    sink = arrow.BufferOutputStream()
    # Without the Arrow schema: it would hold all of the texts a second time.
    with parquet.ParquetWriter(
        sink, table.schema, compression="lz4", use_dictionary=False, store_schema=False
    ) as writer:
        writer.write_table(table)
        marked = {_KEY + name: text for name, text in texts.items()}
        unsigned = (_DIGEST_MARK + _NO_DIGEST).decode()
        writer.add_key_value_metadata({**marked, _KEY + "checksum": unsigned})
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _npz_bytes(columns: Columns, texts: Texts) -> bytes:
    file = io.BytesIO()
    # No column holds objects, so nothing is pickled; NumPy 2.0 cannot be told so.
    np.savez(file, **{**columns, _TEXTS: np.array(json.dumps(dict(texts)))})  # type: ignore[arg-type]
    # In the comment of the zip file, which has no checksum of its own.
    with zipfile.ZipFile(file, "a") as archive:
        archive.comment = _DIGEST_MARK + _NO_DIGEST
    return file.getvalue()


def decode(path: Path) -> tuple[Columns, Texts]:
    """Read a file, and give what `encode` was given.

    Raises
    ------
    ArchiveFileError
        It is not what `encode` made.
    OSError
        It cannot be read.

    """
    data = _read(path)
    place = data.rfind(_DIGEST_MARK) + len(_DIGEST_MARK)
    found = data[place : place + len(_NO_DIGEST)]
    if place < len(_DIGEST_MARK):
        raise ArchiveFileError(path, "no checksum", "a whole file of an archive")
    if found != (expected := _digest(data, place)):
        raise ArchiveFileError(path, f"checksum {found!r}", f"{expected!r}: it is damaged")
    if path.suffix == NPZ:
        with _damage(path):
            return _from_npz(data)
    if _pyarrow() is None:
        raise _NoPyarrowError
    with _damage(path):
        return _from_parquet(data)


def _from_parquet(data: bytes) -> tuple[Columns, Texts]:
    modules = _pyarrow()
    assert modules is not None  # noqa: S101 (for the type checker: `decode` has asked)
    arrow, parquet = modules
    file = parquet.ParquetFile(arrow.BufferReader(data))
    table = file.read(use_threads=False)
    columns = {}
    for name in table.column_names:
        column = table[name]
        whole = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
        if arrow.types.is_timestamp(whole.type):  # as they stand: made by pyarrow it takes longer
            numbers = whole.view(arrow.int64())
            if numbers.null_count:
                numbers = numbers.fill_null(NEVER)
            columns[name] = numbers.to_numpy().view("M8[ms]")
        else:
            columns[name] = whole.to_numpy(zero_copy_only=False)
    marked = {key.decode(): text.decode() for key, text in file.metadata.metadata.items()}
    return columns, {key.removeprefix(_KEY): text for key, text in marked.items()}


def _from_npz(data: bytes) -> tuple[Columns, Texts]:
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        columns = {name: file[name] for name in file.files}
    return columns, json.loads(columns.pop(_TEXTS).item())


def _digest(data: bytes | bytearray, place: int) -> bytes:
    """Take the checksum of a file, with zeros where it stands."""
    with memoryview(data) as whole:
        digest = hashlib.sha256(whole[:place])
        digest.update(_NO_DIGEST)
        digest.update(whole[place + len(_NO_DIGEST) :])
    return digest.hexdigest().encode()


# -- files -----------------------------------------------------------------------------------


def file_stem(symbol: str) -> str:
    """Give the front of a file's name for any symbol, another one for each.

    What is not a letter, a digit or one of ``-_.~^=`` is percent-encoded, and so is a dot in front.
    """
    name = quote(symbol, safe="^=")
    return f"%2E{name[1:]}" if name.startswith(".") else name


def set_aside(path: Path) -> Path:
    """Rename a file so that nobody takes it for a good one; give its new path.

    Raises
    ------
    OSError

    """
    for number in itertools.count(1):
        aside = path.with_name(f"{path.name}{BAD}{number}")
        try:
            aside.lstat()
        except FileNotFoundError:
            return path.rename(aside)
    raise AssertionError  # not reached: there is always a next number


def _new(path: Path) -> Path:
    return path.with_name(path.name + NEW)


def _newest_first(stem: Path) -> list[Path]:
    found = []
    for suffix in (PARQUET, NPZ):
        path = stem.with_name(stem.name + suffix)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            found.append((path.stat().st_mtime_ns, path))
    return [path for _, path in sorted(found, reverse=True)]


def _read(path: Path) -> bytes:
    # Whatever has the name must not keep us waiting, as a pipe would.
    with io.FileIO(path, opener=_opener(os.O_NONBLOCK)) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise ArchiveFileError(path, "no regular file", "one")
        if found.st_size > MAX_NBYTES:
            raise ArchiveFileError(path, f"{found.st_size} bytes", f"at most {MAX_NBYTES}")
        return file.readall()


def _write_new(path: Path, data: bytes) -> None:
    """Write a file under its other name, and force it to disk."""
    opener = _opener(os.O_NOFOLLOW)
    try:
        file = io.FileIO(_new(path), "w", opener=opener)
    except FileNotFoundError:
        _make_folder(path.parent)
        file = io.FileIO(_new(path), "w", opener=opener)
    with file:
        view = memoryview(data)
        while view:
            view = view[os.write(file.fileno(), view) :]
        os.fsync(file.fileno())


def _opener(more: int) -> Callable[[str, int], int]:
    """Open with more flags; what opens so closes the descriptor whatever fails after."""
    return lambda path, flags: os.open(path, flags | more, 0o644)


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it, each forced to disk."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync(folder.parent)


def _sync(folder: Path) -> None:
    """Force the names in a folder to disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
