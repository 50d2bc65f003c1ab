"""Short answers: JSON, and refusals in words."""
# mypy: allow-untyped-calls
# Twisted is typed only in part, and `untyped_calls_exclude` does not reach what we inherit.

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec
from twisted.web import http
from twisted.web.resource import Resource

if TYPE_CHECKING:
    from quoteshm.web.health import Verdict

_encode: Final = msgspec.json.Encoder().encode
FRESH: Final = b"no-store"


def refuse(request: Any, code: int, why: str) -> bytes:  # noqa: ANN401  Twisted's
    """Make an answer one that refuses, and give its body."""
    request.setResponseCode(code)
    request.setHeader(b"content-type", b"text/plain; charset=utf-8")
    request.setHeader(b"cache-control", FRESH)
    return f"{why}\n".encode()


class Refusal(Resource):
    """Refuses, whatever is asked."""

    isLeaf = True

    def __init__(self, code: int, why: str) -> None:
        super().__init__()
        self._code, self._why = code, why

    def render(self, request: Any) -> bytes:  # noqa: ANN401  Twisted's
        """Refuse."""
        return refuse(request, self._code, self._why)

    def getChild(self, path: bytes, request: Any) -> Resource:  # noqa: ANN401, ARG002, N802  Twisted's
        """Refuse whatever is below, too."""
        return self


class NotFound(Refusal):
    """There is no such thing."""

    def __init__(self) -> None:
        super().__init__(http.NOT_FOUND, "there is nothing here")


class Judged(Resource):
    """A verdict as JSON: 200 where it is good, 503 where it is not."""

    isLeaf = True

    def __init__(self, judge: Callable[[], Verdict]) -> None:
        super().__init__()
        self._judge = judge

    def render_GET(self, request: Any) -> bytes:  # noqa: ANN401, N802  Twisted's
        """Judge."""
        verdict = self._judge()
        request.setResponseCode(http.OK if verdict.well else http.SERVICE_UNAVAILABLE)
        request.setHeader(b"content-type", b"application/json")
        request.setHeader(b"cache-control", FRESH)
        return _encode(verdict.told) + b"\n"
