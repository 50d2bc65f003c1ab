"""The campaign of flipped bits would see what it looks for."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from quoteshm.errors import HalfMadeError
from quoteshm.shm import checks, layout
from quoteshm.shm.reader import StockDataReader
from quoteshm.shm.writer import SegmentWriter
from tests.campaigns import faults_bits as bits
from tests.campaigns.faults_child import Note, in_child
from tests.campaigns.report import ViolationError


def believe(*_: object) -> None:
    """Check nothing."""


def field(scene: bits.Scene, name: str) -> bits.Field:
    """Find the first field of a name."""
    return next(field for field in scene.fields if str(field) == name)


def test_a_reader_that_believes_anything_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ticker that is silently gone is no right answer, and an error is none that is wrong."""
    scene = bits.build(tmp_path / "bits")
    scene.restore()
    word = field(scene, "quote.flags")._replace(nbytes=8)
    case = ((word, bytes(8)),)
    assert bits._read_case(scene, case, 0)[0] == bits.ERROR
    monkeypatch.setattr(checks, "check_flags", believe)
    verdict, why = bits._read_case(scene, case, 0)
    assert verdict == bits.WRONG
    assert "quote.flags of row 0" in why


def test_an_exception_that_is_none_of_ours_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the value it stands for."""
    scene = bits.build(tmp_path / "bits")
    scene.restore()
    case = ((field(scene, "entry.version"), bytes(4)),)
    assert bits._read_case(scene, case, 0)[0] == bits.RIGHT
    monkeypatch.setattr(StockDataReader, "panel", lambda *_, **__: 1 // 0)
    scene_reader = scene.reader()
    verdict, why = bits._read(scene, case, scene_reader, [])
    assert verdict == bits.WRONG
    assert "raises ZeroDivisionError" in why


def test_a_writer_that_will_not_begin_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is damaged is replaced, unless it may be no segment at all."""
    scene = bits.build(tmp_path / "bits")

    def refuse(*_: object) -> None:
        raise HalfMadeError(scene.path)

    state, rows = field(scene, "superblock.state"), field(scene, "kind.rows")
    monkeypatch.setattr(SegmentWriter, "open", refuse)
    assert bits._adopt_case(scene, ((state, bytes(8)),), 0)[0] == bits.ERROR
    assert bits._adopt_case(scene, ((rows, bytes(8)),), 0)[0] == bits.WRONG


def test_a_stale_quote_that_is_passed_off_as_fresh_is_seen() -> None:
    """The other way round it is only marked."""
    good: list[bits.Answer] = [("quote", (True,)), ("earlier", (False,))]
    assert bits._judge(lambda: ("quote", (True,)), good)[0] == bits.RIGHT
    assert bits._judge(lambda: ("quote", (False,)), good)[0] == bits.WRONG
    assert bits._judge(lambda: ("earlier", (True,)), good)[0] == bits.STALE
    assert bits._judge(lambda: ("other", (True,)), good)[0] == bits.WRONG


def test_every_field_of_every_table_is_there(tmp_path: Path) -> None:
    """But for prices, volumes and times."""
    scene = bits.build(tmp_path / "bits")
    found = {str(field) for field in scene.fields}
    records = {
        "superblock": layout.SUPERBLOCK, "kind": layout.KIND, "directory": layout.DIRECTORY_ROW,
        "entry": layout.ENTRY, "header": layout.BUFFER_HEADER, "quote": layout.QUOTE_ROW,
        "series": layout.SERIES_ROW,
    }  # fmt: skip
    every = {f"{table}.{name}" for table, record in records.items() for name in record.names or ()}
    assert found <= every
    left_out = {"ts_ms", "open", "price", "time", "close", "updated_boot_ms", "last_update_ms"}
    assert {name.partition(".")[2] for name in every - found} >= left_out
    assert all(name.startswith(("quote.", "series.")) for name in every - found)
    assert {
        "quote.flags",
        "quote.flags_check",
        "series.start",
        "series.check",
        "kind.rows",
    } <= found


def raise_it() -> None:
    """Fail."""
    raise LookupError("no such thing")


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (raise_it, "LookupError: no such thing"),
        (partial(os._exit, 3), "exit status 3"),
        (partial(signal.raise_signal, signal.SIGKILL), "SIGKILL"),
        (signal.pause, "not within"),
    ],
)
def test_the_end_of_a_child_is_seen(act: Callable[[], object], said: str) -> None:
    """Whatever it is, with what the child was at."""

    def do(note: Note) -> None:
        note.write("its work")
        act()

    with pytest.raises(ViolationError, match=said) as caught:
        in_child(do, 0.5)
    assert "its work" in str(caught.value)


def test_a_child_gives_what_it_returns() -> None:
    """As JSON can carry it."""
    assert in_child(lambda _: {"a": [1, "b"]}, 5) == {"a": [1, "b"]}
