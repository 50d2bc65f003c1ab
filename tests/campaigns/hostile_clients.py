"""Clients that mean no good, each a function that raises on what the server may not do."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import selectors
import socket
import struct
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self

from tests.campaigns import hostile_greedy
from tests.campaigns.hostile_fuzz import GOOD, check_reply, lines_of, mutated
from tests.campaigns.hostile_greedy import PING, QUOTES
from tests.campaigns.hostile_measures import Latency
from tests.campaigns.report import check
from tests.wire.hostile import HOSTILE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType

WAIT_S: Final = 30.0
MAX_LINE_NBYTES: Final = 65_536  # the daemon's default
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: on, no seconds


class Wire:
    """A connection that sends bytes as they are, and reads reply by reply."""

    def __init__(self, port: int, timeout_s: float = WAIT_S) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self.socket.makefile("rb")
        self._ids = itertools.count(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def send(self, data: bytes) -> None:
        """Send all of it."""
        self.socket.sendall(data)

    def reply(self) -> dict[str, Any]:
        """Give the next reply, of which the form is checked."""
        line = self._file.readline()
        check(line, "the connection was closed")
        return check_reply(line)

    def replies(self, count: int) -> list[dict[str, Any]]:
        """Give some replies."""
        return [self.reply() for _ in range(count)]

    def ended(self) -> bool:
        """Whether the server has nothing more to say."""
        return self._file.readline() == b""

    def ping(self) -> None:
        """See that the connection is in step: the next reply is this request's."""
        number = next(self._ids)
        self.send(PING % number)
        reply = self.reply()
        check(reply["type"] == "response", f"to a ping: {reply}")
        check(reply["id"] == number, "out of step")
        check(reply["op"] == "ping", "another op")

    def hang_up(self) -> None:
        """End with a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.close()

    def close(self) -> None:
        """End."""
        self._file.close()
        self.socket.close()


# -- bad lines -------------------------------------------------------------------------------


def bad_lines(port: int, rng: random.Random, count: int) -> int:
    """Send lines that were tampered with, each with a good one behind it; give the replies."""
    replies = 0
    with Wire(port) as wire:
        for _ in range(count):
            line = mutated(rng, rng.choice(GOOD).replace(b"AAPL", b"SYN00001")) + b"\n"
            cut = rng.randint(0, len(line))
            wire.send(line[:cut])
            wire.send(line[cut:])
            expected = len(lines_of(line, MAX_LINE_NBYTES))
            try:
                wire.replies(expected)
                wire.ping()
            except Exception as error:
                error.add_note(f"after {line!r}")
                raise
            replies += expected
    return replies


def known_bad_lines(port: int) -> int:
    """Send each kind of line that no good client sends; give how many."""
    with Wire(port) as wire:
        for name, line in HOSTILE.items():
            count = len(lines_of(line + b"\n", MAX_LINE_NBYTES))
            wire.send(line + b"\n")
            codes = {reply["error"]["code"] for reply in wire.replies(count)}
            check(codes == {"BAD_REQUEST"}, f"{name}: {codes}")
            wire.ping()
    return len(HOSTILE)


def long_lines(port: int) -> int:
    """Send lines of just the limit, of one less and one more, and of 10 MiB; give how many."""
    ping = (PING % 7).rstrip()
    sizes = (MAX_LINE_NBYTES - 1, MAX_LINE_NBYTES, MAX_LINE_NBYTES + 1, 10 << 20)
    makers: list[tuple[bool, Callable[[int], bytes]]] = [
        (True, ping.ljust),
        (True, lambda size: ping[:-1] + b',"x":"' + b"y" * (size - len(ping) - 7) + b'"}'),
        (False, lambda size: b"x" * size),
        (False, lambda size: b"[" * size),
        (False, lambda size: b'{"v":' * (size // 5) + b" " * (size % 5)),
        (False, lambda size: b"\xff" * size),
    ]
    for (good, make), size, end in itertools.product(makers, sizes, (b"\n", b"\r\n")):
        line = make(size)
        check(len(line) == size, "not the line that was meant")
        with Wire(port) as wire:
            wire.send(line + end)
            reply = wire.reply()
            answered = reply["type"] == "response"
            check(answered == (good and size <= MAX_LINE_NBYTES), f"{size} bytes: {reply}")
            wire.ping()
    return len(makers) * len(sizes) * 2


# -- slow ones, and such as do not read ------------------------------------------------------


def slow_loris(port: int, connections: int, pace_s: float) -> Latency:
    """Send a request a byte at a time on many connections; give a polite client's latency."""
    line = PING % 1
    waits: list[float] = []
    with contextlib.ExitStack() as stack:
        polite = stack.enter_context(Wire(port))
        slow = [stack.enter_context(Wire(port)) for _ in range(connections)]
        for at in range(len(line)):
            for wire in slow:
                wire.send(line[at : at + 1])
            until = time.monotonic() + pace_s
            while time.monotonic() < until:
                waits.append(timed(polite))
                time.sleep(pace_s / 50)  # the pace of this client, nothing that it waits for
        for wire in slow:
            check(wire.reply()["op"] == "ping", "a slow client got another answer")
    return Latency.of(waits)


