"""The benchmarks go on working."""

import json
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parent.parent / "bench"


def test_the_bench_measures_and_checks_what_it_measures() -> None:
    """A run with little data gives every figure, after finding both stores' values equal."""
    command = [sys.executable, str(BENCH / "core.py"), "--check", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    rows = json.loads(done.stdout)
    assert len(rows) == 8
    assert all(row["ours"] > 0 for row in rows)
