"""Let fail what can fail, and see that nothing is lost, and nobody is told anything wrong.

``python -m tests.campaigns.faults`` lets each system call of the segment and of the archive fail in
turn, by a library that is preloaded (which takes gcc); flips bits in every structural field; and
does what the world around may do: full disks, other writers, other users' files, forks, clocks that
jump. Each case is to end in a typed error, in a right answer, or in a value that is marked stale;
what was committed before is there, whole; and all is well once the fault is over.

It ends with a table, and with exit status 1 if anything else came of it. A seed that is printed
with the table makes the same faults again.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.campaigns import faults_bits, faults_calls, faults_world, report
from tests.campaigns.faults_size import FULL, SHORT, Size
from tests.campaigns.report import Row


def run(size: Size, seed: int) -> list[Row]:
    """Do everything, and give what came of it."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        folder = Path(place)
        return [
            Row.of(name, act)
            for module in (faults_calls, faults_bits, faults_world)
            for name, act in module.parts(size, seed, folder)
        ]


def main() -> int:
    """Run the campaign and print what came of it."""
    said = report.arguments(__doc__).parse_args()
    rows = run(SHORT if said.short else FULL, said.seed)
    return report.conclude(rows, said.seed, as_json=said.json)


if __name__ == "__main__":
    sys.exit(main())
