"""The segment between real processes: kills, adoptions, refusals, wake-ups."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from quoteshm.clock import SystemClock
from quoteshm.errors import WriterRunningError
from quoteshm.model import Ticker
from quoteshm.shm.reader import StockDataReader
from quoteshm.shm.segment import DEFAULT_DIRECTORY
from quoteshm.shm.writer import SegmentWriter
from tests.processes import market

PROJECT = Path(__file__).parents[2]
NOBODY = 65534
Child = subprocess.Popen[str]


class Programs:
    """Starts the programs of `tests.processes.market`, and ends what is left of them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._children: list[Child] = []

    def start(self, program: str) -> Child:
        """Start one, and wait for its first line."""
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.processes.market", program, str(self.directory)],
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._children.append(child)
        return child

    def publish(self) -> tuple[Child, str]:
        """Start a writer; tell whether it made the segment or adopted it."""
        child = self.start("publish")
        return child, _line(child).split()[0]

    def read(self) -> Child:
        """Start a reader."""
        child = self.start("read")
        assert _line(child) == "reading"
        return child

    def end(self) -> None:
        """Kill what is left."""
        for child in self._children:
            child.kill()
            child.communicate()


def _line(child: Child) -> str:
    """Wait for a line of a child, which must not end before it."""
    assert child.stdout is not None
    line = child.stdout.readline()
    if not line:
        assert child.stderr is not None
        pytest.fail(child.stderr.read())
    return line.strip()


@pytest.fixture
def programs() -> Generator[Programs]:
    """Give programs a folder in the real shared memory."""
    with tempfile.TemporaryDirectory(dir=DEFAULT_DIRECTORY) as folder:
        Path(folder).chmod(0o755)
        made = Programs(Path(folder))
        yield made
        made.end()


def attach(directory: Path) -> StockDataReader:
    """Attach a reader of this process."""
    return StockDataReader(shm_name=market.NAME, shm_dir=directory, timeout_s=5)


def test_a_writer_killed_while_it_publishes_is_adopted_under_its_readers(
    programs: Programs,
) -> None:
    """Again and again: every value stays readable, no read is a mixture, no version goes back."""
    writer, how = programs.publish()
    assert how == "made"
    with attach(programs.directory) as reader:
        reader.wait(2, 10)
        watcher, other = market.Watcher(reader), programs.read()
        instance = reader.info.instance
        for death in range(4):
            until = time.monotonic() + 0.2 + 0.037 * death
            while time.monotonic() < until:
                watcher.look()
            writer.kill()  # SIGKILL, at whatever instruction it is
            writer.wait()
            assert reader.writer_status() == "dead"
            for _ in range(20):
                watcher.look()
            epoch = reader.snapshot_state.epoch
            writer, how = programs.publish()
            assert how == "adopted"
            assert reader.wait(epoch, 10) > epoch
            watcher.look()
            assert reader.writer_status() == "live"
            assert reader.info.writer_pid == writer.pid
            assert reader.info.instance == instance
        out, errors = other.communicate("", timeout=20)
        assert errors == ""
        reads, epoch_seen, status = out.split()
        assert int(reads) > 20
        assert int(epoch_seen) > 2
        assert status == "live"


def test_a_second_writer_is_refused_and_told_the_first_ones_pid(programs: Programs) -> None:
    """The first one publishes on."""
    writer, _ = programs.publish()
    with pytest.raises(WriterRunningError) as caught:
        SegmentWriter.open(market.spec_in(programs.directory), SystemClock())
    assert caught.value.pid == writer.pid
    assert f"process {writer.pid}" in str(caught.value)
    with attach(programs.directory) as reader:
        epoch = reader.snapshot_state.epoch
        assert reader.wait(epoch, 10) > epoch
        assert reader.writer_status() == "live"


def test_readers_may_exit_or_be_killed(programs: Programs) -> None:
    """Nothing that they do touches the segment or the writer."""
    writer, _ = programs.publish()
    path = programs.directory / market.NAME
    inode = path.stat().st_ino
    leaves, dies = programs.read(), programs.read()
    dies.kill()
    dies.wait()
    leaves.communicate("", timeout=20)
    assert leaves.returncode == 0
    assert path.stat().st_ino == inode
    assert writer.poll() is None
    with attach(programs.directory) as reader:
        epoch = reader.snapshot_state.epoch
        assert reader.wait(epoch, 10) > epoch


