"""What the site shows: the parts of a daemon, as far as they are looked at here."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from quoteshm.shm import layout
from quoteshm.shm.table import is_stale

if TYPE_CHECKING:
    from quoteshm.clock import Clock
    from quoteshm.shm.writer import SegmentWriter
    from quoteshm.sources.base import Reason
    from quoteshm.wire.protocol import QuoteFactory
    from quoteshm.wire.tally import Histogram


class BarCounts(Protocol):
    """What a publisher counts."""

    dropped: int
    late: int
    restated: int
    refused: int
    commits: int


class Publishing(Protocol):
    """A publisher."""

    @property
    def counts(self) -> BarCounts:
        """What was left out or corrected, and how many commits there were."""

    @property
    def durations(self) -> Histogram:
        """How long publishing took, each time."""


class Failing(Protocol):
    """A ticker that fails."""

    @property
    def reason(self) -> Reason:
        """Why."""


class Refreshing(Protocol):
    """A schedule of refreshes."""

    @property
    def last_attempt_ms(self) -> int | None:
        """When any ticker was last asked for."""

    @property
    def last_success_ms(self) -> int | None:
        """When an answer was last published."""

    @property
    def error(self) -> str | None:
        """Why the last refresh broke off as a whole."""

    @property
    def closed(self) -> Collection[str]:
        """The tickers that are not asked for until their exchange opens."""

    @property
    def troubles(self) -> Mapping[str, Failing]:
        """The tickers that fail."""

    @property
    def failed(self) -> Mapping[Reason, int]:
        """How many attempts failed so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """A daemon, as the site sees it.

    Attributes
    ----------
    factory : QuoteFactory
        The wire.
    publisher : Publishing
    refresh : Refreshing
    heartbeat_age_s : callable
        Gives the seconds since the segment was last stamped; infinite before the first time.
    describe_source : callable
        Gives what the source says of its requests; empty for one that asks nobody.

    """

    factory: QuoteFactory
    publisher: Publishing
    refresh: Refreshing
    heartbeat_age_s: Callable[[], float]
    describe_source: Callable[[], Mapping[str, object]] = dict

    @property
    def writer(self) -> SegmentWriter:
        """The market."""
        return self.factory.context.writer

    @property
    def clock(self) -> Clock:
        """What ages are told by."""
        return self.factory.context.cache.clock

    def ages(self) -> Ages:
        """Look at how old the quotes are."""
        table = self.writer.quotes()
        is_there = self.writer.present()
        there = table[is_there]
        if not len(there):
            return Ages(0, 0, 0, None, None)
        ages_ms = self.clock.boot_ms() - there["updated_boot_ms"]
        # As `QuoteCache`: what was confirmed in the future was so before the machine started anew.
        # How long ago that was, and for what is out of an archive, only the wall's clock can say.
        known = (ages_ms >= 0) & (there["updated_boot_ms"] != layout.UNCONFIRMED_BOOT_MS)
        stale = np.count_nonzero(is_stale(ages_ms, self.writer.spec.freshness_ms))
        by_wall_ms = np.maximum(0, self.clock.wall_ms() - there["updated_ms"])
        ages_ms = np.where(known, ages_ms, by_wall_ms)
        closed = np.count_nonzero(is_there[self.writer.rows_of(self.refresh.closed)])
        return Ages(len(there), int(stale), int(closed), int(ages_ms.min()), int(ages_ms.max()))


class Ages(NamedTuple):
    """How old quotes are: since they were last confirmed."""

    tickers: int
    stale: int
    closed: int  # that nobody asks for until their exchange opens; they become stale
    newest_ms: int | None
    oldest_ms: int | None
