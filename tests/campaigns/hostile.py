"""Be every client that nobody wishes for, and see that the daemon does not mind.

``python -m tests.campaigns.hostile --seconds 60`` looks for bytes that break the framer or the
codec, then meets a real daemon with bad lines, long lines, slow and silent clients, resets,
100,000 requests at once, more connections than it may have files, and at last with all of it
together for so many seconds. After each of these

- every line has had one reply, in the order of the lines, and the next good one its answer;
- no reply was INTERNAL, and the log has no traceback;
- the daemon is there, publishes, and holds no more files than before, and hardly more memory.

It ends with a table, and with exit status 1 if the daemon did mind. A seed that is printed with
the table makes the same bad lines again.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import re
import resource
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from quoteshm import StockDataReader
from tests.campaigns import hostile_clients as clients
from tests.campaigns import hostile_fuzz as fuzz
from tests.campaigns import report
from tests.campaigns.hostile_greedy import GREEDY, greedy
from tests.campaigns.hostile_measures import (
    Latency,
    Sampler,
    cpu_s,
    descriptors,
    growth,
    memory_mib,
    sparkline,
    until,
)
from tests.campaigns.report import Row, check
from tests.processes.daemons import Running, daemon

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: So many tickers that all their quotes are a reply of 90 kB.
DAEMON: Final = (
    "--synthetic",
    "--synthetic-count",
    "400",
    "--refresh",
    "0.05",
    "--max-connections",
    "20000",
    "--max-connections-per-peer",
    "20000",
)
#: What all that is done may add to the memory of a daemon, however often.
SPARE_MIB: Final = 16.0
#: What a client that does not read may add: a chunk of requests, and a write of replies.
CLIENT_MIB: Final = 0.5
#: What an open connection may add; Python keeps some of it for the next ones.
CONNECTION_MIB: Final = 4 / 1024
#: How long it may take to connect: one whose first packet was dropped takes a second.
CONNECT_S: Final = 0.9
#: The median of the last third of a soak against that of the middle third.
FLAT_MIB: Final = 4.0
FLAT_FILES: Final = 16.0
_TROUBLE: Final = re.compile(r"^\s*Traceback \(most recent|gets INTERNAL|#critical\]", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much of each is done."""

    seconds: float  # of the soak
    examples: int  # of hypothesis
    atheris_s: int
    bad_lines: int
    slow: int  # connections
    pace_s: float  # of a byte
    silent: int  # connections
    requests: int  # at once
    ends: int  # connections of each bad end
    crowd: int  # connections
    files: int  # what the daemon may have open then
    kinds: tuple[str, ...]  # of greedy ones
    p99_ms: float  # that a polite client may have to wait, for each one that is greedy
    measure_s: float  # how long things are looked at that are to stay as they are


FULL: Final = Size(
    seconds=60,
    examples=4000,
    atheris_s=20,
    bad_lines=20_000,
    slow=500,
    pace_s=1.0,
    silent=30,
    requests=100_000,
    ends=1000,
    crowd=10_000,
    files=512,
    kinds=tuple(GREEDY),
    p99_ms=30.0,
    measure_s=1.0,
)
SHORT: Final = Size(
    seconds=1.0,
    examples=50,
    atheris_s=0,
    bad_lines=500,
    slow=30,
    pace_s=0.005,
    silent=4,
    requests=4_000,
    ends=40,
    crowd=400,
    files=128,
    kinds=("quote", "bad"),
    p99_ms=500.0,  # other tests may run beside this one
    measure_s=0.3,
)


