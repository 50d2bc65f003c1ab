"""SegmentWriter: its tickers, its death in the middle of a commit, and how one carries on."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import FrameType
from typing import Any
from unittest import mock

import numpy as np
import pytest

from quoteshm.errors import BatchError, SegmentError, UnknownIntervalError
from quoteshm.model import SeriesKind, Ticker
from quoteshm.shm import layout, lock, table
from quoteshm.shm.batch import Batch, History
from quoteshm.shm.reader import StockDataReader
from quoteshm.shm.seen import Seen
from quoteshm.shm.writer import SegmentWriter
from tests.shm.conftest import MakeMarket
from tests.shm.helpers import (
    AAPL,
    DAILY,
    IBM,
    MINUTES,
    NEW_YORK,
    SONY,
    FixedClock,
    Market,
    assert_bars,
    at,
    image,
    make_bars,
    make_quotes,
    spec_in,
    tick,
    zoned,
)

ALL = slice(0, 3)


def test_an_unknown_interval_is_named_with_the_known_ones(market: Market) -> None:
    """Of ticks, of histories, and where one is read."""
    before = image(market.writer)
    for ask in (
        lambda: market.publish(ticks=[tick(ALL, 9, 1.0, "5m")]),
        lambda: market.extend(0, make_bars(0, 1), interval="5m"),
        lambda: market.writer.series("5m"),
        lambda: market.writer.history(0, "5m"),
        lambda: market.writer.newest_closed(0, "5m"),
        lambda: market.writer.late(tick(ALL, 9, 1.0, "5m")),
    ):
        with pytest.raises(UnknownIntervalError, match="unknown interval: 5m, known are 1d, 1m"):
            ask()
    assert image(market.writer) == before


# -- tickers ---------------------------------------------------------------------------------

LONG = "日本電気株式会社あい"  # ten characters of three bytes


@pytest.mark.parametrize("symbol", [LONG + "ab", "x" * 32, "é" * 16, " ", "a b", "BRK-B", "^GSPC"])
def test_symbols_of_up_to_32_bytes_of_unicode_are_kept(symbol: str, market: Market) -> None:
    """Exactly as they were given."""
    row = market.add(Ticker(symbol, "EUR", "Europe/Berlin"), price=4.0)
    market.publish(ticks=[tick(row, 1, 3.0)])
    reader = market.reader()
    assert reader.get_quote(symbol).ticker == symbol
    assert reader.get_quote(symbol).currency == "EUR"
    assert str(zoned(reader.get_stock(symbol)).tz) == "Europe/Berlin"
    assert market.restart().row_of[symbol] == 3


@pytest.mark.parametrize(
    "ticker",
    [
        Ticker(""),
        Ticker(LONG + "abc"),
        Ticker("x" * 33),
        Ticker("a\0b"),
        Ticker("a\0"),
        Ticker("new\nline"),
        Ticker("\x1b[2J"),
        Ticker("\ud800"),
        Ticker("X", "123456789"),
        Ticker("X", "USD", "America/" + "x" * 48),
        Ticker("X", "USD", "Mars/Olympus"),
        Ticker("X", "USD", ""),
        Ticker("X", "USD", "../etc/passwd"),
        Ticker("X", "USD", "/etc/passwd"),
    ],
)
def test_a_ticker_that_does_not_fit_is_refused_before_anything_is_written(
    ticker: Ticker, market: Market
) -> None:
    """Also when the others of the call are good."""
    before = image(market.writer)
    with pytest.raises(BatchError):
        market.writer.enlist([Ticker("GOOD"), ticker])
    assert image(market.writer) == before
    assert "GOOD" not in market.writer.row_of


def test_a_ticker_is_seen_with_the_commit_after_it_was_enlisted(market: Market) -> None:
    """Enlisting alone changes nothing that counts; a ticker given twice has one row."""
    reader = market.reader()
    rows = market.writer.enlist([IBM, Ticker("NEW"), AAPL, Ticker("NEW")])
    assert rows.tolist() == [1, 3, 0, 3]
    assert reader.info.ticker_count == 3
    market.publish(quotes=[make_quotes(at(3), 9.0)])
    assert reader.get_quote("NEW").price == 9.0


def test_more_tickers_than_there_is_room_for_make_a_larger_segment(market: Market) -> None:
    """At once for the readers that are attached, with history, quotes and epoch."""
    market.replace_bars(1, make_bars(0, 20))
    market.publish(ticks=[tick(ALL, 30, 3.0), tick(ALL, 30, 3.5, "1m")], removed=[2])
    reader, old = market.reader(), market.writer.instance
    frame, state = reader.get_stock("IBM"), reader.snapshot_state
    view = reader.view("IBM")
    rows = market.add(*(Ticker(f"T{i}") for i in range(6)), price=8.0)
    assert rows.tolist() == list(range(3, 9))
    assert market.writer.instance != old
    assert market.writer.spec.max_tickers == 9
    assert reader.get_quote("T5").price == 8.0
    assert reader.info.instance == market.writer.instance
    assert reader.snapshot_state.epoch == state.epoch + 4
    assert reader.get_stock("IBM").equals(frame)
    assert reader.list_tickers() == ["AAPL", "IBM", *(f"T{i}" for i in range(6))]
    assert view.intact
    assert len(view.frame) == 7
    assert reader["IBM"]["header"]["epoch"] % 2 == 0
    assert lock.is_locked(reader._attachment().fd.number)
    assert market.restart(max_tickers=4).adopted
    assert market.writer.spec.max_tickers == 9


def test_a_removed_ticker_is_gone_and_comes_back_without_its_past(market: Market) -> None:
    """In the same row, whether what comes back is a quote, a tick, a history, or nothing."""
    reader = market.reader()
    for back in (
        {"quotes": [make_quotes(at(0), 7.0)]},
        {"ticks": [tick(at(0), 1, 7.0), tick(at(0), 2, 8.0)]},
        {"histories": [History("1d", 0, make_bars(1, 2, 6.0), forming=True)]},
        {"confirmed": ALL},
        {},
    ):
        market.replace_bars(0, make_bars(0, 5))
        market.replace_bars(0, make_bars(0, 3), interval="1m")
        market.publish(quotes=[make_quotes(at(0), 1.0)])
        market.publish(removed=[0])
        assert reader.list_tickers() == ["6758.T", "IBM"]
        for read in (reader.get_quote, reader.get_stock, reader.__getitem__):
            with pytest.raises(KeyError):
                read("AAPL")
        assert market.writer.enlist([AAPL]).tolist() == [0]
        assert "AAPL" not in reader
        market.publish(**back)
        assert ("AAPL" in reader) == ("quotes" in back)
        assert len(reader.get_stock("AAPL")) == (2 if "ticks" in back or "histories" in back else 0)
        assert len(reader.get_stock("AAPL", "1m")) == 0


def test_a_ticker_is_present_removed_or_neither(market: Market) -> None:
    """Neither, as long as nothing was published of it: before its first commit, and after it."""
    writer = market.writer
    market.publish(removed=[1])
    row = int(writer.enlist([Ticker("NEW")])[0])
    assert writer.present().tolist() == [True, False, True]
    assert writer.removed().tolist() == [False, True, False]
    assert [writer.is_present(row) for row in range(4)] == [True, False, True, False]
    assert [writer.is_removed(row) for row in range(4)] == [False, True, False, False]
    market.publish(ticks=[tick(at(row), 1, 1.0)])
    assert writer.present().tolist() == [True, False, True, False]
    assert not writer.is_present(row)
    assert not writer.is_removed(row)


def test_rows_are_those_of_symbols_that_are_counted(market: Market) -> None:
    """One that is unknown, or only enlisted, has none yet."""
    market.writer.enlist([Ticker("NEW")])
    rows = market.writer.rows_of([SONY.symbol, "NEW", "NOBODY", AAPL.symbol])
    assert rows.tolist() == [2, 0]
    assert market.writer.rows_of([]).dtype == np.intp


# -- faults in the middle of a commit --------------------------------------------------------


class Fault(Exception):  # noqa: N818  nothing that anybody handles
    """What goes wrong."""


@pytest.mark.parametrize("place", ["catch-up", "bars", "quote_items", "headers", "entries"])
def test_an_exception_in_a_commit_is_a_death_and_an_adoption(
    place: str, market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of the batch is seen, and the next one is published whole."""
    market.replace_bars(0, make_bars(0, 5))
    market.publish(ticks=[tick(ALL, 6, 1.0)], quotes=[make_quotes(ALL, 1.0)])
    reader = market.reader()
    before, state = reader.panel("close"), reader.snapshot_state
    quotes = {ticker: quote.price for ticker, quote in reader.snapshot().quotes.items()}
    batch = Batch(market.clock.wall_ms(), [tick(ALL, 7, 2.0)], quotes=[make_quotes(ALL, 2.0)])

    with monkeypatch.context() as patched:
        break_at(place, market.writer, patched)
        with pytest.raises((Fault, IndexError, ValueError)):
            market.writer.write_data(batch)

    assert market.writer.epoch % 2 == 0
    assert reader.snapshot_state.epoch == market.writer.epoch >= state.epoch
    if place != "entries":  # behind the even epoch it is published
        assert reader.panel("close").equals(before)
        assert {t: q.price for t, q in reader.snapshot().quotes.items()} == quotes
        market.writer.write_data(batch)
    assert reader.get_stock("IBM")["Open"].tolist() == [1.0, 2.0]
    assert reader.get_quote("IBM").price == 2.0
    assert all(entries[:, table.EPOCH].max() % 2 == 0 for entries in market.writer._map.entries)
    assert market.restart().adopted


