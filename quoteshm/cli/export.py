"""``quoteshm export``: bars of many tickers out of the live segment, into one file.

A ticker at a time is read and written, so that a whole market need not fit into memory. A file is
written under another name and renamed once it is whole.
"""

from __future__ import annotations

import contextlib
import csv
import enum
import io
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Protocol

import click
import pandas as pd

from quoteshm.errors import UnknownTickerError
from quoteshm.model import FIELDS

if TYPE_CHECKING:
    from quoteshm.shm.reader import StockDataReader

CSV_FIELDS: Final = ("ticker", "time_ms", "time", *FIELDS)
STANDARD_OUTPUT: Final = "-"


class Kind(enum.StrEnum):
    """What is written."""

    CSV = "csv"
    PARQUET = "parquet"
    ARROW = "arrow"

    @classmethod
    def of(cls, forced: str | None, output: str) -> Kind:
        """Give what was asked for, or what the file's name ends with, or CSV."""
        if forced is not None:
            return cls(forced)
        ending = Path(output).suffix.removeprefix(".").lower()
        return {"parquet": cls.PARQUET, "arrow": cls.ARROW, "feather": cls.ARROW}.get(
            ending, cls.CSV
        )


class _Sink(Protocol):
    def add(self, ticker: str, frame: pd.DataFrame) -> None:
        """Write the bars of a ticker."""

    def close(self) -> None:
        """Write what comes last."""


def export(
    reader: StockDataReader,
    tickers: Iterable[str],
    interval: str | None,
    kind: Kind,
    output: str,
) -> list[UnknownTickerError]:
    """Write the bars of tickers, in their order; give those that are not there.

    Raises
    ------
    click.ClickException
        There is no pyarrow for what takes it, the output is a terminal that cannot show it, or a
        file that cannot be written.
    UnknownIntervalError

    """
    open_sink = _csv_sink if kind is Kind.CSV else _arrow_sink(kind, reader)
    missing: list[UnknownTickerError] = []
    # Before anything is written: an interval that is not there is no reason for an empty file.
    frames = _frames(reader, tickers, interval, missing)
    first = next(frames, None)
    with _opened(output, kind) as file:
        sink = open_sink(file)
        if first is not None:
            sink.add(*first)
        for ticker, frame in frames:
            sink.add(ticker, frame)
        sink.close()
    return missing


def _frames(
    reader: StockDataReader,
    tickers: Iterable[str],
    interval: str | None,
    missing: list[UnknownTickerError],
) -> Iterator[tuple[str, pd.DataFrame]]:
    for ticker in tickers:
        try:
            frame = reader.get_stock(ticker, interval)
        except UnknownTickerError as error:
            missing.append(error)
        else:
            yield ticker, frame


# -- formats ---------------------------------------------------------------------------------


class _Csv:
    def __init__(self, file: IO[bytes]) -> None:
        self._text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=False)
        self._writer = csv.writer(self._text, lineterminator="\n")
        self._writer.writerow(CSV_FIELDS)

    def add(self, ticker: str, frame: pd.DataFrame) -> None:
        """Write a line a bar; times are the exchange's."""
        index = pd.DatetimeIndex(frame.index).as_unit("ms")
        self._writer.writerows(
            zip(
                [ticker] * len(index),
                index.asi8.tolist(),
                (moment.isoformat() for moment in index),
                *(frame[name].tolist() for name in frame.columns),
                strict=True,
            ),
        )

    def close(self) -> None:
        """Write what is buffered, and leave the file to its owner."""
        self._text.flush()
        self._text.detach()


_csv_sink: Callable[[IO[bytes]], _Sink] = _Csv


def _arrow_sink(kind: Kind, reader: StockDataReader) -> Callable[[IO[bytes]], _Sink]:
    try:
        import pyarrow as pa  # noqa: PLC0415 (an extra)
        from pyarrow import parquet  # noqa: PLC0415 (the same)
    except ImportError:
        message = f"--format {kind} takes pyarrow: pip install 'quoteshm[parquet]'"
        raise click.UsageError(message) from None
    info = reader.info
    columns = [("ticker", pa.string()), ("time", pa.timestamp("ms", "UTC"))]
    columns += [(name, pa.float64()) for name in FIELDS]
    texts = {"source": info.source, "adjustment": info.adjustment}
    schema = pa.schema(columns, {f"quoteshm.{name}": text for name, text in texts.items()})

    class _Arrow:
        def __init__(self, file: IO[bytes]) -> None:
            self._writer: Any
            if kind is Kind.PARQUET:
                self._writer = parquet.ParquetWriter(file, schema)
            else:
                self._writer = pa.ipc.new_file(file, schema)

        def add(self, ticker: str, frame: pd.DataFrame) -> None:
            """Write a row group, or a record batch; times are UTC."""
            index = pd.DatetimeIndex(frame.index).as_unit("ms")
            time = pa.array(index.asi8).cast(schema.field("time").type)
            values = [pa.array(frame[name].to_numpy()) for name in frame.columns]
            names = pa.array([ticker] * len(index), pa.string())
            self._writer.write_batch(pa.record_batch([names, time, *values], schema=schema))

        def close(self) -> None:
            """Write the end of the file."""
            self._writer.close()

    return _Arrow


# -- output ----------------------------------------------------------------------------------


@contextlib.contextmanager
def _opened(output: str, kind: Kind) -> Iterator[IO[bytes]]:
    """Open the output; a file is there when it is whole."""
    if output == STANDARD_OUTPUT:
        if kind is not Kind.CSV and sys.stdout.isatty():
            raise click.UsageError(f"found a terminal, expected a file or a pipe for {kind}")
        sys.stdout.flush()
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    try:
        with _file(Path(output)) as file:
            yield file
    except OSError as error:  # not one of standard output, which has an end of its own
        raise click.ClickException(f"{output}: {error.strerror}") from None


@contextlib.contextmanager
def _file(path: Path) -> Iterator[IO[bytes]]:
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):
        with path.open("wb") as file:  # a device or a pipe keeps its place
            yield file
        return
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
