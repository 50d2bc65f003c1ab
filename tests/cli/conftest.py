"""What the tests of the command share."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _no_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away what the surroundings say of a terminal's width."""
    monkeypatch.delenv("COLUMNS", raising=False)
