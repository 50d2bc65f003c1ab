"""How late a reactor gets to what is due, and what the machine does to any process meanwhile."""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections import Counter
from typing import Any, Final

import numpy as np
from twisted.internet import reactor as installed

reactor: Any = installed  # of several interfaces

BLOCKED_S: Final = 0.050  # so long no reactor may be kept
TICK_S: Final = 0.010

#: What a machine does to a process that only sleeps, at the same time.
NOISE: Final = """
import sys, threading, time
late, over = [], threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
while not over.is_set():
    begun = time.perf_counter()
    time.sleep(0.01)
    late.append(time.perf_counter() - begun - 0.01)
late.sort()
print(late[len(late) // 2], late[len(late) * 99 // 100], late[-1])
"""


class Lateness:
    """How late the reactor gets to what is due, and what it was at meanwhile."""

    def __init__(self) -> None:
        self.late: list[float] = []  # seconds of the wall
        self.busy: list[float] = []  # of these, seconds that the reactor's thread was running
        #: Of the late ones, what is left without the time that the thread waited for a processor.
        self.held: list[float] = []
        self.stacks: Counter[str] = Counter()
        self._due = self._cpu = 0.0
        self._thread, self._over = threading.get_ident(), threading.Event()
        self._queued = 0.0
        self._file = os.open("/proc/thread-self/schedstat", os.O_RDONLY)

    def start(self) -> None:
        """Begin."""
        self._schedule()
        threading.Thread(target=self._watch, daemon=True).start()

    def stop(self) -> None:
        """End."""
        self._over.set()

    def _schedule(self) -> None:
        self._due, self._cpu = time.perf_counter() + TICK_S, time.thread_time()
        self._queued = self._run_delay_s()
        reactor.callLater(TICK_S, self._tick)

    def _tick(self) -> None:
        late = max(0.0, time.perf_counter() - self._due)
        self.late.append(late)
        self.held.append(max(0.0, late - (self._run_delay_s() - self._queued)))
        self.busy.append(time.thread_time() - self._cpu)
        if not self._over.is_set():
            self._schedule()

    def _run_delay_s(self) -> float:
        return int(os.pread(self._file, 100, 0).split()[1]) / 1e9

    def _watch(self) -> None:
        seen = 0.0
        while not self._over.wait(TICK_S):
            due = self._due
            if time.perf_counter() - due > BLOCKED_S * 0.8 and due != seen:
                seen = due
                frame = sys._current_frames()[self._thread]
                stack = traceback.extract_stack(frame)[-4:]
                self.stacks[" < ".join(f"{one.name}:{one.lineno}" for one in reversed(stack))] += 1

    def figures(self) -> dict[str, tuple[float, float, float]]:
        """Give median, 99th percentile and maximum of each, in milliseconds."""
        told = {}
        for name, seconds in (("late", self.late), ("held", self.held), ("busy", self.busy)):
            p50, p99, most = np.percentile(np.array(seconds) * 1000, (50, 99, 100)).tolist()
            told[name] = (p50, p99, most)
        return told
