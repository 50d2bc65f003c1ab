"""The quote cache."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quoteshm.errors import REMOVED, UnknownTickerError
from quoteshm.market import quotes as quotes_module
from quoteshm.market.quotes import QuoteCache
from quoteshm.model import Quote, SnapshotState
from tests.published import FRESHNESS_MS, NOW_MS, Market


@pytest.fixture
def market() -> Market:
    """Give a small market."""
    return Market()


def test_a_quote_is_what_was_published(market: Market) -> None:
    """All fields, the ticker's and the segment's too."""
    assert market.cache.get("MSFT") == Quote(
        ticker="MSFT",
        price=370.25,
        open=369.25,
        high=372.25,
        low=368.25,
        prev_close=100.0,
        volume=1e6,
        currency="USD",
        ts_epoch_ms=NOW_MS - 50,
        updated_ms=NOW_MS,
        stale=False,
        source="synthetic",
    )


def test_tickers_are_sorted_and_have_a_value(market: Market) -> None:
    """One that is only enlisted is not listed, nor one that was removed."""
    assert market.cache.tickers() == ["AAPL", "MSFT"]
    market.quote("NEWCO", 1.0)
    assert market.cache.tickers() == ["AAPL", "MSFT", "NEWCO"]
    market.remove("AAPL")
    assert market.cache.tickers() == ["MSFT", "NEWCO"]


def test_the_list_of_tickers_is_the_callers(market: Market) -> None:
    """What the caller does to it changes nothing."""
    market.cache.tickers().clear()
    assert market.cache.tickers() == ["AAPL", "MSFT"]


@pytest.mark.parametrize("age", [0, FRESHNESS_MS])
def test_a_quote_within_the_window_is_fresh(market: Market, age: int) -> None:
    """The window's end belongs to it."""
    market.clock.now_ms += age
    assert not market.cache.get("MSFT").stale


@pytest.mark.parametrize("age", [-1, FRESHNESS_MS + 1])
def test_a_quote_outside_the_window_is_stale(market: Market, age: int) -> None:
    """So is one of before the machine started anew, which looks as if of the future."""
    market.clock.now_ms += age
    assert market.cache.get("MSFT").stale
    assert msgspec.json.decode(market.cache.body("MSFT"))["stale"] is True


def test_a_ticker_nobody_knows_is_unknown(market: Market) -> None:
    """Without a reason, as there is none."""
    with pytest.raises(UnknownTickerError) as caught:
        market.cache.get("NOPE")
    assert str(caught.value) == "unknown ticker: NOPE"


def test_a_ticker_without_a_value_says_why(market: Market) -> None:
    """In the refresh service's words, where it has any."""
    with pytest.raises(UnknownTickerError, match="no value yet for NEWCO: not fetched yet"):
        market.cache.body("NEWCO")
    market.cache.failures["NEWCO"] = "rate limited"
    with pytest.raises(UnknownTickerError, match="no value yet for NEWCO: rate limited"):
        market.cache.get("NEWCO")


def test_a_wanted_ticker_that_was_never_enlisted_says_why(market: Market) -> None:
    """The first fetch of it failed."""
    market.cache.failures["TYPO"] = "not found"
    with pytest.raises(UnknownTickerError, match="no value yet for TYPO: not found"):
        market.cache.row_of("TYPO")


def test_a_removed_ticker_is_unknown(market: Market) -> None:
    """And says so, unless it is wanted again."""
    market.remove("MSFT")
    with pytest.raises(UnknownTickerError, match=r"^ticker removed: MSFT$") as caught:
        market.cache.get("MSFT")
    assert caught.value.reason == REMOVED
    market.cache.wanted = {"MSFT", "NEVER"}
    for ticker in ("MSFT", "NEVER"):
        with pytest.raises(UnknownTickerError, match=f"no value yet for {ticker}: not fetched yet"):
            market.cache.get(ticker)


def test_a_ticker_that_comes_back_has_no_value_until_it_has(market: Market) -> None:
    """Nothing of its former life."""
    market.remove("MSFT")
    market.add("MSFT")
    market.quote("AAPL", 1.0)
    with pytest.raises(UnknownTickerError):
        market.cache.get("MSFT")
    market.quote("MSFT", 5.0)
    assert market.cache.get("MSFT").price == 5.0


