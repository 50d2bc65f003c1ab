"""Kill the daemon at random and at each named step, a thousand times, under readers of all kinds.

``python -m tests.campaigns.crash --kills 1500`` runs the real daemon on a stamped market (see
`stamped`), some 2,000 commits a second, and kills it with SIGKILL: at random moments, while it is
stopped by SIGSTOP, and at each step of a commit, an adoption, a creation, a replacement and a close
(see `steps`). Each time it is started again at once. All the while other processes read the
segment: one by copies, one by views, one by snapshots and panels, and one that maps the file by
itself (`raw`); further readers come and are killed too. Every read is held against the seals of
the values, against the ledger of its epoch, and against all that the same reader has seen before.

Most lives of the daemon are forks of this process, which has imported it; some are twistd's own.
It ends with a table, and with exit status 1 if anything was torn, lost or hung.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from quoteshm import QuoteShmError, StockDataReader
from quoteshm.errors import SegmentNotFoundError
from quoteshm.shm.segment import DEFAULT_DIRECTORY
from tests.campaigns import reading, stamping, steps
from tests.campaigns.reading import Tally
from tests.campaigns.stamped import CORE, LEDGER, Memory, check

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from quoteshm.shm.results import SeriesView
    from tests.campaigns.reading import Way

PROJECT: Final = Path(__file__).parents[2]
NAME, FRESH = "market", "fresh"
INTERVALS: Final = ("1m", "5m")
CAPACITIES: Final = (("1m:48", "5m:24"), ("1m:40", "5m:24"))
GONE: Final = "GONE"  # is there in some lives only
TWISTD_EACH: Final = 25  # an odd number: in turn for one that dies at random, and at a step
MAYFLY_EACH: Final = 5
PAUSE_S: Final = 0.004
MOST_PROBLEMS: Final = 20
WAIT_S: Final = 20.0
READ_TIMEOUT_S: Final = 5.0
ONE_THREAD: Final = "OPENBLAS_NUM_THREADS"


# -- readers ---------------------------------------------------------------------------------


class Watch:
    """Reads with the package's own reader, and holds each read against those before it."""

    def __init__(self, folder: Path, memory: Memory | None = None, name: str = NAME) -> None:
        self.reader = StockDataReader(shm_name=name, shm_dir=folder, timeout_s=READ_TIMEOUT_S)
        self.memory = memory or Memory()
        self._random = random.Random(os.getpid())  # noqa: S311  which ticker comes next
        self._held: tuple[SeriesView, bytes] | None = None

    def _any(self) -> tuple[str, str]:
        return self._random.choice((*CORE, LEDGER)), self._random.choice(INTERVALS)

    def quote(self) -> None:
        """Read a quote."""
        ticker, _ = self._any()
        quote = self.reader.get_quote(ticker)
        values = quote.open, quote.high, quote.low, quote.price, quote.volume
        self.memory.quote(ticker, values)

    def copy(self) -> None:
        """Copy a history."""
        self.history(*self._any())

    def history(self, ticker: str, interval: str) -> None:
        """Copy this history."""
        frame = self.reader.get_stock(ticker, interval)
        values = np.ascontiguousarray(frame.to_numpy().T)
        self.memory.bars(ticker, interval, _times(frame), values, len(frame) - 1)

    def view(self) -> None:
        """View a history, and believe it if it is still intact afterwards."""
        ticker, interval = self._any()
        view = self.reader.view(ticker, interval)
        times, values = view.time.copy(), view.bars.ohlcv.copy()
        if view.intact:
            self.memory.bars(ticker, interval, times, values, len(times))
            if self._held is None:
                self._held = view, _bytes_of(view)

    def held(self) -> None:
        """Look again at a view from before: as long as it is intact it shows what it showed."""
        if self._held is None:
            return
        view, before = self._held
        now = _bytes_of(view)
        if not view.intact:
            self._held = None
            return
        check(now == before, f"{view.ticker.symbol}: a view has changed, and is said to be intact")

    def snapshot(self) -> None:
        """Copy the market."""
        snapshot = self.reader.snapshot()
        self.memory.at(snapshot.epoch)
        self.memory.quotes(
            {
                ticker: (quote.open, quote.high, quote.low, quote.price, quote.volume)
                for ticker, quote in snapshot.quotes.items()
            },
        )

    def panel(self) -> None:
        """Copy a panel."""
        interval = self._random.choice(INTERVALS)
        frame = self.reader.panel("close", interval=interval)
        table = frame.to_numpy()
        there = ~np.isnan(table)
        last = len(table) - 1 - there[::-1].argmax(axis=0)
        spans = last - there.argmax(axis=0) + 1
        check((there.sum(axis=0) == spans).all(), "a panel with holes")
        check((np.diff(_times(frame)) > 0).all(), "a panel's times")
        newest = table[last, np.arange(table.shape[1])].tolist()
        self.memory.closes(interval, dict(zip(frame.columns, newest, strict=True)))

    def everything(self) -> None:
        """Read all there is."""
        self.snapshot()
        for ticker, interval in itertools.product((*CORE, LEDGER), INTERVALS):
            self.history(ticker, interval)
        self.panel()

    def stamp(self) -> float:
        """Say which batch is the newest."""
        return self.reader.get_quote(LEDGER).open

    def ways(self) -> dict[str, list[Way]]:
        """Give what each kind of reader does in turn."""
        return {
            "copies": [("quote", self.quote), *[("history", self.copy)] * 5],
            "views": [*[("view", self.view)] * 5, ("view held", self.held)],
            "market": [("snapshot", self.snapshot), ("panel", self.panel)],
        }


