"""Segments that are cleaned up, however a test goes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any

import pytest

from quoteshm.model import Ticker
from quoteshm.shm.reader import StockDataReader
from tests.shm.helpers import AAPL, IBM, SONY, Market, at, make_bars, make_quotes, tick
from tests.small_disk import NoMountError
from tests.small_disk import small_disk as small

MakeMarket = Callable[..., Market]


@pytest.fixture
def make_market(tmp_path: Path) -> Generator[MakeMarket]:
    """Make markets in the test's own folder."""
    made: list[Market] = []

    def make(tickers: Iterable[Ticker] = (), directory: Path = tmp_path, **changes: Any) -> Market:
        made.append(Market(directory, tickers, **changes))
        return made[-1]

    yield make
    for market in made:
        market.stop()


@pytest.fixture
def market(make_market: MakeMarket) -> Market:
    """Make a market of three tickers with quotes and no bars."""
    return make_market([AAPL, IBM, SONY])


@pytest.fixture
def reader(market: Market) -> StockDataReader:
    """Attach a reader to the test's market."""
    return market.reader()


@pytest.fixture
def kept(make_market: MakeMarket) -> Path:
    """Leave a good segment, with history in it, behind a writer that has died."""
    market = make_market([AAPL, IBM, SONY])
    market.replace_bars(0, make_bars(0, 8))
    market.publish(ticks=[tick(slice(0, 3), 9, 50.0)])
    market.publish(ticks=[tick(slice(0, 3), 10, 51.0)], quotes=[make_quotes(at(1), 5.0)])
    market.die()
    return market.path


@pytest.fixture
def small_disk(tmp_path: Path) -> Generator[Path]:
    """Mount a tmpfs of one megabyte."""
    try:
        with small(tmp_path / "full") as place:
            yield place
    except NoMountError as error:
        pytest.skip(str(error))
