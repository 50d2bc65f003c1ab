"""What the campaign cannot do on a machine, it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import small_disk
from tests.campaigns import faults_world as world
from tests.campaigns.report import ViolationError


def test_a_part_that_cannot_be_done_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where everything is required, that is a violation."""
    monkeypatch.setenv("PATH", str(tmp_path))  # no mount in there
    monkeypatch.delenv(world.REQUIRE_ALL, raising=False)

    def act() -> str:
        with small_disk.small_disk(tmp_path / "small"):
            return "done"

    assert world._skippable(act).startswith("skipped: mount cannot be run")
    (tmp_path / "small").rmdir()
    monkeypatch.setenv(world.REQUIRE_ALL, "1")
    with pytest.raises(ViolationError, match="skipped, and QUOTESHM_REQUIRE_ALL is set"):
        world._skippable(act)
