"""Yahoo's bad days, each before a real daemon: `python -m tests.campaigns.yahoo_faults`.

twistd with the real yfinance, through a proxy, at a local Yahoo. First all is well; then Yahoo
misbehaves about one ticker, or about all of them; then it is well again, and nobody lends a hand.
Meanwhile the healthy tickers are to move on, the bars of the broken one to stay as they were and to
turn stale, `get_info` to say what is wrong, the requests to stay within the budget, as the server
counts them, and the reactor to be there for everybody. Prints a row a fault.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

from quoteshm import StockDataReader
from quoteshm.model import Bars
from tests.campaigns import report
from tests.campaigns.hostile_measures import until
from tests.campaigns.lateness import BLOCKED_S, NOISE
from tests.campaigns.report import Row, check
from tests.campaigns.yahoo_faults_daemon import TIMEOUT_S
from tests.processes.daemons import Running, daemon, unique_name
from tests.yahoo_proxy import YahooProxy
from tests.yahoo_server import Fault, Listing, YahooServer
from tests.yahoo_streamer import Streamer, message

if TYPE_CHECKING:
    from quoteshm.model import Quote

ROOT: Final = Path(__file__).parents[2]
REFRESH_S, FRESHNESS_S, PER_MINUTE = 0.5, 2.0, 600
_BURST, _PER_S = 20, (600 - 20 + 1) / 60  # of such a budget
#: Crypto-currencies, which are asked for at any hour.
HEALTHY: Final = ("W0-USD", "W1-USD", "W2-USD")
SICK: Final = "SICK-USD"
DAYS: Final = 60
INTERVALS: Final = ("1d", "1h")
_TRACEBACK: Final = re.compile(r"Traceback \(most recent|Unhandled|#critical", re.MULTILINE)

#: Asks for a sign of life, a hundred times a second.
PINGS: Final = """
import socket, sys, threading, time
took, over = [], threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as one:
    answers = one.makefile("rb")
    while not over.is_set():
        begun = time.perf_counter()
        one.sendall(b'{"v":1,"id":1,"type":"ping"}\\n')
        answers.readline()
        took.append(time.perf_counter() - begun)
        time.sleep(0.01)