def _times(frame: pd.DataFrame) -> np.ndarray[Any, np.dtype[np.int64]]:
    return pd.DatetimeIndex(frame.index).as_unit("ms").asi8


def _bytes_of(view: SeriesView) -> bytes:
    return view.time.tobytes() + view.bars.ohlcv.tobytes()


KINDS: Final = ("copies", "views", "market")


# -- processes -------------------------------------------------------------------------------


class Process:
    """A child of this process: a fork that runs a function, which may be to run a program."""

    def __init__(self, act: Callable[[], object], log: Path, *, is_heard: bool = False) -> None:
        out, into = os.pipe() if is_heard else (-1, -1)
        self._how: int | None = None
        self.pid, self._out = os.fork(), out
        if self.pid:
            if is_heard:
                os.close(into)
            return
        try:
            steps.die_with_parent()
            with log.open("ab") as file:
                os.dup2(file.fileno(), 2)
            os.dup2(into if is_heard else 2, 1)
            act()
            sys.stdout.flush()
        except BaseException:  # noqa: BLE001  a child never comes back
            traceback.print_exc()
        finally:
            os._exit(0)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def ended(self) -> int | None:
        """Give the signal that it died of, 0 if it ended otherwise, nothing while it lives."""
        if self._how is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._how = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        return self._how

    def wait(self, timeout_s: float = WAIT_S) -> int | None:
        """Wait for its end; give what `ended` gives, nothing if it does not come."""
        until = time.monotonic() + timeout_s
        while (how := self.ended()) is None and time.monotonic() < until:
            time.sleep(0.0005)
        return how

    def stop(self) -> None:
        """Stop it with SIGSTOP, and wait until it is stopped."""
        self.signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def kill(self) -> int | None:
        """Kill it, and wait until it is dead."""
        if self.ended() is None:
            self.signal(signal.SIGKILL)
        return self.wait()

    def told(self) -> dict[str, Any]:
        """Tell it to end, and give what it prints."""
        self.signal(signal.SIGTERM)
        if self.wait() is None:
            self.kill()
            return {**Tally().told(), "hung": 1, "problems": ["hung: a reader did not end"]}
        with os.fdopen(self._out) as file:
            text = file.read()
        if not text:
            return {**Tally().told(), "torn": 1, "problems": ["torn: a reader failed: see the log"]}
        found: dict[str, Any] = json.loads(text)
        return found


