"""The session of the downloads, on the environment of a machine behind a proxy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from curl_cffi.requests.exceptions import RequestException

from quoteshm.model import SeriesKind
from quoteshm.sources.base import Failure, Reason
from quoteshm.sources.environment import CA_VARIABLES
from quoteshm.sources.yahoo_download import Downloader, YahooSession
from quoteshm.sources.yahoo_plan import Plan
from tests.published import NOW_MS
from tests.yahoo_proxy import YahooProxy
from tests.yahoo_server import YahooServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

URL = "https://query1.finance.yahoo.com/v1/test/getcrumb"


@pytest.fixture
def proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[YahooProxy]:
    """Give a proxy that this process is told of, but for whom it trusts."""
    for name in CA_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with YahooServer() as server, YahooProxy(tmp_path, server) as running:
        for name, text in running.environment.items():
            if name not in CA_VARIABLES:
                monkeypatch.setenv(name, text)
        yield running


@pytest.mark.parametrize("name", CA_VARIABLES)
def test_any_of_the_variables_names_who_is_trusted(
    proxy: YahooProxy, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them is enough, also where a proxy looks into TLS."""
    monkeypatch.setenv(name, str(proxy.authority.path))
    with YahooSession() as session:
        assert session.get(URL).text == "a.crumb"
    assert proxy.tunnels == {"query1.finance.yahoo.com": 1}


def test_who_is_not_trusted_is_not_spoken_to(proxy: YahooProxy) -> None:
    """And the error says that it is about a certificate."""
    with YahooSession() as session, pytest.raises(RequestException, match="certificate"):
        session.get(URL)
    assert proxy.tunnels == {"query1.finance.yahoo.com": 1}


def test_no_password_gets_into_the_words_of_a_failure(
    proxy: YahooProxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """They are in the log, and anybody who asks is told them."""
    monkeypatch.setenv("https_proxy", f"http://me:sec/ret@127.0.0.1:{proxy.port}")
    plan = Plan.make(SeriesKind("1d", 10), None, NOW_MS)
    with YahooSession() as session:
        told = Downloader(session, tmp_path).fetch("X", [plan], NOW_MS)
    assert isinstance(told, Failure)
    assert told.reason is Reason.UNREACHABLE
    assert "proxy syntax" in told.message
    assert "ret@" not in told.message


def test_a_proxy_that_refuses_is_named_with_its_status(
    proxy: YahooProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the proxy, not Yahoo, that wants something."""
    monkeypatch.setenv("CURL_CA_BUNDLE", str(proxy.authority.path))
    proxy.password = "me:secret"  # noqa: S105 (a test's)
    with YahooSession() as session, pytest.raises(RequestException, match="407"):
        session.get(URL)
    monkeypatch.setenv("https_proxy", proxy.url)
    with YahooSession() as session:
        assert session.get(URL).text == "a.crumb"


def test_the_proxy_knows_no_way_to_anything_else(
    proxy: YahooProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No test asks the network, whatever it does."""
    monkeypatch.setenv("CURL_CA_BUNDLE", str(proxy.authority.path))
    with YahooSession() as session, pytest.raises(RequestException, match="403"):
        session.get("https://example.org/")
    assert proxy.refused == ["CONNECT example.org:443 HTTP/1.1"]
