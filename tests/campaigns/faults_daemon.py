"""Daemons whose system calls fail for a while, at their start or later.

``python -m tests.campaigns.faults_daemon [OPTIONS OF THE DAEMON]`` runs one whose archive does in
tenths of seconds what takes minutes otherwise. It either ends, with status 1 and a line that names
the cause, and can be started as soon as the fault is over; or it serves, and is well again then.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import re
import shutil
import signal
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from twisted.scripts import twistd

from quoteshm import StockDataReader
from quoteshm.market.archive import Archive
from quoteshm.service import archiver
from tests.campaigns import faults_shim, steps
from tests.campaigns.faults_shim import ERRORS, NEVER, Orders
from tests.campaigns.hostile_measures import until
from tests.campaigns.report import ViolationError, check
from tests.processes.daemons import STOP_S, WAIT_S, Running, daemon

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT: Final = Path(__file__).parents[2]
COMMAND: Final = (sys.executable, "-P", "-m", "tests.campaigns.faults_daemon")
#: Two days of synthetic time a second, so that there are bars to be saved.
OPTIONS: Final = (
    *("--synthetic", "--synthetic-count", "3", "--synthetic-speed", "20000", "--bars", "40"),
    *("--intervals", "1d,1h", "--refresh", "0.05"),
)
#: So many calls fail, one after the other; NEVER is until it is seen what comes of it.
LENGTHS: Final = (1, 3, 30, NEVER)
_TRACEBACK: Final = re.compile(r"Traceback \(most recent|Unhandled|#critical", re.MULTILINE)
_CANNOT: Final = re.compile(r"^(?:.*cannot start|quoteshm): (.*)$", re.MULTILINE)


class Trial(NamedTuple):
    """What one daemon is to meet."""

    number: int
    error: int
    start: int  # the first call that fails
    length: int  # how many do
    after_crash: bool  # whether there is a segment to be adopted, and an archive

    def __str__(self) -> str:
        count = "all" if self.length == NEVER else self.length
        begun = "after a crash" if self.after_crash else "from nothing"
        return f"{errno.errorcode[self.error]} in {count} calls from {self.start} on, {begun}"


class House:
    """The folders of one daemon, and the orders to its calls."""

    def __init__(self, folder: Path, library: Path) -> None:
        self.folder, self.data = folder, folder / "data"
        (self.data / "state").mkdir(parents=True)
        (self.data / "shm").mkdir()
        self.orders = Orders.in_file(folder / "orders")
        self.orders.watch(self.data)
        self.env = {
            **faults_shim.preloaded(library, folder / "orders"),
            "PYTHONPATH": str(ROOT),
        }

    def daemon(self) -> Any:
        """Run one, until the block ends."""
        where = ("--shm-dir", str(self.data / "shm"), "--state-dir", str(self.data / "state"))
        return daemon(self.folder, *OPTIONS, *where, name="shm0", command=COMMAND, env=self.env)

    def attach(self) -> StockDataReader:
        """Make a reader."""
        return StockDataReader(shm_name="shm0", shm_dir=self.data / "shm")

    def is_well(self, running: Running) -> bool:
        """Whether all is published, and saved, and nothing is said to be wrong."""
        info = running.ask("get_info")["data"]
        with self.attach() as reader:
            quotes = reader.snapshot().quotes
        archive = info["archive"]
        fresh = len(quotes) == 3 and not any(quote.stale for quote in quotes.values())
        saved = len(list(self.data.glob("state/archive/*/1?/*.*"))) >= 6
        return bool(fresh and saved and not archive["error"] and not info["error"])

    def see_well(self, running: Running) -> None:
        """Wait until all is as it should be, and stays so for another file of quotes."""
        running.wait_for("listening on")
        until(f"it is well: {running.log[-1500:]}", lambda: self.is_well(running))
        before = running.ask("get_info")["data"]["archive"]["written_ms"] or 0

        def has_saved() -> bool:
            archive = running.ask("get_info")["data"]["archive"]
            return bool((archive["written_ms"] or 0) > before and not archive["error"])

        until("it saves again", has_saved)

    def see_end(self, running: Running) -> None:
        """Stop it, and see what it leaves."""
        status = running.stop(signal.SIGTERM)
        check(status == -signal.SIGTERM, f"it ended with status {status}: {running.log[-1500:]}")
        left = {path.name for path in self.data.rglob("*") if path.is_file()}
        check(not any(name.endswith(".new") for name in left), f"it left {left}")
        check("shm0" not in left, "its segment is there still")
        archive = Archive(self.data / "state" / "archive", "synthetic", "none")
        market = archive.load_market()
        check(market.record is not None and not market.notes, f"the quotes: {market.notes}")
        assert market.record is not None
        for ticker in market.record.tickers:
            for interval in ("1d", "1h"):
                found = archive.load_series(ticker.symbol, interval)
                check(found.record is not None and not found.notes, f"{ticker}: {found.notes}")


def measure(folder: Path, library: Path) -> tuple[int, Path]:
    """Run a daemon that nothing befalls, kill it, and give its calls, and what it leaves."""
    house = House(folder / "well", library)
    with house.daemon() as running:
        house.see_well(running)
        calls = int(house.orders.calls)
        running.process.kill()
        running.process.wait(STOP_S)
        check(not _TRACEBACK.search(running.log), running.log)
    return calls, house.data


def trial(one: Trial, folder: Path, library: Path, before: Path) -> str:
    """Let one daemon meet its fault; tell how it ended."""
    house = House(folder / f"{one.number}", library)
    if one.after_crash:
        shutil.copytree(before, house.data, dirs_exist_ok=True)
    house.orders.fail(one.error, one.start, one.length)
    with house.daemon() as running:
        try:
            outcome = _meet(one, house, running)
        finally:
            log, ended = running.log, running.process.poll()
    check(not _TRACEBACK.search(log.replace("#critical] cannot start", "")), f"log: {log}")
    if outcome == "ended":
        check(ended == 1, f"status {ended}: {log}")
        said = _CANNOT.findall(log)
        check(len(said) == 1, f"it does not say why it cannot start, once: {log}")
        with house.daemon() as running:
            house.see_well(running)
            house.see_end(running)
    shutil.rmtree(house.folder)
    return outcome


def _meet(one: Trial, house: House, running: Running) -> str:
    """See a daemon through its fault, and tell what came of it."""
    orders = house.orders

    def has_failed(calls: int) -> bool:
        return running.process.poll() is not None or int(orders.failed) >= calls

    until("a call fails", lambda: has_failed(1), WAIT_S)
    # One that can do nothing may have no more calls to fail, and is given up after a while.
    _at_most(1.0, lambda: has_failed(min(one.length, 40)))
    orders.heal()
    _at_most(0.1, lambda: running.process.poll() is not None)
    if running.process.poll() is not None:
        return "ended"
    try:
        house.see_well(running)
    except AssertionError:
        if running.process.poll() is None:
            raise
        return "ended"
    house.see_end(running)
    return "well again"


def _at_most(seconds: float, holds: Callable[[], bool]) -> None:
    """Wait until something holds, but no longer."""
    with contextlib.suppress(ViolationError):  # what comes next tells
        until("", holds, seconds)


def run(runs: int, seed: int, folder: Path, library: Path) -> str:
    """Let so many daemons meet their faults, two at a time, and give figures."""
    folder.mkdir()
    calls, before = measure(folder, library)
    rng = random.Random(seed)  # noqa: S311  to be made again
    trials = [
        Trial(
            number,
            rng.choice(ERRORS),
            1 + calls * number // runs,
            rng.choice(LENGTHS),
            number % 2 == 1,
        )
        for number in range(runs)
    ]
    trials = [one if one.error != errno.EINTR else one._replace(length=3) for one in trials]

    def act(one: Trial) -> tuple[str, str]:
        try:
            return trial(one, folder, library, before), ""
        except Exception as error:  # noqa: BLE001  it is what is looked for: the others go on
            return "", f"{one}: {type(error).__name__}: {error}"

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        ended = list(pool.map(act, trials))
    violations = [violation for _, violation in ended if violation]
    check(not violations, f"{len(violations)} of {runs} daemons: " + "\n".join(violations[:5]))
    outcomes = Counter(outcome for outcome, _ in ended)
    told = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common())
    return f"{runs} daemons of {calls} calls: {told}"


def main() -> None:
    """Run twistd, with an archive that is in a hurry."""
    steps.die_with_parent()
    archiver.LOOK_S = 0.1  # type: ignore[misc]
    archiver.RETRY_S = 0.3  # type: ignore[misc]
    archiver.QUOTES_S = archiver.SERIES_S = archiver.INTRADAY_S = 0.2  # type: ignore[misc]
    sys.argv = ["twistd", "-n", "--pidfile=", "quoteshm", *sys.argv[1:]]
    twistd.run()


if __name__ == "__main__":
    main()
