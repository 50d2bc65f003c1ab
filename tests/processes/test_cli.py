"""The command as a user has it: a real daemon, a real pipe, a real terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

from tests.processes.daemons import WAIT_S, Running, daemon, environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

COMMAND = (sys.executable, "-P", "-m", "quoteshm")
#: Makes the terminal on standard input the controlling one, as a shell would, then becomes argv.
AT_TERMINAL = (
    "import fcntl, os, sys, termios;"
    "fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
    "os.execv(sys.argv[1], sys.argv[1:])"
)
HOME = "\x1b[H"
LEAVES_SCREEN = "\x1b[?1049l"
SHOWS_CURSOR = "\x1b[?25h"
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Run a daemon by the command itself."""
    folder = tmp_path_factory.mktemp("cli")
    with daemon(folder, "--synthetic", "--refresh", "0.1", command=(*COMMAND, "serve")) as running:
        running.wait_for("epoch 2:")
        yield running


def at(server: Running, **extra: str) -> dict[str, str]:
    """Give an environment that names the server."""
    return environment({"QUOTESHM_PORT": str(server.port), "TERM": "xterm-256color", **extra})


def run(server: Running, *args: str) -> subprocess.CompletedProcess[str]:
    """Run the command with its output in pipes."""
    return subprocess.run(
        [*COMMAND, *args],
        env=at(server),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )


