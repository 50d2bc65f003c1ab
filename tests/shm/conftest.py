"""Segments that are cleaned up, however a test goes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any

import pytest

from quoteshm.model import Ticker
from tests.shm.helpers import Market

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
