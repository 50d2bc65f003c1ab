"""A short run of the campaign in `yahoo`, and that its judge would see what it looks for."""

from __future__ import annotations

import numpy as np

from quoteshm.market.bars import validate
from quoteshm.model import MINUTE_MS
from tests.campaigns.report import short_run
from tests.campaigns.yahoo_market import (
    BEGIN_MS,
    CLOSE_MS,
    NIGHT_MS,
    RESTATED,
    SPLIT,
    Market,
    World,
)


def test_an_hour_of_trading_ends_with_every_bar_as_the_server_has_it() -> None:
    """A fast one of a few tickers: a storm, an outage, corrections, a split, and the night."""
    told = short_run("yahoo")
    assert "restatements" in told["every bar"]["figures"]


def world() -> World:
    """Make one that has ended."""
    return World(1, 10, 0, BEGIN_MS, 60.0, 600.0)


def test_bars_of_the_market_are_sound_at_each_moment() -> None:
    """And each moment differs from the one before, until the close."""
    market = Market(world())
    before = market.bars("T001", BEGIN_MS)["1m"]
    for at_ms in range(BEGIN_MS + MINUTE_MS // 4, CLOSE_MS + MINUTE_MS, MINUTE_MS // 4):
        bars = market.bars("T001", at_ms)
        for one in bars.values():
            good, problems = validate(one.time, one.ohlcv)
            assert not problems
            assert len(good) == len(one)
        same = np.array_equal(before.ohlcv, bars["1m"].ohlcv)
        assert same == (at_ms >= CLOSE_MS)
        before = bars["1m"]


def test_the_past_changes_only_where_it_is_said_to() -> None:
    """A minute that is corrected, and all before a day that begins with a split."""
    market = Market(world())
    for symbol, minute, changed in (("T001", RESTATED, 1), ("T003", SPLIT, 390), ("T002", 30, 0)):
        at_ms = BEGIN_MS + minute * MINUTE_MS
        old, new = (market.bars(symbol, ms)["1m"].ohlcv for ms in (at_ms - 1, at_ms))
        differ = (old[:, :-1] != new[:, : old.shape[1] - 1]).any(axis=0)
        assert np.count_nonzero(differ) == changed, symbol


def test_the_clock_runs_faster_at_night() -> None:
    """And tells how long it is until a moment."""
    here = World(1, 10, 0, NIGHT_MS, 60.0, 600.0)
    now_ms = here.now_ms()
    assert now_ms > NIGHT_MS
    assert 0.09 < here.real_s(now_ms + MINUTE_MS) <= 0.1
