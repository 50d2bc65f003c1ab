"""The daemon's settings: one frozen record, made once by `options`, read everywhere."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

from quoteshm.model import SeriesKind
from quoteshm.wire.bounds import Bounds

#: Connections that may wait to be accepted: of a burst of more, some wait a second before they try
#: again. Twisted's own default, 50, is reached by one client in a loop.
BACKLOG: Final = 1024
DEFAULT_TICKERS: Final = (
    "AAPL", "MSFT", "GOOGL", "AMZN", "NVDA", "META", "TSLA", "BRK-B", "JPM", "V",
    "MA", "JNJ", "UNH", "PG", "XOM", "CVX", "HD", "KO", "PEP", "WMT",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the daemon was told. Durations in seconds, sizes in bytes."""

    endpoints: tuple[str, ...] = (f"tcp:9000:interface=127.0.0.1:backlog={BACKLOG}",)
    source: str = "yahoo"
    tickers: tuple[str, ...] = DEFAULT_TICKERS  # empty with "files": those of the folder
    tickers_file: Path | None = None  # that they came out of, to be read again
    files: Path | None = None
    synthetic_speed: float = 1.0
    live: bool = False
    kinds: tuple[SeriesKind, ...] = (SeriesKind("1d", 2520),)
    adjust: str = "split"  # Yahoo's prices
    requests_per_minute: int = 60  # of Yahoo
    refresh_s: float = 60.0
    freshness_s: float = 180.0
    shm: bool = True
    shm_name: str = "shm0"
    shm_dir: Path = Path("/dev/shm")  # noqa: S108 (where shared memory lives, not a scratch folder)
    shm_mode: int = 0o640
    shm_group: str | None = None
    max_tickers: int | None = None  # as `room` says
    keep_segment: bool = False
    state_dir: Path | None = None  # of the archive; there is none without it
    max_line_bytes: int = 65_536
    max_connections: int = 10_000
    max_connections_per_peer: int = 10_000
    max_requests_per_turn: int = 64
    max_pending_bytes: int = 64 << 20
    idle_timeout_s: float = 300.0  # 0 is never
    write_timeout_s: float = 30.0
    heartbeat_s: float = 5.0
    auth_token_file: Path | None = None
    tls_client_ca: Path | None = None
    http: str | None = None  # the endpoint of the page; there is none without it
    http_hosts: tuple[str, ...] = ()
    log_level: str = "info"
    log_format: str = "text"

    @property
    def bounds(self) -> Bounds:
        """What one client of the wire may take."""
        return Bounds(**{one.name: getattr(self, one.name) for one in fields(Bounds)})

    def room(self, tickers: int) -> int:
        """Give how many tickers the segment shall hold when it starts with so many."""
        return self.max_tickers or max(64, 2 * tickers)
