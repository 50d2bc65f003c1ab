"""The archive's files: what is read is what was written, or it is set aside with its name told."""

from __future__ import annotations

import errno
import os
import random
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet as pq

from quoteshm.market import archive as module
from quoteshm.market.archive import (
    NEVER,
    Archive,
    FormingBars,
    MarketRecord,
    SeriesRecord,
    decode,
    encode,
    file_stem,
    set_aside,
)
from quoteshm.model import DAY_MS, FIELDS, Bars, Ticker

APPLE = Ticker("AAPL", "USD", "America/New_York")
FORMATS = pytest.mark.parametrize("parquet", [True, False], ids=["parquet", "npz"])


def bars(count: int, first_ms: int = 0) -> Bars:
    """Make sound bars."""
    close = 100.0 + np.arange(count)
    ohlcv = np.array([close, close + 1, close - 1, close, close * 1000])
    return Bars(first_ms + DAY_MS * np.arange(count, dtype=np.int64), ohlcv)


def record(count: int = 5, ticker: Ticker = APPLE) -> SeriesRecord:
    """Make the record of a series."""
    return SeriesRecord(ticker, "1d", bars(count), 1_700_000_000_123)


def market(*symbols: str) -> MarketRecord:
    """Make the record of a market."""
    n = len(symbols)
    forming = FormingBars(
        np.where(np.arange(n) % 2 == 0, 5 * DAY_MS, NEVER).astype(np.int64),
        np.arange(5.0 * n).reshape(n, 5),
        np.full(n, 4 * DAY_MS),
    )
    return MarketRecord(
        tickers=tuple(Ticker(symbol, "EUR", "Europe/Berlin") for symbol in symbols),
        ts_ms=np.arange(n) + 10,
        updated_ms=np.arange(n) + 20,
        values=np.append(np.arange(5.0 * n).reshape(n, 5), np.full((n, 1), np.nan), axis=1),
        forming={"1d": forming},
        last_update_ms=77,
    )


def same(a: SeriesRecord, b: SeriesRecord) -> bool:
    """Tell whether two records are one, to the bit."""
    return (
        (a.ticker, a.interval, a.updated_ms) == (b.ticker, b.interval, b.updated_ms)
        and a.bars.time.tobytes() == b.bars.time.tobytes()
        and a.bars.ohlcv.tobytes() == b.bars.ohlcv.tobytes()
    )


def names_in(folder: Path) -> list[str]:
    """Name what is in a folder."""
    return sorted(path.name for path in folder.iterdir())


def make(folder: Path, *, parquet: bool = True) -> Archive:
    """Make an archive."""
    return Archive(folder, "synthetic", "none", parquet=parquet)


# -- what is read is what was written --------------------------------------------------------

prices = st.floats(1e-300, 1e300)


@st.composite
def series(draw: st.DrawFn) -> Bars:
    """Make any sound bars."""
    first = st.integers(-62_135_596_800_000, 253_402_300_799_999)
    times = sorted(draw(st.sets(first, max_size=20)))
    columns = []
    for _ in times:
        low, a, b, high = sorted(draw(st.tuples(prices, prices, prices, prices)))
        columns.append([a, high, low, b, draw(st.floats(0, 1e300))])
    return Bars(np.array(times, np.int64), np.array(columns, np.float64).reshape(-1, 5).T)


symbols = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)


@settings(deadline=None, max_examples=60)
@given(series(), symbols, st.booleans())
def test_a_series_comes_back_as_it_was(some: Bars, symbol: str, parquet: bool) -> None:  # noqa: FBT001 (hypothesis draws it)
    """To the bit, whatever the ticker is called, in a folder that nothing leaves."""
    ticker = Ticker(symbol[:8], "USD", "UTC")
    one = SeriesRecord(ticker, "1d", some, 5)
    with tempfile.TemporaryDirectory() as folder:
        archive = make(Path(folder) / "a", parquet=parquet)
        assert archive.store([one]) == [None]
        loaded = archive.load_series(ticker.symbol, "1d")
        assert loaded.notes == ()
        assert loaded.record is not None
        assert same(loaded.record, one)
        assert names_in(Path(folder)) == ["a"]
        assert archive.path(one).parent == Path(folder) / "a" / "synthetic-none" / "1d"


