"""One budget for several daemons."""

from __future__ import annotations

import fcntl
import os
import random
import struct
import subprocess
import sys
from bisect import bisect_left
from itertools import chain
from typing import TYPE_CHECKING
from unittest import mock

import pytest

from quoteshm.sources.shared_budget import SharedBudget

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

RNG = random.Random(1)  # noqa: S311 (for jitter)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Name a file that is not there yet."""
    return tmp_path / "requests"


def file_of(path: Path) -> Path:
    """Name the file of this user."""
    return path.with_name(f"{path.name}-{os.geteuid()}")


def made_by(budgets: Sequence[SharedBudget], seconds: float) -> list[list[float]]:
    """Have each make requests as fast as it may; say when."""
    due, made = [0.0] * len(budgets), [list[float]() for _ in budgets]
    while min(due) < seconds:
        which = due.index(min(due))
        wait_s = budgets[which].take(due[which])
        if not wait_s:
            made[which].append(due[which])
        due[which] += wait_s or 0.05
    return made


def most_in_a_minute(made: Sequence[float]) -> int:
    """Count the requests of the fullest minute, wherever it begins."""
    return max(bisect_left(made, one + 60) - place for place, one in enumerate(made))


def test_two_daemons_together_make_no_more_requests_than_one(path: Path) -> None:
    """In no minute, wherever it begins."""
    both = [SharedBudget(30, RNG, path) for _ in range(2)]
    made = sorted(chain.from_iterable(made_by(both, 300)))
    assert most_in_a_minute(made) <= 30
    assert len(made) > 300 / 60 * 30 * 0.7
    assert all(one.is_shared for one in both)
    assert file_of(path).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("limits", [(600, 10), (60, 1), (12, 12, 12), (600, 600, 10)])
def test_whoever_waits_has_its_turn(path: Path, limits: Sequence[int]) -> None:
    """Also beside one that may ask sixty times as often; and each keeps to its own limit."""
    made = made_by([SharedBudget(limit, RNG, path) for limit in limits], 600)
    of_all = sorted(chain.from_iterable(made))
    assert most_in_a_minute(of_all) <= max(limits)
    assert len(of_all) > 10 * max(limits) * 0.7
    for limit, its in zip(limits, made, strict=True):
        fair = min(limit, max(limits) / len(limits))
        assert len(its) > 10 * fair / 2
        assert most_in_a_minute(its) <= limit


def test_a_turn_that_was_not_used_is_lost(path: Path) -> None:
    """Nobody makes up for it later, in a minute that others have filled."""
    one, other = SharedBudget(10, RNG, path), SharedBudget(10, RNG, path)
    assert one.take(0.0) == 0
    wait_s = other.take(0.0)
    assert wait_s > 0
    assert other.take(wait_s / 2) == wait_s / 2
    assert one.take(60.0) == 0
    assert other.take(60.0) > 0


def test_a_daemon_that_is_halted_at_the_file_stops_nobody_for_long(path: Path) -> None:
    """It may hold the lock for a day: each goes by its own limit meanwhile."""
    budget = SharedBudget(10, RNG, path)
    assert budget.take(0.0) == 0
    with file_of(path).open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        now_s, made = 100.0, []
        while now_s < 400:
            wait_s = budget.take(now_s)
            made += [] if wait_s else [now_s]
            now_s += wait_s
        assert 25 < len(made) <= 51
        assert most_in_a_minute(made) <= 10
    assert budget.is_shared


def test_a_daemon_that_is_killed_at_the_file_leaves_it_free(path: Path) -> None:
    """The kernel gives its lock back."""
    program = (
        "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX); print(); input()"
    )
    budget = SharedBudget(10, RNG, path)
    assert budget.take(0.0) == 0
    command = [sys.executable, "-uc", program, str(file_of(path))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert 0 < budget.take(100.0) < 0.1
        holder.kill()
    assert budget.take(100.0) == 0


def test_a_full_disk_leaves_each_its_own(path: Path) -> None:
    """Said by `is_shared`; no request is made without its limit."""
    budget = SharedBudget(10, RNG, path)
    with mock.patch("os.pwrite", side_effect=OSError(28, "No space left on device")):
        assert budget.take(0.0) == 0
    assert not budget.is_shared
    assert budget.take(0.0) > 0


def test_a_file_of_another_owner_is_not_used(path: Path) -> None:
    """As root's is not where the daemon became another user after it had begun."""
    budget = SharedBudget(10, RNG, path)
    with mock.patch("os.geteuid", return_value=os.geteuid() + 1):
        file_of(path).touch()  # this user's, by the name of the other
        assert budget.take(0.0) == 0
        assert not budget.is_shared
        assert budget.take(0.0) > 0


def test_another_process_finds_the_bucket_as_it_was_left(path: Path) -> None:
    """What one has taken, another cannot take."""
    program = (
        "import random, sys; from pathlib import Path; "
        "from quoteshm.sources.shared_budget import SharedBudget; "
        "sys.exit(SharedBudget(10, random.Random(1), Path(sys.argv[1])).take(5.0) == 0)"
    )
    budget = SharedBudget(10, RNG, path)
    assert budget.take(5.0) == 0
    done = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert done.returncode == 0


def test_a_daemon_that_is_at_the_file_is_waited_for_a_moment(path: Path) -> None:
    """Without a thread that hangs, whatever became of that daemon."""
    budget = SharedBudget(10, RNG, path)
    assert budget.take(0.0) == 0
    with file_of(path).open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert 0 < budget.take(100.0) < 0.1
    assert budget.take(100.0) == 0


@pytest.mark.parametrize(
    "nonsense",
    [
        b"\xff" * 32,
        struct.pack("<dddd", 1e9, 0.0, 1e300, 0.0),
        struct.pack("<dddd", -500.0, 1e300, -1.0, 1e300),
        struct.pack("<dddd", *[float("nan")] * 2, *[float("inf")] * 2),
    ],
)
def test_nonsense_in_the_file_is_an_empty_bucket(path: Path, nonsense: bytes) -> None:
    """It fills as any other does."""
    file_of(path).write_bytes(nonsense)
    budget = SharedBudget(10, RNG, path)
    wait_s = budget.take(0.0)
    assert 0 < wait_s < 10
    assert budget.take(wait_s) == 0


def test_without_a_file_each_has_its_own(path: Path) -> None:
    """A folder, a link, a pipe, a place that is none: none of them is a bucket, nor waited for."""
    pipe, link, folder = (path.with_name(name) for name in ("pipe", "link", "folder"))
    os.mkfifo(file_of(pipe))
    file_of(link).symlink_to(path)
    file_of(folder).mkdir()
    for place in (pipe, link, folder, folder / "requests"):
        budget = SharedBudget(10, RNG, place)
        assert budget.take(0.0) == 0
        assert budget.take(0.0) > 0
        assert not budget.is_shared
    assert not path.exists()
