"""Tests of the export: what is written, and that it is whole or not there."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet as pq

from quoteshm import cli
from quoteshm.cli.export import Kind
from quoteshm.model import DAY_MS
from tests.published import FIRST_MS, Market

FIELDS = ["ticker", "time_ms", "time", "open", "high", "low", "close", "volume"]
TIMES = [FIRST_MS, FIRST_MS + DAY_MS, FIRST_MS + 2 * DAY_MS]


@pytest.fixture
def market(tmp_path: Path) -> Iterator[Market]:
    """Publish a small market in a file."""
    folder = tmp_path / "shm"
    folder.mkdir()
    market = Market(folder)
    market.history("MSFT", [370.0])
    yield market
    market.writer.close()


@pytest.fixture
def where(market: Market) -> tuple[str, ...]:
    """Name the market's segment."""
    assert market.writer.path is not None
    return ("--shm-name", market.writer.path.name, "--shm-dir", str(market.writer.path.parent))


def test_csv_is_what_comes_of_itself(
    where: tuple[str, ...], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """A line a bar, in the order asked for, with the exchange's time."""
    assert cli.run(["export", "MSFT", "AAPL", "MSFT", *where]) == 0
    out, err = capfdbinary.readouterr()
    rows = list(csv.DictReader(io.StringIO(out.decode())))
    assert list(rows[0]) == FIELDS
    assert [row["ticker"] for row in rows] == ["MSFT", "AAPL", "AAPL", "AAPL"]
    assert [int(row["time_ms"]) for row in rows[1:]] == TIMES
    assert rows[1]["time"] == "2023-11-12T00:00:00-05:00"
    assert [float(row["close"]) for row in rows[1:]] == [188.0, 190.5, 189.5]
    assert err == b""


@pytest.mark.parametrize("kind", ["parquet", "arrow", "csv"])
def test_every_ticker_goes_into_one_file(where: tuple[str, ...], tmp_path: Path, kind: str) -> None:
    """Pandas, or Arrow, reads it; its name says what it is."""
    path = tmp_path / f"all.{kind}"
    assert cli.run(["export", "--all", "-o", str(path), *where]) == 0
    if kind == "csv":
        frame = pd.read_csv(path)
        assert frame["time_ms"].tolist()[:3] == TIMES
    else:
        table = pq.read_table(path) if kind == "parquet" else pa.ipc.open_file(path).read_all()
        assert table.schema.field("time").type == pa.timestamp("ms", "UTC")
        assert table.schema.metadata[b"quoteshm.source"] == b"synthetic"
        frame = table.to_pandas()
        assert frame["time"].dt.as_unit("ms").astype("int64").tolist()[:3] == TIMES
    assert frame["ticker"].tolist() == ["AAPL"] * 3 + ["MSFT"]
    assert frame["close"].tolist() == [188.0, 190.5, 189.5, 370.0]
    assert list(tmp_path.glob("*.part")) == []


def test_parquet_goes_into_a_pipe(
    where: tuple[str, ...], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """With nothing before or behind it."""
    assert cli.run(["export", "AAPL", "--format", "parquet", *where]) == 0
    out, _ = capfdbinary.readouterr()
    assert pq.read_table(pa.BufferReader(out)).num_rows == 3


def test_an_unknown_ticker_leaves_the_others_alone(
    where: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is named, and the status says so; one without bars has none."""
    path = tmp_path / "some.csv"
    assert cli.run(["export", "NOPE", "AAPL", "NEWCO", "-o", str(path), *where]) == 1
    assert capsys.readouterr().err == "quoteshm: unknown ticker, or no value yet: NOPE\n"
    assert set(pd.read_csv(path)["ticker"]) == {"AAPL"}


@pytest.mark.parametrize(
    ("argv", "status", "said"),
    [
        ((), 2, "neither TICKER nor --all"),
        (("AAPL", "--all"), 2, "both TICKER and --all"),
        (("AAPL", "--format", "xlsx"), 2, "--format"),
        (("AAPL", "--interval", "7m"), 1, "unknown interval: 7m, known are 1d, 1m"),
        (("AAPL", "-o", "/nonexistent/x"), 1, "No such file"),
    ],
)
def test_what_cannot_be_is_one_line(
    where: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    argv: tuple[str, ...],
    status: int,
    said: str,
) -> None:
    """And nothing is written."""
    assert cli.run(["export", *argv, *where]) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.count("\n") == 1


def test_a_file_that_was_there_stays_until_the_new_one_is_whole(
    where: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fills in the middle leaves it as it was."""
    path = tmp_path / "bars.csv"
    path.write_text("old")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("quoteshm.cli.export._Csv.add", full)
        assert cli.run(["export", "AAPL", "-o", str(path), *where]) == 1
    assert path.read_text() == "old"
    assert list(tmp_path.glob("*.part")) == []
    assert cli.run(["export", "AAPL", "-o", str(path), *where]) == 0
    assert path.read_text().startswith("ticker,")


def test_a_device_keeps_its_place(where: tuple[str, ...]) -> None:
    """It is written to, and not replaced."""
    assert cli.run(["export", "AAPL", "-o", "/dev/null", *where]) == 0
    assert Path("/dev/null").is_char_device()


def test_without_pyarrow_there_is_csv(
    where: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What takes it says how to get it."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    path = tmp_path / "x"
    assert cli.run(["export", "AAPL", "-o", f"{path}.parquet", *where]) == 2
    assert "pip install 'quoteshm[parquet]'" in capsys.readouterr().err
    assert cli.run(["export", "AAPL", "-o", f"{path}.csv", *where]) == 0


def test_the_format_is_what_the_name_ends_with() -> None:
    """Unless it is said."""
    assert Kind.of(None, "-") is Kind.CSV
    assert Kind.of(None, "a.PARQUET") is Kind.PARQUET
    assert Kind.of(None, "a.feather") is Kind.ARROW
    assert Kind.of("csv", "a.parquet") is Kind.CSV
