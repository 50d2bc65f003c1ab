"""Tests of the live table, without a terminal."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from quoteshm.cli.top import Board, Look, Sort, Writer
from tests.cli.test_output import WINTER_MS, a_quote

if TYPE_CHECKING:
    from quoteshm.model import Quote
    from quoteshm.shm.reader import WriterStatus

NAN = math.nan


def seen(epoch: int, *quotes: Quote, status: WriterStatus = "live") -> Look:
    """Make what was read."""
    writer = Writer(status, 4711)
    by_ticker = {quote.ticker: quote for quote in quotes}
    return Look("shm0", "synthetic", writer, epoch, WINTER_MS, WINTER_MS + 500, by_ticker)


def screen(board: Board, look: Look, width: int = 120, height: int = 10) -> list[str]:
    """Draw a screen as lines, colours included."""
    console = Console(
        file=io.StringIO(),
        width=width,
        height=height,
        force_terminal=True,
        color_system="standard",
        legacy_windows=False,
        _environ={},
    )
    with console.capture() as capture:
        console.print(board.frame(look, console), end="")
    return capture.get().splitlines()


def tickers(board: Board) -> list[str]:
    """Give the tickers in the order of the rows."""
    return [quote.ticker for quote in board.rows()]


def test_a_price_that_moved_is_coloured_and_has_an_arrow() -> None:
    """Green and up, red and down; bold only at the epoch of the move."""
    board = Board()
    board.update(seen(2, a_quote("UP", 1.0), a_quote("DOWN", 2.0), a_quote("STAYS", 3.0)))
    later = seen(4, a_quote("UP", 1.5), a_quote("DOWN", 1.5), a_quote("STAYS", 3.0))
    board.update(later)

    down, stays, up = screen(board, later)[3:6]

    assert "\x1b[1;31m▼ 1.50" in down
    assert "\x1b[1;32m▲ 1.50" in up
    assert "▲" not in stays
    assert "▼" not in stays

    unmoved = seen(6, *later.quotes.values())
    board.update(unmoved)
    down, _, up = screen(board, unmoved)[3:6]
    assert "\x1b[31m▼ 1.50" in down
    assert "\x1b[32m▲ 1.50" in up


def test_a_look_at_the_same_epoch_keeps_what_moved() -> None:
    """A key that is pressed does not make the last move pale."""
    board = Board()
    board.update(seen(2, a_quote("UP", 1.0)))
    for _ in range(2):
        later = seen(4, a_quote("UP", 1.5))
        board.update(later)

    assert "\x1b[1;32m▲ 1.50" in screen(board, later)[3]


def test_a_stale_value_is_labelled_in_words_and_colour() -> None:
    """In its row, and counted in the heading."""
    board, look = Board(), seen(2, a_quote("OLD", stale=True), a_quote("NEW"))
    board.update(look)

    lines = screen(board, look)

    assert "1 STALE" in lines[0]
    assert "STALE 0.5 s" in lines[4]
    assert "\x1b[33m" in lines[4]
    assert "fresh" in lines[3]


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("live", "writer live, process 4711"),
        ("hung", "WRITER HUNG: process 4711"),
        ("dead", "WRITER DEAD: process 4711"),
        ("closed", "WRITER CLOSED: the daemon has stopped"),
    ],
)
def test_the_writers_state_is_told_in_words(status: WriterStatus, words: str) -> None:
    """Also whether the values are being kept up to date."""
    board, look = Board(), seen(2, a_quote(), status=status)
    board.update(look)

    assert words in screen(board, look)[1]
    assert look.state.is_well == (status == "live")


def test_rows_are_sorted_by_key_and_turned_round_by_the_same_key() -> None:
    """Figures begin with the greatest, symbols with A; unknown values always come last."""
    board = Board()
    board.update(
        seen(
            2,
            a_quote("A", 5.0, volume=1.0, updated_ms=30),
            a_quote("B", NAN, volume=3.0, updated_ms=10),
            a_quote("C", 9.0, volume=2.0, updated_ms=20, prev_close=1.0),
        )
    )
    orders = {}
    for key in "pcvatt":
        board.press(key)
        first = "".join(tickers(board))
        board.press(key)
        orders[key] = first, "".join(tickers(board))

    assert orders == {
        "p": ("CAB", "ACB"),
        "c": ("CAB", "ACB"),
        "v": ("BCA", "ACB"),
        "a": ("BCA", "ACB"),
        "t": ("ABC", "CBA"),
    }


def test_the_heading_shows_what_is_sorted_by() -> None:
    """And which way."""
    board, look = Board(sort=Sort.VOLUME), seen(2, a_quote())
    board.update(look)
    assert "VOLUME v" in screen(board, look)[2]
    board.press("v")
    assert "VOLUME ^" in screen(board, look)[2]


def test_scrolling_stays_within_the_rows() -> None:
    """By row, by page, to both ends; the footing tells where one is."""
    look = seen(2, *(a_quote(f"T{n:02}") for n in range(20)))
    board = Board()
    board.update(look)

    def after(*keys: str) -> str:
        for key in keys:
            board.press(key)
        lines = screen(board, look)
        assert len(lines) == 10
        return lines[-1].split("   ")[0]

    assert after() == "1-6 of 20"
    assert after("down", "j", "up") == "2-7 of 20"
    assert after("pgdn") == "8-13 of 20"
    assert after("end") == "15-20 of 20"
    assert after("pgdn", "down") == "15-20 of 20"
    assert after("pgup") == "9-14 of 20"
    assert after("home", "up", "pgup") == "1-6 of 20"


@pytest.mark.parametrize("width", [1, 10, 40, 80, 300])
@pytest.mark.parametrize("height", [1, 5, 24, 60])
def test_a_screen_of_any_size_can_be_drawn(width: int, height: int) -> None:
    """Never more lines than a terminal of a usable size has."""
    look = seen(2, *(a_quote(f"T{n:02}", 1e6 + n) for n in range(20)))
    board = Board()
    board.update(look)

    lines = screen(board, look, width, height)

    assert len(lines) == max(5, height)


def test_columns_never_get_narrower() -> None:
    """So that the table does not jump when figures come and go."""
    board = Board()
    wide = seen(2, a_quote("A", 1e9))
    board.update(wide)
    before = screen(board, wide)[2]
    narrow = seen(4, a_quote("A", 1.0))
    board.update(narrow)

    assert screen(board, narrow)[2] == before


def test_only_the_tickers_asked_for_are_shown() -> None:
    """In the order of the sort; those without a value are named."""
    board, look = Board(["B", "X", "A"]), seen(2, *map(a_quote, "ABC"))

    assert board.update(look) == ["X"]
    assert tickers(board) == ["A", "B"]
    assert "no value: X" in screen(board, look, width=200)[0]


def test_a_market_without_tickers_is_an_empty_table() -> None:
    """Before the first batch."""
    board = Board()
    look = seen(0)._replace(last_update_ms=0)
    board.update(look)

    lines = screen(board, look)

    assert "never updated" in lines[0]
    assert "q quit" in lines[-1]
