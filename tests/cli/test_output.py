"""Tests of tables, figures and words."""

from __future__ import annotations

import io
import math
import time
from typing import TYPE_CHECKING

import pytest
from rich.console import Console
from rich.text import Text

from quoteshm.cli import output
from quoteshm.cli.output import Column
from quoteshm.model import Quote

if TYPE_CHECKING:
    from collections.abc import Iterator

NAN = math.nan
WINTER_MS = 1_767_225_600_000  # 2026-01-01 00:00 UTC
SUMMER_MS = WINTER_MS + 181 * 86_400_000  # 2026-07-01 00:00 UTC


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put this machine in a zone with a summer time."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def a_quote(ticker: str = "AAPL", price: float = 101.0, **named: object) -> Quote:
    """Make a quote."""
    fields: dict[str, object] = {
        "open": 99.0,
        "high": 102.0,
        "low": 98.0,
        "prev_close": 100.0,
        "volume": 1234.0,
        "currency": "USD",
        "ts_epoch_ms": WINTER_MS,
        "updated_ms": WINTER_MS,
        "stale": False,
        "source": "synthetic",
    }
    return Quote(ticker, price, **{**fields, **named})  # type: ignore[arg-type]


def drawn(columns: list[Column], width: int = 200) -> list[str]:
    """Draw a table as plain lines."""
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    with console.capture() as capture:
        console.print(output.make_table(columns))
    return [line.rstrip() for line in capture.get().splitlines()]


@pytest.mark.parametrize(
    ("ms", "words"),
    [
        (-5, "0.0 s"),
        (400, "0.4 s"),
        (12_300, "12 s"),
        (90_000, "1.5 min"),
        (7_200_000, "2.0 h"),
        (86_400_000 * 40, "40 d"),
    ],
)
def test_an_age_is_told_to_the_unit_that_matters(ms: int, words: str) -> None:
    """Seconds, minutes, hours, days; never less than nothing."""
    assert output.age(ms) == words


def test_the_decimal_points_of_a_column_are_in_line() -> None:
    """Small prices have more decimals; what is missing is a dash."""
    column = Column("P", output.prices([1234.5, 0.01234, NAN, 0.0]), numeric=True)

    lines = drawn([column])[1:]

    assert lines == ["1,234.50", "    0.01234", "     -", "    0.00"]


def test_a_change_has_the_decimals_of_its_price() -> None:
    """A small change of a great price is not shown to many decimals; it has a sign."""
    assert output.prices([0.01234, -3.0], [350.0, 300.0]) == ["+0.01", "-3.00"]


def test_columns_that_do_not_fit_are_left_out_by_rank() -> None:
    """The least important first, until there is room; never the essential ones."""
    columns = [Column("A", ["x" * 10]), Column("B", ["x" * 10], rank=1), Column("C", ["x"], rank=2)]

    def kept(width: int) -> str:
        return "".join(column.heading for column in output.fit(columns, width))

    assert [kept(width) for width in (25, 24, 22, 21, 1)] == ["ABC", "AB", "AB", "A", "A"]


def test_a_text_is_not_taken_for_markup() -> None:
    """Brackets stay brackets."""
    assert drawn([Column("T", ["[bold]x"])])[1] == "[bold]x"


def test_a_wide_character_keeps_the_columns_in_line() -> None:
    """Widths are those of the terminal's cells."""
    lines = drawn([Column("T", ["日本", "ab"], numeric=True), Column("U", [Text("1"), "2"])])

    assert lines[1].startswith("日本  1")
    assert lines[2].startswith("  ab  2")


@pytest.mark.usefixtures("berlin")
def test_times_name_their_zone_once_or_each() -> None:
    """One zone for all is told apart; summer and winter time stand beside each moment."""
    assert output.local_times([WINTER_MS, None], date=True) == (
        "CET",
        ["2026-01-01 01:00:00", "-"],
    )
    zone, times = output.local_times([WINTER_MS, SUMMER_MS])
    assert zone == ""
    assert times == ["2026-01-01 01:00:00 CET", "2026-07-01 02:00:00 CEST"]
    assert output.local_time(SUMMER_MS) == "2026-07-01 02:00:00 CEST"


@pytest.mark.usefixtures("berlin")
def test_a_time_of_today_needs_no_date() -> None:
    """And one that no calendar holds is no error."""
    _, (now,) = output.local_times([output.now_ms()])
    _, (never,) = output.local_times([1 << 62])

    assert len(now) == len("12:34:56")
    assert never.startswith("1970-01-01")


def test_a_quote_is_one_row_whose_stale_value_is_marked() -> None:
    """In words and in colour, with its age."""
    fresh, stale = a_quote(), a_quote("MSFT", NAN, prev_close=NAN, stale=True)

    columns = output.quote_columns([fresh, stale], WINTER_MS + 90_000)
    lines = drawn(columns)

    assert lines[1].split()[:4] == ["AAPL", "101.00", "+1.00", "+1.00"]
    assert lines[1].rstrip().endswith("fresh")
    assert lines[2].split()[:4] == ["MSFT", "-", "-", "-"]
    assert lines[2].rstrip().endswith("STALE 1.5 min")
    word = columns[-1].cells[1]
    assert isinstance(word, Text)
    assert output.STALE_STYLE in str(word.style)


def test_a_previous_close_of_nothing_gives_no_percentage() -> None:
    """No division by zero."""
    difference, percent = output.change(a_quote(prev_close=0.0))

    assert difference == 101.0
    assert math.isnan(percent)


def test_a_document_is_flattened_to_its_leaves() -> None:
    """Names are dotted; what is empty stays."""
    assert output.flatten({"a": {"b": 1, "c": {}}, "d": None}) == [
        ("a.b", 1),
        ("a.c", {}),
        ("d", None),
    ]
