"""Yahoo's stream: what its messages say, and connections that end in every way."""
# mypy: allow-untyped-calls
# Twisted is typed only in part, and `untyped_calls_exclude` does not reach what we inherit.

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from quoteshm.sources.yahoo_live import (
    MAX_MESSAGE_NBYTES,
    BadMessageError,
    LivePrice,
    Stream,
    load_decoder,
    read_message,
)
from quoteshm.sources.yahoo_plan import AHEAD_MS
from tests.published import NOW_MS
from tests.yahoo_streamer import Streamer, message

if TYPE_CHECKING:
    from collections.abc import Callable

NAN = math.nan


def read(text: str) -> LivePrice | None:
    """Read a message with yfinance's own decoder."""
    return read_message(text, load_decoder(), NOW_MS)


def same(one: LivePrice | None, ticker: str, ts_ms: int, *values: float) -> bool:
    """Compare a price with what it should be, NaN for NaN."""
    assert one is not None
    assert one[:2] == (ticker, ts_ms)
    assert one.values == pytest.approx(values, rel=0, abs=0, nan_ok=True)
    return True


def test_a_message_says_what_yahoo_meant_and_not_a_short_float() -> None:
    """187.33 as a float of 32 bits is 187.3300018310547."""
    fields = {
        "open_price": 186.1,
        "day_high": 188.07,
        "day_low": 185.99,
        "day_volume": 12_345_678_901,
        "previous_close": 186.89,
    }

    told = read(message("AAPL", 187.33, NOW_MS, **fields))

    assert same(told, "AAPL", NOW_MS, 186.1, 188.07, 185.99, 187.33, 12_345_678_901.0, 186.89)


def test_what_a_message_does_not_say_is_unknown() -> None:
    """But for the previous close, where it says the change since."""
    assert same(read(message("X", 3.25, NOW_MS)), "X", NOW_MS, NAN, NAN, NAN, 3.25, NAN, NAN)
    told = read(message("X", 187.33, NOW_MS, change=-1.27))
    assert same(told, "X", NOW_MS, NAN, NAN, NAN, 187.33, NAN, 188.6)


def test_a_negative_volume_is_none() -> None:
    """The price that comes with it is good."""
    told = read(message("X", 3.25, NOW_MS, day_volume=-3))
    assert same(told, "X", NOW_MS, NAN, NAN, NAN, 3.25, NAN, NAN)


@pytest.mark.parametrize("hours", [0, 2, 3])
def test_prices_outside_the_regular_hours_are_left_out(hours: int) -> None:
    """As they are where bars are asked for."""
    assert read(message("X", 3.25, NOW_MS, market_hours=hours)) is None


def test_what_is_no_price_is_left_out() -> None:
    """Yahoo may say other things some day."""
    assert read(json.dumps({"type": "heartbeat"})) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no JSON",
        "[]",
        "{}",
        json.dumps({"type": "pricing"}),
        json.dumps({"type": "pricing", "message": "no base 64!"}),
        json.dumps({"type": "pricing", "message": "////"}),
        json.dumps({"type": "pricing", "message": ""}),
        json.dumps({"type": "pricing", "message": 5}),
        message("", 3.25, NOW_MS),
        message("X", 0, NOW_MS),
        message("X", NAN, NOW_MS),
        message("X", math.inf, NOW_MS),
        message("X", 3.25, 0),
        message("X", 3.25, -5),
        message("X", 3.25, NOW_MS + AHEAD_MS + 1),
        "[" * 100_000,
    ],
)
def test_garbage_is_an_error_of_one_kind(text: str) -> None:
    """Also a price of tomorrow, behind which all others would be late."""
    with pytest.raises(BadMessageError):
        read(text)


def test_the_later_of_two_messages_keeps_what_the_earlier_one_said() -> None:
    """Also how high and low the price was then."""
    earlier = LivePrice("X", 1, (1.0, NAN, 0.5, 9.0, 100.0, 2.0))

    for high in (NAN, 5.0):
        later = LivePrice("X", 2, (NAN, high, NAN, 3.0, 110.0, NAN)).after(earlier)
        assert later.values[0] == 1.0
        assert later.values[2:] == (0.5, 3.0, 110.0, 2.0)
        assert later.ts_ms == 2
    assert later.values[1] == 9.0


