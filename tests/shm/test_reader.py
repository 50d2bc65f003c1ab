"""StockDataReader: what it gives, at which epoch, and how it follows its writer."""

from __future__ import annotations

import errno
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from quoteshm.errors import (
    CorruptSegmentError,
    ReaderClosedError,
    ReadTimeoutError,
    SegmentNotFoundError,
    SettingsError,
    UnknownIntervalError,
    UnknownTickerError,
)
from quoteshm.model import DAY_MS, SeriesKind, Ticker
from quoteshm.shm import futex, latch, layout
from quoteshm.shm import reader as reader_module
from quoteshm.shm.batch import History, Quotes
from quoteshm.shm.reader import StockDataReader
from tests.shm.conftest import MakeMarket
from tests.shm.helpers import (
    AAPL,
    DAILY,
    IBM,
    NEW_YORK,
    SONY,
    START_MS,
    TOKYO,
    Market,
    assert_bars,
    at,
    bars_at,
    make_bars,
    make_quotes,
    tick,
    zoned,
)

ALL = slice(0, 3)
HOUR_MS = 3_600_000


@pytest.fixture
def market(make_market: MakeMarket) -> Market:
    """Make a market of three tickers with quotes; AAPL has seven closed bars and a forming one."""
    market = make_market([AAPL, IBM, SONY])
    market.replace_bars(0, make_bars(0, 8))
    return market


# -- quotes ----------------------------------------------------------------------------------


def test_a_quote_is_what_was_published(market: Market, reader: StockDataReader) -> None:
    """Every field of it."""
    market.publish(quotes=[make_quotes(at(2), 10.0, ts_ms=77)])
    quote = reader.get_quote("6758.T")
    assert (quote.ticker, quote.currency, quote.source) == ("6758.T", "JPY", "synthetic")
    assert (quote.open, quote.high, quote.low, quote.price) == (9.0, 12.0, 8.0, 10.0)
    assert (quote.volume, quote.prev_close, quote.ts_epoch_ms) == (1e6 + 10, 7.0, 77)
    assert 0 <= market.clock.wall_ms() - quote.updated_ms < 60_000
    assert quote.stale is False


@pytest.mark.parametrize("ticker", ["NOPE", "aapl", "", 5, None])
def test_an_unknown_ticker_is_a_key_error(ticker: Any, reader: StockDataReader) -> None:
    """Wherever one is asked for; it is told by name, and a slip of the shift key is noticed."""
    told = f"unknown ticker, or no value yet: {ticker}"
    if ticker == "aapl":
        told = "unknown ticker: aapl; did you mean AAPL?"
    for ask in (reader.get_quote, reader.get_stock, reader.view, reader.__getitem__):
        with pytest.raises(UnknownTickerError) as caught:
            ask(ticker)
        assert str(caught.value) == told
        assert isinstance(caught.value, KeyError)
    assert ticker not in reader


def test_a_ticker_without_a_value_is_unknown_as_a_quote(
    market: Market, reader: StockDataReader
) -> None:
    """It has no price to give, though it may have bars."""
    row = market.writer.enlist([Ticker("NEW")])
    market.publish(ticks=[tick(row, 0, 1.0)])
    with pytest.raises(UnknownTickerError):
        reader.get_quote("NEW")
    assert len(reader.get_stock("NEW")) == 1
    assert reader.list_tickers() == ["6758.T", "AAPL", "IBM"]


@pytest.mark.parametrize(
    ("age_ms", "stale"), [(0, False), (999, False), (1000, False), (1001, True), (-1, True)]
)
def test_a_quote_is_stale_beyond_the_freshness_window_or_from_the_future(
    age_ms: int, make_market: MakeMarket, monkeypatch: pytest.MonkeyPatch, *, stale: bool
) -> None:
    """By the boot clock alone: the wall clock may jump."""
    market = make_market([AAPL, IBM], freshness_ms=1000)
    boot_ms = int(market.writer.quotes()["updated_boot_ms"][0])
    market.publish(quotes=[make_quotes(at(1), 1.0)])
    market.writer._map.quotes[market.writer._back ^ 1][1, 9] = boot_ms
    reader = market.reader()

    def clock_gettime_ns(clock: int) -> int:
        return (boot_ms + age_ms) * 1_000_000

    monkeypatch.setattr(time, "clock_gettime_ns", clock_gettime_ns)
    monkeypatch.setattr(reader_module, "_now_s", lambda _: (boot_ms + age_ms) / 1000)
    for _ in range(3):  # the long way, by a load of its row, and as it is known
        assert reader.get_quote("AAPL").stale == stale
    snapshot = reader.snapshot()
    assert [quote.stale for quote in snapshot.quotes.values()] == [stale, stale]
    assert snapshot.to_frame()["stale"].tolist() == [stale, stale]


def long_way(reader: StockDataReader, ticker: str) -> Any:
    """Give a quote by the long way, or that there is none."""
    try:
        return reader._get_quote(ticker)
    except UnknownTickerError:
        return None


