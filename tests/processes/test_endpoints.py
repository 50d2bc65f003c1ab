"""Every way into a real daemon, and who is let in."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import ssl
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.certificates import Authority, endpoint
from tests.processes.daemons import (
    SERVE,
    WAIT_S,
    Running,
    daemon,
    refused,
    unique_name,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKEN = "s3cret-enough"  # noqa: S105 (of a test)
READY = r"epoch \d+: 20 tickers"
#: Becomes the daemon as systemd would start it: with sockets from descriptor 3 on, and their names.
INHERIT = (
    sys.executable,
    "-P",
    "-c",
    """if True:
    import os, sys
    web, local = (os.dup2(int(fd), int(fd) + 100) for fd in sys.argv[1:3])
    os.dup2(web, 3), os.dup2(local, 4)
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="2", LISTEN_FDNAMES="web:local")
    os.execv(sys.argv[3], sys.argv[3:])
    """,
)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a folder on shared memory, for segments, logs and whatever else a daemon leaves."""
    path = Path("/dev/shm") / unique_name()  # noqa: S108 (shared memory is what is tried here)
    path.mkdir()
    yield path
    for left in path.iterdir():
        left.unlink()
    path.rmdir()


def ask(connection: socket.socket, op: str = "ping", **fields: object) -> Any:
    """Ask over a connection; None if it is closed without a word."""
    request = {"v": 1, "id": 1, "type": op, **fields}
    connection.settimeout(WAIT_S)
    connection.sendall(json.dumps(request).encode() + b"\n")
    line = connection.makefile("rb").readline()
    return json.loads(line) if line else None


def over_tcp(running: Running) -> socket.socket:
    """Connect to the daemon's port."""
    return socket.create_connection(("127.0.0.1", running.port), WAIT_S)


def over_unix(path: Path) -> socket.socket:
    """Connect to a path."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(WAIT_S)
    connection.connect(str(path))
    return connection


def over_tls(port: int, context: ssl.SSLContext) -> socket.socket:
    """Connect with TLS."""
    plain = socket.create_connection(("127.0.0.1", port), WAIT_S)
    try:
        return context.wrap_socket(plain, server_hostname="127.0.0.1")
    except BaseException:
        plain.close()
        raise


# -- unix: -----------------------------------------------------------------------------------


def test_a_unix_socket_knows_its_clients_and_goes_with_the_daemon(folder: Path) -> None:
    """Mode 660; the pid and user of a client are logged, with what it asked wrong, too."""
    path = folder / "q.sock"
    argv = ("--synthetic", "--log-level", "debug", "--endpoint", f"unix:{path}")
    with daemon(folder, *argv) as running:
        running.wait_for(f"listening on {path}")
        assert path.stat().st_mode & 0o777 == 0o660
        who = f"pid {os.getpid()} uid {os.getuid()}"
        with over_unix(path) as connection:
            assert ask(connection)["type"] == "response"
            running.wait_for(f"{who} connected")
            assert ask(connection, "nope")["error"]["code"] == "BAD_REQUEST"
            running.wait_for(f"{who} gets BAD_REQUEST")
        running.stop()

    assert not path.exists()
    assert "Traceback" not in running.log


def test_a_killed_daemons_path_is_taken_over_a_live_ones_is_not(folder: Path) -> None:
    """The second one ends with one line that names the endpoint and the first one's pid."""
    path = folder / "q.sock"
    unix = ("--synthetic", "--no-shm", "--endpoint", f"unix:{path}")
    with daemon(folder, *unix) as first:
        first.wait_for(f"listening on {path}")
        first.stop(signal.SIGKILL)
    assert path.is_socket()

    with daemon(folder, *unix) as second:
        second.wait_for(f"listening on {path}")
        status, said = refused(folder, "--port", "0", *unix, command=SERVE)
        (line,) = [line for line in said.splitlines() if "#critical" in line]
        assert status == 1
        assert f"cannot listen at unix:{path}: pid {second.process.pid} " in line
        assert "Traceback" not in said
        with over_unix(path) as connection:
            assert ask(connection)["type"] == "response"