class Ears:
    """What notes all that it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self._waiting: list[tuple[str, Deferred[str]]] = []

    def opened(self) -> None:
        """Note it."""
        self._note("opened", "")

    def heard(self, text: str) -> None:
        """Note it."""
        self._note("heard", text)

    def lost(self, why: str) -> None:
        """Note it."""
        self._note("lost", why)

    def _note(self, what: str, text: str) -> None:
        self.told.append((what, text))
        for waiting in [one for one in self._waiting if one[0] == what]:
            self._waiting.remove(waiting)
            waiting[1].callback(text)

    def wait(self, what: str) -> Deferred[str]:
        """Wait until it is told, from now on."""
        done: Deferred[str] = Deferred()
        self._waiting.append((what, done))
        return done


class StreamTests(TestCase):
    """A stream and a streamer, over a real socket."""

    timeout = 30

    def setUp(self) -> None:
        """Begin to serve."""
        from twisted.internet import reactor  # noqa: PLC0415 - installs it

        self.reactor: Any = reactor
        self.streamer = Streamer()
        self.streamer.__enter__()
        self.addCleanup(deferToThread, self.streamer.__exit__)
        self.ears = Ears()

    def connect(self, timeout_s: float = 20.0, url: str | None = None) -> Stream:
        """Begin a connection."""
        stream = Stream(self.ears, self.reactor, url or self.streamer.url, timeout_s)
        self.addCleanup(stream.abort)
        return stream

    async def test_it_subscribes_and_hears(self) -> None:
        """Where Yahoo's streamer expects it, as yfinance does."""
        stream = self.connect()
        await self.ears.wait("opened")
        stream.subscribe(["AAPL", "MSFT"])
        assert await deferToThread(self.streamer.asked) == ["AAPL", "MSFT"]
        self.streamer.send("one")
        assert await self.ears.wait("heard") == "one"
        assert self.streamer.paths == ["/?version=2"]

    async def test_an_answer_to_a_ping_is_a_sign_of_life(self) -> None:
        """Of a connection on which nothing is said."""
        stream = self.connect()
        await self.ears.wait("opened")
        heard: Deferred[None] = Deferred()
        self.patch(stream, "pongReceived", lambda _: heard.callback(None))
        before_s, stream.last_alive_s = stream.last_alive_s, 0.0
        stream.ping()
        await heard
        assert stream.last_alive_s >= before_s

    async def _ends(self, act: Callable[[], object]) -> str:
        """Give why an open connection is lost, once, and for good."""
        stream = self.connect()
        await self.ears.wait("opened")
        stream.subscribe(["X"])
        await deferToThread(self.streamer.asked)  # it knows of it, then
        lost = self.ears.wait("lost")
        await deferToThread(act)
        why = await lost
        stream.subscribe(["X"])  # nobody is there any more
        stream.ping()
        assert [what for what, _ in self.ears.told].count("lost") == 1
        return why

    async def test_it_is_lost_when_it_is_closed(self) -> None:
        """As one should."""
        await self._ends(self.streamer.close)

    async def test_it_is_lost_when_it_is_cut(self) -> None:
        """Without a word."""
        await self._ends(self.streamer.drop)

    async def test_it_is_lost_when_nonsense_comes(self) -> None:
        """Bytes that are no frame."""
        await self._ends(lambda: self.streamer.send_raw(b"\xff" * 64))

    async def test_it_is_given_up_when_a_message_has_no_end(self) -> None:
        """It would fill the memory."""
        endless = b"\x01\x7f" + (1 << 40).to_bytes(8, "big") + bytes(2 * MAX_MESSAGE_NBYTES)
        assert "a message of more than" in await self._ends(lambda: self.streamer.send_raw(endless))

    async def test_a_handshake_that_hangs_is_given_up(self) -> None:
        """Twisted itself would wait for ever."""
        self.streamer.hang = True
        self.connect(0.2)
        assert await self.ears.wait("lost") == "no answer within 0.2 s"
        assert self.ears.told == [("lost", "no answer within 0.2 s")]

    async def test_a_handshake_that_is_refused_says_so(self) -> None:
        """With its status."""
        self.streamer.reject = 403
        self.connect()
        assert await self.ears.wait("lost") == "refused (HTTP 403)"

    async def test_nobody_there_is_lost_too(self) -> None:
        """As anything else."""
        self.connect(url="ws://127.0.0.1:1/")
        assert "refused" in await self.ears.wait("lost")

    async def test_what_is_aborted_tells_nothing(self) -> None:
        """Whoever aborts it knows."""
        self.connect().abort()
        stream = self.connect()
        await self.ears.wait("opened")
        stream.subscribe(["X"])
        await deferToThread(self.streamer.asked)
        stream.abort()
        self.streamer.drop()
        assert self.ears.told == [("opened", "")]
