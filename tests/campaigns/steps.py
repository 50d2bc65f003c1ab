"""The steps of a writer at which it may be told to die: places in the real code, by their text.

Nothing in the product knows of them. A step is the moment before one line of one function; the
process traces that function and sends itself SIGKILL there. A line that is not found, or is found
twice, is an error: the code has moved away from the campaign.
"""

from __future__ import annotations

import ctypes
import functools
import inspect
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from quoteshm.shm import segment, writer
from quoteshm.shm.lock import WriterLock
from quoteshm.shm.single import SinglePath
from quoteshm.shm.writer import SegmentWriter

if TYPE_CHECKING:
    from types import FrameType

VARIABLE: Final = "QUOTESHM_CRASH_AT"
_PR_SET_PDEATHSIG: Final = 1


@dataclass(frozen=True, slots=True)
class Step:
    """A place in the code, and the scene in which a writer comes to it.

    The scenes: ``run``, an ordinary life; ``new``, one with a ticker that the segment has not;
    ``other``, one whose capacities are others than those of the segment it finds; ``fresh``, one
    that finds none; ``stop``, one that is told to stop.
    """

    name: str
    function: Callable[..., Any]
    text: str
    scenes: tuple[str, ...] = ("run",)
    often: bool = False  # whether a life comes to it again and again


def _steps() -> tuple[Step, ...]:
    run, made, other, stop = ("run",), ("fresh", "other"), ("other",), ("stop",)
    commit, bars = SegmentWriter._commit, SegmentWriter._store_bars
    adopt, replace = SegmentWriter._adopt, SegmentWriter._replace
    single = SinglePath.commit
    create, copy = segment.create, SegmentWriter._copy_into
    often = [
        Step("commit: planned", SegmentWriter._write_many, "self._commit(plan)"),
        Step("commit: odd", commit, "fence before its second load"),
        Step("commit: an entry odd", commit, "table.EPOCH][one.rows] = one.epochs - _ONE"),
        Step("commit: entries odd", commit, "_catch_up(quotes[back]"),
        Step("commit: in the catch-up", writer._catch_up, "back[rows] = stable[rows]"),
        Step("commit: quotes caught up", commit, "_catch_up(series_of[back]"),
        Step("commit: caught up", commit, "self._store_bars(kind, series)"),
        Step("commit: bars stored", commit, "_store_rows(series_of[back][kind.index]"),
        Step("commit: a part of rows", writer._store_rows, "table.field(back, words)[one.rows] = "),
        Step("commit: series rows", commit, "_store_rows(quotes[back], plan.quotes)"),
        Step("commit: quote rows", commit, "m.headers[back][: len(plan.header)] = plan.header"),
        Step("commit: header", commit, 'm.superblock["last_update_ms"] = '),
        Step("commit: before even", commit, "fence behind its first load"),
        Step("commit: even", commit, "self._dirty_quotes = [(one.rows"),
        Step("commit: an entry's time", commit, "table.UPDATED][one.rows] = one.updated"),
        Step("commit: an entry half", commit, "table.EPOCH][one.rows] = one.epochs\n"),
        Step("commit: done", SegmentWriter.write_data, "self._wake()"),
        Step("single: planned", SegmentWriter._commit_one, "self._single.commit("),
        Step("single: odd", single, "fence before its second load"),
        Step("single: before the entry", single, "= entry_epoch - 1"),
        Step("single: entry odd", single, "if dirty is None:"),
        Step("single: caught up", single, "] = values"),
        Step("single: series row", single, "if quote:"),
        Step("single: quote row", single, "] = header"),
        Step("single: header", single, "_LAST_UPDATE_CELL] ="),
        Step("single: before even", single, "fence behind its first load"),
        Step("single: even", single, "_ENTRY_UPDATED] ="),
        Step("single: entry half", single, "_ENTRY_EPOCH] = entry_epoch\n"),
        Step("single: done", SegmentWriter._commit_one, "self._epoch, self._dirty_one ="),
        Step("rewrite: before", bars, "m.cells[m.entry_word(kind.index, one.row)"),
        Step("rewrite: begun", bars, "times, values = m.columns("),
        Step("rewrite: no times", bars, "times[window] = one.bars.time"),
        Step("rewrite: half", bars, "values[:, window] = one.bars.ohlcv"),
        Step("closings: before", bars, "m.blocks[kind.index][closing.words] = closing.time"),
        Step("closings: half", bars, "m.float_blocks[kind.index][words] = closing.ohlcv"),
    ]
    return (
        *(Step(one.name, one.function, one.text, run, often=True) for one in often),
        Step("heartbeat: half", SegmentWriter.heartbeat, 'block["heartbeat_boot_ms"] ='),
        Step("enlist: before", SegmentWriter.enlist, "segment.list_ticker(", ("new",)),
        Step("enlist: no check", segment.list_ticker, 'place["check"] =', ("new",)),
        Step("enlist: half", SegmentWriter.enlist, "self._tickers.append(ticker)", ("new",)),
        Step("enlist: done", SegmentWriter.enlist, "self._revived.update(", ("new",)),
        Step("lock: opened", WriterLock.__init__, "self._take(segment_path)", ("run", "fresh")),
        Step("lock: taken", WriterLock._sign, "self._say(", ("run", "fresh")),
        Step("lock: half signed", WriterLock._say, "os.ftruncate("),
        Step("adopt: checked", SegmentWriter._fit, "self._adopt()"),
        Step("adopt: before the epoch", adopt, "latch.adopted(self._map.epoch)"),
        Step("adopt: after the epoch", adopt, "self._catch_up_all()"),
        Step("adopt: an entry odd", adopt, "epochs += epochs & 1"),
        Step("adopt: entries", adopt, 'block["writer_pid"] = os.getpid()'),
        Step("adopt: locked", adopt, "self._read_directory()"),
        Step("adopt: before live", SegmentWriter._fit, "layout.STATE_WORD] = layout.LIVE"),
        Step("adopt: done", SegmentWriter._fit, "self.adopted = True"),
        Step("create: before", create, "fd = _open_new(path)", made),
        Step("create: opened", create, "os.ftruncate(fd, geometry.size)", made),
        Step("create: truncated", create, "allocate(fd, path, 0, ", made),
        Step("create: allocated", create, "mmap.mmap(fd, geometry.size)", made),
        Step("create: mapped", create, "populate(segment.buffer, 0, ", made),
        Step("create: populated", create, "fill(segment, spec, clock)", made),
        Step("create: half filled", segment.fill, 'block["kind_count"] = len(g.kinds)', made),
        Step("create: filled", create, "again = _again(path, fd)", made),
        Step("create: reopened", create, "lock_segment(again)", made),
        Step("create: locked", create, "permit(again, spec)", made),
        Step("create: permitted", create, "return segment, again", made),
        Step("publish: half made", segment.publish, "complete(segment)", made),
        Step("publish: without magic", segment.complete, "segment.cells[0] = ", made),
        Step("publish: before rename", segment.publish, ".rename(path)", made),
        Step("publish: renamed", SegmentWriter._adopt_or_create, "= refused", ("fresh",)),
        Step("replace: before", replace, "old, old_fd, epoch = ", other),
        Step("replace: created", replace, "epoch += 2", other),
        Step("replace: no row copied", copy, "new.quotes[buffer][:counted] = ", other),
        Step("replace: rows copied", copy, "entries = new.entries[kind.index]", other),
        Step("replace: a block copied", copy, "rows[row, table.COUNT] = len(closed)", other),
        Step("replace: copied", replace, "segment.publish(new, spec.path)", other),
        Step("replace: renamed", replace, "self.spec = spec", other),
        Step("replace: before closed", replace, "old.cells[layout.STATE_WORD] = ", other),
        Step("replace: closed", replace, "if not keep:", other),
        Step("replace: done", replace, "old_fd.close()", other),
        Step("block: before", SegmentWriter._back_block, "segment.allocate(", other),
        Step("block: allocated", SegmentWriter._back_block, "segment.populate(", other),
        Step("close: before", SegmentWriter.close, "layout.STATE_WORD] = layout.CLOSED", stop),
        Step("close: closed", SegmentWriter.close, "self._wake()", stop),
        Step("close: woken", SegmentWriter.close, "self._fd.close()", stop),
        Step("close: unlocked", SegmentWriter.close, "self._lock.release()", stop),
    )