def known(reader: StockDataReader, ticker: str) -> Any:
    """Give it by the fast ways: by a load of its row, and as it is known then."""
    try:
        loaded = reader.get_quote(ticker)
    except UnknownTickerError:
        return None
    assert reader.get_quote(ticker) == loaded
    return loaded


def test_a_known_quote_is_what_the_long_way_gives(market: Market, reader: StockDataReader) -> None:
    """Through all that can happen to it."""
    events: list[Callable[[], object]] = [
        lambda: None,
        lambda: market.publish(quotes=[make_quotes(ALL, 5.0)]),
        lambda: market.publish(ticks=[tick(ALL, 9, 1.0)]),
        lambda: market.publish(confirmed=ALL),
        lambda: market.publish(removed=[0]),
        lambda: market.add(AAPL, price=6.0),
        lambda: market.writer.enlist([Ticker(f"T{i}") for i in range(9)]),  # a larger segment
        lambda: market.publish(quotes=[make_quotes(ALL, 7.0)]),
        lambda: setattr(market.clock, "shift_ms", -61_000),
        lambda: market.publish(quotes=[make_quotes(ALL, 8.0)]),  # stale as it comes
        lambda: setattr(market.clock, "shift_ms", 0),
        lambda: market.publish(quotes=[make_quotes(ALL, 9.0)]),
        market.restart,
        market.writer.close,
    ]
    seen = set()
    for event in events:
        event()
        for ticker in ("AAPL", "IBM"):
            quote = known(reader, ticker)
            assert quote == long_way(reader, ticker)
            seen.add(quote and (quote.price, quote.stale))
    assert {None, (5.0, False), (8.0, True), (9.0, False)} <= seen


