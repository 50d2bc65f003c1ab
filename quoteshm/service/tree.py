"""The tree of services that a daemon is.

It starts from the segment outwards and stops the other way round, one service after the other:
the writer, then the listeners, then the refreshes. What keeps it from starting is one line of the
log, and `start_failed` is told.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from twisted.application.service import MultiService, Service
from twisted.internet import defer
from twisted.logger import Logger

from quoteshm.errors import QuoteShmError, SettingsError
from quoteshm.market.archive import Archive
from quoteshm.market.quotes import QuoteCache
from quoteshm.service import calendars
from quoteshm.service import options as settings_options
from quoteshm.service.archiver import ArchiveService
from quoteshm.service.hours import Hours
from quoteshm.service.listening import HTTP_FILES, OTHER_FILES, Drain, Listener, make_room
from quoteshm.service.live import LiveService
from quoteshm.service.notify import Channel, Notify
from quoteshm.service.periodic import Periodic
from quoteshm.service.publisher import Publisher
from quoteshm.service.refresh import EAGER, PATIENT, RefreshService
from quoteshm.service.roster import LOGGED, Roster, named
from quoteshm.service.standing import DaemonStanding
from quoteshm.service.writing import WriterService
from quoteshm.shm.segment import SegmentSpec
from quoteshm.sources.worker import T, Worker
from quoteshm.wire.auth import Gate
from quoteshm.wire.operations import Context
from quoteshm.wire.protocol import QuoteFactory

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from quoteshm.clock import Clock
    from quoteshm.service.settings import Settings
    from quoteshm.shm.writer import SegmentWriter
    from quoteshm.sources.base import Source
    from quoteshm.wire.bounds import Bounds
    from quoteshm.wire.push import Hub

LOOK_AFTER_S: Final = 1.0  # from one look at the deadlines of clients to the next
#: So long the source waits for the archive; a disk that does not answer then is not waited for.
LOAD_WAIT_S: Final = 30.0
#: Reading Parquet is work; while it is done, most of the time, Python is free for the reactor.
ARCHIVE_THREADS: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a daemon is made of, once its segment is open; None is what no option asks for."""

    settings: Settings
    factory: QuoteFactory
    publisher: Publisher
    refresh: RefreshService
    roster: Roster
    notify: Notify
    live: LiveService | None
    archiver: ArchiveService | None
    http: Listener | None

    def describe(self) -> dict[str, object]:
        """Give what ``get_info`` says of the daemon, besides what the segment tells."""
        refresh, counts = self.refresh, self.publisher.counts
        told: dict[str, object] = {
            "refresh_s": self.settings.refresh_s,
            "freshness_s": self.settings.freshness_s,
            "bars": {
                "dropped": counts.dropped,
                "late": counts.late,
                "restated": counts.restated,
                "refused": counts.refused,
            },
            "last_attempt_ms": refresh.last_attempt_ms,
            "last_success_ms": refresh.last_success_ms,
            "error": refresh.error,
            "ticker_status": refresh.status(),
            "clients": self.factory.connections.count,
            "subscriptions": len(self.factory.hub),
        }
        if self.http is not None:
            told["http"] = self.http.where
        requests = refresh.source.describe()
        if requests:
            told["requests"] = requests
        if self.live is not None:
            told["live"] = self.live.describe()
        if self.archiver is not None:
            told["archive"] = self.archiver.describe()
        return told