def test_a_start_that_fails_leaves_no_socket_behind(folder: Path) -> None:
    """The first endpoint was open when the second one failed."""
    path = folder / "q.sock"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        busy = f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
        argv = ("--synthetic", "--no-shm", "--endpoint", f"unix:{path}", "--endpoint", busy)
        status, said = refused(folder, *argv, command=SERVE)

    assert status == 1
    assert f"cannot listen at {busy}: Address already in use" in said
    assert not path.exists()


# -- ssl: ------------------------------------------------------------------------------------


def tls_port(running: Running) -> int:
    """Give the port that TLS is spoken at."""
    return int(running.wait_for(r"listening on 127\.0\.0\.1:(\d+) \(TLS\)").group(1))


def test_it_speaks_tls_beside_tcp_and_unix(folder: Path, tmp_path: Path) -> None:
    """All three at once; a client that does not speak it does no harm."""
    authority = Authority(tmp_path)
    path = folder / "q.sock"
    tls = endpoint(authority.issue("127.0.0.1"))
    with daemon(folder, "--synthetic", "--endpoint", tls, "--endpoint", f"unix:{path}") as running:
        running.wait_for(READY)
        port = tls_port(running)
        with over_tls(port, authority.trusting()) as connection:
            assert len(ask(connection, "get_quotes")["data"]["quotes"]) == 20
        with socket.create_connection(("127.0.0.1", port), WAIT_S) as plain:
            plain.sendall(b'{"v":1,"id":1,"type":"ping"}\n')
            assert b"response" not in plain.recv(1000)
        with over_unix(path) as connection:
            assert ask(connection)["type"] == "response"
        assert running.ask("ping")["type"] == "response"
        assert running.stop() in (0, -signal.SIGTERM)

    assert "Traceback" not in running.log


def test_old_tls_is_not_spoken(folder: Path, tmp_path: Path) -> None:
    """1.2 is, 1.1 is not."""
    authority = Authority(tmp_path)
    with daemon(folder, "--synthetic", "--endpoint", endpoint(authority.issue("127.0.0.1"))) as one:
        port = tls_port(one)
        for version, spoken in ((ssl.TLSVersion.TLSv1_2, True), (ssl.TLSVersion.TLSv1_1, False)):
            context = authority.trusting()
            context.set_ciphers("DEFAULT:@SECLEVEL=0")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of the old version
                context.minimum_version = context.maximum_version = version
            if spoken:
                with over_tls(port, context) as connection:
                    assert ask(connection)["type"] == "response"
            else:
                with pytest.raises(ssl.SSLError):
                    over_tls(port, context)


def test_clients_are_asked_for_certificates_of_their_own(folder: Path, tmp_path: Path) -> None:
    """Of the right authority; one without, or of another, is not served."""
    authority, stranger = Authority(tmp_path), Authority(tmp_path, "stranger")
    tls = endpoint(authority.issue("127.0.0.1"))
    argv = ("--synthetic", "--endpoint", tls, "--tls-client-ca", str(authority.path))
    with daemon(folder, *argv) as running:
        port = tls_port(running)
        with over_tls(port, authority.trusting(authority.issue("a@example.org"))) as connection:
            assert ask(connection)["type"] == "response"
        for own in (None, stranger.issue("b@example.org")):
            # With TLS 1.3 a client learns of it only when it reads.
            context = authority.trusting(own)
            with (
                pytest.raises((ssl.SSLError, ConnectionError)),
                over_tls(port, context) as connection,
            ):
                ask(connection)


# -- systemd: --------------------------------------------------------------------------------


