"""An hour of trading at Yahoo, with all that goes wrong there: `python -m tests.campaigns.yahoo`.

The real yfinance source, the refresh service with its trading hours and a segment, in one process;
a Yahoo of 500 tickers in another; a clock that is fast for both. In the middle of the hour Yahoo
refuses everybody, goes out of order, corrects minutes and splits shares; some symbols do not exist,
or never get an answer. At the end, and after the close, every bar in the segment is compared with
the server's own. Prints a row a promise, and exits with 1 where one is broken.
"""

from __future__ import annotations

import bisect
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from twisted.internet import defer
from twisted.internet import reactor as installed

from quoteshm import StockDataReader
from quoteshm.model import MINUTE_MS, SeriesKind
from quoteshm.service.hours import SETTLED_MS as ASKED_AGAIN_MS
from quoteshm.service.hours import Hours, Sessions
from quoteshm.service.publisher import Publisher
from quoteshm.service.refresh import RefreshService
from quoteshm.shm.segment import SegmentSpec
from quoteshm.shm.writer import SegmentWriter
from quoteshm.sources.budget import Budget
from quoteshm.sources.yahoo import Yahoo
from tests.campaigns import report
from tests.campaigns.lateness import BLOCKED_S, NOISE, Lateness
from tests.campaigns.report import Row, check
from tests.campaigns.yahoo_market import (
    BEGIN_MS,
    CLOSE_MS,
    DAYS,
    MINUTES,
    OPEN_MS,
    OUTAGE,
    STORM,
    Market,
    World,
    arguments,
)
from tests.processes.daemons import unique_name
from tests.yahoo_server import loopback_session

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quoteshm.sources.yahoo_download import YahooSession
    from quoteshm.wire.push import Restated

reactor: Any = installed  # of several interfaces

KINDS: Final = (SeriesKind("1d", DAYS + 10), SeriesKind("1m", 2 * MINUTES + 10))
REFRESH_S: Final = 30.0  # simulated
#: The day is asked for again, and then it is night.
NIGHT_ENDS_MS: Final = CLOSE_MS + ASKED_AGAIN_MS + 120 * MINUTE_MS
DAY_MS: Final = 86_400_000


class FastClock:
    """The simulated time, as `quoteshm.clock.Clock` and as `IReactorTime`."""

    def __init__(self, world: World) -> None:
        self._world, self._reactor = world, reactor

    def wall_ms(self) -> int:
        """Give the simulated Unix time."""
        return self._world.now_ms()

    boot_ms = wall_ms

    def seconds(self) -> float:
        """Give the simulated time."""
        return self._world.now_ms() / 1000

    def callLater(self, delay_s: float, *call: Any, **named: Any) -> Any:  # noqa: N802  Twisted's name
        """Call when so much simulated time has passed."""
        real_s = self._world.real_s(self._world.now_ms() + int(delay_s * 1000))
        return self._reactor.callLater(max(0.0, real_s), *call, **named)


