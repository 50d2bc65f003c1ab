"""The short way answers byte for byte what the strict one does, whatever it is asked."""

from __future__ import annotations

import itertools
import json
import re
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.internet.testing import StringTransport

from quoteshm.model import Ticker
from quoteshm.shm.batch import Batch
from quoteshm.wire import operations, shortcut
from quoteshm.wire.bounds import Bounds
from quoteshm.wire.operations import Context
from quoteshm.wire.protocol import QuoteFactory
from quoteshm.wire.shortcut import CANONICAL, LONGEST_NBYTES, Shortcut
from tests.published import FRESHNESS_MS, Market
from tests.wire.hostile import HOSTILE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

FORMS: Final = (
    '{"v":1,"id":%s,"type":"get_quote","ticker":%s}',
    '{"v": 1, "id": %s, "type": "get_quote", "ticker": %s}',
)
TICKERS: Final = ("AAPL", "MSFT", "NEWCO", "GONE", "XXXX", "BRK-B", "^GSPC", "EURUSD=X", "A.B")


class Turns:
    """A reactor that comes round when it is asked to."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []

    def seconds(self) -> float:
        """Stand still."""
        return 1.0

    def callLater(self, delay: float, callable: Callable[[], None]) -> Any:  # noqa: A002, N802  Twisted's names
        """Keep it, if it is not for later."""
        if not delay:
            self.waiting.append(callable)

    def settle(self) -> None:
        """Come round until nothing waits."""
        while self.waiting:
            self.waiting.pop(0)()


class Side:
    """A server over the same market as the other one, with the short way or without it."""

    def __init__(self, context: Context, *, short: bool) -> None:
        self.turns = Turns()
        self.factory = QuoteFactory(context, self.turns, log_traffic=False)
        if not short:
            self.factory.shortcut = None
        assert (self.factory.shortcut is not None) is short
        self.protocol = self.factory.buildProtocol(None)
        self.transport = StringTransport()
        self.protocol.makeConnection(self.transport)

    def answer(self, chunks: Sequence[bytes]) -> bytes:
        """Give what comes back for chunks."""
        self.transport.clear()
        for chunk in chunks:
            self.protocol.dataReceived(chunk)
            self.turns.settle()
        found: bytes = self.transport.value()
        return found


def market_of(*, per_turn: int = 64) -> tuple[Market, Context]:
    """Give a market with tickers of all kinds, and one that was removed."""
    market = Market()
    market.add("BRK-B", "^GSPC", "EURUSD=X", "A.B", "GONE")
    for n, ticker in enumerate(("BRK-B", "^GSPC", "EURUSD=X", "A.B", "GONE")):
        market.quote(ticker, 10.0 + n)
    market.remove("GONE")
    bounds = Bounds(max_requests_per_turn=per_turn)
    return market, Context(market.writer, market.cache, bounds)


def sides(context: Context) -> tuple[Side, Side]:
    """Give both servers."""
    return Side(context, short=True), Side(context, short=False)


def chunked(stream: bytes, cuts: Sequence[int]) -> list[bytes]:
    """Cut a stream at places."""
    places = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    return [stream[a:b] for a, b in itertools.pairwise(places)]


_ids = st.one_of(
    st.integers(-(2**70), 2**70).map(str),
    st.sampled_from(["0", "-0", "00", "-1", "01", "1.0", "1e3", "+1", "null", "true", "[]", ""]),
    st.integers(0, 130).map(lambda n: '"' + "x" * n + '"'),
    st.text(st.characters(min_codepoint=32, max_codepoint=127), max_size=6).map(
        lambda text: f'"{text}"'
    ),
    st.text(max_size=6).map(json.dumps),
    st.text(max_size=6).map(lambda text: json.dumps(text, ensure_ascii=False)),
    st.sampled_from(['"\\/"', '"\\u0041"', '"\\"', '"a\x7fb"', '"é"', '"\\n"', '"<&>"', '"/"']),
)
_symbols = st.one_of(
    st.sampled_from(TICKERS).map(json.dumps),
    st.text(max_size=5).map(json.dumps),
    st.integers(0, 40).map(lambda n: '"' + "A" * n + '"'),
    st.sampled_from(["null", "1", '"aapl"', '"\\u0041APL"', '"AAPL "', '"AAPL', "AAPL"]),
)


@st.composite
def _canonical(draw: st.DrawFn) -> bytes:
    line = draw(st.sampled_from(FORMS)) % (draw(_ids), draw(_symbols))
    return line.encode("utf-8", "surrogatepass")


@st.composite
def _mutated(draw: st.DrawFn) -> bytes:
    line = bytearray(draw(_canonical()))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, len(line) - 1)))
        kind = draw(st.integers(0, 2))
        put = draw(
            st.sampled_from([b" ", b"\t", b"\r", b'"', b"\\", b",", b"}", b"{", b"0", b"\0"])
        )
        if kind == 0:
            del line[at : at + draw(st.integers(1, 4))]
        elif kind == 1:
            line[at:at] = put
        else:
            line[at : at + 1] = put
    return bytes(line)


_ends = st.sampled_from(
    [b"\n", b"\n", b"\n", b"\r\n", b"\n\n", b" \n", b"\r\r\n", b"\n \n", b"\n\r"]
)
_others = st.sampled_from(
    [
        b'{"v":1,"id":7,"type":"ping"}',
        b'{"v":1,"id":8,"type":"get_quote"}',
        b'{"v":2,"id":9,"type":"get_quote","ticker":"AAPL"}',
        b'{"v":1,"id":9,"type":"get_quote","ticker":"AAPL","x":1}',
        b'{"id":9,"v":1,"type":"get_quote","ticker":"AAPL"}',
        b'{"v":1, "id":9,"type":"get_quote","ticker":"AAPL"}',
        b"",
        *(line for line in HOSTILE.values() if len(line) < 1000),
    ]
)
_lines = st.tuples(st.one_of(_canonical(), _canonical(), _mutated(), _others), _ends).map(b"".join)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(_lines, max_size=12).map(b"".join),
    st.lists(st.integers(0, 1 << 20), max_size=8),
    st.sampled_from([1, 2, 3, 64]),
)
@example(b'{"v":1,"id":1,"type":"get_quote","ticker":"AAPL"}\n' * 200, [70, 133], 3)
def test_any_stream_is_answered_as_the_strict_way_answers_it(
    stream: bytes, cuts: list[int], per_turn: int
) -> None:
    """However it is cut, and with any number of lines a turn."""
    _, context = market_of(per_turn=per_turn)
    short, strict = sides(context)
    chunks = chunked(stream, cuts)
    found = short.answer(chunks)

    assert found == strict.answer(chunks)
    if b"\n" not in stream.rstrip(b"\n"):
        lines = [line.removesuffix(b"\r") for line in stream.split(b"\n")]
        expected = (operations.answer(context, line).reply for line in lines if line.strip())
        assert found == b"".join(expected)


def test_every_chunk_size_is_answered_the_same() -> None:
    """Canonical lines with others between them, a byte at a time and all at once."""
    _, context = market_of()
    lines = [
        (form % (request_id, f'"{ticker}"')).encode() + end
        for form in FORMS
        for request_id, ticker, end in zip(
            ("1", '"a"', "-7", '"é"', "0"), TICKERS, (b"\n", b"\r\n") * 4, strict=False
        )
    ]
    stream = b"\n".join(lines)
    expected = Side(context, short=False).answer([stream])
    for size in range(1, len(stream) + 1):
        chunks = [stream[at : at + size] for at in range(0, len(stream), size)]
        assert Side(context, short=True).answer(chunks) == expected


_steps = st.one_of(
    st.tuples(st.just("quote"), st.sampled_from(TICKERS[:4])),
    st.tuples(st.just("remove"), st.sampled_from(TICKERS[:4])),
    st.tuples(st.just("confirm"), st.sampled_from(TICKERS[:4])),
    st.tuples(st.just("enlist"), st.sampled_from(TICKERS[:5])),
    st.tuples(st.just("wait"), st.integers(0, FRESHNESS_MS + 2)),
    st.tuples(st.just("grow"), st.just(0)),
    st.tuples(st.just("fail"), st.sampled_from(TICKERS[:5])),
    st.tuples(st.just("ask"), st.just(0)),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(_steps, max_size=25))
@example([("ask", 0), ("wait", FRESHNESS_MS - 50), ("ask", 0), ("wait", 1), ("ask", 0)])
# The one that is asked for last goes stale last: the others are not kept for as long.
@example([("wait", 500), ("quote", "A.B"), ("wait", FRESHNESS_MS - 499)])
def test_both_ways_say_the_same_at_every_moment(steps: list[tuple[str, Any]]) -> None:
    """Across commits, removals, tickers that come back, and quotes that go stale."""
    market, context = market_of()
    short, strict = sides(context)
    stream = b"".join((FORMS[0] % (n, f'"{t}"')).encode() + b"\n" for n, t in enumerate(TICKERS))
    for n, (what, of) in enumerate([*steps, ("ask", 0)]):
        act(market, what, of, price=float(n))
        assert short.answer([stream]) == strict.answer([stream])


def act(market: Market, what: str, of: Any, *, price: float) -> None:
    """Do something to a market."""
    there = what in ("quote", "remove", "confirm") and of in market.writer.row_of
    if what == "quote":
        market.add(of)
        market.quote(of, price)
    elif what == "remove" and there:
        market.remove(of)
    elif what == "confirm" and there and market.cache.snapshot([of]).quotes:
        market.writer.write_data(Batch(market.clock.now_ms, confirmed=market.rows(of)))
    elif what == "enlist":
        market.writer.enlist([Ticker(of)])
    elif what == "wait":
        market.clock.now_ms += of
    elif what == "grow":
        count = len(market.writer.row_of)
        market.add(*(f"T{count + n}" for n in range(9)))
    elif what == "fail":
        market.cache.failures[of] = f"since {price}"


def test_a_quote_goes_stale_at_the_same_millisecond() -> None:
    """Before it, at it, and behind it."""
    market, context = market_of()
    market.quote("AAPL", 1.0)
    short, strict = sides(context)
    line = [(FORMS[0] % (1, '"AAPL"')).encode() + b"\n"]
    start, found = market.clock.now_ms, []
    for ms in (0, FRESHNESS_MS - 1, FRESHNESS_MS, FRESHNESS_MS + 1, 10 * FRESHNESS_MS):
        market.clock.now_ms = start + ms
        reply = short.answer(line)
        assert reply == strict.answer(line)
        found.append(json.loads(reply)["data"]["stale"])
    assert found == [False, False, False, True, True]


# -- that it is taken ------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("request_id", ["0", "1", "-1", "123456789012345678", '""', '"a b"', '"~"'])
def test_what_clients_write_takes_the_short_way(form: str, request_id: str) -> None:
    """Compact, and as Python's `json` has it."""
    market, _ = market_of()
    line = (form % (request_id, '"AAPL"')).encode() + b"\n"
    parts, count, at = Shortcut(market.cache).answer(line * 3, 0, 2)
    assert (count, at) == (2, 2 * len(line))
    assert (
        b"".join(parts) == operations.answer(Context(market.writer, market.cache), line).reply * 2
    )


