"""What the world around a segment may do: disks that are full, other writers, other users' files.

Also files that are replaced under their readers, forks, a wall clock that jumps, and epochs at
their end. After each the daemon goes on with what it had and says what is wrong, readers get a
typed error, a right answer or one that is marked stale, and all is well again once its cause is.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import re
import select
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from quoteshm.clock import SystemClock
from quoteshm.errors import (
    CorruptSegmentError,
    ForeignFileError,
    SegmentAccessError,
    SegmentError,
    WriterRunningError,
)
from quoteshm.market.archive import Archive, SeriesRecord
from quoteshm.model import Bars, Ticker
from quoteshm.shm import layout, reader
from quoteshm.shm.reader import StockDataReader
from quoteshm.shm.writer import SegmentWriter
from tests.campaigns.faults_child import Note, fork, in_child
from tests.campaigns.hostile_measures import until
from tests.campaigns.report import ViolationError, check
from tests.campaigns.steps import die_with_parent
from tests.processes import market
from tests.processes.daemons import TWISTD, Running, daemon, refused, unique_name
from tests.shm.helpers import (
    AAPL,
    IBM,
    Market,
    assert_bars,
    at,
    make_bars,
    make_quotes,
    spec_in,
)
from tests.small_disk import NoMountError, resize, small_disk

if TYPE_CHECKING:
    from tests.campaigns.faults_size import Size

NOBODY: Final = 65534
HOUR_MS: Final = 3_600_000
WAIT_S: Final = 20.0
REQUIRE_ALL: Final = "QUOTESHM_REQUIRE_ALL"
_TWISTD: Final = (*TWISTD, "-n", "--pidfile=", "quoteshm")
PATIENCE: Final = (
    "import quoteshm.service.archiver as it; it.RETRY_S = it.QUOTES_S = it.SERIES_S = 0.5;"
)
#: twistd, whose archive is tried again sooner than after half a minute.
EAGER_TWISTD: Final = (*TWISTD[:-1], PATIENCE + TWISTD[-1], "-n", "--pidfile=", "quoteshm")


class SkippedError(Exception):
    """A part cannot be done on this machine; says why."""


def _skippable(act: Callable[[], str]) -> str:
    """Do a part, or tell why it cannot be done here; where all are required, that is no excuse."""
    try:
        return act()
    except (SkippedError, NoMountError) as error:
        if os.environ.get(REQUIRE_ALL) == "1":
            raise ViolationError(f"skipped, and {REQUIRE_ALL} is set: {error}") from error
        return f"skipped: {error}"


def _attach(folder: Path, name: str = market.NAME) -> StockDataReader:
    return StockDataReader(shm_name=name, shm_dir=folder, timeout_s=5)


def _goes_on(reading: StockDataReader) -> None:
    """See that commits come."""
    epoch = reading.snapshot_state.epoch
    check(reading.wait(epoch, WAIT_S) > epoch, "nothing new is published")


def _calm(running: Running) -> None:
    """See that a daemon has met nothing that it did not expect."""
    check("Traceback" not in running.log, f"a traceback:\n{running.log[-3000:]}")


# -- full disks ------------------------------------------------------------------------------

COUNT: Final = 20
BARS: Final = 2000
FULL_DISK: Final = (
    "--synthetic",
    "--synthetic-count",
    f"{COUNT}",
    "--bars",
    f"{BARS}",
    "--refresh",
    "0.2",
)


def full_segment(folder: Path) -> str:
    """Run a daemon whose segment has room for a few tickers of many, then for all."""
    folder.mkdir()
    with small_disk(folder / "small") as place:
        argv = ("--synthetic", "--synthetic-count", "9000", "--port", "0")
        where = ("--shm-name", "none", "--shm-dir", f"{place}")
        status, text = refused(folder, *argv, *where, command=_TWISTD)
        check(status == 1, f"without any room it ends with {status}")
        check(re.search(r"cannot start: .* bytes more are needed", text), f"it says {text[-500:]}")
        check("Traceback" not in text, f"it says {text[-3000:]}")
        check([path.name for path in place.iterdir()] == ["none.lock"], "it leaves files")
        with daemon(folder, *FULL_DISK, "--shm-dir", f"{place}") as running:
            running.wait_for("bytes more are needed")
            with _attach(place, running.name) as reading:
                for _ in range(3):
                    _goes_on(reading)
                held = _whole(reading)
                check(0 < held < COUNT, f"{held} of {COUNT} have room")
                resize(place, "64m")
                until("all are there", lambda: _whole(reading) == COUNT, WAIT_S)
                running.wait_for("works again")
                _goes_on(reading)
            _ends_well(running)
    return f"{held} of {COUNT} tickers had room, all of them once there was some"


def full_archive(folder: Path) -> str:
    """Run a daemon whose archive has room for a few tickers of many, then for all."""
    folder.mkdir()
    with small_disk(folder / "small") as place:
        with daemon(folder, *FULL_DISK, "--state-dir", f"{place}", command=EAGER_TWISTD) as running:
            running.wait_for(r"cannot write \S+: No space left on device")
            held = _archived(place)
            with _attach(folder, running.name) as reading:
                for _ in range(3):
                    _goes_on(reading)
                check(
                    _whole(reading) == COUNT,
                    "the segment lacks what only the archive has no room for",
                )
            resize(place, "64m")
            until("all are there", lambda: _archived(place) == COUNT, WAIT_S)
            running.wait_for("the archive is being written again")
            _ends_well(running)
        check(_archived(place) == COUNT, "not all are in the archive")
        check(list(place.rglob("*.new")) == [], "half-written files are left")
    check(0 < held < COUNT, f"{held} of {COUNT} have room")
    return f"{held} of {COUNT} series had room, all of them once there was some"


def _ends_well(running: Running) -> None:
    """Stop a daemon, which has met nothing that it did not expect."""
    check(running.stop() == -signal.SIGTERM, "it does not stop as it should")  # as twistd says it
    _calm(running)


def _whole(reading: StockDataReader) -> int:
    """Count the tickers whose history is there; the others have less, never something else."""
    count = 0
    for symbol in reading.list_tickers():
        check(np.isfinite(reading.get_quote(symbol).price), "a quote of no price")
        bars = reading.view(symbol).bars
        check((np.diff(bars.time) > 0).all(), "times that do not increase")
        count += len(bars) >= BARS - 1
    return count


def _archived(place: Path) -> int:
    """Count the series in an archive; what is there is whole."""
    archive = Archive(place / "archive", "synthetic", "none")
    symbols = sorted(path.stem for path in place.glob("archive/*/1d/*.*") if path.suffix != ".new")
    for symbol in symbols:
        record = archive.load_series(symbol, "1d").record
        check(record is not None, f"the archive of {symbol} is not whole")
        assert record is not None
        check(len(record.bars) >= BARS - 1, f"the archive of {symbol} has {len(record.bars)} bars")
    return len(symbols)


# -- writers that start together -------------------------------------------------------------


class Starter:
    """A child that opens a writer when it is told to, says how it went, and then waits."""

    def __init__(self, folder: Path, go: tuple[int, int]) -> None:
        source, sink = os.pipe()
        self.pid = fork()
        if not self.pid:
            try:
                die_with_parent()
                os.close(go[1])
                os.read(go[0], 1)  # until the parent closes its end
                os.write(sink, f"{self._open(folder)}\n".encode())
                signal.pause()
            finally:
                os._exit(1)
        os.close(sink)
        self._said = source

    def _open(self, folder: Path) -> str:
        try:
            self.writer = SegmentWriter.open(market.spec_in(folder), SystemClock())
        except WriterRunningError as error:
            return f"refused {error.pid}"
        except BaseException as error:  # noqa: BLE001  it is what is looked for
            return f"raised {error!r}"
        self.writer.enlist([Ticker(symbol) for symbol in market.TICKERS])
        self.writer.write_data(market.batch_of(self.writer.epoch * 3 + 3))
        self.writer.heartbeat()
        return "adopted" if self.writer.adopted else f"made {self.writer.refused}"

    def answer(self) -> str:
        """Wait for what it says."""
        ready, _, _ = select.select([self._said], [], [], WAIT_S)
        check(ready, "a writer neither starts nor is refused")
        return os.read(self._said, 4096).decode().strip()

    def kill(self) -> None:
        """End it as a crash would."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._said)


