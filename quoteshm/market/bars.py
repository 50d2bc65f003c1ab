"""OHLCV bars: what may be published, and what of an answer is new.

`validate` turns what a source gave into bars that can be trusted; `merge` compares them with what
is published and says which `History` the writer is to be given. Both are pure and work on whole
columns, without a loop over bars.

The rules for one bar:

- its time is within the years 1 to 9999 (a time in the wrong unit is not);
- its four prices are finite (negative ones exist: futures, spreads);
- high and low hold open and close. What misses by less than `ROUNDING` of the price is not a bad
  bar but an adjusted one (each field multiplied and rounded for itself): high and low are then
  stretched to hold the two;
- its volume is finite and not negative. A volume that is not known (NaN: indices, currencies) is
  0, as the vendors themselves write it.

What fails is left out, so the last row of a vendor's answer that has no prices yet is never
published. Of bars with the same time the last one counts; volumes are exact up to 2**53.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from quoteshm.model import Bars
from quoteshm.shm.batch import History

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

#: Years 1 to 9999: what a calendar can show.
FIRST_MS: Final = -62_135_596_800_000
LAST_MS: Final = 253_402_300_799_999

#: How far, of a price, high and low may miss open and close and still be rounded float32 values.
ROUNDING: Final = 1e-6

INFINITY: Final = float("inf")
_PRICES: Final = 4  # the fields before the volume


class Flaw(enum.StrEnum):
    """What can be wrong with a bar."""

    BAD_TIME = "time out of range"
    BAD_PRICE = "price not finite"
    BAD_RANGE = "high and low do not hold open and close"
    BAD_VOLUME = "volume negative or infinite"
    DUPLICATE = "time given more than once"
    UNSORTED = "not in order of time"
    ROUNDED = "high or low short by rounding"
    NO_VOLUME = "volume unknown"

    @property
    def is_repaired(self) -> bool:
        """Whether the bar was kept nevertheless: put in order, stretched, its volume 0."""
        return self in _REPAIRED


_REPAIRED: Final = frozenset({Flaw.UNSORTED, Flaw.ROUNDED, Flaw.NO_VOLUME})


@dataclass(frozen=True, slots=True)
class Problem:
    """What was wrong with bars that a source gave."""

    flaw: Flaw
    count: int
    time_ms: int  # of the first of them, in the order given


def sound(time: NDArray[np.int64], ohlcv: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell which bars keep every rule as they stand, each looked at alone.

    Parameters
    ----------
    time : ndarray of int64, shape (n,)
        Milliseconds UTC, in any order.
    ohlcv : ndarray of float64, shape (5, n)
        For the ticks of many tickers, the transpose of theirs.

    Returns
    -------
    ndarray of bool, shape (n,)

    """
    open_, high, low, close, volume = ohlcv
    # A comparison with NaN is false, so four of them hold finite prices and volumes in one go.
    good: NDArray[np.bool_] = high >= np.maximum(open_, close)
    good &= low <= np.minimum(open_, close)
    good &= high < np.inf
    good &= low > -np.inf
    good &= volume >= 0
    good &= volume < np.inf
    good &= time >= FIRST_MS
    good &= time <= LAST_MS
    return good


def is_sound(time_ms: int, bar: Sequence[float]) -> bool:
    """Tell the same of one bar, of plain numbers: its time, and its five values."""
    open_, high, low, close, volume = bar
    return (
        low <= open_ <= high  # with NaN none of these holds
        and low <= close <= high
        and low > -INFINITY
        and high < INFINITY
        and 0 <= volume < INFINITY
        and FIRST_MS <= time_ms <= LAST_MS
    )


def validate(
    time: NDArray[np.int64],
    ohlcv: NDArray[np.float64],
) -> tuple[Bars, tuple[Problem, ...]]:
    """Give the bars that can be published, and what was wrong with the others.

    Parameters
    ----------
    time : ndarray of int64, shape (n,)
        Start of each bar, milliseconds UTC, in any order.
    ohlcv : ndarray of float64, shape (5, n)
        Open, high, low, close, volume. Neither array is written to.

    Returns
    -------
    bars : Bars
        Sorted by time, each time once; the given arrays themselves where nothing was wrong.
    problems : tuple of Problem
        At most one for each flaw.

    Raises
    ------
    ValueError
        For arrays whose shapes do not fit: a fault of the program, not of the data.

    """
    if time.ndim != 1 or ohlcv.shape != (5, len(time)):
        message = f"found time {time.shape} and ohlcv {ohlcv.shape}, expected (n,) and (5, n)"
        raise ValueError(message)
    ascending = bool((time[1:] > time[:-1]).all())
    if ascending and sound(time, ohlcv).all():
        return Bars(time, ohlcv), ()
    return _mend(time, ohlcv)


