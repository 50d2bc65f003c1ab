"""What quoteshm is for, measured next to what its users would pick instead, in one run.

``python -m bench`` asks every question and prints every table; ``--check`` does all of it once with
little data, to see that it works. README.md beside this file says how to read the tables.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from bench import programs, tables, wire
from bench.crew import Crew, PeerError
from bench.peers import LABELS
from bench.setting import CHECK, FULL, Setting, note

QUESTIONS = {
    "A": "quote",
    "B": "history",
    "C": "market",
    "D": "publishing",
    "E": "panel",
    "F": "latency",
    "G": "disturbance",
    "M": "memory",
}
#: Where `make bench-peers` puts it, unless it was told another place.
ARCTICDB = Path(os.environ.get("VENV_ARCTICDB", ".venv-arcticdb")) / "bin" / "python"


def crews(arcticdb: Path) -> dict[str, Crew]:
    """Make the crew of each peer; no process is started yet."""
    cores = wire.cores()
    found = {name: Crew(name, sys.executable, cores) for name in LABELS}
    if arcticdb.exists():
        found["arcticdb"].python = str(arcticdb)
    return found


def about() -> dict[str, str | int]:
    """Say what this machine is."""
    processor = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
        if line.startswith("model name"):
            processor = line.partition(":")[2].strip()
            break
    return {
        "Python": platform.python_version(),
        "on": processor,
        "cores": len(os.sched_getaffinity(0)),
        "Linux": platform.release(),
    }


def main() -> None:
    """Read the options, ask, print."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--check", action="store_true", help="little data, to see that it works")
    parser.add_argument("--only", default="".join(QUESTIONS), help="letters of questions: ABCDEFGM")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--chart", type=Path, help="draw the README's chart into this folder")
    parser.add_argument("--install", action="store_true", help="redis-server and memcached")
    parser.add_argument("--arcticdb", type=Path, default=ARCTICDB, help="a Python that has it")
    said = parser.parse_args()
    if said.install:
        programs.install()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="bench-") as name:
        setting = Setting(CHECK if said.check else FULL, Path(name), crews(said.arcticdb))
        setting.found.about = about()
        try:
            for letter in said.only:
                note(f"{letter}. {QUESTIONS[letter]}")
                since = time.monotonic()
                try:
                    importlib.import_module(f"bench.questions.{QUESTIONS[letter]}").run(setting)
                except PeerError as error:  # of ours: it takes no part, which is a failure
                    raise SystemExit(f"{letter}. {QUESTIONS[letter]}: {error}") from error
                for case in setting.found.cases:
                    if case.samples:
                        case.sum_up()
                setting.found.seconds[letter] = round(time.monotonic() - since, 1)
        finally:
            for crew in setting.crews.values():
                crew.end()
    found = setting.found
    tables.show(Console(width=None if sys.stdout.isatty() else 160), found)
    print(f"All of it took {time.monotonic() - begun:.0f} s: {found.seconds}")
    if said.json is not None:
        tables.save(said.json, found)
    if said.chart is not None:
        from bench import chart  # noqa: PLC0415  matplotlib is wanted for this alone

        chart.draw(found, said.chart)


if __name__ == "__main__":
    main()