def many_writers(folder: Path, count: int, rounds: int) -> str:
    """Start writers at once: on nothing, then again and again on what the last one left."""
    folder.mkdir()
    watcher: market.Watcher | None = None
    for number in range(rounds):
        go = os.pipe()
        starters = [Starter(folder, go) for _ in range(count)]
        try:
            os.close(go[0])
            os.close(go[1])
            said = {starter.pid: starter.answer() for starter in starters}
            expected = "adopted" if number else "made None"
            won = [pid for pid, text in said.items() if text == expected]
            check(len(won) == 1, f"round {number}: {sorted(said.values())}")
            others = {text for pid, text in said.items() if pid != won[0]}
            check(others == {f"refused {won[0]}"}, f"{won[0]} has won, the others say {others}")
            watcher = watcher or market.Watcher(_attach(folder))
            watcher.look()
            with _attach(folder) as reading:
                market.Watcher(reading).look()
                check(reading.writer_status() == "live", "the writer is not live")
                check(reading.info.writer_pid == won[0], "another writer's pid")
        finally:
            for starter in starters:
                starter.kill()
        watcher.look()  # what a dead writer left
        check(watcher.reader.writer_status() == "dead", "a killed writer lives on")
        left = {path.name for path in folder.iterdir()}
        check(left == {market.NAME, f"{market.NAME}.lock"}, f"files are left: {left}")
    return f"{rounds} rounds of {count}: one wins, {rounds * (count - 1)} are told its pid"


