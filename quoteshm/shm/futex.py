"""Sleep until a word of shared memory changes, and wake those who sleep: Linux's futex.

The word is looked at by the kernel, so a read-only map is enough to wait.
"""

from __future__ import annotations

import ctypes
import functools
import platform
import time
from collections.abc import Callable
from typing import Final

_FUTEX_WAIT, _FUTEX_WAKE = 0, 1
_EVERYONE: Final = 0x7FFF_FFFF
_SYSCALLS: Final = {"x86_64": 202, "aarch64": 98}
_POLL_S: Final = 0.001


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


_number = _SYSCALLS.get(platform.machine())
_syscall = ctypes.CDLL(None, use_errno=True).syscall


# Waking never blocks, so the interpreter's lock is kept, which takes a third off the cost of a call
# that is made after each commit; and whatever it says there is nothing to be done about it.
_wake = ctypes.PyDLL(None).syscall
_wake.restype = None


def waker(address: int) -> Callable[[], object]:
    """Give the function that wakes everyone who sleeps on the 32-bit word at ``address``."""
    if _number is None:
        return lambda: None  # the others poll
    number, word = ctypes.c_long(_number), ctypes.c_void_p(address)
    wake, everyone = ctypes.c_int(_FUTEX_WAKE), ctypes.c_int(_EVERYONE)
    return functools.partial(_wake, number, word, wake, everyone)


def wait(address: int, value: int, timeout_s: float) -> None:
    """Sleep as long as the 32-bit word at ``address`` is ``value``, at most ``timeout_s``.

    May return early; the caller looks again.
    """
    if _number is None:
        time.sleep(min(timeout_s, _POLL_S))
        return
    seconds, rest = divmod(timeout_s, 1.0)
    limit = _Timespec(int(seconds), int(rest * 1e9))
    _syscall(
        ctypes.c_long(_number),
        ctypes.c_void_p(address),
        ctypes.c_int(_FUTEX_WAIT),
        ctypes.c_uint32(value),
        ctypes.byref(limit),
        ctypes.c_long(0),
        ctypes.c_long(0),
    )