def test_a_known_quote_becomes_stale_by_itself(
    market: Market, reader: StockDataReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is committed, and time goes by."""
    for _ in range(3):
        assert not reader.get_quote("AAPL").stale
    real, real_ns = time.clock_gettime, time.clock_gettime_ns
    monkeypatch.setattr(reader_module, "_now_s", lambda clock: real(clock) + 61)
    monkeypatch.setattr(time, "clock_gettime_ns", lambda clock: real_ns(clock) + 61_000_000_000)
    for _ in range(2):
        assert reader.get_quote("AAPL").stale


def test_a_cpu_that_reorders_gets_the_same(
    market: Market, reader: StockDataReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the way with fences in it."""
    fences = list[None]()
    monkeypatch.setattr(reader, "_reorders", True)
    monkeypatch.setattr(reader, "_acquire", lambda: fences.append(None))
    for price in (1.0, 2.0, 3.0):
        market.publish(quotes=[make_quotes(ALL, price)])
        assert known(reader, "AAPL").price == price
    assert fences


def test_a_snapshot_is_of_one_epoch_and_sorted(market: Market, reader: StockDataReader) -> None:
    """It stays as it is when the market goes on."""
    market.publish(quotes=[make_quotes(ALL, 5.0)], removed=[1])
    snapshot = reader.snapshot()
    state = reader.snapshot_state
    market.publish(quotes=[make_quotes(ALL, 6.0)])
    assert (snapshot.epoch, snapshot.last_update_ms) == state
    assert snapshot.tickers == list(snapshot.quotes) == ["6758.T", "AAPL"]
    assert {quote.price for quote in snapshot.quotes.values()} == {5.0}
    frame = snapshot.to_frame()
    assert frame.index.tolist() == ["6758.T", "AAPL"]
    assert frame.index.name == "ticker"
    assert frame.loc["6758.T", "currency"] == "JPY"
    assert frame.loc["AAPL", "ts"] == pd.Timestamp(START_MS, unit="ms", tz="UTC")
    assert reader.snapshot().epoch == state.epoch + 2


def test_an_empty_market_is_an_empty_snapshot(make_market: MakeMarket) -> None:
    """And an empty list, mapping and panel."""
    reader = make_market().reader()
    assert reader.snapshot().quotes == {}
    assert reader.snapshot().to_frame().empty
    assert reader.list_tickers() == []
    assert len(reader) == 0
    assert reader.panel("close").shape == (0, 0)
    assert reader.snapshot_state == (0, 0)


# -- history ---------------------------------------------------------------------------------


def test_a_history_is_a_frame_in_the_exchanges_time(
    market: Market, reader: StockDataReader
) -> None:
    """With the columns and the index that users of such frames know."""
    market.publish(ticks=[tick(ALL, 0, 3.0, "1m")])
    daily, minutes = reader.get_stock("AAPL"), reader.get_stock("6758.T", "1m")
    assert_bars(daily, make_bars(0, 8))
    assert daily.columns.tolist() == ["Open", "High", "Low", "Close", "Volume"]
    assert (daily.dtypes == np.float64).all()
    assert (daily.index.name, minutes.index.name) == ("Date", "Datetime")
    assert (str(zoned(daily).tz), str(zoned(minutes).tz)) == (NEW_YORK, TOKYO)
    assert (zoned(daily).unit, zoned(minutes).unit) == ("ms", "ms")


def test_a_history_is_a_copy(market: Market, reader: StockDataReader) -> None:
    """It can be written to, and nothing that is published changes it."""
    frame = reader.get_stock("AAPL")
    before = frame.copy()
    for start in (20, 40, 60):
        market.replace_bars(0, make_bars(start, 8))
    assert frame.equals(before)
    frame.iloc[0, 0] = -1.0
    assert frame.iloc[0, 0] == -1.0
    assert reader.get_stock("AAPL").iloc[0, 0] == 160.0


@pytest.mark.parametrize("forming", [True, False])
@pytest.mark.parametrize("last", [1, 2, 7, 8, 9, 1000])
def test_last_counts_the_forming_bar(
    last: int, market: Market, reader: StockDataReader, *, forming: bool
) -> None:
    """And more than there are is all of them."""
    market.replace_bars(0, make_bars(0, 5), forming=forming)
    assert_bars(reader.get_stock("AAPL", last=last), make_bars(0, 5)[max(0, 5 - last) :])


@pytest.mark.parametrize("last", [0, -1])
def test_last_is_at_least_one(last: int, reader: StockDataReader) -> None:
    """Nothing else makes sense."""
    for ask in (reader.get_stock, reader.panel):
        with pytest.raises(ValueError, match=f"last: found {last}, expected at least 1"):
            ask("close", last=last)


def test_one_text_is_no_list_of_tickers(reader: StockDataReader) -> None:
    """Its letters are not what is meant."""
    with pytest.raises(SettingsError, match="expected a list of them"):
        reader.panel("close", "AAPL")


def test_results_say_what_they_are(reader: StockDataReader) -> None:
    """In one line each, as a notebook shows them."""
    view, snapshot = reader.view("AAPL"), reader.snapshot()
    assert repr(view) == f"<SeriesView of AAPL 1d: {len(view.time)} bars, intact>"
    assert (
        repr(snapshot) == f"<Snapshot of epoch {snapshot.epoch}: {len(snapshot.tickers)} tickers>"
    )


FIFTH = START_MS + 5 * DAY_MS


def test_a_time_that_is_none_is_refused(reader: StockDataReader) -> None:
    """It would be taken for the beginning of time."""
    with pytest.raises(ValueError, match="expected a time"):
        reader.get_stock("AAPL", since=pd.NaT)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("since", "first"),
    [
        (0, 0),
        (FIFTH, 5),
        (FIFTH + 1, 6),
        (FIFTH - 1, 5),
        (np.int64(FIFTH), 5),
        (START_MS + 7 * DAY_MS, 7),
        (START_MS + 7 * DAY_MS + 1, 8),
        (START_MS + 99 * DAY_MS, 8),
        (pd.Timestamp(FIFTH, unit="ms", tz="UTC"), 5),
        (pd.Timestamp(FIFTH, unit="ms", tz="UTC").tz_convert(TOKYO), 5),
        (pd.Timestamp("2024-01-05 19:00"), 5),  # New York: midnight of the 6th, UTC
        ("2024-01-05 19:00", 5),
        ("2024-01-05 19:00:00.001", 6),
        ("2024-01-06T00:00Z", 5),
        ("2024-01-06T09:00+09:00", 5),
        ("2024-01-05", 5),
        ("1066-10-14", 0),
        ("9999-01-01", 8),
    ],
)
@pytest.mark.parametrize("last", [None, 2])
def test_since_is_inclusive_and_applies_before_last(
    since: Any, first: int, last: int | None, reader: StockDataReader
) -> None:
    """A moment without a zone is the exchange's."""
    wanted = make_bars(0, 8)[first:]
    if last is not None:
        wanted = wanted[max(0, len(wanted) - last) :]
    assert_bars(reader.get_stock("AAPL", since=since, last=last), wanted)


@pytest.mark.parametrize(
    ("since", "first"),
    [
        ("2024-03-10 01:59", 1),  # EST
        ("2024-03-10 02:30", 2),  # skipped: 03:00 EDT comes next
        ("2024-03-10 03:00", 2),
        ("2024-11-03 01:00", 3),  # comes twice: the first
        ("2024-11-03 02:00", 5),
    ],
)
def test_since_knows_hours_that_are_skipped_or_come_twice(
    since: str, first: int, make_market: MakeMarket
) -> None:
    """As New York's clocks are put forward and back."""
    market = make_market([AAPL], kinds=(SeriesKind("1h", 8),))
    spring = 1_710_054_000_000  # 2024-03-10 07:00 UTC = 03:00 EDT, an hour after 01:00 EST
    autumn = 1_730_610_000_000  # 2024-11-03 05:00 UTC = 01:00 EDT
    times = [spring - 2 * HOUR_MS, spring - 1, spring, autumn, autumn + HOUR_MS]
    times.append(autumn + 2 * HOUR_MS)
    bars = bars_at(times)
    market.replace_bars(0, bars, interval="1h")
    assert_bars(market.reader().get_stock("AAPL", since=since), bars[first:])