@dataclass
class Campaign:
    """The parts against one daemon, and what came of them."""

    size: Size
    seed: int
    folder: Path
    rows: list[Row] = field(default_factory=list)

    def part(
        self,
        name: str,
        act: Callable[[], str],
        running: Running | None = None,
        spare_mib: float = SPARE_MIB,
    ) -> None:
        """Do one part, then see whether the daemon is as it was before."""

        def with_daemon() -> str:
            before = descriptors(running.process.pid) if running else 0
            memory = memory_mib(running.process.pid) if running else 0.0
            figures = act()
            if running is not None:
                unharmed(running, before, memory + spare_mib)
            return figures

        self.rows.append(Row.of(name, with_daemon))

    def run(self) -> None:
        """Do all parts."""
        self.part("hypothesis: any bytes", self._hypothesis)
        if self.size.atheris_s and fuzz.has_atheris():
            self.part("atheris: any bytes", self._atheris)
        with daemon(self.folder, *DAEMON) as running:
            ready(running)
            for name, act in self._parts(running):
                self.part(name, act, running)
            spare_mib = SPARE_MIB + CONNECTION_MIB * self.size.crowd
            self.part("connections at once", lambda: self._many(running), running, spare_mib)
            self.part("soak of all of it", lambda: self._soak(running), running)
        with daemon(self.folder, *DAEMON) as running:
            ready(running)
            self.part("more connections than files", lambda: self._crowd(running), running)

    def _parts(self, running: Running) -> list[tuple[str, Callable[[], str]]]:
        size, port = self.size, running.port
        rng = random.Random(self.seed)  # noqa: S311  to be made again
        alone = f"{size.requests:,} requests at once: "
        return [
            ("bad lines, made", lambda: f"{clients.bad_lines(port, rng, size.bad_lines)} replies"),
            ("bad lines, known", lambda: f"{clients.known_bad_lines(port)} kinds"),
            ("long lines", lambda: f"{clients.long_lines(port)} lines, to 10 MiB"),
            ("slow loris", lambda: self._slow(port)),
            ("clients that never read", lambda: self._silent(running)),
            ("half-closed clients", lambda: f"{clients.half_close(port, size.ends)} clients"),
            ("resets", lambda: f"{clients.resets(port, size.ends)} clients"),
            ("clients that vanish", lambda: self._vanish(port)),
            ("a polite client alone", lambda: self._alone(port)),
            *((alone + kind, lambda kind=kind: self._beside(port, kind, 1)) for kind in size.kinds),
            ("5 greedy clients", lambda: self._beside(port, "quote", 5)),
        ]

    # -- the parts that say more than a count ------------------------------------------------

    def _hypothesis(self) -> str:
        counts = fuzz.with_hypothesis(self.size.examples)
        return f"{counts['streams']:,} streams, {counts['lines']:,} lines"

    def _atheris(self) -> str:
        return f"{fuzz.with_atheris(self.size.atheris_s)['streams']:,} streams"

    def _slow(self, port: int) -> str:
        latency = clients.slow_loris(port, self.size.slow, self.size.pace_s)
        check(latency.p99_ms < self.size.p99_ms, f"a polite client waits {latency}")
        return f"{self.size.slow} clients, a byte in {self.size.pace_s:g} s; polite {latency}"

    def _silent(self, running: Running) -> str:
        pid, size = running.process.pid, self.size
        before = memory_mib(pid)
        silent = clients.never_reading(running.port, size.silent, size.requests, size.measure_s)
        with silent as sent:
            grown = memory_mib(pid) - before
        bound = SPARE_MIB + CLIENT_MIB * size.silent
        check(grown < bound, f"{size.silent} clients cost {grown:.1f} MiB, bound {bound:.1f} MiB")
        return (
            f"{size.silent} clients, {sent / 2**20:.1f} MiB of get_quotes, in sockets and all; "
            f"memory +{grown:.1f} MiB, bound {bound:.1f}"
        )

    def _vanish(self, port: int) -> str:
        longest_s = clients.vanishing(port, self.size.ends)
        check(longest_s < CONNECT_S, f"a connection took {longest_s:.2f} s")
        return f"{self.size.ends} clients; slowest to connect {longest_s * 1e3:.1f} ms"

    def _alone(self, port: int) -> str:
        with clients.Wire(port) as wire:
            waits: list[float] = []
            until_s = time.monotonic() + self.size.measure_s
            while time.monotonic() < until_s:
                waits.append(clients.timed(wire))
                time.sleep(0.001)  # the pace of this client
        return f"{Latency.of(waits)} (median / p99 / max)"

    def _beside(self, port: int, kind: str, others: int) -> str:
        # Replies of 90 kB, and lines that stand for 2,001, are not needed by the 100,000.
        few = {"quotes": 20, "blank": 20}.get(kind, others)
        count = self.size.requests // few
        latency, rate = clients.beside(port, [(kind, count)] * others)
        check(latency.p99_ms < self.size.p99_ms * others, f"a polite client waits {latency}")
        return f"polite {latency}; greedy {rate:,.0f}/s"

    def _many(self, running: Running) -> str:
        pid = running.process.pid
        # Both this process and the daemon, which has its limit from it, have one for each.
        count = min(self.size.crowd, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 200)
        before = memory_mib(pid)
        crowd = clients.Crowd(running.port)
        try:
            crowd.gather(count)
            served, grown = crowd.served(), memory_mib(pid) - before
            check(served == count, f"{count - served} of {count} get no answer")
            publishes(running)
        finally:
            crowd.leave()
        bound = SPARE_MIB + CONNECTION_MIB * count
        check(grown < bound, f"they cost {grown:.1f} MiB, bound {bound:.1f} MiB")
        return f"{count:,} connections, all served; memory +{grown:.1f} MiB, bound {bound:.1f}"

    def _crowd(self, running: Running) -> str:
        pid, size = running.process.pid, self.size
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (size.files, size.files))
        crowd = clients.Crowd(running.port)
        try:
            crowd.gather(size.crowd)
            until("the daemon has taken or turned away all", lambda: settled(crowd))
            full = descriptors(pid)
            check(full > size.files - 8, f"only {full} files are open: this shows nothing")
            check(crowd.turned_away > 0, "nobody was turned away: this shows nothing")
            publishes(running)
            held = len(crowd.connections)
            served = crowd.served()
            check(served == held, f"{held - served} of {held} clients in the house get no answer")
            begun = cpu_s(pid)
            time.sleep(size.measure_s)  # what is measured is this time
            busy = (cpu_s(pid) - begun) / size.measure_s
            check(busy < 0.5, f"full, and with nothing to do, it takes {busy:.0%} of a processor")
        finally:
            crowd.leave()
        begun_s = time.monotonic()
        until("it takes a new client", lambda: answers(running))
        again_ms = (time.monotonic() - begun_s) * 1e3
        return (
            f"{size.crowd:,} connections, {size.files} files: {held} served, "
            f"{crowd.turned_away:,} closed; published on, idle {busy:.0%} CPU, "
            f"takes clients again after {again_ms:.0f} ms"
        )

    def _soak(self, running: Running) -> str:
        soak = Soak(running.port, self.size.seconds, self.seed)
        pid = running.process.pid
        with Sampler(pid, self.size.seconds / 240) as sampler:
            soak.run()
        memory, files = growth(sampler.memory), growth(sampler.files)
        check(not soak.problems, "; ".join(soak.problems))
        charts = (
            f"memory {sparkline(sampler.memory)} {min(sampler.memory):.0f} to "
            f"{max(sampler.memory):.0f} MiB, {memory:+.1f}\n"
            f"files  {sparkline(sampler.files)} {min(sampler.files):.0f} to "
            f"{max(sampler.files):.0f}, {files:+.0f}"
        )
        check(memory < FLAT_MIB, f"memory grows:\n{charts}")
        check(files < FLAT_FILES, f"descriptors grow:\n{charts}")
        return f"{soak.rounds} rounds of {len(soak.kinds)} kinds\n{charts}"


