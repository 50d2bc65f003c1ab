"""``quoteshm top``: the market live, out of shared memory or from a server.

A `Market` is looked at, `Board` decides what is to be seen, `watch` brings the two and a terminal
together.
"""

from __future__ import annotations

import contextlib
import enum
import math
import signal
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn, Protocol

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from quoteshm.cli import output
from quoteshm.cli.keys import HANGUP, Keyboard
from quoteshm.cli.output import DOWN_STYLE, STALE_STYLE, UP_STYLE, Column
from quoteshm.model import Quote
from quoteshm.shm.reader import StockDataReader, WriterStatus
from quoteshm.text import printable

if TYPE_CHECKING:
    from rich.console import Console

FRAME_S: Final = 0.2  # the shortest time between two frames: nobody reads faster
CLOCK_S: Final = 1.0  # the longest: ages grow without any news
_SLICE_S: Final = 0.05  # how long a key may go unheard

_ABOVE: Final = 3  # lines: two of the heading, the table's own
_BELOW: Final = 1
_SCROLL_BY_ONE: Final = {"up": -1, "k": -1, "down": 1, "j": 1}
_SCROLL_BY_PAGE: Final = {"pgup": -1, "pgdn": 1}
_QUIT: Final = ("q", "Q", HANGUP)


class Sort(enum.StrEnum):
    """What the rows can be sorted by; the first letter is its key."""

    TICKER = "ticker"
    PRICE = "price"
    CHANGE = "change"
    VOLUME = "volume"
    AGE = "age"


#: The table's column that shows what is sorted by, by how its heading begins.
_SORT_COLUMN: Final = {
    Sort.TICKER: "TICKER",
    Sort.PRICE: "PRICE",
    Sort.CHANGE: "CHANGE %",
    Sort.VOLUME: "VOLUME",
    Sort.AGE: "STATE",
}
_SORT_KEYS: Final = {sort.value[0]: sort for sort in Sort}

_HINTS: Final = "q quit   sort: t ticker  p price  c change %  v volume  a age   arrows scroll"


class Writer(NamedTuple):
    """How the writer is."""

    status: WriterStatus
    pid: int

    @property
    def is_well(self) -> bool:
        """Whether the values are being kept up to date."""
        return self.status == "live"

    @property
    def words(self) -> str:
        """The same for people."""
        match self.status:
            case "live":
                return f"writer live, process {self.pid}"
            case "hung":
                return (
                    f"WRITER HUNG: process {self.pid} is there, but shows no sign of life; "
                    "these are the last values"
                )
            case "dead":
                return (
                    f"WRITER DEAD: process {self.pid} went without a word; these are the last "
                    "values until a daemon carries on"
                )
            case "closed":
                return "WRITER CLOSED: the daemon has stopped; these are the last values"


class State(Protocol):
    """How whoever keeps the values up to date is."""

    @property
    def is_well(self) -> bool:
        """Whether the values are being kept up to date."""

    @property
    def words(self) -> str:
        """The same for people."""


class Look(NamedTuple):
    """The market at one moment."""

    segment: str
    source: str
    state: State
    epoch: int
    last_update_ms: int
    now_ms: int
    quotes: dict[str, Quote]


class Market(Protocol):
    """What can be looked at."""

    def look(self) -> Look:
        """Give the market as it is."""

    def wait(self, seen: Look, timeout_s: float) -> bool:
        """Wait until there is something newer than what was seen, or the time is up; say which."""


class LocalMarket:
    """The market in this machine's memory."""

    def __init__(self, reader: StockDataReader) -> None:
        self._reader = reader

    def look(self) -> Look:
        """Read the whole market at one epoch, and how its writer is."""
        snapshot, info = self._reader.snapshot(), self._reader.info
        return Look(
            info.path.name,
            info.source,
            Writer(self._reader.writer_status(), info.writer_pid),
            snapshot.epoch,
            snapshot.last_update_ms,
            output.now_ms(),
            snapshot.quotes,
        )

    def wait(self, seen: Look, timeout_s: float) -> bool:
        """Wait for the writer's next commit."""
        return self._reader.wait(seen.epoch, timeout_s) > seen.epoch