# -- the campaign ----------------------------------------------------------------------------


class Campaign:
    """Writers that die, one after the other, and what was seen of it."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.log = folder, folder / "log"
        self.random = random.Random(seed)  # noqa: S311  when and where they die
        self.tally, self.counts = Tally(), Counter[str]()
        self.deaths, self.steps = Counter[str](), Counter[str]()
        self.restart_ms: dict[str, list[float]] = {"forked": [], "twistd": []}
        self._memory, self._stamp, self._instance = Memory(), 0.0, ""
        self._found = self._wanted = self._new = 0  # which capacities; how many new tickers
        self._may_be_closed = False
        self._readers: list[Process] = []
        self.log.touch()

    def wrong(self, kind: str, what: str) -> None:
        """Note what went wrong with a writer."""
        self.tally.wrong[kind] += 1
        self.tally.problems.append(f"{kind}: {what}")

    # -- writers

    def start(self, step: str, scene: str, *, by_twistd: bool = False) -> Process:
        """Start a writer that is to die at a step, if any."""
        tickers = [*CORE, LEDGER]
        if self.random.random() < 0.3:
            tickers.append(GONE)
        if scene == "new":
            self._new += 1
            tickers.append(f"NEW{self._new}")
        if scene == "other":
            self._wanted = 1 - self._found
        elif step:
            self._wanted = self._found  # it is to come to its step, and not to a replacement
        argv = [
            *("--port", "0", "--synthetic", "--tickers", ",".join(tickers)),
            *("--intervals", ",".join(CAPACITIES[self._wanted]), "--max-tickers", "16"),
            *("--refresh", "0.01", "--freshness", "60", "--log-level", "error"),
            *("--shm-name", FRESH if scene == "fresh" else NAME, "--shm-dir", str(self.folder)),
            "--keep-segment",
        ]

        def live() -> None:
            os.environ.pop(steps.VARIABLE, None)
            if step:
                os.environ[steps.VARIABLE] = step
            if by_twistd:
                os.chdir(PROJECT)
                program = (sys.executable, "-m", "tests.campaigns.stamping", *argv)
                os.execv(sys.executable, program)  # noqa: S606  no shell is wanted
            stamping.serve(argv)

        return Process(live, self.log)

    def first_commit(self, life: Process, after: float, name: str = NAME) -> Watch | None:
        """Wait until a batch of this writer can be read; nothing if it dies before."""
        until = time.monotonic() + WAIT_S
        watch: Watch | None = None
        while time.monotonic() < until:
            try:
                if watch is None:
                    watch = Watch(self.folder, self._memory if name == NAME else None, name)
                epoch = watch.reader.snapshot_state.epoch
                if watch.stamp() > after:
                    return watch
                watch.reader.wait(epoch, 0.002)
            except QuoteShmError:
                time.sleep(0.0005)  # there is no segment yet, or nothing in it
            if life.ended() is not None:
                return None
        self.wrong("hung", "a writer lives, and no commit of it can be read")
        return None

    def bury(self, life: Process, how: str) -> None:
        """See that a writer died of SIGKILL and nothing else."""
        ended = life.wait()
        if ended is None:
            self.wrong("hung", f"{how}: the writer did not come to it")
            life.kill()
        elif ended != signal.SIGKILL:
            self.wrong("hung", f"{how}: the writer ended by itself, see the log")
        self.deaths[how.partition(": ")[0]] += 1

    def live_and_die(self, step: str, scene: str, *, by_twistd: bool) -> None:
        """Run a writer until it is dead, and look at what it leaves."""
        begun = time.perf_counter()
        life = self.start(step and f"{step}:{self._which(step)}", scene, by_twistd=by_twistd)
        if not step and self.random.random() < 0.25:
            time.sleep(self.random.uniform(0, 0.06) * (10 if by_twistd else 1))
            life.kill()
            self.bury(life, "at random, while it starts")
        else:
            watch = self.first_commit(life, self._stamp)
            if watch is not None:
                took_ms = (time.perf_counter() - begun) * 1000
                self.restart_ms["twistd" if by_twistd else "forked"].append(took_ms)
                self._see_adoption(watch, life)
            if step:
                if scene == "stop" and watch is not None:
                    self.first_commit(life, watch.stamp())  # its reactor runs, and hears signals
                    life.signal(signal.SIGTERM)
                self.bury(life, f"at a step: {step}")
                self.steps[step] += 1
            else:
                self._die_at_random(life)
        self._may_be_closed |= scene == "stop"  # until another writer has said that it lives
        self.look()

    def _which(self, step: str) -> int:
        """Choose which of the times that a writer comes to a step is to be its last."""
        return self.random.randint(1, 20) if steps.STEPS[step].often else 1

    def _see_adoption(self, watch: Watch, life: Process) -> None:
        info = watch.reader.info
        if info.writer_pid != life.pid:
            self.wrong("lost", f"process {life.pid} writes, and {info.writer_pid} is named")
        if self._instance:
            self.counts["adoptions" if info.instance == self._instance else "replacements"] += 1
        self._instance = info.instance

    def _die_at_random(self, life: Process) -> None:
        time.sleep(self.random.uniform(0, 0.12))
        if self.random.random() < 0.15:
            life.stop()
            self.counts["stops"] += 1
            self.look(status="live")
            if self.random.random() < 0.5:
                life.kill()
                self.bury(life, "at random, while it is stopped")
                return
            before = self._stamp
            life.signal(signal.SIGCONT)
            if self.first_commit(life, before) is None:
                self.wrong("hung", "a writer that was stopped does not go on")
        life.kill()
        self.bury(life, "at random, while it publishes")

    def look(self, *, status: str = "dead") -> None:
        """Read all there is, with a reader that is new; and see how it says the writer is."""
        watch: Watch | None = None

        def read() -> None:
            nonlocal watch
            watch = Watch(self.folder, self._memory)
            found = watch.reader.writer_status()
            if found != "closed" or not self._may_be_closed:
                check(found == status, f"the writer is said to be {found}, expected {status}")
                self._may_be_closed = False
            watch.everything()
            self._stamp = watch.stamp()
            capacity = watch.reader.info.capacities["1m"]
            self._found = [f"1m:{capacity}" in kinds for kinds in CAPACITIES].index(True)

        self.tally.read("by a new reader", read)

    def die_unborn(self, step: str) -> None:
        """Let a writer die that makes the first segment, and another one begin after it."""
        self._clear()
        life = self.start(step, "fresh")
        until = time.monotonic() + WAIT_S
        while life.ended() is None and time.monotonic() < until:
            self.tally.read("of a segment being made", self._peep)
            time.sleep(0.0005)  # a processor for the writer
        self.bury(life, f"at a step: {step}")
        self.steps[step] += 1
        self.tally.read("of a segment half made", self._peep)
        life = self.start("", "fresh")
        if self.first_commit(life, 0.0, FRESH) is None:
            self.wrong("hung", f"{step}: nothing can be published after it")
        life.kill()
        self.bury(life, "at random, while it publishes")
        self._clear()

    def _peep(self) -> None:
        """Attach to a segment that may not be there: it is whole, or there is none."""
        with contextlib.suppress(SegmentNotFoundError):
            reader = StockDataReader(shm_name=FRESH, shm_dir=self.folder)
            reader.snapshot()

    def _clear(self) -> None:
        for path in self.folder.glob(f"{FRESH}*"):
            path.unlink()

    # -- readers

    def read(self, kind: str, *, is_heard: bool = True) -> Process:
        """Start a reader."""

        def act() -> None:
            if kind == "raw":
                os.chdir(PROJECT)
                program = (sys.executable, "-m", "tests.campaigns.raw", str(self.folder / NAME))
                os.execv(sys.executable, program)  # noqa: S606  no shell is wanted
            ways = Watch(self.folder).ways()[kind]
            print(json.dumps(reading.read_until_told(ways, PAUSE_S)))  # noqa: T201  to the campaign

        return Process(act, self.log, is_heard=is_heard)

    # -- all of it

    def begin(self) -> None:
        """Make the segment, and start the readers that stay."""
        life = self.start("", "run")
        if self.first_commit(life, 0.0) is None:
            raise TimeoutError(f"no first commit: {self.log.read_text()}")
        self._readers = [self.read(kind) for kind in (*KINDS, "raw")]
        life.kill()
        self.bury(life, "at random, while it publishes")
        self.look()

    def go_on(self, plan: Iterator[tuple[str, str]], kills: int) -> None:
        """Kill writers as planned, until so many are dead."""
        for life in itertools.count():
            if self.deaths.total() >= kills or len(self.tally.problems) > MOST_PROBLEMS:
                return
            mayfly = None
            if life % MAYFLY_EACH == 0:
                mayfly = self.read(self.random.choice(KINDS), is_heard=False)
            step, scene = next(plan) if life % 2 else ("", "run")
            if scene == "fresh":
                self.die_unborn(step)
            else:
                self.live_and_die(step, scene, by_twistd=life % TWISTD_EACH == TWISTD_EACH - 1)
            if mayfly is not None:
                mayfly.kill()
                self.counts["readers killed"] += 1

    def end(self) -> list[dict[str, Any]]:
        """Let the readers tell what they have read."""
        return [reader.told() for reader in self._readers]

    def result(self, told: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Give the figures of the campaign."""
        found = reading.joined([*told, self.tally.told()])
        if log := self.log.read_text(errors="replace"):
            found["problems"].append(f"the log says: {log[-2000:]}")
        return {
            "kills": self.deaths.total(),
            "of them": dict(self.deaths),
            "steps died at": len(self.steps),
            **self.counts,
            "commits": Watch(self.folder).reader.snapshot_state.epoch // 2,
            **found,
            "restart to first commit read, ms": {
                how: _spread(times) for how, times in self.restart_ms.items() if times
            },
        }


