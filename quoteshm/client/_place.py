"""Where a server is: a host and a port, with TLS or without, or a Unix socket."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, NamedTuple

from quoteshm.errors import SettingsError
from quoteshm.shm import discovery

if TYPE_CHECKING:
    import ssl

LONGEST_PATH_NBYTES: Final = 107  # of a Unix socket: struct sockaddr_un


class Place(NamedTuple):
    """Where a server is."""

    host: str
    port: int
    path: str | None  # of a Unix socket, instead of the two
    tls: object  # whatever the client takes for it; false without

    @classmethod
    def of(cls, host: str, port: int, path: str | os.PathLike[str] | None, tls: object) -> Place:
        """Check what was given.

        Raises
        ------
        SettingsError
            There can be no such host, port or path; TLS over a Unix socket: there is no name to
            check a certificate against.

        """
        if path is not None:
            if tls:
                raise SettingsError("tls", tls, "none with a Unix socket")
            if not _is_path(os.fsencode(path)):
                expected = f"1 to {LONGEST_PATH_NBYTES} bytes, none of them 0"
                raise SettingsError("path", path, expected)
            return cls(host, port, os.fspath(path), tls)
        discovery.check(host, port)
        return cls(host, port, None, tls)

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def ssl_context(self) -> ssl.SSLContext | None:
        """What the standard library needs for TLS: the system's authorities unless given."""
        if not self.tls:
            return None
        import ssl  # noqa: PLC0415  it takes some time to load, and few need it

        return self.tls if isinstance(self.tls, ssl.SSLContext) else ssl.create_default_context()


def _is_path(path: bytes) -> bool:
    """Whether it fits; a name that begins with a zero byte is one without a file."""
    return 0 < len(path) <= LONGEST_PATH_NBYTES and b"\0" not in path[1:]
