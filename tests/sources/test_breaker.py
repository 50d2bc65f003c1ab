"""When a vendor is left alone, and when it is asked again."""

from __future__ import annotations

import random

import pytest

from quoteshm.sources.base import Request
from quoteshm.sources.breaker import Breaker, State


@pytest.fixture
def breaker() -> Breaker:
    """Give a closed one."""
    return Breaker(random.Random(1))  # noqa: S311 (for jitter)


def open_it(breaker: Breaker, now_s: float = 0.0) -> None:
    """Have three tickers fail."""
    assert [breaker.refused(ticker, now_s, 900) for ticker in "ABC"] == [False, False, True]


def test_one_ticker_never_opens_it(breaker: Breaker) -> None:
    """However often it fails, nor do two."""
    assert not any(breaker.refused(ticker, 0.0, 900) for ticker in "ABABABAAA")
    assert breaker.state(0.0) is State.CLOSED


def test_an_answer_between_begins_the_count_anew(breaker: Breaker) -> None:
    """They have to be in a row."""
    for ticker in "ABCDEF":
        assert not breaker.refused(ticker, 0.0, 900)
        assert not breaker.answered("Z")


def test_a_pause_ends_with_a_probe_whose_answer_closes_it(breaker: Breaker) -> None:
    """From half a minute on, with some jitter."""
    open_it(breaker)
    assert breaker.state(29.9) is State.OPEN
    assert breaker.state(37.6) is State.PROBING
    assert breaker.answered("D")
    assert breaker.state(37.6) is State.CLOSED
    for ticker in "ABC":
        assert not breaker.answered(ticker)
    open_it(breaker, 40.0)
    assert 70 <= breaker.until_s <= 77.5


def test_each_probe_that_fails_doubles_the_pause_up_to_the_longest(breaker: Breaker) -> None:
    """The fourth ticker alone decides, whichever it is."""
    open_it(breaker)
    pauses = []
    for _ in range(40):
        now_s = breaker.until_s
        assert breaker.refused("D", now_s, 900)
        pauses.append(breaker.until_s - now_s)
    assert all(
        p <= q <= p * 1.25 for p, q in zip([60, 120, 240, 480, 900, 900], pauses, strict=False)
    )
    assert max(pauses) <= 900 * 1.25


def test_the_probe_is_another_ticker_where_there_is_one(breaker: Breaker) -> None:
    """Those that failed come last; otherwise the order stays."""
    wanted = [Request(ticker, (), lambda *_: None) for ticker in "ABCDE"]
    assert breaker.order(wanted) == wanted
    open_it(breaker)
    assert [one.ticker for one in breaker.order(wanted)] == list("DEABC")
    assert [one.ticker for one in breaker.order(wanted[:3])] == list("ABC")
    assert breaker.refused("A", breaker.until_s, 900)
    assert [one.ticker for one in breaker.order(wanted)] == list("DEBCA")


def test_tickers_that_go_on_failing_come_last_and_stop_nobody(breaker: Breaker) -> None:
    """Five that time out one after the other, behind those that are well, are five tickers."""
    wanted = [Request(ticker, (), lambda *_: None) for ticker in "ABCDEFG"]
    for ticker in "ABCDE":  # one after the other, each in a round of its own
        assert not breaker.refused(ticker, 0.0, 900)
        assert not breaker.answered("G")
    for _ in range(3):
        assert [one.ticker for one in breaker.order(wanted)] == list("FGABCDE")
        assert not any(breaker.refused(ticker, 0.0, 900) for ticker in "ABCDE")
    assert breaker.state(0.0) is State.CLOSED
    # Others that fail, too, are news; and so is one of the five that had worked again.
    assert not breaker.answered("E")
    assert [breaker.refused(ticker, 0.0, 900) for ticker in "FAGE"] == [False, False, False, True]


def test_a_ticker_that_nobody_wants_is_forgotten(breaker: Breaker) -> None:
    """It neither counts, nor is it last when it comes back."""
    wanted = [Request(ticker, (), lambda *_: None) for ticker in "AB"]
    assert not any(breaker.refused(ticker, 0.0, 900) for ticker in "AB")
    breaker.forget("AX")
    assert [one.ticker for one in breaker.order(wanted)] == list("AB")
    assert not breaker.refused("C", 0.0, 900)
    assert breaker.refused("D", 0.0, 900)


def test_an_answer_without_bars_is_one_and_puts_its_ticker_last(breaker: Breaker) -> None:
    """Such a symbol costs several requests."""
    wanted = [Request(ticker, (), lambda *_: None) for ticker in "ABC"]
    open_it(breaker)
    assert breaker.answered("A", good=False)
    assert breaker.state(0.0) is State.CLOSED
    assert [one.ticker for one in breaker.order(wanted[:2])] == list("BA")
