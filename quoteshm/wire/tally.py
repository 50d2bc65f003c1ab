"""What a server has done so far, in numbers. No sockets, and next to no cost.

A request that is answered the short way is counted with all others of its chunk. The time is read
twice in a turn of the reactor, not for each request: all requests that were answered in a turn
count with the time from its beginning to when the last of their replies was sent, which none of
them has taken longer than.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import defaultdict
from typing import Final

OK: Final = "OK"
#: Upper bounds of what is counted together, in seconds; more than the last one is counted beside.
BOUNDS_S: Final = (
    25e-6, 50e-6, 100e-6, 250e-6, 500e-6,
    1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3,
    1.0, 2.5, 5.0, 10.0,
)  # fmt: skip


class Histogram:
    """How often something took how long.

    Attributes
    ----------
    counts : list of int
        One for each of `BOUNDS_S`, and one for what took longer.
    sum_s : float
        All of it together.

    """

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.sum_s = 0.0

    def add(self, seconds: float, times: int = 1) -> None:
        """Count what took so long, so many times."""
        self.counts[bisect_left(BOUNDS_S, seconds)] += times
        self.sum_s += seconds * times

    def cumulated(self) -> list[int]:
        """Give how often it took no longer than each bound; the last one is how often in all."""
        total, told = 0, []
        for count in self.counts:
            total += count
            told.append(total)
        return told


class Tally:
    """What all connections of a server count together. In the reactor's thread only.

    Attributes
    ----------
    answers : dict of str to int
        Requests answered the strict way, by op.
    errors : dict of (str, str) to int
        Requests that were refused, by op and code. What has no op that can be read is "unknown".
    short : int
        Quotes answered the short way, all of them `OK`.
    latency : Histogram
        How long requests took, from when they were read.
    connected : int
        Connections that were let in.
    turned_away : int
        Those for which there was no room.
    cut_off : int
        Those that were cut because they did not read.
    idle : int
        Those that were closed because they said nothing.
    sent_nbytes : int
        What connections were sent that are gone.
    began_s : float
        When the turn began that is under way; 0 outside of one.
    count : int
        Requests answered in this turn.

    """

    __slots__ = (
        "answers",
        "began_s",
        "connected",
        "count",
        "cut_off",
        "errors",
        "idle",
        "latency",
        "sent_nbytes",
        "short",
        "turned_away",
    )

    def __init__(self) -> None:
        self.answers: defaultdict[str, int] = defaultdict(int)
        self.errors: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.latency = Histogram()
        self.short = self.connected = self.turned_away = self.cut_off = self.idle = 0
        self.sent_nbytes = 0
        self.began_s, self.count = 0.0, 0

    def begin(self) -> None:
        """Begin a turn; not while one is under way."""
        self.began_s = time.perf_counter()

    def end(self) -> None:
        """End it."""
        if self.count:
            self.latency.add(time.perf_counter() - self.began_s, self.count)
            self.count = 0
        self.began_s = 0.0

    def requests(self) -> dict[tuple[str, str], int]:
        """Give how many requests were answered, by op and code: `OK`, or that of the error."""
        told = dict(self.errors)
        for op, count in self.answers.items():
            told[op, OK] = count
        if self.short:
            told["get_quote", OK] = told.get(("get_quote", OK), 0) + self.short
        return told
