"""The market of a server on another machine, as ``quoteshm top`` looks at it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final, NamedTuple, Self

import msgspec

from quoteshm.cli import output
from quoteshm.cli.top import Look
from quoteshm.client.events import (
    Event,
    HeartbeatEvent,
    LostEvent,
    QuotesEvent,
    SnapshotEvent,
)
from quoteshm.errors import QuoteShmError

if TYPE_CHECKING:
    from types import TracebackType

    from quoteshm.client.blocking import QuoteClient
    from quoteshm.model import Quote


_CLOSE_S: Final = 0.5


class Connection(NamedTuple):
    """How the connection is."""

    address: str
    lost: str = ""  # why; nothing while it is there

    @property
    def is_well(self) -> bool:
        """Whether the values are being kept up to date."""
        return not self.lost

    @property
    def words(self) -> str:
        """The same for people."""
        if self.is_well:
            return f"connected to {self.address}"
        return (
            f"CONNECTION LOST to {self.address}: {self.lost}; these are the last values until it "
            "is back"
        )


class RemoteMarket:
    """A copy of the market that a thread keeps up to date.

    Parameters
    ----------
    client : QuoteClient
        Asks the server.
    tickers : list of str
        The only ones to follow; all when empty.

    """

    def __init__(self, client: QuoteClient, tickers: list[str]) -> None:
        info = client.get_info()
        self._segment = info.get("shm_name") or client.address
        self._source = str(info.get("source", ""))
        self._events = client.subscribe(tickers or "*", heartbeats=True)
        self._news = threading.Condition()
        self._address = client.address
        self._lost = ""
        self._error: QuoteShmError | None = None
        self._version = 0
        self._epoch = self._updated_ms = self._freshness_ms = 0
        self._ahead_ms = 0  # the server's clock before this machine's
        self._quotes: dict[str, Quote] = {}
        self._take(next(self._events))
        self._thread = threading.Thread(target=self._follow, name="quoteshm-top", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._events.close()
        self._thread.join(_CLOSE_S)  # it may be connecting

    def look(self) -> Look:
        """Give the copy, with what has grown stale since it was told.

        Raises
        ------
        QuoteShmError
            The server refuses to go on.

        """
        with self._news:
            if self._error is not None:
                raise self._error
            now_ms = output.now_ms() + self._ahead_ms
            oldest_ms = now_ms - self._freshness_ms
            quotes = {
                ticker: quote
                if quote.stale == (quote.updated_ms < oldest_ms)
                else msgspec.structs.replace(quote, stale=not quote.stale)
                for ticker, quote in self._quotes.items()
            }
            state = Connection(self._address, self._lost)
            return Look(
                self._segment, self._source, state, self._epoch, self._updated_ms, now_ms, quotes
            )

    def wait(self, seen: Look, timeout_s: float) -> bool:
        """Wait until more has been told than was seen."""
        with self._news:
            return self._news.wait_for(lambda: self._is_newer(seen), timeout_s)

    def _is_newer(self, seen: Look) -> bool:
        is_lost = not seen.state.is_well
        return self._epoch != seen.epoch or bool(self._lost) != is_lost or self._error is not None

    def _follow(self) -> None:
        try:
            for event in self._events:
                self._take(event)
        except QuoteShmError as error:
            with self._news:
                self._error = error
                self._news.notify_all()

    def _take(self, event: Event) -> None:
        with self._news:
            self._lost = event.why if isinstance(event, LostEvent) else ""
            match event:
                case SnapshotEvent() | QuotesEvent():
                    event.apply(self._quotes)
                    self._epoch = event.epoch
                    self._confirm(event)
                case HeartbeatEvent():
                    self._epoch = event.epoch
                    self._updated_ms = event.last_update_ms
                    self._ahead_ms = event.now_ms - output.now_ms()
            self._news.notify_all()

    def _confirm(self, event: SnapshotEvent | QuotesEvent) -> None:
        """Note when the newest quote was confirmed: of a commit that is news, that is now."""
        confirmed = [quote.updated_ms for quote in event.quotes.values() if quote is not None]
        self._updated_ms = max([self._updated_ms, *confirmed])
        if isinstance(event, SnapshotEvent):
            self._freshness_ms = event.freshness_ms
        elif confirmed and type(event) is QuotesEvent:
            self._ahead_ms = max(confirmed) - output.now_ms()
