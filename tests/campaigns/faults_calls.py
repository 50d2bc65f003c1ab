"""The parts of the campaign in which every system call fails in turn."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.campaigns import faults_daemon, faults_shim
from tests.campaigns.report import check

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.campaigns.faults_size import Size

ROOT: Final = Path(__file__).parents[2]
#: The lives of `faults_cases`, and what they are called in the table.
LIVES: Final = {
    "writing": "calls fail: a writer's life",
    "adopting": "calls fail: adopting",
    "growing": "calls fail: a larger segment",
    "replacing": "calls fail: a damaged segment",
    "closing": "calls fail: closing",
    "reading": "calls fail: a reader's life",
    "archiving": "calls fail: an archive of Parquet",
    "archiving-npz": "calls fail: an archive of .npz",
}


def parts(size: Size, seed: int, folder: Path) -> list[tuple[str, Callable[[], str]]]:
    """Give the parts of the campaign, which are to be done in this order."""
    folder = folder / "calls"
    folder.mkdir()

    @functools.cache
    def library() -> Path:
        return faults_shim.build(folder)

    @functools.cache
    def lives() -> Lives:
        return Lives(size.call_stride, seed, folder, library())

    def daemons() -> str:
        return faults_daemon.run(size.daemon_runs, seed, folder / "daemons", library())

    return [
        *((said, lambda name=name: lives().live(name)) for name, said in LIVES.items()),
        ("calls fail: daemons", daemons),
    ]


def environment(library: Path) -> dict[str, str]:
    """Give that of a process of ours whose calls can fail."""
    return {**os.environ, **faults_shim.preloaded(library), "PYTHONPATH": str(ROOT)}


class Lives:
    """The process, preloaded, that goes through all lives, one after the other."""

    def __init__(self, stride: int, seed: int, folder: Path, library: Path) -> None:
        where = ("--stride", f"{stride}", "--seed", f"{seed}", "--folder", str(folder))
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "tests.campaigns.faults_cases", *LIVES, *where],
                env=environment(library),
                stdout=subprocess.PIPE,
                stderr=log,
            )

    def live(self, name: str) -> str:
        """Wait for a life that has been lived with every fault, and give figures."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line or name == [*LIVES][-1]:
            self._process.stdout.close()
            self._process.wait()
        check(line, f"it has ended with {self._process.returncode}: {self._log.read_text()}")
        return _figures(name, json.loads(line))


def _figures(name: str, sums: dict[str, Any]) -> str:
    check(sums["life"] == name, f"{sums['life']} instead of {name}")
    violations, outcomes, calls = sums["violations"], sums["outcomes"], sums["calls"]
    cases = sum(outcomes.values()) + len(violations)
    check(not violations, f"{len(violations)} of {cases} cases: " + "\n".join(violations[:3]))
    told = (
        f"{outcomes.get('typed', 0)} typed errors, {outcomes.get('right', 0)} right answers, "
        f"{outcomes.get('stale', 0)} older values"
    )
    return f"{cases} cases of {sum(calls.values())} calls of {len(calls)} kinds: {told}"
