"""The daemon as a user starts it: real processes, ports and segments."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from quoteshm import QuoteClient, StockDataReader
from quoteshm.client.events import QuotesEvent
from quoteshm.errors import RequestError, UnknownTickerError
from tests.processes.daemons import (
    SERVE,
    STOP_S,
    TWISTD,
    WAIT_S,
    daemon,
    environment,
    refused,
    unique_name,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FOREGROUND = (*TWISTD, "-n", "--pidfile=", "quoteshm")
#: How a stop by SIGTERM ends: twistd, once all is closed, lets the signal have its way after all.
ENDED = (0, -signal.SIGTERM)
COMMANDS = {"twistd": FOREGROUND, "serve": SERVE}


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a folder on shared memory, for segments, logs and whatever else a daemon leaves."""
    path = Path("/dev/shm") / unique_name()  # noqa: S108 (shared memory is what is tried here)
    path.mkdir()
    yield path
    for left in path.iterdir():
        left.unlink()
    path.rmdir()


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_it_serves_and_takes_its_segment_away(folder: Path, command: tuple[str, ...]) -> None:
    """From start to SIGTERM, as a plugin of twistd and as the command."""
    with daemon(folder, "--synthetic", command=command) as running:
        running.wait_for(r"epoch \d+: 20 tickers")
        shm = running.ask("get_shm_name")["data"]
        quote = running.ask("get_quote", ticker="AAPL")["data"]
        info = running.ask("get_info")["data"]

        assert (shm["shm_name"], shm["shm_dir"]) == (running.name, str(folder))
        assert quote["price"] > 0
        assert quote["source"] == "synthetic"
        assert info["ticker_status"]["AAPL"]["state"] == "ok"
        assert running.segment.stat().st_mode & 0o777 == 0o640
        status = running.stop()

    assert status in ENDED
    assert not running.segment.exists()
    assert "Traceback" not in running.log


#: Becomes a daemon in a session of its own, with a terminal, and SIGHUP as ever.
IN_TERMINAL = (
    sys.executable,
    "-P",
    "-c",
    """if True:
    import fcntl, os, signal, sys, termios
    os.setsid()
    fcntl.ioctl(int(sys.argv[1]), termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    os.execv(sys.argv[2], sys.argv[2:])
    """,
)


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_terminal_that_closes_stops_it_as_well(folder: Path, command: tuple[str, ...]) -> None:
    """The segment would stay in memory otherwise; SIGHUP alone does not, as long as it is there."""
    terminal, its_end = os.openpty()
    in_terminal = (*IN_TERMINAL, str(its_end), *command)
    try:
        with daemon(folder, "--synthetic", command=in_terminal, pass_fds=(its_end,)) as running:
            os.close(its_end)
            running.wait_for(r"epoch \d+: 20 tickers")
            running.process.send_signal(signal.SIGHUP)
            running.wait_for("--tickers names no file")
            assert running.ask("ping")["type"] == "response"
            os.close(terminal)
            terminal = -1
            assert running.process.wait(STOP_S) == 0
    finally:
        if terminal >= 0:
            os.close(terminal)

    assert not running.segment.exists()
    assert "Traceback" not in running.log


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_the_tickers_are_read_again_at_a_hangup(folder: Path, command: tuple[str, ...]) -> None:
    """SIGHUP; a bad file, and one that is gone, leave everything as it was."""
    path = folder / "list"
    path.write_text("AAPL\nMSFT  # both of them")
    with daemon(folder, "--synthetic", "--tickers", "@list", command=command) as running:
        running.wait_for("epoch 2: 2 tickers")
        with StockDataReader(port=running.port) as reader:
            path.write_text("\n# one comes, one goes\nMSFT, IBM")
            running.process.send_signal(signal.SIGHUP)
            running.wait_for(f"read {path} again: added IBM; removed AAPL")
            wait_until(lambda: reader.list_tickers() == ["IBM", "MSFT"])
            path.write_text("MSFT\n" + "x" * 33)
            running.process.send_signal(signal.SIGHUP)
            running.wait_for(f"the tickers stay as they are: --tickers: {path}, line 2: found")
            path.unlink()
            running.process.send_signal(signal.SIGHUP)
            running.wait_for("the tickers stay as they are: .* to be read again")
            assert reader.list_tickers() == ["IBM", "MSFT"]
        assert running.ask("list_tickers")["data"] == ["IBM", "MSFT"]
        assert running.stop() in ENDED
    assert "Traceback" not in running.log


