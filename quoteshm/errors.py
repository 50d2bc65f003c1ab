"""Every exception of the package, one class per cause, and the wire's error codes.

Each carries its facts as attributes and says in its text what was found and what was expected.
"""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Final


class QuoteShmError(Exception):
    """Whatever this package raises on purpose."""

    def __reduce__(self) -> tuple[object, ...]:
        """Be pickled as it stands: what `__init__` takes is not what the text is made of."""
        return _restored, (type(self), self.args, self.__dict__)


def _restored(
    kind: type[QuoteShmError], args: tuple[object, ...], facts: dict[str, object]
) -> QuoteShmError:
    """Give an error that was pickled, as from a process of a pool, which would wait for ever."""
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(facts)
    return error


# -- the segment -----------------------------------------------------------------------------

_NO_ROWS: Final[frozenset[int]] = frozenset()


class SegmentError(QuoteShmError):
    """The shared-memory segment cannot be used."""


class SegmentNotFoundError(SegmentError):
    """There is no segment under that name."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"no segment at {path}: is the daemon running?")
        self.path = path


class ForeignFileError(SegmentError):
    """What stands under the segment's name is not a segment of ours; it is never touched."""

    def __init__(self, path: Path, found: str, expected: str) -> None:
        super().__init__(f"{path}: found {found}, expected {expected}")
        self.path, self.found, self.expected = path, found, expected


class SegmentAccessError(SegmentError):
    """The user may not open the segment."""

    def __init__(self, path: Path, found: str, expected: str) -> None:
        super().__init__(f"{path}: found {found}, expected {expected}")
        self.path, self.found, self.expected = path, found, expected


