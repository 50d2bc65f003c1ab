"""How the daemon stands, in words: what is published, how fresh it is, who fails, what is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quoteshm.shm.reader import HUNG_AFTER_MS
from quoteshm.shm.table import is_stale

if TYPE_CHECKING:
    from collections.abc import Callable

    from quoteshm.clock import Clock
    from quoteshm.service.refresh import RefreshService
    from quoteshm.shm.writer import SegmentWriter

#: Readers call the writer hung then.
HEARTBEAT_OLD_S: Final = HUNG_AFTER_MS / 1000


class DaemonStanding:
    """Looks at the writer and the refreshes. In the reactor's thread only.

    Parameters
    ----------
    writer : SegmentWriter
    refresh : RefreshService
    clock : Clock
        What tells how old a quote is.
    beat_age_s : callable
        Gives the seconds since the segment's heartbeat was last written.

    """

    def __init__(
        self,
        writer: SegmentWriter,
        refresh: RefreshService,
        clock: Clock,
        beat_age_s: Callable[[], float],
    ) -> None:
        self._writer, self._refresh = writer, refresh
        self._clock, self._beat_age_s = clock, beat_age_s

    def is_published(self) -> bool:
        """Tell whether any ticker has a value, of this daemon's or of a segment it adopted."""
        return bool(self._writer.present().any())

    def unwell(self) -> str | None:
        """Give the reason why the daemon is not to be taken for alive, if there is one."""
        age_s = self._beat_age_s()
        if age_s > HEARTBEAT_OLD_S:
            return "the segment's heartbeat cannot be written"
        return None

    def words(self) -> str:
        """Say how many tickers are fresh, stale or failing, and what failed last."""
        refresh = self._refresh
        told = [f"{refresh.source.name}: {self._freshness()}"]
        if refresh.troubles:
            ticker = max(
                refresh.troubles, key=lambda one: refresh.troubles[one].last_attempt_ms or 0
            )
            trouble = refresh.troubles[ticker]
            said = f"{ticker}: {trouble.reason.value}, {trouble.message}"
            count = len(refresh.troubles)
            told.append(f"{count} failing, {'the last one ' if count > 1 else ''}{said}")
        if refresh.error is not None:
            told.append(f"the source broke off: {refresh.error}")
        return "; ".join(told)

    def _freshness(self) -> str:
        present = self._writer.present()
        count = int(present.sum())
        if not count:
            return "nothing is published yet"
        age_ms = self._clock.boot_ms() - self._writer.quotes()["updated_boot_ms"]
        old = present & is_stale(age_ms, self._writer.spec.freshness_ms)
        stale = int(old.sum())
        closed = int(old[self._writer.rows_of(self._refresh.closed)].sum())
        why = f" (market closed{'' if closed == stale else f' for {closed}'})" if closed else ""
        tickers = f"{count} ticker{'s' if count > 1 else ''}"
        if stale in {0, count}:
            return f"{tickers}, {'all ' if count > 1 else ''}{'stale' if stale else 'fresh'}{why}"
        return f"{tickers}, {count - stale} fresh, {stale} stale{why}"
