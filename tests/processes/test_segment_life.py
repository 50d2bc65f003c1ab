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
from dataclasses import replace
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
        for _ in range(2):  # its heartbeat comes behind its commit
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


STRANGER = f"""
import encodings.idna, os, sys, zoneinfo
from pathlib import Path
from quoteshm.clock import SystemClock
from quoteshm.errors import SegmentError
from quoteshm.shm.reader import StockDataReader
from quoteshm.shm.writer import SegmentWriter
from tests.processes import market

directory = Path(sys.argv[1])
os.setgroups([])  # only now: another user may not be able to read this environment
os.setgid({NOBODY})
os.setuid({NOBODY})
for attempt in (
    lambda: StockDataReader(shm_name=market.NAME, shm_dir=directory).list_tickers(),
    lambda: SegmentWriter.open(market.spec_in(directory), SystemClock()),
):
    try:
        attempt()
    except SegmentError as error:
        print(type(error).__name__, error)
    else:
        print("fine")
"""


def as_stranger(directory: Path) -> tuple[str, str]:
    """Read, then write as another user; tell how it went."""
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, str(directory)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    reader, writer = done.stdout.splitlines()
    return reader, writer


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
@pytest.mark.parametrize("mode", [0o600, 0o604])
def test_another_user_is_refused_with_reasons(mode: int, programs: Programs) -> None:
    """Reading needs the file's permission; writing needs its owner, whatever the mode is."""
    spec = replace(market.spec_in(programs.directory), mode=mode)
    with_lock = SegmentWriter.open(spec, SystemClock())
    programs.directory.chmod(0o1777)  # as /dev/shm is
    before = spec.path.read_bytes()
    reader, writer = as_stranger(programs.directory)
    if mode == 0o600:
        assert reader.startswith("SegmentAccessError")
        assert "found one of user 0, group 0, -rw-------" in reader
        assert f"expected a file that user {NOBODY} may open" in reader
    else:
        assert reader == "fine"
    assert writer.startswith("SegmentAccessError")  # of the lock
    assert f"{market.NAME}.lock" in writer
    assert spec.path.read_bytes() == before

    with_lock.close(unlink=False)
    lock = spec.path.with_name(f"{market.NAME}.lock")
    lock.unlink()
    before = spec.path.read_bytes()
    _, writer = as_stranger(programs.directory)  # its own lock does not help it
    assert writer.startswith("SegmentAccessError")
    assert spec.path.read_bytes() == before
    spec.path.chmod(0o666)
    _, writer = as_stranger(programs.directory)
    assert writer.startswith("ForeignFileError")
    assert f"found a file of user 0, expected one of user {NOBODY}" in writer
    assert spec.path.read_bytes() == before