def _mend(
    time: NDArray[np.int64],
    ohlcv: NDArray[np.float64],
) -> tuple[Bars, tuple[Problem, ...]]:
    """Do what `validate` says for bars that are not all good."""
    problems: list[Problem] = []
    keep = np.ones(len(time), np.bool_)

    def note(flaw: Flaw, bad: NDArray[np.bool_]) -> None:
        if bad.any():
            problems.append(Problem(flaw, int(np.count_nonzero(bad)), int(time[bad.argmax()])))

    def drop(flaw: Flaw, bad: NDArray[np.bool_]) -> None:
        bad = bad & keep
        note(flaw, bad)
        np.logical_and(keep, ~bad, out=keep)

    drop(Flaw.BAD_TIME, (time < FIRST_MS) | (time > LAST_MS))
    drop(Flaw.BAD_PRICE, np.isfinite(ohlcv[:_PRICES]).sum(axis=0) < _PRICES)
    drop(Flaw.BAD_VOLUME, (ohlcv[4] < 0) | np.isinf(ohlcv[4]))

    ohlcv = ohlcv.copy()
    open_, high, low, close, volume = ohlcv
    body_high, body_low = np.maximum(open_, close), np.minimum(open_, close)
    short = keep & ((high < body_high) | (low > body_low))
    slack = ROUNDING * np.maximum(np.abs(body_high), np.abs(body_low))
    with np.errstate(all="ignore"):  # bars already dropped may hold anything
        far = (body_high - high > slack) | (low - body_low > slack)
    drop(Flaw.BAD_RANGE, short & far)
    note(Flaw.ROUNDED, short & keep)
    np.copyto(high, body_high, where=short & (body_high > high))
    np.copyto(low, body_low, where=short & (body_low < low))

    unknown = np.isnan(volume) & keep
    note(Flaw.NO_VOLUME, unknown)
    volume[unknown] = 0.0

    kept = time[keep]
    backwards = kept[1:] < kept[:-1]
    if backwards.any():
        first = int(kept[1:][backwards.argmax()])
        problems.append(Problem(Flaw.UNSORTED, int(np.count_nonzero(backwards)), first))
    order = np.flatnonzero(keep)[np.argsort(kept, kind="stable")]
    ordered = time[order]
    # Stable: the last of those with the same time is the last one given.
    again = ordered[1:] == ordered[:-1]
    if again.any():
        first = int(ordered[1:][again.argmax()])
        problems.append(Problem(Flaw.DUPLICATE, int(np.count_nonzero(again)), first))
        order = order[np.append(~again, True)]
    return Bars(time[order], ohlcv[:, order]), tuple(problems)


class Action(enum.Enum):
    """What is to be published of a series."""

    NOTHING = "nothing"
    EXTEND = "extend"  # a tick, or bars that follow: no closed bar changes
    REPLACE = "replace"  # the whole window anew


@dataclass(frozen=True, slots=True, eq=False)
class Restatements:
    """Closed bars, once published, that the vendor has changed.

    Attributes
    ----------
    time : ndarray of int64, shape (m,)
        Start of each bar, milliseconds UTC.
    before, after : ndarray of float64, shape (5, m)
        Open, high, low, close, volume.

    """

    time: NDArray[np.int64]
    before: NDArray[np.float64]
    after: NDArray[np.float64]

    def __len__(self) -> int:
        """Count the bars."""
        return len(self.time)


@dataclass(frozen=True, slots=True, eq=False)
class Merge:
    """What `merge` found: the bars to publish, if any, and what the vendor changed.

    Attributes
    ----------
    action : Action
        How they are to be published.
    bars : Bars
        To extend: those from the forming one on. To replace: the whole window, trimmed to the
        capacity. Otherwise none.
    forming : bool
        Whether the last of them is the forming one.
    restatements : Restatements
        The closed bars within the window that have other values now.
    removed : int
        How many published bars the answer, where it is all there is, no longer has. Those that
        only made room are not counted.

    """

    action: Action
    bars: Bars
    forming: bool
    restatements: Restatements
    removed: int = 0

    def history(self, interval: str, row: int) -> History | None:
        """Give it as part of a batch; nothing where nothing is to be published."""
        if self.action is Action.NOTHING:
            return None
        return History(
            interval=interval,
            row=row,
            bars=self.bars,
            forming=self.forming,
            replace=self.action is Action.REPLACE,
            restated=len(self.restatements),
        )


_NO_BARS: Final = Bars.empty()
_NO_RESTATEMENTS: Final = Restatements(_NO_BARS.time, _NO_BARS.ohlcv, _NO_BARS.ohlcv)
_NOTHING: Final = Merge(Action.NOTHING, _NO_BARS, forming=False, restatements=_NO_RESTATEMENTS)


