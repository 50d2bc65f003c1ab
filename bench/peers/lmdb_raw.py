"""LMDB with quotes as seven bare numbers, the least that can be decoded: a tuple, no names."""

from __future__ import annotations

from bench.peers import base, lmdb, packing


class Writer(lmdb.Writer):
    """Puts numbers."""

    packed = staticmethod(packing.raw_quotes_of)


class Reader(lmdb.Reader):
    """Unpacks numbers."""

    def quote(self, symbol: str) -> base.Facts:  # type: ignore[override]  # another record
        """Get and unpack."""
        with self.env.begin(db=self.quotes, buffers=True) as transaction:
            return packing.raw_quote(transaction.get(symbol.encode(), b""))

    def facts(self, quote: base.Facts) -> base.Facts:  # type: ignore[override]
        """Give a quote's facts: it is those."""
        return quote