def act_until(line: int, act: Callable[[], object]) -> bool:
    """Raise before a line of `_write_many` or of what it ends with; tell whether it came there."""
    codes = {SegmentWriter._write_many.__code__, Seen.learn.__code__, Seen.checked.__code__}
    came = 0

    def local(frame: FrameType, event: str, _: object) -> Any:
        nonlocal came
        came += event == "line"
        if event == "line" and came == line:
            raise Fault
        return local

    before = sys.gettrace()
    sys.settrace(lambda frame, *_: local if frame.f_code in codes else None)
    try:
        act()
    except Fault:
        pass
    finally:
        sys.settrace(before)
    return came >= line


def test_an_exception_behind_a_commit_leaves_nothing_known_that_is_no_more(
    make_market: MakeMarket,
) -> None:
    """Wherever it comes: an older bar is late, and each row gets what is said of it."""
    line, came = 0, True
    while came:
        line += 1
        market = make_market([AAPL, IBM, SONY], name=f"shm{line}")
        rows, others = at(0, 2), at(2, 1)
        market.publish(ticks=[tick(rows, 6, 1.0)])
        came = act_until(line, partial(market.publish, ticks=[tick(others, 7, 2.0)]))
        is_there = market.writer.series("1d")["open"].tolist() == [1.0, 2.0, 2.0]
        assert is_there or came
        if is_there:
            with pytest.raises(BatchError, match="older"):
                market.publish(ticks=[tick(rows, 6, 3.0)])
        market.publish(ticks=[tick(rows, 8, 4.0)])
        market.publish(ticks=[tick(others, 8, 5.0)])
        assert market.writer.series("1d")["open"].tolist() == [4.0, 5.0, 5.0]
    assert line > 20


