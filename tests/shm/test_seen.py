"""What batches said last: it is spared a look, and never believed of anything else."""

from __future__ import annotations

import pytest

from quoteshm.errors import BatchError, UnknownIntervalError
from tests.shm.helpers import Market, at, make_bars, make_quotes, tick

ALL = slice(0, 3)


def test_what_becomes_of_a_batch_s_arrays_after_the_commit_changes_nothing(market: Market) -> None:
    """The next commit brings the rows up to date that were published, whatever stands there now."""
    for opens in (0, 1):
        rows = at(2, 0)
        ticks, quotes = tick(rows, 5 + opens, 2.0), make_quotes(rows, 2.0)
        market.publish(ticks=[ticks], quotes=[quotes])
        rows[:] = 1
        for array in (ticks.time, ticks.ohlcv, quotes.ts_ms, quotes.values):
            array[:] = 0
        market.publish(ticks=[tick(at(1), 5 + opens, 3.0)], quotes=[make_quotes(at(1), 3.0)])
        assert market.writer.series("1d")["open"].tolist() == [2.0, 3.0, 2.0]
        assert market.writer.quotes()["price"].tolist() == [2.0, 3.0, 2.0]


def test_ticks_that_are_known_to_go_on_are_not_late(market: Market) -> None:
    """It is known of those that the last batch said; others are looked at, and nothing is sure."""
    ticks = tick(ALL, 5, 1.0)
    assert not market.writer.goes_on(ticks)
    market.publish(ticks=[ticks])
    assert market.writer.goes_on(tick(ALL, 5, 2.0))
    for other in (tick(ALL, 6, 1.0), tick(slice(0, 2), 5, 1.0), tick(ALL, 5, 1.0, "1m")):
        assert not market.writer.goes_on(other)
    market.publish(ticks=[tick(at(0), 5, 2.0)])
    assert market.writer.goes_on(ticks)
    for rows in (slice(1, 2), at(1)):
        assert market.writer.goes_on(tick(rows, 5, 2.0))
        assert not market.writer.goes_on(tick(rows, 6, 2.0))
        assert not market.writer.goes_on(tick(rows, 5, 2.0, "1m"))
    market.publish(ticks=[tick(at(2, 0), 5, 2.0)])
    assert market.writer.goes_on(tick(at(2, 0), 5, 1.0))
    market.replace_bars(0, make_bars(0, 3))
    assert not market.writer.goes_on(tick(at(2, 0), 5, 1.0))
    with pytest.raises(UnknownIntervalError):
        market.writer.goes_on(tick(ALL, 5, 1.0, "5m"))


def test_rows_named_again_are_still_checked(market: Market) -> None:
    """What was right for one batch is looked at anew where it has changed."""
    rows = at(2, 0)
    market.publish(ticks=[tick(rows, 5, 1.0)])
    for bad in ((2, 2), (3, 0), (2, -1)):
        rows[:] = bad
        with pytest.raises(BatchError):
            market.publish(ticks=[tick(rows, 5, 1.0)])
