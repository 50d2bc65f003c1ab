"""Bytes to lines."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quoteshm.wire.framing import HEAD_NBYTES, LineFramer, Overlong

# Few letters, so that what matters to framing is met often.
STREAMS = st.lists(st.sampled_from([b"a", b"bb", b"\n", b"\r", b" ", b"\r\n", b"cccccc"])).map(
    b"".join
)


def lines_of(chunks: list[bytes], max_line_bytes: int) -> list[bytes | Overlong | None]:
    """Frame chunks, taking the lines after each one; the last item is what `finish` gives."""
    framer = LineFramer(max_line_bytes)
    found: list[bytes | Overlong | None] = []
    for chunk in chunks:
        framer.feed(chunk)
        found += framer
        assert framer.pending_nbytes <= max_line_bytes + 1
    return [*found, framer.finish()]


def model(stream: bytes, max_line_bytes: int) -> list[bytes | Overlong | None]:
    """Say what the lines are, the whole stream at hand."""
    *ended, rest = stream.split(b"\n")
    lines = [line.removesuffix(b"\r") for line in ended]

    def framed(line: bytes) -> bytes | Overlong:
        fits = len(line) <= max_line_bytes
        return line if fits else Overlong(line[: min(HEAD_NBYTES, max_line_bytes)])

    found: list[bytes | Overlong | None] = [
        framed(line) for line in lines if line.strip() or len(line) > max_line_bytes
    ]
    if len(rest) > max_line_bytes + rest.endswith(b"\r"):
        return [*found, framed(rest), None]  # said as soon as it was seen
    if len(rest) > max_line_bytes:
        return [*found, framed(rest)]
    return [*found, rest if rest.strip() else None]


@given(STREAMS, st.lists(st.integers(0, 40)), st.integers(1, 8))
def test_any_chunking_gives_the_same_lines(
    stream: bytes, cuts: list[int], max_line_bytes: int
) -> None:
    """Chunks of any size, empty ones too, and the model agree."""
    places = sorted(min(cut, len(stream)) for cut in cuts)
    chunks = [stream[a:b] for a, b in zip([0, *places], [*places, len(stream)], strict=True)]
    assert lines_of(chunks, max_line_bytes) == model(stream, max_line_bytes)


@given(STREAMS, st.integers(1, 8))
def test_lines_may_be_taken_one_at_a_time(stream: bytes, max_line_bytes: int) -> None:
    """Whoever feeds before all lines are taken loses none."""
    framer = LineFramer(max_line_bytes)
    found: list[bytes | Overlong | None] = []
    for place in range(len(stream)):
        framer.feed(stream[place : place + 1])
        if place % 3 == 2:
            found += [line for line in [next(framer, None)] if line is not None]
    found += framer
    found.append(framer.finish())
    assert found == model(stream, max_line_bytes)


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_a_line_of_just_the_limit_is_a_line(ending: bytes, size: int) -> None:
    """The ending does not count, in one byte or two."""
    stream = b"12345678" + ending
    chunks = [stream[at : at + size] for at in range(0, len(stream), size)]
    assert lines_of(chunks, 8) == [b"12345678", None]
    assert lines_of(chunks, 7) == [Overlong(b"1234567"), None]


def test_an_overlong_line_is_said_once_and_before_it_ends() -> None:
    """Then its rest is dropped, and the next line is a line."""
    framer = LineFramer(10)
    framer.feed(b"x" * 11)
    assert list(framer) == [Overlong(b"x" * 10)]
    for _ in range(1000):
        framer.feed(b"x" * 1000)
        assert list(framer) == []
        assert framer.pending_nbytes == 0
    framer.feed(b"x\nnext\n")
    assert list(framer) == [b"next"]


def test_blank_lines_cost_next_to_nothing() -> None:
    """They are answered by nothing, so nothing else would hold back who sends them."""
    framer = LineFramer(65_536)
    started = time.process_time()
    for blank in (b"\n", b"\r\n", b" \n", b"  \t\n"):
        for _ in range(64):
            framer.feed(blank * (65_536 // len(blank)) + b"{}\n")
            assert list(framer) == [b"{}"]
    # Line by line it would take seconds.
    assert time.process_time() - started < 1


def test_one_byte_at_a_time_takes_time_in_proportion() -> None:
    """A line of a megabyte, byte by byte, and a megabyte of short lines in one chunk."""
    started = time.process_time()
    framer = LineFramer(1 << 20)
    for _ in range(1 << 20):
        framer.feed(b"x")
        assert next(framer, None) is None
    framer.feed(b"\n" + b"{}\n" * (1 << 18))
    assert [len(line) for line in framer] == [1 << 20] + [2] * (1 << 18)
    # Quadratic copying would take minutes.
    assert time.process_time() - started < 20
