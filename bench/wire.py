"""What the wire serves, next to Redis 7 and to the load generator's own limit, in one run.

``python -m bench.wire`` prints two tables of medians: requests (`get_quote` here, `GET` of the
same JSON there), and fan-out (`subscribe` here, publish-subscribe of the same bytes there). All
load comes from `load.c`, which checks every byte of every reply. ``--short`` runs a little of it
all, to see that it works. README.md beside this file says how to read the tables.
"""
# ruff: noqa: S603, S607  the programs that are started, and what they are told, are our own

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from tests.processes import daemons

OURS, REDIS, ECHO = "quoteshm", "redis", "echo"
#: More than any run asks for; versions without these limits do not look at them.
ROOM = {"QUOTESHM_MAX_CONNECTIONS": "10000", "QUOTESHM_MAX_CONNECTIONS_PER_PEER": "10000"}
TICKERS = 500
SLOW_S = 86_400  # prices stay as they are while requests are measured
SCRIPT_LINES = 4_096
RUN_LIMIT_S = 300.0
SUBSCRIBE = b'{"v":1,"id":"s1","type":"subscribe","tickers":"*"}'


class Load(NamedTuple):
    """Connections, and requests that each has under way."""

    connections: int
    depth: int


class Push(NamedTuple):
    """Batches offered to subscribers."""

    tickers: int
    per_s: int
    subscribers: int


@dataclass(frozen=True)
class Plan:
    """What is measured, for how long."""

    seconds: float
    rounds: int
    loads: tuple[Load, ...]
    pushes: tuple[Push, ...]


def plan(said: argparse.Namespace) -> Plan:
    """Choose what is measured."""
    if said.short:
        little = (Push(20, 50, 0), Push(20, 50, 10))
        return Plan(0.3, 1, (Load(1, 1), Load(16, 16)), little)
    loads = (Load(1, 1), Load(16, 1), Load(50, 1), Load(1_000, 1), Load(16, 16), Load(16, 64))
    pushes = tuple(
        Push(tickers, per_s, subscribers)
        for tickers in (20, TICKERS)
        for per_s in (10, 100)
        for subscribers in (0, 1, 100, 1_000)
    )
    wanted = said.only
    return Plan(
        said.seconds,
        said.rounds,
        loads if wanted != "fanout" else (),
        pushes if wanted != "requests" else (),
    )


# -- the machine -----------------------------------------------------------------------------


def cores() -> tuple[int, int]:
    """Give the core of the servers and that of the load: the same one where there is no other."""
    found = sorted(os.sched_getaffinity(0))
    return found[0], found[-1]


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """Start what is started in the block on one core, with all its threads."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def compile_load(folder: Path) -> Path:
    """Compile the load generator."""
    program = folder / "load"
    source = Path(__file__).with_name("load.c")
    subprocess.run(["cc", "-O2", "-Wall", "-o", str(program), str(source)], check=True)
    return program


def find_redis(*, install: bool) -> str | None:
    """Find Redis; install Debian's, if told to and it is missing."""
    found = shutil.which("redis-server")
    if found is None and install and shutil.which("apt-get") is not None:
        for command in (
            ["update"],
            ["install", "--yes", "--no-install-recommends", "redis-server"],
        ):
            subprocess.run(["apt-get", "--quiet", *command], check=False, stdout=sys.stderr)
        found = shutil.which("redis-server")
    return found


# -- the servers -----------------------------------------------------------------------------


@dataclass
class Server:
    """One that runs: it is stopped while others are measured."""

    name: str
    pid: int
    port: int
    path: str = ""  # of its Unix socket, when that is to be measured

    @property
    def address(self) -> str:
        """Where the load goes."""
        return self.path or str(self.port)

    @contextlib.contextmanager
    def resting(self) -> Iterator[None]:
        """Be stopped in this block, but for `awake`."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    @contextlib.contextmanager
    def awake(self) -> Iterator[None]:
        """Run in this block."""
        os.kill(self.pid, signal.SIGCONT)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGSTOP)

    def connect(self) -> socket.socket:
        """Open a connection for a few questions."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)