def merge(  # noqa: PLR0913 - two series, each with its flag, and two rules
    current: Bars,
    current_forming: bool,  # noqa: FBT001 - goes with the bars before it
    incoming: Bars,
    incoming_forming: bool,  # noqa: FBT001 - goes with the bars before it
    capacity: int,
    *,
    whole: bool = False,
) -> Merge:
    """Compare an answer with what is published, and say what is to be published now.

    Bars of the answer take the place of published ones with the same time; what is older than the
    window holds falls out. A closed bar is never opened again by a late answer: a forming bar
    that is older than the newest published bar, or as old while that is closed, is left out. A
    published forming bar that comes back closed is closed; one with a follower is closed too.
    Values are compared exactly. An empty answer changes nothing, also where it is the whole.

    Parameters
    ----------
    current, incoming : Bars
        Both validated; the forming one last.
    current_forming, incoming_forming : bool
        Whether the last one is the forming one.
    capacity : int
        How many bars are kept.
    whole : bool
        The answer is all there is: published bars that it lacks are to go, and of its own
        forming bar none is late.

    Returns
    -------
    Merge
        The bars are views of the answer wherever they can be.

    """
    if not whole and incoming_forming and len(incoming) and len(current):
        newest = current.time[-1]
        if incoming.time[-1] < newest or (incoming.time[-1] == newest and not current_forming):
            incoming, incoming_forming = incoming[:-1], False
    if not len(incoming):
        return _NOTHING
    if not len(current):
        window = incoming[-capacity:]
        return Merge(Action.REPLACE, window, incoming_forming, _NO_RESTATEMENTS)

    closed = current[: len(current) - current_forming]
    # Most answers: the forming bar again, or what follows it.
    if not whole and (not len(closed) or incoming.time[0] > closed.time[-1]):
        follows = not current_forming or incoming.time[0] >= current.time[-1]
        if follows and len(incoming) <= capacity:
            if _same(current, current_forming, incoming, incoming_forming):
                return _NOTHING
            return Merge(Action.EXTEND, incoming, incoming_forming, _NO_RESTATEMENTS)

    if whole:
        result, forming = incoming, incoming_forming
    else:
        result, forming = _union(current, incoming), incoming_forming
        if current.time[-1] > incoming.time[-1]:
            forming = current_forming
    result = result[-capacity:]
    return _difference(current, current_forming, result, forming, capacity)


def _same(
    current: Bars,
    current_forming: bool,  # noqa: FBT001 - goes with the bars before it
    incoming: Bars,
    incoming_forming: bool,  # noqa: FBT001 - goes with the bars before it
) -> bool:
    """Tell whether an answer that begins at the newest bar says only what is published."""
    return (
        len(incoming) == 1
        and current_forming == incoming_forming
        and bool(incoming.time[0] == current.time[-1])
        and bool((incoming.ohlcv[:, 0] == current.ohlcv[:, -1]).all())
    )


def _union(current: Bars, incoming: Bars) -> Bars:
    """Give the bars of both by time; of two with the same time the incoming one."""
    at = np.searchsorted(incoming.time, current.time)
    clipped = np.minimum(at, len(incoming) - 1)
    only = incoming.time[clipped] != current.time
    if not only.any():
        return incoming
    time = np.concatenate((current.time[only], incoming.time))
    ohlcv = np.concatenate((current.ohlcv[:, only], incoming.ohlcv), axis=1)
    order = np.argsort(time, kind="stable")
    return Bars(time[order], ohlcv[:, order])


def _difference(
    current: Bars,
    current_forming: bool,  # noqa: FBT001 - goes with the bars before it
    result: Bars,
    forming: bool,  # noqa: FBT001 - goes with the bars before it
    capacity: int,
) -> Merge:
    """Say how a published series becomes ``result``, the window that is wanted."""
    closed = current[: len(current) - current_forming]
    restatements = _restatements(closed, result)
    removed = _removed(current, result, capacity)
    if not len(restatements) and not removed:
        # Every published bar is in the result as it is, or has made room for a newer one.
        start = 0
        if len(closed):
            start = int(np.searchsorted(result.time, closed.time[-1], side="right"))
        follow = result[start:]
        gapless = start == min(len(closed), capacity - len(follow)) and np.array_equal(
            closed.time[len(closed) - start :],
            result.time[:start],
        )
        if gapless and not len(follow) and forming == current_forming:
            return _NOTHING
        if gapless and len(follow) and follow.time[0] >= current.time[-1]:
            if _same(current, current_forming, follow, forming):
                return _NOTHING
            return Merge(Action.EXTEND, follow, forming, restatements)
    return Merge(Action.REPLACE, result, forming, restatements, removed)


def _restatements(closed: Bars, result: Bars) -> Restatements:
    """Find the closed bars that have other values in the new window."""
    at = np.searchsorted(result.time, closed.time)
    at = np.minimum(at, len(result) - 1)
    there = result.time[at] == closed.time
    changed = there & (result.ohlcv[:, at] != closed.ohlcv).any(axis=0)
    if not changed.any():
        return _NO_RESTATEMENTS
    return Restatements(
        closed.time[changed],
        closed.ohlcv[:, changed],
        result.ohlcv[:, at[changed]],
    )


def _removed(current: Bars, result: Bars, capacity: int) -> int:
    """Count the published bars that the new window does not have, though there is room."""
    times = current.time
    if len(result) == capacity:
        times = times[times >= result.time[0]]
    at = np.minimum(np.searchsorted(result.time, times), len(result) - 1)
    return int(np.count_nonzero(result.time[at] != times))
