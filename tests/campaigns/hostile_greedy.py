"""A client that asks for much at once, and reads it all.

``python -m tests.campaigns.hostile_greedy PORT KIND COUNT`` is one in a process of its own, so that
it takes no time from who measures beside it; it imports little, to begin at once.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Final

from tests.campaigns.report import check

if TYPE_CHECKING:
    from collections.abc import Iterable

WAIT_S: Final = 30.0

PING: Final = b'{"v":1,"id":%d,"type":"ping"}\n'
QUOTE: Final = b'{"v":1,"id":%d,"type":"get_quote","ticker":"SYN00001"}\n'
QUOTES: Final = b'{"v":1,"id":%d,"type":"get_quotes"}\n'
#: What each kind of greedy client asks for, with a number for the id.
GREEDY: Final[dict[str, bytes]] = {
    "ping": PING,
    "quote": QUOTE,
    "history": b'{"v":1,"id":%d,"type":"get_history","ticker":"SYN00001","last":1}\n',
    "quotes": QUOTES,
    "bad": b"%d\n",
    "blank": b"\n" * 2000 + PING,
}  # fmt: skip


def greedy(port: int, kind: str, count: int) -> dict[str, float]:
    """Send requests as fast as the server takes them, and read; give what came of it."""
    form = GREEDY[kind]
    blocks = (
        b"".join(form % n for n in range(at, min(at + 200, count))) for at in range(0, count, 200)
    )
    connection = socket.create_connection(("127.0.0.1", port), WAIT_S)
    sender = threading.Thread(target=_send, args=(connection, blocks), daemon=True)
    replies, tail, begun = 0, b"", time.perf_counter()
    sender.start()
    while replies < count:
        data = connection.recv(1 << 20)
        check(data, "the connection was closed")
        replies += data.count(b"\n")
        tail = (tail + data)[-400:] if len(data) < 400 else data[-400:]
    seconds = time.perf_counter() - begun
    check(replies == count and tail.endswith(b"\n"), "more replies than requests")
    if kind not in ("bad", "quotes"):
        last = json.loads(tail.rstrip(b"\n").rpartition(b"\n")[2])
        check(last["id"] == count - 1, f"the last reply is {last}")
    sender.join()
    with contextlib.closing(connection):
        return {"replies": replies, "seconds": seconds}


def _send(connection: socket.socket, blocks: Iterable[bytes]) -> None:
    for block in blocks:
        connection.sendall(block)


if __name__ == "__main__":
    print("ready", flush=True)  # noqa: T201  to the parent
    print(json.dumps(greedy(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))))  # noqa: T201  the same