class Daemon(MultiService):
    """The whole tree, started in order and stopped one after the other, the last one first.

    Parameters
    ----------
    settings : Settings
    reactor
        Twisted's.
    clock : Clock
    source : Source
    tickers : sequence of str
        The wanted ones.
    start_failed : callable
        Called with what kept the daemon from starting, once that has been logged; it does not
        return.
    gate : Gate, optional
        What clients have to show; by default nothing.

    Attributes
    ----------
    opened : WriterService
        Who holds the segment.
    parts : Parts or None
        What it is made of, from its start on.

    """

    log = Logger()

    def __init__(  # noqa: PLR0913 (it is where all of them meet)
        self,
        settings: Settings,
        reactor: Any,  # noqa: ANN401 (one of Twisted's, of several interfaces)
        clock: Clock,
        source: Source,
        *,
        tickers: Sequence[str],
        start_failed: Callable[[Exception], None],
        gate: Gate | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.settings, self.source, self.tickers = settings, source, tuple(tickers)
        self._reactor, self._clock, self._start_failed = reactor, clock, start_failed
        self.gate = gate or Gate()
        self.listeners: list[Listener] = []
        self.parts: Parts | None = None
        self._workers: list[Worker] = []  # that end behind all services
        spec = SegmentSpec(
            max_tickers=settings.room(len(self.tickers)),
            kinds=settings.kinds,
            source=source.name,
            freshness_ms=round(settings.freshness_s * 1000),
            adjustment=source.adjustment,
            name=settings.shm_name,
            directory=settings.shm_dir,
            mode=settings.shm_mode,
            group=settings.shm_group,
        )
        self.opened = WriterService(spec, clock, reactor, settings)
        self.opened.setServiceParent(self)  # type: ignore[no-untyped-call]

    def startService(self) -> None:
        """Open the segment, listen, and begin to refresh."""
        try:
            super().startService()  # type: ignore[no-untyped-call]
            self.parts = self._start_rest(self.opened.open())
        except (QuoteShmError, OSError) as error:
            self.log.critical("cannot start: {why}", why=_said(error))
            for listener in self.listeners:
                listener.abandon()
            self.opened.abandon()
            self._start_failed(error)

    def _start_rest(self, writer: SegmentWriter) -> Parts:
        """Start what needs the writer; a service starts as it joins a tree that runs."""
        settings = self.settings
        debug, quiet = settings.log_level == "debug", settings.log_level not in {"debug", "info"}
        cache = QuoteCache(writer, self._clock)
        context = Context(writer, cache, self._bounds())
        factory = QuoteFactory(context, self._reactor, self.gate, log_traffic=debug)
        Drain(factory).setServiceParent(self)  # type: ignore[no-untyped-call]
        self._listen(factory)
        Periodic(self._reactor, LOOK_AFTER_S, factory.look_after).setServiceParent(self)  # type: ignore[no-untyped-call]
        publisher = Publisher(
            writer, self._clock, factory.hub.published, verbose=debug, quiet=quiet
        )
        publisher.retire(self.tickers)
        is_yahoo = settings.source == "yahoo"
        refresh = RefreshService(
            self.source,
            publisher,
            self.tickers,
            settings.kinds,
            refresh_s=settings.refresh_s,
            failures=cache.failures,
            reactor=self._reactor,
            clock=self._clock,
            rng=random.Random(),  # noqa: S311 (for jitter)
            patience=PATIENT if is_yahoo else EAGER,
            hours=self._make_hours(writer) if is_yahoo else None,
        )
        cache.wanted = refresh.wanted
        live = self._make_live(publisher) if settings.live else None
        archiver = None
        if settings.state_dir is not None:
            archiver = self._make_archiver(writer, factory.hub, settings.state_dir)
        context.roster = roster = Roster(
            refresh,
            publisher,
            changed=_told_nobody if live is None else live.set_tickers,
            removed=_told_nobody if archiver is None else archiver.drop,
        )
        http = None
        if settings.http is not None:
            http = self._listen_http(settings.http, factory, publisher, refresh)
        standing = DaemonStanding(writer, refresh, self._clock, self.opened.beat_age_s)
        notify = Notify(self._reactor, Channel.from_environment(os.environ), standing)
        notify.setServiceParent(self)  # type: ignore[no-untyped-call]
        parts = Parts(
            settings=settings,
            factory=factory,
            publisher=publisher,
            refresh=refresh,
            roster=roster,
            notify=notify,
            live=live,
            archiver=archiver,
            http=http,
        )
        context.describe = parts.describe
        if archiver is None:
            # Not before: a signal that comes until then ends the process as it stands.
            self._reactor.callWhenRunning(self._start_refresh, parts)
        else:
            self._load(archiver).addCallback(lambda _: self._start_refresh(parts))
        return parts

    def reload(self) -> None:
        """Read the file of ``--tickers`` again, and serve what it says; SIGHUP asks for it.

        A file that cannot be read, or is bad, leaves all as it was.
        """
        if self.parts is not None:
            with self.parts.notify.reloading():
                self._reload(self.parts.roster)

    def _reload(self, roster: Roster) -> None:
        path = self.settings.tickers_file
        if path is None:
            self.log.info("SIGHUP: nothing to be read again, as --tickers names no file")
            return
        try:
            if not path.is_file():  # a pipe, or a terminal, could keep the reactor for ever
                raise SettingsError("--tickers", f"@{path}", "a file, to be read again")  # noqa: TRY301 (as one that cannot be read)
            tickers = settings_options.read_tickers(path, settings_options.read_file)
        except SettingsError as error:
            why = _said(error)
        else:
            self._serve(roster, path, tickers)
            return
        self.log.error("the tickers stay as they are: {why}", why=why)

    def _serve(self, roster: Roster, path: Path, tickers: Sequence[str]) -> None:
        """Serve what a file says, and say in one line what that has changed."""
        removed, added = roster.serve(tickers)
        self.log.info(
            "read {path} again: added {added}; removed {removed}",
            path=str(path),
            added=named(added.added),
            removed=named(removed.removed),
        )
        for ticker, why in list(added.refused.items())[:LOGGED]:
            self.log.warn("{ticker} is not added: {why}", ticker=ticker, why=why)

    def _make_hours(self, writer: SegmentWriter) -> Hours | None:
        """Have trading hours looked up, in a thread of their own, where there are any."""
        if not calendars.is_installed():
            self.log.info("no trading hours (extra calendar): tickers are asked for at any time")
            return None
        worker = Worker(self._reactor, "calendar")
        self._workers.append(worker)

        def time_zone(ticker: str) -> str | None:
            row = writer.row_of.get(ticker)
            return None if row is None else writer.tickers[row].time_zone

        return Hours(
            self._clock, time_zone, lambda *asked: worker.run(lambda: calendars.load(*asked))
        )

    def _make_live(self, publisher: Publisher) -> LiveService:
        from quoteshm.sources.yahoo_live import YahooFeed  # noqa: PLC0415 (needs an extra)

        worker = Worker(self._reactor, "live")

        def run(work: Callable[[], T]) -> defer.Deferred[T]:
            done = worker.run(work)
            worker.stop()  # it is all that is ever asked of it
            return done

        return LiveService(
            YahooFeed(self._reactor, run),
            publisher,
            self.tickers,
            reactor=self._reactor,
            clock=self._clock,
            rng=random.Random(),  # noqa: S311 (for jitter)
        )

    def _bounds(self) -> Bounds:
        """Give the bounds of the wire, with no more connections than there are files for."""
        wanted = self.settings.max_connections
        others = OTHER_FILES + (HTTP_FILES if self.settings.http is not None else 0)
        room = max(1, make_room(wanted, others))  # none at all would be no server
        if room < wanted:
            form = "room for {room} connections, not {wanted}: see ulimit -n"
            self.log.info(form, room=room, wanted=wanted)
        return replace(self.settings.bounds, max_connections=room)

    def _listen(self, factory: QuoteFactory) -> None:
        ca = self.settings.tls_client_ca
        for description in self.settings.endpoints:
            listener = Listener(self._reactor, description, factory, client_ca=ca)
            self.listeners.append(listener)
            listener.setServiceParent(self)  # type: ignore[no-untyped-call]

    def _listen_http(
        self, endpoint: str, factory: QuoteFactory, publisher: Publisher, refresh: RefreshService
    ) -> Listener:
        from quoteshm.web.site import Site  # noqa: PLC0415 (needs an extra)
        from quoteshm.web.watched import Watched  # noqa: PLC0415 (only with it)

        watched = Watched(
            factory=factory,
            publisher=publisher,
            refresh=refresh,
            heartbeat_age_s=self.opened.beat_age_s,
            describe_source=self.source.describe,
        )
        settings = self.settings
        names, debug = settings.http_hosts, settings.log_level == "debug"
        site = Site(watched, self._reactor, names=names, log_traffic=debug)
        said = "dashboard at http://{where}/"
        listener = Listener(self._reactor, endpoint, site, said=said)
        self.listeners.append(listener)
        listener.setServiceParent(self)  # type: ignore[no-untyped-call]
        return listener

    def _make_archiver(self, writer: SegmentWriter, hub: Hub, state_dir: Path) -> ArchiveService:
        worker = Worker(self._reactor, "archive", ARCHIVE_THREADS)
        archiver = ArchiveService(
            Archive(state_dir / "archive", self.source.name, self.source.adjustment),
            writer,
            self.tickers,
            run=worker.run,
            reactor=self._reactor,
            clock=self._clock,
            committed=hub.published,
        )
        archiver.stopped.addCallback(lambda _: worker.stop())
        return archiver

    def _load(self, archiver: ArchiveService) -> defer.Deferred[None]:
        """Load what is archived; only then the source is asked, which is told of all of it."""
        archiver.setServiceParent(self)  # type: ignore[no-untyped-call]
        return archiver.loaded.addTimeout(
            LOAD_WAIT_S, self._reactor, onTimeoutCancel=self._log_slow_load
        )

    def _log_slow_load(self, _result: object, timeout_s: float) -> None:
        self.log.warn("the archive is not loaded after {seconds} s", seconds=timeout_s)

    def _start_refresh(self, parts: Parts) -> None:
        if self.running:
            parts.refresh.setServiceParent(self)  # type: ignore[no-untyped-call]
            if parts.live is not None:
                parts.live.setServiceParent(self)  # type: ignore[no-untyped-call]

    def stopService(self) -> defer.Deferred[None]:
        """Stop the refreshes first, the segment last."""
        if self.parts is not None:
            self.parts.notify.stopping()
        Service.stopService(self)
        return defer.Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        for service in reversed(list(self)):
            try:
                await defer.maybeDeferred(service.stopService)
            except Exception:  # noqa: BLE001 (the others are to stop all the same)
                self.log.failure("a service did not stop as it should")
        for worker in self._workers:
            worker.stop()


def _told_nobody(_tickers: Iterable[str]) -> None:
    """Have nobody to tell of the tickers."""


def _said(error: BaseException) -> str:
    return " ".join(str(error).split())