@FORMATS
@pytest.mark.parametrize("count", [0, 1, 5])
def test_a_market_comes_back_as_it_was(tmp_path: Path, count: int, *, parquet: bool) -> None:
    """Quotes, missing values, forming bars and those that are not there."""
    archive = make(tmp_path, parquet=parquet)
    before = market(*("AAPL", "BRK-B", "Ä", "日本", "^GSPC")[:count])
    assert archive.store([before]) == [None]
    after = archive.load_market().record
    assert after is not None
    assert after.tickers == before.tickers
    assert after.last_update_ms == before.last_update_ms
    for name in ("ts_ms", "updated_ms", "values"):
        assert np.array_equal(
            getattr(after, name), getattr(before, name), equal_nan=name == "values"
        )
    for name in ("time", "ohlcv", "closed_ms"):
        assert np.array_equal(
            getattr(after.forming["1d"], name), getattr(before.forming["1d"], name)
        )


def test_other_tools_read_the_files(tmp_path: Path) -> None:
    """Pandas reads the Parquet, with its times in UTC; NumPy the other, without pickles."""
    one = record()
    for parquet in (True, False):
        make(tmp_path, parquet=parquet).store([one])
    frame = pd.read_parquet(tmp_path / "synthetic-none" / "1d" / "AAPL.parquet")
    assert list(frame.columns) == ["time", *FIELDS]
    assert frame["time"].dtype == pd.DatetimeTZDtype("ms", "UTC")
    assert frame["close"].tolist() == one.bars.field("close").tolist()
    texts = pq.read_metadata(tmp_path / "synthetic-none" / "1d" / "AAPL.parquet").metadata
    assert texts[b"quoteshm.symbol"] == b"AAPL"
    assert texts[b"quoteshm.time_zone"] == b"America/New_York"

    with np.load(tmp_path / "synthetic-none" / "1d" / "AAPL.npz", allow_pickle=False) as file:
        assert file["time"].dtype == np.dtype("M8[ms]")
        assert file["close"].tolist() == one.bars.field("close").tolist()
        assert '"symbol": "AAPL"' in file["texts"].item()


def test_of_two_formats_the_newer_file_is_read(tmp_path: Path) -> None:
    """Whoever loses pyarrow, or gets it, goes on with what there is."""
    old, new = make(tmp_path, parquet=True), make(tmp_path, parquet=False)
    old.store([record(3)])
    new.store([record(4)])
    os.utime(old.path(record()), ns=(1, 1))
    assert len(new.load_series("AAPL", "1d").record.bars) == 4  # type: ignore[union-attr]
    os.utime(old.path(record()))
    os.utime(new.path(record()), ns=(1, 1))
    assert len(new.load_series("AAPL", "1d").record.bars) == 3  # type: ignore[union-attr]


def test_without_pyarrow_a_parquet_file_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told of, and read again once pyarrow is there; new files are NumPy's."""
    archive = Archive(tmp_path, "synthetic", "none")
    archive.store([record()])
    monkeypatch.setattr(module, "_pyarrow", lambda: None)
    assert archive.suffix == ".npz"
    loaded = archive.load_series("AAPL", "1d")
    assert loaded.record is None
    assert [(note.path.name, note.moved_to) for note in loaded.notes] == [("AAPL.parquet", None)]
    monkeypatch.undo()
    assert archive.load_series("AAPL", "1d").record is not None


@pytest.mark.parametrize(
    ("symbol", "stem"),
    [
        ("BRK-B", "BRK-B"),
        ("^GSPC", "^GSPC"),
        ("EURUSD=X", "EURUSD=X"),
        ("0700.HK", "0700.HK"),
        ("../x", "%2E.%2Fx"),
        ("..", "%2E."),
        (".", "%2E"),
        ("a/b", "a%2Fb"),
        ("100%", "100%25"),
        ("Ä\n", "%C3%84%0A"),
    ],
)
def test_a_symbol_is_a_file_name(symbol: str, stem: str) -> None:
    """Readable where it can be, and never a path."""
    assert file_stem(symbol) == stem


@given(symbols, symbols)
def test_two_symbols_are_two_file_names(a: str, b: str) -> None:
    """And each is one that any file system takes."""
    assert (file_stem(a) == file_stem(b)) == (a == b)
    assert "/" not in file_stem(a)
    assert len(file_stem(a[:8])) < 200
    assert file_stem(a).isascii()


# -- what cannot be used ---------------------------------------------------------------------


def expect_set_aside(archive: Archive, path: Path, data: bytes) -> None:
    """Put bytes in a file's place; it is set aside whole, and another ticker is not touched."""
    path.write_bytes(data)
    loaded = archive.load_series("AAPL", "1d")
    assert loaded.record is None
    (note,) = loaded.notes
    assert note.path == path
    assert note.moved_to is not None
    assert note.moved_to.name.startswith(f"{path.name}.bad-")
    assert note.moved_to.read_bytes() == data
    assert not path.exists()
    note.moved_to.unlink()


