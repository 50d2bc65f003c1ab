"""A market whose values say by themselves whether they are whole. Knows nothing of quoteshm.

Every batch has a number, its stamp, greater than all before it; no two lives of a writer use the
same. A bar says which batch wrote it (its open is the stamp), and its volume holds its place in the
series and a seal over all its other values, so a bar that is torn or mixed does not fit its own
volume. A quote is the newest bar, and is held against the same seal.

The ledger is a ticker like the others, touched by every batch; its close is a digest of the stamps
of all the core tickers. Values of two batches in one snapshot, or in one panel, do not fit it.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Times = NDArray[np.int64]

LEDGER: Final = "LEDGER"
#: What the ledger tells of; other tickers come and go.
CORE: Final = tuple(f"CORE{number:02d}" for number in range(11))
INTERVALS_MS: Final = {"1m": 60_000, "5m": 300_000}
#: Closed bars that a series keeps at least once it has had them: its smallest capacity less one.
KEPT: Final = {"1m": 39, "5m": 23}

_SEAL_BITS: Final = 28
_WEIGHTS: Final = {ticker: 2 * zlib.crc32(ticker.encode()) + 1 for ticker in CORE}


def salt(ticker: str, interval: str) -> int:
    """Give the number that makes the seals of one series its own."""
    return zlib.crc32(f"{ticker} {interval}".encode())


def _mix(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scatter bits, as splitmix64 does."""
    words ^= words >> np.uint64(30)
    words *= np.uint64(0xBF58476D1CE4E5B9)
    words ^= words >> np.uint64(27)
    words *= np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _seals(salts: NDArray[np.uint64], places: Times, prices: Floats) -> NDArray[np.uint64]:
    """Seal bars: ``prices`` has shape (4, n)."""
    words = _mix(salts + places.view(np.uint64))
    for column in prices:
        words = _mix(words ^ np.ascontiguousarray(column).view(np.uint64))
    return words >> np.uint64(64 - _SEAL_BITS)


def bars(salts: NDArray[np.uint64] | int, places: Times, stamps: Times, words: Floats) -> Floats:
    """Make bars, shape (5, n): written by batches ``stamps``, with closes ``words``."""
    made = np.empty((5, len(places)))
    made[0], made[3] = stamps, words
    made[1] = np.maximum(made[0], words) + 1 + stamps % 7
    made[2] = np.minimum(made[0], words) - 6 + stamps % 5
    salts = np.broadcast_to(np.asarray(salts, np.uint64), places.shape)
    made[4] = (places << _SEAL_BITS) + _seals(salts, places, made[:4]).astype(np.int64)
    return made


def whole(salts: NDArray[np.uint64] | int, ohlcv: Floats, times: Times | None, step: int) -> bool:
    """Tell whether each of these bars, shape (5, n), fits its own volume, and its time if given."""
    if not np.isfinite(ohlcv).all() or (ohlcv[4] < 0).any() or (ohlcv[4] >= 2**53).any():
        return False
    volume = ohlcv[4].astype(np.int64)
    places = volume >> _SEAL_BITS
    if times is not None and not np.array_equal(places * step, times):
        return False
    salts = np.broadcast_to(np.asarray(salts, np.uint64), places.shape)
    seals = (volume & ((1 << _SEAL_BITS) - 1)).view(np.uint64)
    return bool((_seals(salts, places, ohlcv[:4]) == seals).all())


def digest(stamps: Mapping[str, float]) -> float:
    """Say in one number which batch each core ticker is of."""
    return float(sum(int(stamps[ticker]) * _WEIGHTS[ticker] for ticker in CORE) & (2**40 - 1))


class TornError(Exception):
    """A read gave what was never published."""


class LostError(Exception):
    """What was published, and was seen, is not there any more."""


def check(good: object, what: str) -> None:
    """Stop at a read that gave what was never published."""
    if not good:
        raise TornError(what)


def keep(good: object, what: str) -> None:
    """Stop at a read that does not give what was seen before."""
    if not good:
        raise LostError(what)


