"""Which names are this server's, and which pages may talk to it."""

from __future__ import annotations

import pytest

from quoteshm.web.hosts import is_own_origin, is_served


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:8080",
        "127.0.0.1",
        "localhost:8080",
        "LOCALHOST",
        "page.localhost:80",
        "[::1]:8080",
        "[::1]",
        "192.0.2.7:1",
        "quotes.example:8080",
        "Quotes.Example.",
    ],
)
def test_addresses_localhost_and_named_hosts_are_served(host: str) -> None:
    """With or without a port, in any case."""
    assert is_served([host.encode()], {"quotes.example"})


@pytest.mark.parametrize(
    "host",
    [
        "evil.example:8080",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "notlocalhost",
        "a.quotes.example",
        "",
        "localhost:8080:1",
        "127.0.0.1, localhost",
        "[::1",
        "localhost\x00",
        "user@localhost",
        "lo\xe9alhost",
    ],
)
def test_any_other_name_is_not(host: str) -> None:
    """A page of somebody else's would have its own."""
    assert not is_served([host.encode("latin-1")], {"quotes.example"})


def test_there_is_just_one_host() -> None:
    """Which of two a proxy has looked at, nobody knows."""
    assert not is_served([b"localhost", b"localhost"], ())
    assert not is_served([], ())
    assert not is_served(None, ())


@pytest.mark.parametrize(
    ("origin", "host", "is_own"),
    [
        ("http://127.0.0.1:8080", "127.0.0.1:8080", True),
        ("http://localhost", "localhost", True),
        ("http://localhost", "localhost:80", True),
        ("https://quotes.example", "quotes.example:443", True),
        ("HTTP://LocalHost:8080", "localhost:8080", True),
        ("http://[::1]:8080", "[::1]:8080", True),
        ("http://127.0.0.1:8081", "127.0.0.1:8080", False),
        ("http://localhost:8080", "127.0.0.1:8080", False),
        ("http://evil.example", "127.0.0.1:8080", False),
        ("http://127.0.0.1:8080.evil.example", "127.0.0.1:8080", False),
        ("http://x@127.0.0.1:8080", "127.0.0.1:8080", False),
        ("null", "127.0.0.1:8080", False),
        ("", "127.0.0.1:8080", False),
        ("file://", "127.0.0.1:8080", False),
        ("ws://127.0.0.1:8080", "127.0.0.1:8080", False),
        ("http://[::1", "[::1", False),
    ],
)
def test_a_page_is_of_this_server_if_its_origin_is_the_host(
    origin: str, host: str, *, is_own: bool
) -> None:
    """The port is part of it."""
    assert is_own_origin([origin.encode()], [host.encode()]) is is_own


def test_who_says_no_origin_is_no_browser() -> None:
    """And two of them nobody says."""
    assert is_own_origin(None, [b"localhost"])
    assert not is_own_origin([b"http://localhost"] * 2, [b"localhost"])
    assert not is_own_origin([b"http://localhost"], None)
    assert not is_own_origin([b"http://lo\xe9"], [b"lo\xe9"])
