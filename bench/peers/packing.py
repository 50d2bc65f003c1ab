"""The records of peers that store bytes: our own `Quote`, in the fastest format there is."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

import msgspec
import numpy as np

from bench.market import Market, Step
from bench.peers import base
from quoteshm import Quote

_encode = msgspec.msgpack.Encoder().encode
_BAR: Final = struct.Struct("=q5d")
_RAW: Final = struct.Struct("=6dq")
raw_quote: Final = _RAW.unpack
decode: Final = msgspec.msgpack.Decoder(Quote).decode


def quotes_of(symbols: list[str], step: Step) -> Iterator[tuple[bytes, bytes]]:
    """Give key and encoded quote of each ticker."""
    stamp = step.time_ms
    for symbol, values in zip(symbols, step.quotes.tolist(), strict=True):
        opened, high, low, price, volume, prev_close = values
        quote = Quote(
            symbol,
            price,
            opened,
            high,
            low,
            prev_close,
            volume,
            "USD",
            stamp,
            stamp,
            stale=False,
            source="b",
        )
        yield symbol.encode(), _encode(quote)


def raw_quotes_of(symbols: list[str], step: Step) -> Iterator[tuple[bytes, bytes]]:
    """Give key and bare numbers of each ticker's quote."""
    for symbol, values in zip(symbols, step.quotes.tolist(), strict=True):
        yield symbol.encode(), _RAW.pack(*values, step.time_ms)


def bars_of(step: Step) -> list[bytes]:
    """Give the bytes of each ticker's bar: its time and five values."""
    rows = np.empty((len(step.bars), 6))
    rows[:, 0].view(np.int64)[:] = step.time_ms
    rows[:, 1:] = step.bars
    raw = rows.tobytes()
    return [raw[at : at + 48] for at in range(0, len(raw), 48)]


def bar_from(raw: bytes) -> base.Facts:
    """Give one back."""
    time_ms, *values = _BAR.unpack(raw)
    return (float(time_ms), *values)


def columns_of(market: Market, row: int) -> bytes:
    """Give a ticker's bars as bytes, column after column: what is read back without a copy."""
    return market.times.tobytes() + market.history(row).tobytes()


def columns_from(raw: memoryview | bytes, *, copy: bool) -> tuple[np.ndarray, np.ndarray]:
    """Give them back."""
    words = np.frombuffer(raw, np.int64)
    if copy:
        words = words.copy()
    bars = len(words) // 6
    return words[:bars], words[bars:].view(np.float64).reshape(5, bars)


def facts(quote: Quote) -> base.Facts:
    """Give a quote's facts."""
    q = quote
    return q.open, q.high, q.low, q.price, q.volume, q.prev_close, q.ts_epoch_ms
