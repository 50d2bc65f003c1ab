"""Real daily bars of five tickers, 2000 to 2013, out of `bokeh_sampledata` (public domain)."""

from __future__ import annotations

import csv
import functools
import gzip
import importlib.metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from quoteshm.model import Bars

if TYPE_CHECKING:
    from collections.abc import Iterable

TICKERS: Final = ("AAPL", "FB", "GOOG", "IBM", "MSFT")

_FILE: Final = "stocks.csv.gz"
HEADER: Final = ("Date", "Open", "High", "Low", "Close", "Volume", "Adj Close")


@functools.cache
def rows() -> dict[str, list[dict[str, str]]]:
    """Give the lines of each ticker, as the file has them; without importing bokeh."""
    files = importlib.metadata.files("bokeh_sampledata") or []
    (path,) = (file for file in files if file.name == _FILE)
    by_ticker: dict[str, list[dict[str, str]]] = {}
    with gzip.open(Path(str(path.locate())), "rt", newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            by_ticker.setdefault(row["Ticker"], []).append(row)
    return by_ticker


def bars(ticker: str) -> Bars:
    """Give the bars of a ticker, converted the plain way: midnight UTC, unadjusted."""
    lines = rows()[ticker]
    time = np.array([row["Date"] for row in lines], "M8[D]").astype("M8[ms]").astype(np.int64)
    columns = [[float(row[name]) for row in lines] for name in HEADER[1:6]]
    return Bars(time, np.array(columns))


def adjusted_closes(ticker: str) -> list[float]:
    """Give the closes adjusted for splits and dividends."""
    return [float(row["Adj Close"]) for row in rows()[ticker]]


def write_csv(folder: Path, tickers: Iterable[str] = TICKERS) -> None:
    """Write one CSV file a ticker, in the order of the source, its text untouched."""
    for ticker in tickers:
        with (folder / f"{ticker}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, HEADER, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows()[ticker])
