"""The words that all floors share."""

from __future__ import annotations

from typing import Any

import pytest

from quoteshm.errors import SettingsError
from quoteshm.model import several


@pytest.mark.parametrize("text", ["KO", b"KO"])
def test_one_text_is_no_list_of_tickers(text: Any) -> None:
    """It would be taken for its letters, which are tickers too."""
    with pytest.raises(SettingsError, match=r"tickers: found .*KO.*, expected a list of them"):
        several(text)
    assert several(iter(("KO", "PEP"))) == ["KO", "PEP"]
