"""When to stop asking a vendor for a while: a circuit breaker. No I/O, and no clock of its own.

A ticker that is refused is that ticker's trouble. When three different ones in a row get no answer
(too many requests, out of order, not reached), the vendor is, and nobody else is asked for until a
pause is over. Then one ticker is: its answer closes the breaker, another refusal doubles the pause.

Tickers whose last attempt failed are asked for behind all others, which therefore do not wait for
them; there they come one after the other, and so their failing again says nothing about the vendor.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable

    from quoteshm.sources.base import Request

#: So many different tickers in a row.
TICKERS: Final = 3
FIRST_PAUSE_S: Final = 30.0
#: A pause is longer than it must be by up to this share.
JITTER: Final = 0.25


class State(enum.StrEnum):
    """What a breaker lets through."""

    CLOSED = "closed"  # everything
    OPEN = "open"  # nothing
    PROBING = "probing"  # one ticker, whose answer decides


class Breaker:
    """Counts tickers that got no answer, in the order in which they are asked for.

    Parameters
    ----------
    rng : random.Random
        Where the jitter comes from.

    Attributes
    ----------
    until_s : float
        When the pause is over, by the clock of the calls; while there is one.
    failed : dict of str to None
        Tickers that got no answer since the last one that did, in their order.
    failing : dict of str to None
        Tickers whose last attempt failed, for whatever reason: the one that failed last is last.

    """

    def __init__(self, rng: random.Random) -> None:
        self.until_s = 0.0
        self.failed: dict[str, None] = {}
        self.failing: dict[str, None] = {}
        self._rng = rng
        self._pauses = 0  # one after the other, without an answer between them

    def state(self, now_s: float) -> State:
        """Tell what is let through."""
        if not self._pauses:
            return State.CLOSED
        return State.OPEN if now_s < self.until_s else State.PROBING

    def order(self, wanted: Iterable[Request]) -> list[Request]:
        """Put those that fail last, and of them those last that were asked for last."""
        places = {ticker: place for place, ticker in enumerate(self.failing)}
        return sorted(wanted, key=lambda one: places.get(one.ticker, -1))

    def forget(self, tickers: Iterable[str]) -> None:
        """Know nothing more of tickers that nobody wants."""
        for ticker in tickers:
            self.failing.pop(ticker, None)
            self.failed.pop(ticker, None)

    def answered(self, ticker: str, *, good: bool = True) -> bool:
        """Note an answer, whether it has bars or not; tell whether it has closed the breaker."""
        self.failing.pop(ticker, None)
        if not good:
            self.failing[ticker] = None
        was_open = self._pauses > 0
        self.failed.clear()
        self._pauses = 0
        return was_open

    def refused(self, ticker: str, now_s: float, longest_s: float) -> bool:
        """Note that a ticker got no answer; tell whether that has opened the breaker.

        Parameters
        ----------
        ticker : str
            Which one.
        now_s : float
            Of any clock that never goes back.
        longest_s : float
            No pause is to be longer, jitter apart.

        """
        counts = self._pauses > 0 or ticker not in self.failing
        self.failing.pop(ticker, None)
        self.failing[ticker] = None
        if counts:
            self.failed[ticker] = None
        if not self._pauses and (not counts or len(self.failed) < TICKERS):
            return False
        pause_s = min(longest_s, FIRST_PAUSE_S * 2 ** min(self._pauses, 16))
        self._pauses += 1
        self.until_s = now_s + pause_s * self._rng.uniform(1, 1 + JITTER)
        return True