class Terminal:
    """A terminal of some size with a program in it."""

    def __init__(self, env: dict[str, str], *argv: str, size: tuple[int, int] = (24, 110)) -> None:
        self._master, slave = pty.openpty()
        self.resize(*size)
        self.mode = termios.tcgetattr(slave)
        self._slave = slave
        self.output = ""
        env = {name: text for name, text in env.items() if name not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", AT_TERMINAL, *argv],
            env=env,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._slave)
        os.close(self._master)

    def resize(self, lines: int, columns: int) -> None:
        """Change its size."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("4H", lines, columns, 0, 0))

    def press(self, keys: str) -> None:
        """Type."""
        os.write(self._master, keys.encode())

    @property
    def frame(self) -> str:
        """The last frame that was drawn from beginning to end, without colours."""
        return ESCAPE.sub("", self.output.split(HOME)[-2 if HOME in self.output else -1])

    def wait_for(self, pattern: str) -> str:
        """Wait until a frame matches, and give it."""
        until = time.monotonic() + WAIT_S
        while not re.search(pattern, self.frame):
            assert time.monotonic() < until, f"no {pattern!r} on the screen:\n{self.frame}"
            self._read(0.1)
        return self.frame

    def finish(self) -> int:
        """Wait until the program ends; give its status."""
        until = time.monotonic() + WAIT_S
        while self.process.poll() is None:
            assert time.monotonic() < until, f"it does not end:\n{self.frame}"
            self._read(0.1)
        while self._read(0):
            pass
        return self.process.returncode

    def _read(self, timeout_s: float) -> bool:
        if not select.select([self._master], [], [], timeout_s)[0]:
            return False
        self.output += os.read(self._master, 1 << 16).decode(errors="replace")
        return True


def test_a_table_on_a_terminal_and_ndjson_in_a_pipe(server: Running) -> None:
    """The same command; --json and --csv hold on a terminal too."""
    (quote,) = map(json.loads, run(server, "get", "AAPL").stdout.splitlines())
    with Terminal(at(server), *COMMAND, "get", "AAPL") as terminal:
        assert terminal.finish() == 0
    with Terminal(at(server), *COMMAND, "get", "--json", "AAPL") as forced:
        assert forced.finish() == 0

    assert quote["ticker"] == "AAPL"
    heading, row = ESCAPE.sub("", terminal.output).splitlines()
    assert heading.split()[:2] == ["TICKER", "PRICE"]
    assert row.split()[0] == "AAPL"
    assert ESCAPE.search(terminal.output)
    assert json.loads(forced.output)["ticker"] == "AAPL"


def test_columns_without_room_are_left_out_and_nothing_wraps(server: Running) -> None:
    """On a narrow terminal."""
    with Terminal(at(server), *COMMAND, "get", "--all", size=(24, 60)) as terminal:
        assert terminal.finish() == 0

    lines = ESCAPE.sub("", terminal.output).splitlines()
    assert len(lines) == 21
    assert max(map(len, lines)) <= 60
    assert "PRICE" in lines[0]
    assert "OPEN" not in lines[0]


def test_no_color_is_respected(server: Running) -> None:
    """Bold is no colour, red and green are."""
    with Terminal(at(server, NO_COLOR="1"), *COMMAND, "get", "--all") as terminal:
        assert terminal.finish() == 0

    assert not re.search(r"\x1b\[[0-9;]*3[0-7]", terminal.output)


def test_what_list_prints_xargs_can_read(server: Running) -> None:
    """So that lists and quotes go together."""
    listed = run(server, "list").stdout
    quotes = subprocess.run(
        ["xargs", *COMMAND, "get"],
        env=at(server),
        input=listed,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=True,
    )

    tickers = [json.loads(line) for line in listed.splitlines()]
    assert len(tickers) == 20
    assert [json.loads(line)["ticker"] for line in quotes.stdout.splitlines()] == tickers


def test_a_reader_that_goes_is_no_error(server: Running) -> None:
    """As with head -1: not a word, and the status of SIGPIPE."""
    with subprocess.Popen(
        [*COMMAND, "history", "AAPL"],
        env=at(server),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read()

    assert (process.returncode, said) == (141, b"")


def test_an_output_that_takes_nothing_is_told_in_a_line(server: Running) -> None:
    """A full disk is an error; an output that is closed is none, there is nobody to see it."""
    full = Path("/dev/full")
    with full.open("w", encoding="utf-8") as nowhere:
        ran = subprocess.run(
            [*COMMAND, "get", "--all"],
            env=at(server),
            stdout=nowhere,
            stderr=subprocess.PIPE,
            timeout=WAIT_S,
            check=False,
        )
    closed = subprocess.run(
        ["/bin/sh", "-c", 'exec "$@" >&-', "sh", *COMMAND, "get", "--all"],
        env=at(server),
        stderr=subprocess.PIPE,
        timeout=WAIT_S,
        check=False,
    )

    assert ran.returncode == 1
    assert ran.stderr.count(b"\n") == 1
    assert b"No space left on device" in ran.stderr
    assert (closed.returncode, closed.stderr) == (0, b"")


def test_a_quote_is_printed_without_loading_what_takes_long(server: Running) -> None:
    """No pandas, no Twisted, and no tables in a pipe."""
    done = subprocess.run(
        [sys.executable, "-P", "-X", "importtime", "-m", "quoteshm", "get", "AAPL"],
        env=at(server),
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=True,
    )

    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.split("\n")}
    assert "click" in loaded
    assert loaded.isdisjoint({"pandas", "twisted", "rich", "yfinance"})


def test_top_prints_one_frame_from_the_segment_alone(server: Running) -> None:
    """Without a server to ask, when the segment is named; in every format."""
    where = ("--shm-name", server.name, "--shm-dir", str(server.directory), "--port", "1")

    once = run(server, "top", "--once", "--sort", "price", *where, "MSFT", "AAPL", "XXXX")
    table = run(server, "top", "--once", "--table", *where)

    prices = [json.loads(line)["price"] for line in once.stdout.splitlines()]
    assert once.returncode == 1
    assert once.stderr == "quoteshm: unknown ticker: XXXX\n"
    assert len(prices) == 2
    assert prices == sorted(prices, reverse=True)
    heading, writer, columns, *rows = table.stdout.splitlines()
    assert (table.returncode, table.stderr) == (0, "")
    assert server.name in heading
    assert writer.startswith("writer live, process")
    assert columns.startswith("TICKER ^")
    assert len(rows) == 20


def test_top_shows_the_market_live(server: Running) -> None:
    """It moves, sorts, scrolls, follows the terminal's size, and leaves it as it was."""
    with Terminal(at(server), *COMMAND, "top") as terminal:
        first = terminal.wait_for("[▲▼]")
        assert "writer live" in first
        assert "1-20 of 20" not in first
        epoch = int(re.findall(r"epoch ([\d,]+)", first)[0].replace(",", ""))
        terminal.wait_for(rf"epoch (?!{epoch:,} )")

        terminal.press("c")
        changes = re.findall(r"([+-][\d.]+) %", terminal.wait_for("CHANGE % v"))
        assert list(map(float, changes)) == sorted(map(float, changes), reverse=True)
        terminal.press("c")
        terminal.wait_for(r"CHANGE % \^")

        terminal.resize(10, 60)
        small = terminal.wait_for("1-6 of 20")
        assert "OPEN" not in small
        assert max(map(len, small.splitlines())) <= 60
        terminal.press("\x1b[6~")
        terminal.wait_for("7-12 of 20")

        terminal.press("q")
        assert terminal.finish() == 0
        assert termios.tcgetattr(terminal._slave) == terminal.mode
    assert LEAVES_SCREEN in terminal.output
    assert SHOWS_CURSOR in terminal.output


