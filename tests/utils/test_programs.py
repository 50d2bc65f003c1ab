"""The programs of utils/, each as its user starts it."""

from __future__ import annotations

import contextlib
import re
import socketserver
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from twisted.internet.task import LoopingCall
from twisted.trial.unittest import TestCase

from quoteshm.clock import SystemClock
from tests.serving import ServedCase

UTILS = Path(__file__).parents[2] / "utils"
EXAMPLE = UTILS / "client_example.py"
SMOKE = UTILS / "smoke_tests" / "run_smoke_tests.py"


def run(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    return subprocess.run(
        [sys.executable, str(program), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


class WithoutSharedMemoryTests(ServedCase):
    """Against a server that has none."""

    async def test_the_smoke_tests_pass(self) -> None:
        """One line a check, and a last one that counts them."""
        done = await self.in_thread(run, SMOKE, "--port", str(self.port))
        *checks, last = done.stdout.splitlines()
        assert done.returncode == 0, done.stdout + done.stderr
        assert all(line.startswith("ok    ") for line in checks)
        assert last == f"{len(checks)} of {len(checks)} checks passed"
        assert re.search(r"get_shm_name +NOT_FOUND", done.stdout)
        assert done.stderr == ""

    async def test_the_smoke_tests_see_a_fault(self) -> None:
        """A server that answers wrongly fails the check, and only that one."""
        self.market.cache.tickers = lambda: ["MSFT", "AAPL"]  # type: ignore[method-assign]
        done = await self.in_thread(run, SMOKE, "--port", str(self.port))
        assert done.returncode == 1
        failed = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("FAIL")]
        assert failed == ["list_tickers"]

    async def test_the_example_shows_history_over_tcp(self) -> None:
        """And every line that goes by."""
        done = await self.in_thread(run, EXAMPLE, "--port", str(self.port))
        assert done.returncode == 0, done.stdout + done.stderr
        assert '-> {"v":1,"id":1,"type":"list_tickers"}' in done.stdout
        assert '<- {"v":1,"id":1,"type":"response","op":"list_tickers"' in done.stdout
        assert "this server has no shared memory: history comes over TCP" in done.stdout
        assert "189.5" in done.stdout


class WithSharedMemoryTests(ServedCase):
    """Against a server with a segment."""

    def setUp(self) -> None:
        """Publish in a folder of the test's own."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.directory = Path(folder.name)
        super().setUp()
        self.market.clock.boot_ms = SystemClock().boot_ms  # type: ignore[method-assign]
        beat = LoopingCall(self.market.writer.heartbeat)
        beat.start(1.0)
        self.addCleanup(beat.stop)

    async def test_the_smoke_tests_read_the_segment(self) -> None:
        """As a reader of this machine."""
        done = await self.in_thread(run, SMOKE, "--port", str(self.port))
        assert done.returncode == 0, done.stdout + done.stderr
        assert re.search(r"get_shm_name .*/shm0, 3 bars of AAPL read", done.stdout)

    async def test_the_example_reads_history_from_shared_memory(self) -> None:
        """Found by asking the server."""
        done = await self.in_thread(run, EXAMPLE, "--port", str(self.port))
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"shm0 in {self.directory}" in done.stdout
        assert "AAPL, the last 3 bars:" in done.stdout
        assert "the whole market at one epoch:" in done.stdout

    async def test_the_example_goes_without_a_segment_of_another_machine(self) -> None:
        """As a client there finds nothing under that name."""
        assert self.directory is not None
        (self.directory / "shm0").unlink()
        done = await self.in_thread(run, EXAMPLE, "--port", str(self.port))
        assert done.returncode == 0, done.stdout + done.stderr
        assert "history comes over TCP" in done.stdout
        assert "189.5" in done.stdout


class OtherServerTests(TestCase):
    """Against servers of another kind."""

    def test_the_programs_say_so(self) -> None:
        """Whatever comes from there; each check fails by itself."""
        for said in (b"hello", b"[]", b'{"v":1,"id":"smoke"}', b"[" * 100_000):

            class Parrot(socketserver.StreamRequestHandler):
                said_line = said + b"\n"

                def handle(self) -> None:
                    with contextlib.suppress(OSError):  # it may be left in the middle
                        for _ in self.rfile:
                            self.wfile.write(self.said_line)

            with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Parrot) as server:
                thread = threading.Thread(target=server.serve_forever, args=(0.01,))
                thread.start()
                port = str(server.server_address[1])
                smoke = run(SMOKE, "--port", port, "--wait", "0.01")
                example = run(EXAMPLE, "--port", port)
                server.shutdown()
                thread.join()
            assert (smoke.returncode, smoke.stderr) == (1, ""), said[:20]
            assert smoke.stdout.splitlines()[-1].startswith("0 of ")
            assert example.returncode == 1
            assert example.stderr.startswith("client_example: ")
            assert example.stderr.count("\n") == 1


class WithoutServerTests(ServedCase):
    """Against nothing."""

    async def test_the_programs_say_so(self) -> None:
        """With exit status 1."""
        await self.listening.stopListening()
        done = await self.in_thread(run, SMOKE, "--port", str(self.port), "--wait", "0")
        assert done.returncode == 1
        assert "0 of" in done.stdout
        done = await self.in_thread(run, EXAMPLE, "--port", str(self.port))
        assert done.returncode == 1
        assert "Connection refused" in done.stderr
        assert "Traceback" not in done.stderr