def _spread(times: Sequence[float]) -> str:
    median, p99 = np.percentile(times, (50, 99))
    return f"median {median:.0f}, p99 {p99:.0f} ({len(times)} times)"


def plan_of(rng: random.Random) -> Iterator[tuple[str, str]]:
    """Give steps and their scenes for ever, all of them before any comes again."""
    pairs = [(step.name, scene) for step in steps.STEPS.values() for scene in step.scenes]
    while True:
        rng.shuffle(pairs)
        yield from pairs


def run(kills: int, seed: int) -> dict[str, Any]:
    """Run the campaign."""
    for step in steps.STEPS.values():
        steps.line_of(step)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(dir=DEFAULT_DIRECTORY, prefix="crash-") as folder:
        campaign = Campaign(Path(folder), seed)
        campaign.begin()
        campaign.go_on(plan_of(campaign.random), kills)
        result = campaign.result(campaign.end())
    return {"seconds": round(time.monotonic() - begun), "seed": seed, **result}


def main() -> int:
    """Run the campaign and print what came of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    said = parser.parse_args()
    if ONE_THREAD not in os.environ:  # this process forks, so it is to have no other threads
        os.environ[ONE_THREAD] = "1"
        os.execv(sys.executable, (sys.executable, "-m", "tests.campaigns.crash", *sys.argv[1:]))  # noqa: S606  no shell is wanted
    return reading.report(run(said.kills, said.seed), as_json=said.json)


if __name__ == "__main__":
    sys.exit(main())
