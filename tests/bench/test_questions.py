"""Every question is asked once with little data, and every peer answers rightly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench import tables
from bench.figures import Found
from bench.peers import LABELS, OURS

ROOT = Path(__file__).parent.parent.parent
QUESTIONS = "ABCDEF"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Run all of it; a peer's values are compared before it is timed."""
    path = tmp_path_factory.mktemp("bench") / "figures.json"
    command = [sys.executable, "-m", "bench", "--check", "--json", str(path)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )
    assert not done.returncode, done.stderr
    return tables.load(path)


@pytest.mark.parametrize("who", LABELS)
def test_a_peer_gives_the_right_values_and_a_figure_wherever_it_takes_part(
    found: Found, who: str
) -> None:
    """What is not installed says so; whatever else goes wrong is a failure."""
    reasons = {case.left_out[who] for case in found.cases if who in case.left_out}
    for reason in reasons:
        if "not installed" in reason:
            pytest.skip(f"{LABELS[who]}: {reason}")
    assert not reasons
    figures = [case.figures[who] for case in found.cases if who in case.figures]
    assert figures
    for figure in figures:
        assert figure.p50 >= 0
        assert figure.p99 >= 0
        assert figure.samples > 0


@pytest.mark.parametrize("question", QUESTIONS)
def test_every_question_has_a_figure_of_ours_in_each_case(found: Found, question: str) -> None:
    """There is no table without us."""
    cases = [case for case in found.cases if case.question == question]
    assert cases
    assert all(OURS in case.figures for case in cases)


def test_growth_readers_and_memory_are_told(found: Found) -> None:
    """The tables that compare nobody have their lines."""
    titles = {fact.table.partition(" ")[0] for fact in found.facts}
    assert titles == {"D.", "G.", "Memory,"}
    reading = [fact.cells for fact in found.facts if fact.table.startswith("G.")]
    assert all(cells["reads"] for cells in reading if cells["readers"])
    assert not any(cells["failed"] for cells in reading)


def test_the_chart_is_drawn_for_light_and_for_dark_pages(found: Found, tmp_path: Path) -> None:
    """Both are SVG with the text kept as text."""
    pytest.importorskip("matplotlib")
    from bench import chart  # noqa: PLC0415  it imports that

    paths = chart.draw(found, tmp_path)
    assert [path.name for path in paths] == ["benchmarks-light.svg", "benchmarks-dark.svg"]
    for path in paths:
        assert "LMDB" in path.read_text()
