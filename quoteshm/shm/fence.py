"""Memory ordering for this CPU.

x86-64 keeps loads in order with loads and stores with stores (Intel SDM volume 3, section 9.2),
which is all that a seqlock asks for; the interpreter itself is a barrier for the compiler. Other
CPUs reorder, so there a real fence is called, `atomic_thread_fence` of libatomic. Only x86-64 was
run on hardware.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import platform
import sys
from collections.abc import Callable

from quoteshm.errors import UnsupportedPlatformError

_ORDERED_CPUS = frozenset({"x86_64", "AMD64"})
_ACQUIRE, _RELEASE = 2, 3  # memory_order of C11 as GCC numbers it


def _nothing() -> None:
    """Order nothing: the CPU does."""


def ordered(machine: str = platform.machine()) -> bool:
    """Tell whether the CPU needs no fence."""
    return machine in _ORDERED_CPUS


def fences(
    machine: str = platform.machine(), system: str = sys.platform
) -> tuple[Callable[[], object], Callable[[], object]]:
    """Give the acquire and the release fence.

    Raises
    ------
    UnsupportedPlatformError
        Not Linux, or a CPU that reorders and no libatomic to stop it.

    """
    if system != "linux":
        raise UnsupportedPlatformError(system)
    if ordered(machine):
        return _nothing, _nothing
    library = ctypes.util.find_library("atomic")
    if library is None:
        found = f"{machine} without libatomic"
        raise UnsupportedPlatformError(found)
    fence = ctypes.CDLL(library).atomic_thread_fence
    fence.argtypes, fence.restype = (ctypes.c_int,), None
    return lambda: fence(_ACQUIRE), lambda: fence(_RELEASE)
