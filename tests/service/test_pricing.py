"""What a quote is made of: bars, ticks, prices without bars, and what was published before."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from quoteshm.model import DAY_MS, MINUTE_MS, SeriesKind, Ticker
from quoteshm.service.pricing import CACHED_MS
from quoteshm.sources.base import LastPrice, Series, TickerBars, TickerPrices
from tests.published import NOW_MS
from tests.service.desk import TODAY, Desk, bars, days, ticks

NAN = float("nan")
MIXED = (SeriesKind("1d", 10), SeriesKind("1m", 100))


# -- of bars ---------------------------------------------------------------------------------


def test_the_price_of_a_closed_bar_was_made_at_its_end_at_the_latest() -> None:
    """An old bar does not look fresh."""
    desk = Desk()
    old = TODAY - 9 * DAY_MS

    desk.publisher.publish([days("AAPL", 1.0, 2.0, forming=False, last=old)])

    assert desk.quote("AAPL")["ts_ms"] == old + DAY_MS


def test_the_sources_own_last_price_counts_before_its_bars() -> None:
    """All of it, with the time it was made."""
    desk = Desk()
    answer = days("AAPL", 1.0, 2.0)
    last = LastPrice(2.5, NOW_MS - 7, 2.1, 2.6, 2.0, 99.0, 1.1)

    desk.publisher.publish([TickerBars(answer.ticker, answer.series, last)])

    quote = desk.quote("AAPL")
    assert [quote[name] for name in ("price", "ts_ms", "open", "high", "low", "volume")] == (
        [2.5, NOW_MS - 7, 2.1, 2.6, 2.0, 99.0]
    )
    assert quote["prev_close"] == 1.1


def test_a_minute_bar_gives_the_price_and_the_days_bar_the_rest() -> None:
    """The finest price, in its day; the day's reach holds it."""
    desk = Desk(MIXED)
    minute = NOW_MS // MINUTE_MS * MINUTE_MS - MINUTE_MS
    answer = days("AAPL", 1.0, 50.0)
    series = {**answer.series, "1m": Series(bars([minute], [60.0]), forming=False)}

    desk.publisher.publish([TickerBars(answer.ticker, series)])

    quote = desk.quote("AAPL")
    assert (quote["price"], quote["ts_ms"]) == (60.0, minute + MINUTE_MS)
    assert (quote["open"], quote["high"], quote["low"]) == (49.0, 60.0, 47.0)
    assert (quote["volume"], quote["prev_close"]) == (500.0, 1.0)


def test_minutes_of_a_day_that_has_no_bar_yet_are_the_day() -> None:
    """Before the vendor shows today's bar, yesterday's close is the previous one."""
    desk = Desk(MIXED)
    answer = days("AAPL", 1.0, 2.0, forming=False, last=TODAY - DAY_MS)
    minutes = bars([TODAY, TODAY + MINUTE_MS], [5.0, 4.0])

    today = Series(minutes, forming=True)
    desk.publisher.publish([TickerBars(answer.ticker, {**answer.series, "1m": today})])

    quote = desk.quote("AAPL")
    assert (quote["price"], quote["prev_close"]) == (4.0, 2.0)
    assert (quote["open"], quote["high"], quote["low"]) == (4.0, 7.0, 1.0)
    assert quote["volume"] == 90.0


# -- what says nothing new of the price ------------------------------------------------------


def last(price: float, ts_ms: int) -> LastPrice:
    """Make a last price."""
    return LastPrice(price, ts_ms, price - 1, price + 2, price - 3, 100.0, 1.0)


def live(price: float, ts_ms: int) -> TickerPrices:
    """Answer with a price of the stream."""
    return TickerPrices(("A",), np.array([ts_ms]), np.array([[NAN, NAN, NAN, price, NAN, NAN]]))


