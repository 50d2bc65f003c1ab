"""One budget for all daemons of a user on this machine: a token bucket in a small file.

Who finds it empty draws the next token ahead, and waits until it is there: so each has its turn,
however often the others ask, and the bucket owes as many tokens as there are daemons that wait.

Where the file cannot be had, each daemon has a bucket of its own: the limit is a courtesy, and no
reason to serve nobody.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from typing import TYPE_CHECKING, Final

from quoteshm.sources.budget import JITTER, LARGEST_BURST, MINUTE_S, Budget

if TYPE_CHECKING:
    import random
    from pathlib import Path

#: Tokens, fewer than none where daemons wait, and when they were right; tokens in a second by the
#: largest limit, and when a daemon that has it was last there.
_STATE: Final = struct.Struct("<dddd")
#: Then it is taken for gone.
_GONE_S: Final = MINUTE_S
#: Another daemon is at the file, for some microseconds; if it was halted there, nobody waits long.
_BUSY_S: Final = 0.005
_LONGEST_BUSY_S: Final = 1.0
#: More daemons than these do not wait.
_MOST_WAITING: Final = 64
#: A turn that is used later than this was given up, and is not made up for.
_LATE_S: Final = 1.0


class SharedBudget(Budget):
    """A budget whose bucket is in a file. The clock has to be one of the whole machine.

    Parameters
    ----------
    per_minute : int
        The most requests of any minute; daemons that are told different numbers keep to the
        largest of them together, and each to its own.
    rng : random.Random
        Where the jitter comes from.
    path : Path
        The file, whose name the user's number completes: on a file system that does not outlive
        the machine's start, as the clock.

    """

    def __init__(self, per_minute: int, rng: random.Random, path: Path) -> None:
        super().__init__(per_minute, rng)
        self._path = path
        self._file: int | None = None
        self._is_alone = False
        # Chance may move a turn back by so much of a token, and so into a minute with others.
        self._most_per_s = self._per_s - JITTER / MINUTE_S
        self._has_own = False  # a token out of its own bucket, and none out of the file yet
        self._turn_s: float | None = None  # when a token that was drawn ahead is there
        self._busy_since_s: float | None = None

    @property
    def is_shared(self) -> bool:
        """Whether the file is in use."""
        return self._file is not None

    def take(self, now_s: float) -> float:
        """Do what `Budget.take` does, on a bucket of its own and on that of the file."""
        turn_s = self._turn_s
        if turn_s is not None and now_s < turn_s:
            return turn_s - now_s
        self._turn_s = None
        if turn_s is not None and now_s <= turn_s + _LATE_S:
            return 0.0
        if not self._has_own and (wait_s := super().take(now_s)):
            return wait_s
        wait_s = self._take_shared(now_s)
        self._has_own = wait_s > 0 and self._turn_s is None
        return wait_s

    def _take_shared(self, now_s: float) -> float:
        if self._file is None and not self._is_alone:
            # Not before: by now a daemon that was to leave root's rights behind has.
            self._file = _opened(self._path.with_name(f"{self._path.name}-{os.geteuid()}"))
            self._is_alone = self._file is None
        if self._file is None:
            return 0.0
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if self._busy_since_s is None:
                self._busy_since_s = now_s
            return _BUSY_S if now_s - self._busy_since_s < _LONGEST_BUSY_S else 0.0
        self._busy_since_s = None
        try:
            tokens, per_s, seen_s = self._filled(os.pread(self._file, _STATE.size, 0), now_s)
            tokens -= 1
            os.pwrite(self._file, _STATE.pack(tokens, now_s, per_s, seen_s), 0)
        except OSError:  # the file system is full, or gone
            self._is_alone = True
            os.close(self._file)  # and with it the lock
            self._file = None
            return 0.0
        fcntl.flock(self._file, fcntl.LOCK_UN)
        if tokens >= 0:
            return 0.0
        wait_s = (self._rng.uniform(0.001, JITTER) - tokens) / per_s
        self.waited_s += wait_s
        self._turn_s = now_s + wait_s
        return wait_s

    def _filled(self, state: bytes, now_s: float) -> tuple[float, float, float]:
        """Say what is in the bucket, how fast it fills, and since when that is known.

        A file that holds nonsense is an empty one.
        """
        burst, per_s, seen_s = float(self._burst), self._most_per_s, now_s
        if len(state) < _STATE.size:
            return burst, per_s, seen_s
        tokens, filled_s, most_per_s, most_s = _STATE.unpack(state)
        if per_s < most_per_s < float("inf") and 0 <= now_s - most_s < _GONE_S:
            per_s, seen_s = most_per_s, most_s
        if not -_MOST_WAITING <= tokens <= LARGEST_BURST:
            tokens = 0.0
        passed_s = now_s - filled_s if abs(filled_s) < float("inf") else 0.0
        # What a daemon with a larger limit has left there is not thrown away.
        filled = min(burst, tokens + max(0.0, passed_s) * per_s)
        return max(tokens, filled), per_s, seen_s


def _opened(path: Path) -> int | None:
    """Open the file, unless it is somebody else's or no file at all."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        file = os.open(path, flags, 0o600)
    except OSError:
        return None
    found = os.fstat(file)
    if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid():
        return file
    os.close(file)
    return None
