"""The two processes of a peer, and what they are told."""
# ruff: noqa: S603  the programs that are started are our own

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any

from bench.market import Market
from bench.peers import LABELS

HERE = Path(__file__).parent
#: Longer than anything takes that is not stuck.
ANSWER_S = 180.0
TICK_GAP_S = 0.1


class PeerError(Exception):
    """A peer cannot be used, or has failed; the text says why."""


class Worker:
    """One process of a peer."""

    def __init__(self, python: str, module: str, role: str, core: int) -> None:
        self.module, self._busy = module, False
        self._folder = tempfile.mkdtemp(prefix="bench-")
        address = os.path.join(self._folder, "s")  # noqa: PTH118  what Listener takes
        log = Path(self._folder) / "log"
        try:
            with Listener(address, "AF_UNIX") as listener, log.open("wb") as output:
                self.process = subprocess.Popen(
                    [python, "-W", "ignore", "-m", "bench.worker", address],
                    cwd=HERE.parent,
                    env={**os.environ, "PYTHONPATH": str(HERE.parent), "PYTHONSAFEPATH": "1"},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
                listener._listener._socket.settimeout(30)  # type: ignore[attr-defined]  # noqa: SLF001  it has no other way
                self.link: Connection = listener.accept()
        except OSError as error:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise PeerError(f"its process did not start: {error}") from error
        self.tell("hello", module, role, core)

    def begin(self, name: str, *args: Any) -> None:  # noqa: ANN401
        """Tell it to do something, whose answer is for `answer`."""
        if self._busy:  # with ticking, which the next message ends; its answer comes first
            self._busy = False
            self.link.send((name, args))
            self._receive()
            return
        self.link.send((name, args))

    def answer(self, timeout_s: float = ANSWER_S) -> Any:  # noqa: ANN401
        """Wait for what it found."""
        return self._receive(timeout_s)

    def tell(self, name: str, *args: Any) -> Any:  # noqa: ANN401
        """Tell it to do something, and wait for what it found."""
        self.begin(name, *args)
        return self.answer()

    def tick(self, gap_s: float = TICK_GAP_S) -> None:
        """Let it publish in the background until it is told something else."""
        self.tell("ticking", gap_s)
        self._busy = True

    def _receive(self, timeout_s: float = ANSWER_S) -> Any:  # noqa: ANN401
        try:
            if not self.link.poll(timeout_s):
                raise PeerError(f"no answer within {timeout_s:.0f} s")
            good, answer = self.link.recv()
        except (EOFError, OSError) as error:
            raise PeerError(f"its process has ended: {self._last_words()}") from error
        if not good:
            raise PeerError(answer.removeprefix("UnavailableError: "))
        return answer

    def _last_words(self) -> str:
        lines = (Path(self._folder) / "log").read_text(errors="replace").splitlines()
        return lines[-1] if lines else "without a word"

    def end(self) -> None:
        """End it, with all that it has started."""
        with contextlib.suppress(OSError):
            self.link.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


@dataclass
class Crew:
    """The writer and the reader of a peer; started when they are needed, and kept."""

    module: str
    python: str
    cores: tuple[int, int]
    writer: Worker = field(init=False)
    reader: Worker = field(init=False)
    failed: str | None = None  # why it takes part no more
    started: bool = False

    @property
    def label(self) -> str:
        """Its name in tables."""
        return LABELS[self.module]

    def start(self) -> None:
        """Start both."""
        if self.failed is not None:
            raise PeerError(self.failed)
        if self.started:
            return
        try:
            self.writer = Worker(self.python, self.module, "Writer", self.cores[0])
            try:
                self.reader = Worker(self.python, self.module, "Reader", self.cores[1])
            except PeerError:
                self.writer.end()
                raise
        except PeerError as error:
            self.failed = str(error)
            raise
        self.started = True

    @contextlib.contextmanager
    def storing(self, market: Market, folder: Path) -> Iterator[None]:
        """Have a market stored, and readable, in this block."""
        self.start()
        place = folder / self.module
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        try:
            self.writer.tell("open", str(place), market)
            self.writer.tell("store")
            self.reader.tell("open", str(place), market)
            yield
            if self.started:  # it may have failed meanwhile, which was told where it did
                self.reader.tell("close")
                self.writer.tell("close")
        except BaseException:
            self.end()  # nobody knows in what state they are
            raise
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def end(self) -> None:
        """End both."""
        if self.started:
            self.started = False
            self.reader.end()
            self.writer.end()
