"""The market latch: a seqlock with two buffers.

A classic seqlock makes its readers spin while a write is going on, and for ever when the writer
dies half-way. Here the data stands twice. The epoch keeps its classic meaning (odd while a write
is in progress, even when stable) and also says which buffer to read:

- The stable buffer is ``(epoch >> 1) & 1``, **also while the epoch is odd**: the writer only ever
  touches the other one.
- Writer, from an even ``e``: store ``e + 1``; *release fence*; bring the back buffer up to date
  with the rows that the last commit changed; write this commit's rows; *release fence*; store
  ``e + 2``, which makes the back buffer the stable one.
- Reader: load ``e1``; *acquire fence*; copy from buffer ``(e1 >> 1) & 1``; *acquire fence*; load
  ``e2``; accept if and only if ``e2 <= (e1 & ~1) + 2``. With ``k`` for ``e1 >> 1`` the buffer that
  was read is first touched again by the commit that begins from ``2k + 2``, whose first store is
  ``2k + 3``.
- A writer that starts on a segment it did not write itself adds 3 to an odd epoch: even again,
  same stable buffer, and every reader that began before must try again, since the dead writer may
  have left anything in the back buffer. Whatever epoch it found, its first commit takes every row
  for changed.

Closed bars stand outside the buffers, in two blocks a series, used in turn. Before the writer
rewrites a window into the other block it stores ``rewrites + 1`` as the entry's ``rewrites_begun``
(*release fence* between the two). A reader that took a row with ``rewrites`` may use the closed
bars that the row tells of as long as ``rewrites_begun - rewrites < 2``: the rewrite after next is
the first that touches its block.

The seqlock is Lamport's (CACM 20(11), 1977), its reading order Boehm's (MSPC 2012); the latch
with two copies is known from the Linux kernel as ``seqcount_latch``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from quoteshm.errors import ReadTimeoutError

if TYPE_CHECKING:
    from quoteshm.shm.views import Words

#: How far the epoch may have moved on from the even one that a read began with.
EPOCH_SLACK: Final = 2
#: How many rewrites may have begun, the row's own not counted, before its block is touched: fewer
#: than this.
REWRITE_SLACK: Final = 2

DEFAULT_TIMEOUT_S: Final = 0.05
_IMMEDIATE_RETRIES: Final = 8
#: How many whole tries each call has, however late it is: a process whose core is wanted by many
#: may lose it in the middle of its first try, and come back when the time is up. A try that
#: begins with a fresh time slice is the likeliest to be whole.
LEAST_TRIES: Final = 2 * _IMMEDIATE_RETRIES
_FIRST_PAUSE_S: Final = 0.00002
_LONGEST_PAUSE_S: Final = 0.002


def stable_buffer(epoch: int) -> int:
    """Give the buffer, 0 or 1, that readers may use at this epoch, odd or even."""
    return epoch >> 1 & 1


def stable_epoch(epoch: int) -> int:
    """Give the even epoch of the commit that is in force at this epoch, odd or even."""
    return epoch & ~1


def unbroken(before: int, after: int) -> bool:
    """Tell whether what was copied between two loads of the epoch is of one commit."""
    return after <= (before & ~1) + EPOCH_SLACK


def intact(rewrites: int, begun: int) -> bool:
    """Tell whether the closed bars of a row with ``rewrites`` are still untouched."""
    return begun - rewrites < REWRITE_SLACK


def all_intact(rewrites: Words, begun: Words) -> bool:
    """Tell the same of many rows at once."""
    return bool((begun - rewrites < REWRITE_SLACK).all())


def adopted(epoch: int) -> int:
    """Give the epoch with which a new writer carries on."""
    return epoch + 3 if epoch & 1 else epoch


def attempts(timeout_s: float, clock: Callable[[], float] = time.monotonic) -> Iterator[int]:
    """Count the tries of a read: a few at once, then after short growing pauses.

    The time counts from the first try on, so that tries that copy much are fewer, but not fewer
    than `LEAST_TRIES`; those that are late come at once.

    Raises
    ------
    ReadTimeoutError
        When the time is up, and so many were made.

    """
    deadline = clock() + timeout_s
    yield 0
    pause_s, attempt = _FIRST_PAUSE_S, 1
    while (left_s := deadline - clock()) > 0 or attempt < LEAST_TRIES:
        if attempt >= _IMMEDIATE_RETRIES and left_s > 0:
            time.sleep(min(pause_s, left_s))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        yield attempt
        attempt += 1
    raise ReadTimeoutError(timeout_s, attempt)
