"""History as pandas has it. Loads pandas, which takes half a second, only where it is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from quoteshm.client._codec import History
    from quoteshm.shm.frames import Moment

    Since = Moment | None


def is_naive(since: Since) -> bool:
    """Tell whether a moment needs a zone to be one."""
    if since is None or type(since) is int:
        return False
    from quoteshm.shm.frames import stamp_of  # noqa: PLC0415  see above

    stamp = stamp_of(since)
    return not isinstance(stamp, int) and stamp.tzinfo is None


def since_ms(since: Since, time_zone: str = "UTC") -> int | None:
    """Give a moment in milliseconds UTC; a naive one is of the zone."""
    if since is None or type(since) is int:
        return since
    from quoteshm.shm.frames import to_ms  # noqa: PLC0415  see above

    return to_ms(since, time_zone)


def frame_of(history: History) -> pd.DataFrame:
    """Give bars as `StockDataReader.get_stock` does."""
    from quoteshm.shm.frames import to_frame  # noqa: PLC0415  see above

    return to_frame(history.bars, history.interval, history.time_zone)