def test_an_unknown_interval_is_named(reader: StockDataReader) -> None:
    """With those that are known; the first is the default."""
    assert reader.intervals == ("1d", "1m")
    for ask in (reader.get_stock, reader.view):
        with pytest.raises(UnknownIntervalError, match="5m, known are 1d, 1m"):
            ask("AAPL", "5m")
    with pytest.raises(UnknownIntervalError):
        reader.panel("close", interval="5m")


# -- views -----------------------------------------------------------------------------------


def test_a_view_is_the_segments_own_memory(market: Market, reader: StockDataReader) -> None:
    """Closed bars only, without a copy, read-only; a frame over it costs none either."""
    view = reader.view("AAPL")
    assert_bars(view.bars, make_bars(0, 7))
    assert_bars(view.frame, make_bars(0, 7))
    for column, found in zip(make_bars(0, 7).ohlcv, (view.open, view.high), strict=False):
        assert found.tolist() == column.tolist()
    columns: list[NDArray[Any]] = [view.time, view.low, view.close, view.volume]
    for values in columns:
        assert not values.flags.owndata
        with pytest.raises(ValueError, match="read-only"):
            values[0] = 1
    mapped = np.frombuffer(reader._attachment().map.buffer, np.uint8)
    assert np.shares_memory(view.close, mapped)
    assert np.shares_memory(view.frame["Close"].to_numpy(), mapped)
    with pytest.raises(ValueError, match="read-only"):
        view.frame["Close"].to_numpy()[0] = 1


def test_a_view_stands_ticks_new_bars_and_one_rewrite(
    market: Market, reader: StockDataReader
) -> None:
    """It is the second rewrite that touches its block."""
    view = reader.view("AAPL")
    before = view.frame.copy()
    for number in range(7, 60):
        market.publish(ticks=[tick(ALL, number, 1.0)])
    assert view.intact
    market.replace_bars(0, make_bars(100, 8))
    assert view.intact
    assert view.frame.equals(before)
    market.publish(histories=[History("1d", 1, make_bars(0, 3), forming=True, replace=True)])
    assert view.intact
    market.replace_bars(0, make_bars(200, 8))
    assert not view.intact
    assert_bars(reader.view("AAPL").bars, make_bars(200, 7))


def test_a_view_outlives_its_reader_and_its_segment(market: Market) -> None:
    """It holds the map itself."""
    reader = market.reader()
    view = reader.view("AAPL")
    reader.close()
    market.writer.close()
    del reader
    assert_bars(view.bars, make_bars(0, 7))
    assert view.intact


# -- panels ----------------------------------------------------------------------------------


def test_a_panel_is_time_down_and_tickers_across(market: Market, reader: StockDataReader) -> None:
    """In the order asked for, at one epoch, in any case of the field's name."""
    for row in (0, 1):
        market.replace_bars(row, make_bars(0, 5, 100.0 * row))
    panel = reader.panel("Close", ["IBM", "AAPL"])
    assert panel.columns.tolist() == ["IBM", "AAPL"]
    assert panel["IBM"].tolist() == make_bars(0, 5, 100.0).ohlcv[3].tolist()
    assert panel["AAPL"].tolist() == make_bars(0, 5, 0.0).ohlcv[3].tolist()
    assert panel.index.name == "Date"
    assert str(zoned(panel).tz) == NEW_YORK
    for field, column in (("open", 0), ("HIGH", 1), ("low", 2), ("volume", 4)):
        assert reader.panel(field, ["AAPL"])["AAPL"].tolist() == (
            make_bars(0, 5, 0.0).ohlcv[column].tolist()
        )


def test_a_ticker_asked_for_twice_is_two_columns(market: Market, reader: StockDataReader) -> None:
    """As any list of columns is."""
    panel = reader.panel("close", ["AAPL", "AAPL", "IBM"])
    assert panel.columns.tolist() == ["AAPL", "AAPL", "IBM"]
    assert panel.iloc[:, 0].equals(panel.iloc[:, 1])
    assert reader.panel("close", []).shape == (0, 0)


def test_a_panel_names_all_that_are_unknown(market: Market, reader: StockDataReader) -> None:
    """Removed ones too."""
    market.publish(removed=[1])
    with pytest.raises(UnknownTickerError, match="NOPE, IBM"):
        reader.panel("close", ["AAPL", "NOPE", "IBM"])
    with pytest.raises(ValueError, match="field: found 'price', expected one of open"):
        reader.panel("price")


# -- waiting ---------------------------------------------------------------------------------


def test_wait_returns_at_once_when_the_market_is_past(reader: StockDataReader) -> None:
    """And, when its time is up, where the market is."""
    epoch = reader.snapshot_state.epoch
    assert reader.wait(epoch - 2, 60) == epoch
    assert reader.wait(epoch, 0) == epoch
    assert reader.wait(epoch, -1) == epoch
    began = time.monotonic()
    assert reader.wait(epoch, 0.05) == epoch
    assert time.monotonic() - began >= 0.05


