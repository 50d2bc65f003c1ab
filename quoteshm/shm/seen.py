"""What batches said last: a market says the same of the same rows again and again.

It spares a commit looking at what is known. What is kept, and given, is a copy: what a caller makes
of its own array after a commit must not change what the next one brings up to date.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from quoteshm.errors import BatchError
from quoteshm.shm import table

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quoteshm.shm.batch import Rows, Ticks
    from quoteshm.shm.plan import SeriesPlan


class Seen:
    """What is known of the rows that batches name, while tickers are only ever added.

    Each thing known is set in one store: an exception never parts what belongs together.
    """

    def __init__(self) -> None:
        self._named: tuple[NDArray[np.intp], Rows] = np.empty(0, np.intp), slice(0, 0)
        self._forming: dict[int, tuple[Rows, NDArray[np.int64]]] = {}  # by kind

    def is_forming(self, kind: int, ticks: Ticks) -> bool:
        """Tell whether all these bars are known to be the forming ones of their rows.

        They may be so where this does not know it.
        """
        known = self._forming.get(kind)
        if known is None:
            return False
        rows, time = known
        return table.same(rows, ticks.rows) and table.equal(time, ticks.time)

    def learn(self, kind: int, plan: SeriesPlan) -> None:
        """Take note of a plan that is in force now."""
        if not plan.rows:
            return
        ticks, known = plan.forming, self._forming.get(kind)
        if all(one.is_tick for one in plan.rows):  # what is known holds on
            if ticks is None or (known is not None and table.same(known[0], ticks.rows)):
                return
        elif ticks is None:
            self._forming.pop(kind, None)
            return
        if ticks is not None:
            self._forming[kind] = ticks.rows, ticks.time.copy()

    def checked(self, rows: Rows, count: int) -> Rows:
        """Give the same rows, a slice where they are in a row.

        Raises
        ------
        BatchError
            They are not distinct, or not within 0 to ``count``.

        """
        if isinstance(rows, slice):
            start, stop = rows.start or 0, -1 if rows.stop is None else rows.stop
            if not (rows.step is None and 0 <= start <= stop <= count):
                raise BatchError(f"rows {rows}: expected a plain slice within 0 to {count}")
            return slice(start, stop)
        if not isinstance(rows, np.ndarray) or rows.dtype != np.intp or rows.ndim != 1:
            raise BatchError(f"rows {rows!r:.80}: expected a slice, or intp numbers")
        given, known = self._named
        if not table.equal(rows, given):
            known = _looked_at(rows, count)
            self._named = rows.copy(), known
        return known


def _looked_at(rows: NDArray[np.intp], count: int) -> Rows:
    n = len(rows)
    if n and not 0 <= rows.min() <= rows.max() < count:
        raise BatchError(f"rows {rows.min()} to {rows.max()}: expected 0 to {count - 1}")
    if n and rows[-1] - rows[0] == n - 1 and (rows[1:] > rows[:-1]).all():
        return slice(int(rows[0]), int(rows[0]) + n)
    if not _distinct(rows):
        raise BatchError("rows: found one given twice, expected distinct ones")
    return rows.copy()


def _distinct(rows: NDArray[np.intp]) -> bool:
    """Tell whether no row is given twice, at a cost that follows how many are given."""
    if len(rows) <= 1:
        return True
    if rows.max() < 64 * len(rows):  # counting is much faster than sorting where rows are dense
        return int(np.bincount(rows).max()) == 1
    return len(np.unique(rows)) == len(rows)