def test_an_answer_without_todays_bar_makes_no_price_new() -> None:
    """Its last row was NaN: the price stays as old as it is, and live prices come through."""
    desk = Desk()
    made_ms = NOW_MS - 10 * MINUTE_MS
    desk.publisher.publish([replace(days("A", 10.0, 11.0), last_price=last(11.0, made_ms))])
    before = desk.quote("A")
    yesterday = days("A", 10.0, forming=False, last=TODAY - DAY_MS)
    for answer in (yesterday, replace(yesterday, whole=True)):
        desk.clock.now_ms += MINUTE_MS
        desk.publisher.publish([answer])
        now = desk.quote("A")
        assert {name: now[name] for name in ("price", "ts_ms")} == {
            "price": before["price"],
            "ts_ms": made_ms,
        }
        assert now["updated_ms"] == desk.clock.now_ms  # it was asked for, and answered
    desk.publisher.publish([live(15.0, made_ms + 1)])
    assert desk.quote("A")["price"] == 15.0
    desk.publisher.publish([yesterday])
    assert desk.quote("A")["price"] == 15.0


def test_a_split_makes_the_price_anew_also_without_todays_bar() -> None:
    """Nothing of before fits to it."""
    desk = Desk()
    desk.publisher.publish([replace(days("A", 10.0, 11.0), last_price=last(11.0, NOW_MS - 5))])
    split = days("A", 5.0, forming=False, last=TODAY - DAY_MS)
    desk.publisher.publish([replace(split, whole=True, cause="split")])
    assert desk.quote("A")["price"] == 5.0


def test_an_answer_out_of_a_cache_takes_nothing_back() -> None:
    """Neither price nor forming bar; but one that stays older for half an hour is right."""
    desk = Desk()
    made_ms = NOW_MS - 10 * MINUTE_MS
    new = replace(days("A", 10.0, 11.0), last_price=last(11.0, made_ms))
    old = replace(days("A", 10.5, 10.7), last_price=last(10.7, made_ms - 5 * MINUTE_MS))
    desk.publisher.publish([new])
    desk.publisher.publish([old])
    assert (desk.quote("A")["price"], desk.quote("A")["ts_ms"]) == (11.0, made_ms)
    assert desk.closes("A") == [10.5, 11.0]  # a closed bar is as the answer says, as ever
    desk.clock.now_ms += CACHED_MS - 1
    desk.publisher.publish([old])
    assert desk.quote("A")["price"] == 11.0
    desk.clock.now_ms += 1
    desk.publisher.publish([old])
    assert (desk.quote("A")["price"], desk.closes("A")) == (10.7, [10.5, 10.7])
    desk.publisher.publish([new])
    desk.clock.now_ms -= DAY_MS  # set back: nothing of before is a measure
    desk.publisher.publish([old])
    assert desk.quote("A")["price"] == 10.7


def test_an_older_answer_that_brings_a_split_is_taken() -> None:
    """All prices are others then."""
    desk = Desk()
    desk.publisher.publish([replace(days("A", 10.0, 12.0), last_price=last(12.0, NOW_MS - 5))])
    half = replace(days("A", 5.0, 6.0), last_price=last(6.0, NOW_MS - 9))
    desk.publisher.publish([replace(half, whole=True, cause="split")])
    assert (desk.quote("A")["price"], desk.closes("A")) == (6.0, [5.0, 6.0])


def test_a_price_of_times_to_come_makes_no_other_late() -> None:
    """However it came there."""
    desk = Desk()
    desk.publisher.publish([replace(days("A", 1.0, 2.0), last_price=last(2.0, NOW_MS + DAY_MS))])
    desk.publisher.publish([live(3.0, NOW_MS)])
    assert (desk.quote("A")["price"], desk.quote("A")["ts_ms"]) == (3.0, NOW_MS)
    assert desk.publisher.counts.late_prices == 0


# -- of ticks --------------------------------------------------------------------------------


