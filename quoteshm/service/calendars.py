"""Trading hours out of exchange-calendars, where that is installed: the extra ``calendar``.

Importing it and making a calendar takes some tenths of a second: in a thread of its own.
"""

from __future__ import annotations

import importlib.util
import warnings

from quoteshm.service.hours import AHEAD_MS, BEFORE_MS, Sessions


def is_installed() -> bool:
    """Tell whether there are trading hours to be had."""
    return importlib.util.find_spec("exchange_calendars") is not None


def load(name: str, now_ms: int) -> Sessions:
    """Give the sessions of a calendar around a moment. Blocks; not for the reactor's thread.

    Raises
    ------
    Exception
        Whatever exchange-calendars raises: some of its calendars fail with some releases of pandas.

    """
    # As in `quoteshm.sources.yahoo_download`: what they warn of is their own use of pandas.
    import pandas as pd  # noqa: PLC0415 (a third of a second, in this thread)

    # Process-wide, as the filters are; no `catch_warnings`, which is not safe among threads.
    warnings.filterwarnings("ignore", module="exchange_calendars")
    warned = getattr(pd.errors, "Pandas4Warning", None)
    if warned is not None:  # pandas says this one of itself, whoever calls it
        warnings.filterwarnings("ignore", "Series.values returning", category=warned)
    import exchange_calendars  # noqa: PLC0415 (as said above)

    start, end = (
        pd.Timestamp(ms, unit="ms").normalize() for ms in (now_ms - BEFORE_MS, now_ms + AHEAD_MS)
    )
    schedule = exchange_calendars.get_calendar(name, start=start, end=end).schedule
    opens, closes = (
        pd.DatetimeIndex(schedule[column]).as_unit("ms").asi8.tolist()
        for column in ("open", "close")
    )
    return Sessions(tuple(opens), tuple(closes))
