"""A ticker as the classic reader sees it: ``{"header": {...}, "data": DataFrame}``.

The classic loop loads the header's epoch, spins while it is odd, reads the data, and loads the
epoch again. Here the epoch comes from the stable buffer's row, so it is even, always, and the loop
never spins on a dead writer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import pandas as pd

HEADER_FIELDS: Final = ("version", "writer_pid", "epoch", "last_update_ms")


class EntryHeader(Mapping[str, int]):
    """The header of a ticker's entry; each item is read from the segment when it is asked for."""

    def __init__(self, load: Callable[[str], int]) -> None:
        self._load = load

    def __getitem__(self, key: str) -> int:
        if key not in HEADER_FIELDS:
            raise KeyError(key)
        return self._load(key)

    def __iter__(self) -> Iterator[str]:
        return iter(HEADER_FIELDS)

    def __len__(self) -> int:
        return len(HEADER_FIELDS)


class Entry(Mapping[str, Any]):
    """A ticker: ``header``, read live, and ``data``, a copy of its history."""

    def __init__(self, header: EntryHeader, data: Callable[[], pd.DataFrame]) -> None:
        self._header, self._data = header, data

    def __getitem__(self, key: str) -> Any:  # noqa: ANN401  a header, or a frame
        if key == "header":
            return self._header
        if key == "data":
            return self._data()
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return iter(("header", "data"))

    def __len__(self) -> int:
        return 2