class Board:
    """What is to be seen: which rows, in which order, and how each price last moved.

    Parameters
    ----------
    tickers : sequence of str
        The only ones to show; all when empty.
    sort : Sort
        What to sort by.

    """

    def __init__(self, tickers: Sequence[str] = (), sort: Sort = Sort.TICKER) -> None:
        self.sort, self.is_reversed = sort, False
        self._tickers = tickers
        self._quotes: dict[str, Quote] = {}
        self._epoch = -1
        self._moves: dict[str, int] = {}  # by ticker, +1 or -1: the last change of its price
        self._moved: set[str] = set()  # the tickers whose price is new at this epoch
        self._first = 0  # the row at the top
        self._page = 1  # rows that there is room for
        self._widths: dict[str, int] = {}  # by heading: columns never get narrower

    def update(self, seen: Look) -> list[str]:
        """Take in what was read; give the tickers that were asked for and have no value."""
        if seen.epoch != self._epoch:
            self._epoch = seen.epoch
            self._moved.clear()
            for ticker, quote in seen.quotes.items():
                before = self._quotes.get(ticker)
                if before is not None and before.price != quote.price:
                    self._moves[ticker] = 1 if quote.price > before.price else -1
                    self._moved.add(ticker)
        if not self._tickers:
            self._quotes = seen.quotes
            return []
        self._quotes = {t: seen.quotes[t] for t in self._tickers if t in seen.quotes}
        return [ticker for ticker in self._tickers if ticker not in seen.quotes]

    def rows(self) -> list[Quote]:
        """Give the quotes in their order; those without the value sorted by come last."""
        quotes = sorted(self._quotes.values(), key=lambda quote: quote.ticker)
        if self.sort is Sort.TICKER:
            return quotes[::-1] if self.is_reversed else quotes
        by = {quote.ticker: _sort_value(quote, self.sort) for quote in quotes}
        known = [quote for quote in quotes if not math.isnan(by[quote.ticker])]
        # Figures begin with the greatest.
        known.sort(key=lambda quote: by[quote.ticker], reverse=not self.is_reversed)
        return known + [quote for quote in quotes if math.isnan(by[quote.ticker])]

    def press(self, key: str) -> None:
        """Do what a key stands for; others do nothing."""
        if (sort := _SORT_KEYS.get(key)) is not None:
            self.is_reversed = sort is self.sort and not self.is_reversed
            self.sort, self._first = sort, 0
        elif key in _SCROLL_BY_ONE:
            self._first += _SCROLL_BY_ONE[key]
        elif key in _SCROLL_BY_PAGE:
            self._first += _SCROLL_BY_PAGE[key] * self._page
        elif key in ("home", "g"):
            self._first = 0
        elif key in ("end", "G"):
            self._first = len(self._quotes)

    def frame(self, seen: Look, console: Console) -> RenderableType:
        """Draw one screen."""
        width, height = console.size
        self._page = max(1, height - _ABOVE - _BELOW)
        self._first = max(0, min(self._first, len(self._quotes) - self._page))
        rows = self.rows()
        shown = rows[self._first : self._first + self._page]
        columns = output.fit(
            self._columns(shown, seen, ascii_only=console.options.ascii_only), width
        )
        lines: list[RenderableType] = [*self._heading(seen), output.make_table(columns)]
        lines += [Text("")] * (self._page - len(shown))
        lines.append(self._footing(len(rows), len(shown)))
        return Group(*lines)

    def whole(self, seen: Look, width: int | None) -> RenderableType:
        """Draw one frame of all rows, as wide as `width` or as it gets; nothing has moved yet."""
        columns = self._columns(self.rows(), seen, ascii_only=True)
        if width is not None:
            columns = output.fit(columns, width)
        return Group(*self._heading(seen), output.make_table(columns))

    def _heading(self, seen: Look) -> list[Text]:
        stale = sum(quote.stale for quote in self._quotes.values())
        missing = [ticker for ticker in self._tickers if ticker not in self._quotes]
        since = seen.now_ms - seen.last_update_ms
        facts = [
            f"{printable(seen.segment)} ({printable(seen.source)})",
            f"epoch {seen.epoch:,}",
            f"updated {output.age(since)} ago" if seen.last_update_ms else "never updated",
            f"{len(self._quotes):,} tickers",
        ]
        first = Text("quoteshm top", "bold", no_wrap=True, overflow="ellipsis", end="\n")
        first.append("  " + "  ".join(facts), "not bold")
        if stale:
            first.append(f", {stale:,} STALE", STALE_STYLE)
        if missing:
            first.append(f"  no value: {printable(', '.join(missing))}", DOWN_STYLE)
        style = UP_STYLE if seen.state.is_well else f"bold reverse {DOWN_STYLE}"
        second = Text(seen.state.words, style, no_wrap=True, overflow="ellipsis")
        return [first, second]

    def _columns(self, quotes: Sequence[Quote], seen: Look, *, ascii_only: bool) -> list[Column]:
        up, down = ("+", "-") if ascii_only else ("▲", "▼")
        columns = output.quote_columns(quotes, seen.now_ms)
        for column in columns:
            if column.heading == "PRICE":
                pairs = zip(quotes, column.cells, strict=True)
                column.cells = [self._price(quote, str(text), up, down) for quote, text in pairs]
            heading = column.heading
            if heading == _SORT_COLUMN[self.sort]:
                upwards = (self.sort is Sort.TICKER) is not self.is_reversed
                column.heading += f" {'^' if upwards else 'v'}"
            column.min_width = max(column.width, self._widths.get(heading, 0))
            self._widths[heading] = column.min_width
        return columns

    def _price(self, quote: Quote, text: str, up: str, down: str) -> Text:
        move = self._moves.get(quote.ticker, 0)
        style = {1: UP_STYLE, -1: DOWN_STYLE}.get(move, "")
        if quote.ticker in self._moved:
            style = f"bold {style}"
        if quote.stale:
            style = STALE_STYLE
        arrow = {1: up, -1: down}.get(move, " ")
        return Text(f"{arrow} {text}", style)

    def _footing(self, count: int, shown: int) -> Text:
        footing = Text(no_wrap=True, overflow="ellipsis", end="")
        if shown < count:
            footing.append(f"{self._first + 1:,}-{self._first + shown:,} of {count:,}   ")
        return footing.append(_HINTS, "dim")