@contextlib.contextmanager
def ours(folder: Path, *, tickers: int, refresh_s: float, unix: bool) -> Iterator[Server]:
    """Run the daemon, with its segment in the folder, until the block ends."""
    path = str(folder / "ours.sock") if unix else ""
    argv = ["--synthetic", "--synthetic-count", str(tickers), "--bars", "100"]
    argv += ["--refresh", str(refresh_s), "--freshness", str(4 * SLOW_S)]
    argv += ["--endpoint", f"unix:{path}"] if unix else []
    with contextlib.ExitStack() as stack:
        with on_core(cores()[0]):
            running = stack.enter_context(daemons.daemon(folder, *argv, env=ROOM))
        server = Server(OURS, running.process.pid, running.port, path)
        with server.connect() as connection:
            until = time.monotonic() + 30
            while len(ask(connection, "list_tickers")["data"]) < tickers:
                assert time.monotonic() < until, f"not all tickers are here:\n{running.log}"
                time.sleep(0.05)
        yield server


@contextlib.contextmanager
def redis(program: str, folder: Path, *, unix: bool) -> Iterator[Server]:
    """Run Redis on a free port, without persistence, until the block ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    path = str(folder / "redis.sock") if unix else ""
    settings = {
        "port": str(port),
        "bind": "127.0.0.1",
        "dir": str(folder),
        "save": "",
        "appendonly": "no",
        # Subscribers are never so far behind that memory grows: see `window` in load.c.
        "client-output-buffer-limit": "pubsub 0 0 0",
        **({"unixsocket": path} if unix else {}),
    }
    argv = [text for name, value in settings.items() for text in (f"--{name}", value)]
    with on_core(cores()[0]):
        process = subprocess.Popen([program, *argv], stdout=subprocess.DEVNULL)
    server = Server(REDIS, process.pid, port, path)
    try:
        until = time.monotonic() + 30
        while True:
            with contextlib.suppress(ConnectionError), server.connect() as connection:
                connection.sendall(b"PING\r\n")
                if connection.recv(64) == b"+PONG\r\n":
                    break
            assert process.poll() is None, "redis-server has ended"
            assert time.monotonic() < until, "redis-server does not answer"
            time.sleep(0.02)
        yield server
    finally:
        process.terminate()
        process.wait(30)


@contextlib.contextmanager
def echo(program: Path) -> Iterator[Server]:
    """Run the peer that only sends back what it gets."""
    with on_core(cores()[0]):
        process = subprocess.Popen([str(program), "echo"], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        yield Server(ECHO, process.pid, int(process.stdout.readline()))
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def ask(connection: socket.socket, op: str, **fields: object) -> dict[str, Any]:
    """Ask our server one thing."""
    request = json.dumps({"v": 1, "id": 1, "type": op, **fields}).encode()
    reply: dict[str, Any] = json.loads(exchange(connection, request + b"\n"))
    return reply


def exchange(connection: socket.socket, request: bytes) -> bytes:
    """Send one request and give the line that comes back."""
    connection.sendall(request)
    parts = [connection.recv(1 << 20)]
    while not parts[-1].endswith(b"\n"):
        parts.append(connection.recv(1 << 20))
        assert parts[-1], "the server has closed the connection"
    return b"".join(parts)


# -- scripts: what is sent, and what must come back, byte for byte ---------------------------

Line = tuple[bytes, bytes]


def write_script(path: Path, lines: Sequence[Line]) -> Path:
    """Write what load.c reads."""
    with path.open("wb") as file:
        for sent, expected in lines:
            file.write(b"%d %d\n%b%b" % (len(sent), len(expected), sent, expected))
    return path


def our_lines(server: Server) -> list[Line]:
    """Ask each request once, and check what the reply says; from then on it is to be the same."""
    lines = []
    with server.connect() as connection:
        tickers = ask(connection, "list_tickers")["data"]
        for number in range(SCRIPT_LINES):
            ticker = tickers[number * 7 % len(tickers)]
            form = '{"v":1,"id":"a%d","type":"get_quote","ticker":"%s"}\n'
            request = (form % (number, ticker)).encode()
            reply = exchange(connection, request)
            said = json.loads(reply)
            assert (said["id"], said["data"]["ticker"]) == (f"a{number}", ticker), said
            assert said["data"]["price"] > 0, said
            lines.append((request, reply))
    return lines


def resp(*words: bytes) -> bytes:
    """Make a command of Redis."""
    parts = [b"$%d\r\n%b\r\n" % (len(word), word) for word in words]
    return b"*%d\r\n%b" % (len(words), b"".join(parts))


def redis_lines(server: Server, our: Sequence[Line]) -> list[Line]:
    """Give Redis the JSON of each quote, and ask for the same ones in the same order."""
    lines = []
    with server.connect() as connection:
        for _, reply in our:
            body = reply[reply.index(b'"data":') + len(b'"data":') : -len(b"}\n")]
            ticker = json.loads(body)["ticker"].encode()
            assert exchange(connection, resp(b"SET", ticker, body)) == b"+OK\r\n"
            lines.append((resp(b"GET", ticker), b"$%d\r\n%b\r\n" % (len(body), body)))
    return lines


def event_of(server: Server) -> bytes:
    """Give what one of our events is to subscribers of all tickers, without its newline."""
    with server.connect() as connection:
        data = ask(connection, "get_quotes")["data"]
    body = json.dumps(data["quotes"], separators=(",", ":")).encode()
    form = b'{"v":1,"id":"s1","type":"event","op":"quotes","epoch":%d,"skipped":0,"data":%b}'
    return form % (data["epoch"], body)


# -- one run ---------------------------------------------------------------------------------


def run_load(program: Path, mode: str, server: Server, **options: object) -> dict[str, Any]:
    """Run the load generator against a server that is awake for so long."""
    given: dict[str, object] = {"address": server.address, "pid": server.pid, **options}
    argv = [text for name, value in given.items() for text in (f"--{name}", str(value))]
    argv = [text.replace("_", "-") if text.startswith("--") else text for text in argv]
    with server.awake(), on_core(cores()[1]):
        done = subprocess.run(
            [str(program), mode, *argv],
            capture_output=True,
            timeout=RUN_LIMIT_S,
            check=False,
        )
    if done.returncode:
        raise SystemExit(f"{server.name}, {mode}, {options}: {done.stderr.decode().strip()}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def percentile_us(histogram: Sequence[Sequence[int]], share: float) -> float:
    """Give the latency that so large a share of the replies did not exceed."""
    left = share * sum(count for _, count in histogram)
    for ns, count in histogram:
        left -= count
        if left <= 0:
            return ns / 1e3
    return 0.0


def shares(found: dict[str, Any]) -> dict[str, float]:
    """Say how busy both sides were, and how long others kept the server from its core."""
    seconds = found["seconds"]
    return {
        "server_busy": found["server_cpu_s"] / seconds,
        "load_busy": found["load_cpu_s"] / seconds,
        "server_kept": found["server_waited_s"] / seconds,
        "load_kept": found["load_waited_s"] / seconds,
    }


def request_figures(found: dict[str, Any]) -> dict[str, float]:
    """Make the figures of one run of requests."""
    return {
        "per_s": found["replies"] / found["seconds"],
        "p50_us": percentile_us(found["latency_ns"], 0.50),
        "p99_us": percentile_us(found["latency_ns"], 0.99),
        "cpu_us": found["server_cpu_s"] / max(1, found["replies"]) * 1e6,
        **shares(found),
    }


def push_figures(found: dict[str, Any], push: Push) -> dict[str, float]:
    """Make the figures of one run of fan-out; what must not be is an error."""
    assert not found["gaps"], f"{found['gaps']} events do not follow the one before: {found}"
    assert not found["unheard"], f"{found['unheard']} subscribers heard nothing: {found}"
    return {
        "offered_per_s": (found["published"] or found["commits"]) / found["seconds"],
        "each_per_s": found["messages"] / found["seconds"] / max(1, push.subscribers),
        "skipped_per_s": found["skipped"] / found["seconds"] / max(1, push.subscribers),
        "mb_per_s": found["bytes"] / found["seconds"] / 1e6,
        "cpu_us": found["server_cpu_s"] / found["messages"] * 1e6 if push.subscribers else 0.0,
        **shares(found),
    }


@dataclass
class Row:
    """One line of a table: for each server, the median of each figure."""

    what: dict[str, int]
    figures: dict[str, dict[str, float]]
    ratio: float | None  # the median of ours by Redis's of the same round


Runs = dict[str, list[dict[str, float]]]


def row(what: Load | Push, runs: Runs, key: str) -> Row:
    """Sum up the rounds."""
    figures = {
        name: {field: statistics.median(run[field] for run in found) for field in found[0]}
        for name, found in runs.items()
    }
    ratio = None
    if runs.get(REDIS) and figures[REDIS][key]:
        pairs = zip(runs[OURS], runs[REDIS], strict=True)
        ratio = statistics.median(our[key] / their[key] for our, their in pairs)
    return Row(what._asdict(), figures, ratio)


def rounds(number: int, run_of: dict[str, Callable[[], dict[str, float]]]) -> Runs:
    """Run each in turn, and again."""
    runs: Runs = {name: [] for name in run_of}
    for _ in range(number):
        for name, run in run_of.items():
            runs[name].append(run())
    return runs


# -- requests --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bench:
    """What every measurement needs."""

    load: Path
    redis: str | None
    folder: Path
    unix: bool
    plan: Plan


def requests(bench: Bench) -> list[Row]:
    """Measure `get_quote` against `GET`, and both against the echo."""
    with contextlib.ExitStack() as stack:
        enter, folder = stack.enter_context, bench.folder
        daemon = enter(ours(folder, tickers=TICKERS, refresh_s=SLOW_S, unix=bench.unix))
        lines = our_lines(daemon)
        told = [(daemon, lines)]
        if bench.redis is not None:
            other = enter(redis(bench.redis, folder, unix=bench.unix))
            told.append((other, redis_lines(other, lines)))
        if not bench.unix:
            # As much comes back as from us, and more is sent: the real limit is higher than this.
            told.append((enter(echo(bench.load)), [(reply, reply) for _, reply in lines]))
        runs_of: dict[str, Callable[[Load], dict[str, float]]] = {}
        for server, lines_of in told:
            enter(server.resting())
            script = write_script(folder / server.name, lines_of)
            runs_of[server.name] = asking(bench, server, script)
        found = []
        for load in bench.plan.loads:
            note(f"{load.connections} connections, depth {load.depth}")
            run_of = {name: bind(run, load) for name, run in runs_of.items()}
            found.append(row(load, rounds(bench.plan.rounds, run_of), "per_s"))
        return found


def asking(bench: Bench, server: Server, script: Path) -> Callable[[Load], dict[str, float]]:
    """Give what runs one load against a server."""

    def run(load: Load) -> dict[str, float]:
        found = run_load(
            bench.load, "ask", server, script=script, seconds=bench.plan.seconds, **load._asdict()
        )
        return request_figures(found)

    return run


def bind(run: Callable[[Load], dict[str, float]], load: Load) -> Callable[[], dict[str, float]]:
    """Fix the load of a run."""
    return lambda: run(load)


# -- fan-out ---------------------------------------------------------------------------------


def fan_out(bench: Bench) -> list[Row]:
    """Measure `subscribe` against publish-subscribe: the same bytes, as often."""
    found = []
    for tickers, per_s in dict.fromkeys((push.tickers, push.per_s) for push in bench.plan.pushes):
        pushes = [push for push in bench.plan.pushes if push[:2] == (tickers, per_s)]
        with contextlib.ExitStack() as stack:
            enter, folder = stack.enter_context, bench.folder
            daemon = enter(ours(folder, tickers=tickers, refresh_s=1 / per_s, unix=bench.unix))
            if not can_subscribe(daemon):
                note("this server has no subscribe: no fan-out")
                return []
            other = None
            if bench.redis is not None:
                other = enter(redis(bench.redis, folder, unix=bench.unix))
            batch = resp(b"PUBLISH", b"quotes", event_of(daemon))
            script = write_script(folder / "batch", [(batch, b"")])
            for server in filter(None, (daemon, other)):
                enter(server.resting())
            for push in pushes:
                note(f"{push.subscribers} subscribers, {tickers} tickers, {per_s} a second")
                run_of = {OURS: our_push(bench, daemon, push)}
                if other is not None:
                    run_of[REDIS] = redis_push(bench, other, push, script)
                found.append(row(push, rounds(bench.plan.rounds, run_of), "each_per_s"))
    return found


def can_subscribe(server: Server) -> bool:
    """Tell whether the server has the op, and see that an event holds what it is to hold."""
    with server.connect() as connection, connection.makefile("rwb") as stream:
        stream.write(SUBSCRIBE + b"\n")
        stream.flush()
        reply = json.loads(stream.readline())
        if reply["type"] == "error":
            assert "unknown op" in reply["error"]["message"], reply
            return False
        event = json.loads(stream.readline())
        assert set(event["data"]) == set(reply["data"]["quotes"]), event
        assert event["epoch"] == reply["data"]["epoch"] + 2 + 2 * event["skipped"], event
    return True


def our_push(bench: Bench, server: Server, push: Push) -> Callable[[], dict[str, float]]:
    """Give what measures our fan-out: the daemon publishes by itself."""

    def run() -> dict[str, float]:
        found = run_load(
            bench.load,
            "follow",
            server,
            connections=push.subscribers,
            subscribe=SUBSCRIBE.decode(),
            seconds=bench.plan.seconds,
        )
        return push_figures(found, push)

    return run


def redis_push(
    bench: Bench, server: Server, push: Push, script: Path
) -> Callable[[], dict[str, float]]:
    """Give what measures that of Redis: the load publishes, and never runs far ahead."""

    def run() -> dict[str, float]:
        found = run_load(
            bench.load,
            "follow",
            server,
            connections=push.subscribers,
            subscribe="SUBSCRIBE quotes",
            skip_lines=6,
            message_lines=7,
            rate=push.per_s,
            script=script,
            seconds=bench.plan.seconds,
        )
        return push_figures(found, push)

    return run


# -- the tables ------------------------------------------------------------------------------


def note(text: str) -> None:
    """Say what goes on, beside the result."""
    print(text, file=sys.stderr, flush=True)


def cells(row: Row, name: str, forms: dict[str, str]) -> list[str]:
    """Give the cells of one server."""
    figures = row.figures.get(name, {})
    return [form.format(figures[key]) if figures.get(key) else "-" for key, form in forms.items()]


def ratio(row: Row) -> str:
    """Give the cell of the ratio."""
    return "-" if row.ratio is None else f"{row.ratio:.2f}"


def busy(row: Row, key: str) -> str:
    """Give the cell of how busy one side was, with each server."""
    return " ".join(f"{figures[key]:.0%}" for figures in row.figures.values())


def table_of(title: str, *columns: str) -> Table:
    """Make a table of numbers."""
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def show_requests(console: Console, rows: Sequence[Row]) -> None:
    """Print the table of requests."""
    forms = {"per_s": "{:,.0f}", "p50_us": "{:,.0f}", "p99_us": "{:,.0f}", "cpu_us": "{:.1f}"}
    each = ("/s", "p50 us", "p99 us", "CPU us")
    table = table_of(
        "Requests: get_quote, GET of the same JSON",
        "load",
        *each,
        *(f"Redis {name}" for name in each),
        "ratio",
        "busy",
        "echo /s",
        "load busy",
    )
    for row in rows:
        table.add_row(
            f"{row.what['connections']:,} x {row.what['depth']}",
            *cells(row, OURS, forms),
            *cells(row, REDIS, forms),
            ratio(row),
            busy(row, "server_busy"),
            *cells(row, ECHO, {"per_s": "{:,.0f}"}),
            busy(row, "load_busy"),
        )
    console.print(table)
    console.print(
        "load: connections x requests that each has under way. CPU: of the server, a request. "
        "Ratio: ours by Redis's requests a second. Busy, load busy: how much of its core the "
        f"server took, and the load of its own, with {', '.join(rows[0].figures)}. Echo: what the "
        "load reaches against a peer that only sends back what it gets."
    )


def show_pushes(console: Console, rows: Sequence[Row]) -> None:
    """Print the table of fan-out."""
    forms = {"each_per_s": "{:,.1f}", "server_busy": "{:.0%}", "cpu_us": "{:,.1f}"}
    each = ("each gets /s", "busy", "CPU us")
    table = table_of(
        "Fan-out: subscribe to *, publish-subscribe of the same bytes",
        "tickers",
        "offered /s",
        "subscribers",
        each[0],
        "commits /s",
        "skipped /s",
        *each[1:],
        *(f"Redis {name}" for name in each),
        "ratio",
        "load busy",
    )
    for row in rows:
        got, *cost = cells(row, OURS, forms)
        table.add_row(
            str(row.what["tickers"]),
            str(row.what["per_s"]),
            f"{row.what['subscribers']:,}",
            got,
            *cells(row, OURS, {"offered_per_s": "{:,.1f}", "skipped_per_s": "{:,.1f}"}),
            *cost,
            *cells(row, REDIS, forms),
            ratio(row),
            busy(row, "load_busy"),
        )
    console.print(table)
    console.print(
        "Each gets: batches a second to one subscriber. Skipped: commits folded into a later "
        "batch. CPU: of the server, a batch delivered to one. Busy: the server's core; ours makes "
        "the batches as well, which 0 subscribers show, while those of Redis come from the load."
    )


def describe(bench: Bench) -> str:
    """Say what was measured where."""
    server, load = cores()
    where = f"servers on core {server}, load on core {load}"
    if server == load:
        where = "servers and load share the only core"
    version = "not installed: ours alone is measured"
    if bench.redis is not None:
        said = subprocess.run([bench.redis, "--version"], stdout=subprocess.PIPE, check=True)
        version = said.stdout.decode().split()[2].removeprefix("v=")
    way = "Unix sockets" if bench.unix else "TCP on loopback"
    runs = f"{bench.plan.rounds} rounds of {bench.plan.seconds:g} s"
    python = platform.python_version()
    return f"Python {python}, redis-server {version}; {way}; {where}; {runs}, medians"


def disturbed(rows: Sequence[Row]) -> float:
    """Give the most that others kept a server or the load from its core."""
    kept = [
        max(figures["server_kept"], figures["load_kept"])
        for row in rows
        for figures in row.figures.values()
    ]
    return max(kept, default=0.0)


def main() -> None:
    """Read the options, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--short", action="store_true", help="a little, to see that it works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each run")
    parser.add_argument("--rounds", type=int, default=3, help="of all servers in turn")
    parser.add_argument("--only", choices=("requests", "fanout"), help="one of the two tables")
    parser.add_argument("--unix", action="store_true", help="Unix sockets in place of TCP")
    parser.add_argument("--no-redis", action="store_true", help="measure ours alone")
    parser.add_argument("--install-redis", action="store_true", help="by apt-get, if missing")
    parser.add_argument(
        "--first", action="store_true", help="at real-time priority, where others work; needs root"
    )
    said = parser.parse_args()
    if said.first:
        # What is started inherits it. A nice value would count within this session alone.
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="bench-wire-") as name:
        folder = Path(name)
        program = None if said.no_redis else find_redis(install=said.install_redis)
        bench = Bench(compile_load(folder), program, folder, said.unix, plan(said))
        about = describe(bench)
        note(about)
        asked = requests(bench) if bench.plan.loads else []
        pushed = fan_out(bench) if bench.plan.pushes else []
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(about)
    if asked:
        show_requests(console, asked)
    if pushed:
        show_pushes(console, pushed)
    console.print(
        f"Others kept a server or the load from its core {disturbed(asked + pushed):.0%}"
        " of a run at most."
    )
    if said.json is not None:
        figures = {
            "about": about,
            "requests": [asdict(row) for row in asked],
            "fan_out": [asdict(row) for row in pushed],
        }
        said.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
