"""The tickers of a segment in the order of their symbols, sorted once for each count of them.

Rows are only ever appended, so what was sorted for a count stays true of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pandas.api.extensions import ExtensionArray

    from quoteshm.model import Ticker

#: What pandas takes a list of text for, which it cannot tell of an empty one.
_TEXT: Final = pd.Series([""]).dtype


class Listing:
    """Some tickers, sorted: what tables of them have in common. Nobody may change it.

    Attributes
    ----------
    rows : ndarray of intp, shape (n,)
        Their row numbers.
    symbols, currencies : list of str
        Of each.

    """

    def __init__(self, rows: NDArray[np.intp], symbols: list[str], currencies: list[str]) -> None:
        self.rows, self.symbols, self.currencies = rows, symbols, currencies
        # Made when the first frame asks for them: set in one go, so that threads share them.
        self._columns: tuple[pd.Index[str], ExtensionArray | NDArray[np.object_]] | None = None

    @classmethod
    def of(cls, tickers: Sequence[Ticker]) -> Listing:
        """Sort the tickers of the rows from 0 on."""
        order = sorted(range(len(tickers)), key=[ticker.symbol for ticker in tickers].__getitem__)
        return cls(
            np.array(order, np.intp),
            [tickers[row].symbol for row in order],
            [tickers[row].currency for row in order],
        )

    def those(self, present: NDArray[np.bool_]) -> Listing:
        """Give those whose rows are present: itself, if all are."""
        kept = present[self.rows]
        if kept.all():
            return self
        places = np.flatnonzero(kept)
        chosen = places.tolist()
        return Listing(
            self.rows[places],
            [self.symbols[place] for place in chosen],
            [self.currencies[place] for place in chosen],
        )

    @property
    def columns(self) -> tuple[pd.Index[str], ExtensionArray | NDArray[np.object_]]:
        """The symbols as an index, and the currencies as pandas keeps a column of text."""
        if (columns := self._columns) is None:
            symbols = np.array(self.symbols, object)
            symbols.flags.writeable = False  # the index of each frame stands on it
            index = pd.Index(symbols, name="ticker", dtype=object, copy=False)
            columns = self._columns = index, pd.Series(self.currencies, dtype=_TEXT).array
        return columns[0].view(), columns[1]  # a name given to a frame's index is of that frame


class Listings:
    """The tickers that are known, by row number, and their order."""

    def __init__(self) -> None:
        self.tickers: list[Ticker] = []
        self._sorted: tuple[int, Listing] = (0, Listing.of(()))

    def listing(self, count: int) -> Listing:
        """Give the tickers of so many rows, sorted."""
        known, listing = self._sorted
        if known != count:
            listing = Listing.of(self.tickers[:count])
            self._sorted = count, listing  # in one go: threads share it
        return listing