def test_tickers_come_and_go_under_a_reader_and_a_subscriber(folder: Path) -> None:
    """Over a Unix socket; the segment grows for them, and whoever is attached follows."""
    path = folder / "q.sock"
    argv = ("--synthetic", "--tickers", "AAPL,MSFT", "--max-tickers", "2", "--refresh", "60")
    with daemon(folder, *argv, "--endpoint", f"unix:{path}") as running:
        running.wait_for("epoch 2: 2 tickers")
        with (
            StockDataReader(port=running.port) as reader,
            QuoteClient(path=path) as client,
            client.subscribe() as events,
        ):
            assert set(next(events).quotes) == {"AAPL", "MSFT"}  # type: ignore[union-attr]
            assert len(reader.get_stock("MSFT")) == 2520
            with QuoteClient(port=running.port) as stranger:
                with pytest.raises(RequestError, match="--auth-token-file"):
                    stranger.add_tickers(["IBM"])
                with pytest.raises(RequestError, match="only for clients"):
                    stranger.remove_tickers(["AAPL"])

            assert client.add_tickers(["IBM", "AAPL"]).added == ["IBM"]
            wait_until(lambda: "IBM" in reader.list_tickers())  # long before the next refresh
            assert len(reader.get_stock("IBM")) == 2520

            assert client.remove_tickers(["MSFT"]).removed == ["MSFT"]
            wait_until(lambda: reader.list_tickers() == ["AAPL", "IBM"])
            with pytest.raises(UnknownTickerError, match="ticker removed: MSFT"):
                reader.get_stock("MSFT")
            copy: dict[str, object] = {"MSFT": None}
            while "MSFT" in copy or "IBM" not in copy:
                event = events.wait(WAIT_S)
                assert isinstance(event, QuotesEvent)
                event.apply(copy)  # type: ignore[arg-type]

            assert client.add_tickers(["MSFT"]).added == ["MSFT"]
            wait_until(lambda: "MSFT" in reader.list_tickers())
            assert len(reader.get_stock("MSFT")) == 2520
            changes = events.wait(WAIT_S)
            assert isinstance(changes, QuotesEvent)
            assert list(changes.quotes) == ["MSFT"]
        assert running.stop() in ENDED
    assert "Traceback" not in running.log


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait until something is so."""
    until = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.01)  # of another process: there is nothing to wait on


def test_a_signal_from_the_keyboard_stops_it_as_well(folder: Path) -> None:
    """SIGINT, in the foreground."""
    with daemon(folder, "--synthetic", command=SERVE) as running:
        running.wait_for(r"epoch \d+: 20 tickers")
        assert running.stop(signal.SIGINT) in (0, 130, -signal.SIGINT)

    assert not running.segment.exists()


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_second_writer_is_refused_and_told_whose_it_is(
    folder: Path, command: tuple[str, ...]
) -> None:
    """It names the first one's pid; the first one does not notice."""
    with daemon(folder, "--synthetic") as first:
        first.wait_for(r"epoch \d+: 20 tickers")
        where = ("-p", "0", "--shm-name", first.name, "--shm-dir", str(folder))

        status, said = refused(folder, *where, "--synthetic", command=command)

        (line,) = [line for line in said.splitlines() if "#critical" in line]
        assert status == 1
        assert str(first.process.pid) in line
        assert str(first.segment) in line
        assert "Traceback" not in said
        assert first.ask("get_quote", ticker="AAPL")["type"] == "response"


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_port_in_use_is_one_clear_line(folder: Path, command: tuple[str, ...]) -> None:
    """And no segment is left behind."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        name = unique_name()
        where = ("-p", port, "--shm-name", name, "--shm-dir", str(folder))

        status, said = refused(folder, *where, "--synthetic", command=command)

    (line,) = [line for line in said.splitlines() if "#critical" in line]
    assert status == 1
    assert port in line
    assert "Traceback" not in said
    assert not (folder / name).exists()


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--refresh", "never"], "--refresh"),
        (["--no-such-option"], "--no-such-option"),
        (["--source", "files", "--files", "/nonexistent"], "--files"),
        (["--config", "/nonexistent.toml"], "--config"),
    ],
)
def test_a_bad_option_is_one_line_and_status_1(
    folder: Path, command: tuple[str, ...], argv: list[str], named: str
) -> None:
    """Nothing else on the terminal."""
    status, said = refused(folder, *argv, command=command)

    assert status == 1
    assert len(said.splitlines()) == 1
    assert named in said


def test_an_endpoint_that_cannot_be_read_is_named(folder: Path) -> None:
    """Only Twisted knows what endpoints there are, so this one is found at the start."""
    where = (
        "--endpoint",
        "carrier-pigeon:1",
        "--shm-name",
        unique_name(),
        "--shm-dir",
        str(folder),
    )

    status, said = refused(folder, *where, "--synthetic", command=FOREGROUND)

    assert status == 1
    assert "--endpoint: found 'carrier-pigeon:1'" in said


def test_every_endpoint_is_listened_at(folder: Path) -> None:
    """A port and a path."""
    path = folder / "q.sock"
    with daemon(folder, "--synthetic", "--endpoint", f"unix:{path}:mode=600") as running:
        running.wait_for(r"epoch \d+: 20 tickers")
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            connection.sendall(b'{"v":1,"id":"a","type":"ping"}\n')
            assert b'"response"' in connection.recv(1000)
        assert running.ask("ping")["type"] == "response"


def test_a_burst_of_connections_waits_for_the_daemon(folder: Path) -> None:
    """Each is made at once, while the daemon does something else; refused ones wait a second."""
    with daemon(folder, "--synthetic") as running, contextlib.ExitStack() as stack:
        port = running.port
        running.process.send_signal(signal.SIGSTOP)
        try:
            for _ in range(500):
                address = ("127.0.0.1", port)
                stack.enter_context(socket.create_connection(address, timeout=0.9))
        finally:
            running.process.send_signal(signal.SIGCONT)
        assert running.ask("ping")["type"] == "response"


def test_a_kept_segment_is_adopted_by_the_next_daemon(folder: Path) -> None:
    """With other tickers: those that are not wanted any more are removed, the others stay."""
    name = unique_name()
    argv = ("--synthetic", "--keep-segment", "--max-tickers", "64")
    with daemon(folder, *argv, "--tickers", "AAPL,MSFT", name=name) as first:
        first.wait_for(r"epoch \d+: 2 tickers")
        instance = first.ask("get_shm_name")["data"]["instance"]
        assert first.stop() in ENDED

    assert first.segment.exists()

    with daemon(folder, *argv, "--tickers", "MSFT,KO", name=name) as second:
        second.wait_for("adopted segment")
        second.wait_for(r"epoch \d+: \d+ tickers")
        assert second.ask("get_shm_name")["data"]["instance"] == instance
        assert second.ask("list_tickers")["data"] == ["KO", "MSFT"]
        assert second.ask("get_quote", ticker="AAPL")["error"]["code"] == "NOT_FOUND"


def test_a_killed_daemons_segment_is_adopted(folder: Path) -> None:
    """After kill -9 every value is there, in the same segment, and the epoch goes on."""
    name = unique_name()
    argv = ("--synthetic", "--refresh", "0.02")
    with daemon(folder, *argv, name=name) as first:
        first.wait_for("epoch 20:")
        instance = first.ask("get_shm_name")["data"]["instance"]
        first.stop(signal.SIGKILL)

    assert first.segment.exists()

    with daemon(folder, *argv, name=name) as second:
        adopted_at = int(second.wait_for(r"adopted segment .* epoch (\d+)").group(1))
        second.wait_for(r"epoch \d+: 20 tickers")
        state = second.ask("get_snapshot_epoch")["data"]
        assert second.ask("get_shm_name")["data"]["instance"] == instance
        assert adopted_at >= 20
        assert state["epoch"] > adopted_at
        assert len(second.ask("list_tickers")["data"]) == 20


def test_without_shared_memory_it_serves_all_the_same(folder: Path) -> None:
    """No file, and a reason for whoever asks for one."""
    with daemon(folder, "--synthetic", "--no-shm") as running:
        running.wait_for(r"epoch \d+: 20 tickers")
        assert running.ask("get_shm_name")["error"]["code"] == "NOT_FOUND"
        assert len(running.ask("get_quotes")["data"]["quotes"]) == 20
        assert not running.segment.exists()


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_the_log_keeps_to_its_level(folder: Path, command: tuple[str, ...]) -> None:
    """Debug has each ticker and each request; warn has nothing of a good day."""
    with daemon(folder, "--synthetic", "--log-level", "debug", command=command) as running:
        running.wait_for(r"#debug\] epoch 2: MSFT")
        running.ask("ping")
        running.wait_for(r"#debug\].*ping")

    path = folder / "q.sock"
    argv = ("--synthetic", "--log-level", "warn", "--endpoint", f"unix:{path}")
    with daemon(folder, *argv, command=command) as quiet:
        until = time.monotonic() + WAIT_S
        while not quiet.segment.exists() or not path.exists():
            assert time.monotonic() < until
            time.sleep(0.02)  # a quiet daemon says nothing to wait for
        assert quiet.stop() in ENDED

    assert quiet.log == ""


def test_the_environment_and_a_file_configure_it(folder: Path) -> None:
    """Both together, through the real process."""
    config = folder / "quoteshm.toml"
    config.write_text('synthetic = true\ntickers = ["KO", "PEP"]\n')
    env = {"QUOTESHM_CONFIG": str(config), "QUOTESHM_INTERVALS": "1d:30,1m:10"}
    with daemon(folder, env=env) as running:
        running.wait_for(r"epoch \d+: 2 tickers")
        info = running.ask("get_info")["data"]
        assert info["intervals"] == {"1d": 30, "1m": 10}
        assert running.ask("list_tickers")["data"] == ["KO", "PEP"]


def test_as_a_real_daemon_it_logs_to_a_file_and_leaves_the_terminal(folder: Path) -> None:
    """The lock is taken by the process that stays, after it has left the one that was started."""
    name = unique_name()
    files = ("--logfile", str(folder / "log"), "--pidfile", str(folder / "pid"))
    where = ("-p", "0", "--shm-name", name, "--shm-dir", str(folder))
    argv = [*TWISTD, *files, "quoteshm", "--synthetic", *where]
    env = environment()
    subprocess.run(argv, cwd=folder, env=env, check=True, timeout=WAIT_S)
    pid = int((folder / "pid").read_text())
    try:
        second = subprocess.run(
            [*TWISTD, "--logfile", str(folder / "log2"), "--pidfile=", *argv[-8:]],
            cwd=folder,
            env=env,
            check=False,
            timeout=WAIT_S,
            capture_output=True,
            text=True,
        )
        assert second.returncode == 1
        assert "WriterRunningError" in second.stderr  # twistd cuts it to 100 bytes
        assert "Traceback" not in second.stderr
        assert f"is being written by process {pid}" in (folder / "log2").read_text()
    finally:
        os.kill(pid, signal.SIGTERM)
        until = time.monotonic() + STOP_S
        while (folder / "pid").exists():
            assert time.monotonic() < until
            time.sleep(0.02)  # not a child: there is nothing to wait on

    assert not (folder / name).exists()
    assert re.search(r"epoch \d+: 20 tickers", (folder / "log").read_text())


def test_five_thousand_tickers_are_published_in_seconds(folder: Path) -> None:
    """Each with 2,520 bars; then one commit a refresh for all of them."""
    argv = ("--synthetic", "--synthetic-count", "5000", "--bars", "2520", "--refresh", "0.2")
    with daemon(folder, *argv) as running:
        running.wait_for("epoch [0-9]+: 5000 tickers", 60.0)
        used = running.segment.stat().st_blocks * 512
        blocks = 5000 * 48 * (2520 + 630)
        assert used < 1.1 * blocks + 16_000_000
        assert running.stop() in ENDED


def test_serve_ends_in_the_middle_of_what_it_reads(folder: Path, tmp_path: Path) -> None:
    """And as it should: pyarrow would abort it, or keep it for ever, when Python is gone."""
    options = ("--synthetic", "--synthetic-count", "300", "--state-dir", str(tmp_path))
    with daemon(folder, *options, command=SERVE) as running:
        assert running.port
        running.wait_for(r"epoch \d+: 300 tickers")
        assert running.stop() == 0, running.log
    for _ in range(3):
        with daemon(folder, *options, command=SERVE) as running:
            assert running.port
            time.sleep(0.05)  # it is at the archive
            assert running.stop() == 0, running.log
