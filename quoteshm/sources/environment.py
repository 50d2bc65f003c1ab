"""What the environment says of the way out: a proxy, and which authorities are trusted.

The variables are those of curl, which fetches the bars and reads the first ones by itself; what
goes over a connection of our own follows the same rules: lower case counts before upper case, and
an empty variable is none.
"""

from __future__ import annotations

import base64
import os
import re
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Any of them names a file of certificates; the first one counts.
CA_VARIABLES: Final = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
_PROXY_VARIABLES: Final = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
_BYPASS_VARIABLES: Final = ("no_proxy", "NO_PROXY")
_DEFAULT_PORT: Final = 1080  # curl's, too


class ProxyError(Exception):
    """There is no way through the proxy; the text names no password."""


class Proxy(NamedTuple):
    """A proxy, as a variable names it."""

    host: str
    port: int
    authorization: bytes | None = None  # of "Basic", if there is a user

    def __str__(self) -> str:
        """Name it, without user and password."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def find_proxy(host: str, environ: Mapping[str, str] = os.environ) -> Proxy | None:
    """Give the proxy through which a host is to be reached by TLS; None if directly.

    Raises
    ------
    ProxyError
        The variable names none, or one that is not spoken to.

    """
    name, url = _first(_PROXY_VARIABLES, environ)
    _, bypassed = _first(_BYPASS_VARIABLES, environ)
    if not url or any(_is_of(host, name) for name in re.split(r"[\s,]+", bypassed)):
        return None
    try:
        # What follows says more than it should: a part of a password, where that has a slash.
        parts = urlsplit(url if "://" in url else f"http://{url}")
        to, port = parts.hostname, parts.port
    except ValueError:
        to = port = None
    if not to:
        message = f"{name} names no proxy (http://host:port)"
        raise ProxyError(message)
    if parts.scheme != "http":
        message = f"{name} names a proxy of {parts.scheme}://, which must be of http://"
        raise ProxyError(message)
    if parts.username is None:
        return Proxy(to, port or _DEFAULT_PORT)
    who = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
    return Proxy(to, port or _DEFAULT_PORT, base64.b64encode(who))


def trusted_file(environ: Mapping[str, str] = os.environ) -> str | None:
    """Give the file of the authorities that are trusted; None for the system's own."""
    return _first(CA_VARIABLES, environ)[1] or None


def without_passwords(text: str) -> str:
    """Leave out of a text, as curl's about a bad URL, who is named before a host."""
    return re.sub(r"://.*@", "://***@", text)


def _is_of(host: str, name: str) -> bool:
    """Tell whether a host is meant by a name, which may be that of its domain."""
    name = name.lower().strip(".")
    return name == "*" or (name != "" and f".{host.lower()}".endswith(f".{name}"))


def _first(names: tuple[str, ...], environ: Mapping[str, str]) -> tuple[str, str]:
    return next(
        ((name, text) for name in names if (text := environ.get(name, "").strip())), ("", "")
    )
