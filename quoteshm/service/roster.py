"""Which tickers are served, while the daemon runs: added and removed by clients, or by a file.

What is added is asked for at once; its row in the segment comes with its first bars. What is
removed is asked for no more, and flagged in the segment in one commit, so that every reader and
subscriber sees it go; its row stays its own, for when it is added again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from twisted.logger import Logger

from quoteshm.service.options import MAX_SYMBOL_NBYTES, is_symbol
from quoteshm.shm import layout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from quoteshm.service.publisher import Publisher
    from quoteshm.service.refresh import RefreshService

#: So many tickers are named in a line of the log.
LOGGED: Final = 10
BAD_SYMBOL: Final = f"expected 1 to {MAX_SYMBOL_NBYTES} printable bytes without space, comma or #"


class Added(NamedTuple):
    """What became of tickers that were to be added."""

    added: list[str]
    known: list[str]
    refused: dict[str, str]  # why


class Removed(NamedTuple):
    """What became of tickers that were to be removed."""

    removed: list[str]
    unknown: list[str]


class Roster:
    """Changes which tickers are served. In the reactor's thread only.

    Parameters
    ----------
    refresh : RefreshService
        Asks for the tickers; its source says which it cannot have.
    publisher : Publisher
        Knows which are published.
    changed : callable, optional
        Told of all tickers that are served, after each change.
    removed : callable, optional
        Told of those that are removed, before they are.

    """

    log = Logger()

    def __init__(
        self,
        refresh: RefreshService,
        publisher: Publisher,
        *,
        changed: Callable[[Iterable[str]], object] = lambda _: None,
        removed: Callable[[Iterable[str]], object] = lambda _: None,
    ) -> None:
        self._refresh, self._publisher = refresh, publisher
        self._changed, self._removed = changed, removed

    def add(self, tickers: Iterable[str]) -> Added:
        """Serve more tickers; each of those that cannot be says why."""
        answer = self._add(tickers)
        if answer.added:
            self.log.info("added {names}", names=named(answer.added))
        return answer

    def remove(self, tickers: Iterable[str]) -> Removed:
        """Serve tickers no longer."""
        answer = self._remove(tickers)
        if answer.removed:
            self.log.info("removed {names}", names=named(answer.removed))
        return answer

    def serve(self, tickers: Sequence[str]) -> tuple[Removed, Added]:
        """Serve these tickers and no others; nothing of it is logged."""
        keep = set(tickers)
        gone = [ticker for ticker in self._refresh.wanted if ticker not in keep]
        return self._remove(gone), self._add(tickers)

    def _add(self, tickers: Iterable[str]) -> Added:
        wanted = self._refresh.wanted
        asked = list(dict.fromkeys(tickers))
        known = [ticker for ticker in asked if ticker in wanted]
        refused = {ticker: BAD_SYMBOL for ticker in asked if not is_symbol(ticker)}
        new = [ticker for ticker in asked if ticker not in wanted and ticker not in refused]
        if new:
            refused |= self._refresh.source.refuse(new)
            new = self._with_room([ticker for ticker in new if ticker not in refused], refused)
        if new:
            self._refresh.add(new)
            self._changed(wanted)
        return Added(new, known, refused)

    def _remove(self, tickers: Iterable[str]) -> Removed:
        wanted = self._refresh.wanted
        asked = list(dict.fromkeys(tickers))
        gone = [ticker for ticker in asked if ticker in wanted]
        if gone:
            self._removed(gone)
            self._refresh.remove(gone)
            self._changed(wanted)
            self._publisher.remove(gone)
        removed = set(gone)
        return Removed(gone, [ticker for ticker in asked if ticker not in removed])

    def _with_room(self, new: list[str], refused: dict[str, str]) -> list[str]:
        """Refuse those beyond the most that any segment holds; rows are never given up."""
        row_of, wanted = self._publisher.writer.row_of, self._refresh.wanted
        room = layout.MAX_TICKERS - len(row_of) - sum(one not in row_of for one in wanted)
        fresh = [ticker for ticker in new if ticker not in row_of]
        for ticker in fresh[max(0, room) :]:
            refused[ticker] = f"no room: a segment holds at most {layout.MAX_TICKERS} tickers"
        return [ticker for ticker in new if ticker not in refused]


def named(tickers: Sequence[str]) -> str:
    """Name tickers in a line of the log, the first of many."""
    more = len(tickers) - LOGGED
    return (", ".join(tickers[:LOGGED]) or "none") + (f" and {more} more" if more > 0 else "")
