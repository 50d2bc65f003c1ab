"""The bars of a panel: one field of many series, copied without a loop over them.

Whether they are still those that their rows tell of is for `reader` to find out behind the copy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from quoteshm.model import FIELDS
from quoteshm.shm import layout, panel
from quoteshm.shm.checks import check_series

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quoteshm.shm.attachment import Attachment
    from quoteshm.shm.layout import KindGeometry

_AT_A_TIME: Final = 32_768  # words: what is in the fast caches still when it is looked at again


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
    alike = kept.any() and _are_one(kept) and _are_one(forming)
    if alike and (not forming[0] or _are_one(series["time"])):
        n = int(kept[0])
        values = np.empty((len(rows), n + int(forming[0])))
        lines = _copy_grid(attached, kind, base, value_words, values[:, :n])
        if lines is not None:
            if forming[0]:
                lines = np.append(lines, series["time"][0])
                values[:, n] = series[FIELDS[field]]
            return panel.Grid(lines, values)
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


def _are_one(values: NDArray[Any]) -> bool:
    return bool((values == values[0]).all())


def _copy_grid(
    attached: Attachment,
    kind: KindGeometry,
    base: NDArray[np.intp],
    value_words: int,
    to: NDArray[np.float64],
) -> NDArray[np.int64] | None:
    """Copy values of as many series as ``to`` has rows; give the times that are those of all.

    Nothing if they are not. Some series at a time: their times are looked at while they are in the
    processor's cache, and no room is asked of the kernel for all of them.
    """
    times_of, values_of = attached.map.blocks[kind.index], attached.map.float_blocks[kind.index]
    lines = None
    n = to.shape[1]
    step = max(1, _AT_A_TIME // n)
    for i in range(0, len(to), step):
        some = base[i : i + step]
        times = attached.take_runs(times_of, some, n)
        if lines is None:
            lines = times[0].copy()
        if not (times == lines).all():
            return None
        to[i : i + step] = attached.take_runs(values_of, some + value_words, n)
    return None if lines is None else lines.view(np.int64)
