"""A short run of the warm start's campaign."""

from __future__ import annotations

from pathlib import Path

from tests.campaigns import warm_start


def test_a_small_market_is_back_in_time(tmp_path: Path) -> None:
    """Out of the segment, and out of the archive; every step of the campaign works."""
    figures = warm_start.measure(60, 300, tmp_path, tmp_path)

    assert len(figures) == 5
    for figure in figures:
        assert figure.seconds < 30, figure  # the figures of a busy machine promise nothing
