"""The tree of services: in order, one heart, and a start that fails leaves nothing behind."""

from __future__ import annotations

import errno
import json
import random
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from twisted.application.service import Service
from twisted.internet import defer
from twisted.internet.error import CannotListenError
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial import unittest

from quoteshm.errors import WriterRunningError
from quoteshm.market.quotes import QuoteCache
from quoteshm.service import tree
from quoteshm.service.settings import Settings
from quoteshm.service.tree import Daemon, Parts
from quoteshm.shm.writer import SegmentWriter
from quoteshm.sources.synthetic import Synthetic
from quoteshm.wire import operations
from tests.published import FakeClock


class RunningReactor(MemoryReactorClock):
    """A reactor that runs already: what waits for that is called at once."""

    def callWhenRunning(self, call: Any, *args: Any, **options: Any) -> None:  # type: ignore[override]  # noqa: N802  Twisted's name
        """Call it."""
        call(*args, **options)


class NotStartedError(Exception):
    """What a test's daemon says where a real one ends its process."""


class Case(unittest.TestCase):
    """A daemon on a reactor in memory and a folder of its own."""

    def setUp(self) -> None:
        """Make a folder for the segment."""
        # Not trial's `mktemp`: under pytest that is a folder of the checkout.
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.reactor: Any = RunningReactor()
        self.clock = FakeClock()
        self.settings = Settings(
            source="synthetic",
            tickers=("AAPL", "MSFT"),
            shm_name=f"t{random.getrandbits(60):x}",
            shm_dir=self.folder,
            refresh_s=1.0,
        )

    def make(self, **changes: Any) -> Daemon:
        """Make a daemon."""
        self.settings = replace(self.settings, **changes)

        def start_failed(error: Exception) -> None:
            raise NotStartedError from error

        source = Synthetic(self.clock)
        return Daemon(
            self.settings,
            self.reactor,
            self.clock,
            source,
            tickers=self.settings.tickers,
            start_failed=start_failed,
        )

    def parts(self, one: Daemon) -> Parts:
        """Give what a daemon that has started is made of."""
        assert one.parts is not None
        return one.parts

    @property
    def segment(self) -> Path:
        """Where the segment is."""
        return self.folder / self.settings.shm_name


