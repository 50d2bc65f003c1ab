"""What campaigns share: reads that are counted, timed and sorted by how they went; their tables.

Knows nothing of quoteshm, for the sake of a reader that does without it.
"""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from tests.campaigns.stamped import LostError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_MOST_TOLD: Final = 20

Way = tuple[str, "Callable[[], object]"]


class Tally:
    """Counts reads by way, and says of those that went wrong how they did."""

    def __init__(self) -> None:
        self.reads: Counter[str] = Counter()
        self.wrong: Counter[str] = Counter()  # torn, lost, hung
        self.problems: list[str] = []
        self.longest_ms: dict[str, float] = {}

    def read(self, way: str, act: Callable[[], object]) -> None:
        """Make one read."""
        begun = time.perf_counter()
        try:
            act()
        except Exception as error:  # noqa: BLE001  whatever it is, it is told
            kind = "torn"
            if isinstance(error, TimeoutError):
                kind = "hung"
            elif isinstance(error, LostError):
                kind = "lost"
            self.wrong[kind] += 1
            if len(self.problems) < _MOST_TOLD:
                self.problems.append(f"{kind}: {way}: {type(error).__name__}: {error}")
        took_ms = round((time.perf_counter() - begun) * 1000, 1)
        self.longest_ms[way] = max(self.longest_ms.get(way, 0.0), took_ms)
        self.reads[way] += 1

    def told(self) -> dict[str, Any]:
        """Give all of it, for JSON."""
        return {
            "reads": dict(self.reads),
            "torn": self.wrong["torn"],
            "lost": self.wrong["lost"],
            "hung": self.wrong["hung"],
            "problems": self.problems,
            "longest_ms": self.longest_ms,
        }


def joined(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Add up what several readers told."""
    reads: Counter[str] = Counter()
    longest_ms: dict[str, float] = {}
    for part in parts:
        reads.update(part["reads"])
        for way, took_ms in part["longest_ms"].items():
            longest_ms[way] = max(longest_ms.get(way, 0.0), took_ms)
    return {
        "reads": dict(reads),
        **{kind: sum(part[kind] for part in parts) for kind in ("torn", "lost", "hung")},
        "problems": [problem for part in parts for problem in part["problems"]],
        "longest_ms": longest_ms,
    }


def read_until_told(ways: Sequence[Way], pause_s: float) -> dict[str, Any]:
    """Read in each way in turn until SIGTERM comes; give the counts."""
    tally, told = Tally(), False

    def stop(*_: object) -> None:
        nonlocal told
        told = True

    signal.signal(signal.SIGTERM, stop)
    while not told:
        for way, act in ways:
            tally.read(way, act)
        time.sleep(pause_s)  # there are two processors for all of them
    return tally.told()


def report(result: Mapping[str, Any], *, as_json: bool) -> int:
    """Print what came of a campaign; give its exit status."""
    if as_json:
        print(json.dumps(result))  # noqa: T201  what was asked for
    else:
        for key, value in result.items():
            if isinstance(value, dict):
                print(key)  # noqa: T201  a table
                for name, figure in value.items():
                    print(f"    {name:28} {figure}")  # noqa: T201  the same
            elif isinstance(value, list):
                print(f"{key:32} {len(value)}", *value, sep="\n    ")  # noqa: T201  the same
            else:
                print(f"{key:32} {value}")  # noqa: T201  the same
    return 1 if result["problems"] else 0
