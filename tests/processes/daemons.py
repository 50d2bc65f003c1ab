"""A real daemon for a test: its own segment, a free port, and its log."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

TWISTD = (
    sys.executable,
    "-P",
    "-c",
    "import sys; sys.argv[0] = 'twistd'; from twisted.scripts.twistd import run; run()",
)
SERVE = (
    sys.executable,
    "-P",
    "-c",
    "import sys; from quoteshm.service.daemon import serve; sys.exit(serve(sys.argv[1:]))",
)
WAIT_S = 30.0
STOP_S = 15.0


def unique_name() -> str:
    """Make a segment's name that nobody else has."""
    return f"test-{os.getpid()}-{uuid.uuid4().hex[:12]}"


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Give this environment without what would configure a daemon."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("QUOTESHM_")}
    return {**kept, **(extra or {})}


@dataclass
class Running:
    """A daemon that runs."""

    process: subprocess.Popen[bytes]
    log_path: Path
    name: str
    directory: Path
    ports: list[int] = field(default_factory=list)

    @property
    def log(self) -> str:
        """What it has logged."""
        return self.log_path.read_text(errors="replace")

    @property
    def segment(self) -> Path:
        """Where its segment is."""
        return self.directory / self.name

    @property
    def port(self) -> int:
        """Its first port."""
        return int(self.wait_for(r"listening on [^\s]*:(\d+)").group(1))

    def wait_for(self, pattern: str, timeout_s: float = WAIT_S) -> re.Match[str]:
        """Wait until the log says so."""
        until = time.monotonic() + timeout_s
        while True:
            found = re.search(pattern, self.log)
            if found is not None:
                return found
            assert self.process.poll() is None, f"it has ended:\n{self.log}"
            assert time.monotonic() < until, f"no {pattern!r} within {timeout_s} s:\n{self.log}"
            time.sleep(0.02)  # a log has nothing to wait on

    def ask(self, op: str, **fields: object) -> dict[str, Any]:
        """Send one request on a connection of its own, and give the reply."""
        request = {"v": 1, "id": 1, "type": op, **fields}
        with socket.create_connection(("127.0.0.1", self.port), timeout=WAIT_S) as connection:
            connection.sendall(json.dumps(request).encode() + b"\n")
            reply: dict[str, Any] = json.loads(connection.makefile("rb").readline())
        return reply

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, and give the exit status once it has ended."""
        self.process.send_signal(how)
        return self.process.wait(STOP_S)


@contextlib.contextmanager
def daemon(
    folder: Path,
    *argv: str,
    name: str | None = None,
    command: tuple[str, ...] = (*TWISTD, "-n", "--pidfile=", "quoteshm"),
    env: Mapping[str, str] | None = None,
    pass_fds: tuple[int, ...] = (),
) -> Iterator[Running]:
    """Run a daemon on synthetic data (unless told otherwise) until the block ends."""
    name = name or unique_name()
    log_path = folder / f"{uuid.uuid4().hex[:8]}.log"
    where = ("--port", "0", "--shm-name", name, "--shm-dir", str(folder))
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [*command, *where, *argv],
            cwd=folder,
            env=environment(env),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=pass_fds,
        )
    try:
        yield Running(process, log_path, name, folder)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def refused(folder: Path, *argv: str, command: tuple[str, ...]) -> tuple[int, str]:
    """Run a daemon that is not to start; give its exit status and all it said."""
    done = subprocess.run(
        [*command, *argv],
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    return done.returncode, done.stdout
