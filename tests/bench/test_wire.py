"""The bench of the wire goes on working."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.skipif(shutil.which("cc") is None, reason="the load is a program in C")
def test_the_bench_of_the_wire_measures_ours_next_to_redis_where_there_is_one(
    tmp_path: Path,
) -> None:
    """A short run gives figures of requests and of fan-out, each reply and event being checked."""
    said = tmp_path / "figures.json"
    command = [sys.executable, "-m", "bench.wire", "--short", "--json", str(said)]
    subprocess.run(command, cwd=ROOT, capture_output=True, timeout=120, check=True)
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
