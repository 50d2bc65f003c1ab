"""History as pandas has it. Loads pandas, which takes half a second, only where it is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from datetime import datetime

    import pandas as pd

    from quoteshm.client._codec import History

    Since = int | str | datetime | None


def is_naive(since: Since) -> bool:
    """Tell whether a moment needs a zone to be one."""
    if since is None or isinstance(since, int | np.integer):
        return False
    import pandas as pd  # noqa: PLC0415  see above

    stamp = pd.Timestamp(since)
    return not pd.isna(stamp) and stamp.tzinfo is None


def since_ms(since: Since, time_zone: str = "UTC") -> int | None:
    """Give a moment in milliseconds UTC; a naive one is of the zone."""
    if since is None or isinstance(since, int | np.integer):
        return since
    import pandas as pd  # noqa: PLC0415  see above

    from quoteshm.shm.frames import to_ms  # noqa: PLC0415  see above

    return to_ms(pd.Timestamp(since), time_zone)


def frame_of(history: History) -> pd.DataFrame:
    """Give bars as `StockDataReader.get_stock` does."""
    from quoteshm.shm.frames import to_frame  # noqa: PLC0415  see above

    return to_frame(history.bars, history.interval, history.time_zone)
