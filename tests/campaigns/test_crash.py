"""A short run of the campaign in `crash`, and the parts that it stands on."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.campaigns import stamped, steps
from tests.campaigns.stamped import CORE, LEDGER, LostError, Memory, TornError

PROJECT = Path(__file__).parents[2]
MINUTE_MS = 60_000


def crash(*argv: str) -> dict[str, Any]:
    """Run the campaign."""
    command = [sys.executable, "-m", "tests.campaigns.crash", "--json", *argv]
    done = subprocess.run(
        command, cwd=PROJECT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stderr == ""
    result: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == bool(result["problems"])
    return result


def test_nothing_is_torn_or_lost_when_writers_are_killed() -> None:
    """Some thirty kills, at random and at steps: all readers see whole values, none goes back."""
    result = crash("--kills", "30")

    assert result["problems"] == [], f"seed {result['seed']}"
    assert result["torn"] == result["lost"] == result["hung"] == 0
    assert result["kills"] >= 30
    assert result["adoptions"] > 0
    assert result["commits"] > 30
    assert min(result["reads"].values()) > 0
    assert {"history", "view", "snapshot", "panel", "raw history"} < set(result["reads"])


def test_every_step_is_where_it_says() -> None:
    """Each is one line of one function."""
    for step in steps.STEPS.values():
        assert steps.line_of(step) > 0


def test_a_step_that_the_code_has_moved_away_from_is_an_error() -> None:
    """Not found, and found twice."""
    for text, count in (("no such line", 0), ("return", 2)):
        step = steps.Step("a step", steps.arm, text)
        said = f"a step.*has {count} lines with.*the code has moved"
        with pytest.raises(LookupError, match=said):
            steps.line_of(step)


def test_a_process_dies_at_its_step() -> None:
    """By SIGKILL, the second time it comes to it."""
    code = (
        "from tests.campaigns import steps\n"
        "from quoteshm.shm.segment import complete\n"
        "class Segment: cells = {}\n"
        "steps.arm('publish: without magic:2')\n"
        "complete(Segment); print('once', flush=True); complete(Segment); print('twice')\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("once\n", -9)


def test_the_raw_reader_is_written_without_the_package() -> None:
    """Nothing that it imports is of quoteshm."""
    code = "import tests.campaigns.raw, sys; print([n for n in sys.modules if 'quoteshm' in n])"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def bars(places: range, stamps: list[int], ticker: str = CORE[0]) -> tuple[Any, Any]:
    """Make a history of one-minute bars: times and values."""
    at, by = np.array(places), np.array(stamps)
    values = stamped.bars(stamped.salt(ticker, "1m"), at, by, by.astype(np.float64))
    return at * MINUTE_MS, values


def test_a_bar_of_two_batches_is_torn() -> None:
    """Whichever of its values is of the other batch."""
    times, values = bars(range(3), [5, 6, 7])
    _, other = bars(range(3), [5, 6, 8])
    Memory().bars(CORE[0], "1m", times, values, 2)
    for field in range(5):
        mixed = values.copy()
        mixed[field, 2] = other[field, 2]
        with pytest.raises(TornError, match="a bar"):
            Memory().bars(CORE[0], "1m", times, mixed, 2)
    with pytest.raises(TornError, match="a bar"):
        Memory().bars(CORE[1], "1m", times, values, 2)
    with pytest.raises(TornError, match="a bar"):
        Memory().bars(CORE[0], "1m", times + MINUTE_MS, values, 2)


@pytest.mark.parametrize(
    ("places", "stamps", "what"),
    [
        (range(2), [5, 8], "0 after 60000"),
        (range(3), [5, 6, 6], "batch 6 after 7"),
        (range(3), [4, 6, 8], "older batches"),
        (range(1, 3), [6, 7], "1 bars, of at least 2"),
    ],
)
def test_what_was_seen_and_is_gone_is_lost(places: range, stamps: list[int], what: str) -> None:
    """A bar, a batch, a value: whatever was read before."""
    memory = Memory()
    memory.bars(CORE[0], "1m", *bars(range(3), [5, 6, 7]), 2)
    with pytest.raises(LostError) as caught:
        memory.bars(CORE[0], "1m", *bars(places, stamps), len(places) - 1)
    assert re.search(what, str(caught.value))


def test_a_rewrite_changes_all_that_stood() -> None:
    """And new bars follow it; a closed bar that has changed alone was changed in place."""
    memory = Memory()
    memory.bars(CORE[0], "1m", *bars(range(3), [5, 6, 7]), 2)
    memory.bars(CORE[0], "1m", *bars(range(5), [8, 8, 8, 9, 9]), 4)
    with pytest.raises(TornError, match="changed"):
        memory.bars(CORE[0], "1m", *bars(range(5), [8, 8, 9, 9, 9]), 4)


def test_quotes_of_two_batches_do_not_fit_the_ledger() -> None:
    """Each of them is whole, and together they are not."""

    def quotes(stamps: dict[str, int]) -> dict[str, tuple[float, ...]]:
        words = {ticker: float(stamp) for ticker, stamp in stamps.items()}
        words[LEDGER] = stamped.digest(words)
        found = {}
        for ticker, stamp in {**stamps, LEDGER: max(stamps.values())}.items():
            one = np.array([words[ticker]])
            salt = stamped.salt(ticker, "1m")
            bar = stamped.bars(salt, np.array([3]), np.array([stamp]), one)
            found[ticker] = tuple(bar[:, 0].tolist())
        return found

    before = dict.fromkeys(CORE, 20)
    after = {**before, CORE[4]: 21}
    memory = Memory()
    memory.quotes(quotes(before))
    with pytest.raises(TornError, match="more than one batch"):
        memory.quotes({**quotes(before), CORE[4]: quotes(after)[CORE[4]]})
    memory.quotes(quotes(after))
    with pytest.raises(LostError, match="batch 20 after 21"):
        memory.quotes(quotes(before))


def test_a_step_is_chosen_by_the_environment() -> None:
    """As the docs of `stamping` say."""
    env = {**os.environ, steps.VARIABLE: "lock: taken"}
    with pytest.raises(subprocess.CalledProcessError) as caught:
        subprocess.run(
            [sys.executable, "-m", "tests.campaigns.stamping", "--help"],
            cwd=PROJECT,
            env={**env, steps.VARIABLE: "no such step"},
            capture_output=True,
            check=True,
        )
    assert b"KeyError: 'no such step'" in caught.value.stderr
