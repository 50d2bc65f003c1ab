"""The bars of a panel: one field of many series, copied without a loop over them.

Whether they are still those that their rows tell of is for `reader` to find out behind the copy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from quoteshm.model import FIELDS
from quoteshm.shm import layout, panel
from quoteshm.shm.checks import check_series

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quoteshm.shm.attachment import Attachment
    from quoteshm.shm.layout import KindGeometry


def gather(  # noqa: PLR0913, PLR0917  the parts of one read
    attached: Attachment,
    kind: KindGeometry,
    rows: NDArray[np.intp],
    series: NDArray[np.void],
    field: int,
    last: int | None,
) -> panel.Cells | panel.Grid:
    """Copy one field of the newest bars of many series.

    Parameters
    ----------
    attached : Attachment
        The segment.
    kind : KindGeometry
        Of the series.
    rows : ndarray of intp, shape (n,)
        The tickers, in the order of the panel's columns.
    series : ndarray of layout.SERIES_ROW, shape (n,)
        Their series rows, all of one epoch.
    field : int
        By its place in `model.FIELDS`.
    last : int, optional
        How many bars of each to copy at most, the forming one included.

    Raises
    ------
    CorruptSegmentError

    """
    check_series(kind, series)
    forming = (series["flags"] & layout.HAS_FORMING) != 0
    start, count = (series[name].astype(np.intp) for name in ("start", "count"))
    block = (series["rewrites"] & 1).astype(np.intp)
    kept = count if last is None else np.minimum(count, last - forming)
    base = (2 * rows + block) * (kind.block_nbytes // 8) + start + count - kept
    values_of = attached.map.float_blocks[kind.index]
    times_of = attached.map.blocks[kind.index]
    value_words = (field + 1) * kind.rows
    if kept.any() and (kept == kept[0]).all() and (forming == forming[0]).all():
        times = attached.take_runs(times_of, base, kept[0]).view(np.int64)
        values = attached.take_runs(values_of, base + value_words, kept[0])
        if forming[0]:
            times = np.column_stack((times, series["time"]))
            values = np.column_stack((values, series[FIELDS[field]]))
        return panel.Grid(times, values)
    ends = np.cumsum(kept)
    owner = np.repeat(np.arange(len(rows)), kept)
    words = np.arange(len(owner)) + np.repeat(base - (ends - kept), kept)
    times = attached.take(times_of, words).view(np.int64)
    values = attached.take(values_of, words + value_words)
    return panel.Cells(
        np.concatenate((owner, np.flatnonzero(forming))),
        np.concatenate((times, series["time"][forming])),
        np.concatenate((values, series[FIELDS[field]][forming])),
    )