class TestDaemon(Case):
    """The whole tree."""

    def test_it_opens_listens_and_refreshes(self) -> None:
        """All that is asked for, and the answers are published."""
        one = self.make(endpoints=("tcp:7:interface=127.0.0.1", "tcp:8"))
        assert not self.segment.exists()
        one.startService()
        assert [server[0] for server in self.reactor.tcpServers] == [7, 8]
        assert self.segment.exists()
        told: Any = self.parts(one).describe()
        assert told["ticker_status"]["AAPL"]["state"] == "ok"
        assert told["bars"] == {"dropped": 0, "late": 0, "restated": 0, "refused": 0}
        assert (told["clients"], told["subscriptions"]) == (0, 0)
        assert "requests" not in told  # the source asks nobody
        context = self.parts(one).factory.context
        info = json.loads(operations.answer(context, b'{"v":1,"id":1,"type":"get_info"}').reply)[
            "data"
        ]
        assert info.items() >= told.items()
        assert (info["source"], info["intervals"]) == ("synthetic", {"1d": 2520})

        self.successResultOf(one.stopService())
        assert not self.segment.exists()

    def test_no_more_connections_are_let_in_than_there_are_files_for(self) -> None:
        """And `get_info` says so; one there may always be."""
        for room, most in ((0, 1), (7, 7), (20, 20)):
            self.patch(tree, "make_room", lambda _wanted, _others, room=room: room)
            one = self.make(max_connections=20, endpoints=("tcp:7",))
            with capturedLogs() as logs:
                one.startService()
            factory = self.reactor.tcpServers[-1][1]
            assert factory.connections.total == most
            assert factory.context.bounds.max_connections == most
            told = [event["room"] for event in logs if "room" in event]
            assert told == ([most] if most < 20 else [])
            self.successResultOf(one.stopService())

    def test_a_segment_is_kept_where_that_is_asked_for(self) -> None:
        """And nothing of a --no-shm daemon is ever there."""
        one = self.make(keep_segment=True)
        one.startService()
        self.successResultOf(one.stopService())
        assert self.segment.exists()

        self.segment.unlink()
        other = self.make(shm=False)
        other.startService()
        assert not self.segment.exists()
        self.successResultOf(other.stopService())

    def test_services_stop_one_after_the_other_the_last_one_first(self) -> None:
        """The segment closes when nobody writes to it any more."""
        one = self.make(shm=False)
        one.startService()
        stopped: list[str] = []
        gate: defer.Deferred[None] = defer.Deferred()

        class Slow(Service):
            def stopService(self) -> defer.Deferred[None]:
                stopped.append("slow")
                return gate

        class Broken(Service):
            def stopService(self) -> None:
                stopped.append("broken")
                raise ZeroDivisionError

        Slow().setServiceParent(one)
        Broken().setServiceParent(one)
        ended = one.stopService()
        assert stopped == ["broken", "slow"]
        assert one.opened.writer is not None
        gate.callback(None)
        self.successResultOf(ended)
        assert one.opened.writer is None
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 1

    def test_the_heart_beats_each_second_whatever_happens(self) -> None:
        """An exception in one beat is logged; the next one comes."""
        one = self.make()
        one.startService()
        writer = one.opened.writer
        assert writer is not None
        beats: list[int] = []
        self.patch(writer, "heartbeat", lambda: 1 / 0)
        self.reactor.advance(1)
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 1
        self.patch(writer, "heartbeat", lambda: beats.append(1))
        self.reactor.pump([1, 1, 1])
        assert beats == [1, 1, 1]
        self.successResultOf(one.stopService())

    def test_a_segment_that_is_being_written_is_left_to_its_writer(self) -> None:
        """The daemon does not start, nor listen."""
        first, second = self.make(), self.make()
        first.startService()
        with pytest.raises(NotStartedError) as caught:
            second.startService()
        assert isinstance(caught.value.__cause__, WriterRunningError)
        assert len(self.reactor.tcpServers) == 1
        assert self.segment.exists()
        self.successResultOf(first.stopService())

    def test_a_port_in_use_leaves_what_was_there(self) -> None:
        """A segment that stood there before does so after, an own one does not."""

        def in_use(*_: object, **__: object) -> None:
            raise CannotListenError("127.0.0.1", 7, "in use")

        self.patch(self.reactor, "listenTCP", in_use)
        for there_before in (False, True):
            one = self.make()
            if there_before:
                SegmentWriter.open(one.opened.spec, self.clock).close(unlink=False)
            with pytest.raises(NotStartedError):
                one.startService()
            assert self.segment.exists() == there_before

    def test_an_address_of_another_machine_is_a_bad_value(self) -> None:
        """And names the options it can be given by."""

        def not_here(*_: object, **__: object) -> None:
            raise CannotListenError("10.9.9.9", 7, OSError(errno.EADDRNOTAVAIL, "not here"))

        self.patch(self.reactor, "listenTCP", not_here)
        with pytest.raises(NotStartedError) as caught:
            self.make().startService()
        assert str(caught.value.__cause__).startswith("--interface or --endpoint: found '10.9.9.9'")

    def test_a_segment_whose_name_stays_is_told_of(self) -> None:
        """In one line; the rest of the stop goes on."""
        one = self.make()
        one.startService()

        def unlink(_path: Path) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

        self.patch(Path, "unlink", unlink)
        with capturedLogs() as logged:
            self.successResultOf(one.stopService())
        (told,) = (event for event in logged if event["log_level"] is LogLevel.error)
        assert told["why"] == f"{self.segment}: Permission denied"
        assert one.opened.writer is None

    def test_the_room_and_the_freshness_reach_the_segment(self) -> None:
        """As settings say."""
        spec = self.make(freshness_s=2.5, shm_mode=0o600).opened.spec
        assert (spec.freshness_ms, spec.max_tickers, spec.mode) == (2500, 64, 0o600)
        assert self.make(max_tickers=7).opened.spec.max_tickers == 7


