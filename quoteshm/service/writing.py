"""Who holds the segment while the daemon runs, and shows that somebody is alive behind it."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any, Final

from twisted.application.service import Service
from twisted.logger import Logger

from quoteshm.errors import SegmentError
from quoteshm.service.periodic import Periodic
from quoteshm.shm.writer import SegmentWriter

if TYPE_CHECKING:
    from quoteshm.clock import Clock
    from quoteshm.service.settings import Settings
    from quoteshm.shm.segment import SegmentSpec

HEARTBEAT_S: Final = 1.0


class WriterService(Service):
    """Holds the segment from `open` to stop, and stamps its heartbeat.

    The lock is taken by `open`, at the start of the tree: twistd has become a daemon by then.
    """

    def __init__(self, spec: SegmentSpec, clock: Clock, reactor: Any, settings: Settings) -> None:  # noqa: ANN401 (one of Twisted's, of several interfaces)
        self.spec, self._clock, self._settings = spec, clock, settings
        self.writer: SegmentWriter | None = None
        self._was_there = False
        self._reactor, self._last_beat_s = reactor, -math.inf
        self._heartbeat = Periodic(
            reactor, HEARTBEAT_S, self._beat, failed="no heartbeat", now=True
        )

    log = Logger()

    def open(self) -> SegmentWriter:
        """Open the segment, and begin to stamp it."""
        if not self._settings.shm:
            writer = SegmentWriter.anonymous(self.spec, self._clock)
            self.log.info("no shared memory: serving over the network only")
        else:
            self._was_there = os.path.lexists(self.spec.path)
            writer = SegmentWriter.open(self.spec, self._clock)
            self._log_opened(writer)
        self.writer = writer
        self._heartbeat.startService()
        return writer

    def _log_opened(self, writer: SegmentWriter) -> None:
        if writer.refused is not None:
            self.log.warn("replaced the segment that was there: {why}", why=str(writer.refused))
        self.log.info(
            "{done} segment {path}: instance {instance}, {size} bytes, epoch {epoch}",
            done="adopted" if writer.adopted else "made",
            path=str(writer.path),
            instance=writer.instance,
            size=writer.size,
            epoch=writer.epoch,
        )

    def _beat(self) -> None:
        if self.writer is not None:
            self.writer.heartbeat()
            self._last_beat_s = self._reactor.seconds()

    def beat_age_s(self) -> float:
        """Give the seconds since the heartbeat was last written."""
        return float(self._reactor.seconds() - self._last_beat_s)

    def abandon(self) -> None:
        """Let go after a failed start: what was there before it stays there."""
        self._close(unlink=not self._was_there)

    def stopService(self) -> None:
        """Close the segment, and take its name away unless told to keep it."""
        super().stopService()  # type: ignore[no-untyped-call]
        self._close(unlink=not self._settings.keep_segment)

    def _close(self, *, unlink: bool) -> None:
        self._heartbeat.stopService()
        writer, self.writer = self.writer, None
        if writer is None:
            return
        try:
            writer.close(unlink=unlink)
        except SegmentError as error:  # it is closed, but its name could not be taken away
            why = str(error)
        else:
            self.log.info("closed the segment")
            return
        self.log.error("the closed segment is left behind: {why}", why=why)
