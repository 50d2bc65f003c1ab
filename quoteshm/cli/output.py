"""What the command prints: tables for people, NDJSON and CSV for programs.

Machine formats carry every field in full, by the names of the wire; a table rounds, aligns, colours
and leaves out the columns that the terminal has no room for.
"""

from __future__ import annotations

import datetime as dt
import enum
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec

from quoteshm.model import Quote
from quoteshm.text import printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

NOTHING: Final = "-"
STALE_STYLE: Final = "yellow"
UP_STYLE: Final = "green"
DOWN_STYLE: Final = "red"

_GAP: Final = 2
_WRAPPED_WIDTH: Final = 30
_ANY_WIDTH: Final = 100_000
_MS: Final = 1000
_AGES: Final = ((1, "s"), (60, "min"), (3600, "h"), (86_400, "d"))
_QUOTE_FIELDS: Final = Quote.__struct_fields__


class Format(enum.StrEnum):
    """How data is printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"

    @classmethod
    def choose(cls, forced: str | None) -> Format:
        """Give what was asked for, or a table on a terminal and NDJSON elsewhere."""
        if forced is not None:
            return cls(forced)
        return cls.TABLE if sys.stdout.isatty() else cls.JSON


# -- for programs ----------------------------------------------------------------------------


def print_json(documents: Iterable[object]) -> None:
    """Print one JSON document a line; NaN is null."""
    encoder = msgspec.json.Encoder()
    for document in documents:
        sys.stdout.write(encoder.encode(document).decode() + "\n")


def print_csv(fields: Sequence[str], rows: Iterable[Iterable[object]]) -> None:
    """Print a heading and rows; NaN and None are empty, truth values are as in JSON."""
    print_csv_rows([fields])
    print_csv_rows(rows)


def print_csv_rows(rows: Iterable[Iterable[object]]) -> None:
    """Print rows without a heading."""
    import csv  # noqa: PLC0415 (start-up time)

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerows([_csv_cell(value) for value in row] for row in rows)


def _csv_cell(value: object) -> object:
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    return value


def print_quotes(quotes: Sequence[Quote], forced: Format) -> None:
    """Print quotes, in their order."""
    if forced is Format.JSON:
        print_json(quotes)
    elif forced is Format.CSV:
        print_csv(_QUOTE_FIELDS, map(msgspec.structs.astuple, quotes))
    else:
        print_table(quote_columns(quotes, now_ms()))


# -- words -----------------------------------------------------------------------------------


def now_ms() -> int:
    """Give the time, milliseconds since the Unix epoch."""
    return int(dt.datetime.now(dt.UTC).timestamp() * _MS)


def age(ms: int) -> str:
    """Say how long something takes or is ago, to the unit that matters."""
    seconds = max(0, ms) / _MS
    size, unit = next(((s, u) for s, u in reversed(_AGES) if seconds >= s), _AGES[0])
    figure = seconds / size
    return f"{figure:.1f} {unit}" if figure < 10 else f"{figure:.0f} {unit}"  # noqa: PLR2004 (two digits)


def local_times(stamps: Sequence[int | None], *, date: bool | None = None) -> tuple[str, list[str]]:
    """Show moments in this machine's zone.

    Parameters
    ----------
    stamps : sequence of int or None
        Milliseconds since the Unix epoch; None for one that has not come.
    date : bool, optional
        Whether to show dates; if any is not of today, unless given.

    Returns
    -------
    str, list of str
        The zone's name, empty when the moments differ in it (they carry it themselves then).

    """
    moments = [None if ms is None else _moment(ms) for ms in stamps]
    known = [moment for moment in moments if moment is not None]
    today = dt.datetime.now(dt.UTC).astimezone().date()
    if date is None:
        date = any(moment.date() != today for moment in known)
    pattern = "%Y-%m-%d %H:%M:%S" if date else "%H:%M:%S"
    names = {moment.tzname() or "" for moment in known}
    if len(names) > 1:
        pattern += " %Z"
    shown = [NOTHING if moment is None else moment.strftime(pattern) for moment in moments]
    return names.pop() if len(names) == 1 else "", shown


def local_time(ms: int) -> str:
    """Show one moment in this machine's zone, which it names."""
    zone, (shown,) = local_times([ms], date=True)
    return f"{shown} {zone}"


