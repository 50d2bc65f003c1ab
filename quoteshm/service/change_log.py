"""What the log is told of tickers that begin to fail, or work again: never a line for each of many.

The first few of a kind get a line of their own, as it happens; the others of the same refresh are
counted, and told together when it ends. Thousands that fail at once make some lines, not thousands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from twisted.logger import Logger

if TYPE_CHECKING:
    from quoteshm.sources.base import Failure, Reason

#: So many tickers of one kind are named, each in a line of its own.
NAMED: Final = 5


class ChangeLog:
    """The changes of one refresh.

    Parameters
    ----------
    log : Logger
        Whose lines they are.

    """

    def __init__(self, log: Logger) -> None:
        self._log = log
        self._counts: dict[Reason, int] = {}
        self._last: dict[Reason, Failure] = {}  # of those without a line of their own
        self._recovered_count = 0

    def failed(self, failure: Failure) -> None:
        """Take note of a ticker that fails since now, or for another reason than before."""
        reason = failure.reason
        count = self._counts[reason] = self._counts.get(reason, 0) + 1
        if count > NAMED:
            self._last[reason] = failure
            return
        self._log.warn(
            "{ticker}: {reason}, {message}",
            ticker=failure.ticker,
            reason=reason.value,
            message=failure.message,
        )

    def recovered(self, ticker: str) -> None:
        """Take note of a ticker that failed, and does no more."""
        self._recovered_count += 1
        if self._recovered_count <= NAMED:
            self._log.info("{ticker}: works again", ticker=ticker)

    def close(self) -> None:
        """Tell how many others there were; begin anew."""
        for reason, last in self._last.items():
            self._log.warn(
                "{count} more tickers: {reason}; the last is {last}, {message}",
                count=self._counts[reason] - NAMED,
                reason=reason.value,
                last=last.ticker,
                message=last.message,
            )
        more = self._recovered_count - NAMED
        if more > 0:
            self._log.info("{count} more tickers work again", count=more)
        self._counts, self._last, self._recovered_count = {}, {}, 0