def test_no_canonical_line_is_longer_than_is_said() -> None:
    """So a short way that is open for lines of that length is never too long for the server."""
    line = (FORMS[1] % ('"' + "x" * 128 + '"', '"' + "A" * 32 + '"')).encode() + b"\r\n"
    assert CANONICAL[1].fullmatch(line)
    assert len(line) <= LONGEST_NBYTES


@pytest.mark.parametrize(
    "lines",
    [
        [b'{"v":1,"id":1,"type":"ping"}\n'],
        [b'{"v":1,"id":1,"type":"get_quote","ticker":"XXXX"}\n'],
        [b'{"v":1,"id":1,"type":"get_quote","ticker":"AAPL"}\n', b'{"v":1,"id":1,"type":"ping"}\n'],
    ],
)
def test_lines_that_are_not_alike_are_looked_at_together_once(
    lines: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not once for each line: a chunk of pings would cost its square."""
    market, _ = market_of()
    looks = list[int]()

    class Form:
        def split(self, chunk: bytes, limit: int) -> list[bytes]:
            looks.append(len(chunk))
            return CANONICAL[0].split(chunk, limit)

        def match(self, chunk: bytes, at: int) -> re.Match[bytes] | None:
            return CANONICAL[0].match(chunk, at)

    monkeypatch.setattr(shortcut, "CANONICAL", (Form(), Form()))
    chunk, at, count, one = b"".join(lines * 1000), 0, 0, Shortcut(market.cache)
    while at < len(chunk):
        _, answered, at = one.answer(chunk, at, 64)
        count += answered
        at = chunk.index(b"\n", at) + 1
    assert looks == [len(chunk)]
    assert count == 1000 * (len(lines) - 1)


def test_what_is_kept_is_bounded_by_the_tickers() -> None:
    """A name that nobody knows is not kept, and a commit throws all of it away."""
    market, _ = market_of()
    shortcut = Shortcut(market.cache)
    for n in range(1000):
        shortcut.answer((FORMS[0] % (n, f'"X{n}"')).encode() + b"\n", 0, 1)
        shortcut.answer((FORMS[0] % (n, '"AAPL"')).encode() + b"\n", 0, 1)
    assert len(shortcut._tails) == 1
    market.quote("MSFT", 1.0)
    shortcut.answer(b"", 0, 1)
    assert not shortcut._tails