def test_a_body_is_encoded_once_for_each_change(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And once more when it turns stale; other tickers' commits do not count."""
    encoded: list[str] = []

    def encode(quote: Quote) -> bytes:
        encoded.append(quote.ticker)
        return msgspec.json.encode(quote)

    monkeypatch.setattr(quotes_module, "_encode", encode)
    for _ in range(3):
        market.cache.body("MSFT")
        market.quote("AAPL", 2.0)
    assert encoded == ["MSFT"]
    market.quote("MSFT", 3.0)
    market.cache.body("MSFT")
    market.cache.body("MSFT")
    assert encoded == ["MSFT"] * 2
    market.clock.now_ms += FRESHNESS_MS + 1
    market.cache.body("MSFT")
    market.cache.bodies(["MSFT"])
    assert encoded == ["MSFT"] * 3


@given(st.lists(st.tuples(st.sampled_from(["AAPL", "MSFT"]), st.floats(), st.booleans())))
def test_a_body_is_the_encoding_of_the_quote(steps: list[tuple[str, float, bool]]) -> None:
    """After any commits and at any age: NaN and the infinities are null."""
    market = Market()
    for ticker, price, ages in steps:
        market.quote(ticker, price, prev_close=price)
        market.clock.now_ms += (FRESHNESS_MS + 1) * ages
        for each in ("AAPL", "MSFT"):
            assert market.cache.body(each) == msgspec.json.encode(market.cache.get(each))


def test_a_snapshot_has_every_ticker_with_a_value(market: Market) -> None:
    """Sorted, at the writer's epoch."""
    snapshot = market.cache.snapshot()
    assert snapshot.epoch == market.writer.epoch
    assert list(snapshot.quotes) == ["AAPL", "MSFT"]
    assert snapshot.quotes["MSFT"] == market.cache.get("MSFT")
    assert math.isnan(snapshot.quotes["AAPL"].prev_close)
    assert snapshot.missing == []


def test_a_snapshot_of_some_names_the_missing_once(market: Market) -> None:
    """In the order they were asked for."""
    snapshot = market.cache.snapshot(["X", "MSFT", "NEWCO", "MSFT", "X"])
    assert list(snapshot.quotes) == ["MSFT"]
    assert snapshot.missing == ["X", "NEWCO"]


@pytest.mark.parametrize("tickers", [None, [], ["AAPL"], ["MSFT", "X", "AAPL"]])
def test_bodies_are_those_of_the_snapshot(market: Market, tickers: list[str] | None) -> None:
    """The same quotes, the same missing ones."""
    bodies, missing = market.cache.bodies(tickers)
    snapshot = market.cache.snapshot(tickers)
    assert bodies == {t: msgspec.json.encode(q) for t, q in snapshot.quotes.items()}
    assert missing == snapshot.missing


def test_the_state_is_the_writers(market: Market) -> None:
    """Epoch and last update."""
    assert market.cache.state == SnapshotState(market.writer.epoch, NOW_MS)
    market.clock.now_ms += 7
    market.quote("MSFT", 1.0)
    assert market.cache.state == SnapshotState(market.writer.epoch, NOW_MS + 7)


def test_the_cache_follows_a_segment_that_grows(market: Market) -> None:
    """More tickers than there was room for: the writer moves to another segment."""
    names = [f"T{n:02}" for n in range(20)]
    market.add(*names)
    for name in names:
        market.quote(name, 1.0)
    assert market.cache.tickers() == ["AAPL", "MSFT", *names]
    assert market.cache.get("AAPL").price == 189.5
    assert market.cache.get("T19").price == 1.0


def test_an_empty_market_has_no_tickers() -> None:
    """Before the first commit."""
    writer = Market().writer
    empty = QuoteCache(type(writer).anonymous(writer.spec, Market().clock), Market().clock)
    assert empty.tickers() == []
    assert empty.snapshot().quotes == {}
    assert empty.bodies() == ({}, [])