def test_a_tick_of_a_new_day_takes_the_closing_bars_close_for_the_previous_one() -> None:
    """Also where all bars were closed already, and where a ticker was never seen before."""
    desk = Desk()
    closed = days("B", 1.0, 2.0, forming=False, last=TODAY - DAY_MS)
    desk.publisher.publish([days("A", 1.0, 2.0), closed])

    tickers = ("A", "B", "C")
    desk.publisher.publish([ticks(tickers, [3.0, 4.0, 5.0], TODAY + DAY_MS)])

    assert [desk.quote(ticker)["prev_close"] for ticker in "AB"] == [2.0, 2.0]
    assert np.isnan(desk.quote("C")["prev_close"])
    assert desk.closes("B") == [1.0, 2.0, 4.0]


def test_of_the_ticks_of_several_intervals_the_days_make_the_quote() -> None:
    """One commit for all of them; the order in which they came does not matter."""
    for turned in (False, True):
        desk = Desk(MIXED)
        tickers = ("A", "B")
        results = [ticks(tickers, [3.0, 4.0]), ticks(tickers, [3.5, 4.5], NOW_MS, "1m")]

        desk.publisher.publish(results[::-1] if turned else results)

        assert desk.quote("A")["price"] == 3.0
        assert desk.closes("A", "1m") == [3.5]
        assert desk.writer.epoch == 2


def test_a_minutes_tick_alone_keeps_the_day() -> None:
    """Price and reach are new; the day's open, volume and previous close stay."""
    desk = Desk(MIXED)
    desk.publisher.publish([days("A", 1.0, 20.0)])

    desk.publisher.publish([ticks(("A",), [30.0], NOW_MS, "1m")])

    quote = desk.quote("A")
    assert (quote["price"], quote["open"], quote["high"], quote["low"]) == (30.0, 19.0, 32.0, 17.0)
    assert (quote["volume"], quote["prev_close"]) == (200.0, 1.0)


# -- of prices without bars ------------------------------------------------------------------


def price(ticker: str, ts_ms: int, *values: float) -> TickerPrices:
    """Answer with a price without bars; values as those of a quote."""
    return TickerPrices((ticker,), np.array([ts_ms]), np.array([values]))


def live_desk() -> Desk:
    """Give a desk with bars of yesterday and today, whose last price was made at noon."""
    desk = Desk()
    noon = LastPrice(3.0, NOW_MS, 2.0, 5.0, 0.0, 30.0, 2.0)
    history = days("AAPL", 1.0, 2.0, 3.0)
    desk.publisher.publish([TickerBars(history.ticker, history.series, noon)])
    return desk


def values_of(desk: Desk, ticker: str = "AAPL") -> tuple[float, ...]:
    """Give a quote: open, high, low, price, volume, previous close."""
    quote = desk.quote(ticker)
    return tuple(quote[name] for name in ("open", "high", "low", "price", "volume", "prev_close"))


def test_a_live_price_keeps_what_it_does_not_say_of_the_day() -> None:
    """And moves high and low where it is beyond them."""
    desk = live_desk()
    epoch = desk.publisher.publish([price("AAPL", NOW_MS + 1, NAN, NAN, NAN, 4.0, NAN, NAN)]).epoch
    assert values_of(desk) == (2.0, 5.0, 0.0, 4.0, 30.0, 2.0)
    assert desk.quote("AAPL")["ts_ms"] == NOW_MS + 1
    assert desk.writer.epoch == epoch

    desk.publisher.publish([price("AAPL", NOW_MS + 2, NAN, NAN, NAN, 6.0, 31.0, NAN)])
    assert values_of(desk) == (2.0, 6.0, 0.0, 6.0, 31.0, 2.0)
    desk.publisher.publish([price("AAPL", NOW_MS + 3, 2.5, 7.0, -1.0, 6.5, 32.0, 2.5)])
    assert values_of(desk) == (2.0, 7.0, -1.0, 6.5, 32.0, 2.0)
    assert desk.closes("AAPL") == [1.0, 2.0, 3.0]  # its bars are the refreshes'


