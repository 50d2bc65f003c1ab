"""Where clients come in, and that nothing of it is left behind."""
# mypy: allow-untyped-calls
# Twisted is typed only in part, and `untyped_calls_exclude` does not reach what we inherit.

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import re
import resource
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import twisted.internet
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import defer
from twisted.internet.address import IPv6Address
from twisted.internet.endpoints import (
    _SystemdParser,
)
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Protocol, ServerFactory
from twisted.internet.testing import MemoryReactorClock
from twisted.internet.threads import deferToThread
from twisted.python.systemd import ListenFDs
from twisted.trial import unittest

from quoteshm.errors import ListenError, SettingsError
from quoteshm.service import listening
from quoteshm.service.listening import Listener, make_room
from tests.certificates import Authority, endpoint


class Greeter(Protocol):
    """Says something, and hangs up."""

    def connectionMade(self) -> None:
        """Say it."""
        transport: Any = self.transport
        transport.write(b"hello")
        transport.loseConnection()


def quoted(text: str) -> str:
    """Quote a word of a description, also the sign that Twisted's own function lets be."""
    return re.sub(r"([\\:=])", r"\\\1", text)


@given(st.text(max_size=20), st.text(max_size=20))
def test_a_description_is_split_where_nothing_is_quoted(word: str, value: str) -> None:
    """Whatever is in its words."""
    words = listening._split(f"unix:{quoted(word)}:mode={quoted(value)}")

    assert words == ("unix", [word], {"mode": value})


@given(st.text(max_size=20))
def test_any_text_is_an_endpoint_or_a_bad_value(text: str) -> None:
    """No exception of another kind comes out of it."""
    reactor: Any = MemoryReactorClock()
    with contextlib.suppress(SettingsError):
        listening.make_endpoint(reactor, text)


class Case(unittest.TestCase):
    """A folder, and the real reactor."""

    timeout = 20

    def setUp(self) -> None:
        """Make the folder."""
        # At import it would be installed before another test may choose.
        from twisted.internet import reactor  # noqa: PLC0415

        self.reactor: Any = reactor
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.path = self.folder / "q.sock"
        self.factory = ServerFactory.forProtocol(Greeter)
        self.factory.noisy = False

    def listen(self, description: str, **named: Any) -> Listener:
        """Listen until the test is over."""
        listener = Listener(self.reactor, description, self.factory, **named)
        listener.startService()
        self.addCleanup(listener.stopService)
        return listener

    def refused(self, description: str, error: type[Exception], **named: Any) -> str:
        """Give what is said of an endpoint that cannot be, in one line."""
        with pytest.raises(error) as caught:
            Listener(self.reactor, description, self.factory, **named).startService()
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def greeted(self, path: Path) -> defer.Deferred[bytes]:
        """Connect from a thread."""

        def ask() -> bytes:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(5)
                client.connect(str(path))
                return client.recv(100)

        return deferToThread(ask)