took.sort()
print(took[len(took) // 2], took[len(took) * 99 // 100], took[-1])
"""


def afternoon() -> str:
    """Give a time zone in which it is two or three in the afternoon, and trade goes on."""
    return f"Etc/GMT{datetime.now(UTC).hour - 14:+d}"


def history(zone: str, *, end: datetime | None = None, days: int = DAYS) -> dict[str, Bars]:
    """Make days, and the hours in which they trade, up to today's; no two prices are the same."""
    local = ZoneInfo(zone)
    last = (end or datetime.now(UTC)).astimezone(local).replace(tzinfo=None)
    midnights = [
        datetime(last.year, last.month, last.day) - timedelta(days=back)  # noqa: DTZ001  of the exchange
        for back in range(days - 1, -1, -1)
    ]

    def ms(moment: datetime) -> int:
        return int(moment.replace(tzinfo=local).timestamp()) * 1000

    hours = [day + timedelta(minutes=570 + 60 * n) for day in midnights[:-1] for n in range(6)]
    return {"1d": _bars([ms(day) for day in midnights]), "1h": _bars([ms(one) for one in hours])}


def _bars(times: list[int]) -> Bars:
    close = 100.0 + np.arange(len(times)) / 8
    return Bars(
        np.array(times, np.int64), np.stack([close, close + 1, close - 1, close, close * 8])
    )


def changed(bars: Bars, place: int, **values: float) -> Bars:
    """Give bars of which one has other values."""
    ohlcv = bars.ohlcv.copy()
    for name, value in values.items():
        ohlcv[("open", "high", "low", "close", "volume").index(name), place] = value
    return Bars(bars.time, ohlcv)


class Stage:
    """A daemon, its Yahoo, and those who look on."""

    def __init__(self, folder: Path, stack: ExitStack, *, live: bool) -> None:
        self.streamer = stack.enter_context(Streamer()) if live else None
        zone = afternoon()
        listings = {one: Listing(history(zone), zone) for one in (*HEALTHY, SICK)}
        self.server = stack.enter_context(YahooServer(listings))
        self.proxy = stack.enter_context(YahooProxy(folder, self.server, self.streamer))
        self.folder, self.live, self.steps = folder, live, 0
        self.seen: dict[str, list[tuple[float, int]]] = {one: [] for one in HEALTHY}
        self.quotes: dict[str, Quote] = {}
        self.running: Running
        self.reader: StockDataReader

    @contextmanager
    def run(self) -> Iterator[None]:
        """Run the daemon until the block ends."""
        figures = self.folder / "figures"
        module = "tests.campaigns.yahoo_faults_daemon"
        argv = [
            *("--source", "yahoo", "--tickers", ",".join((*HEALTHY, SICK))),
            *("--refresh", str(REFRESH_S), "--freshness", str(FRESHNESS_S)),
            *("--requests-per-minute", str(PER_MINUTE), "--intervals", ",".join(INTERVALS)),
            *("--bars", "1500", *(["--live"] if self.live else [])),
        ]
        with daemon(
            self.folder,
            *argv,
            command=(sys.executable, "-P", "-m", module, str(figures)),
            env={**self.proxy.environment, "PYTHONPATH": str(ROOT)},
        ) as self.running:
            where = {"shm_name": self.running.name, "shm_dir": self.running.directory}
            self.running.wait_for("listening on")
            with StockDataReader(**where) as self.reader:  # type: ignore[arg-type]
                yield
            self.running.stop()

    # -- what Yahoo has, and what is published ---------------------------------------------------

    def move(self) -> None:
        """Have all healthy tickers trade."""
        self.steps += 1
        now_s = int(time.time())
        for one in HEALTHY:
            listing = self.server.listings[one]
            price = 150.0 + self.steps / 16
            days = changed(listing.bars["1d"], -1, open=150.0, high=500.0, low=1.0, close=price)
            meta = {"regularMarketTime": now_s, "regularMarketPrice": price}
            self.server.listings[one] = replace(
                listing, bars={**listing.bars, "1d": days}, meta=meta
            )

    def look(self) -> None:
        """Note what a reader sees."""
        now_s = time.monotonic()
        for one in HEALTHY:
            quote = self.reader.get_quote(one)
            if not self.seen[one] or self.seen[one][-1][1] != quote.updated_ms:
                self.seen[one].append((now_s, quote.updated_ms))
            self.quotes[one] = quote
        self.quotes[SICK] = self.reader.get_quote(SICK)

    def watch(self, seconds: float, each: Callable[[], None] | None = None) -> None:
        """Trade and look, for so long."""
        end_s, moved_s = time.monotonic() + seconds, 0.0
        while time.monotonic() < end_s:
            if time.monotonic() - moved_s > 0.2:
                moved_s = time.monotonic()
                self.move()
            self.look()
            if each is not None:
                each()
            time.sleep(0.03)  # what is published is looked at as others do

    def watch_until(self, what: str, holds: Callable[[], bool], seconds: float = 20.0) -> float:
        """Trade and look until something holds; give how long it took."""
        begun = time.monotonic()
        while not holds():
            told = f"not within {seconds:g} s: {what}\n{self.status()}\n{self.running.log[-1500:]}"
            check(time.monotonic() < begun + seconds, told)
            self.watch(0.05)
        return time.monotonic() - begun

    def published(self, ticker: str) -> dict[str, Bars]:
        """Give what a reader has of a ticker."""
        frames = {interval: self.reader.get_stock(ticker, interval) for interval in INTERVALS}
        return {
            interval: Bars(pd.DatetimeIndex(frame.index).as_unit("ms").asi8, frame.to_numpy().T)
            for interval, frame in frames.items()
        }

    def is_as(self, expected: dict[str, Bars], ticker: str = SICK) -> bool:
        """Whether bars are these, value by value."""
        return all(
            np.array_equal(bars.time, expected[interval].time)
            and np.array_equal(bars.ohlcv, expected[interval].ohlcv)
            for interval, bars in self.published(ticker).items()
        )

    def status(self, ticker: str = SICK) -> dict[str, Any]:
        """Give what `get_info` says of a ticker."""
        told: dict[str, Any] = self.running.ask("get_info")["data"]["ticker_status"][ticker]
        return told

    def gap_s(self, begin_s: float, end_s: float) -> float:
        """Tell the longest time that a healthy ticker was not heard of."""
        longest = 0.0
        for one in HEALTHY:
            at = [begin_s, *(s for s, _ in self.seen[one] if begin_s < s < end_s), end_s]
            longest = max(longest, *np.diff(at).tolist())
        return longest


@dataclass
class Case:
    """A fault, and what is to come of it."""

    name: str
    begin: Callable[[Stage], None]
    state: str = "ok"  # of the broken ticker
    for_all: bool = False
    new: Callable[[Listing], Listing] | None = None  # what Yahoo has from then on
    live: bool = False
    seconds: float = FRESHNESS_S + 3.0

    @property
    def is_ill(self) -> bool:
        """Whether the ticker fails, and not only its bars are odd."""
        return self.state != "ok"


def _faulty(how: int | str) -> Callable[[Stage], None]:
    def begin(stage: Stage) -> None:
        stage.server.listings[SICK].fault = Fault(how)

    return begin


def _faulty_for_all(how: int | str) -> Callable[[Stage], None]:
    def begin(stage: Stage) -> None:
        stage.server.fault = Fault(how)

    return begin


def _given(make: Callable[[Listing], Listing]) -> Callable[[Stage], None]:
    def begin(stage: Stage) -> None:
        stage.server.listings[SICK] = make(stage.server.listings[SICK])

    return begin


def _nan(listing: Listing) -> Listing:
    nan = float("nan")
    none = dict.fromkeys(("open", "high", "low", "close", "volume"), nan)
    return replace(listing, bars={k: changed(b, -1, **none) for k, b in listing.bars.items()})


def _disordered(listing: Listing) -> Listing:
    def mix(bars: Bars) -> Bars:
        order = np.array([5, 3, 3, *range(len(bars) - 3), -1, -2, -3, -2, -1])
        return Bars(bars.time[order], bars.ohlcv[:, order])

    return replace(listing, bars={kind: mix(bars) for kind, bars in listing.bars.items()})


def _restated(listing: Listing) -> Listing:
    return replace(
        listing, bars={k: changed(b, -2, close=100.5, low=1.0) for k, b in listing.bars.items()}
    )


def _split(listing: Listing) -> Listing:
    half = np.array([[0.5], [0.5], [0.5], [0.5], [2.0]])
    halves = {k: Bars(b.time, b.ohlcv * half) for k, b in listing.bars.items()}
    return replace(listing, bars=halves, splits_ms=[int(listing.bars["1d"].time[-2])])


def _mute(stage: Stage) -> None:
    assert stage.streamer is not None
    stage.streamer.mute = True


CASES: Final = (
    Case("429 for one", _faulty(429), "rate limited"),
    Case("429 storm", _faulty_for_all(429), "rate limited", for_all=True),
    Case("404", _faulty(404), "no bars"),
    Case("empty answers", _faulty("empty"), "no bars"),
    Case("HTML for JSON", _faulty("html"), "bad data"),
    Case("hang", _faulty("hang"), "timed out"),
    Case("hang for all", _faulty_for_all("hang"), "timed out", for_all=True),
    Case("drop", _faulty("drop"), "unreachable"),
    Case("slow trickle", _faulty("trickle"), "timed out"),
    Case("partial batches", _faulty("partial")),
    Case("NaN last bars", _given(_nan)),
    Case("twice and unsorted", _given(_disordered)),
    Case("a bar restated", _given(_restated), new=_restated),
    Case("a split", _given(_split), new=_split),
    Case("a DST change", lambda _: None),
    Case("mute stream", _mute, live=True),
)
SHORT: Final = ("429 storm", "hang", "NaN last bars", "a split")


def autumn_or_spring(zone: str) -> datetime:
    """Give a moment a week behind the last change of a zone's clocks."""
    local = ZoneInfo(zone)
    moment = datetime.now(UTC) - timedelta(days=8)
    while (moment - timedelta(days=1)).astimezone(local).utcoffset() == (
        moment.astimezone(local).utcoffset()
    ):
        moment -= timedelta(days=1)
    return moment + timedelta(days=7)


def _put_clock_change(stage: Stage) -> Case:
    """List bars up to the last change of New York's clocks; those behind it come later."""
    zone = "America/New_York"
    end = autumn_or_spring(zone)
    truth = history(zone, end=end)
    until_ms = int((end - timedelta(days=10)).timestamp()) * 1000
    stage.server.listings[SICK] = Listing(
        {kind: bars[: np.searchsorted(bars.time, until_ms)] for kind, bars in truth.items()}, zone
    )

    def new(listing: Listing) -> Listing:
        return replace(listing, bars=truth)

    return Case("a DST change", _given(new), new=new)


def play(case: Case, folder: Path) -> str:
    """Let a daemon live through it; give figures."""
    with ExitStack() as stack:
        stage = Stage(folder, stack, live=case.live)
        if case.name == "a DST change":
            case = _put_clock_change(stage)
        good = stage.server.listings[SICK]
        after = good if case.new is None else case.new(good)
        with stage.run():
            until("all are there", lambda: len(stage.reader.list_tickers()) == 4, 30.0)
            stage.watch_until("the bars are right", lambda: stage.is_as(good.bars))
            with _program(NOISE) as noise, _program(PINGS, str(stage.running.port)) as pings:
                told = _live_through(case, stage, good, after)
                asked, slept = _figures(pings), _figures(noise)
        told += f"\npings {_text(asked)}; a process that only sleeps {_text(slept)} ms"
        told += f"\n{_reactor(folder, slept[-1])}; {_budget(stage.server)}"
        log = stage.running.log
        check(not _TRACEBACK.search(log), log)
        check(not stage.proxy.refused, f"{stage.proxy.refused}")
        return told


def _live_through(case: Case, stage: Stage, good: Listing, after: Listing) -> str:
    stage.watch(1.0)
    if case.live:
        stage.watch_until("prices are live", lambda: _live_state(stage) == "live")
    moved = {one: stage.quotes[one].price for one in HEALTHY}
    begin_s = time.monotonic()
    case.begin(stage)

    def is_old_or_new() -> None:
        for interval, bars in stage.published(SICK).items():
            both = (good.bars[interval], after.bars[interval])
            same = any(np.array_equal(bars.ohlcv, one.ohlcv) for one in both)
            check(same, f"{interval} is neither what it was nor what it is to be")

    stage.watch(case.seconds, is_old_or_new)
    broken = stage.status()
    if case.is_ill:
        check(stage.quotes[SICK].stale, "what is broken is not called stale")
        check(broken["state"] == case.state, f"{broken} is not {case.state}")
        check(len(broken["message"]) > 10, f"{broken} says nothing")
        check(stage.is_as(good.bars), "what was good has changed")
    else:
        stage.watch_until("the new bars are there", lambda: stage.is_as(after.bars))
        check(not stage.quotes[SICK].stale, "what is well is called stale")
        check(stage.status()["state"] == "ok", f"{stage.status()}")
    if case.live:
        stage.watch_until("it says mute", lambda: _live_state(stage) == "mute")
    gap_s = stage.gap_s(begin_s, time.monotonic())
    if case.for_all:
        check(all(quote.stale for quote in stage.quotes.values()), "some are not called stale")
        told = stage.running.ask("get_info")["data"]["requests"]
        check(told["state"] != "closed" and told["error"], f"{told}")
    else:
        check(not any(stage.quotes[one].stale for one in HEALTHY), "healthy ones are called stale")
        check(all(stage.quotes[one].price != moved[one] for one in HEALTHY), "prices stand still")
        # Each is asked for every other refresh at least, and may have to wait for one time-out.
        allowed_s = 3 * REFRESH_S + TIMEOUT_S + 0.5
        check(gap_s < allowed_s, f"a healthy one was not heard of for {gap_s:.1f} s")
    stage.server.fault = None
    if stage.streamer is not None:
        stage.streamer.mute = False
    listing = replace(after, fault=None)
    stage.server.listings[SICK] = listing

    def is_well() -> bool:
        stage.look()
        return (
            not any(quote.stale for quote in stage.quotes.values())
            and all(stage.status(one)["state"] == "ok" for one in (*HEALTHY, SICK))
            and stage.is_as(listing.bars)
            and (not case.live or _live_state(stage) == "live")
        )

    mended_s = stage.watch_until("all are well again", is_well)
    healthy = "" if case.for_all else f"healthy ones heard of every {gap_s:.2f} s at least; "
    said = f"{broken['state']}: {broken['message']}; " if case.is_ill else ""
    return f"{healthy}well again in {mended_s:.1f} s\n{said}".rstrip("; \n")


def _live_state(stage: Stage) -> str:
    assert stage.streamer is not None
    now_ms = int(time.time() * 1000)
    stage.streamer.send(*(message(one, 150.0 + stage.steps / 16, now_ms) for one in HEALTHY))
    return str(stage.running.ask("get_info")["data"]["live"]["state"])


@contextmanager
def _program(text: str, *argv: str) -> Iterator[subprocess.Popen[str]]:
    """Run what prints three figures once its input ends."""
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", text, *argv], **pipes) as process:
        try:
            yield process
        finally:
            if process.poll() is None and sys.exc_info()[0] is not None:
                process.kill()


def _figures(process: subprocess.Popen[str]) -> list[float]:
    said, _ = process.communicate(timeout=20)
    return [1000 * float(one) for one in said.split()]


def _text(figures: list[float]) -> str:
    return " / ".join(f"{one:.1f}" for one in figures)


def _reactor(folder: Path, noise_ms: float) -> str:
    """Say how late the reactor was: median, 99th percentile, most.

    What holds it is what the thread did itself ("busy"), or waited for while it had a processor to
    run on ("held"): Python, which the download has. That thread may wait for a processor, too, for
    as long as the machine lets others wait.
    """
    told = json.loads((folder / "figures").read_text())
    stacks = told.pop("stacks")
    text = ", ".join(f"{name} {_text(figures)}" for name, figures in told.items())
    for name, allowed_ms in (("busy", 0.0), ("held", noise_ms)):
        is_good = told[name][2] < BLOCKED_S * 1000 + allowed_ms
        check(is_good, f"the reactor was blocked: {text} {stacks}")
    return f"reactor {text} ms"


def _budget(server: YahooServer) -> str:
    """Count requests in all stretches of time, of shorter ones than a minute too."""
    most = {window_s: server.most_requests(window_s) for window_s in (1.0, 5.0, 60.0)}
    for window_s, count in most.items():
        allowed = min(PER_MINUTE, _BURST + _PER_S * (window_s + 0.3) + 1)
        check(count <= allowed, f"{count} requests within {window_s:g} s")
    return f"at most {most[1.0]} requests in a second, {most[60.0]} in a minute of {PER_MINUTE}"


def run(names: tuple[str, ...], folder: Path) -> list[Row]:
    """Play some cases, one after the other."""
    rows = []
    for case in CASES:
        if case.name in names:
            here = folder / unique_name()
            here.mkdir()
            rows.append(Row.of(case.name, lambda case=case, here=here: play(case, here)))  # type: ignore[misc]
            shutil.rmtree(here)
    return rows


def main() -> int:
    """Run it as a program."""
    parser = report.arguments(__doc__)
    parser.add_argument("--only", help="cases, with commas")
    options = parser.parse_args()
    names = tuple(case.name for case in CASES)
    if options.only:
        names = tuple(options.only.split(","))
    elif options.short:
        names = SHORT
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        rows = run(names, Path(folder))
    return report.conclude(rows, options.seed, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
