"""The short way for the request that is asked most: ``get_quote`` as clients write it.

A line that is byte for byte of one of the two forms in `CANONICAL` is answered without being
decoded: its id is given back as it stands, and the rest of the reply is kept from one request to
the next. Everything else, and every other op, goes the strict way of `operations`; a property test
holds the two against each other, byte for byte.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from quoteshm.errors import UnknownTickerError
from quoteshm.wire import messages

if TYPE_CHECKING:
    from quoteshm.market.quotes import QuoteCache

# An id or a ticker that JSON would write in one way only: no escapes, no other forms of a number.
_ID: Final = rb'("[ !#-\[\]-~]{0,128}"|0|-?[1-9][0-9]{0,17})'
_TICKER: Final = rb'"([A-Z0-9.^=-]{1,32})"'
# An @ is where a space may be.
_FORM: Final = rb'{"v":@1,@"id":@%b,@"type":@"get_quote",@"ticker":@%b}\r?\n' % (_ID, _TICKER)
#: As most encoders write it, and as Python's own does, with spaces.
CANONICAL: Final = (re.compile(_FORM.replace(b"@", b"")), re.compile(_FORM.replace(b"@", b" ")))
#: No canonical line is longer.
LONGEST_NBYTES: Final = 256
#: From so many bytes on it is faster to look at all lines together than at each.
SEVERAL_NBYTES: Final = 160


class Shortcut:
    """Answers canonical lines. In the reactor's thread only.

    Parameters
    ----------
    cache : QuoteCache
        The quotes.

    """

    def __init__(self, cache: QuoteCache) -> None:
        self._cache = cache
        self._tails: dict[bytes, bytes] = {}
        self._epoch = -1
        self._until_ms = 0  # by then a quote goes stale
        self._mixed = b""  # the latest chunk in which not all lines were alike

    def answer(self, chunk: bytes, at: int, limit: int) -> tuple[list[bytes], int, int]:
        """Answer the canonical lines that a chunk has from a place on.

        Parameters
        ----------
        chunk : bytes
            Lines.
        at : int
            Where the first one starts.
        limit : int
            The most that are to be answered.

        Returns
        -------
        list of bytes, int, int
            The replies in parts, how many there are, and where the first line starts that is not
            answered: another one, or the rest of the chunk.

        """
        tails, parts, count = self._valid_tails(), list[bytes](), 0
        form = CANONICAL[chunk.startswith(b" ", at + _FIRST_SPACE)]
        if len(chunk) - at > SEVERAL_NBYTES and chunk is not self._mixed:
            pieces = form.split(chunk[at:] if at else chunk, limit)
            rest = pieces.pop()
            tickers = pieces[2::3]
            found = list(map(tails.get, tickers))
            if None in found:
                found = [tails.get(ticker) or self._tail(ticker) for ticker in tickers]
            # Some, nothing between them, all known.
            if found and not any(pieces[::3]) and None not in found:
                pieces[::3] = [messages.RESPONSE_HEAD] * len(found)
                pieces[2::3] = found
                return pieces, len(found), len(chunk) - len(rest)
            self._mixed = chunk  # or each of its lines would cost a look at all that follow
        while count < limit and (line := form.match(chunk, at)) is not None:
            request_id, ticker = line.groups()
            tail = tails.get(ticker) or self._tail(ticker)
            if tail is None:
                break
            parts += (messages.RESPONSE_HEAD, request_id, tail)
            count += 1
            at = line.end()
        return parts, count, at

    def _valid_tails(self) -> dict[bytes, bytes]:
        """Give what is kept, after throwing it away where it may not hold any more."""
        cache = self._cache
        if cache.writer.epoch != self._epoch or cache.clock.boot_ms() > self._until_ms:
            self._tails.clear()
            self._epoch, self._until_ms = cache.writer.epoch, _EVER
        return self._tails

    def _tail(self, ticker: bytes) -> bytes | None:
        """Make what follows the id in the reply for a ticker; None if there is no quote."""
        try:
            body, until_ms = self._cache.dated_body(ticker.decode("ascii"))
        except UnknownTickerError:
            return None
        self._until_ms = min(self._until_ms, until_ms)
        tail = self._tails[ticker] = messages.response_tail("get_quote", body)
        return tail


_FIRST_SPACE: Final = len(b'{"v":')
_EVER: Final = 1 << 62