class Memory:
    """What one reader has seen; each read is held against it."""

    def __init__(self) -> None:
        self.epoch = 0
        self._closed: dict[tuple[str, str], tuple[Times, Floats]] = {}  # times, and their stamps
        self._stamps: dict[tuple[str, str], float] = {}

    def _newer(self, ticker: str, interval: str, stamp: float) -> None:
        if ticker in CORE or ticker == LEDGER:
            seen = self._stamps.get((ticker, interval), 0.0)
            keep(stamp >= seen, f"{ticker} {interval}: batch {stamp:g} after {seen:g}")
            self._stamps[ticker, interval] = stamp

    def at(self, epoch: int) -> None:
        """See the epoch of a read."""
        keep(epoch >= self.epoch, f"epoch {epoch} after {self.epoch}")
        self.epoch = epoch

    def bars(self, ticker: str, interval: str, times: Times, ohlcv: Floats, closed: int) -> None:
        """See a history, of which the first ``closed`` bars are closed; ``ohlcv`` is (5, n)."""
        name, step = f"{ticker} {interval}", INTERVALS_MS[interval]
        check(whole(salt(ticker, interval), ohlcv, times, step), f"{name}: a bar")
        check((np.diff(times) == step).all(), f"{name}: a gap")
        stamps = ohlcv[0]
        check((np.diff(stamps) >= 0).all(), f"{name}: bars of {stamps.tolist()}")
        if ticker not in CORE and ticker != LEDGER:
            return  # it comes and goes
        keep(len(times), f"{name}: nothing is left")
        if closed < len(times):
            self._newer(ticker, interval, float(stamps[-1]))
        self._remember(ticker, interval, times[:closed], stamps[:closed])

    def _remember(self, ticker: str, interval: str, times: Times, stamps: Floats) -> None:
        name, known = f"{ticker} {interval}", self._closed.get((ticker, interval))
        keep(len(times), f"{name}: no closed bar is left")
        if known is not None:
            keep(times[-1] >= known[0][-1], f"{name}: {times[-1]} after {known[0][-1]}")
            least = min(len(known[0]), KEPT[interval])
            keep(len(times) >= least, f"{name}: {len(times)} bars, of at least {least}")
            shared = (known[0] >= times[0]) & (known[0] <= times[-1])
            before = known[1][shared]
            after = stamps[np.searchsorted(times, known[0][shared])]
            keep((after >= before).all(), f"{name}: closed bars of older batches")
            changed = np.flatnonzero(after != before)
            if len(changed):  # the window was rewritten, so all that stood in it is of one batch
                check((after[: changed[-1] + 1] == after[changed[-1]]).all(), f"{name}: changed")
        self._closed[ticker, interval] = times.copy(), stamps.copy()

    def quotes(self, values: Mapping[str, Sequence[float]]) -> None:
        """See the quotes of one epoch: ``{ticker: (open, high, low, price, volume)}``."""
        lacking = {*CORE, LEDGER}.difference(values)
        keep(not lacking, f"no quotes of {lacking}")
        salts = np.array([salt(ticker, "1m") for ticker in values], np.uint64)
        check(whole(salts, np.array(list(values.values())).T, None, 0), "a quote")
        told = digest({ticker: values[ticker][0] for ticker in CORE})
        check(values[LEDGER][3] == told, "quotes of more than one batch")
        for ticker, quote in values.items():
            self._newer(ticker, "1m", quote[0])

    def quote(self, ticker: str, values: Sequence[float]) -> None:
        """See one quote: open, high, low, price, volume."""
        bar = np.array(values).reshape(5, 1)
        check(whole(salt(ticker, "1m"), bar, None, 0), f"{ticker}: a quote")
        self._newer(ticker, "1m", values[0])

    def closes(self, interval: str, newest: Mapping[str, float]) -> None:
        """See the newest close of each ticker, all of one epoch."""
        lacking = {*CORE, LEDGER}.difference(newest)
        keep(not lacking, f"no bars of {lacking}")
        check(newest[LEDGER] == digest(newest), "closes of more than one batch")
        for ticker in CORE:
            self._newer(ticker, interval, newest[ticker])
