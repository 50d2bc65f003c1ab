"""What settings name, made or refused: the source, the segment's place, the optional libraries."""

from __future__ import annotations

import grp
import random
from typing import TYPE_CHECKING

from quoteshm.errors import SettingsError

if TYPE_CHECKING:
    from quoteshm.clock import Clock
    from quoteshm.service.settings import Settings
    from quoteshm.sources.base import Source


def make_source(settings: Settings, clock: Clock) -> tuple[Source, tuple[str, ...]]:
    """Make the source that is asked for, and say which tickers are wanted of it.

    A source is imported only where it is used: Yahoo's brings half a second of other people's
    code with it.

    Raises
    ------
    SettingsError
        The folder of ``--files`` is none, or has no file of a ticker.

    """
    if settings.source == "synthetic":
        from quoteshm.sources.synthetic import Synthetic  # noqa: PLC0415 (as said above)

        return Synthetic(clock, speed=settings.synthetic_speed), settings.tickers
    if settings.source == "files":
        return _make_files(settings)
    from quoteshm.sources.budget import Budget  # noqa: PLC0415 (as said above)
    from quoteshm.sources.shared_budget import SharedBudget  # noqa: PLC0415 (as said above)
    from quoteshm.sources.yahoo import Yahoo  # noqa: PLC0415 (as said above)

    cache_dir = None if settings.state_dir is None else settings.state_dir / "yfinance"
    rng = random.Random()  # noqa: S311 (for jitter)
    budget = Budget(settings.requests_per_minute, rng)
    if settings.shm:
        # Beside the segments: seen by all daemons of the user, and gone with the boot.
        path = settings.shm_dir / ".quoteshm-requests"
        budget = SharedBudget(settings.requests_per_minute, rng, path)
    source = Yahoo(clock, cache_dir=cache_dir, adjust=settings.adjust, budget=budget)
    source.load()
    return source, settings.tickers


def _make_files(settings: Settings) -> tuple[Source, tuple[str, ...]]:
    from quoteshm.sources.files import Files  # noqa: PLC0415 (as the other sources)

    assert settings.files is not None  # noqa: S101 (for the type checker: options see to it)
    source = Files(settings.files)
    if settings.tickers:
        return source, settings.tickers
    try:
        tickers = source.tickers()
    except OSError as error:
        expected = f"a folder to read ({error.strerror})"
        raise SettingsError("--files", str(settings.files), expected) from None
    if not tickers:
        expected = "a folder with CSV or Parquet files, or --tickers"
        raise SettingsError("--files", str(settings.files), expected)
    return source, tickers


def check(settings: Settings) -> None:
    """Refuse what this machine does not have, before anything is opened.

    Raises
    ------
    SettingsError
        A folder or a group that an option names is not there, or what ``--http`` or ``--live``
        needs is not installed.

    """
    _check_place(settings)
    _check_web(settings)
    _check_live(settings)


def _check_place(settings: Settings) -> None:
    """Refuse a folder or a group for the segment that this machine does not have."""
    if not settings.shm:
        return
    try:
        is_folder = settings.shm_dir.is_dir()
    except OSError as error:
        expected = f"a folder ({error.strerror})"
        raise SettingsError("--shm-dir", str(settings.shm_dir), expected) from None
    if not is_folder:
        raise SettingsError("--shm-dir", str(settings.shm_dir), "a folder")
    if settings.shm_group is not None:
        try:
            grp.getgrnam(settings.shm_group)
        except KeyError:
            expected = "a group of this machine"
            raise SettingsError("--shm-group", settings.shm_group, expected) from None


def _check_web(settings: Settings) -> None:
    """Refuse ``--http`` where the libraries of its extra are missing."""
    if settings.http is None:
        return
    try:
        import prometheus_client  # noqa: F401, PLC0415 (as the next one)
        import wsproto  # noqa: F401, PLC0415 (only where it is used)
    except ImportError as error:
        expected = f"the extra web, as in pip install 'quoteshm[web]' ({error})"
        raise SettingsError("--http", settings.http, expected) from None


def _check_live(settings: Settings) -> None:
    """Refuse ``--live`` where the libraries of its extra are missing."""
    if not settings.live:
        return
    try:
        import OpenSSL  # noqa: F401, PLC0415 (as the next one)
        import twisted.web.websocket  # noqa: F401, PLC0415 (only where it is used)
    except ImportError as error:
        expected = f"the extra live, as in pip install quoteshm[live] ({error})"
        raise SettingsError("--live", True, expected) from None  # noqa: FBT003 (what was found)
