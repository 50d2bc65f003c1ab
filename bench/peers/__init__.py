"""Whom quoteshm is measured with: a module a peer, each with a `Writer` and a `Reader`.

A module is imported in the worker processes of its peer alone, so one that cannot be is a row of
the tables that says why.
"""

from __future__ import annotations

from typing import Final

OURS: Final = "quoteshm"
SUBSCRIBE: Final = "subscribe"
LIMIT: Final = "limit"
#: Those that are no peers: ratios to them say nothing of others.
NO_PEERS: Final = frozenset({OURS, SUBSCRIBE, LIMIT})

#: Names in tables, by module.
LABELS: Final[dict[str, str]] = {
    OURS: "quoteshm",
    SUBSCRIBE: "quoteshm, subscribe",
    LIMIT: "limit",
    "lmdb": "LMDB",
    "lmdb_raw": "LMDB, bare numbers",
    "iceoryx2": "iceoryx2",
    "ultradict": "UltraDict",
    "redis": "Redis",
    "redis_arrow": "Redis, Arrow",
    "memcached": "memcached",
    "sqlite": "SQLite",
    "arrow_ipc": "Arrow IPC, mmap",
    "npy": ".npy, mmap",
    "parquet": "Parquet",
    "duckdb": "DuckDB",
    "arcticdb": "ArcticDB",
    "flight": "Arrow Flight",
    "naive": "naive",
}
