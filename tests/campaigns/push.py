"""A crowd that is told of every change, while the daemon that tells it is killed.

``python -m tests.campaigns.push --seconds 30`` runs a daemon of 500 tickers that publishes all of
them ten times a second, and a second process with 1,000 subscribers to all of them, and others to
some. Most read at once; some read slowly, some not at all, some go and come back with the epoch
that they had. In the middle the daemon is killed and another one carries on. Of each client:

- what it holds after an event is what others hold at that epoch, and what ``get_quotes`` says;
- epochs increase, and the events and what they say they skipped are all commits there were;
- who comes back, also to the new daemon, resumes: it is told of what it missed, and of no more;
- who does not read is cut off, and the daemon's memory stays bounded.

It ends with a table, and with exit status 1 if any of this did not hold.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import errno
import json
import random
import resource
import selectors
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from tests.campaigns.hostile_measures import Latency, Sampler, cpu_s
from tests.campaigns.reading import report
from tests.processes.daemons import daemon, unique_name
from tests.wire.replaying import Replica, lasting

if TYPE_CHECKING:
    from collections.abc import Iterator

WRITE_TIMEOUT_S: Final = 4
HEARTBEAT_S: Final = 1
#: Of what prompt clients hold, as much is compared: the crowd is not to be slower than the daemon.
COMPARED: Final = 0.1
#: What clients that do not read may cost the daemon, all of them together.
MEMORY_MIB: Final = 256
DAEMON: Final = (
    "--synthetic",
    "--intervals",
    "1m",
    "--bars",
    "50",
    "--refresh",
    "0.1",
    "--write-timeout",
    str(WRITE_TIMEOUT_S),
    "--heartbeat",
    str(HEARTBEAT_S),
)
_decode: Final = msgspec.json.Decoder().decode


@dataclass
class Crowd:
    """How many of each kind."""

    prompt: int = 1000
    subsets: int = 50
    slow: int = 50
    deaf: int = 10


@dataclass
class Told:
    """What came of it, of all clients."""

    events: int = 0
    skipped: int = 0
    heartbeats: int = 0
    subscribed: int = 0
    resumed: int = 0
    cut: int = 0  # who did not read
    compared: int = 0  # what a client holds, with what others do
    truths: int = 0  # the same, with what the server says
    problems: list[str] = field(default_factory=list)
    delays_s: list[float] = field(default_factory=list)


class Lines:
    """Lines read: what many of them say is read once."""

    def __init__(self) -> None:
        self._known: collections.OrderedDict[tuple[int, int], tuple[bytes, dict[str, Any]]]
        self._known = collections.OrderedDict()

    def read(self, line: bytes) -> dict[str, Any]:
        """Give what a line says; its quotes are the same object where it is the same text."""
        said: dict[str, Any]
        head, _, data = line.partition(b',"data":')
        said = _decode(head + b"}")
        key = said.get("epoch", 0), len(data)
        known = self._known.get(key)
        if known is None or known[0] != data:
            known = self._known[key] = data, self._lasting(said, _decode(data[:-1]))
            if len(self._known) > 200:
                self._known.popitem(last=False)
        return {**said, "data": known[1]}

    def _lasting(self, said: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        if "quotes" in data:
            return {**data, "quotes": self._lasting(said, data["quotes"])}
        if said["op"] == "heartbeat":
            return data
        return {ticker: quote and lasting(quote) for ticker, quote in data.items()}


class SharedReplica(Replica):
    """One that takes in at once what `Lines` has read."""

    def _apply(self, changes: dict[str, Any]) -> None:
        if None in changes.values():
            super()._apply(changes)
        else:
            self.quotes.update(changes)


class Books:
    """What the market was at each epoch, as the first who was there told."""

    def __init__(self, told: Told) -> None:
        self.told = told
        self._states: dict[int, dict[str, Any]] = {}

    def agree(self, replica: Replica) -> None:
        """Hold what a subscriber to everything has against what others have."""
        state = self._states.get(replica.epoch)
        if state is None:
            self._states[replica.epoch] = replica.quotes.copy()
            if len(self._states) > 100:
                del self._states[next(iter(self._states))]
            return
        self.told.compared += 1
        assert state == replica.quotes, f"two clients differ at epoch {replica.epoch}"

    def confirm(self, data: dict[str, Any]) -> None:
        """Hold it against what the server says."""
        state = self._states.get(data["epoch"])
        if state is not None:
            self.told.truths += 1
            assert state == data["quotes"], f"clients and server differ at epoch {data['epoch']}"


class Client:
    """One connection, and what it has been told."""

    def __init__(self, place: tuple[str, int], kind: str, tickers: list[str] | str) -> None:
        self.place, self.kind, self.tickers = place, kind, tickers
        self.replica = SharedReplica()
        self.socket: socket.socket | None = None
        self.begun_epoch = 0
        self._rest = b""

    def connect(self) -> bool:
        """Connect, and subscribe; from where it was, if it was."""
        connection = socket.socket()
        if self.kind != "prompt":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 50_000)
        try:
            connection.connect(self.place)
        except OSError:
            connection.close()
            return False
        request = {"v": 1, "id": "s", "type": "subscribe", "tickers": self.tickers}
        if self.replica.instance:
            request |= self.replica.since
        connection.sendall(msgspec.json.encode(request) + b"\n")
        connection.settimeout(0)
        self.socket, self._rest = connection, b""
        return True

    def close(self) -> None:
        """Die."""
        if self.socket is not None:
            self.socket.close()
            self.socket = None

    def lines(self, nbytes: int) -> list[bytes] | None:
        """Read; give the lines that are whole, None at the end."""
        assert self.socket is not None
        try:
            data = self.socket.recv(nbytes)
        except BlockingIOError:
            return []
        except OSError as error:
            if error.errno not in (errno.ECONNRESET, errno.EPIPE, errno.ETIMEDOUT):
                raise
            return None
        if not data:
            return None
        *whole, self._rest = (self._rest + data if self._rest else data).split(b"\n")
        return whole


class Watch:
    """All clients, in one loop."""

    def __init__(self, place: tuple[str, int], crowd: Crowd, tickers: list[str], seed: int) -> None:
        self.told, self._lines = Told(), Lines()
        self._books, self._rng = Books(self.told), random.Random(seed)  # noqa: S311 (the same again)
        self._selector = selectors.DefaultSelector()
        self._absent: list[Client] = []
        everything = [Client(place, "prompt", "*") for _ in range(crowd.prompt)]
        some = [
            Client(place, "prompt", self._rng.sample(tickers, self._rng.randrange(1, 20)))
            for _ in range(crowd.subsets)
        ]
        self.slow = [Client(place, "slow", "*") for _ in range(crowd.slow)]
        self.deaf = [Client(place, "deaf", "*") for _ in range(crowd.deaf)]
        self.prompt = [*everything, *some]
        self.everyone = [*self.prompt, *self.slow, *self.deaf]

    def run(self, seconds: float, dying: float) -> None:
        """Watch until the time is up, or something is wrong; so many die in a second."""
        self._absent = list(self.everyone)
        until = time.monotonic() + seconds
        next_read_s = next_death_s = next_truth_s = time.monotonic()
        while (now_s := time.monotonic()) < until and not self.told.problems:
            for key, _ in self._selector.select(0.02):
                self._read(key.data, 1 << 18)
            if now_s >= next_read_s:
                next_read_s = now_s + 0.2
                for client in self.slow:
                    if client.socket is not None:
                        self._read(client, 50_000)
                for client in self.deaf:
                    self._see_whether_cut(client)
                self._come_back()
            if now_s >= next_death_s:
                next_death_s = now_s + 1 / dying
                self._leave(self._rng.choice(self._rng.choice((self.prompt, self.slow))))
            if now_s >= next_truth_s:
                next_truth_s = now_s + 1
                self._ask()
        for client in self.everyone:
            self._leave(client)

    def _read(self, client: Client, nbytes: int) -> None:
        lines = client.lines(nbytes)
        if lines is None:
            self._leave(client)
            return
        try:
            for line in lines:
                self._take(client, self._lines.read(line))
        except (AssertionError, KeyError, msgspec.DecodeError) as error:
            self.told.problems.append(f"{client.kind} {client.tickers!r:.40}: {error!r:.300}")

    def _take(self, client: Client, said: dict[str, Any]) -> None:
        told, replica = self.told, client.replica
        if said["type"] == "event":
            replica.take(said)
            if said["op"] == "heartbeat":
                told.heartbeats += 1
            elif said["op"] == "quotes":
                told.events += 1
                told.skipped += said["skipped"]
                self._check(client, said)
        elif said.get("op") == "subscribe":
            told.subscribed += 1
            is_back = bool(replica.instance)
            assert said["data"]["resumed"] is is_back, "who came back was not resumed"
            told.resumed += is_back
            replica.begin(said["data"])
            client.begun_epoch = replica.epoch
        elif said.get("op") == "get_quotes":
            self._books.confirm(said["data"])
        else:
            message = f"unexpected: {said!r:.200}"
            raise AssertionError(message)

    def _check(self, client: Client, said: dict[str, Any]) -> None:
        replica = client.replica
        commits = (replica.epoch - client.begun_epoch) // 2  # each one adds two
        told = replica.told + replica.skipped
        if client.tickers == "*":
            assert told == commits, f"told of {told} commits, there were {commits}"
            if client.kind != "prompt" or self._rng.random() < COMPARED:
                self._books.agree(replica)
        else:  # as it starts, the market commits some tickers, and then others
            assert told <= commits, f"told of {told} commits, there were {commits}"
        if client.kind == "prompt" and not said["skipped"]:
            quote = next(iter(said["data"].values()))
            self.told.delays_s.append(time.time() - quote["updated_ms"] / 1000)

    def _ask(self) -> None:
        """Have the server say where it stands, behind all that it has told."""
        for client in self._rng.sample(self.prompt, min(3, len(self.prompt))):
            if client.socket is not None:
                with contextlib.suppress(OSError):
                    client.socket.send(b'{"v":1,"id":"q","type":"get_quotes"}\n')

    def _see_whether_cut(self, client: Client) -> None:
        """Look at a connection without reading from it."""
        if client.socket is None:
            return
        error = client.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        try:
            client.socket.send(b"\n")
        except BlockingIOError:
            pass
        except OSError as failed:
            error = failed.errno or error
        if error:
            self.told.cut += 1
            client.replica = SharedReplica()
            self._leave(client)

    def _leave(self, client: Client) -> None:
        if client.socket is None:
            return
        if client.socket in self._selector.get_map():
            self._selector.unregister(client.socket)
        client.close()
        self._absent.append(client)

    def _come_back(self) -> None:
        """Connect those who are not there: some at a time, as long as there is a server."""
        for _ in range(min(200, len(self._absent))):
            client = self._absent.pop()
            if not client.connect():
                self._absent.append(client)
                return
            assert client.socket is not None
            if client.kind == "prompt":
                self._selector.register(client.socket, selectors.EVENT_READ, client)


class Probe:
    """One more subscriber, that does nothing else: how long a commit takes to one of the crowd."""

    def __init__(self) -> None:
        self.delays_s: list[float] = []
        self._ended = threading.Event()

    @contextlib.contextmanager
    def at(self, port: int) -> Iterator[None]:
        """Listen until the block ends."""
        self._ended.clear()
        thread = threading.Thread(target=self._listen, args=(port,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    def _listen(self, port: int) -> None:
        decode = msgspec.json.Decoder().decode
        request = b'{"v":1,"id":"s","type":"subscribe","tickers":"*"}\n'
        with (
            contextlib.suppress(OSError, msgspec.DecodeError),  # the daemon is being killed
            socket.create_connection(("127.0.0.1", port), 5) as connection,
            connection.makefile("rb") as lines,
        ):
            connection.sendall(request)
            lines.readline()
            while not self._ended.is_set():
                line, now_s = lines.readline(), time.time()
                if not line:
                    return
                head, _, data = line.partition(b',"data":')
                said = decode(head + b"}")
                if said["op"] == "quotes" and not said["skipped"]:
                    # The first quote is enough: all of them were published at the same time.
                    first = decode(data[data.index(b":") + 1 : data.index(b"}") + 1])
                    self.delays_s.append(now_s - first["updated_ms"] / 1000)


def watch(port: int, seconds: float, crowd: Crowd, dying: float, seed: int) -> dict[str, Any]:
    """Watch a daemon; give what came of it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    place = "127.0.0.1", port
    with socket.create_connection(place, 30) as connection, connection.makefile("rb") as lines:
        connection.sendall(b'{"v":1,"id":1,"type":"list_tickers"}\n')
        tickers = json.loads(lines.readline())["data"]
    watching = Watch(place, crowd, tickers, seed)
    watching.run(seconds, dying)
    told = watching.told
    delays = told.delays_s or [0.0, 0.0]
    return {
        **{name: getattr(told, name) for name in Told.__dataclass_fields__ if name != "delays_s"},
        "prompt events": len(told.delays_s),
        "in the crowd, commit to delivery": str(Latency.of(delays)),
        "without an event": sum(1 for each in watching.prompt if not each.replica.epoch),
    }