def _moment(ms: int) -> dt.datetime:
    try:
        return dt.datetime.fromtimestamp(ms / _MS, dt.UTC).astimezone()
    except (OverflowError, OSError, ValueError):  # beyond the years of the calendar
        return dt.datetime.fromtimestamp(0, dt.UTC)


def prices(values: Sequence[float], like: Sequence[float] | None = None) -> list[str]:
    """Show prices of one column: two decimals, more for small ones, the points in line.

    Parameters
    ----------
    values : sequence of float
        The column.
    like : sequence of float, optional
        Prices that the values are differences of: to as many decimals as these, and with a sign.

    """
    sign = "" if like is None else "+"
    places = [_places(value) for value in (values if like is None else like)]
    widest = max(places, default=0)
    return [
        NOTHING + " " * widest
        if not math.isfinite(value)
        else f"{value:{sign},.{count}f}" + " " * (widest - count)
        for value, count in zip(values, places, strict=True)
    ]


def _places(value: float) -> int:
    if not math.isfinite(value) or value == 0 or abs(value) >= 1:
        return 2
    return min(8, 3 - math.floor(math.log10(abs(value))))


def volume(value: float) -> str:
    """Show a volume."""
    return f"{value:,.0f}" if math.isfinite(value) else NOTHING


def change(quote: Quote) -> tuple[float, float]:
    """Give the change since the previous close: absolute, and in percent; NaN where unknown."""
    difference = quote.price - quote.prev_close
    return difference, 100 * difference / quote.prev_close if quote.prev_close else math.nan


# -- tables ----------------------------------------------------------------------------------


@dataclass(slots=True)
class Column:
    """A column of a table: its cells as text, with a style or without."""

    heading: str
    cells: Sequence[str | Text]
    numeric: bool = False
    rank: int = 0  # the columns of the highest rank are left out first, those of rank 0 never
    min_width: int = 0
    wraps: bool = False  # whether its cells may take several lines

    @property
    def width(self) -> int:
        """The room it needs."""
        cells = max(map(_width, self.cells), default=0)
        if self.wraps:
            cells = min(cells, _WRAPPED_WIDTH)
        return max(self.min_width, len(self.heading), cells)


def _width(cell: str | Text) -> int:
    return len(cell) if isinstance(cell, str) and cell.isascii() else _cell_width(cell)


def _cell_width(cell: str | Text) -> int:
    from rich.cells import cell_len  # noqa: PLC0415 (start-up time)

    return cell_len(str(cell))


def fit(columns: Sequence[Column], width: int) -> list[Column]:
    """Leave out the columns there is no room for."""
    kept = [(column, column.width) for column in columns]
    while sum(w + _GAP for _, w in kept) - _GAP > width:
        rank = max(column.rank for column, _ in kept)
        if rank == 0:
            break
        kept = [(column, w) for column, w in kept if column.rank != rank]
    return [column for column, _ in kept]


def make_table(columns: Sequence[Column]) -> Table:
    """Lay columns out as a table without lines."""
    from rich.table import Table  # noqa: PLC0415 (start-up time)
    from rich.text import Text  # noqa: PLC0415 (the same)

    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    laid_out: list[list[Text]] = []
    for column in columns:
        # As Text, so that nothing in it is taken for markup; padded here, since rich would strip
        # the spaces that keep decimal points in line.
        texts = [Text(cell) if isinstance(cell, str) else cell.copy() for cell in column.cells]
        texts.insert(0, Text(column.heading))
        width = column.width
        for text in texts if column.numeric else ():
            text.pad_left(width - text.cell_len)
        # A fixed width spares rich measuring every cell.
        if column.wraps:
            table.add_column(texts[0], overflow="fold")
        else:
            table.add_column(texts[0], no_wrap=True, width=width)
        laid_out.append(texts[1:])
    for row in zip(*laid_out, strict=True):
        table.add_row(*row)
    return table


