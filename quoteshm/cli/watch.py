"""``quoteshm watch``: one line for each change, as the server tells it."""

from __future__ import annotations

import math
import select
import sys
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol

import msgspec

from quoteshm.cli import output
from quoteshm.cli.commands import complain
from quoteshm.cli.output import DOWN_STYLE, STALE_STYLE, UP_STYLE, Format
from quoteshm.client.events import LostEvent, QuotesEvent, ResumedEvent, SnapshotEvent
from quoteshm.model import Quote
from quoteshm.text import printable

if TYPE_CHECKING:
    from rich.console import Console

    from quoteshm.client.blocking import Subscription

_LOOK_S: Final = 1.0  # how often to look whether anybody still reads the output
_FIELDS: Final = Quote.__struct_fields__
_TICKER_WIDTH: Final = 8
_PRICE_WIDTH: Final = 14


def follow(events: Subscription, shape: Format, address: str) -> NoReturn:
    """Print what changes, as long as anybody reads it.

    Parameters
    ----------
    events : Subscription
        What is told.
    shape : Format
        A line for people, a document or a row for each quote.
    address : str
        The server's, as people write it.

    """
    printer = _PRINTERS[shape]()
    while True:
        event = events.wait(_LOOK_S)
        match event:
            case None:
                _check_reader()
            case LostEvent():
                complain(f"connection lost: {event.why}; trying again")
            case SnapshotEvent() | QuotesEvent():
                if isinstance(event, SnapshotEvent):
                    _name_missing(event.missing)
                elif isinstance(event, ResumedEvent):
                    complain(f"connected to {address} again")
                printer.show(event)
        sys.stdout.flush()


def _name_missing(missing: list[str]) -> None:
    for ticker in missing:
        complain(f"no value yet: {ticker}")


def _check_reader() -> None:
    """Find out that a pipe is closed also while there is nothing to print."""
    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), 0)  # errors are always told
    except OSError:  # it is no file
        return
    if any(what & select.POLLERR for _, what in poll.poll(0)):
        raise BrokenPipeError


class _Printer(Protocol):
    def show(self, event: SnapshotEvent | QuotesEvent) -> None: ...


class _Documents:
    """NDJSON: the quotes as the wire has them, each with its epoch."""

    def show(self, event: SnapshotEvent | QuotesEvent) -> None:
        """Print what has changed."""
        output.print_json(_document(event, *pair) for pair in event.quotes.items())


class _Rows:
    """CSV: the same in columns; of a ticker that was removed there is only the name."""

    def __init__(self) -> None:
        output.print_csv(("epoch", "skipped", *_FIELDS), [])

    def show(self, event: SnapshotEvent | QuotesEvent) -> None:
        """Print what has changed."""
        documents = (_document(event, *pair) for pair in event.quotes.items())
        output.print_csv_rows(
            (document.get(name) for name in ("epoch", "skipped", *_FIELDS))
            for document in documents
        )


def _document(
    event: SnapshotEvent | QuotesEvent, ticker: str, quote: Quote | None
) -> dict[str, Any]:
    skipped = 0 if isinstance(event, SnapshotEvent) else event.skipped
    head = {"epoch": event.epoch, "skipped": skipped}
    if quote is None:
        return {**head, "ticker": ticker, "removed": True}
    return {**head, **msgspec.structs.asdict(quote)}


class _Lines:
    """For people: when, which, how much, and how it moved."""

    def __init__(self) -> None:
        self._console: Console = output.console()
        self._prices: dict[str, float] = {}
        self._width = 0

    def show(self, event: SnapshotEvent | QuotesEvent) -> None:
        """Print what has changed."""
        from rich.text import Text  # noqa: PLC0415 (start-up time)

        if not self._width:
            self._width = max([_TICKER_WIDTH, *map(len, event.quotes)])
            heading = f"{'TIME':8}  {'TICKER':{self._width}}  {'PRICE':>{_PRICE_WIDTH}}"
            self._print(Text(f"{heading}  {'CHANGE':>10}  {'CHANGE %':>9}  {'VOLUME':>13}", "bold"))
        for ticker, quote in event.quotes.items():
            self._print(self._line(ticker, quote, Text))

    def _line(self, ticker: str, quote: Quote | None, text: Any) -> Any:  # noqa: ANN401 (rich is not loaded before it is needed)
        name = f"{printable(ticker):{self._width}}"
        if quote is None:
            self._prices.pop(ticker, None)
            return text.assemble(f"{'':8}  ", (name, "bold"), ("  removed", DOWN_STYLE))
        before = self._prices.get(ticker, quote.price)
        self._prices[ticker] = quote.price
        up, down = ("+", "-") if self._console.options.ascii_only else ("▲", "▼")
        arrow, style = " ", ""
        if quote.price != before:
            arrow, style = (up, UP_STYLE) if quote.price > before else (down, DOWN_STYLE)
        difference, percent = output.change(quote)
        _, (moment,) = output.local_times([quote.ts_epoch_ms], date=False)
        (price,) = output.prices([quote.price])
        (change,) = output.prices([difference], [quote.price])
        shown = f"{percent:+.2f} %" if math.isfinite(percent) else output.NOTHING
        return text.assemble(
            f"{moment}  ",
            (name, "bold"),
            (f"  {f'{arrow} {price}':>{_PRICE_WIDTH}}", style),
            f"  {change:>10}  {shown:>9}  {output.volume(quote.volume):>13}",
            ("  STALE" if quote.stale else "", STALE_STYLE),
        )

    def _print(self, line: Any) -> None:  # noqa: ANN401 (as above)
        self._console.print(line, no_wrap=True, overflow="ellipsis", crop=True)


_PRINTERS: Final[dict[Format, type[_Printer]]] = {
    Format.TABLE: _Lines,
    Format.JSON: _Documents,
    Format.CSV: _Rows,
}