def timed(wire: Wire) -> float:
    """Give the seconds that an answer takes."""
    begun = time.perf_counter()
    wire.ping()
    return time.perf_counter() - begun


@contextlib.contextmanager
def never_reading(port: int, connections: int, requests: int, quiet_s: float) -> Iterator[int]:
    """Have clients ask and not read, as long as the block runs; gives the bytes that were taken.

    The block begins when no more bytes were taken for some time.

    At the end some of them vanish with all that waits for them, and some read after all.
    """
    pending = memoryview(b"".join(QUOTES % n for n in range(requests)))
    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(Wire(port)) for _ in range(connections)]
        sent = dict.fromkeys(wires, 0)
        quiet_at = time.monotonic() + quiet_s
        for wire in wires:
            wire.socket.settimeout(0)
        while time.monotonic() < quiet_at:
            for wire, at in sent.items():
                with contextlib.suppress(BlockingIOError):
                    sent[wire] += wire.socket.send(pending[at : at + MAX_LINE_NBYTES])
                    if at < len(pending):
                        quiet_at = time.monotonic() + quiet_s
            time.sleep(0.001)
        yield sum(sent.values())
        for wire in wires[::2]:
            wire.hang_up()
        for wire in wires[1:4:2]:
            wire.socket.settimeout(WAIT_S)
            ids = [reply["id"] for reply in wire.replies(200)]
            check(ids == list(range(200)), "replies are lost, or out of order")


# -- connections that end badly --------------------------------------------------------------


def half_close(port: int, count: int) -> int:
    """Send requests and the end, then read: all of them are answered; give the replies."""
    for number in range(count):
        requests = 1 + number % 300
        cut = number % 3 == 0  # the last line is half a request
        with Wire(port) as wire:
            wire.send(b"".join((QUOTES if number % 29 == 0 else PING) % n for n in range(requests)))
            if cut:
                wire.send(b'{"v":1,"id":1')
            wire.socket.shutdown(socket.SHUT_WR)
            ids = [reply["id"] for reply in wire.replies(requests)]
            check(ids == list(range(requests)), "replies are lost, or out of order")
            if cut:
                check(wire.reply()["type"] == "error", "half a request was answered")
            check(wire.ended(), "there is more than was asked for")
    return count


def resets(port: int, count: int) -> int:
    """End with a reset: before a byte, in a line, before the replies, among the replies."""
    for number in range(count):
        wire = Wire(port)
        match number % 4:
            case 0:
                pass
            case 1:
                wire.send((PING % 1)[: 1 + number % 20])
            case 2:
                wire.send(QUOTES % 1 * 100)
            case _:
                wire.send(QUOTES % 1 * 100)
                wire.reply()
        wire.hang_up()
    return count