def run(seconds: float, kills: int, crowd: Crowd, tickers: int, seed: int = 1) -> dict[str, Any]:
    """Run a daemon and the crowd; kill the one under the other."""
    name, port = unique_name(), 0
    said = [crowd.prompt, crowd.subsets, crowd.slow, crowd.deaf]
    memory: list[float] = []
    probe = Probe()
    cpus: list[float] = []
    problems: list[str] = []
    watcher: subprocess.Popen[str] | None = None
    out = ""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        for life in range(kills + 1):
            options = (*DAEMON, "--synthetic-count", str(tickers), "--port", str(port))
            with daemon(Path(folder), *options, name=name) as running:
                port = running.port
                running.wait_for(r"epoch \d+: \d+ tickers")
                began_s = time.monotonic()
                if watcher is None:
                    command = [sys.executable, "-m", "tests.campaigns.push", "--watch", str(port)]
                    command += ["--crowd", *map(str, said), "--seed", str(seed)]
                    watcher = subprocess.Popen(
                        [*command, "--seconds", str(seconds)], stdout=subprocess.PIPE, text=True
                    )
                with Sampler(running.process.pid, 0.1) as sampled, probe.at(port):
                    if life < kills:
                        time.sleep(seconds / (kills + 1))
                    else:
                        out, _ = watcher.communicate(timeout=seconds + 60)
                    cpus.append(cpu_s(running.process.pid) / (time.monotonic() - began_s))
                    if life < kills:
                        running.process.kill()
                        running.process.wait()
                memory += sampled.memory
                problems += [line for line in running.log.splitlines() if "Traceback" in line]
    result: dict[str, Any] = json.loads(out)
    result["problems"] += problems
    if max(memory) > MEMORY_MIB:
        result["problems"].append(f"{max(memory):.0f} MiB of memory, at most {MEMORY_MIB}")
    return {
        **result,
        "commit to delivery, median / p99 / max": str(Latency.of(probe.delays_s)),
        "daemon's memory, least / most": f"{min(memory):.0f} / {max(memory):.0f} MiB",
        "daemon's CPU": " ".join(f"{share:.0%}" for share in cpus),
        "kills": kills,
        "seconds": seconds,
    }


def main() -> int:
    """Run the campaign and print what came of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--kills", type=int, default=1)
    parser.add_argument("--subscribers", type=int, default=1000)
    parser.add_argument("--tickers", type=int, default=500)
    parser.add_argument("--dying", type=float, default=10, help="clients a second")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--watch", type=int, metavar="PORT", help=argparse.SUPPRESS)
    parser.add_argument("--crowd", type=int, nargs=4, help=argparse.SUPPRESS)
    said = parser.parse_args()
    if said.watch:
        crowd = Crowd(*said.crowd)
        told = watch(said.watch, said.seconds, crowd, said.dying, said.seed)
        print(json.dumps(told))  # noqa: T201  to the parent
        return 0
    crowd = Crowd(prompt=said.subscribers)
    result = run(said.seconds, said.kills, crowd, said.tickers, said.seed)
    return report(result, as_json=said.json)


if __name__ == "__main__":
    sys.exit(main())