def two_daemons(folder: Path, rounds: int) -> str:
    """Start two daemons at once: on nothing, then on what the one that won left."""
    folder.mkdir()
    name, argv = unique_name(), ("--synthetic", "--synthetic-count", "50", "--refresh", "0.1")
    for number in range(rounds):
        with daemon(folder, *argv, name=name) as one, daemon(folder, *argv, name=name) as two:
            ended = functools.partial(_ended, one, two)
            until("one of them has ended", lambda ended=ended: len(ended()) > 0, WAIT_S)
            (loser,) = ended()
            winner = one if loser is two else two
            winner.wait_for("listening on")
            check(("adopted segment" in winner.log) == (number > 0), f"{winner.log[-500:]}")
            check(loser.process.returncode == 1, f"it ends with {loser.process.returncode}")
            told = f"is being written by process {winner.process.pid}"
            check(told in loser.log, f"it says {loser.log[-500:]}")
            with _attach(folder, name) as reading:
                until("all are there", lambda reading=reading: len(reading) == 50)
                _goes_on(reading)
                check(len(reading.panel("close").columns) == 50, "a ticker lacks its bars")
            winner.process.kill()
            winner.process.wait()
    return f"{rounds} rounds of 2 daemons: one wins, the other is told its pid, status 1"


def _ended(*daemons: Running) -> list[Running]:
    return [one for one in daemons if one.process.poll() is not None]


# -- other users' files ----------------------------------------------------------------------


def _noted(paths: Iterable[Path]) -> list[tuple[object, ...]]:
    """Note all of files that may not change."""
    found = [(path, path.lstat()) for path in sorted(paths)]
    return [
        (path, one.st_ino, one.st_uid, one.st_mode, one.st_mtime_ns, one.st_size)
        for path, one in found
    ]


def _refused(act: Callable[[], object], *kinds: type[Exception]) -> None:
    """See that something is refused with an error of a kind."""
    try:
        act()
    except kinds:
        return
    except Exception as error:
        raise ViolationError(f"it raises {error!r}") from error
    raise ViolationError(f"it is not refused, expected {[kind.__name__ for kind in kinds]}")