def test_a_writer_that_is_stopped_is_hung(programs: Programs) -> None:
    """It holds its lock, and its heartbeat grows old; its values stay, also for new readers."""
    writer, _ = programs.publish()
    with attach(programs.directory) as reader:
        reader.wait(2, 10)
        writer.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, writer.pid, os.WSTOPPED | os.WNOWAIT)
        deadline = time.monotonic() + 20
        while reader.writer_status() == "live" and time.monotonic() < deadline:
            reader.wait(reader.snapshot_state.epoch, 0.2)
        assert reader.writer_status() == "hung"
        with attach(programs.directory) as fresh:
            market.Watcher(fresh).look()
        writer.send_signal(signal.SIGCONT)
        epoch = reader.snapshot_state.epoch
        assert reader.wait(epoch, 10) > epoch
        assert reader.writer_status() == "live"


def test_a_reader_that_sleeps_is_woken_by_another_process(programs: Programs) -> None:
    """Much sooner than it would look by itself, by a commit and by a close."""
    writer = SegmentWriter.open(market.spec_in(programs.directory), SystemClock())
    writer.enlist([Ticker(symbol) for symbol in market.TICKERS])
    epoch = writer.write_data(market.batch_of(3))
    script = (
        "import sys, time\n"
        "from quoteshm.shm.reader import StockDataReader\n"
        "reader = StockDataReader(shm_name=sys.argv[1], shm_dir=sys.argv[2])\n"
        "epoch = int(sys.argv[3])\n"
        "for _ in range(20):\n"
        "    print('waiting', flush=True)\n"
        "    epoch = reader.wait(epoch, 30)\n"
        "    print(epoch, time.monotonic_ns(), flush=True)\n"
    )
    command = [sys.executable, "-c", script, market.NAME, str(programs.directory), str(epoch)]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as child:
        late_ns = []
        for version in range(20):
            assert _line(child) == "waiting"
            _until_asleep(child.pid)
            published_ns = time.monotonic_ns()
            epoch = writer.write_data(market.batch_of(4 + version))
            found, woken_ns = map(int, _line(child).split())
            assert found == epoch
            late_ns.append(woken_ns - published_ns)
        child.wait(10)
    assert sorted(late_ns)[len(late_ns) // 2] < 50_000_000  # by itself it looks each 250 ms
    writer.close()


def _until_asleep(pid: int) -> None:
    """Wait until a process sleeps in the kernel."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        if state == "S":
            return
        threading.Event().wait(0.001)
    pytest.fail("the child never slept")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to start a process as another user")
@pytest.mark.parametrize(
    ("mode", "error"), [(0o600, "SegmentAccessError"), (0o604, "ForeignFileError")]
)
def test_another_user_is_refused_with_reasons(mode: int, error: str, programs: Programs) -> None:
    """Reading needs the file's permission; writing needs its owner, whatever the mode is."""
    spec = market.spec_in(programs.directory)
    writer = SegmentWriter.open(spec, SystemClock())
    spec.path.chmod(mode)
    programs.directory.chmod(0o1777)
    # A fork, with all modules loaded: another user may not be able to read this environment.
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from quoteshm.clock import SystemClock\n"
        "from quoteshm.errors import SegmentError\n"
        "from quoteshm.shm.reader import StockDataReader\n"
        "from quoteshm.shm.writer import SegmentWriter\n"
        "from tests.processes import market\n"
        "directory = Path(sys.argv[1])\n"
        "import encodings.idna, zoneinfo\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "for name, open_it in (\n"
        "    ('reader', lambda: StockDataReader(shm_name=market.NAME, shm_dir=directory)),\n"
        "    ('writer', lambda: SegmentWriter.open(market.spec_in(directory), SystemClock())),\n"
        "):\n"
        "    try:\n"
        "        open_it()\n"
        "    except SegmentError as error:\n"
        "        print(name, type(error).__name__, error)\n"
        "    else:\n"
        "        print(name, 'fine')\n"
    )
    before = spec.path.read_bytes()
    for lock_is_ours in (True, False):
        if not lock_is_ours:
            writer.close(unlink=False)
            before = spec.path.read_bytes()
            spec.path.with_name(f"{market.NAME}.lock").unlink()
        done = subprocess.run(
            [sys.executable, "-c", script, str(programs.directory)],
            cwd=PROJECT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stderr == ""
        reader, opened = done.stdout.splitlines()
        if mode == 0o600:
            assert reader.startswith("reader SegmentAccessError")
            assert "found one of user 0" in reader
            assert "that user 65534 may open" in reader
        else:
            assert reader == "reader fine"
        wanted = "SegmentAccessError" if lock_is_ours else "Error"
        assert opened.startswith("writer ")
        assert wanted in opened
        assert error in opened or lock_is_ours or "SegmentAccessError" in opened
        assert spec.path.read_bytes() == before