def test_it_takes_over_sockets_that_systemd_has_opened(folder: Path) -> None:
    """By index and by name, a port and a path, whose file is left as it was."""
    path = folder / "given.sock"
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(path))
        path.chmod(0o620)
        unix.listen()
        port = tcp.getsockname()[1]
        argv = ("systemd:domain=INET:index=0", "systemd:domain=UNIX:name=local")
        with daemon(
            folder,
            "--synthetic",
            *(word for one in argv for word in ("--endpoint", one)),
            command=(*INHERIT, str(tcp.fileno()), str(unix.fileno()), *SERVE),
            pass_fds=(tcp.fileno(), unix.fileno()),
        ) as running:
            running.wait_for(READY)
            with socket.create_connection(("127.0.0.1", port), WAIT_S) as connection:
                assert ask(connection)["type"] == "response"
            with over_unix(path) as connection:
                assert ask(connection)["type"] == "response"
            running.stop()
    assert path.stat().st_mode & 0o777 == 0o620


# -- the token -------------------------------------------------------------------------------


def test_a_token_is_wanted(folder: Path) -> None:
    """Before it everything but ping is refused, and a wrong one ends the connection."""
    secret = folder / "token"
    secret.write_text(f"{TOKEN}\n")
    secret.chmod(0o600)
    argv = ("--synthetic", "--auth-token-file", str(secret), "--log-level", "debug")
    with daemon(folder, *argv) as running:
        running.wait_for(READY)
        with over_tcp(running) as connection:
            assert ask(connection)["type"] == "response"
            assert ask(connection, "list_tickers")["error"]["code"] == "UNAUTHORIZED"
            assert ask(connection, "auth", token=TOKEN)["data"] == {}
            assert len(ask(connection, "list_tickers")["data"]) == 20
        with over_tcp(running) as connection:
            wrong = ask(connection, "auth", token=TOKEN.swapcase())
            assert wrong["error"] == {"code": "UNAUTHORIZED", "message": "wrong token"}
            assert connection.recv(1) == b""

    assert TOKEN not in running.log
    assert TOKEN.swapcase() not in running.log


@pytest.mark.parametrize("what", ["missing", "empty", "readable", "two lines"])
def test_a_token_file_that_will_not_do_is_one_line(folder: Path, what: str) -> None:
    """That names the option, and not what is in the file."""
    secret = folder / "token"
    if what != "missing":
        secret.write_text({"empty": "\n", "two lines": "s3cret\nmore\n"}.get(what, "s3cret"))
        secret.chmod(0o604 if what == "readable" else 0o600)

    argv = ("--synthetic", "--auth-token-file", str(secret))
    status, said = refused(folder, "--port", "0", *argv, command=SERVE)

    assert status == 1
    assert len(said.splitlines()) == 1
    assert "--auth-token-file" in said
    assert "s3cret" not in said


# -- limits ----------------------------------------------------------------------------------


def test_connections_over_the_limit_are_told_and_closed(folder: Path) -> None:
    """In total; when one leaves, there is room for one."""
    path = folder / "q.sock"
    argv = ("--max-connections", "2", "--endpoint", f"unix:{path}", "--synthetic")
    with daemon(folder, *argv) as running, contextlib.ExitStack() as stack:
        running.wait_for(READY)
        with over_tcp(running) as one, over_unix(path) as two:
            assert ask(one)["type"] == ask(two)["type"] == "response"
            three = stack.enter_context(over_tcp(running))
            said = json.loads(three.makefile("rb").readline())
            assert (said["id"], said["error"]["code"]) == (None, "OVERLOADED")
            assert three.recv(1) == b""
        until_answered(running)


def test_connections_of_one_peer_over_its_limit_are_told_and_closed(folder: Path) -> None:
    """Others, here a local user over a Unix socket, do not notice."""
    path = folder / "q.sock"
    argv = ("--max-connections-per-peer", "1", "--endpoint", f"unix:{path}", "--synthetic")
    with daemon(folder, *argv) as running, contextlib.ExitStack() as stack:
        running.wait_for(READY)
        with over_tcp(running) as one, over_unix(path) as three:
            assert ask(one)["type"] == ask(three)["type"] == "response"
            two = stack.enter_context(over_tcp(running))
            said = json.loads(two.makefile("rb").readline())
            assert said["error"] == {
                "code": "OVERLOADED",
                "message": "1 connections from 127.0.0.1, at most 1",
            }
        until_answered(running)


