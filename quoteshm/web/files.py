"""The page's files, read once and served from memory: a path that is asked for opens nothing."""
# mypy: allow-untyped-calls
# Twisted is typed only in part, and `untyped_calls_exclude` does not reach what we inherit.

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from twisted.web import http
from twisted.web.resource import Resource

from quoteshm.web.answers import NotFound

if TYPE_CHECKING:
    from collections.abc import Mapping

STATIC: Final = Path(__file__).with_name("static")
INDEX: Final = "index.html"
#: What is not of one of these kinds is not served.
TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
}
#: The tags of an ``If-None-Match``, without what says that they are weak.
_TAGS: Final = re.compile(rb'"[^"]*"|\*')


class Content(NamedTuple):
    """A file as it is sent."""

    kind: bytes
    body: bytes
    etag: bytes


def load(folder: Path = STATIC) -> dict[str, Content]:
    """Read all files of a folder that a browser may ask for, by their names below it."""
    found = {}
    for path in sorted(folder.rglob("*")):
        kind = TYPES.get(path.suffix)
        if kind is not None and path.is_file():
            body = path.read_bytes()
            etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'.encode()
            found[path.relative_to(folder).as_posix()] = Content(kind.encode(), body, etag)
    return found


class File(Resource):
    """One file. A browser keeps it, and asks each time whether it has changed."""

    isLeaf = True

    def __init__(self, content: Content) -> None:
        super().__init__()
        self._content = content

    def render_GET(self, request: Any) -> bytes:  # noqa: ANN401, N802  Twisted's
        """Give the file, or say that the browser has it already."""
        request.setHeader(b"content-type", self._content.kind)
        request.setHeader(b"cache-control", b"no-cache")
        request.setHeader(b"etag", self._content.etag)
        # A proxy that compresses makes the tag a weak one; Twisted would know the strong one alone.
        known = request.getHeader(b"if-none-match") or b""
        if any(tag in (self._content.etag, b"*") for tag in _TAGS.findall(known)):
            request.setResponseCode(http.NOT_MODIFIED)
            return b""
        return self._content.body


class Files(Resource):
    """All files, each under its name."""

    def __init__(self, contents: Mapping[str, Content]) -> None:
        super().__init__()
        self._files = {name: File(content) for name, content in contents.items()}

    def getChild(self, path: bytes, request: Any) -> Resource:  # noqa: ANN401, N802  Twisted's
        """Find a file by all that is left of the path."""
        name = b"/".join([path, *request.postpath]).decode("utf-8", "replace")
        request.prepath += request.postpath
        request.postpath = []
        return self._files.get(name) or NotFound()

    def render(self, request: Any) -> Any:  # noqa: ANN401  Twisted's
        """List nothing."""
        return NotFound().render(request)