class Soak:
    """Everything at once, over and over, from threads, until the time is up."""

    def __init__(self, port: int, seconds: float, seed: int) -> None:
        self.rounds = 0
        self.problems: list[str] = []
        self._until = time.monotonic() + seconds
        self._port = port
        rng = random.Random(seed)  # noqa: S311  to be made again
        self.kinds: list[Callable[[], object]] = [
            lambda: clients.bad_lines(port, rng, 200),
            lambda: clients.known_bad_lines(port),
            lambda: clients.long_lines(port),
            lambda: clients.slow_loris(port, 50, 0.01),
            self._silent,
            lambda: clients.half_close(port, 20),
            lambda: clients.resets(port, 50),
            lambda: clients.vanishing(port, 50),
            *(lambda kind=kind: greedy(port, kind, 500) for kind in GREEDY),
        ]

    def _silent(self) -> None:
        with clients.never_reading(self._port, 5, 2000, 0.1):
            pass

    def run(self) -> None:
        """Run four threads, each through all kinds, from another one on."""
        threads = [threading.Thread(target=self._go, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _go(self, first: int) -> None:
        start = first * len(self.kinds) // 4
        for kind in itertools.cycle((*self.kinds[start:], *self.kinds[:start])):
            if self.problems or time.monotonic() > self._until:
                return
            try:
                kind()
            except Exception as error:  # noqa: BLE001  it is what is looked for
                self.problems.append(f"{error!r} {' '.join(getattr(error, '__notes__', ()))}")
            self.rounds += 1


# -- whether it minds ------------------------------------------------------------------------


def ready(running: Running) -> None:
    """Wait until all tickers have been published."""
    running.wait_for("listening on")
    until("all tickers are there", lambda: len(running.ask("list_tickers")["data"]) == 400)


def unharmed(running: Running, files: int, most_mib: float) -> None:
    """See that the daemon is as it was before, and takes no more memory than it may."""
    pid = running.process.pid
    check(running.process.poll() is None, f"the daemon has ended: {running.log[-2000:]}")
    check(answers(running), "the daemon does not answer")
    publishes(running)
    until("the connections are gone", lambda: descriptors(pid) <= files + 1)
    memory = memory_mib(pid)
    check(memory < most_mib, f"the memory has grown for good: {memory:.1f} MiB")
    trouble = _TROUBLE.search(running.log)
    if trouble is not None:
        at = trouble.start()
        check(False, f"in the log: {running.log[max(0, at - 500) : at + 2000]}")  # noqa: FBT003  it never holds


def answers(running: Running) -> bool:
    """Whether a new client is answered."""
    try:
        with clients.Wire(running.port) as wire:
            wire.ping()
    except ConnectionError:
        return False
    return True


def publishes(running: Running) -> None:
    """See that who maps the segment sees new commits."""
    with StockDataReader(shm_name=running.name, shm_dir=running.directory) as reader:
        for _ in range(2):  # of which one is begun after all that came before
            epoch = reader.snapshot_state.epoch
            check(reader.wait(epoch, 5) > epoch, "nothing new is published")


def settled(crowd: clients.Crowd) -> bool:
    """Whether no more connections are closed for a moment."""
    before = crowd.turned_away
    time.sleep(0.2)  # the moment
    crowd.look()
    return crowd.turned_away == before


# -- all of it -------------------------------------------------------------------------------


def run(size: Size, seed: int) -> list[Row]:
    """Do everything, and give what came of it."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder, more_files():
        campaign = Campaign(size, seed, Path(folder))
        campaign.run()
    return campaign.rows


@contextlib.contextmanager
def more_files() -> Iterator[None]:
    """Have room here for more connections than the daemon has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def main() -> int:
    """Run the campaign and print what came of it."""
    parser = report.arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=FULL.seconds, help="of the soak")
    said = parser.parse_args()
    size = SHORT if said.short else Size(**{**asdict(FULL), "seconds": said.seconds})
    rows = run(size, said.seed)
    return report.conclude(rows, said.seed, as_json=said.json, note="; waits: median / p99 / max")


if __name__ == "__main__":
    sys.exit(main())
