"""Where a server can be, and where none can."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from quoteshm.client._place import LONGEST_PATH_NBYTES, Place
from quoteshm.client.aio import AsyncQuoteClient
from quoteshm.client.blocking import QuoteClient
from quoteshm.client.tx import TxQuoteClient
from quoteshm.errors import SettingsError
from quoteshm.shm.reader import StockDataReader

if TYPE_CHECKING:
    from collections.abc import Callable

CLIENTS = (QuoteClient, AsyncQuoteClient, TxQuoteClient)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("port", 70_000),
        ("port", -1),
        ("port", 65_536),
        ("port", "9000"),
        ("host", ""),
        ("host", 9000),
        ("host", "a\0b"),
        ("host", "a..b"),
        ("host", ".a"),
        ("host", "a" * 64 + ".example"),
        ("host", "\u00fc" * 60 + ".example"),
        ("path", ""),
        ("path", "/run/a\0b"),
        ("path", "/" + "x" * LONGEST_PATH_NBYTES),
        ("path", "/" + "\u00fc" * 60),
    ],
)
def test_what_can_be_nowhere_is_refused_at_once(
    client: Callable[..., object], option: str, value: Any
) -> None:
    """By every client in the same way; not when it connects."""
    with pytest.raises(SettingsError) as caught:
        client(**{option: value})
    assert caught.value.option == option
    if option != "path":
        with pytest.raises(SettingsError) as caught:
            StockDataReader(**{option: value})
        assert caught.value.option == option


@pytest.mark.parametrize(
    ("host", "port", "path", "name"),
    [
        ("127.0.0.1", 0, None, "127.0.0.1:0"),
        ("::1", 65_535, None, "[::1]:65535"),
        ("fe80::1%eth0", 1, None, "[fe80::1%eth0]:1"),
        ("a" * 63 + ".example.", 1, None, "a" * 63 + ".example.:1"),
        ("b\u00fccher.example", 1, None, "b\u00fccher.example:1"),
        ("", -1, "/" + "x" * 106, "unix:/" + "x" * 106),
        ("", -1, "\0abstract", "unix:\0abstract"),
    ],
)
def test_every_other_place_is_one(host: str, port: int, path: str | None, name: str) -> None:
    """Names, addresses, and paths; beside a path the others do not matter."""
    assert str(Place.of(host, port, path, tls=False)) == name
