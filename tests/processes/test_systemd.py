"""The daemon as systemd runs it: what it is told, the sockets it hands over, and its unit files."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.notify_socket import NotifySocket, notify_socket
from tests.processes.daemons import SERVE, TWISTD, WAIT_S, daemon, unique_name

if TYPE_CHECKING:
    from collections.abc import Iterator

DEPLOY = Path(__file__).parents[2] / "deploy"
UNIT, SOCKET = DEPLOY / "quoteshm.service", DEPLOY / "quoteshm.socket"
PROGRAM = "/opt/quoteshm/bin/twistd"
#: What `systemd-analyze security` may find at the most: 0.1 is a network of its own, 10 no sandbox.
MAX_EXPOSURE = 1.9
LOOPBACK = ("127.0.0.1", 0)
WATCHDOG_S = 0.6
#: twistd ends itself by the signal it was sent, once it has stopped; to systemd both are well.
STOPPED = (0, -signal.SIGTERM)
#: Becomes the daemon with descriptors handed over, from 3 on: how many, their names, their numbers.
INHERIT = (
    sys.executable,
    "-P",
    "-c",
    """if True:
    import os, sys
    names, fds = sys.argv[1].split(":"), [int(fd) for fd in sys.argv[2].split(",")]
    high = [os.dup2(fd, fd + 100) for fd in fds]
    for place, fd in enumerate(high):
        os.dup2(fd, 3 + place)
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(fds)))
    os.environ.update(LISTEN_FDNAMES=":".join(names))
    os.execv(sys.argv[3], sys.argv[3:])
    """,
)
#: twistd, with one thing that a test can break by a signal.
BREAKABLE = """if True:
    import signal, sys, time
    from quoteshm.shm.writer import SegmentWriter

    def fail(self):
        raise OSError("no heartbeat any more")

    def break_heart(*_):
        SegmentWriter.heartbeat = fail

    signal.signal(signal.SIGUSR2, lambda *_: time.sleep(30))
    signal.signal(signal.SIGALRM, break_heart)
    sys.argv[0] = "twistd"
    from twisted.scripts.twistd import run
    run()
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a folder on shared memory, for segments, logs and whatever else a daemon leaves."""
    path = Path("/dev/shm") / unique_name()  # noqa: S108 (shared memory is what is tried here)
    path.mkdir()
    yield path
    shutil.rmtree(path)


@pytest.fixture
def hears() -> Iterator[NotifySocket]:
    """Listen as systemd does."""
    with notify_socket() as own:
        yield own


def told(hears: NotifySocket, *, watchdog_s: float | None = None) -> dict[str, str]:
    """Give what systemd puts into the environment."""
    environ = {"NOTIFY_SOCKET": hears.address}
    if watchdog_s is not None:
        environ["WATCHDOG_USEC"] = str(round(watchdog_s * 1e6))
    return environ


# -- what it is told -------------------------------------------------------------------------


@pytest.mark.parametrize("command", [(*TWISTD, "-n", "--pidfile=", "quoteshm"), SERVE])
def test_it_is_ready_when_something_can_be_read(
    folder: Path, hears: NotifySocket, command: tuple[str, ...]
) -> None:
    """After the first epoch; it says how it stands, and that it stops."""
    with daemon(folder, "--synthetic", command=command, env=told(hears)) as running:
        messages = hears.wait_for("READY=1", WAIT_S)
        assert messages[-1] == ["READY=1", "STATUS=synthetic: 20 tickers, all fresh"]
        assert len(running.ask("list_tickers")["data"]) == 20
        assert running.stop() in STOPPED
        assert hears.come()[-1] == ["STOPPING=1", "STATUS=stopping"]


def test_without_data_it_is_not_ready_and_says_why(folder: Path, hears: NotifySocket) -> None:
    """It serves all the same, asks for more time, and is ready with the first bars."""
    bars = folder / "bars"
    bars.mkdir()
    argv = ("--source", "files", "--files", str(bars), "--tickers", "AAPL", "--refresh", "0.2")
    env = told(hears, watchdog_s=WATCHDOG_S)
    with daemon(folder, *argv, env=env) as running:
        messages = hears.wait_for("EXTEND_TIMEOUT_USEC=600000", WAIT_S)
        messages += hears.wait_for("EXTEND_TIMEOUT_USEC=600000", WAIT_S)
        assert running.ask("ping")["type"] == "response"
        (bars / "AAPL.csv").write_text(
            "Date,Open,High,Low,Close,Volume\n2024-01-02,1,2,1,2,10\n2024-01-03,2,3,2,3,10\n"
        )
        *before, ready = messages + hears.wait_for("READY=1", WAIT_S)
        said = [line for message in before for line in message if line.startswith("STATUS")]
        assert said[0].startswith("STATUS=files: nothing is published yet")
        assert ready[0] == "READY=1"


def test_adopting_is_enough_to_be_ready(folder: Path, hears: NotifySocket) -> None:
    """What the daemon before it left can be read, whatever the source says."""
    name, bars = unique_name(), folder / "bars"
    bars.mkdir()
    file = bars / "AAPL.csv"
    file.write_text("Date,Open,High,Low,Close,Volume\n2024-01-02,1,2,1,2,10\n")
    argv = ("--source", "files", "--files", str(bars), "--tickers", "AAPL", "--keep-segment")
    with daemon(folder, *argv, name=name, env=told(hears)) as running:
        hears.wait_for("READY=1", WAIT_S)
        running.stop()
        hears.wait_for("STOPPING=1", WAIT_S)
    file.unlink()
    with daemon(folder, *argv, name=name, env=told(hears)) as running:
        message = hears.wait_for("READY=1", WAIT_S)[-1]
        assert message[1].startswith("STATUS=files: 1 ticker, ")
        running.wait_for("adopted segment")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (signal.SIGSTOP, None),
        (signal.SIGUSR2, None),
        (signal.SIGALRM, "no sign of life for systemd: the segment's heartbeat"),
    ],
    ids=["stopped", "stuck", "no heartbeat"],
)
def test_signs_of_life_end_with_what_they_stand_for(
    folder: Path, hears: NotifySocket, how: signal.Signals, said: str | None
) -> None:
    """A process that is stopped, a reactor that is stuck, a heartbeat that cannot be written."""
    command = (sys.executable, "-P", "-c", BREAKABLE, "-n", "--pidfile=", "quoteshm")
    env = told(hears, watchdog_s=WATCHDOG_S)
    with daemon(folder, "--synthetic", command=command, env=env) as running:
        hears.wait_for("READY=1", WAIT_S)
        for _ in range(3):
            hears.wait_for("WATCHDOG=1", WATCHDOG_S * 5)
        running.process.send_signal(how)
        if said is not None:
            running.wait_for(said)
        hears.come()
        with pytest.raises(TimeoutError):
            hears.wait_for("WATCHDOG=1", WATCHDOG_S * 3)
        running.process.kill()


# -- the unit files --------------------------------------------------------------------------


def exec_start() -> list[str]:
    """Give the words of the unit's command."""
    found = re.search(r"^ExecStart=((?:.*\\\n)*.*)$", UNIT.read_text(), re.MULTILINE)
    assert found is not None
    return shlex.split(found.group(1).replace("\\\n", " "))


