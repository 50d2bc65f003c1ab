r"""Bytes in, lines out, however they were cut into chunks. No sockets.

A line ends with ``\n``; a ``\r`` before it belongs to the ending, and lines of white space alone
are ignored. No more than one line and what was fed last is ever held: of a line that is too long
the rest is dropped as it comes, and one `Overlong` stands in its place.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

HEAD_NBYTES: Final = 256
_BLANK_LINES: Final = re.compile(rb"\s*\n")


class Overlong(NamedTuple):
    """What stands in the place of a line that is too long."""

    head: bytes  # its first bytes, for whoever looks for who sent it


class LineFramer:
    r"""An iterator over the lines of the bytes that it is fed.

    It ends when more bytes are needed, and goes on after the next `feed`. What is not asked for
    stays here, so whoever stops asking should also stop feeding.

    Parameters
    ----------
    max_line_bytes : int
        The longest line, without its ending.

    Attributes
    ----------
    chunk, at : bytes, int
        What was fed last, and where in it the next line starts. Who knows a faster way for some
        lines may take them from there while `is_between_lines`, and move `at` behind them.

    Examples
    --------
    >>> framer = LineFramer(max_line_bytes=5)
    >>> framer.feed(b"one\r\ntwo and more\nth")
    >>> list(framer)
    [b'one', Overlong(head=b'two a')]
    >>> framer.feed(b"ree\n")
    >>> list(framer)
    [b'three']

    """

    def __init__(self, max_line_bytes: int) -> None:
        self.max_line_bytes = max_line_bytes
        self.chunk = b""
        self.at = 0
        self._partial = bytearray()  # the line before it, still without its end
        self._dropping = False  # the line before it was too long, and said to be

    def __iter__(self) -> Iterator[bytes | Overlong]:
        return self

    @property
    def has_more(self) -> bool:
        """Whether there is anything that was fed and not looked at."""
        return self.at < len(self.chunk)

    @property
    def is_between_lines(self) -> bool:
        """Whether the next line begins at `at`."""
        return not self._partial and not self._dropping

    @property
    def pending_nbytes(self) -> int:
        """How many bytes are held."""
        return len(self._partial) + len(self.chunk) - self.at

    def feed(self, data: bytes) -> None:
        """Take the next bytes; lines that nobody asked for yet stay before them."""
        self.chunk = self.chunk[self.at :] + data if self.at < len(self.chunk) else data
        self.at = 0

    def __next__(self) -> bytes | Overlong:
        """Give the next line without its ending, or one `Overlong` in the place of it."""
        while self.at < len(self.chunk):
            end = self.chunk.find(b"\n", self.at)
            line = self._keep_rest() if end < 0 else self._take(end)
            if line and not (isinstance(line, bytes) and line.isspace()):
                return line
            self._skip_blank_lines()
        raise StopIteration

    def finish(self) -> bytes | Overlong | None:
        """Give what stands after the last newline when no more bytes will come, if anything."""
        line, self._partial = bytes(self._partial), bytearray()
        if len(line) > self.max_line_bytes:
            return self._overlong(line)
        return line if line.strip() else None

    def _skip_blank_lines(self) -> None:
        """Skip a run of them at once: a chunk may be full of them, and no reply slows who sends."""
        if not self._partial and not self._dropping:
            # In a run of so many bytes no line is too long.
            run = _BLANK_LINES.match(self.chunk, self.at, self.at + self.max_line_bytes)
            if run is not None:
                self.at = run.end()

    def _take(self, end: int) -> bytes | Overlong | None:
        """Take the line that ends at ``end``, with what came of it before this chunk."""
        line = self.chunk[self.at : end]
        self.at = end + 1
        if self._dropping:
            self._dropping = False
            return None
        if self._partial:
            self._partial += line
            line, self._partial = bytes(self._partial), bytearray()
        line = line.removesuffix(b"\r")
        return line if len(line) <= self.max_line_bytes else self._overlong(line)

    def _keep_rest(self) -> Overlong | None:
        """Move the rest of the chunk to the partial line, unless that gets too long by it."""
        rest = memoryview(self.chunk)[self.at :]
        ends_with_return = self.chunk.endswith(b"\r")
        self.chunk, self.at = b"", 0
        if self._dropping:
            return None
        # One byte more is let in, as long as it may turn out to be the \r of the ending.
        if len(self._partial) + len(rest) <= self.max_line_bytes + ends_with_return:
            self._partial += rest
            return None
        self._partial += rest[:HEAD_NBYTES]
        line, self._partial = bytes(self._partial), bytearray()
        self._dropping = True
        return self._overlong(line)

    def _overlong(self, line: bytes) -> Overlong:
        # No more of it than is there however the line was cut into chunks.
        return Overlong(line[: min(HEAD_NBYTES, self.max_line_bytes)])