@FORMATS
def test_a_file_that_was_cut_off_is_set_aside_wherever_it_was_cut(
    tmp_path: Path, *, parquet: bool
) -> None:
    """Each length is tried; the other ticker's file loads."""
    archive = make(tmp_path, parquet=parquet)
    archive.store([record(2), record(2, Ticker("MSFT"))])
    path = archive.path(record())
    whole = path.read_bytes()
    for length in range(len(whole)):
        expect_set_aside(archive, path, whole[:length])
    assert archive.load_series("MSFT", "1d").record is not None


@FORMATS
def test_one_bit_is_enough_to_set_a_file_aside(tmp_path: Path, *, parquet: bool) -> None:
    """Wherever it is: no byte is without the checksum, and none is parsed before it."""
    archive = make(tmp_path, parquet=parquet)
    archive.store([record(2)])
    path = archive.path(record())
    whole = path.read_bytes()
    rng = random.Random(1)  # noqa: S311 (no secret)
    for place in range(0, len(whole), 2):
        data = bytearray(whole)
        data[place] ^= 1 << rng.randrange(8)
        expect_set_aside(archive, path, bytes(data))


@FORMATS
@settings(deadline=None, max_examples=50)
@given(data=st.binary(max_size=300))
def test_any_bytes_are_set_aside(data: bytes, *, parquet: bool) -> None:
    """They may be anybody's."""
    with tempfile.TemporaryDirectory() as folder:
        archive = make(Path(folder), parquet=parquet)
        archive.store([record(1)])
        expect_set_aside(archive, archive.path(record()), data)


def rewritten(path: Path, **texts: str) -> bytes:
    """Give a file with other texts, and with a checksum that is right."""
    columns, before = decode(path)
    return encode(columns, {**before, **texts}, parquet=path.suffix == ".parquet")


@FORMATS
@pytest.mark.parametrize(
    "text",
    [
        {"format": "2"},
        {"source": "yahoo"},
        {"adjustment": "all"},
        {"symbol": "MSFT"},
        {"interval": "1m"},
        {"content": "quotes"},
        {"updated_ms": "yesterday"},
    ],
)
def test_a_file_of_something_else_is_set_aside(
    tmp_path: Path, text: dict[str, str], *, parquet: bool
) -> None:
    """Another version, source, adjustment, ticker, interval."""
    archive = make(tmp_path, parquet=parquet)
    archive.store([record()])
    path = archive.path(record())
    expect_set_aside(archive, path, rewritten(path, **text))


@FORMATS
def test_bars_that_break_a_rule_are_set_aside(tmp_path: Path, *, parquet: bool) -> None:
    """Times that do not increase, prices that are none, columns that are not there."""
    archive = make(tmp_path, parquet=parquet)
    archive.store([record()])
    path = archive.path(record())
    columns, texts = decode(path)
    nan = {**columns, "open": np.full(5, np.nan)}
    backwards = {**columns, "time": columns["time"][::-1].copy()}
    short = {name: column for name, column in columns.items() if name != "low"}
    counted = {**columns, "time": np.arange(5.0)}
    for bad in (nan, backwards, short, counted):
        expect_set_aside(archive, path, encode(bad, texts, parquet=parquet))


@FORMATS
def test_a_market_that_does_not_fit_together_is_set_aside(tmp_path: Path, *, parquet: bool) -> None:
    """A ticker that is there twice."""
    archive = make(tmp_path, parquet=parquet)
    archive.store([market("A", "A")])
    loaded = archive.load_market()
    assert loaded.record is None
    assert loaded.notes[0].moved_to is not None


def test_what_is_set_aside_is_never_overwritten(tmp_path: Path) -> None:
    """Each gets a number of its own."""
    names = []
    for text in ("a", "b", "c"):
        (tmp_path / "x").write_text(text)
        names.append(set_aside(tmp_path / "x").name)
    assert names == ["x.bad-1", "x.bad-2", "x.bad-3"]
    assert [(tmp_path / name).read_text() for name in names] == ["a", "b", "c"]


