"""Do something in a forked process that may crash or hang, and tell what came of it."""

from __future__ import annotations

import json
import mmap
import os
import select
import signal
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Any, Final, NoReturn

from tests.campaigns.report import ViolationError
from tests.campaigns.steps import die_with_parent

_NOTE_NBYTES: Final = 4096


class Note:
    """What a child is at, for its parent to tell when the child cannot."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _NOTE_NBYTES)

    def write(self, text: str) -> None:
        """Say what comes next."""
        self._memory[:] = text.encode()[:_NOTE_NBYTES].ljust(_NOTE_NBYTES, b"\0")

    def read(self) -> str:
        """Give what was said last."""
        return self._memory[:].rstrip(b"\0").decode(errors="replace") or "the start"


def fork() -> int:
    """Fork, however many threads there are: the child calls nothing that another one may hold."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def in_child(act: Callable[[Note], object], timeout_s: float) -> Any:
    """Call something in a child; give what it returned, by way of JSON.

    Raises
    ------
    ViolationError
        It raised an exception, took too long, or was ended by a signal; with the child's note.

    """
    note, (source, sink) = Note(), os.pipe()
    pid = fork()
    if not pid:
        os.close(source)
        _be_child(act, note, sink)
    os.close(sink)
    said, deadline = b"", time.monotonic() + timeout_s
    try:
        while select.select([source], [], [], max(0.0, deadline - time.monotonic()))[0]:
            chunk = os.read(source, 1 << 16)
            if not chunk:
                break
            said += chunk
        else:
            os.kill(pid, signal.SIGKILL)
            raise ViolationError(f"not within {timeout_s:g} s: {note.read()}")
    finally:
        os.close(source)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status:
        how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        raise ViolationError(f"ended by {how} at {note.read()}")
    answer = json.loads(said)
    if "error" in answer:
        raise ViolationError(f"{answer['error']} at {note.read()}")
    return answer["result"]


def _be_child(act: Callable[[Note], object], note: Note, sink: int) -> NoReturn:
    """Act, say how it went, and end without what a process does at its end."""
    try:
        die_with_parent()
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # an alarm ends the child
        try:
            answer = {"result": act(note)}
        except ViolationError as error:
            answer = {"error": str(error)}
        except BaseException:  # noqa: BLE001  it is told to the parent
            answer = {"error": traceback.format_exc()}
        signal.alarm(0)
        text = json.dumps(answer).encode()
        while text:
            text = text[os.write(sink, text) :]
    finally:
        os._exit(0)