def _keep(folder: Path) -> None:
    """Put a market there whose writer has stopped."""
    folder.mkdir()
    one = Market(folder, [AAPL, IBM])
    one.replace_bars(0, make_bars(0, 5))
    one.writer.close(unlink=False)


def _open_writer(folder: Path) -> None:
    SegmentWriter.open(spec_in(folder), SystemClock()).close(unlink=False)


def foreign_files(folder: Path) -> str:
    """Meet files of another user under every name of ours, and ours as another user."""
    if os.geteuid():
        raise SkippedError("it takes root to become another user")
    folder.mkdir()
    places = itertools.product(
        ("shm0", "shm0.lock", "shm0.new"), (b"mine", b"", None), (0o600, 0o666), (0o1777, 0o755)
    )
    cases = 0
    for cases, (name, content, mode, folder_mode) in enumerate(places, 1):
        place = folder / f"{cases}"
        _keep(place)
        path = place / name
        if content is not None:
            path.write_bytes(content)
        elif name != "shm0":  # a whole segment of theirs
            shutil.copyfile(place / "shm0", path)
        if name == "shm0.new":
            (place / "shm0").unlink()
        path.chmod(mode)
        os.chown(path, NOBODY, NOBODY)
        place.chmod(folder_mode)
        before = _noted([path])
        _refused(lambda place=place: _open_writer(place), ForeignFileError, SegmentAccessError)  # type: ignore[misc]
        check(_noted([path]) == before, "a file of another user has changed")
    return f"{cases + _ours_as_nobody(folder)} cases: typed errors, no file of another user touched"


def _ours_as_nobody(folder: Path) -> int:
    """Let another user read and write what is ours."""
    for name, mode in (("open", 0o644), ("private", 0o600)):
        _keep(folder / name)
        (folder / name / "shm0").chmod(mode)
        (folder / name).chmod(0o1777)
    (folder / "closed").mkdir(mode=0o755)
    bars = Bars(make_bars(0, 5).time, np.full((5, 5), 7.0))
    records = [SeriesRecord(AAPL, "1d", bars, 1)]
    check(Archive(folder / "archive", "synthetic", "none").store(records) == [None], "no archive")
    Archive(folder / "secret", "synthetic", "none").store(records)
    for path in (folder / "secret").rglob("*.*"):
        path.chmod(0o600)
    folder.chmod(0o755)
    before = _noted(folder.rglob("*"))
    with _attach(folder / "open", "shm0") as reading:
        reading.get_stock("AAPL")  # what it takes is imported before the other user is on
    cases: int = in_child(lambda note: _as_nobody(note, folder, records), WAIT_S)
    check(_noted(folder.rglob("*")) == before, "another user has changed our files")
    return cases


def _as_nobody(note: Note, folder: Path, records: list[SeriesRecord]) -> int:
    """Be another user; the folders above this one may be closed to it."""
    os.chdir(folder)
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    here = Path()
    note.write("reading what may be read")
    with _attach(here / "open", "shm0") as reading:
        check(reading.get_quote("AAPL").price == 100.0, "another quote")
        assert_bars(reading.get_stock("AAPL"), make_bars(0, 5))
    note.write("reading what is private")
    _refused(lambda: _attach(here / "private", "shm0"), SegmentAccessError)
    for name in ("open", "private", "closed"):
        note.write(f"writing what is {name}")
        _refused(lambda name=name: _open_writer(here / name), ForeignFileError, SegmentAccessError)  # type: ignore[misc]
    note.write("the archive")
    there = Archive(here / "archive", "synthetic", "none")
    found = there.load_series("AAPL", "1d")
    check(found.record is not None, f"it cannot be read: {found.notes}")
    check(isinstance(there.store(records)[0], PermissionError), "it is written")
    secret = Archive(here / "secret", "synthetic", "none").load_series("AAPL", "1d")
    check(secret.record is None and len(secret.notes) == 1, "a secret is told")
    return 8


