"""Rows as words: what is told of them without a segment."""

from __future__ import annotations

import numpy as np
import pytest

from quoteshm.shm import layout, table


@pytest.mark.parametrize(
    ("age_ms", "stale"),
    [(-1, True), (0, False), (1000, False), (1001, True), (-layout.UNCONFIRMED_BOOT_MS, True)],
)
def test_a_quote_is_stale_outside_its_window(age_ms: int, *, stale: bool) -> None:
    """Before it as well as after it; many at once as one alone."""
    assert table.is_stale(age_ms, 1000) is stale
    assert table.is_stale(np.array([age_ms, 5]), 1000).tolist() == [stale, False]


def test_where_boots_cannot_be_compared_every_quote_is_stale() -> None:
    """A window below zero has room for none."""
    assert table.is_stale(0, -1)
