"""What the README shows, runs: its programs and its messages, against a real daemon."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from quoteshm import StockDataReader
from tests.processes.daemons import Running, daemon, unique_name

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
PROGRAMS = [text for language, text in BLOCKS if language == "python"]


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    """Run a daemon on synthetic bars."""
    folder = Path("/dev/shm") / unique_name()  # noqa: S108  shared memory is the point
    folder.mkdir()
    with daemon(folder, "--synthetic") as running:
        running.wait_for("epoch 2: 20 tickers")
        yield running
    for left in folder.iterdir():
        left.unlink()
    folder.rmdir()


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda text: text.partition("\n")[0])
def test_each_program_runs(program: str, running: Running) -> None:
    """As it stands, but for the port."""
    for name in ("StockDataReader", "QuoteClient"):
        program = program.replace(f"{name}()", f"{name}(port={running.port})")
    names: dict[str, object] = {}
    exec(compile(program, "README.md", "exec"), names)  # noqa: S102  the project's own page
    read_ticker = names.get("read_ticker")
    if callable(read_ticker):
        with StockDataReader(port=running.port) as reader:
            frame = read_ticker(reader, "AAPL")
            assert isinstance(frame, pd.DataFrame)
            assert len(frame) == 2520


def test_there_are_programs_to_run() -> None:
    """The reader's, the classic loop, and two of the client's."""
    assert len(PROGRAMS) == 4


def test_the_messages_are_those_of_the_wire(running: Running) -> None:
    """Each request shown gets a reply of the shape shown; an error, the very words."""
    block = next(text for _, text in BLOCKS if text.startswith("->"))
    shown = [" ".join(part.split()) for part in re.split(r"^(?=->|<-)", block, flags=re.MULTILINE)]
    shown = [part for part in shown if part]
    assert [part[:2] for part in shown] == ["->", "<-", "->", "<-"]
    with socket.create_connection(("127.0.0.1", running.port), timeout=10) as connection:
        lines = connection.makefile("rb")
        for request, expected in zip(shown[::2], shown[1::2], strict=True):
            connection.sendall(request[3:].encode() + b"\n")
            reply, wanted = json.loads(lines.readline()), json.loads(expected[3:])
            if wanted["type"] == "error":
                assert reply == wanted
            else:
                assert {**reply, "data": sorted(reply["data"])} == {
                    **wanted,
                    "data": sorted(wanted["data"]),
                }