STEPS: Final = {step.name: step for step in _steps()}


@functools.cache  # as it was when this was imported: someone may be editing it
def line_of(step: Step) -> int:
    """Give the number of a step's line in its file.

    Raises
    ------
    LookupError
        There is no such line in the function, or there are several.

    """
    lines, first = inspect.getsourcelines(step.function)
    found = [first + i for i, line in enumerate(lines) if step.text in line]
    if len(found) != 1:
        where = f"{step.function.__qualname__} has {len(found)} lines with {step.text!r}"
        raise LookupError(f"step {step.name!r}: {where}, expected one: the code has moved")
    return found[0]


def arm(said: str) -> None:
    """Make this process kill itself at a step, ``NAME`` or ``NAME:N`` for the Nth time."""
    name, _, number = said.rpartition(":") if said.rpartition(":")[2].isdigit() else (said, "", "1")
    step, left = STEPS[name], int(number)
    line, code = line_of(step), getattr(step.function, "__func__", step.function).__code__

    def at_line(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        if event == "line" and frame.f_lineno == line:
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
        return at_line

    def at_call(frame: FrameType, _event: str, _: object) -> Any:
        return at_line if frame.f_code is code else None

    sys.settrace(at_call)


def die_with_parent() -> None:
    """See to it that this process does not outlive the campaign."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
