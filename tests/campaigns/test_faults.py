"""A short run of the campaign in `faults`, and that it would see what it looks for."""

from __future__ import annotations

import ctypes
import errno
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.campaigns import faults, faults_calls, faults_daemon, faults_shim
from tests.campaigns.faults_cases import Fault
from tests.campaigns.faults_cases import faults as faults_of
from tests.campaigns.faults_shim import NEVER, Orders
from tests.campaigns.faults_size import SHORT
from tests.campaigns.report import ViolationError

needs_compiler = pytest.mark.skipif(
    faults_shim.compiler() is None, reason="needs gcc, to make calls fail"
)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the library that makes calls fail."""
    return faults_shim.build(tmp_path_factory.mktemp("library"))


def preloaded(library: Path, text: str, *arguments: str) -> str:
    """Run a program whose calls can fail; give what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-P", "-c", textwrap.dedent(text), *arguments],
        env=faults_calls.environment(library),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_compiler
def test_nothing_is_lost_when_things_fail() -> None:
    """A little of each: calls, bits, disks, writers, files, forks, clocks."""
    rows = faults.run(SHORT, seed=1)

    assert [(row.name, row.violation) for row in rows if row.violation] == []
    assert len(rows) > 20


@needs_compiler
def test_the_calls_on_files_of_a_folder_fail_and_no_others(library: Path, tmp_path: Path) -> None:
    """As many as are told to, by a path or by a descriptor."""
    (tmp_path / "in").mkdir()
    text = """
        import mmap, os, sys
        from pathlib import Path
        from tests.campaigns.faults_shim import Orders
        folder, orders = Path(sys.argv[1]), Orders.of_this_process()
        maps = []

        def act(place):
            fd = os.open(place / "x", os.O_RDWR | os.O_CREAT)
            try:
                os.ftruncate(fd, 4096)
                mmap.mmap(-1, 4096).close()
                maps.append(mmap.mmap(fd, 4096))
            finally:
                os.close(fd)

        orders.watch(folder / "in")
        act(folder / "in")
        names = [orders.name(n) for n in range(1, orders.calls + 1)]
        print(*names)
        for n in range(1, len(names) + 1):
            orders.watch(folder / "in")
            orders.fail(5, n)
            act(folder)
            try:
                act(folder / "in")
            except OSError as error:
                print(names[n - 1], error.errno, orders.failed)
    """
    names, *failed = preloaded(library, text, str(tmp_path)).splitlines()
    assert names.split() == ["open", "ftruncate", "fstat", "dup", "mmap", "close"]
    # Python's mmap does without the size of the file.
    assert failed == [f"{name} 5 1" for name in names.split() if name != "fstat"]


@needs_compiler
def test_a_call_that_fails_raw_or_leaks_is_seen(library: Path, tmp_path: Path) -> None:
    """And so are a lost commit, a hang, and a process that is ended."""
    text = """
        import os, sys, time, signal
        from pathlib import Path
        from tests.campaigns import faults_cases as cases

        class Raw(cases.Writing):
            def live(self):
                os.stat(self.folder)

        class Leaking(cases.Writing):
            leaks = []
            def live(self):
                super().live()
                self.leaks.append(os.open(self.folder, 0))

        class Losing(cases.Writing):
            def verify(self):
                self.book.bars("A", "1m", 0, 1)
                for key, bars in self.book.series.items():
                    self.book.series[key] = bars[1:]
                super().verify()

        class Littering(cases.Writing):
            def live(self):
                super().live()
                (self.folder / "shm0.x").touch()

        class Ended(cases.Writing):
            def verify(self):
                os.kill(os.getpid(), signal.SIGKILL)

        class Hanging(cases.Writing):
            def verify(self):
                signal.alarm(1)
                time.sleep(60)

        folder, orders = Path(sys.argv[1]), cases.Orders.of_this_process()
        for kind in (Raw, Leaking, Losing, Littering, Ended, Hanging):
            fault = cases.Fault(1, 5, 1) if kind is Raw else None
            ending = cases.run_forked(kind, fault, orders, folder)
            print(ending.violation.strip().splitlines()[-1])
    """
    said = preloaded(library, text, str(tmp_path)).splitlines()
    expected = ["OSError: [Errno 5]", "left open: ", "ViolationError: A 1m: "]
    expected += ["ViolationError: files are left", "ended by SIGKILL", "ended by SIGALRM"]
    assert all(part in line for part, line in zip(expected, said, strict=True)), said


def test_every_call_fails_with_every_error() -> None:
    """Once, and from then on; an interruption is not for ever, and a close has two ways to fail."""
    cases = list(faults_of(["open", "close"]))
    assert len(cases) == 2 * 6 - 1 + 2 * 2
    assert Fault(1, errno.EINTR, NEVER) not in cases
    assert str(cases[1]) == "ENOSPC at call 1 and all after it"


@needs_compiler
def test_a_daemon_that_stays_unwell_is_seen(library: Path, tmp_path: Path) -> None:
    """One whose fault does not end."""
    house = faults_daemon.House(tmp_path / "house", library)
    house.orders.fail(errno.EIO, 1, NEVER)
    trial = faults_daemon.Trial(0, errno.EIO, 1, NEVER, after_crash=False)
    with house.daemon() as running:
        running.process.wait(30)
        assert "(Input/output error)" in running.log
    with pytest.raises(AssertionError):
        house.see_well(running)
    assert str(trial) == "EIO in all calls from 1 on, from nothing"


def test_the_orders_are_those_of_the_library() -> None:
    """Two languages say the same; a few numbers tell."""
    text = faults_shim.SOURCE.read_text()
    assert "char folder[256];\n  long from, to;\n  long error;\n  long calls, failed;" in text
    assert f"#define TRACED {Orders.names.size // 16}" in text
    assert ctypes.sizeof(Orders) == 256 + 5 * 8 + Orders.names.size


def test_without_a_compiler_it_is_said_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also how to get it."""
    monkeypatch.setattr(faults_shim, "compiler", lambda: None)
    with pytest.raises(ViolationError, match="apt-get install gcc"):
        faults_shim.build(tmp_path)