def test_a_name_that_may_be_taken_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the disk does not say what is there, the bad file stays."""
    archive = make(tmp_path)
    path = archive.path(record())
    path.parent.mkdir(parents=True)
    path.write_bytes(b"bad")
    (path.parent / f"{path.name}.bad-1").write_bytes(b"before")

    def lstat(_path: Path) -> os.stat_result:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "lstat", lstat)
    (note,) = archive.load_series("AAPL", "1d").notes
    monkeypatch.undo()
    assert note.moved_to is None
    assert os.strerror(errno.EIO) in note.why
    assert path.read_bytes() == b"bad"
    assert (path.parent / f"{path.name}.bad-1").read_bytes() == b"before"


def test_an_older_file_is_not_taken_where_the_newer_one_cannot_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is loaded then, and it is told why."""
    make(tmp_path, parquet=False).store([record(3)])
    archive = make(tmp_path)
    archive.store([record(5)])
    real = Path.stat

    def stat(path: Path, **options: Any) -> os.stat_result:
        if path.suffix == ".parquet":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return real(path, **options)

    monkeypatch.setattr(Path, "stat", stat)
    found = archive.load_series("AAPL", "1d")
    monkeypatch.undo()
    assert found.record is None
    assert found.notes == ((archive.path(record()), os.strerror(errno.EIO), None),)
    whole = archive.load_series("AAPL", "1d").record
    assert whole is not None
    assert same(whole, record(5))


def test_what_is_no_file_is_no_reason_to_wait(tmp_path: Path) -> None:
    """A pipe, a folder, a file without end: told of, not read."""
    archive = make(tmp_path)
    archive.store([record()])
    path = archive.path(record())
    path.unlink()
    os.mkfifo(path)
    assert archive.load_series("AAPL", "1d").notes[0].moved_to is not None
    with path.open("wb") as file:
        file.truncate(module.MAX_NBYTES + 1)
    assert "bytes" in archive.load_series("AAPL", "1d").notes[0].why
    path.mkdir()
    (note,) = archive.load_series("AAPL", "1d").notes
    assert note.why
    assert archive.store([record()])[0] is not None or not path.is_dir()


# -- disks that do not do what they should ---------------------------------------------------


def test_a_disk_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever call fails, and why; nothing half-made stays, and the next attempt works."""
    archive = make(tmp_path)
    old, new = record(3), record(4)
    archive.store([old])

    for name in ("write", "fsync", "open"):
        for number in (errno.ENOSPC, errno.EIO, errno.EMFILE):

            def fail(*_: Any, number: int = number, **__: Any) -> Any:
                raise OSError(number, os.strerror(number))

            with monkeypatch.context() as patch:
                patch.setattr(os, name, fail)
                (problem,) = archive.store([new])
            assert problem is not None
            assert problem.errno == number
            loaded = archive.load_series("AAPL", "1d").record
            assert loaded is not None
            # Once a file has its name, only its folder is not forced to disk.
            assert len(loaded.bars) in ((3, 4) if name == "fsync" else (3,))
            assert names_in(archive.path(old).parent) == ["AAPL.parquet"]
    assert archive.store([new]) == [None]


def test_no_memory_for_a_file_is_no_reason_to_set_it_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told of, and costs no other file."""
    archive = make(tmp_path)
    archive.store([record()])

    def fail(_data: bytes) -> Any:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(module, "_from_parquet", fail)
        assert archive.load_series("AAPL", "1d") == (
            None,
            ((archive.path(record()), "no memory to read it", None),),
        )
    assert archive.load_series("AAPL", "1d").record is not None


def test_a_file_that_cannot_be_written_harms_no_other(tmp_path: Path) -> None:
    """Each record says for itself how it went."""
    archive = make(tmp_path)
    archive.path(record()).mkdir(parents=True)
    problems = archive.store([record(), record(2, Ticker("MSFT"))])
    assert isinstance(problems[0], IsADirectoryError)
    assert problems[1] is None
    assert archive.load_series("MSFT", "1d").record is not None


def test_a_write_in_pieces_is_a_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system may take fewer bytes than it is given."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data[:100])))
    archive = make(tmp_path)
    assert archive.store([record()]) == [None]
    assert archive.load_series("AAPL", "1d").record is not None


def test_what_a_dead_writer_left_is_reclaimed(tmp_path: Path) -> None:
    """The half-made file of its name is in nobody's way."""
    archive = make(tmp_path)
    path = archive.path(record())
    path.parent.mkdir(parents=True)
    path.with_name(path.name + ".new").write_bytes(b"x" * 1_000_000)
    assert archive.load_series("AAPL", "1d") == (None, ())
    assert archive.store([record()]) == [None]
    assert names_in(path.parent) == ["AAPL.parquet"]
    assert same(archive.load_series("AAPL", "1d").record or replace(record()), record())
