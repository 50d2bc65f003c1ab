"""What settings name: the source and its tickers, and what this machine must have."""

from __future__ import annotations

import errno
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quoteshm.errors import SettingsError
from quoteshm.service import making
from quoteshm.service.settings import Settings
from quoteshm.sources.yahoo import Yahoo
from tests.published import FakeClock

CLOCK = FakeClock()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Name a folder of the test's own."""
    return Settings(source="synthetic", tickers=("AAPL", "MSFT"), shm_dir=tmp_path)


# -- the source ------------------------------------------------------------------------------


def test_a_folder_gives_its_tickers(settings: Settings, tmp_path: Path) -> None:
    """Unless they are named."""
    (tmp_path / "KO.csv").write_text("date,open,high,low,close,volume\n")
    settings = replace(settings, source="files", files=tmp_path, tickers=())
    _, tickers = making.make_source(settings, CLOCK)
    assert tickers == ("KO",)
    _, tickers = making.make_source(replace(settings, tickers=("PEP",)), CLOCK)
    assert tickers == ("PEP",)


def test_a_folder_without_tickers_is_refused(settings: Settings, tmp_path: Path) -> None:
    """Also one that is not there."""
    for folder in (tmp_path, tmp_path / "none"):
        named = replace(settings, source="files", files=folder, tickers=())
        with pytest.raises(SettingsError) as caught:
            making.make_source(named, CLOCK)
        assert caught.value.option == "--files"


def test_yahoo_has_the_adjustment_and_the_budget_of_the_settings(settings: Settings) -> None:
    """Both are told by the source."""
    settings = replace(settings, source="yahoo", adjust="all", requests_per_minute=7)
    source, _ = making.make_source(settings, CLOCK)
    assert isinstance(source, Yahoo)
    assert source.adjustment == "all"
    assert source.describe() == {
        "count": 0,
        "per_minute": 7,
        "shared": False,  # before the first
        "waited_s": 0.0,
        "waiting": False,
        "state": "closed",
    }


# -- what must be there ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "changes"),
    [
        ("--shm-dir", {"shm_dir": Path("/no such folder")}),
        ("--shm-group", {"shm_group": "no such group"}),
    ],
)
def test_a_place_that_is_not_there_is_a_bad_value(
    settings: Settings, option: str, changes: dict[str, Any]
) -> None:
    """Only where there is a segment."""
    settings = replace(settings, **changes)
    with pytest.raises(SettingsError) as caught:
        making.check(settings)
    assert caught.value.option == option
    making.check(replace(settings, shm=False))


def test_a_folder_that_may_not_be_looked_at_is_a_bad_value(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the reason, as its user may think that it is there."""

    def is_dir(_path: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "is_dir", is_dir)
    with pytest.raises(SettingsError, match=r"expected a folder \(Permission denied\)"):
        making.check(settings)


@pytest.mark.parametrize(
    ("option", "changes", "module", "extra"),
    [
        ("--http", {"http": "tcp:0"}, "wsproto", "web"),
        ("--http", {"http": "tcp:0"}, "prometheus_client", "web"),
        ("--live", {"source": "yahoo", "live": True}, "twisted.web.websocket", "live"),
        ("--live", {"source": "yahoo", "live": True}, "OpenSSL", "live"),
    ],
)
def test_an_option_whose_extra_is_missing_is_refused(  # noqa: PLR0913 (one case's fields)
    *,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    option: str,
    changes: dict[str, Any],
    module: str,
    extra: str,
) -> None:
    """At the start, and not after a month when it is first wanted."""
    settings = replace(settings, **changes)
    making.check(settings)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SettingsError, match=f"expected the extra {extra}") as caught:
        making.check(settings)
    assert caught.value.option == option
