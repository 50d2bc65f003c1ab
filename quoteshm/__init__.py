"""One daemon talks to the market; every process on the machine reads it at memory speed.

What a client program needs is here: `StockDataReader` reads shared memory, `QuoteClient` and
`AsyncQuoteClient` ask over the wire. Each is loaded when it is first used, and none loads Twisted
or yfinance. For programs on Twisted there is `quoteshm.client.tx.TxQuoteClient`; what a
subscription tells is in `quoteshm.client.events`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from quoteshm.errors import (
    AnswerTimeoutError,
    ConnectionFailedError,
    ErrorCode,
    QuoteShmError,
    ReadTimeoutError,
    RequestError,
    SegmentError,
    SettingsError,
    UnknownIntervalError,
    UnknownTickerError,
)
from quoteshm.model import Quote, SnapshotState

if TYPE_CHECKING:
    from quoteshm.client.aio import AsyncQuoteClient
    from quoteshm.client.blocking import QuoteClient
    from quoteshm.shm.reader import StockDataReader

    __version__: str

__all__ = [
    "AnswerTimeoutError",
    "AsyncQuoteClient",
    "ConnectionFailedError",
    "ErrorCode",
    "Quote",
    "QuoteClient",
    "QuoteShmError",
    "ReadTimeoutError",
    "RequestError",
    "SegmentError",
    "SettingsError",
    "SnapshotState",
    "StockDataReader",
    "UnknownIntervalError",
    "UnknownTickerError",
]

_LOADED_WHEN_USED = {
    "AsyncQuoteClient": "quoteshm.client.aio",
    "QuoteClient": "quoteshm.client.blocking",
    "StockDataReader": "quoteshm.shm.reader",
}


def __getattr__(name: str) -> object:
    """Load the reader or the client when it is asked for: pandas takes half a second."""
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415  not for nothing

        return version(__name__)
    try:
        module = _LOADED_WHEN_USED[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(importlib.import_module(module), name)


def __dir__() -> list[str]:
    """Name what is here, also what is not loaded yet: for who completes names."""
    return sorted({*globals(), *__all__})