class TestUnix(Case):
    """Unix sockets, which are files."""

    async def test_it_is_for_the_owner_and_the_group(self) -> None:
        """Unless the string says otherwise, in either way it can."""
        for given_mode, mode in (("", 0o660), (":mode=600", 0o600), (":666", 0o666)):
            listener = self.listen(f"unix:{self.path}{given_mode}")
            assert self.path.stat().st_mode & 0o777 == mode
            assert await self.greeted(self.path) == b"hello"
            await listener.stopService()
            assert not self.path.exists()
        assert list(self.folder.iterdir()) == []

    async def test_it_does_not_wait_for_a_second_client(self) -> None:
        """A socket that blocks would stop the whole server after the first one."""
        listener = self.listen(f"unix:{self.path}")
        assert not os.get_blocking(listener._port.fileno())

    async def test_a_path_may_have_colons(self) -> None:
        """Quoted as Twisted wants it."""
        path = self.folder / "a:b=c"
        self.listen(f"unix:{quoted(str(path))}")
        assert await self.greeted(path) == b"hello"

    async def test_what_a_dead_server_has_left_is_replaced(self) -> None:
        """A socket that nobody listens at."""
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(self.path))
            dead.listen()
        self.listen(f"unix:{self.path}")
        assert await self.greeted(self.path) == b"hello"

    async def test_a_live_server_is_left_alone_and_named(self) -> None:
        """Also one that has no time, and one that is this very process."""
        self.listen(f"unix:{self.path}")
        said = self.refused(f"unix:{self.path}", ListenError)
        assert said.startswith(f"cannot listen at unix:{self.path}: pid {os.getpid()} uid ")
        assert await self.greeted(self.path) == b"hello"

        busy_path = self.folder / "busy"
        with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
            busy.bind(str(busy_path))
            busy.listen(0)
            waiting.connect(str(busy_path))
            said = self.refused(f"unix:{busy_path}", ListenError)
            assert said.endswith("another process listens there")
            assert busy_path.exists()

    def test_what_is_no_socket_is_left_alone(self) -> None:
        """A file, a folder, a link to a file, and a socket of another type."""
        file = self.folder / "file"
        file.write_text("dear to somebody")
        link = self.folder / "link"
        link.symlink_to(file)
        datagrams = self.folder / "datagrams"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.bind(str(datagrams))
            for path in (file, link, self.folder, datagrams):
                said = self.refused(f"unix:{path}", ListenError)
                assert said.startswith(f"cannot listen at unix:{path}: ")
        assert file.read_text() == "dear to somebody"
        assert link.is_symlink()
        assert datagrams.exists()

    def test_a_path_that_cannot_be_is_named(self) -> None:
        """No folder, and too long a name."""
        missing = self.folder / "none" / "q"
        assert str(missing) in self.refused(f"unix:{missing}", ListenError)
        long = self.folder / ("x" * 120)
        assert "too long" in self.refused(f"unix:{long}", ListenError)

    async def test_it_stops_though_its_file_is_gone(self) -> None:
        """Somebody has tidied up."""
        listener = self.listen(f"unix:{self.path}")
        self.path.unlink()
        await listener.stopService()
        assert not self.path.exists()

    async def test_the_file_of_who_came_after_it_stays(self) -> None:
        """Another server took the path, whatever it did with the first file."""
        first = self.listen(f"unix:{self.path}")
        self.path.unlink()
        second = self.listen(f"unix:{self.path}")
        await first.stopService()
        assert await self.greeted(self.path) == b"hello"
        await second.stopService()
        assert not self.path.exists()

    async def test_a_start_that_is_given_up_leaves_no_file(self) -> None:
        """The reactor does not run then, so nothing can be waited for."""
        listener = self.listen(f"unix:{self.path}")
        listener.abandon()
        assert not self.path.exists()
        await listener.stopService()
        Listener(self.reactor, "tcp:0", self.factory).abandon()

    async def test_two_that_begin_at_once_wait_for_each_other(self) -> None:
        """From the look at what is there until it listens: to others it looks dead until then."""
        locked: list[bool] = []

        def is_locked() -> bool:
            fd = os.open(self.folder, os.O_RDONLY)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            finally:
                os.close(fd)
            return False

        look, own_file = listening._take_away_dead, listening._UnixPort.own_file

        def looking(path: str) -> None:
            locked.append(is_locked())
            look(path)

        def owning(port: Any, path: str) -> None:  # the last but to listen
            locked.append(is_locked())
            own_file(port, path)

        self.patch(listening, "_take_away_dead", looking)
        self.patch(listening._UnixPort, "own_file", owning)
        self.listen(f"unix:{self.path}")
        self.refused(f"unix:{self.path}", ListenError)
        assert locked == [True, True, True]
        assert not is_locked()
        assert await self.greeted(self.path) == b"hello"

    def test_a_folder_that_stays_locked_is_named(self) -> None:
        """After a while; who lets go of it in time is waited for."""
        self.patch(listening, "LOCK_WAIT_S", 0.0)
        fd = os.open(self.folder, os.O_RDONLY)
        fcntl.flock(fd, fcntl.LOCK_EX)
        said = self.refused(f"unix:{self.path}", ListenError)
        assert said.endswith(f"another process has locked {self.folder}")
        assert not self.path.exists()
        self.patch(listening, "LOCK_WAIT_S", 10.0)
        self.patch(time, "sleep", lambda _: os.close(fd))
        self.listen(f"unix:{self.path}")
        assert self.path.exists()

    def test_bad_words_are_named(self) -> None:
        """Of which Twisted has more than these."""
        for words in ("", ":mode=999", ":mode=7777", ":mode=x", ":backlog=x", ":colour=red"):
            description = f"unix:{self.path}{words}" if words else "unix"
            said = self.refused(description, SettingsError)
            assert said.startswith(f"--endpoint: found '{description}', expected ")
        assert list(self.folder.iterdir()) == []


