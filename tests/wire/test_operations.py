"""Requests to replies."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from quoteshm.errors import ErrorCode
from quoteshm.model import DAY_MS
from quoteshm.service.roster import BAD_SYMBOL
from quoteshm.shm.layout import LAYOUT_VERSION
from quoteshm.wire import operations
from quoteshm.wire.bounds import Bounds
from quoteshm.wire.operations import Context
from tests.published import FIRST_MS, FRESHNESS_MS, KINDS, NEW_YORK, NOW_MS, Market
from tests.rostering import have_roster
from tests.wire.hostile import HOSTILE

if TYPE_CHECKING:
    from quoteshm.wire.operations import Answer


@pytest.fixture
def market() -> Market:
    """Give a small market."""
    return Market()


def ask(market: Market, op: str, **fields: object) -> Answer:
    """Ask for one op."""
    line = json.dumps({"v": 1, "id": "a1", "type": op, **fields}).encode()
    return operations.answer(market.context, line)


def data(market: Market, op: str, **fields: object) -> Any:
    """Give the data of a response."""
    answer = ask(market, op, **fields)
    assert answer.error is None
    reply = json.loads(answer.reply)
    assert list(reply) == ["v", "id", "type", "op", "data"]
    assert (reply["v"], reply["id"], reply["type"], reply["op"]) == (1, "a1", "response", op)
    return reply["data"]


def error(market: Market, op: str, **fields: object) -> tuple[str, str]:
    """Give code and message of an error."""
    answer = ask(market, op, **fields)
    reply = json.loads(answer.reply)
    assert list(reply) == ["v", "id", "type", "error"]
    assert (reply["v"], reply["id"], reply["type"]) == (1, "a1", "error")
    assert answer.error is not None
    assert reply["error"] == {"code": answer.error.code, "message": answer.error.message}
    return reply["error"]["code"], reply["error"]["message"]


def test_get_shm_name_says_where_the_segment_is(tmp_path: Path) -> None:
    """And which one it is."""
    market = Market(tmp_path)
    try:
        assert data(market, "get_shm_name") == {
            "shm_name": "shm0",
            "shm_dir": str(tmp_path),
            "layout_version": LAYOUT_VERSION,
            "instance": market.writer.instance,
            "size": (tmp_path / "shm0").stat().st_size,
        }
    finally:
        market.writer.close()


def test_get_shm_name_without_shared_memory_is_not_found(market: Market) -> None:
    """The same writer on anonymous memory has no name."""
    assert error(market, "get_shm_name") == ("NOT_FOUND", "this server has no shared memory")


def test_list_tickers_names_those_with_a_value(market: Market) -> None:
    """Sorted."""
    assert data(market, "list_tickers") == ["AAPL", "MSFT"]


def test_get_quote_gives_every_field_in_order(market: Market) -> None:
    """A missing price is null."""
    quote = data(market, "get_quote", ticker="AAPL")
    assert quote == {
        "ticker": "AAPL",
        "price": 189.5,
        "open": 188.5,
        "high": 191.5,
        "low": 187.5,
        "prev_close": None,
        "volume": 1e6,
        "currency": "USD",
        "ts_epoch_ms": NOW_MS - 50,
        "updated_ms": NOW_MS,
        "stale": False,
        "source": "synthetic",
    }


def test_get_quote_says_when_it_is_stale(market: Market) -> None:
    """Also where it was asked for before, and nothing was published since."""
    assert data(market, "get_quote", ticker="AAPL")["stale"] is False
    market.clock.now_ms += FRESHNESS_MS + 1
    assert data(market, "get_quote", ticker="AAPL")["stale"] is True


@pytest.mark.parametrize("op", ["get_quote", "get_history"])
@pytest.mark.parametrize(
    ("ticker", "message"),
    [
        ("XXXX", "unknown ticker: XXXX"),
        ("aapl", "unknown ticker: aapl; did you mean AAPL?"),
        ("", "unknown ticker: "),
        ("{log_source}", "unknown ticker: {log_source}"),
        ("NEWCO", "no value yet for NEWCO: not fetched yet"),
    ],
)
def test_a_ticker_without_a_value_is_not_found(
    market: Market, op: str, ticker: str, message: str
) -> None:
    """Case counts, and one that is known says why it has none."""
    assert error(market, op, ticker=ticker) == ("NOT_FOUND", message)


def test_tickers_come_and_go(market: Market) -> None:
    """What was done is told; each is checked on its own."""
    have_roster(market, "AAPL", "MSFT")
    assert data(market, "add_tickers", tickers=["IBM", "AAPL", "A B"]) == {
        "added": ["IBM"],
        "known": ["AAPL"],
        "refused": {"A B": BAD_SYMBOL},
    }
    why = "no value yet for IBM: not fetched yet"
    assert error(market, "get_quote", ticker="IBM") == ("NOT_FOUND", why)
    removed = data(market, "remove_tickers", tickers=["MSFT", "NOPE"])
    assert removed == {"removed": ["MSFT"], "unknown": ["NOPE"]}
    for op in ("get_quote", "get_history"):
        assert error(market, op, ticker="MSFT") == ("NOT_FOUND", "ticker removed: MSFT")
    assert data(market, "list_tickers") == ["AAPL"]
    assert data(market, "get_quotes", tickers=["MSFT"])["missing"] == ["MSFT"]


@pytest.mark.parametrize("op", ["add_tickers", "remove_tickers"])
def test_a_server_whose_tickers_stay_says_so(market: Market, op: str) -> None:
    """And an empty list is no request."""
    why = "the tickers of this server cannot be changed"
    assert error(market, op, tickers=["IBM"]) == ("NOT_FOUND", why)
    code, message = error(market, op, tickers=[])
    assert (code, message) == ("BAD_REQUEST", "Expected array of length >= 1 - at $.tickers")


def test_get_snapshot_epoch_says_where_the_market_stands(market: Market) -> None:
    """Even, as the latch is stable."""
    state = data(market, "get_snapshot_epoch")
    assert state == {"epoch": market.writer.epoch, "last_update_ms": NOW_MS}
    market.quote("AAPL", 1.0)
    assert data(market, "get_snapshot_epoch")["epoch"] == state["epoch"] + 2


def test_get_quotes_gives_all_at_one_epoch(market: Market) -> None:
    """Each as `get_quote` gives it."""
    quotes = data(market, "get_quotes")
    assert quotes == {
        "epoch": market.writer.epoch,
        "quotes": {t: data(market, "get_quote", ticker=t) for t in ("AAPL", "MSFT")},
        "missing": [],
    }


def test_get_quotes_names_what_is_missing(market: Market) -> None:
    """Each ticker once, whether it is unknown or without a value."""
    tickers = ["X", "MSFT", "NEWCO", "X", "MSFT", 'q"\n']
    quotes = data(market, "get_quotes", tickers=tickers)
    assert list(quotes["quotes"]) == ["MSFT"]
    assert quotes["missing"] == ["X", "NEWCO", 'q"\n']
    assert data(market, "get_quotes", tickers=[])["quotes"] == {}


def test_get_quotes_is_the_plain_encoding(market: Market) -> None:
    """Put together from bytes, it is what encoding the whole gives."""
    snapshot = market.cache.snapshot(["MSFT", "é"])
    reply = {"v": 1, "id": "a1", "type": "response", "op": "get_quotes"}
    plain = msgspec.json.encode({**reply, "data": snapshot._asdict()})
    assert ask(market, "get_quotes", tickers=["MSFT", "é"]).reply == plain + b"\n"


def test_get_history_gives_columns_with_the_forming_bar_last(market: Market) -> None:
    """The first kind, where no interval is named."""
    market.history("AAPL", [1.5, float("nan"), 2.5])
    history = data(market, "get_history", ticker="AAPL")
    columns = {name: [1.5, None, 2.5] for name in ("open", "high", "low", "close")}
    assert history == {
        "ticker": "AAPL",
        "interval": "1d",
        "time_zone": NEW_YORK,
        "forming": True,
        "time": [FIRST_MS, FIRST_MS + DAY_MS, FIRST_MS + 2 * DAY_MS],
        **columns,
        "volume": [1e5] * 3,
    }
    assert data(market, "get_history", ticker="AAPL", interval="1d") == history


@pytest.mark.parametrize(
    ("last", "since", "closes"),
    [
        (None, None, [188.0, 190.5, 189.5]),
        (1, None, [189.5]),
        (2, None, [190.5, 189.5]),
        (99, None, [188.0, 190.5, 189.5]),
        (1 << 70, None, [188.0, 190.5, 189.5]),
        (None, FIRST_MS, [188.0, 190.5, 189.5]),
        (None, FIRST_MS + 1, [190.5, 189.5]),
        (None, FIRST_MS + DAY_MS, [190.5, 189.5]),
        (1, FIRST_MS + DAY_MS, [189.5]),
        (None, FIRST_MS + 9 * DAY_MS, []),
        (None, -(1 << 63), [188.0, 190.5, 189.5]),
        (None, (1 << 63) - 1, []),
    ],
)
def test_since_is_inclusive_and_comes_before_last(
    market: Market, last: int | None, since: int | None, closes: list[float]
) -> None:
    """Whatever the numbers."""
    history = data(market, "get_history", ticker="AAPL", last=last, since=since)
    assert history["close"] == closes
    assert len(history["time"]) == len(closes)
    assert history["forming"] is bool(closes)


def test_a_history_without_bars_is_empty(market: Market) -> None:
    """Not an error: the ticker has a value."""
    history = data(market, "get_history", ticker="MSFT", interval="1m", last=5)
    assert (history["time"], history["volume"], history["forming"]) == ([], [], False)


def test_an_unknown_interval_names_the_known_ones(market: Market) -> None:
    """Those of this server."""
    message = "unknown interval: 7m, known are 1d, 1m"
    assert error(market, "get_history", ticker="AAPL", interval="7m") == ("NOT_FOUND", message)


def test_get_info_tells_versions_limits_and_counts(market: Market) -> None:
    """And what the daemon adds."""
    failures = market.cache.failures
    failures["NEWCO"] = "rate limited"
    context = Context(
        market.writer,
        market.cache,
        Bounds(max_line_bytes=1024),
        lambda: {"tickers": {"AAPL": "fine"}},
    )
    market.clock.now_ms += 2_500
    line = b'{"v":1,"id":7,"type":"get_info"}'
    info = json.loads(operations.answer(context, line).reply)["data"]
    assert info["protocol_version"] == 1
    assert info["layout_version"] == LAYOUT_VERSION
    assert info["pid"] == os.getpid()
    assert info["now_ms"] == NOW_MS + 2_500
    assert info["uptime_s"] == 2.5
    assert info["instance"] == market.writer.instance
    assert info["shm_name"] is None
    assert (info["source"], info["adjustment"]) == ("synthetic", "none")
    assert (info["epoch"], info["last_update_ms"]) == (market.writer.epoch, NOW_MS)
    assert info["freshness_ms"] == FRESHNESS_MS
    assert info["limits"] == {
        **dataclasses.asdict(Bounds(max_line_bytes=1024)),
        "max_id_bytes": 128,
        "max_subscriptions": 64,
        "max_named_tickers": 10_000,
    }
    assert info["counts"] == {"tickers": 2, "capacity": 8}
    assert info["intervals"] == dict(KINDS)
    assert info["failures"] == {"NEWCO": "rate limited"}
    assert info["tickers"] == {"AAPL": "fine"}


def test_ping_is_answered(market: Market) -> None:
    """With nothing."""
    assert data(market, "ping") == {}


@pytest.mark.parametrize("line", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_line_is_answered(market: Market, line: bytes) -> None:
    """With one BAD_REQUEST, without an id: nothing of it was readable."""
    answer = operations.answer(market.context, line)
    reply = json.loads(answer.reply)
    assert reply["error"]["code"] == "BAD_REQUEST"
    assert answer.reply.count(b"\n") == 1
    assert answer.error is not None
    assert answer.error.code is ErrorCode.BAD_REQUEST


@pytest.mark.parametrize(
    ("line", "request_id"),
    [
        (b'{"id":"q","type":"nope"}', "q"),
        (b'{"v":1,"id":18446744073709551615,"type":"get_quote"}', (1 << 64) - 1),
        (b'{"v":1,"id":"\\u0000\\ud83d\\ude00","type":5}', "\0😀"),
        (b'{"v":2,"id":-5,"type":"ping"}', -5),
        (b'{"v":1,"id":"","type":"get_quote","ticker":[]}', ""),
        (b'{"v":1,"id":1.0,"type":"get_quote"}', None),
        (b'{"v":1,"id":true,"type":"get_quote"}', None),
        (b'{"v":1,"id":"a","type":"ping"', None),
    ],
)
def test_the_id_comes_back_wherever_it_was_readable(
    market: Market, line: bytes, request_id: object
) -> None:
    """As the same JSON value, however bad the rest; otherwise null."""
    reply = json.loads(operations.answer(market.context, line).reply)
    assert reply["type"] == "error"
    assert reply["id"] == request_id
    assert type(reply["id"]) is type(request_id)


def test_an_unexpected_exception_is_internal(market: Market) -> None:
    """Its text stays in the server; it comes along as the cause."""

    def describe() -> dict[str, object]:
        message = "secret"
        raise ZeroDivisionError(message)

    context = Context(market.writer, market.cache, describe=describe)
    answer = operations.answer(context, b'{"v":1,"id":7,"type":"get_info"}')
    reply = json.loads(answer.reply)
    assert reply["id"] == 7
    assert reply["error"] == {"code": "INTERNAL", "message": operations.INTERNAL_MESSAGE}
    assert answer.error is not None
    assert isinstance(answer.error.__cause__, ZeroDivisionError)


def test_an_overlong_line_names_the_limit(market: Market) -> None:
    """Without an id, as it was not kept."""
    reply = json.loads(operations.overlong(market.context).reply)
    assert reply["id"] is None
    assert reply["error"] == {"code": "BAD_REQUEST", "message": "line longer than 65536 bytes"}
