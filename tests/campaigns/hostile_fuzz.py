"""Any bytes at all: the framer, the codec and the operations, in this process.

`check_stream` is the promise; hypothesis looks for a stream that breaks it, and so does atheris
where it is installed: ``python -m tests.campaigns.hostile_fuzz --seconds 60``.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import inspect
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

import hypothesis
from hypothesis import strategies as st

from quoteshm.wire import messages, operations
from quoteshm.wire.bounds import Bounds
from quoteshm.wire.framing import LineFramer, Overlong
from quoteshm.wire.operations import OPERATIONS
from tests.campaigns.report import ViolationError, check
from tests.published import Market
from tests.wire.hostile import HOSTILE

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

    from quoteshm.wire.operations import Context

#: What a request may come to, however bad it is.
CODES: Final = frozenset({None, "BAD_REQUEST", "NOT_FOUND"})
MAX_LINE_NBYTES: Final = 512  # here, so that lines that are too long are met often

GOOD: Final[tuple[bytes, ...]] = (
    b'{"v":1,"id":1,"type":"ping"}',
    b'{"v":1,"id":"a1","type":"get_quote","ticker":"AAPL"}',
    b'{"v":1,"id":2,"type":"get_quotes","tickers":["AAPL","MSFT","NONE"]}',
    b'{"v":1,"id":3,"type":"get_history","ticker":"AAPL","interval":"1d","last":2,"since":0}',
    b'{"v":1,"id":-4,"type":"get_info"}',
    b'{"v":1,"id":18446744073709551615,"type":"list_tickers"}',
    b'{"v":1,"id":"","type":"get_snapshot_epoch"}',
    b'{"v":1,"id":"\xc3\xa9\\u00e9","type":"get_shm_name"}',
)
TOKENS: Final[tuple[bytes, ...]] = (
    *(b"\n", b"\r", b"\r\n", b"\0", b"{", b"}", b"[", b"]", b'"', b":", b",", b"\\", b"\\u", b" "),
    *(b"null", b"true", b"NaN", b"-Infinity", b"1e999", b"-0", b"0.5"),
    *(b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xef\xbb\xbf"),
    *(b"\\ud800", b"18446744073709551616", b"-9223372036854775809", b"9" * 400),
    *(b'"id"', b'"v"', b'"type"', b'"ticker"', b'"tickers"', b'"last"', b'"since"', b'"interval"'),
    *(b"[" * 50, b'{"a":' * 50, b"x" * 600, b"{log_source}", b"%s"),
)  # fmt: skip


def mutated(rng: random.Random, line: bytes) -> bytes:
    """Give a line with a few things done to it."""
    text = bytearray(line)
    for _ in range(rng.randint(1, 4)):
        a = rng.randint(0, len(text))
        b = min(len(text), a + rng.choice((0, 1, 1, 2, 8, 64)))
        match rng.randrange(6):
            case 0:
                text[a:b] = b""
            case 1:
                text[a:b] = rng.choice(TOKENS)
            case 2:
                text[a:a] = rng.choice(TOKENS)
            case 3:
                text[a:b] = rng.randbytes(b - a)
            case 4:
                text[a:a] = text[a:b] * rng.randint(1, 3)
            case _:
                other = rng.choice(GOOD)
                text[a:] = other[rng.randint(0, len(other)) :]
    return bytes(text)


def lines_of(stream: bytes, max_line_bytes: int) -> list[bytes | None]:
    """Say which lines of a stream are to be answered, the whole of it at hand; None: too long."""
    *ended, rest = stream.split(b"\n")
    lines = [line.removesuffix(b"\r") for line in ended]
    if rest.strip() or len(rest) > max_line_bytes + rest.endswith(b"\r"):
        lines.append(rest)
    return [
        line if len(line) <= max_line_bytes else None
        for line in lines
        if line.strip() or len(line) > max_line_bytes
    ]


def check_stream(context: Context, stream: bytes, size: int) -> int:
    """See that a stream in chunks of a size gets its replies, and no more; give their count."""
    framer = LineFramer(context.bounds.max_line_bytes)
    found: list[bytes | Overlong] = []
    for at in range(0, len(stream), size):
        framer.feed(stream[at : at + size])
        found += framer
        check(
            framer.pending_nbytes <= context.bounds.max_line_bytes + 1, "the framer keeps too much"
        )
    last = framer.finish()
    found += [] if last is None else [last]
    plain = [None if isinstance(line, Overlong) else line for line in found]
    check(plain == lines_of(stream, context.bounds.max_line_bytes), "other lines than were sent")
    for line in found:
        reply = (
            operations.overlong(context)
            if isinstance(line, Overlong)
            else operations.answer(context, line)
        )
        if reply.error is not None and reply.error.__cause__ is not None:
            raise ViolationError("an exception") from reply.error.__cause__
        check_reply(reply.reply)
    return len(found)


def check_reply(reply: bytes) -> dict[str, Any]:
    """See that a reply is one, in the form that was promised; give it."""
    check(reply.endswith(b"\n") and reply.count(b"\n") == 1, "not one line")
    document: dict[str, Any] = json.loads(
        reply.decode("utf-8", "strict"), parse_constant=_no_number
    )
    check(document["v"] == messages.PROTOCOL_VERSION, "another version")
    check(isinstance(document["id"], str | int | None), "an id that is none")
    if document["type"] == "response":
        check(document["op"] in OPERATIONS and "data" in document, "a response to nothing")
    else:
        check(document["type"] == "error", "neither response nor error")
        check(document["error"]["code"] in CODES, f"it says {document['error']}")
    return document


def _no_number(text: str) -> None:
    raise ViolationError(f"{text} in a reply")


def context() -> Context:
    """Make a market to ask."""
    market = Market()
    return operations.Context(market.writer, market.cache, Bounds(max_line_bytes=MAX_LINE_NBYTES))


# -- hypothesis ------------------------------------------------------------------------------

_NAMES = st.sampled_from(
    ["v", "id", "type", "ticker", "tickers", "interval", "last", "since", "x", ""]
)
_TEXTS = st.one_of(
    st.sampled_from([*OPERATIONS, "AAPL", "MSFT", "NEWCO", "1d", "1m", "1 d", ""]), st.text()
)
_NUMBERS = st.one_of(
    st.sampled_from([0, 1, -1, 1 << 63, (1 << 63) - 1, 1 << 64, -(1 << 63) - 1, 10**400]),
    st.integers(),
    st.floats(),
)
_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), _NUMBERS, _TEXTS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_NAMES, inner, max_size=4),
    max_leaves=8,
)
_REQUESTS = st.fixed_dictionaries(
    {"v": st.just(1) | _VALUES, "id": _VALUES, "type": st.sampled_from(list(OPERATIONS)) | _VALUES},
    optional={
        "ticker": st.just("AAPL") | _VALUES,
        "tickers": st.lists(_TEXTS) | _VALUES,
        "interval": _VALUES,
        "last": st.integers(1, 5) | _VALUES,
        "since": _VALUES,
    },
)


def _encoded(document: object) -> bytes:
    # With the surrogates and the NaN that JSON has no place for.
    return json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass")


_LINES = st.one_of(
    st.binary(max_size=80),
    st.sampled_from([line for line in HOSTILE.values() if len(line) < 4 * MAX_LINE_NBYTES]),
    _REQUESTS.map(_encoded),
    _VALUES.map(_encoded),
    st.builds(mutated, st.randoms(use_true_random=False), st.sampled_from(GOOD)),
)
STREAMS = st.lists(st.tuples(_LINES, st.sampled_from([b"\n", b"\r\n", b"\n\n", b""]))).map(
    lambda parts: b"".join(line + ending for line, ending in parts)
)


def with_hypothesis(examples: int) -> dict[str, int]:
    """Look for a stream that breaks the promise; give how many were tried."""
    market = context()
    counts = {"streams": 0, "lines": 0}

    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(STREAMS, st.integers(1, 64) | st.just(1 << 16))
    def look(stream: bytes, size: int) -> None:
        counts["streams"] += 1
        counts["lines"] += check_stream(market, stream, size)

    look()
    return counts


# -- atheris ---------------------------------------------------------------------------------


def has_atheris() -> bool:
    """Whether atheris is there."""
    return importlib.util.find_spec("atheris") is not None


def with_atheris(seconds: int) -> dict[str, int]:
    """Look for one with a fuzzer that sees which branches a stream takes.

    It ends the process that it runs in, so it is given one.
    """
    done = subprocess.run(
        [sys.executable, "-m", __name__, "--seconds", str(seconds)],
        capture_output=True,
        text=True,
        timeout=seconds + 60,
        check=False,
    )
    # Its last lines are the finding, with the stream in base 64.
    check(done.returncode == 0, f"atheris: {done.stderr[-2000:]}")
    runs = [line.split()[1] for line in done.stderr.splitlines() if line.startswith("Done ")]
    check(runs, f"atheris says nothing: {done.stderr[-2000:]}")
    return {"streams": int(runs[0])}


def _corpus() -> Iterator[bytes]:
    yield from (bytes([7]) + line + b"\n" for line in GOOD)
    yield from (bytes([1]) + line + b"\n" for line in HOSTILE.values() if len(line) < 2000)


def _run_atheris(seconds: int) -> None:
    import tempfile  # noqa: PLC0415 (only in the process that atheris has to itself)
    from pathlib import Path  # noqa: PLC0415

    atheris: Any = importlib.import_module("atheris")
    for module in (messages, operations, sys.modules[LineFramer.__module__]):
        for name, function in vars(module).items():
            if inspect.isfunction(function) and function.__module__ == module.__name__:
                setattr(module, name, atheris.instrument_func(function))
    for name, function in list(vars(LineFramer).items()):
        if inspect.isfunction(function):
            setattr(LineFramer, name, atheris.instrument_func(function))
    market = context()

    def look(data: bytes) -> None:
        if data:
            check_stream(market, data[1:], data[0] or 1 << 16)

    with tempfile.TemporaryDirectory() as folder:
        for number, stream in enumerate(_corpus()):
            (Path(folder) / str(number)).write_bytes(stream)
        options = [f"-max_total_time={seconds}", "-max_len=4096", f"-artifact_prefix={folder}/"]
        atheris.Setup([sys.argv[0], *options, folder], look)
        atheris.Fuzz()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=60)
    _run_atheris(parser.parse_args().seconds)