def test_an_exception_behind_the_commit_of_a_ticker_that_comes_back_leaves_it_there(
    make_market: MakeMarket,
) -> None:
    """Its new life is not begun once more by the next commit."""
    line, came = 0, True
    while came:
        line += 1
        market = make_market([AAPL, IBM], name=f"shm{line}")
        market.replace_bars(0, make_bars(0, 5))
        market.publish(removed=[0])
        market.writer.enlist([AAPL])
        ticks, quotes = [tick(at(0), 9, 2.0)], [make_quotes(at(0), 2.0)]
        came = act_until(line, partial(market.publish, ticks=ticks, quotes=quotes))
        reader = market.reader()
        was_there = "AAPL" in reader
        market.publish(ticks=[tick(at(1), 9, 3.0)])
        assert ("AAPL" in reader) == was_there
        assert reader.get_stock("AAPL")["Open"].tolist() == ([2.0] if was_there else [])
    assert line > 10


def break_at(place: str, writer: SegmentWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make one store of the next commit raise."""

    def fail(*args: object) -> None:
        raise Fault

    mapped, back = writer._map, writer._back
    if place == "catch-up":
        monkeypatch.setattr("quoteshm.shm.writer._catch_up", fail)
    elif place == "bars":
        monkeypatch.setattr(writer, "_store_bars", fail)
    elif place == "entries":
        monkeypatch.setattr(table, "UPDATED", "no column")
    else:
        tables = list(getattr(mapped, place))
        tables[back] = tables[back].view()
        tables[back].flags.writeable = False
        monkeypatch.setattr(mapped, place, tables)


def test_a_batch_after_a_bad_one_on_a_dying_writer_is_adopted(market: Market) -> None:
    """A writer that died with the epoch odd leaves what it had published before."""
    market.replace_bars(0, make_bars(0, 5))
    reader, cells = market.reader(), market.writer._map.cells
    frame = reader.get_stock("AAPL")
    cells[layout.EPOCH_WORD] += 1
    market.writer._map.quotes[market.writer._back][:] = 0xAAAA
    market.writer._map.series[market.writer._back][0][:] = 0xAAAA
    assert reader.get_stock("AAPL").equals(frame)
    before = int(cells[layout.EPOCH_WORD])
    writer = market.restart()
    assert writer.adopted
    assert writer.epoch == before + 3
    assert reader.get_stock("AAPL").equals(frame)
    market.publish(quotes=[make_quotes(at(1), 3.0)])
    assert reader.get_quote("AAPL").price == 100.0
    assert reader.get_quote("IBM").price == 3.0
    assert reader.get_stock("AAPL").equals(frame)


# -- opening ---------------------------------------------------------------------------------


def test_a_writer_carries_on_where_the_last_one_died(market: Market) -> None:
    """Same file, same instance, same epochs; new pid and freshness."""
    market.replace_bars(0, make_bars(0, 5))
    inode, instance = market.path.stat().st_ino, market.writer.instance
    epoch, reader = market.writer.epoch, market.reader()
    writer = market.restart(freshness_ms=5)
    assert writer.adopted
    assert writer.refused is None
    assert (market.path.stat().st_ino, writer.instance, writer.epoch) == (inode, instance, epoch)
    assert writer.tickers == (AAPL, IBM, SONY)
    assert reader.info.freshness_ms == 5
    assert reader.info.writer_pid == os.getpid()
    market.publish(ticks=[tick(ALL, 9, 1.0)])
    assert_bars(reader.get_stock("AAPL").iloc[:-1], make_bars(0, 5))


def test_a_segment_of_another_boot_is_replaced(market: Market) -> None:
    """On a disk a segment outlives its boot, and a power cut may have left any of its pages."""
    market.replace_bars(0, make_bars(0, 5))
    epoch, instance = market.writer.epoch, market.writer.instance
    with mock.patch("quoteshm.shm.segment.boot_id", return_value=b"another boot's  "):
        writer = market.restart()
        assert not writer.adopted
        assert "earlier boot" in str(writer.refused)
        assert writer.epoch > epoch
        assert writer.instance != instance
        reader = market.reader()
        assert reader.list_tickers() == []
        market.add(IBM)
        assert not reader.get_quote("IBM").stale
        assert market.restart().instance == writer.instance


CHANGES: dict[str, tuple[dict[str, Any], bool]] = {
    "more tickers": ({"max_tickers": 50}, True),
    "a larger capacity": ({"kinds": (SeriesKind("1d", 20), MINUTES)}, True),
    "a smaller capacity": ({"kinds": (SeriesKind("1d", 3), MINUTES)}, True),
    "capacity one": ({"kinds": (SeriesKind("1d", 1), MINUTES)}, True),
    "another order": ({"kinds": (MINUTES, DAILY)}, True),
    "a kind more": ({"kinds": (DAILY, MINUTES, SeriesKind("1h", 5))}, True),
    "another kind": ({"kinds": (SeriesKind("1h", 5), DAILY)}, True),
    "another source": ({"source": "yahoo"}, False),
    "another adjustment": ({"adjustment": "splits"}, False),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_segment_that_does_not_fit_is_replaced(change: str, market: Market) -> None:
    """History is kept where it is of the same source; readers follow, and no epoch goes back."""
    changes, kept = CHANGES[change]
    market.replace_bars(0, make_bars(0, 7))
    market.replace_bars(0, make_bars(0, 2))
    market.extend(0, make_bars(1, 8))
    market.replace_bars(1, make_bars(0, 5), forming=False)
    market.publish(ticks=[tick(ALL, 40, 3.0, "1m")], removed=[2])
    reader, old = market.reader(), market.writer
    before = {name: reader.get_stock(name) for name in ("AAPL", "IBM")}
    state, last = reader.snapshot_state, old.last_update_ms
    writer = market.restart(**changes)
    assert writer.adopted == kept
    assert old._map.superblock["state"] == layout.CLOSED
    assert reader.info.instance == writer.instance != old.instance
    assert reader.snapshot_state.epoch == writer.epoch == state.epoch + 2
    assert writer.spec == market.spec
    if not kept:
        assert reader.list_tickers() == []
        assert writer.tickers == ()
        assert writer.enlist([IBM]).tolist() == [0]
        return
    assert reader.list_tickers() == ["AAPL", "IBM"]
    assert writer.last_update_ms == last
    capacity = {kind.interval: kind.capacity for kind in market.spec.kinds}
    for name, frame in before.items():
        assert reader.get_stock(name, "1d").equals(frame.iloc[-capacity["1d"] :])
    assert len(reader.get_stock("AAPL", market.spec.kinds[0].interval)) <= 8
    if "1m" in capacity:
        assert reader.get_stock("IBM", "1m")["Open"].tolist() == [3.0]
    writer.write_data(Batch(0, [tick(at(0), 60, 6.0)]))
    assert reader.get_stock("AAPL", "1d")["Open"].iloc[-1] == 6.0
    again = market.restart()
    assert again.adopted
    assert again.refused is None


def test_a_segment_left_on_purpose_is_adopted(market: Market) -> None:
    """`close(unlink=False)` leaves it closed; its readers keep the last values, then go on."""
    market.publish(ticks=[tick(ALL, 0, 1.0)])
    reader = market.reader()
    market.writer.close(unlink=False)
    assert market.path.exists()
    assert reader.writer_status() == "closed"
    assert reader.get_quote("AAPL").price == 100.0
    assert market.reader().get_quote("AAPL").price == 100.0
    market.writer = SegmentWriter.open(market.spec, market.clock)
    assert market.writer.adopted
    assert reader.writer_status() == "live"
    market.publish(quotes=[make_quotes(at(0), 4.0)])
    assert reader.get_quote("AAPL").price == 4.0


def test_closing_takes_the_name_away_and_only_its_own(market: Market) -> None:
    """A file that somebody has put in its place stays."""
    other = market.path.with_name("other")
    other.write_text("precious")
    other.rename(market.path)
    market.writer.close()
    assert market.path.read_text() == "precious"


def test_a_closed_writer_writes_nothing_and_closes_again(make_market: MakeMarket) -> None:
    """By then the segment may be another writer's."""
    first = make_market([AAPL])
    first.writer.close(unlink=False)
    second = make_market()
    before = image(second.writer)
    first.writer.close()
    for late in (
        lambda: first.publish(quotes=[make_quotes(at(0), 1.0)]),
        lambda: first.writer.enlist([IBM]),
        first.writer.heartbeat,
    ):
        with pytest.raises(SegmentError, match="this writer is closed"):
            late()
    assert image(second.writer) == before
    assert second.reader().writer_status() == "live"


def test_a_forked_child_can_neither_write_nor_close(market: Market) -> None:
    """The map is the parent's too, and so is the right to write."""
    before = image(market.writer)
    market.writer._lock.fd.close()  # type: ignore[union-attr]  # what a fork does in the child
    for late in (
        lambda: market.publish(quotes=[make_quotes(at(0), 1.0)]),
        lambda: market.writer.enlist([IBM]),
        market.writer.heartbeat,
    ):
        with pytest.raises(SegmentError, match="the parent process's"):
            late()
    market.writer.close()
    assert image(market.writer) == before
    assert market.path.exists()


def test_closing_twice_is_harmless(market: Market) -> None:
    """With or without the file."""
    market.writer.close()
    market.writer.close()
    assert not market.path.exists()


# -- anonymous memory ------------------------------------------------------------------------


def test_an_anonymous_writer_does_what_the_other_does(make_market: MakeMarket) -> None:
    """Word for word, but for its identity."""
    market = make_market()
    clock = FixedClock()
    market.writer._clock = clock
    other = SegmentWriter.anonymous(market.spec, clock)
    assert other.path is None
    assert other.size == market.writer.size
    for writer in (market.writer, other):
        writer.enlist([AAPL, IBM, SONY])
        writer.write_data(
            Batch(
                5,
                [tick(ALL, 90, 1.0)],
                [History("1m", 1, make_bars(0, 9, step_ms=60_000), forming=True, replace=True)],
                [make_quotes(ALL, 3.0)],
            )
        )
        for number in range(91, 190):
            writer.write_data(Batch(number, [tick(ALL, number, 1.0)]))
        writer.write_data(Batch(200, removed=[1]))
        writer.enlist([Ticker(f"T{i}", "USD", NEW_YORK) for i in range(5)])
        writer.write_data(Batch(201, quotes=[make_quotes(at(6), 3.0)]))
        writer.heartbeat()
    assert other.epoch == market.writer.epoch
    assert other.tickers == market.writer.tickers
    buffer = other.epoch >> 1 & 1
    for mine, its in (
        (other._map.quotes[buffer], market.writer._map.quotes[buffer]),
        (other._map.series[buffer][0], market.writer._map.series[buffer][0]),
        (other._map.entries[0], market.writer._map.entries[0]),
        (other._map.headers[buffer], market.writer._map.headers[buffer]),
    ):
        assert mine.any()
        assert np.array_equal(mine, its)
    for interval in ("1d", "1m"):
        for row in range(3):
            assert_bars(other.history(row, interval)[0], market.writer.history(row, interval)[0])
    other.close()
    other.close()


def test_the_specification_of_a_segment_is_what_it_was_given(tmp_path: Any) -> None:
    """And a copy of it can be changed."""
    spec = spec_in(tmp_path)
    assert replace(spec, name="x").path == tmp_path / "x"


def test_a_heartbeat_is_stamped_by_both_clocks(market: Market) -> None:
    """So that readers can tell a hung writer from a live one."""
    market.clock.shift_ms = 123_456
    market.writer.heartbeat()
    block = market.writer._map.superblock
    assert 0 <= market.clock.boot_ms() - int(block["heartbeat_boot_ms"]) < 60_000
    assert 0 <= market.clock.wall_ms() - int(block["heartbeat_ms"]) < 60_000


def test_entries_say_what_people_and_classic_readers_look_for(market: Market) -> None:
    """Version, pid, and an even epoch that goes up with each commit that changes the entry."""
    market.publish(ticks=[tick(at(0), 0, 1.0)])
    market.publish(ticks=[tick(ALL, 0, 1.0)])
    entries = market.writer._map.entries[0].view(layout.ENTRY)[:, 0]
    assert entries["version"].tolist() == [layout.LAYOUT_VERSION] * 4
    assert entries["writer_pid"].tolist() == [os.getpid()] * 4
    assert entries["epoch"].tolist() == [4, 2, 2, 0]
    assert isinstance(market.reader(), StockDataReader)