class FastEvent(threading.Event):
    """An event on which one waits for simulated seconds."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def wait(self, timeout: float | None = None) -> bool:
        """Wait."""
        if timeout is not None:
            timeout = self._world.real_s(self._world.now_ms() + int(timeout * 1000) + 1)
        return super().wait(timeout)


class Trial:
    """The hour, and what it left to look at."""

    def __init__(self, world: World, per_minute: int, port: int, folder: Path) -> None:
        self.world, self.per_minute, self.market = world, per_minute, Market(world)
        self.clock, self.lateness = FastClock(world), Lateness()
        spec = SegmentSpec(
            max_tickers=world.tickers,
            kinds=KINDS,
            source="yahoo",
            freshness_ms=600_000,
            directory=Path("/dev/shm"),  # noqa: S108  where segments are
            name=unique_name(),
        )
        self.spec, self.timeout_s = spec, max(0.5, 10 / world.speed)
        self.writer = SegmentWriter.open(spec, self.clock)
        rng = random.Random(world.seed)  # noqa: S311  not for secrets
        self.restated: Counter[str] = Counter()
        self.heard: dict[str, list[int]] = defaultdict(list)
        self.service = RefreshService(
            Yahoo(
                self.clock,
                reactor=reactor,
                session=self._session(loopback_session(port)),
                cache_dir=folder,
                budget=Budget(per_minute, rng),
            ),
            Publisher(self.writer, self.clock, self._announced),
            world.names,
            KINDS,
            refresh_s=REFRESH_S,
            failures={},
            reactor=self.clock,  # type: ignore[arg-type]
            clock=self.clock,
            rng=rng,
            hours=Hours(self.clock, self._zone, self._sessions),
        )

    def _session(self, make: Callable[[], YahooSession]) -> Callable[[], YahooSession]:
        def fast() -> YahooSession:
            session = make()
            session.timeout_s = self.timeout_s
            session._seconds, session._stop = self.clock.seconds, FastEvent(self.world)
            return session

        return fast

    def _zone(self, ticker: str) -> str | None:
        row = self.writer.row_of.get(ticker)
        return None if row is None else self.writer.tickers[row].time_zone

    @staticmethod
    def _sessions(_name: str, _now_ms: int) -> defer.Deferred[Sessions]:
        opens = (OPEN_MS - DAY_MS, OPEN_MS, OPEN_MS + 3 * DAY_MS)
        closes = (CLOSE_MS - DAY_MS, CLOSE_MS, CLOSE_MS + 3 * DAY_MS)
        return defer.succeed(Sessions(opens, closes))

    def _announced(self, restated: Sequence[Restated]) -> None:
        for one in restated:
            self.restated[one.ticker] += 1

    def run(self) -> None:
        """Live through it."""
        reactor.callWhenRunning(self.lateness.start)
        reactor.callWhenRunning(self.service.startService)
        reactor.callLater(self.world.real_s(NIGHT_ENDS_MS), self._end)
        reactor.run(installSignalHandlers=False)

    def _end(self) -> None:
        self.lateness.stop()
        self.service.stopService().addBoth(lambda _: reactor.stop())

    def close(self) -> None:
        """Take the segment away."""
        self.writer.close(unlink=True)
        self.spec.path.with_name(f"{self.spec.path.name}.lock").unlink(missing_ok=True)


class Judge:
    """Looks at what is left of the hour."""

    def __init__(self, trial: Trial, log: Path, noise: Sequence[float]) -> None:
        self.trial, self.world, self.noise = trial, trial.world, noise
        self.requests = [
            (int(at), what) for at, what in map(str.split, log.read_text().splitlines())
        ]
        self.healthy = [one for one in self.world.names if one not in self.world.broken]
        self.asked: dict[str, list[int]] = defaultdict(list)
        for at_ms, what in self.requests:
            self.asked[what].append(at_ms)

    def rows(self) -> list[Row]:
        """Judge each promise."""
        return [
            Row.of("every bar", self.bars),
            Row.of("budget", self.budget),
            Row.of("healthy ones do not wait", self.waiting),
            Row.of("recovery", self.recovery),
            Row.of("after the close", self.night),
            Row.of("reactor", self.reactor),
        ]

    def bars(self) -> str:
        """Compare all of them, value by value."""
        total = 0
        spec = self.trial.spec
        with StockDataReader(shm_name=spec.name, shm_dir=spec.directory) as reader:
            for symbol in self.healthy:
                truth = self.trial.market.bars(symbol, NIGHT_ENDS_MS)
                for kind in KINDS:
                    expected, found = truth[kind.interval], reader.view(symbol, kind.interval)
                    same = np.array_equal(found.bars.time, expected.time) and np.array_equal(
                        found.bars.ohlcv, expected.ohlcv
                    )
                    check(same, f"{symbol} {kind.interval} is not what the server has")
                    total += len(expected.time)
        splits = sum(map(self.world.is_split, self.healthy))
        restated = self.trial.restated
        lost = [one for one in self.healthy if self.world.is_split(one) and not restated[one]]
        check(not lost, f"no restatement was announced of {lost}")
        return (
            f"{total} bars of {len(self.healthy)} tickers, all as the server has them; {splits} "
            f"split, {sum(restated.values())} restatements of {len(restated)} tickers announced"
        )

    def budget(self) -> str:
        """Count the requests of every minute, wherever it begins."""
        times = [at_ms for at_ms, _ in self.requests if at_ms < CLOSE_MS]
        most = max(
            bisect.bisect_left(times, at_ms + MINUTE_MS) - at for at, at_ms in enumerate(times)
        )
        # A request takes its time to the server, which the fast clock makes long.
        slack = 1 + self.trial.per_minute * self.world.speed * 0.02 / 60
        check(most <= self.trial.per_minute + slack, f"{most} requests in a minute")
        per_minute = self.trial.per_minute
        return f"{len(self.requests)} requests, at most {most} in any minute of {per_minute}"

    def waiting(self) -> str:
        """Look how long healthy tickers were not asked for, while Yahoo was all right."""
        begin, storm = (BEGIN_MS + minute * MINUTE_MS for minute in (0, STORM[0]))
        # yfinance keeps no cookie of 127.0.0.1: it asks for one with nearly every chart.
        calm = [what for at_ms, what in self.requests if begin <= at_ms < storm]
        for_charts = sum(not what.startswith("/") for what in calm)
        requests = len(KINDS) * self.world.tickers * len(calm) / for_charts
        round_ms = requests / self.trial.per_minute * MINUTE_MS
        worst = max(
            later - at
            for one in self.healthy
            for at, later in zip(self.asked[one], self.asked[one][1:], strict=False)
            if begin <= at and later < storm
        )
        # An answer that does not come costs a time-out, which the fast clock makes long; and the
        # budget is not used up to the last request.
        deaf_s = sum(map(self.world.is_deaf, self.world.names)) * self.trial.timeout_s
        allowed = 1.5 * round_ms + 2000 * (REFRESH_S + deaf_s * self.world.speed)
        check(worst <= allowed, f"one waited for {worst / MINUTE_MS:.1f} minutes")
        worst_min, round_min = worst / MINUTE_MS, round_ms / MINUTE_MS
        return f"at most {worst_min:.1f} min between requests; {round_min:.1f} for all of them"

    def recovery(self) -> str:
        """Look when all were asked again, and how often in between."""
        told = []
        for name, (begin, end) in (("storm", STORM), ("outage", OUTAGE)):
            begin_ms, end_ms = (BEGIN_MS + minute * MINUTE_MS for minute in (begin, end))
            during = sum(begin_ms <= at_ms < end_ms for at_ms, _ in self.requests)
            back = [
                next((at for at in self.asked[one] if at >= end_ms), CLOSE_MS)
                for one in self.healthy
            ]
            first, last = ((at - end_ms) / MINUTE_MS for at in (min(back), max(back)))
            told.append(
                f"{name} of {end - begin} min: {during} requests in it, the first {first:.1f} and "
                f"all by {last:.1f} min behind it"
            )
            check(max(back) < CLOSE_MS, f"some were not asked again behind the {name}")
        return "\n".join(told)

    def night(self) -> str:
        """Look that each is asked for once when the day has settled, and then no more."""
        begin_ms = CLOSE_MS + ASKED_AGAIN_MS
        counts = Counter(
            sum(at_ms >= begin_ms for at_ms in self.asked[one]) for one in self.healthy
        )
        once = len(KINDS)
        check(set(counts) == {once}, f"asked so often: {dict(counts)}, not {once} times each")
        idle = [
            at_ms
            for one in self.healthy
            for at_ms in self.asked[one]
            if CLOSE_MS + 40 * MINUTE_MS < at_ms < begin_ms
        ]
        latest = (max(idle, default=CLOSE_MS) - CLOSE_MS) / MINUTE_MS
        check(not idle, f"{len(idle)} requests before the day settled, to {latest:.1f} min")
        last = max(self.asked[one][-1] for one in self.healthy)
        return f"each once, the last {(last - begin_ms) / MINUTE_MS:.0f} min after it settled"

    def reactor(self) -> str:
        """Say how late it was; what it did itself may not have taken longer than promised."""
        told = self.trial.lateness.figures()
        lines = [
            f"{name:7} median {p50:.1f}, p99 {p99:.1f}, max {most:.1f} ms"
            for name, (p50, p99, most) in {
                **told,
                "machine": tuple(1000 * one for one in self.noise),
            }.items()
        ]
        worst = self.trial.lateness.stacks.most_common(5)
        lines += [f"{count} times late in {stack}" for stack, count in worst]
        busy_ms = told["busy"][2]
        check(busy_ms < BLOCKED_S * 1000, "\n".join(["the reactor was blocked", *lines]))
        return "\n".join(lines)


def run(world: World, per_minute: int) -> list[Row]:
    """Run the hour, and judge it."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "requests"
        serve = [sys.executable, "-m", "tests.campaigns.yahoo_market", arguments(world), str(log)]
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with (
            subprocess.Popen(serve, **pipes) as server,
            subprocess.Popen([sys.executable, "-c", NOISE], **pipes) as noise,
        ):
            try:
                assert server.stdout is not None
                trial = Trial(world, per_minute, int(server.stdout.readline()), Path(folder))
                try:
                    trial.run()
                    said, _ = noise.communicate()
                    figures = [float(one) for one in said.split()]
                    return Judge(trial, log, figures).rows()
                finally:
                    trial.close()
            finally:
                server.kill()
                noise.kill()


def main() -> int:
    """Run it as a program."""
    parser = report.arguments(__doc__)
    parser.add_argument("--speed", type=float, default=20.0, help="of the clock")
    options = parser.parse_args()
    tickers, speed, night_speed, per_minute = (
        (20, 240.0, 1500.0, 20) if options.short else (500, options.speed, 300.0, 240)
    )
    lead_ms = int(1.3 * 3 * tickers / per_minute + 3) * MINUTE_MS  # for what comes first
    world = World(
        seed=options.seed,
        tickers=tickers,
        began_ms=time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000 + 4000,
        starts_ms=BEGIN_MS - lead_ms,
        speed=speed,
        night_speed=night_speed,
    )
    rows = run(world, per_minute)
    return report.conclude(rows, options.seed, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