def console() -> Console:
    """Make a console on standard output; NO_COLOR is heeded."""
    from rich.console import Console  # noqa: PLC0415 (start-up time)

    return Console(highlight=False, markup=False, emoji=False, soft_wrap=False)


def print_table(columns: Sequence[Column]) -> None:
    """Print a table, cut to the terminal's width, and elsewhere to COLUMNS if that is set."""
    print_drawn(lambda width: make_table(columns if width is None else fit(columns, width)))


def print_drawn(draw: Callable[[int | None], RenderableType]) -> None:
    """Print what is drawn for the terminal's width.

    Elsewhere it is drawn for the width that COLUMNS says, or for none, without trailing space.
    """
    screen = console()
    if sys.stdout.isatty():
        screen.print(draw(screen.width))
        return
    told = os.environ.get("COLUMNS", "")
    width = int(told) if told.isascii() and told.isdigit() and 0 < int(told) < _ANY_WIDTH else None
    screen.width = width or _ANY_WIDTH
    with screen.capture() as capture:
        screen.print(draw(width))
    sys.stdout.writelines(line.rstrip() + "\n" for line in capture.get().splitlines())


def state(quote: Quote, at_ms: int) -> Text:
    """Say whether a quote is fresh, in a word; a stale one says since when."""
    from rich.text import Text  # noqa: PLC0415 (start-up time)

    if quote.stale:
        return Text(f"STALE {age(at_ms - quote.updated_ms)}", style=f"bold {STALE_STYLE}")
    return Text("fresh", style="dim")


def quote_columns(quotes: Sequence[Quote], at_ms: int) -> list[Column]:
    """Give the columns of a table of quotes.

    Parameters
    ----------
    quotes : sequence of Quote
        The rows.
    at_ms : int
        Now, milliseconds since the Unix epoch.

    """
    from rich.text import Text  # noqa: PLC0415 (start-up time)

    changes = [change(quote) for quote in quotes]
    styles = [_direction_style(difference) for difference, _ in changes]
    differences = prices([difference for difference, _ in changes], [q.price for q in quotes])
    percents = [f"{p:+.2f} %" if math.isfinite(p) else NOTHING for _, p in changes]
    zone, times = local_times([quote.ts_epoch_ms for quote in quotes])

    def styled(texts: Sequence[str]) -> list[Text]:
        return [Text(text, style) for text, style in zip(texts, styles, strict=True)]

    def figures(heading: str, field: str, rank: int) -> Column:
        return Column(heading, prices([getattr(q, field) for q in quotes]), numeric=True, rank=rank)

    return [
        Column("TICKER", [Text(printable(quote.ticker), "bold") for quote in quotes]),
        figures("PRICE", "price", 0),
        Column("CHANGE", styled(differences), numeric=True, rank=3),
        Column("CHANGE %", styled(percents), numeric=True, rank=1),
        figures("OPEN", "open", 5),
        figures("HIGH", "high", 4),
        figures("LOW", "low", 4),
        Column("VOLUME", [volume(q.volume) for q in quotes], numeric=True, rank=3),
        Column("CUR", [printable(q.currency) or NOTHING for q in quotes], rank=6),
        Column(f"AS OF ({zone})" if zone else "AS OF", times, rank=2),
        Column("STATE", [state(quote, at_ms) for quote in quotes]),
    ]


def _direction_style(difference: float) -> str:
    if difference > 0:
        return UP_STYLE
    return DOWN_STYLE if difference < 0 else ""


# -- documents -------------------------------------------------------------------------------


def flatten(document: Mapping[str, Any], prefix: str = "") -> list[tuple[str, object]]:
    """Give the leaves of a document by their dotted names."""
    leaves: list[tuple[str, object]] = []
    for key, value in document.items():
        if isinstance(value, dict) and value:
            leaves += flatten(value, f"{prefix}{key}.")
        else:
            leaves.append((prefix + key, value))
    return leaves
