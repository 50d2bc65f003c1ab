"""What the campaign of hostile clients measures: memory, descriptors, latency, and whether flat."""

from __future__ import annotations

import itertools
import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median, quantiles
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from tests.campaigns.report import check

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

_BARS: Final = " ▁▂▃▄▅▆▇█"
_TICKS_A_SECOND: Final = os.sysconf("SC_CLK_TCK")


def memory_mib(pid: int) -> float:
    """Give the resident memory of a process, the segment's pages included."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(pid)


def descriptors(pid: int) -> int:
    """Give how many files and sockets a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 (names only, of what may be gone)


def cpu_s(pid: int) -> float:
    """Give the processor time that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """Draw values as a line of bars, from zero to the largest; a flat line is flat.

    Examples
    --------
    >>> sparkline([0, 1, 2, 3, 4], width=5)
    ' ▂▄▆█'

    """
    if not values:
        return ""
    width = min(width, len(values))
    edges = [len(values) * n // width for n in range(width + 1)]
    columns = [fmean(values[a:b]) for a, b in itertools.pairwise(edges)]
    top = max(columns) or 1.0
    return "".join(_BARS[round(value / top * (len(_BARS) - 1))] for value in columns)


def growth(values: Sequence[float]) -> float:
    """Give by how much the median of the last third is above that of the middle third."""
    third = len(values) // 3
    check(third >= 3, f"only {len(values)} samples")
    return median(values[-third:]) - median(values[third:-third])


class Latency(NamedTuple):
    """How long answers took, in milliseconds."""

    answers: int
    median_ms: float
    p99_ms: float
    max_ms: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Self:
        """Sum up what was measured."""
        check(len(seconds) >= 2, "fewer than two answers")
        p99 = quantiles(seconds, n=100, method="inclusive")[-1]
        return cls(len(seconds), median(seconds) * 1e3, p99 * 1e3, max(seconds) * 1e3)

    def __str__(self) -> str:
        return f"{self.median_ms:.2f} / {self.p99_ms:.1f} / {self.max_ms:.1f} ms"


@dataclass
class Sampler:
    """Looks at a process again and again, from a thread of its own, until the block ends."""

    pid: int
    every_s: float
    memory: list[float] = field(default_factory=list)
    files: list[float] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def _sample(self) -> None:
        while not self._ended.wait(self.every_s):
            try:
                self.memory.append(memory_mib(self.pid))
                self.files.append(descriptors(self.pid))
            except OSError:
                return  # it has ended, which others will notice

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()


def until(what: str, holds: object, timeout_s: float = 15.0) -> None:
    """Wait until a callable gives true; it is a violation if it never does."""
    assert callable(holds)
    deadline = time.monotonic() + timeout_s
    while not holds():
        check(time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}")
        time.sleep(0.02)  # of another process: there is nothing to wait on
