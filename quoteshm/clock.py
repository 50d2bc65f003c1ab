"""The two clocks of the package: what time it is, and how much time has passed."""

from __future__ import annotations

import contextlib
import time
import uuid
from pathlib import Path
from typing import Protocol

NS_PER_MS = 1_000_000


def boot_id() -> bytes:
    """Give the 16 bytes that tell this boot of the machine from any other; zeros where unknown."""
    with contextlib.suppress(OSError, ValueError):
        text = Path("/proc/sys/kernel/random/boot_id").read_bytes()
        return uuid.UUID(text.decode().strip()).bytes
    return bytes(16)


class Clock(Protocol):
    """Where a moment comes from; passed in, so that tests own the time."""

    def wall_ms(self) -> int:
        """Give the Unix time, milliseconds, UTC."""

    def boot_ms(self) -> int:
        """Give the milliseconds since boot, suspension included; never jumps."""


class SystemClock:
    """The machine's own clocks."""

    def wall_ms(self) -> int:
        """Give the Unix time, milliseconds, UTC."""
        return time.time_ns() // NS_PER_MS

    def boot_ms(self) -> int:
        """Give CLOCK_BOOTTIME, milliseconds."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // NS_PER_MS
