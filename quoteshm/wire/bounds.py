"""What one client may take, and for how long: every bound of the wire, with a safe default."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Bounds of the wire. Durations in seconds, sizes in bytes."""

    max_line_bytes: int = 65_536  # of a request, without its newline
    max_pending_bytes: int = 1 << 26  # of one reply; there are no more for who does not read
    max_requests_per_turn: int = 64  # of one client, before all others have their turn
    max_connections: int = 10_000
    max_connections_per_peer: int = 10_000
    idle_timeout_s: float = 300.0  # without a whole line, or a subscription; 0 for ever
    write_timeout_s: float = 30.0  # with a backlog of which nothing is read
    heartbeat_s: float = 5.0  # without another event
