"""Fences: nothing where the CPU keeps the order, a real one elsewhere, an error without."""

from __future__ import annotations

import ctypes.util

import pytest

from quoteshm.errors import SegmentError, UnsupportedPlatformError
from quoteshm.shm.fence import fences


@pytest.mark.parametrize("machine", ["x86_64", "AMD64"])
def test_an_ordered_cpu_needs_no_fence(machine: str) -> None:
    """Both are there to be called all the same."""
    acquire, release = fences(machine, "linux")
    assert acquire() is None
    assert release() is None


@pytest.mark.parametrize("system", ["darwin", "win32", "freebsd14"])
def test_another_system_is_told_what_to_use_instead(system: str) -> None:
    """The error names the TCP client."""
    with pytest.raises(UnsupportedPlatformError, match=f"found {system}; use .*QuoteClient"):
        fences("x86_64", system)


def test_a_cpu_that_reorders_needs_libatomic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it there is no attaching."""
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    with pytest.raises(UnsupportedPlatformError, match="aarch64 without libatomic") as caught:
        fences("aarch64", "linux")
    assert isinstance(caught.value, SegmentError)


def test_a_cpu_that_reorders_gets_real_fences(monkeypatch: pytest.MonkeyPatch) -> None:
    """Acquire is called with C's number for it, release with its own."""
    called: list[int] = []

    class Function:
        argtypes: object = None
        restype: object = int

        def __call__(self, order: int) -> None:
            called.append(order)

    class Library:
        atomic_thread_fence = Function()

    monkeypatch.setattr(ctypes.util, "find_library", lambda name: "libatomic.so.1")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library)
    acquire, release = fences("aarch64", "linux")
    acquire()
    release()
    assert called == [2, 3]
