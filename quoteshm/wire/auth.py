"""Whether a client may ask: a token that both sides know, or none. No sockets, no files."""

from __future__ import annotations

import hmac
from typing import Final

#: What a client that has not shown the token may ask for.
OPEN_OPS: Final = frozenset({"ping", "auth"})
WRONG_TOKEN: Final = "wrong token"  # noqa: S105 (words for the client)
TOKEN_WANTED: Final = "this server wants a token: send auth first"  # noqa: S105 (the same)

#: What a client may ask for only if its user is known, or it has shown a token.
TRUSTED_OPS: Final = frozenset({"add_tickers", "remove_tickers"})
TRUST_WANTED: Final = (
    "only for clients that have sent auth (start the server with --auth-token-file), or that are "
    "on its Unix socket (--endpoint unix:PATH)"
)


class Gate:
    """Knows the token, if there is one. Nothing that it says or shows has it in it.

    Parameters
    ----------
    token : bytes or None
        What clients have to show; None lets everybody in.

    """

    __slots__ = ("_token",)

    def __init__(self, token: bytes | None = None) -> None:
        self._token = token

    @property
    def is_open(self) -> bool:
        """Whether everybody may ask for everything."""
        return self._token is None

    def check(self, token: str) -> bool:
        """Compare a token, in a time that does not tell how much of it is right.

        Always true where there is none to compare it with.
        """
        # JSON has no lone surrogates here, but a caller's str may.
        found = token.encode("utf-8", "surrogatepass")
        return self._token is None or hmac.compare_digest(found, self._token)

    def lets_pass(self, op: str) -> bool:
        """Whether a client may ask for this before it has shown the token."""
        return self._token is None or op in OPEN_OPS
