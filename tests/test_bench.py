"""The benchmarks go on working."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parent.parent / "bench"


def test_the_bench_measures_and_checks_what_it_measures() -> None:
    """A run with little data gives every figure, after finding both stores' values equal."""
    command = [sys.executable, str(BENCH / "core.py"), "--check", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    rows = json.loads(done.stdout)
    assert len(rows) == 8
    assert all(row["ours"] > 0 for row in rows)


@pytest.mark.skipif(shutil.which("cc") is None, reason="the load is a program in C")
def test_the_bench_of_the_wire_measures_ours_next_to_redis_where_there_is_one(
    tmp_path: Path,
) -> None:
    """A short run gives figures of requests and of fan-out, each reply and event being checked."""
    said = tmp_path / "figures.json"
    command = [sys.executable, "-m", "bench.wire", "--short", "--json", str(said)]
    subprocess.run(command, cwd=BENCH.parent, capture_output=True, timeout=120, check=True)
    figures = json.loads(said.read_text())
    both = shutil.which("redis-server") is not None
    assert both or "ours alone" in figures["about"]
    for row in figures["requests"]:
        assert set(row["figures"]) == {"quoteshm", "echo", *(["redis"] if both else [])}
        assert (row["ratio"] is not None) == both
        for figures_of in row["figures"].values():
            assert figures_of["per_s"] > 0
            assert figures_of["p99_us"] >= figures_of["p50_us"] > 0
            assert figures_of["cpu_us"] > 0
    nobody, some = figures["fan_out"]
    assert nobody["figures"]["quoteshm"]["each_per_s"] == 0
    assert some["figures"]["quoteshm"]["each_per_s"] > 0
    assert (some["ratio"] is not None) == both
