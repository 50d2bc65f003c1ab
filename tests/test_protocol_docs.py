"""docs/protocol.md: each of its examples is sent to a server, which answers what the page says."""

from __future__ import annotations

import json
import re
import socket
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from quoteshm.errors import ErrorCode
from quoteshm.wire.operations import OPERATIONS
from tests.serving import ServedCase

PAGE = Path(__file__).parents[1] / "docs" / "protocol.md"
#: Different each time.
VOLATILE = ("instance", "pid", "quoteshm", "shm_dir", "size", "uptime_s")
#: What the page does not spell out.
PADDING = "... 65,536 bytes more ..."


class Example(NamedTuple):
    """A line to the server, and the line from it."""

    request: str
    reply: str


def examples(kind: str) -> list[Example]:
    """Read the examples of a kind of server."""
    blocks = re.findall(rf"^```{kind}\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).replace("\n    ", "").splitlines()
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


class WithoutSharedMemoryTests(PageCase):
    """Those of a server without."""

    async def test_the_examples_are_true(self) -> None:
        """Each of them."""
        await self.run_examples("wire no-shm")

    def test_every_op_and_error_is_on_the_page(self) -> None:
        """With an example of each op, and of each error that can be asked for."""
        page = PAGE.read_text()
        replies = [json.loads(one.reply) for one in examples("wire")]
        assert {reply.get("op") for reply in replies} - {None} == set(OPERATIONS)
        assert re.findall(r"^### `(\w+)`$", page, re.MULTILINE)
        assert set(re.findall(r"^### `(\w+)`$", page, re.MULTILINE)) == set(OPERATIONS)
        assert set(re.findall(r"^\| `([A-Z_]+)` \|", page, re.MULTILINE)) == set(ErrorCode)