def setting(path: Path, name: str) -> str:
    """Give a setting of a unit."""
    found = re.search(rf"^{name}=(.*)$", path.read_text(), re.MULTILINE)
    assert found is not None, name
    return found.group(1)


def test_the_units_own_command_serves_the_sockets_of_its_socket_unit(
    folder: Path, hears: NotifySocket
) -> None:
    """By name, among others; a client that comes before the daemon waits, and is served."""
    program, *words = exec_start()
    assert program == PROGRAM
    words[words.index("/var/lib/quoteshm")] = str(folder / "state")
    (folder / "state").mkdir()
    del words[words.index("--shm-group") : words.index("--shm-group") + 2]  # not of this machine
    more = ("--synthetic", "--shm-name", unique_name(), "--shm-dir", str(folder))
    with socket.create_server(LOOPBACK) as given, socket.create_server(LOOPBACK) as other:
        early = socket.create_connection(given.getsockname(), WAIT_S)
        early.sendall(b'{"v":1,"id":7,"type":"ping"}\n')
        names = f"other:{setting(SOCKET, 'FileDescriptorName')}"
        fds = other.fileno(), given.fileno()
        with early, (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [*INHERIT, names, ",".join(map(str, fds)), *TWISTD, *words, *more],
                env={**os.environ, **told(hears)},
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=fds,
            )
            try:
                hears.wait_for("READY=1", WAIT_S)
                assert b'"id":7' in early.recv(1000)
            finally:
                process.terminate()
                assert process.wait(WAIT_S) in STOPPED
    assert "Traceback" not in (folder / "log").read_text()


