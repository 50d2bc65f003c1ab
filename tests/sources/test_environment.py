"""What the environment says of the way out, by curl's rules."""

from __future__ import annotations

import base64

import pytest

from quoteshm.sources.environment import (
    CA_VARIABLES,
    Proxy,
    ProxyError,
    find_proxy,
    trusted_file,
    without_passwords,
)

HOST = "streamer.finance.yahoo.com"


def test_without_variables_there_is_no_proxy() -> None:
    """An empty one is none; and that of plain HTTP is none of TLS."""
    assert find_proxy(HOST, {}) is None
    assert find_proxy(HOST, {"https_proxy": "", "ALL_PROXY": " "}) is None
    assert find_proxy(HOST, {"HTTP_PROXY": "http://plain:1"}) is None


def test_lower_case_counts_before_upper_case_and_https_before_all() -> None:
    """As for curl."""
    environ = {"ALL_PROXY": "http://d:4"}
    for name, proxy in (("all_proxy", "c:3"), ("HTTPS_PROXY", "b:2"), ("https_proxy", "a:1")):
        environ[name] = f"http://{proxy}"
        assert str(find_proxy(HOST, environ)) == proxy


@pytest.mark.parametrize("name", ["no_proxy", "NO_PROXY"])
@pytest.mark.parametrize(
    "text", ["*", HOST, ".yahoo.com", "yahoo.com", "x.org, Finance.Yahoo.com", "a b yahoo.com."]
)
def test_what_is_to_be_reached_directly_is(name: str, text: str) -> None:
    """A host, or all hosts of a domain."""
    assert find_proxy(HOST, {"https_proxy": "http://a:1", name: text}) is None


@pytest.mark.parametrize("text", ["", "ahoo.com", "example.org", "streamer.finance.yahoo.com.org"])
def test_other_exceptions_change_nothing(text: str) -> None:
    """The end of a name is not always its domain."""
    assert find_proxy(HOST, {"https_proxy": "http://a:1", "no_proxy": text}) == Proxy("a", 1)


def test_user_and_password_are_decoded_and_not_told() -> None:
    """They may hold what a URL may not."""
    proxy = find_proxy(HOST, {"https_proxy": "http://me:p%40ss%3A@proxy.example:3128"})
    assert proxy is not None
    assert base64.b64decode(proxy.authorization or b"") == b"me:p@ss:"
    assert str(proxy) == "proxy.example:3128"


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("proxy.example:3128", "proxy.example:3128"),
        ("proxy.example", "proxy.example:1080"),
        ("http://proxy.example/", "proxy.example:1080"),
        ("http://[::1]:3128", "[::1]:3128"),
    ],
)
def test_a_url_may_be_short(url: str, told: str) -> None:
    """As curl takes it."""
    assert str(find_proxy(HOST, {"https_proxy": url})) == told


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http://me:secret/x@host:1",
        "http://host:99999",
        "http://[",
        "socks5h://secret@h:1",
    ],
)
def test_what_names_no_proxy_is_refused_without_a_password(url: str) -> None:
    """The text goes to the log."""
    with pytest.raises(ProxyError, match="HTTPS_PROXY names") as told:
        find_proxy(HOST, {"HTTPS_PROXY": url})
    assert "secret" not in str(told.value)


def test_the_first_of_the_files_of_authorities_counts() -> None:
    """Whichever is there; an empty one is none."""
    assert trusted_file({}) is None
    environ: dict[str, str] = {}
    for name in reversed(CA_VARIABLES):
        environ[name] = f"/{name}.pem"
        assert trusted_file(environ) == f"/{name}.pem"
    assert trusted_file(dict.fromkeys(CA_VARIABLES, "")) is None


@pytest.mark.parametrize(
    "url", ["http://me:secret@h:1", "x://me:a secret'@h", "a://me:p/secret@@h"]
)
def test_a_password_is_left_out_of_what_curl_says(url: str) -> None:
    """It names the whole URL where it cannot read it."""
    told = without_passwords(f"Unsupported proxy syntax in '{url}'. See https://curl.se/ first")
    assert "secret" not in told
    assert told.startswith("Unsupported proxy syntax in '")
    assert told.endswith("'. See https://curl.se/ first")