class TestTickers(Case):
    """Tickers that come and go while it runs."""

    def served(self, one: Daemon) -> list[str]:
        """Give the tickers that have a value in the segment."""
        writer = one.opened.writer
        assert writer is not None
        return QuoteCache(writer, self.clock).tickers()

    def test_a_file_is_read_again(self) -> None:
        """Its differences are applied, and one line says so; clients' changes end with it."""
        path = self.folder / "list"
        one = self.make(tickers_file=path)
        one.startService()
        self.parts(one).roster.add(["IBM"])
        path.write_text("# those that count\n\nMSFT  # here\nGE,KO")
        with capturedLogs() as logged:
            one.reload()
        (line,) = [formatEvent(event) for event in logged if "again" in str(event["log_format"])]
        assert line == f"read {path} again: added GE, KO; removed AAPL, IBM"
        self.reactor.advance(0)
        assert self.served(one) == ["GE", "KO", "MSFT"]
        self.successResultOf(one.stopService())

    def test_a_file_that_is_bad_or_gone_leaves_all_as_it_was(self) -> None:
        """One line, which names file and line."""
        path = self.folder / "list"
        one = self.make(tickers_file=path)
        one.startService()
        for content, why in (
            (None, f"--tickers: found '@{path}', expected a file, to be read again"),
            ("AAPL\n\nGE " + "x" * 33, f"--tickers: {path}, line 3: found '{'x' * 33}', expected"),
            ("# none\n", f"--tickers: {path}: found 'no ticker', expected at least one"),
            ("\udcff", f"--tickers: {path}: found 'no UTF-8 at byte 0', expected text"),
        ):
            if content is not None:
                path.write_text(content, "utf-8", "surrogateescape")
            with capturedLogs() as logged:
                one.reload()
            (line,) = logged
            assert line["log_level"] is LogLevel.error
            said = formatEvent(line)
            assert said is not None
            assert said.startswith(f"the tickers stay as they are: {why}")
            assert self.served(one) == ["AAPL", "MSFT"]
        self.successResultOf(one.stopService())

    def test_without_a_file_there_is_nothing_to_be_read(self) -> None:
        """It is one line, and no more."""
        one = self.make()
        one.startService()
        with capturedLogs() as logged:
            one.reload()
        (line,) = logged
        assert "names no file" in str(formatEvent(line))
        assert self.served(one) == ["AAPL", "MSFT"]
        self.successResultOf(one.stopService())

    def test_the_options_decide_at_a_restart(self) -> None:
        """What the segment has and they lack goes, what they have again comes back."""
        one = self.make(keep_segment=True)
        one.startService()
        self.parts(one).roster.remove(["AAPL"])
        self.parts(one).roster.add(["IBM"])
        self.reactor.advance(0)
        assert self.served(one) == ["IBM", "MSFT"]
        self.successResultOf(one.stopService())
        for tickers in (("AAPL", "GE"), ("MSFT", "IBM", "AAPL")):
            other = self.make(tickers=tickers)
            other.startService()
            writer = other.opened.writer
            assert writer is not None
            assert writer.adopted
            assert self.served(other) == sorted(tickers)
            assert [writer.row_of[t] for t in ("AAPL", "MSFT", "IBM")] == [0, 1, 2]
            assert len(writer.history(writer.row_of["AAPL"], "1d")[0]) == 2520
            self.successResultOf(other.stopService())

    def test_stream_and_archive_hear_of_it(self) -> None:
        """The one has the new list, the other is not to load what is gone."""
        one = self.make(live=True, state_dir=self.folder)
        live, archiver = mock.Mock(), mock.Mock()
        makers = {"_make_live": mock.DEFAULT, "_make_archiver": mock.DEFAULT}
        with mock.patch.multiple(one, **makers) as made:
            made["_make_live"].return_value = live
            made["_make_archiver"].return_value = archiver
            one.startService()
        self.parts(one).roster.remove(["AAPL"])
        archiver.drop.assert_called_once_with(["AAPL"])
        (tickers,) = live.set_tickers.call_args.args
        assert list(tickers) == ["MSFT"]
        self.successResultOf(one.stopService())