def _sort_value(quote: Quote, sort: Sort) -> float:
    match sort:
        case Sort.CHANGE:
            return output.change(quote)[1]
        case Sort.VOLUME:
            return quote.volume
        case Sort.AGE:
            return -quote.updated_ms
        case _:
            return quote.price


# -- on a terminal ---------------------------------------------------------------------------


def print_frame(board: Board, seen: Look) -> None:
    """Print all rows once."""
    output.print_drawn(lambda width: board.whole(seen, width))


def watch(market: Market, board: Board) -> None:
    """Show the market until somebody quits."""
    console = output.console()
    with (
        _terminated_cleanly(),
        Keyboard() as keyboard,
        Live(
            console=console,
            screen=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        ) as live,
    ):
        while True:
            seen = market.look()
            board.update(seen)
            size = console.size
            live.update(board.frame(seen, console), refresh=True)
            # One look at the keys for a whole frame: news come no faster than that.
            keys = keyboard.read(FRAME_S)
            until = time.monotonic() + CLOCK_S - FRAME_S
            while not keys and console.size == size and time.monotonic() < until:
                if market.wait(seen, _SLICE_S):
                    break
                keys = keyboard.read(0)
            for key in keys:
                if key in _QUIT:
                    return
                board.press(key)


@contextlib.contextmanager
def _terminated_cleanly() -> Iterator[None]:
    """Give the terminal back before SIGTERM or SIGHUP ends the process."""

    def end(number: int, _frame: object) -> NoReturn:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