class TestTcp(Case):
    """Ports."""

    def test_a_busy_port_is_named(self) -> None:
        """With the endpoint that asked for it."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            description = f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
            said = self.refused(description, ListenError)
        assert said == f"cannot listen at {description}: Address already in use"
        gc.collect()
        self.flushWarnings()  # Twisted leaves the socket that it could not bind to the collector

    def test_a_burst_finds_room_unless_the_string_says_otherwise(self) -> None:
        """Also over IPv6."""
        reactor: Any = MemoryReactorClock()
        for description in (
            "tcp:1",
            "tcp:1:interface=127.0.0.1",
            "tcp:1:backlog=7",
            "tcp:1:127.0.0.1:8",
            "tcp6:1",
            "tcp6:1:9",
        ):
            listening.make_endpoint(reactor, description).listen(self.factory)
        assert [server[2] for server in reactor.tcpServers] == [1024, 1024, 7, 8, 1024, 9]

    async def test_every_endpoint_of_twisteds_will_do(self) -> None:
        """Here, one on IPv6 that is listened at beside a path."""
        first = self.listen("tcp6:0:interface=\\:\\:1")
        self.listen(f"unix:{self.path}")
        address = first._port.getHost()
        assert isinstance(address, IPv6Address)
        assert await self.greeted(self.path) == b"hello"

    def test_a_bad_string_is_named(self) -> None:
        """Whatever is wrong with it."""
        for description in (
            "",
            "x",
            "carrier-pigeon:1",
            "tcp:x",
            "tcp",
            "tcp:1:colour=red",
        ):
            said = self.refused(description, (SettingsError, ListenError))  # type: ignore[arg-type]
            assert description in said


class TestTls(Case):
    """TLS; that it works is tried with a daemon."""

    def test_a_bad_key_or_certificate_is_named_at_the_start(self) -> None:
        """Not to the first client: missing, no PEM, of another certificate."""
        one, other = (
            Authority(self.folder).issue("127.0.0.1"),
            Authority(self.folder, "b").issue("::1"),
        )
        junk = self.folder / "junk.pem"
        junk.write_text("-----BEGIN NOTHING-----")
        for key, certificate in (
            (self.folder / "none", one.certificate),
            (one.key, self.folder / "none"),
            (junk, one.certificate),
            (one.key, junk),
            (other.key, one.certificate),
        ):
            description = f"ssl:0:privateKey={key}:certKey={certificate}"
            said = self.refused(description, SettingsError)
            assert said.startswith(f"--endpoint: found '{description}', expected ")

    def test_bad_words_are_named(self) -> None:
        """Also one that would choose an old protocol."""
        good = endpoint(Authority(self.folder).issue("127.0.0.1"))
        for words in ("sslmethod=SSLv3_METHOD", "extraCertChain=none", "dhParameters=none"):
            assert words in self.refused(f"{good}:{words}", SettingsError)
        assert "ssl:x" in self.refused("ssl:x", SettingsError)
        assert "found 'ssl'" in self.refused("ssl", SettingsError)

    def test_bad_authorities_are_named_with_their_own_option(self) -> None:
        """Missing, and without a certificate."""
        good = endpoint(Authority(self.folder).issue("127.0.0.1"))
        junk = self.folder / "junk.pem"
        junk.write_text("nothing")
        for ca in (self.folder / "none", junk):
            said = self.refused(good, SettingsError, client_ca=ca)
            assert said.startswith(f"--tls-client-ca: found '{ca}', expected ")

    def test_without_the_extra_it_is_said_what_to_install(self) -> None:
        """As one line."""
        good = endpoint(Authority(self.folder).issue("127.0.0.1"))
        if hasattr(twisted.internet, "ssl"):
            self.patch(twisted.internet, "ssl", None)
            del twisted.internet.ssl
        with mock.patch.dict(sys.modules, {"twisted.internet.ssl": None}):
            said = self.refused(good, SettingsError)
        assert said.startswith(f"--endpoint: found '{good}', expected ")
        assert "pip install 'quoteshm[tls]'" in said


class TestSystemd(Case):
    """Sockets that were opened before; that they are inherited is tried with a daemon."""

    def given_socket(self, given: socket.socket) -> str:
        """Pass a socket as systemd would."""
        fd = os.dup(given.fileno())
        self.patch(_SystemdParser, "_sddaemon", ListenFDs([fd], ["web"]))
        self.fd = fd
        return f"domain={given.family.name.removeprefix('AF_')}"

    async def test_a_unix_socket_keeps_its_mode_and_its_file(self) -> None:
        """They are systemd's; Twisted by itself would make it 666, and delete it."""
        with socket.socket(socket.AF_UNIX) as given:
            given.bind(str(self.path))
            self.path.chmod(0o620)
            given.listen()
            domain = self.given_socket(given)
            listener = self.listen(f"systemd:{domain}:index=0")
            assert await self.greeted(self.path) == b"hello"
            await listener.stopService()
        assert self.path.stat().st_mode & 0o777 == 0o620

    def test_a_socket_of_another_family_is_named(self) -> None:
        """By index and by name."""
        with socket.create_server(("127.0.0.1", 0)) as given:
            self.given_socket(given)
            self.addCleanup(os.close, self.fd)
            for which in ("index=0", "name=web"):
                description = f"systemd:domain=UNIX:{which}"
                said = self.refused(description, SettingsError)
                assert said.startswith(f"--endpoint: found '{description}', expected domain=INET")

    def test_a_socket_that_was_not_handed_over_is_named(self) -> None:
        """By index and by name, and a descriptor that is none."""
        self.patch(_SystemdParser, "_sddaemon", ListenFDs([], []))
        for which in ("index=0", "name=web"):
            said = self.refused(f"systemd:domain=INET:{which}", SettingsError)
            assert "a socket that systemd has handed over" in said
        self.patch(_SystemdParser, "_sddaemon", ListenFDs([2**30], ["web"]))
        assert "Bad file descriptor" in self.refused("systemd:domain=INET:index=0", ListenError)