@pytest.mark.parametrize(("how", "status"), [("\x03", 130), (signal.SIGTERM, 143)])
def test_top_gives_the_terminal_back_however_it_ends(
    server: Running, how: str | signal.Signals, status: int
) -> None:
    """By Ctrl-C or by a signal: no traceback, the screen and the keyboard as they were."""
    with Terminal(at(server), *COMMAND, "top") as terminal:
        terminal.wait_for("writer live")
        if isinstance(how, str):
            terminal.press(how)
        else:
            terminal.process.send_signal(how)
        assert terminal.finish() == status
        assert termios.tcgetattr(terminal._slave) == terminal.mode
    assert LEAVES_SCREEN in terminal.output
    assert "Traceback" not in terminal.output


def test_top_says_how_the_writer_is(tmp_path: Path) -> None:
    """Dead after kill -9, live when another carries on, closed after its stop; no news: stale."""
    argv = ("--synthetic", "--refresh", "0.1", "--freshness", "0.5")
    with daemon(tmp_path, *argv) as first:
        first.wait_for("epoch 2:")
        where = ("--shm-name", first.name, "--shm-dir", str(tmp_path))
        with Terminal(environment({"TERM": "xterm"}), *COMMAND, "top", *where) as terminal:
            terminal.wait_for(f"writer live, process {first.process.pid}")

            first.stop(signal.SIGKILL)
            terminal.wait_for(f"WRITER DEAD: process {first.process.pid}")
            terminal.wait_for("20 STALE")
            terminal.wait_for(r"AAPL .* STALE \d")

            with daemon(tmp_path, *argv, name=first.name) as second:
                terminal.wait_for(f"writer live, process {second.process.pid}")
                terminal.wait_for("AAPL .* fresh")

                second.stop()
                terminal.wait_for("WRITER CLOSED")
            terminal.press("q")
            assert terminal.finish() == 0


def test_top_shows_the_market_of_a_server_without_shared_memory(tmp_path: Path) -> None:
    """Over the wire, and says how the connection is; with what was last told when it is lost."""
    argv = ("--synthetic", "--no-shm", "--refresh", "0.1", "--freshness", "0.5")
    with daemon(tmp_path, *argv) as running:
        running.wait_for("epoch 2:")
        once = run(running, "top", "--once", "--sort", "price", "MSFT", "AAPL", "XXXX")
        assert once.returncode == 1
        assert once.stderr == "quoteshm: unknown ticker: XXXX\n"
        assert [json.loads(line)["ticker"] for line in once.stdout.splitlines()] == ["AAPL", "MSFT"]
        with Terminal(at(running), *COMMAND, "top") as terminal:
            assert f"connected to 127.0.0.1:{running.port}" in terminal.wait_for("[▲▼]")
            running.stop(signal.SIGKILL)
            terminal.wait_for("CONNECTION LOST")
            terminal.wait_for("20 STALE")
            with daemon(tmp_path, *argv, "--port", str(running.port)) as second:
                second.wait_for("epoch 2:")
                terminal.wait_for("AAPL .* fresh")
                assert "LOST" not in terminal.frame
            terminal.press("q")
            assert terminal.finish() == 0


