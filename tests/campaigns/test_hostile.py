"""A short run of the campaign in `hostile`, and that it would see what it looks for."""

from __future__ import annotations

import json

import pytest

from quoteshm.wire.operations import Context
from tests.campaigns import hostile
from tests.campaigns.hostile_clients import Wire
from tests.campaigns.hostile_fuzz import check_reply, check_stream, context, lines_of
from tests.campaigns.hostile_greedy import greedy
from tests.campaigns.hostile_measures import Latency, growth, sparkline
from tests.campaigns.report import ViolationError
from tests.published import Market
from tests.serving import ServedCase


def test_a_daemon_does_not_mind_hostile_clients() -> None:
    """A little of each: bytes, lines, slow ones, silent ones, crowds, and all of it together."""
    rows = hostile.run(hostile.SHORT, seed=1)

    assert [(row.name, row.violation) for row in rows if row.violation] == []
    assert len(rows) == 16


@pytest.mark.parametrize(
    "reply",
    [
        {"v": 1, "id": 1, "type": "error", "error": {"code": "INTERNAL", "message": ""}},
        {"v": 1, "id": 1, "type": "response", "op": "nope", "data": {}},
        {"v": 1, "id": 1, "type": "response", "op": "ping", "data": float("nan")},
        {"v": 2, "id": 1, "type": "response", "op": "ping", "data": {}},
        {"v": 1, "id": [], "type": "response", "op": "ping", "data": {}},
    ],
)
def test_a_reply_that_may_not_be_is_seen(reply: dict[str, object]) -> None:
    """An error that is the server's own, and whatever the protocol does not know."""
    with pytest.raises(ViolationError):
        check_reply(json.dumps(reply).encode() + b"\n")


def test_an_exception_in_the_codec_is_seen() -> None:
    """With the exception as its cause."""

    def describe() -> dict[str, object]:
        return {"x": 1 / 0}

    market = Market()
    broken = Context(market.writer, market.cache, describe=describe)
    with pytest.raises(ViolationError) as caught:
        check_stream(broken, b'{"v":1,"id":1,"type":"get_info"}\n', 1)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_stream_is_what_its_lines_are() -> None:
    """Blank ones are none, and the last one needs no end."""
    assert lines_of(b"a\r\n \n\nbb\nccc\nd", 2) == [b"a", b"bb", None, b"d"]
    assert check_stream(context(), b'\n{"v":1}\r\n\nx', 3) == 2


def test_a_flat_line_is_told_from_one_that_grows() -> None:
    """By its last third, against the one before: a daemon may warm up."""
    assert growth([1, 5, 9, *[100] * 18]) == 0
    assert growth(list(range(30))) == 10
    assert sparkline([3] * 90, width=4) == "████"
    assert sparkline([0, 1, 2, 3, 4], width=5) == " ▂▄▆█"
    assert str(Latency.of([0.001] * 99 + [0.1])) == "1.00 / 2.0 / 100.0 ms"


class ClientTests(ServedCase):
    """The campaign's own clients, at a server in this process."""

    async def test_a_connection_that_is_out_of_step_is_seen(self) -> None:
        """As after a line that had two replies."""

        def ask() -> None:
            with Wire(self.port) as wire:
                wire.ping()
                wire.send(b"bad\n")
                wire.ping()

        with pytest.raises(ViolationError):
            await self.in_thread(ask)

    async def test_greedy_clients_count_their_replies(self) -> None:
        """And see that the last one is that to the last request."""
        found = await self.in_thread(greedy, self.port, "ping", 1000)
        assert found["replies"] == 1000
