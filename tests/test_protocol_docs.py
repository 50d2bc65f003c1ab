"""docs/protocol.md: each of its examples is sent to a server, which answers what the page says."""

from __future__ import annotations

import json
import re
import socket
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from quoteshm.errors import ErrorCode
from quoteshm.market.bars import Restatements
from quoteshm.wire.auth import Gate
from quoteshm.wire.operations import OPERATIONS
from quoteshm.wire.push import Hub, Restated
from tests.published import FIRST_MS, Market
from tests.rostering import have_roster
from tests.serving import ServedCase

PAGE = Path(__file__).parents[1] / "docs" / "protocol.md"
#: Different each time.
VOLATILE = ("instance", "now_ms", "pid", "quoteshm", "shm_dir", "size", "uptime_s")
#: What the page does not spell out.
PADDING = "... 65,536 bytes more ..."


class Example(NamedTuple):
    """A line to the server, and the line from it."""

    request: str
    reply: str


def blocks(kind: str) -> list[list[str]]:
    """Read the blocks of a kind, each as its lines."""
    found = re.findall(rf"^```{kind}\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    return [block.replace("\n    ", "").splitlines() for block in found]


def examples(kind: str) -> list[Example]:
    """Read the examples of a kind of server."""
    lines = [line for block in blocks(kind) for line in block]
    assert [line[:3] for line in lines] == ["-> ", "<- "] * (len(lines) // 2)
    texts = [line[3:] for line in lines]
    return [Example(*pair) for pair in zip(texts[::2], texts[1::2], strict=True)]


def settled(value: Any) -> Any:
    """Give a document without what is different each time, but with that it is there."""
    if isinstance(value, dict):
        return {
            name: type(item) if name in VOLATILE else settled(item) for name, item in value.items()
        }
    return value


def exchange(port: int, requests: list[str]) -> list[str]:
    """Send lines over one connection, and give the replies."""
    with (
        socket.create_connection(("127.0.0.1", port), 10) as connection,
        connection.makefile("rwb") as lines,
    ):
        replies = []
        for request in requests:
            lines.write(request.replace(PADDING, "x" * 65_536).encode() + b"\n")
            lines.flush()
            replies.append(lines.readline().decode())
        return replies


class PageCase(ServedCase):
    """A server as the page speaks of."""

    def setUp(self) -> None:
        """Have a ticker that could not be fetched."""
        super().setUp()
        self.market.cache.failures["ZM"] = "yahoo: rate limited, next try in 40 s"

    async def run_examples(self, kind: str) -> None:
        """Send all requests of a kind, and compare the replies in their order of fields."""
        told = examples(kind)
        assert told
        replies = await self.in_thread(exchange, self.port, [one.request for one in told])
        for example, reply in zip(told, replies, strict=True):
            found, expected = settled(json.loads(reply)), settled(json.loads(example.reply))
            assert found == expected, example.request
            assert str(found) == str(expected), example.request  # the order of fields, too


class WithSharedMemoryTests(PageCase):
    """Most examples."""

    def setUp(self) -> None:
        """Publish in a folder of the test's own."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.directory = Path(folder.name)
        super().setUp()

    async def test_the_examples_are_true(self) -> None:
        """Each of them."""
        await self.run_examples("wire")


class TokenTests(PageCase):
    """Those of a server that wants a token."""

    async def test_the_examples_are_true(self) -> None:
        """Over a connection that knows nothing at first."""
        have_roster(self.market, "AAPL", "MSFT")
        self.factory.context = self.market.context
        self.factory.gate = Gate(b"open sesame")
        await self.run_examples("wire token")


class PushTests(PageCase):
    """Those of subscriptions: what the server says by itself."""

    async def test_the_examples_are_true(self) -> None:
        """Line by line, with what happens meanwhile; each block on a market of its own."""
        told = blocks("wire push")
        assert len(told) > 2
        for lines in told:
            self.market = Market()
            self.factory.hub = Hub(self.market.cache, self.reactor)
            await self.in_turn(lines)

    async def in_turn(self, lines: list[str]) -> None:
        """Do what each line says."""
        connection = socket.create_connection(("127.0.0.1", self.port), 10)
        stream = connection.makefile("rwb")
        for line in lines:
            kind, text = line[:3], line[3:]
            if kind == "-> ":
                request = json.loads(text)
                if "instance" in request:
                    request["instance"] = self.market.writer.instance
                stream.write(json.dumps(request).encode() + b"\n")
                await self.in_thread(stream.flush)
            elif kind == "<- ":
                found = settled(json.loads(await self.in_thread(stream.readline)))
                assert found == settled(json.loads(text)), line
                assert str(found) == str(settled(json.loads(text))), line
            else:
                assert kind == "== ", line
                self.happens(text)
        stream.close()
        connection.close()

    def happens(self, text: str) -> None:
        """Have something happen in the market."""
        market, restated = self.market, list[Restated]()
        if passed := re.fullmatch(r"(\d+) seconds pass", text):
            market.clock.now_ms += 1000 * int(passed[1])
            self.factory.hub.beat()
            return
        for what in text.split(", "):
            if trade := re.fullmatch(r"(\w+) trades at ([\d.]+)", what):
                market.quote(trade[1], float(trade[2]))
            elif removal := re.fullmatch(r"(\w+) is removed", what):
                market.remove(removal[1])
            else:
                bar = re.fullmatch(r"a bar of (\w+) is restated", what)
                assert bar, what
                before = np.array([[188.0] * 4 + [1e5]]).T
                after = np.array([[94.0] * 4 + [2e5]]).T
                bars = Restatements(np.array([FIRST_MS]), before, after)
                restated.append(Restated(bar[1], "1d", bars))
        self.factory.hub.published(restated)


class WithoutSharedMemoryTests(PageCase):
    """Those of a server without."""

    async def test_the_examples_are_true(self) -> None:
        """Each of them."""
        await self.run_examples("wire no-shm")

    def test_every_op_and_error_is_on_the_page(self) -> None:
        """With an example of each op, and of each error that can be asked for."""
        page = PAGE.read_text()
        kinds = ("wire", "wire token", "wire push")
        lines = [line for kind in kinds for block in blocks(kind) for line in block]
        replies = [json.loads(line[3:]) for line in lines if line.startswith("<- ")]
        replies = [reply for reply in replies if reply["type"] != "event"]
        assert {reply.get("op") for reply in replies} - {None} == set(OPERATIONS)
        assert re.findall(r"^### `(\w+)`$", page, re.MULTILINE)
        assert set(re.findall(r"^### `(\w+)`$", page, re.MULTILINE)) == set(OPERATIONS)
        assert set(re.findall(r"^\| `([A-Z_]+)` \|", page, re.MULTILINE)) == set(ErrorCode)