def test_watch_prints_what_changes_until_ctrl_c(server: Running) -> None:
    """A document a quote, in full, the latest first; standard error names what has no value."""
    watching = subprocess.Popen(
        [*COMMAND, "watch", "AAPL", "XXXX"],
        env=at(server),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout is not None
    lines = [json.loads(watching.stdout.readline()) for _ in range(3)]
    watching.send_signal(signal.SIGINT)
    _, err = watching.communicate(timeout=WAIT_S)

    assert watching.returncode == 130
    assert err == "quoteshm: no value yet: XXXX\n"
    assert {line["ticker"] for line in lines} == {"AAPL"}
    assert [line["epoch"] for line in lines] == sorted({line["epoch"] for line in lines})


def test_watch_ends_when_nobody_reads_it(tmp_path: Path) -> None:
    """Also in a market that does not move."""
    with daemon(tmp_path, "--synthetic", "--refresh", "3600") as running:
        running.wait_for("epoch 2:")
        watching = subprocess.Popen(
            [*COMMAND, "watch", "--all", "--csv"],
            env=at(running),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert watching.stdout is not None
        heading, first = watching.stdout.readline(), watching.stdout.readline()
        watching.stdout.close()
        assert watching.wait(WAIT_S) == 141
        assert watching.stderr is not None
        assert watching.stderr.read() == ""
        watching.stderr.close()

    assert heading.startswith("epoch,skipped,ticker,price")
    assert first.split(",")[2] == "AAPL"


def test_a_server_behind_a_unix_socket_and_a_token_is_asked_all_the_same(tmp_path: Path) -> None:
    """By each command, also those that read its segment; without the token it refuses."""
    token, path = tmp_path / "token", tmp_path / "q.sock"
    token.write_text("open sesame\n")
    token.chmod(0o600)
    argv = ("--synthetic", "--endpoint", f"unix:{path}", "--auth-token-file", str(token))
    with daemon(tmp_path, *argv) as running:
        running.wait_for("epoch 2:")
        way = ("--socket", str(path), "--token-file", str(token))
        quote = run(running, "get", "AAPL", *way)
        once = run(running, "top", "--once", "--table", *way)
        bars = run(running, "export", "AAPL", *way)
        refused = run(running, "get", "AAPL", "--socket", str(path))

    assert json.loads(quote.stdout)["ticker"] == "AAPL"
    assert "writer live" in once.stdout
    assert bars.stdout.startswith("ticker,time_ms")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == "quoteshm: this server wants a token: send auth first\n"


def test_a_character_that_the_output_cannot_show_is_spelled_out(server: Running) -> None:
    """In an old locale, in place of a traceback; the arrows of a live table become signs."""
    plain = at(server, PYTHONIOENCODING="ascii:strict", PYTHONUTF8="0")
    with Terminal(plain, *COMMAND, "top") as terminal:
        assert "▲" not in terminal.wait_for(r" [+-] \d")
        terminal.press("q")
        assert terminal.finish() == 0


def test_one_frame_of_a_dead_writer_comes_with_a_warning(tmp_path: Path) -> None:
    """On standard error; the last values are printed all the same."""
    with daemon(tmp_path, "--synthetic") as running:
        running.wait_for("epoch 2:")
        running.stop(signal.SIGKILL)
        where = ("--shm-name", running.name, "--shm-dir", str(tmp_path))
        done = run(running, "top", "--once", *where)

    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 20
    assert "WRITER DEAD" in done.stderr
    assert done.stderr.count("\n") == 1