# -- files that change under a reader --------------------------------------------------------


def _take_name(path: Path, thing: str) -> None:
    """Take a segment's name away, and put something in its place."""
    content = path.read_bytes()
    path.unlink()
    match thing:
        case "nothing":
            pass
        case "a folder":
            path.mkdir()
        case "a pipe":
            os.mkfifo(path)
        case "a link":
            path.symlink_to(path.with_name("nowhere"))
        case "a text":
            path.write_text("hello")
        case "half a segment":
            path.write_bytes(content[: len(content) // 2])
        case "a segment half made":
            path.write_bytes(bytes(8) + content[8:])
        case "another layout":
            path.write_bytes(content[:8] + b"\7" + content[9:])
        case _:
            raise AssertionError(thing)


THINGS: Final = (
    *("nothing", "a folder", "a pipe", "a link", "a text"),
    *("half a segment", "a segment half made", "another layout"),
)


def _under_a_reader(folder: Path, thing: str, *, stops: bool) -> None:
    """Read on while the file is taken away, its writer ends, and a successor comes."""
    folder.mkdir()
    one = Market(folder, [AAPL, IBM], freshness_ms=20)
    one.replace_bars(0, make_bars(0, 5))
    with one.reader() as reading:
        reading.panel("close")
        _take_name(one.path, thing)
        one.publish(quotes=[make_quotes(at(0), 5.0)])
        check(reading.get_quote("AAPL").price == 5.0, "the writer lives, and is not heard")
        if stops:
            one.writer.close()
            check(os.path.lexists(one.path) == (thing != "nothing"), "what is not its own is gone")
        else:
            one.die()
        until("it is stale", lambda: reading.get_quote("AAPL").stale)
        check(reading.get_quote("AAPL").price == 5.0, "the last quote is another one")
        assert_bars(reading.get_stock("AAPL"), make_bars(0, 5))
        check(reading.list_tickers() == ["AAPL", "IBM"], "a ticker is gone")
        check(reading.writer_status() == ("closed" if stops else "dead"), "it is said to live")
        epoch = reading.snapshot_state.epoch
        check(reading.wait(epoch, 0.001) == epoch, "another epoch")
        if thing == "a folder":
            one.path.rmdir()
        elif thing not in {
            "nothing",
            "half a segment",
            "another layout",
        }:  # a writer replaces those
            one.path.unlink()
        one.writer = SegmentWriter.open(one.spec, one.clock)
        one.add(AAPL, price=7.0)
        first = reading.get_quote("AAPL")
        check(first.stale or first.price == 7.0, "an old quote is passed off as fresh")
        check(reading.get_quote("AAPL").price == 7.0, "the successor is not found")
        check(reading.info.instance == one.writer.instance, "the successor is not found")
    one.stop()


def _renamed_over(folder: Path, *, stops: bool) -> None:
    """Put another market's segment over the name, each with its writer."""
    folder.mkdir()
    (folder / "other").mkdir()
    one, other = Market(folder, [AAPL]), Market(folder / "other", [AAPL])
    other.publish(quotes=[make_quotes(at(0), 9.0)])
    with one.reader() as reading:
        other.path.rename(one.path)
        one.publish(quotes=[make_quotes(at(0), 5.0)])
        check(reading.get_quote("AAPL").price == 5.0, "the writer lives, and is not heard")
        if stops:
            one.writer.close()
            check(one.path.exists(), "another one's segment is gone")
        else:
            one.die()
        reading.list_tickers()
        check(reading.get_quote("AAPL").price == 9.0, "the successor is not found")
        other.publish(quotes=[make_quotes(at(0), 10.0)])
        check(reading.get_quote("AAPL").price == 10.0, "the successor is not heard")
    one.stop()
    other.stop()


def replaced_files(folder: Path) -> str:
    """Take files away under their readers."""
    folder.mkdir()

    def act(note: Note) -> int:
        reader._LOOK_EACH_MS = 0  # type: ignore[misc]  # a successor is looked for at once
        cases = 0
        for stops in (False, True):
            for thing in THINGS:
                note.write(f"{thing}, stops {stops}")
                signal.alarm(10)
                _under_a_reader(folder / f"{cases}", thing, stops=stops)
                cases += 1
            note.write(f"renamed over, stops {stops}")
            _renamed_over(folder / f"{cases}", stops=stops)
            cases += 1
        return cases

    cases = in_child(act, 60)
    return f"{cases} cases: right, then stale, then the successor's"


# -- forks -----------------------------------------------------------------------------------


def _publish_for_ever(writer: SegmentWriter) -> None:
    version = 3
    while True:
        writer.write_data(market.batch_of(version))
        writer.heartbeat()
        version += 1
        time.sleep(0.0005)  # the pace of this market


@contextlib.contextmanager
def _process(act: Callable[[], object]) -> Iterator[int]:
    """Run something in a child of its own until the block ends; give its pid."""
    pid = fork()
    if not pid:
        try:
            die_with_parent()
            act()
        except BaseException as error:  # noqa: BLE001  the parent sees that nothing comes
            print(f"a child ends: {error!r}", file=sys.stderr)  # noqa: T201  for who looks why
        finally:
            os._exit(1)
    try:
        yield pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _opened(folder: Path) -> SegmentWriter:
    writer = SegmentWriter.open(market.spec_in(folder), SystemClock())
    writer.enlist([Ticker(symbol) for symbol in market.TICKERS])
    writer.write_data(market.batch_of(3))
    return writer


def _in_the_writers_child(writer: SegmentWriter) -> str:
    """Do all that a child may not; tell what went wrong."""
    for act in (
        lambda: writer.write_data(market.batch_of(3)),
        writer.heartbeat,
        lambda: writer.enlist([AAPL]),
    ):
        try:
            act()
        except SegmentError:
            continue
        return "it can write"
    writer.close()  # harmless: it is the parent's
    try:
        SegmentWriter.open(writer.spec, SystemClock()).close()
    except WriterRunningError:
        return "fine"
    return "it could take the segment"


def writer_forks(folder: Path) -> str:
    """Fork in a writer: the child cannot write, and keeps nobody from it."""
    folder.mkdir()
    for number, outlives in enumerate((False, True)):
        place = folder / f"forks{number}"
        place.mkdir()
        source, sink = os.pipe()

        def act(place: Path = place, sink: int = sink) -> None:
            writer = _opened(place)
            child = fork()
            if child:
                os.write(sink, b"%d\n" % child)
                _publish_for_ever(writer)
            os.write(sink, f"{_in_the_writers_child(writer)}\n".encode())
            os.close(sink)
            signal.pause()

        with _process(act) as pid, os.fdopen(source) as said:
            os.close(sink)
            lines = {said.readline().strip(), said.readline().strip()}
            check("fine" in lines, f"the child says {lines}")
            (child,) = (int(line) for line in lines - {"fine"})
            try:
                with _attach(place) as reading:
                    watcher = market.Watcher(reading)
                    for _ in range(20):
                        watcher.look()
                    if not outlives:
                        os.kill(child, signal.SIGKILL)
                    _goes_on(reading)
                    check(reading.writer_status() == "live", "the parent is not live")
                    check(reading.info.writer_pid == pid, "another pid")
                    os.kill(pid, signal.SIGKILL)
                    until(
                        "its death is seen",
                        lambda reading=reading: reading.writer_status() == "dead",
                    )
                    writer = SegmentWriter.open(market.spec_in(place), SystemClock())
                    check(writer.adopted, "the segment is not adopted")
                    watcher.look()
                    check(reading.writer_status() == "live", "the next writer is not live")
                    writer.close()
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
    return (
        "a child that is killed, and one that outlives its parent: neither writes nor holds a lock"
    )


def reader_forks(folder: Path, forks: int) -> str:
    """Fork in a reader that several threads use: all go on."""
    folder.mkdir()
    with _process(lambda: _publish_for_ever(_opened(folder))):
        until("there is a segment", (folder / market.NAME).exists)
        reads = in_child(lambda note: _fork_while_reading(note, folder, forks), 120)
    return f"{forks} forks under {_THREADS} threads: {reads:,} reads, children's and parent's"


_THREADS: Final = 4


def _fork_while_reading(note: Note, folder: Path, forks: int) -> int:
    reading, stop, failed = _attach(folder), threading.Event(), list[BaseException]()
    watchers = [market.Watcher(reading) for _ in range(_THREADS)]

    def read(watcher: market.Watcher) -> None:
        try:
            while not stop.is_set():
                watcher.look()
        except BaseException as error:  # noqa: BLE001  whatever it is, the part fails with it
            failed.append(error)

    threads = [threading.Thread(target=read, args=(watcher,)) for watcher in watchers]
    for thread in threads:
        thread.start()
    reads = 0
    for number in range(forks):
        note.write(f"fork {number}")
        pid = fork()
        if not pid:
            signal.alarm(10)
            status = 1
            try:
                watcher = market.Watcher(reading)
                for _ in range(5):
                    watcher.look()
                _goes_on(reading)
                status = 0
            finally:
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        check(status == 0, f"a child ends with {status}")
        reads += 5
    stop.set()
    for thread in threads:
        thread.join()
    check(not failed, f"a thread of the parent: {failed}")
    return reads + sum(watcher.reads for watcher in watchers)


# -- the clock -------------------------------------------------------------------------------

SHIFTED: Final = (
    "import os; from quoteshm.clock import SystemClock as it; now = it.wall_ms; "
    "it.wall_ms = lambda self: now(self) + int(open(os.environ['SHIFT']).read());"
)


def jumping_clock(folder: Path) -> str:
    """Let the wall clock of a daemon jump by an hour, either way.

    The machine's own is not set, as all on it go by it: the daemon's is another function.
    """
    folder.mkdir()
    said, clock = folder / "shift", SystemClock()

    def shift(ms: int) -> None:
        new = folder / "shift.new"
        new.write_text(f"{ms}")
        new.rename(said)

    shift(0)
    argv = ("--synthetic", "--synthetic-count", "20", "--refresh", "0.02", "--freshness", "1")
    command = (*TWISTD[:-1], SHIFTED + TWISTD[-1], "-n", "--pidfile=", "quoteshm")
    jumps = (HOUR_MS, 0, -HOUR_MS, 0, HOUR_MS, -HOUR_MS)
    with daemon(folder, *argv, command=command, env={"SHIFT": f"{said}"}) as running:
        running.wait_for("listening on")
        with _attach(folder, running.name) as reading:
            until("all are there", lambda: len(reading) == 20)
            beat = _heartbeat(reading)
            for jump in jumps:
                epoch = reading.snapshot_state.epoch
                shift(jump)
                for _ in range(3):  # the first may be of both clocks
                    _goes_on(reading)
                for quote in reading.snapshot().quotes.values():
                    check(not quote.stale, f"stale by a jump to {jump}: {quote}")
                    off = quote.updated_ms - clock.wall_ms() - jump
                    check(abs(off) < 2000, f"{off} ms off after a jump to {jump}")
                check(reading.snapshot_state.epoch > epoch, "the epoch goes back")
                check(reading.writer_status() == "live", reading.writer_status())
            until("heartbeats go on", lambda: _heartbeat(reading) > beat)
            running.process.send_signal(signal.SIGSTOP)
            until("it is stale", lambda: reading.get_quote("SYN00001").stale)
            shift(-HOUR_MS)
            check(reading.get_quote("SYN00001").stale, "fresh by a jump")
            running.process.send_signal(signal.SIGCONT)
            until("it is fresh", lambda: not reading.get_quote("SYN00001").stale)
        _ends_well(running)
    return f"{len(jumps)} jumps of the daemon's own clock: nothing stale by them, nor fresh"


def _heartbeat(reading: StockDataReader) -> int:
    return int(reading._attachment().map.superblock["heartbeat_boot_ms"])


# -- the end of epochs -----------------------------------------------------------------------

EPOCHS: Final = (
    *((1 << 61) + back for back in (-2, 0, 2)),
    *(layout.MAX_EPOCH + back for back in (-4, -3, -2, -1, 0, 1, 2)),
    *(1 << 63, (1 << 64) - 2, (1 << 64) - 1),
)


def late_epochs(folder: Path) -> str:
    """Come to epochs that no writer reaches: readers say so, a writer replaces the segment."""
    folder.mkdir()

    def act(note: Note) -> list[int]:
        reader._LOOK_EACH_MS = 0  # type: ignore[misc]  # a successor is looked for at once
        adopted = 0
        for epoch in EPOCHS:
            note.write(f"epoch {epoch}")
            signal.alarm(10)
            adopted += _late_epoch(folder / f"{epoch}", epoch)
        return [adopted, len(EPOCHS) - adopted]

    adopted, replaced = in_child(act, 60)
    return f"{adopted + replaced} epochs near 2^62 and 2^64: {adopted} adopted, {replaced} replaced"


def _late_epoch(folder: Path, epoch: int) -> bool:
    folder.mkdir()
    one = Market(folder, [AAPL, IBM])
    with one.reader() as attached:
        attached.list_tickers()
        one.replace_bars(0, make_bars(0, 5))  # both buffers have the same quotes
        one.publish(confirmed=slice(0, 2))
        one.die()
        one.writer._map.cells[layout.EPOCH_WORD] = epoch
        for read in (attached.list_tickers, lambda: one.reader().list_tickers()):
            with contextlib.suppress(CorruptSegmentError):
                check(read() == ["AAPL", "IBM"], "another market")
        with contextlib.suppress(CorruptSegmentError):
            check(attached.wait(epoch, 0.001) <= layout.MAX_EPOCH, "an epoch that cannot be")
        one.writer = SegmentWriter.open(one.spec, one.clock)
        if one.writer.adopted:
            check(one.writer.epoch < layout.MAX_EPOCH, "there is no epoch to go on with")
        else:
            check(
                isinstance(one.writer.refused, CorruptSegmentError), "it is replaced without a word"
            )
        one.add(AAPL, IBM, price=1.0)
        for number in range(20):
            one.publish(quotes=[make_quotes(at(0), 2.0 + number)])
            for reading in (attached, one.reader()):
                with contextlib.suppress(
                    CorruptSegmentError
                ):  # the first look may be at the old one
                    reading.list_tickers()
                check(reading.get_quote("AAPL").price == 2.0 + number, "an old quote")
                check(reading.snapshot().epoch == one.writer.epoch, "another epoch")
        adopted = one.writer.adopted
    one.stop()
    return adopted


# -- all of it -------------------------------------------------------------------------------


def parts(size: Size, seed: int, folder: Path) -> list[tuple[str, Callable[[], str]]]:
    """Give the parts of the campaign."""
    rounds = max(2, size.daemon_runs // 3)
    acts: list[tuple[str, Callable[[Path], str]]] = [
        ("a full disk under the segment", full_segment),
        ("a full disk under the archive", full_archive),
        *(
            (
                f"{count} writers at once",
                functools.partial(many_writers, count=count, rounds=2 * rounds),
            )
            for count in size.writers
        ),
        ("two daemons at once", functools.partial(two_daemons, rounds=rounds // 2)),
        ("files of another user", foreign_files),
        ("files replaced under a reader", replaced_files),
        ("forks in a writer", writer_forks),
        ("forks in a reader", functools.partial(reader_forks, forks=10 * rounds)),
        ("the wall clock, an hour off", jumping_clock),
        ("epochs at their end", late_epochs),
    ]

    def part(number: int, act: Callable[[Path], str]) -> Callable[[], str]:
        def do() -> str:
            place = folder / f"world{number}"
            place.mkdir()
            return _skippable(lambda: act(place / "it"))

        return do

    return [(name, part(number, act)) for number, (name, act) in enumerate(acts)]