def test_a_live_price_never_goes_back_in_time() -> None:
    """It is dropped and counted; one of the same moment is not older."""
    desk = live_desk()
    epoch = desk.writer.epoch
    outcome = desk.publisher.publish([price("AAPL", NOW_MS - 1, NAN, NAN, NAN, 9.0, NAN, NAN)])
    assert (outcome.epoch, outcome.refused) == (epoch, {})
    assert values_of(desk)[3] == 3.0
    assert desk.publisher.counts.late_prices == 1
    desk.publisher.publish([price("AAPL", NOW_MS, NAN, NAN, NAN, 4.0, NAN, NAN)])
    assert values_of(desk)[3] == 4.0


def test_a_live_price_waits_for_bars() -> None:
    """These tell its currency and its time zone."""
    desk = live_desk()
    both = TickerPrices(
        ("NEW", "AAPL"),
        np.full(2, NOW_MS + 1),
        np.array([[NAN, NAN, NAN, 9.0, NAN, NAN], [NAN, NAN, NAN, 4.0, NAN, NAN]]),
    )
    assert desk.publisher.publish([both]).refused == {}
    assert "NEW" not in desk.writer.row_of
    assert values_of(desk)[3] == 4.0
    assert desk.publisher.counts.early_prices == 1


def test_a_live_price_of_the_next_day_begins_it() -> None:
    """By the midnight of its exchange; what is not said of the new day is unknown."""
    desk = Desk()
    zone = "America/New_York"
    history = days("AAPL", 1.0, 2.0)
    noon = LastPrice(3.0, NOW_MS, 2.0, 5.0, 0.0, 30.0, 2.0)  # 17:13 in New York
    desk.publisher.publish([TickerBars(Ticker("AAPL", "USD", zone), history.series, noon)])
    midnight = NOW_MS - NOW_MS % DAY_MS + DAY_MS + 5 * 60 * MINUTE_MS

    desk.publisher.publish([price("AAPL", midnight - 1, NAN, NAN, NAN, 4.0, NAN, NAN)])
    assert values_of(desk) == (2.0, 5.0, 0.0, 4.0, 30.0, 2.0)
    desk.publisher.publish([price("AAPL", midnight, NAN, NAN, NAN, 7.0, NAN, 4.0)])
    np.testing.assert_array_equal(values_of(desk), (NAN, 7.0, 7.0, 7.0, NAN, 4.0))


def test_a_refresh_does_not_take_a_later_live_price_back() -> None:
    """It brings its bars, and what it knows of the day."""
    desk = live_desk()
    desk.publisher.publish([price("AAPL", NOW_MS + 10, NAN, NAN, NAN, 6.0, 40.0, NAN)])

    older = LastPrice(4.0, NOW_MS + 5, 2.5, 5.5, 0.5, 35.0, 1.5)
    history = days("AAPL", 1.0, 2.0, 4.0)
    desk.publisher.publish([TickerBars(history.ticker, history.series, older)])

    assert desk.quote("AAPL")["ts_ms"] == NOW_MS + 10
    assert values_of(desk) == (2.5, 6.0, 0.0, 6.0, 40.0, 1.5)
    assert desk.closes("AAPL") == [1.0, 2.0, 4.0]
    newer = LastPrice(4.5, NOW_MS + 20, 2.5, 6.5, 0.5, 45.0, 1.5)
    desk.publisher.publish([TickerBars(history.ticker, history.series, newer)])
    assert values_of(desk) == (2.5, 6.5, 0.5, 4.5, 45.0, 1.5)


def test_a_refresh_with_the_day_before_leaves_a_live_price_alone() -> None:
    """But confirms it."""
    desk = live_desk()
    tomorrow = NOW_MS + DAY_MS
    desk.publisher.publish([price("AAPL", tomorrow, 8.0, 8.0, 8.0, 8.0, 1.0, 3.0)])
    desk.clock.now_ms = tomorrow + 50

    older = LastPrice(4.0, NOW_MS + 5, 2.5, 5.5, 0.5, 35.0, 1.5)
    history = days("AAPL", 1.0, 2.0, 4.0)
    desk.publisher.publish([TickerBars(history.ticker, history.series, older)])

    assert values_of(desk) == (8.0, 8.0, 8.0, 8.0, 1.0, 3.0)
    assert desk.quote("AAPL")["updated_ms"] == tomorrow + 50
