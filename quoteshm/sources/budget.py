"""How many requests may be made in a minute: a token bucket. No I/O, and no clock of its own.

The bucket is filled more slowly than the limit says, by what it holds when it is full: so in no
minute, wherever it begins, are there more requests than the limit, a burst included.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import random

#: A tenth of a minute's requests, and never more than these, may be made at once.
LARGEST_BURST: Final = 20
MINUTE_S: Final = 60.0
#: A wait is longer than it must be by up to this share: nobody asks like a metronome.
JITTER: Final = 0.25


class Budget:
    """A token bucket that says how long to wait. Not for several threads at once.

    Parameters
    ----------
    per_minute : int
        The most requests of any minute.
    rng : random.Random
        Where the jitter comes from.

    Attributes
    ----------
    waited_s : float
        Seconds that requests have been told to wait, all together.

    """

    def __init__(self, per_minute: int, rng: random.Random) -> None:
        self.per_minute = per_minute
        self.waited_s = 0.0
        self._burst = max(1, min(LARGEST_BURST, per_minute // 10))
        self._per_s = (per_minute - self._burst + 1) / MINUTE_S
        self._rng = rng
        self._tokens = float(self._burst)
        self._filled_s: float | None = None  # when `_tokens` was right

    @property
    def is_shared(self) -> bool:
        """Whether others take from it too."""
        return False

    def take(self, now_s: float) -> float:
        """Take a request out of the budget, or say in how many seconds to try again.

        Parameters
        ----------
        now_s : float
            Of any clock that never goes back.

        Returns
        -------
        float
            0: go ahead. Otherwise nothing was taken.

        """
        self._fill(now_s)
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        wait_s = (1 - self._tokens) / self._per_s * self._rng.uniform(1.001, 1 + JITTER)
        self.waited_s += wait_s
        return wait_s

    def _fill(self, now_s: float) -> None:
        passed_s = 0.0 if self._filled_s is None else max(0.0, now_s - self._filled_s)
        self._tokens = min(float(self._burst), self._tokens + passed_s * self._per_s)
        self._filled_s = now_s