def test_the_command_keeps_readers_going_and_leaves_no_pidfile() -> None:
    """What the unit promises is in its command."""
    words = exec_start()
    assert words[1:3] == ["-n", "--pidfile="]
    assert "--keep-segment" in words
    assert words[words.index("--shm-mode") + 1] == "0640"
    assert words[words.index("--shm-group") + 1] == setting(UNIT, "SupplementaryGroups")
    assert f"/var/lib/{setting(UNIT, 'StateDirectory')}" in words


@pytest.fixture
def systemd_analyze() -> str:
    """Give the program, where there is one."""
    found = shutil.which("systemd-analyze")
    if found is None:
        pytest.skip("systemd-analyze is not installed (apt-get install systemd)")
    return found


def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path, systemd_analyze: str) -> None:
    """Not a word is misspelt; the program, which must exist, is one that every machine has."""
    program = shutil.which("true")
    assert program is not None
    for path in (UNIT, SOCKET):
        text = path.read_text().replace(PROGRAM, program)
        (tmp_path / path.name).write_text(text)
    done = subprocess.run(
        [systemd_analyze, "verify", "--man=no", tmp_path / UNIT.name, tmp_path / SOCKET.name],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    # Of other units of this machine it may have something to say, too.
    said = [line for line in done.stderr.splitlines() if "quoteshm" in line]
    assert (said, done.returncode) == ([], 0)


def test_the_sandbox_stays_as_tight_as_it_is(systemd_analyze: str) -> None:
    """The score of systemd's own list, where lower is tighter."""
    done = subprocess.run(
        [systemd_analyze, "security", "--offline=true", "--no-pager", UNIT],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=True,
    )
    found = re.search(r"Overall exposure level for quoteshm\.service: ([\d.]+)", done.stdout)
    assert found is not None, done.stdout
    assert float(found.group(1)) <= MAX_EXPOSURE


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make users, even in a folder")
@pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="apt-get install systemd")
def test_the_user_its_groups_and_its_folder_are_made(tmp_path: Path) -> None:
    """In a root of its own; readers are of a group that opens nothing but the segment."""
    root = f"--root={tmp_path}"
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (tmp_path / "etc/group").write_text("root:x:0:\n")
    for program, config in (
        ("systemd-sysusers", DEPLOY / "quoteshm.sysusers.conf"),
        ("systemd-tmpfiles", DEPLOY / "quoteshm.tmpfiles.conf"),
    ):
        how = ["--create"] if program == "systemd-tmpfiles" else []
        subprocess.run([program, root, *how, config], check=True, timeout=WAIT_S)
    users = (tmp_path / "etc/passwd").read_text()
    assert re.search(r"^quoteshm:x:\d+:\d+:.*:/usr/sbin/nologin$", users, re.MULTILINE)
    groups = (tmp_path / "etc/group").read_text()
    assert re.search(r"^quoteshm-readers:x:\d+:quoteshm$", groups, re.MULTILINE)
    settings = tmp_path / "etc/quoteshm"
    assert settings.stat().st_mode & 0o777 == 0o750
