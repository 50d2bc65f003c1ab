"""Which names a browser may have found this server under, and which pages may talk to it.

A page of somebody else's can have its own name point to this machine's address (DNS rebinding); a
browser then takes what is served here for that page's own. It says in ``Host`` what it was told to
look for, so names that are not this server's are refused. An address is nobody's name.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

_HOST: Final = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")
LOOPBACK: Final = "localhost"


def host_name(header: bytes) -> str | None:
    """Give the name in a ``Host`` header, without its port; None if it is none."""
    found = _HOST.fullmatch(header)
    return None if found is None else found.group(1).decode("ascii").strip("[]").lower()


def is_served(headers: Sequence[bytes] | None, names: Collection[str]) -> bool:
    """Whether a request with these ``Host`` headers is for this server.

    Parameters
    ----------
    headers : sequence of bytes or None
        All of them: there has to be just one.
    names : collection of str
        Those of this server besides its addresses and localhost, in lower case.

    """
    if headers is None or len(headers) != 1:
        return False
    name = host_name(headers[0])
    if name is None:
        return False
    name = name.removesuffix(".")
    return name == LOOPBACK or name.endswith(f".{LOOPBACK}") or name in names or _is_address(name)


def is_own_origin(origins: Sequence[bytes] | None, hosts: Sequence[bytes] | None) -> bool:
    """Whether a request comes from a page of the host that it is for, or from no page at all.

    Programs that are no browsers say no origin; every browser does.
    """
    if not origins:
        return True
    if len(origins) != 1 or hosts is None or len(hosts) != 1:
        return False
    try:
        origin = urlsplit(origins[0].decode("ascii"))
    except ValueError:
        return False
    if origin.scheme not in ("http", "https"):
        return False
    port = {"http": ":80", "https": ":443"}[origin.scheme]
    own = hosts[0].decode("latin-1").lower().removesuffix(port)
    return origin.netloc.lower().removesuffix(port) == own


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