def test_idle_connections_are_closed_without_a_word(folder: Path) -> None:
    """One with a subscription is never idle."""
    argv = ("--synthetic", "--idle-timeout", "1", "--heartbeat", "1", "--refresh", "3600")
    with daemon(folder, *argv) as running:
        running.wait_for(READY)
        with over_tcp(running) as idle, over_tcp(running) as subscribed:
            assert ask(subscribed, "subscribe", tickers="*")["type"] == "response"
            assert idle.recv(1) == b""
            subscribed.settimeout(WAIT_S)
            lines = subscribed.makefile("rb")
            until_s = time.monotonic() + 2.0
            while time.monotonic() < until_s:
                assert json.loads(lines.readline())["type"] == "event"


@pytest.mark.parametrize("way", ["tcp", "unix"])
def test_a_client_that_does_not_read_is_cut(folder: Path, way: str) -> None:
    """After the write time-out; the log says who."""
    path = folder / "q.sock"
    argv = ("--synthetic", "--synthetic-count", "400", "--write-timeout", "1")
    with daemon(folder, *argv, "--endpoint", f"unix:{path}") as running:
        running.wait_for(r"epoch \d+: 400 tickers")
        with over_tcp(running) if way == "tcp" else over_unix(path) as mute:
            mute.settimeout(WAIT_S)
            with pytest.raises(ConnectionError):
                mute.sendall(b'{"v":1,"id":1,"type":"get_quotes"}\n' * 2_000_000)
        assert running.ask("ping")["type"] == "response"


def test_the_log_of_bad_requests_is_bounded(folder: Path) -> None:
    """What is left out is counted."""
    with daemon(folder, "--synthetic") as running:
        with over_tcp(running) as connection:
            connection.sendall(b"bad\n" * 5000 + b'{"v":1,"id":7,"type":"ping"}\n')
            lines = connection.makefile("rb")
            replies = [json.loads(lines.readline()) for _ in range(5001)]
        assert replies[-1]["id"] == 7
        left_out = int(running.wait_for(r"(\d+) more lines of this kind").group(1))

    assert left_out > 1000
    assert running.log.count("gets BAD_REQUEST") < 1000


# -- the end ---------------------------------------------------------------------------------


def test_replies_under_way_are_drained_when_it_stops(folder: Path) -> None:
    """A slow client gets all that was answered, each line whole; a mute one is cut after 5 s."""
    argv = ("--synthetic", "--synthetic-count", "400")
    with daemon(folder, *argv) as running:
        running.wait_for(r"epoch \d+: 400 tickers")
        with over_tcp(running) as slow:
            slow.sendall(b"".join(b'{"v":1,"id":%d,"type":"get_quotes"}\n' % n for n in range(60)))
            time.sleep(0.3)  # they are read, and the replies wait for this client
            running.process.send_signal(signal.SIGTERM)
            with slow.makefile("rb") as lines:
                got = [json.loads(line)["id"] for line in lines]
        assert got == list(range(len(got)))
        assert len(got) > 1
        assert running.process.wait(10) in (0, -signal.SIGTERM)
    assert "Traceback" not in running.log


def test_a_client_that_does_not_read_holds_no_stop_up(folder: Path) -> None:
    """Five seconds at most."""
    with daemon(folder, "--synthetic", "--synthetic-count", "400") as running:
        running.wait_for(r"epoch \d+: 400 tickers")
        with over_tcp(running) as mute:
            mute.sendall(b"".join(b'{"v":1,"id":%d,"type":"get_quotes"}\n' % n for n in range(900)))
            time.sleep(0.3)  # as above
            begun_s = time.monotonic()
            running.stop()
            took_s = time.monotonic() - begun_s
    assert 4.5 < took_s < 8.0
    assert "1 clients do not take their replies" in running.log
    assert not running.segment.exists()


def until_answered(running: Running) -> None:
    """Wait until there is room for a connection."""
    until_s = time.monotonic() + WAIT_S
    while running.ask("ping")["type"] != "response":
        assert time.monotonic() < until_s
        time.sleep(0.02)  # the daemon has still to see that others have left