class TestPlugins(Case):
    """Endpoints of others."""

    def endpoint(self, listens: defer.Deferred[None]) -> None:
        """Have all endpoints be one that somebody else has made."""

        class Endpoint:
            def listen(self, _factory: object) -> defer.Deferred[None]:
                return listens

        self.patch(listening, "serverFromString", lambda *_: Endpoint())

    def test_one_that_fails_late_is_told(self) -> None:
        """A plugin's may take its time; the daemon serves at the others meanwhile."""
        late: defer.Deferred[None] = defer.Deferred()
        self.endpoint(late)
        listener = self.listen("any:1")
        late.errback(CannotListenError("there", 7, "too late"))
        assert len(self.flushLoggedErrors(CannotListenError)) == 1
        listener.abandon()

    def test_one_that_fails_in_its_own_way_is_named(self) -> None:
        """Whatever it raises."""
        self.endpoint(defer.fail(ZeroDivisionError("by zero")))
        assert self.refused("any:1", ListenError) == "cannot listen at any:1: by zero"


class TestRoom(unittest.TestCase):
    """Files for connections."""

    def setUp(self) -> None:
        """Set no limit of this process."""
        self.set: list[tuple[int, int]] = []
        self.patch(resource, "setrlimit", lambda _, limits: self.set.append(limits))

    def room(self, soft: int, hard: int, connections: int) -> tuple[int, list[tuple[int, int]]]:
        """Ask for room under these limits; give what there is, and what was set."""
        self.set.clear()
        self.patch(resource, "getrlimit", lambda _: (soft, hard))
        return make_room(connections), list(self.set)

    def test_the_limit_is_raised_as_far_as_it_may(self) -> None:
        """And never lowered."""
        unlimited = resource.RLIM_INFINITY
        assert self.room(1024, 524_288, 10_000) == (10_000, [(10_128, 524_288)])
        assert self.room(1024, unlimited, 10_000) == (10_000, [(10_128, unlimited)])
        assert self.room(1024, 4096, 10_000) == (3968, [(4096, 4096)])
        assert self.room(20_000, 20_000, 10_000) == (10_000, [])
        assert self.room(unlimited, unlimited, 10_000) == (10_000, [])
        assert self.room(64, 64, 10) == (0, [(64, 64)])