@pytest.mark.parametrize("timeout", [60, None])
def test_wait_is_woken_by_a_commit(
    market: Market, reader: StockDataReader, timeout: float | None
) -> None:
    """And by the writer's leave, after which it ends by its own time, if it has one."""
    epoch = reader.snapshot_state.epoch
    found: list[int] = []
    waiter = threading.Thread(target=lambda: found.append(reader.wait(epoch, timeout)), daemon=True)
    waiter.start()
    market.publish(quotes=[make_quotes(ALL, 2.0)])
    waiter.join(10)
    assert found == [epoch + 2]
    market.writer.close()
    assert reader.wait(epoch + 2, 0.05) == epoch + 2


def test_wait_polls_where_there_is_no_futex(
    market: Market, reader: StockDataReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU whose system call number is not known."""
    monkeypatch.setattr(futex, "_number", None)
    epoch = reader.snapshot_state.epoch
    assert reader.wait(epoch, 0.01) == epoch
    futex.waker(0)()
    waiter = threading.Thread(target=reader.wait, args=(epoch, 60))
    waiter.start()
    market.publish(quotes=[make_quotes(ALL, 2.0)])
    waiter.join(10)
    assert not waiter.is_alive()


def test_wait_follows_a_replacement(market: Market, reader: StockDataReader) -> None:
    """The new segment's epoch goes on from the old one's."""
    epoch = reader.snapshot_state.epoch
    waiter = threading.Thread(target=reader.wait, args=(epoch, 60))
    waiter.start()
    market.writer.enlist([Ticker(f"T{i}") for i in range(9)])
    waiter.join(10)
    assert not waiter.is_alive()


# -- the writer's health ---------------------------------------------------------------------


def test_the_writers_status_is_live_hung_dead_or_closed(
    market: Market, reader: StockDataReader
) -> None:
    """By its lock and its heartbeat."""
    assert reader.writer_status() == "live"
    block = market.writer._map.superblock
    block["heartbeat_boot_ms"] -= 6000
    assert reader.writer_status() == "hung"
    block["heartbeat_boot_ms"] += 60_000
    assert reader.writer_status() == "hung"  # from the future: of another boot
    market.writer.heartbeat()
    assert reader.writer_status() == "live"
    market.die()
    assert reader.writer_status() == "dead"
    market.writer = type(market.writer).open(market.spec, market.clock)
    assert reader.writer_status() == "live"
    market.writer.close()
    assert reader.writer_status() == "closed"
    assert "closed" in repr(reader)
    reader.close()
    assert reader.writer_status() == "closed"


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # a fork with threads
@pytest.mark.parametrize("adopted", [False, True])
def test_a_forked_child_does_not_keep_the_writers_locks(market: Market, *, adopted: bool) -> None:
    """Neither that of the lock file nor that of the segment, so a death is seen."""
    reader = market.reader()
    if adopted:
        market.restart()
    go, gone = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:  # sleeps on, as a daemon's helper would
        os.close(go[1])
        os.write(gone[1], b"x")
        os.read(go[0], 1)
        os._exit(0)
    try:
        os.read(gone[0], 1)
        market.die()
        assert reader.writer_status() == "dead"
        market.writer = type(market.writer).open(market.spec, market.clock)
        assert reader.writer_status() == "live"
    finally:
        for end in (*go, *gone):
            os.close(end)
        os.waitpid(child, 0)


def test_readers_keep_the_last_values_when_the_segment_is_gone(
    market: Market, reader: StockDataReader
) -> None:
    """And go on to a new one as soon as it is there."""
    market.writer.close()
    assert not market.path.exists()
    assert reader.get_quote("AAPL").price == 100.0
    assert len(reader.get_stock("AAPL")) == 8
    with pytest.raises(SegmentNotFoundError):
        market.reader()
    market.writer = type(market.writer).open(market.spec, market.clock)
    market.add(AAPL, price=3.0)
    reader._next_try_ms = 0
    assert reader.get_quote("AAPL").price == 3.0
    assert reader.info.instance == market.writer.instance


def test_readers_leave_a_damaged_segment_for_its_successor(
    market: Market, reader: StockDataReader
) -> None:
    """With an epoch that cannot be it is replaced without being marked closed."""
    market.die()
    market.writer._map.cells[layout.EPOCH_WORD] = layout.MAX_EPOCH + 2
    for read in (reader.list_tickers, lambda: reader.wait(0, 0.001)):
        with pytest.raises(CorruptSegmentError, match="epoch"):
            read()
    market.writer = type(market.writer).open(market.spec, market.clock)
    market.add(AAPL, price=3.0)
    reader._next_look_ms = 0
    with pytest.raises(CorruptSegmentError, match="epoch"):
        reader.list_tickers()
    assert reader.list_tickers() == ["AAPL"]
    assert reader.get_quote("AAPL").price == 3.0


def test_readers_leave_a_silent_segment_whose_name_is_gone(
    market: Market, reader: StockDataReader
) -> None:
    """It was never marked closed: its file was deleted behind a writer that hangs."""
    block, hung = market.writer._map.superblock, market.writer
    lock = market.path.with_name(market.path.name + ".lock")
    market.path.unlink()
    lock.unlink()
    market.writer = type(market.writer).open(market.spec, market.clock)
    market.add(IBM, price=3.0)
    assert reader.list_tickers() == ["6758.T", "AAPL", "IBM"]  # not silent for long enough
    block["heartbeat_boot_ms"] -= 6000
    reader._next_look_ms = 0
    assert reader.writer_status() == "hung"
    assert reader.writer_status() == "live"
    assert reader.list_tickers() == ["IBM"]
    hung.close(unlink=False)


def test_readers_leave_a_dead_segment_whose_name_is_gone_at_once(
    market: Market, reader: StockDataReader
) -> None:
    """Its writer died after its successor had taken the name, before it was marked closed."""
    market.die()
    market.path.unlink()
    market.writer = type(market.writer).open(market.spec, market.clock)
    market.add(IBM, price=3.0)
    reader._next_look_ms = 0
    assert reader.writer_status() == "dead"
    assert reader.writer_status() == "live"
    assert reader.list_tickers() == ["IBM"]


def test_quotes_leave_a_dead_segment_whose_name_is_gone_though_they_are_fresh(
    market: Market, reader: StockDataReader
) -> None:
    """As soon as what is known of one is looked at again: as histories do."""
    for _ in range(2):
        assert reader.get_quote("AAPL").price == 100.0
    attached = reader._attachment()
    market.die()
    market.path.unlink()
    market.writer = type(market.writer).open(market.spec, market.clock)
    market.add(AAPL, price=3.0)
    known = attached.known_quotes["AAPL"]
    attached.known_quotes["AAPL"] = (known[0], 0.0, *known[2:])  # its time is up
    reader._next_look_ms, reader._next_look_s = 0, 0.0
    assert reader.get_quote("AAPL").stale is False
    assert reader.get_quote("AAPL").price == 3.0


@pytest.mark.parametrize(
    "last", [1 << 70, 1 << 63, True, np.uint64(3), np.uint64((1 << 64) - 1), np.int8(2)]
)
def test_the_count_of_bars_may_be_any_integer(
    last: int, market: Market, reader: StockDataReader
) -> None:
    """Of any type and size: a history and a panel take the same."""
    market.replace_bars(0, make_bars(0, 5))
    expected = min(int(last), 5)
    assert len(reader.get_stock("AAPL", last=last)) == expected
    assert len(reader.panel("close", ["AAPL"], last=last)) == expected
    for ask in (reader.get_stock, reader.panel):
        with pytest.raises(TypeError):
            ask("AAPL" if ask == reader.get_stock else "close", last=2.0)  # type: ignore[arg-type]


def test_a_reader_that_cannot_get_a_whole_read_gives_up_in_time(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what it tried, as a TimeoutError."""
    reader = market.reader(timeout_s=0.02)
    monkeypatch.setattr("quoteshm.shm.latch.unbroken", lambda before, after: False)
    began = time.monotonic()
    for read in (reader.snapshot, lambda: reader.get_quote("AAPL"), lambda: reader.panel("low")):
        with pytest.raises(ReadTimeoutError, match=r"within 20 ms") as caught:
            read()
        assert isinstance(caught.value, TimeoutError)
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("spoilt", [1, latch.LEAST_TRIES - 1, latch.LEAST_TRIES])
@pytest.mark.parametrize("read", ["snapshot", "_get_quote", "get_stock", "panel"])
def test_a_read_that_is_late_has_its_tries(
    read: str, spoilt: int, market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two commits fall between a try's first load of the epoch and its last: all but the last."""
    reader = market.reader(timeout_s=0)
    reader.list_tickers()
    attached, left = reader._attachment(), [spoilt]
    load_epoch = attached.epoch

    def overtaken() -> int:
        epoch = load_epoch()
        if left[0]:
            left[0] -= 1
            for price in (5.0, 6.0):
                market.publish(quotes=[make_quotes(ALL, price)])
        return epoch

    monkeypatch.setattr(attached, "epoch", overtaken)
    attached.known_series.clear()
    act = getattr(reader, read)
    args = {"snapshot": [], "panel": ["close"]}.get(read, ["AAPL"])
    if spoilt < latch.LEAST_TRIES:
        act(*args)
        assert reader.get_quote("AAPL").price == 6.0
        return
    with pytest.raises(ReadTimeoutError) as caught:
        act(*args)
    assert caught.value.attempts == latch.LEAST_TRIES


@pytest.mark.parametrize("read", ["get_stock", "view", "panel"])
def test_a_read_has_one_deadline_for_all_that_is_in_it(
    read: str, market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row under the latch and the bars behind it share their tries."""
    reader, begun, attempts = market.reader(), list[float](), latch.attempts
    reader.list_tickers()  # so that it knows the tickers
    answers = iter([False, True, True])

    def counted(timeout_s: float) -> Iterator[int]:
        begun.append(timeout_s)
        return attempts(timeout_s)

    monkeypatch.setattr("quoteshm.shm.latch.attempts", counted)
    monkeypatch.setattr("quoteshm.shm.latch.unbroken", lambda before, after: next(answers))
    getattr(reader, read)(*(["close", ["AAPL"]] if read == "panel" else ["AAPL"]))
    assert begun == [reader._timeout_s]


@pytest.mark.parametrize("read", ["get_stock", "view", "panel"])
def test_a_window_that_is_always_rewritten_times_out(read: str, market: Market) -> None:
    """No read waits for a writer that never rests."""
    reader = market.reader(timeout_s=0.02)
    cells, word = market.writer._map.cells, market.writer._map.entry_word(0, 0) + 3
    cells[word] += 2
    with pytest.raises(ReadTimeoutError):
        {"get_stock": lambda: reader.get_stock("AAPL"), "view": lambda: reader.view("AAPL")}.get(
            read, lambda: reader.panel("close")
        )()


# -- the mapping -----------------------------------------------------------------------------


def read_ticker(shared_dict: Mapping[str, Any], ticker: str) -> Any:
    """Read as the classic reader does."""
    while True:
        entry = shared_dict[ticker]
        e1 = entry["header"]["epoch"]
        if e1 % 2:
            continue
        data = entry["data"]
        e2 = entry["header"]["epoch"]
        if e1 == e2 and e2 % 2 == 0:
            return data


def test_the_classic_loop_runs_as_it_stands(market: Market, reader: StockDataReader) -> None:
    """Also on a writer that died in the middle of a write."""
    assert_bars(read_ticker(reader, "AAPL"), make_bars(0, 8))
    market.writer._map.cells[layout.EPOCH_WORD] += 1
    market.writer._map.entries[0][0, 1] |= 1
    assert_bars(read_ticker(reader, "AAPL"), make_bars(0, 8))


def test_the_classic_loop_sees_whole_windows_while_the_writer_runs(market: Market) -> None:
    """A thread rewrites and ticks; each window is of one version."""
    reader, stop = market.reader(), threading.Event()

    def publish() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            market.replace_bars(0, make_bars(0, 8, 1000.0 * number))
            market.publish(ticks=[tick(at(0), 7, 1000.0 * number)])

    writer = threading.Thread(target=publish)
    writer.start()
    try:
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            opened = read_ticker(reader, "AAPL")["Open"].to_numpy()
            assert len(set(opened // 1000)) == 1
    finally:
        stop.set()
        writer.join()


def test_a_reader_is_a_mapping_of_entries(market: Market, reader: StockDataReader) -> None:
    """Headers are read when they are asked, data is a copy."""
    assert isinstance(reader, Mapping)
    assert list(reader) == ["6758.T", "AAPL", "IBM"]
    assert len(reader) == 3
    assert "AAPL" in reader
    assert "NOPE" not in reader
    assert reader.get("NOPE") is None
    entry = reader["AAPL"]
    assert list(entry) == ["header", "data"]
    assert len(entry) == 2
    header = entry["header"]
    assert dict(header)["version"] == layout.LAYOUT_VERSION
    assert header["writer_pid"] == os.getpid()
    assert len(header) == 4
    epoch, data = header["epoch"], entry["data"]
    market.clock.shift_ms = 1000
    market.publish(ticks=[tick(at(0), 7, 1.0)])
    assert header["epoch"] == epoch + 2
    assert header["last_update_ms"] == market.writer.last_update_ms
    assert_bars(data, make_bars(0, 8))
    for key in ("nothing", "rewrites"):
        with pytest.raises(KeyError):
            entry[key]
        with pytest.raises(KeyError):
            header[key]
    assert reader == reader  # noqa: PLR0124  a mapping, yet equal to itself alone
    assert reader != dict(reader)
    assert len({reader, reader}) == 1


# -- threads, forks, pickles -----------------------------------------------------------------


def test_threads_share_a_reader(market: Market) -> None:
    """While tickers come, bars close, blocks fill and the segment is replaced."""
    reader, stop, failed = market.reader(timeout_s=5), threading.Event(), list[BaseException]()

    def read() -> None:
        try:
            while not stop.is_set():
                tickers = reader.list_tickers()
                for ticker in tickers:
                    assert reader.get_quote(ticker).ticker == ticker
                    reader.get_stock(ticker, last=3)
                assert {"AAPL", "IBM", "6758.T"} <= set(reader.panel("close").columns)
        except BaseException as error:  # noqa: BLE001  whatever it is, the test fails with it
            failed.append(error)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(10, 150):
        market.publish(ticks=[tick(ALL, number, 1.0)], quotes=[make_quotes(ALL, 1.0)])
        if number % 10 == 0:
            market.add(Ticker(f"T{number}"))
    stop.set()
    for thread in threads:
        thread.join()
    assert failed == []


def in_child(check: Callable[[], bool]) -> bool:
    """Fork, and tell whether a check holds in the child."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if check() else 1)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # a fork with threads
def test_a_forked_child_attaches_anew(market: Market, reader: StockDataReader) -> None:
    """With descriptors of its own; the parent's reader is as before."""
    mine = reader._attachment()

    def check() -> bool:
        reader.get_quote("AAPL")
        return reader._attachment() is not mine and len(reader.get_stock("AAPL")) == 8

    assert in_child(check)
    assert reader._attachment() is mine
    assert reader.get_quote("AAPL").price == 100.0
    assert reader.writer_status() == "live"


def test_a_reader_pickles_as_its_address(market: Market, reader: StockDataReader) -> None:
    """The copy attaches by itself."""
    copy = pickle.loads(pickle.dumps(reader))  # noqa: S301  our own
    assert copy.get_quote("AAPL") == reader.get_quote("AAPL")
    assert copy._timeout_s == reader._timeout_s
    copy.close()
    market.writer.close()
    with pytest.raises(SegmentNotFoundError):
        pickle.loads(pickle.dumps(reader))  # noqa: S301  our own


def test_a_closed_reader_says_so(market: Market) -> None:
    """Every method, but for those that never raise; closing twice is harmless."""
    with market.reader() as reader:
        frame = reader.get_stock("AAPL")
    reader.close()
    for read in (
        reader.snapshot,
        reader.list_tickers,
        lambda: reader.get_quote("AAPL"),
        lambda: reader.get_stock("AAPL"),
        lambda: reader.view("AAPL"),
        lambda: reader.panel("close"),
        lambda: reader.wait(0, 1),
        lambda: reader.snapshot_state,
        lambda: reader.intervals,
        lambda: reader.info,
        lambda: reader["AAPL"],
    ):
        with pytest.raises(ReaderClosedError, match="this reader is closed"):
            read()
    assert reader.writer_status() == "closed"
    assert len(frame) == 8


def test_what_the_segment_holds_is_told(market: Market, reader: StockDataReader) -> None:
    """Who writes it, since when, and how much room there is."""
    info = reader.info
    assert info.path == market.path
    assert info.instance == market.writer.instance
    assert info.size == market.path.stat().st_size == market.writer.size
    assert (info.source, info.adjustment, info.freshness_ms) == ("synthetic", "none", 60_000)
    assert info.writer_pid == os.getpid()
    assert 0 <= market.clock.wall_ms() - info.created_ms < 60_000
    assert (info.max_tickers, info.ticker_count) == (4, 3)
    assert info.capacities == {"1d": DAILY.capacity, "1m": 4}
    assert info.layout_version == layout.LAYOUT_VERSION


def test_nan_in_bars_and_quotes_comes_out_as_nan(market: Market, reader: StockDataReader) -> None:
    """Through every way of reading."""
    bars = make_bars(0, 3)
    bars.ohlcv[:, 1:] = np.nan
    market.replace_bars(0, bars)
    market.publish(
        quotes=[Quotes(at(0), np.zeros(1, np.int64), np.full((1, 6), np.nan))],
    )
    assert_bars(reader.get_stock("AAPL"), bars)
    assert reader.panel("close", ["AAPL"])["AAPL"].isna().tolist() == [False, True, True]
    assert np.isnan(reader.snapshot().quotes["AAPL"].price)
    assert reader.snapshot().to_frame()["price"].isna().tolist() == [False, True, False]


def test_the_module_reads_no_wall_clock() -> None:
    """Staleness and deadlines must survive a clock that jumps."""
    source = Path(reader_module.__file__).read_text()
    assert "time.time" not in source
    assert "datetime.now" not in source


def test_a_wait_for_an_epoch_of_a_daemon_that_is_gone_ends(make_market: MakeMarket) -> None:
    """One that left no word of its epochs; who waits for the old one is told at once."""
    old = make_market([AAPL])
    reader = old.reader()
    for number in range(5):
        old.publish(ticks=[tick(slice(0, 1), number, float(number))])
    seen = reader.snapshot_state.epoch
    old.writer.close()
    old.writer.spec.path.with_name(f"{old.writer.spec.name}.lock").unlink()
    new = make_market([AAPL], directory=old.writer.spec.directory)
    new.publish(ticks=[tick(slice(0, 1), 1, 1.0)])

    assert new.writer.epoch < seen
    assert reader.wait(seen, 30) == new.writer.epoch
    assert reader.wait(new.writer.epoch, 0.01) == new.writer.epoch


def test_the_epochs_go_on_after_an_orderly_end(make_market: MakeMarket) -> None:
    """Who waits for the next one gets it from the next daemon, and none twice."""
    old = make_market([AAPL])
    reader = old.reader()
    seen = reader.snapshot_state.epoch
    for _ in range(3):
        old.writer.close()
        old = make_market([AAPL], directory=old.writer.spec.directory)
        assert not old.writer.adopted
        found = reader.wait(seen, 30)
        assert found > seen
        assert found == old.writer.epoch
        seen = found


def test_a_look_for_a_successor_that_fails_costs_no_read(
    market: Market, reader: StockDataReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The values are there; it is looked again."""
    monkeypatch.setattr(reader_module, "_LOOK_EACH_MS", 0)
    quote = reader.get_quote("AAPL")

    def fstat(_fd: int) -> os.stat_result:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", fstat)
        found = reader.snapshot().quotes["AAPL"], reader.wait(market.writer.epoch, 0.001)
    assert found == (quote, market.writer.epoch)
