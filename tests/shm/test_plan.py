"""What a commit stores: bars and quotes as a batch says them, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from quoteshm.errors import BatchError
from quoteshm.model import DAY_MS, Bars, SeriesKind, Ticker
from quoteshm.shm import layout
from quoteshm.shm.batch import Batch, History, Quotes, Ticks
from tests.shm.conftest import MakeMarket
from tests.shm.helpers import (
    AAPL,
    IBM,
    SONY,
    START_MS,
    FixedClock,
    Market,
    assert_bars,
    at,
    image,
    make_bars,
    make_quotes,
    tick,
)

ALL = slice(0, 3)


def bars_of(market: Market, row: int = 0, interval: str = "1d") -> Bars:
    """Read a series as the writer sees it, and see that a reader sees the same."""
    bars, forming = market.writer.history(row, interval)
    reader = market.reader()
    symbol = market.writer.tickers[row].symbol
    assert_bars(reader.get_stock(symbol, interval), bars)
    assert len(reader.view(symbol, interval).time) == len(bars) - forming
    reader.close()
    return bars


# -- ticks -----------------------------------------------------------------------------------


def test_a_first_tick_forms_a_bar_and_needs_no_block(market: Market) -> None:
    """The forming bar is in the row."""
    blocks = market.path.stat().st_blocks
    market.publish(ticks=[tick(ALL, 0, 10.0)])
    assert bars_of(market).ohlcv[:, 0].tolist() == [10.0, 10.1, 10.2, 10.3, 10.4]
    assert market.writer.series("1d")["count"].tolist() == [0, 0, 0]
    assert market.path.stat().st_blocks == blocks


def test_a_tick_at_the_same_time_replaces_the_forming_bar(market: Market) -> None:
    """Nothing closes."""
    market.publish(ticks=[tick(ALL, 0, 10.0)])
    market.publish(ticks=[tick(at(2, 0), 0, 11.0)])
    assert [bars_of(market, row).ohlcv[0].tolist() for row in range(3)] == [[11.0], [10.0], [11.0]]


def test_a_later_tick_closes_the_forming_bar(market: Market) -> None:
    """It becomes the forming one, also where only some rows open one."""
    market.publish(ticks=[tick(ALL, 0, 10.0)])
    market.publish(ticks=[tick(at(1), 1, 20.0)])
    market.publish(ticks=[tick(ALL, 1, 30.0)])
    for row in range(3):
        assert bars_of(market, row).ohlcv[0].tolist() == [10.0, 30.0]


def test_ticks_of_several_kinds_go_in_one_batch(market: Market) -> None:
    """Each kind stands alone."""
    market.publish(ticks=[tick(ALL, 3, 10.0), tick(at(0), 7, 5.0, "1m")])
    assert bars_of(market).time.tolist() == [START_MS + 3 * DAY_MS]
    assert bars_of(market, 0, "1m").time.tolist() == [START_MS + 7 * 60_000]
    assert len(bars_of(market, 1, "1m")) == 0


@pytest.mark.parametrize("capacity", [1, 2, 3, 8])
@pytest.mark.parametrize("rows", [ALL, at(2, 0, 1)], ids=["slice", "numbers"])
def test_the_newest_bars_are_kept_while_blocks_fill_many_times(
    capacity: int, rows: Any, make_market: MakeMarket
) -> None:
    """A window of every capacity is exact after each of hundreds of bars."""
    market = make_market([AAPL, IBM, SONY], kinds=(SeriesKind("1d", capacity),))
    reader = market.reader()
    for number in range(3 * layout.rows_for(capacity)):
        market.publish(ticks=[tick(rows, number, float(number))])
        wanted = [float(n) for n in range(max(0, number - capacity + 1), number + 1)]
        assert reader.get_stock("IBM")["Open"].tolist() == wanted
        assert reader.panel("open")["6758.T"].dropna().tolist() == wanted
    rewrites = market.writer.series("1d")["rewrites"]
    assert (rewrites == 0 if capacity == 1 else rewrites >= 2).all()


def test_what_a_batch_says_twice_is_taken_in_order(market: Market) -> None:
    """Two new bars of one ticker in one batch are two bars."""
    market.publish(ticks=[tick(ALL, 0, 1.0)])
    market.publish(ticks=[tick(ALL, 1, 2.0), tick(at(1, 2), 2, 3.0), tick(at(2), 2, 4.0)])
    assert bars_of(market, 0).ohlcv[0].tolist() == [1.0, 2.0]
    assert bars_of(market, 1).ohlcv[0].tolist() == [1.0, 2.0, 3.0]
    assert bars_of(market, 2).ohlcv[0].tolist() == [1.0, 2.0, 4.0]


def test_two_bars_of_a_batch_on_a_full_block_are_two_bars(make_market: MakeMarket) -> None:
    """The rewrite holds both."""
    market = make_market([AAPL], kinds=(SeriesKind("1d", 4),))
    rows = layout.rows_for(4)
    for number in range(rows + 1):
        market.publish(ticks=[tick(at(0), number, float(number))])
    market.publish(ticks=[tick(at(0), rows + 1, 1.0), tick(at(0), rows + 2, 2.0)])
    assert bars_of(market).ohlcv[0].tolist() == [rows - 1.0, float(rows), 1.0, 2.0]


def test_histories_of_a_batch_come_after_its_ticks(market: Market) -> None:
    """A tick that a history goes on from is closed by it."""
    market.publish(
        ticks=[tick(at(0), 0, 1.0)],
        histories=[
            History("1d", 0, make_bars(1, 2, 0.0), forming=True),
            History("1d", 0, make_bars(2, 2, 5.0), forming=False),
        ],
    )
    bars, forming = market.writer.history(0, "1d")
    assert bars.ohlcv[0].tolist() == [1.0, 1.0, 7.0, 8.0]
    assert not forming


def test_a_bar_that_a_batch_goes_back_on_is_refused(market: Market) -> None:
    """The order within a batch holds too."""
    with pytest.raises(BatchError, match="in the same batch"):
        market.publish(ticks=[tick(at(0), 5, 1.0), tick(at(0), 4, 1.0)])


# -- histories -------------------------------------------------------------------------------


@pytest.mark.parametrize("forming", [True, False])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 8, 9, 200])
def test_a_replacement_is_the_whole_window(count: int, market: Market, *, forming: bool) -> None:
    """As much of it as there is room for."""
    market.replace_bars(0, make_bars(100, 5))
    market.replace_bars(0, make_bars(0, count), forming=forming)
    wanted = make_bars(0, count)
    assert_bars(bars_of(market), wanted[max(0, count - 8) :])
    assert market.writer.history(0, "1d")[1] == (forming and count > 0)
    closed = wanted[: max(0, count - forming)]
    newest = (int(closed.time[-1]), float(closed.field("close")[-1])) if len(closed) else None
    assert market.writer.newest_closed(0, "1d") == newest


@pytest.mark.parametrize("forming", [True, False])
@pytest.mark.parametrize("before_forming", [True, False])
@pytest.mark.parametrize("count", [1, 2, 9, 100])
def test_an_extension_follows_what_is_there(
    count: int, market: Market, *, before_forming: bool, forming: bool
) -> None:
    """Whether its first bar replaces the forming one or comes after a closed one."""
    market.extend(0, make_bars(0, 4), forming=before_forming)
    first = 3 if before_forming else 4
    market.extend(0, make_bars(first, count, 50.0), forming=forming)
    bars = [*make_bars(0, first).ohlcv[0].tolist(), *make_bars(first, count, 50.0).ohlcv[0]]
    assert bars_of(market).ohlcv[0].tolist() == bars[-8:]


def test_an_empty_extension_changes_no_bar(market: Market) -> None:
    """It only confirms the series."""
    market.extend(0, make_bars(0, 3))
    market.extend(0, Bars.empty())
    assert_bars(bars_of(market), make_bars(0, 3))


def test_restatements_are_counted_and_kept(market: Market) -> None:
    """Also by extensions that follow, and through a replacement of the segment."""
    market.publish(
        histories=[History("1d", 0, make_bars(0, 3), forming=True, replace=True, restated=2)]
    )
    market.publish(
        histories=[History("1d", 0, make_bars(0, 3), forming=True, replace=True, restated=1)]
    )
    market.publish(ticks=[tick(at(0), 9, 1.0)])
    market.add(*(Ticker(f"T{i}") for i in range(9)))
    assert market.writer.series("1d")["restatements"][0] == 3


def test_a_tick_late_is_told_before_it_is_refused(market: Market) -> None:
    """What `late` calls late is what `write_data` refuses."""
    market.replace_bars(0, make_bars(0, 3), forming=True)
    market.replace_bars(1, make_bars(0, 3), forming=False)
    for number, late in ((1, [True, True, False]), (2, [False, True, False]), (3, [False] * 3)):
        ticks = tick(ALL, number, 1.0)
        assert market.writer.late(ticks).tolist() == late
        if any(late):
            with pytest.raises(BatchError, match="older than what is published"):
                market.publish(ticks=[ticks])
    market.publish(ticks=[tick(ALL, 3, 1.0)])


# -- quotes ----------------------------------------------------------------------------------


def test_the_last_quote_of_a_batch_counts(market: Market) -> None:
    """And `confirmed` only moves its age."""
    market.publish(quotes=[make_quotes(ALL, 1.0), make_quotes(at(1), 2.0)])
    market.clock.shift_ms = 5000
    epoch = market.publish(confirmed=at(0, 1))
    quotes = market.writer.quotes()
    assert quotes["price"].tolist() == [1.0, 2.0, 1.0]
    assert quotes["changed_epoch"].tolist() == [epoch, epoch, epoch - 2]
    assert quotes["updated_ms"][0] - quotes["updated_ms"][2] >= 5000
    assert quotes["updated_boot_ms"][0] - quotes["updated_boot_ms"][2] >= 5000
    assert not quotes.flags.writeable


def test_missing_prices_are_nan(market: Market) -> None:
    """And stay so."""
    values = np.full((1, 6), np.nan)
    market.publish(quotes=[Quotes(at(0), np.array([7]), values)])
    quote = market.reader().get_quote("AAPL")
    assert np.isnan([quote.price, quote.open, quote.volume]).all()
    assert quote.ts_epoch_ms == 7


def test_a_batch_confirmed_in_the_past_is_as_old_as_it_says(make_market: MakeMarket) -> None:
    """Its age by the boot clock is its age by the wall clock, never negative."""
    market = make_market([AAPL])
    clock = FixedClock()
    market.writer._clock = clock
    for updated_ms, age in ((clock.wall - 700, 700), (clock.wall + 9000, 0)):
        market.writer.write_data(Batch(updated_ms, quotes=[make_quotes(at(0), 1.0)]))
        assert clock.boot - int(market.writer.quotes()["updated_boot_ms"][0]) == age
        assert market.writer.last_update_ms == updated_ms


@pytest.mark.parametrize("rows", [ALL, at(2, 0, 1)], ids=["slice", "numbers"])
def test_bars_that_go_on_and_bars_that_open_go_in_one_batch(
    market: Market, rows: slice | NDArray[np.intp]
) -> None:
    """And a series that had none."""
    market.publish(ticks=[tick(slice(0, 2), 5, 1.0)])
    market.publish(ticks=[tick(at(0), 6, 1.0)])
    market.publish(ticks=[tick(rows, 6, 2.0)])
    market.publish(ticks=[tick(rows, 6, 3.0)])
    closes = [market.writer.history(row, "1d")[0].field("open").tolist() for row in range(3)]
    assert closes == [[1.0, 3.0], [1.0, 3.0], [3.0]]


# -- what cannot be published ----------------------------------------------------------------

NAN_TIME = np.array([1.5])

BAD: dict[str, Callable[[], Batch]] = {
    "unknown row": lambda: Batch(0, [tick(at(3), 9, 1.0)]),
    "negative row": lambda: Batch(0, [tick(at(-1), 9, 1.0)]),
    "row twice": lambda: Batch(0, [tick(at(1, 1), 9, 1.0)]),
    "long slice": lambda: Batch(0, [tick(slice(0, 4), 9, 1.0)]),
    "stepped slice": lambda: Batch(0, quotes=[make_quotes(slice(0, 3, 2), 1.0)]),
    "open slice": lambda: Batch(0, confirmed=slice(0, None)),
    "late": lambda: Batch(0, [tick(ALL, 0, 1.0)]),
    "times of another length": lambda: Batch(
        0, [Ticks("1d", ALL, np.zeros(2, np.int64), np.zeros((3, 5)))]
    ),
    "values of another shape": lambda: Batch(
        0, [Ticks("1d", ALL, np.full(3, 1 << 50), np.zeros((5, 3)))]
    ),
    "quotes of another shape": lambda: Batch(
        0, quotes=[Quotes(ALL, np.zeros(3, np.int64), np.zeros((3, 5)))]
    ),
    "quotes of an unknown row": lambda: Batch(0, quotes=[make_quotes(at(7), 1.0)]),
    "rows that are no numbers": lambda: Batch(
        0,
        quotes=[replace(make_quotes(at(0), 1.0), rows=np.zeros(1))],  # type: ignore[arg-type]
    ),
    "distant rows given twice": lambda: Batch(0, quotes=[make_quotes(at(0, 2, 0), 1.0)]),
    "confirmed twice": lambda: Batch(0, confirmed=at(0, 0)),
    "removed unknown": lambda: Batch(0, removed=[5]),
    "removed twice": lambda: Batch(0, removed=[1, 1]),
    "history of an unknown row": lambda: Batch(
        0, (), [History("1d", 3, make_bars(0, 1), forming=True)]
    ),
    "history of times that stand": lambda: Batch(
        0,
        (),
        [History("1d", 0, Bars(np.array([5, 5]), np.zeros((5, 2))), forming=True, replace=True)],
    ),
    "history of times that fall": lambda: Batch(
        0,
        (),
        [History("1d", 0, Bars(np.array([6, 5]), np.zeros((5, 2))), forming=True, replace=True)],
    ),
    "history of another shape": lambda: Batch(
        0,
        (),
        [History("1d", 0, Bars(np.array([5, 6]), np.zeros((2, 5))), forming=True, replace=True)],
    ),
    "late history": lambda: Batch(0, (), [History("1d", 0, make_bars(1, 5), forming=True)]),
    "history of a closed bar": lambda: Batch(
        0, (), [History("1d", 1, make_bars(3, 2), forming=True)]
    ),
    "good, then bad": lambda: Batch(
        0,
        [tick(ALL, 9, 1.0), tick(ALL, 9, 1.0, "1m")],
        [History("1d", 1, make_bars(0, 5), forming=True, replace=True)],
        [make_quotes(ALL, 3.0)],
        removed=[99],
    ),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_batch_leaves_every_byte_as_it_was(bad: str, market: Market) -> None:
    """Checking comes before the epoch goes odd; the next batch is published as ever."""
    market.replace_bars(0, make_bars(0, 4))
    market.replace_bars(1, make_bars(0, 4), forming=False)
    market.publish(ticks=[tick(ALL, 5, 1.0)])
    before = image(market.writer)
    with pytest.raises(BatchError):
        market.writer.write_data(BAD[bad]())
    assert image(market.writer) == before
    epoch = market.writer.epoch
    assert market.publish(ticks=[tick(ALL, 9, 2.0)]) == epoch + 2