class HalfMadeError(SegmentError):
    """The segment was never finished by the writer that began it."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path}: found a segment half made, expected one that is live")
        self.path = path


class TruncatedError(SegmentError):
    """The file is shorter than its own header says."""

    def __init__(self, path: Path, found: int, expected: int) -> None:
        super().__init__(f"{path}: found {found} bytes, expected {expected}")
        self.path, self.found, self.expected = path, found, expected


class LayoutMismatchError(SegmentError):
    """The segment was written with another layout."""

    def __init__(self, found: int, expected: int) -> None:
        super().__init__(f"layout version {found}, this reader knows {expected}")
        self.found, self.expected = found, expected


class CorruptSegmentError(SegmentError):
    """A structural field holds what no writer of ours can have written."""

    def __init__(self, field: str, found: object, expected: object) -> None:
        super().__init__(f"corrupt segment: {field} is {found}, expected {expected}")
        self.field, self.found, self.expected = field, found, expected


class WriterRunningError(SegmentError):
    """Another process writes this segment."""

    def __init__(self, path: Path, pid: int | None) -> None:
        who = "another process" if pid is None else f"process {pid}"
        super().__init__(
            f"{path} is being written by {who}: stop that one, or choose another --shm-name"
        )
        self.path, self.pid = path, pid


class SegmentFullError(SegmentError):
    """The file system of the segment has no room left; `rows` are those of a batch without any."""

    def __init__(self, path: Path, needed: int, free: int, rows: frozenset[int] = _NO_ROWS) -> None:
        super().__init__(f"{path}: {needed} bytes more are needed, {free} are free")
        self.path, self.needed, self.free, self.rows = path, needed, free, rows


class UnsupportedPlatformError(SegmentError):
    """The machine has no fence, or no Linux: use the TCP client instead."""

    def __init__(self, found: str) -> None:
        super().__init__(
            f"shared memory needs Linux and a CPU whose fences are known, found {found}; "
            "use quoteshm.QuoteClient, which reads over TCP",
        )
        self.found = found


class ReaderClosedError(SegmentError):
    """The reader was closed by its owner."""

    def __init__(self) -> None:
        super().__init__("this reader is closed")


class ReadTimeoutError(SegmentError, TimeoutError):
    """No consistent read came about before the deadline, nor in the tries that every call has."""

    def __init__(self, timeout_s: float, attempts: int) -> None:
        super().__init__(f"no consistent read within {timeout_s * 1000:g} ms ({attempts} attempts)")
        self.timeout_s, self.attempts = timeout_s, attempts


# -- the archive -----------------------------------------------------------------------------


class ArchiveFileError(QuoteShmError):
    """A file of the archive cannot be used: damaged, or of another version, source or ticker."""

    def __init__(self, path: Path, found: str, expected: str) -> None:
        self.path, self.found, self.expected = path, found, expected
        super().__init__(f"{path}: {self.why}")

    @property
    def why(self) -> str:
        """What is wrong with it, without its name."""
        return f"found {self.found}, expected {self.expected}"


# -- what was asked for ----------------------------------------------------------------------


#: The reason of a ticker that was there, and is served no longer.
REMOVED = "removed"
#: The reason of a ticker that the segment has nothing of: only the daemon knows if it is wanted.
UNPUBLISHED = "unpublished"


class UnknownTickerError(QuoteShmError, KeyError):
    """No such ticker, or none with a published value.

    Attributes
    ----------
    ticker : str
    reason : str, optional
        Why there is no value, of one that is wanted; or `REMOVED`, or `UNPUBLISHED`.
    instead : str, optional
        The same ticker in the case that there is.

    """

    def __init__(
        self, ticker: object, reason: str | None = None, *, instead: str | None = None
    ) -> None:
        super().__init__(ticker)
        self.ticker, self.reason, self.instead = ticker, reason, instead

    def __str__(self) -> str:
        """Give a sentence, where KeyError would give a repr."""
        if self.instead is not None:
            return f"unknown ticker: {self.ticker}; did you mean {self.instead}?"
        if self.reason is None:
            return f"unknown ticker: {self.ticker}"
        if self.reason == UNPUBLISHED:
            return f"unknown ticker, or no value yet: {self.ticker}"
        if self.reason == REMOVED:
            return f"ticker removed: {self.ticker}"
        return f"no value yet for {self.ticker}: {self.reason}"


class UnknownIntervalError(QuoteShmError, KeyError):
    """The segment holds no such series."""

    def __init__(self, interval: object, known: tuple[str, ...]) -> None:
        super().__init__(interval)
        self.interval, self.known = interval, known

    def __str__(self) -> str:
        """Give a sentence, where KeyError would give a repr."""
        return f"unknown interval: {self.interval}, known are {', '.join(self.known)}"


class BatchError(QuoteShmError, ValueError):
    """A batch that cannot be published; nothing of it was."""


class SettingsError(QuoteShmError, ValueError):
    """An option with a bad value."""

    def __init__(self, option: str, found: object, expected: str) -> None:
        super().__init__(f"{option}: found {found!r}, expected {expected}")
        self.option, self.found, self.expected = option, found, expected


class ListenError(QuoteShmError):
    """Nobody can be served at an endpoint: its port or path is taken, or not for this user."""

    def __init__(self, endpoint: str, why: str) -> None:
        super().__init__(f"cannot listen at {endpoint}: {why}")
        self.endpoint, self.why = endpoint, why


# -- the wire --------------------------------------------------------------------------------


class AnswerTimeoutError(QuoteShmError, TimeoutError):
    """The server did not answer in time."""

    def __init__(self, address: str, timeout_s: float) -> None:
        super().__init__(f"{address}: no answer within {timeout_s:g} s")
        self.address, self.timeout_s = address, timeout_s


class ErrorCode(enum.StrEnum):
    """What an error reply of the wire can say."""

    BAD_REQUEST = "BAD_REQUEST"
    NOT_FOUND = "NOT_FOUND"
    INTERNAL = "INTERNAL"
    OVERLOADED = "OVERLOADED"
    UNAUTHORIZED = "UNAUTHORIZED"


class RequestError(QuoteShmError):
    """An error reply: raised where a request is answered, and again by the client that gets it."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


class ConnectionFailedError(QuoteShmError, ConnectionError):
    """The server cannot be reached, or went away before it answered."""

    def __init__(self, address: str, why: str) -> None:
        super().__init__(f"{address}: {why}")
        self.address, self.why = address, why