def vanishing(port: int, count: int) -> float:
    """Connect and go, as fast as can be; give the longest time that a connection took."""
    longest_s = 0.0
    for number in range(count):
        begun = time.perf_counter()
        wire = Wire(port)
        longest_s = max(longest_s, time.perf_counter() - begun)
        if number % 2:
            wire.hang_up()
        else:
            wire.close()
    return longest_s


# -- too many connections --------------------------------------------------------------------


@dataclass
class Crowd:
    """Connections by the thousand. Those that the server closes are closed here too."""

    port: int
    connections: list[socket.socket] = field(default_factory=list)
    turned_away: int = 0

    def gather(self, count: int, wave: int = 200) -> None:
        """Connect so many times, some at once."""
        while count > 0:
            self._wave(min(wave, count))
            self.look()
            count -= wave

    def _wave(self, count: int) -> None:
        with selectors.DefaultSelector() as selector:
            for _ in range(count):
                connection = socket.socket()
                connection.settimeout(0)
                connection.connect_ex(("127.0.0.1", self.port))
                selector.register(connection, selectors.EVENT_WRITE)
            until = time.monotonic() + WAIT_S
            while selector.get_map():
                check(time.monotonic() < until, "connections are neither taken nor turned away")
                for key, _ in selector.select(1):
                    connection = key.fileobj  # type: ignore[assignment]  # what was registered
                    selector.unregister(connection)
                    self.connections.append(connection)

    def look(self) -> None:
        """Find out which of them the server has closed."""
        kept = []
        for connection in self.connections:
            try:
                gone = connection.recv(1) == b""
            except BlockingIOError:
                gone = False
            except OSError:
                gone = True
            if gone:
                self.turned_away += 1
                connection.close()
            else:
                kept.append(connection)
        self.connections = kept

    def served(self) -> int:
        """Ask on each connection, and count those that answer within a second of quiet."""
        answered = 0
        with selectors.DefaultSelector() as selector:
            for connection in self.connections:
                with contextlib.suppress(OSError):
                    connection.send(PING % 1)
                    selector.register(connection, selectors.EVENT_READ)
            while events := selector.select(1):
                for key, _ in events:
                    selector.unregister(key.fileobj)
                    with contextlib.suppress(OSError):
                        answered += key.fileobj.recv(1000).endswith(b"\n")  # type: ignore[union-attr]
        return answered

    def leave(self) -> None:
        """Close all."""
        for connection in self.connections:
            connection.close()
        self.connections.clear()


# -- greedy ones -----------------------------------------------------------------------------


def beside(port: int, commands: Iterable[tuple[str, int]]) -> tuple[Latency, float]:
    """Measure a polite client beside greedy ones; give its latency, and the greedy ones' rate."""
    argv = [sys.executable, "-m", hostile_greedy.__name__, str(port)]
    waits: list[float] = []
    with Wire(port) as polite, contextlib.ExitStack() as stack:
        polite.ping()
        others = [
            stack.enter_context(
                subprocess.Popen([*argv, kind, str(count)], stdout=subprocess.PIPE, text=True)
            )
            for kind, count in commands
        ]
        for other in others:
            assert other.stdout is not None
            other.stdout.readline()  # it is about to begin
        until = time.monotonic() + 120
        while any(other.poll() is None for other in others):
            waits.append(timed(polite))
            time.sleep(0.001)  # the pace of this client, nothing that it waits for
            if time.monotonic() > until:
                for other in others:
                    other.kill()
                check(False, "greedy clients are not done within 120 s")  # noqa: FBT003  it never holds
        results = [json.loads(other.stdout.read()) for other in others if other.stdout is not None]
    rate = sum(result["replies"] / result["seconds"] for result in results)
    return Latency.of(waits), rate
