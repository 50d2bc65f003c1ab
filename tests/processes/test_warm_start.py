"""A daemon that lost its segment, as in a reboot, comes back with what it had archived."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from quoteshm import StockDataReader
from quoteshm.market.archive import Archive
from tests.processes.daemons import SERVE, Running, daemon, refused, unique_name
from tests.small_disk import NoMountError, small_disk

WAIT_S = 20.0
ODD = ("BRK-B", "../x", "日本", "a%2Fb", "%{log_level}")
LATE = ("--refresh", "3600", "--freshness", "7200")


def wait(for_it: Callable[[], object]) -> None:
    """Wait until something is so."""
    until = time.monotonic() + WAIT_S
    while not for_it():
        assert time.monotonic() < until
        time.sleep(0.02)  # a file has nothing to wait on


def archived(folder: Path, source: str = "synthetic-none") -> list[str]:
    """Name the series on disk."""
    return sorted(path.stem for path in (folder / "archive" / source).glob("1d/*.parquet"))


def lose_segment(one: Running) -> None:
    """Kill a daemon, and lose its memory."""
    one.stop(signal.SIGKILL)
    one.segment.unlink(missing_ok=True)


def test_all_is_there_at_once_and_stale_and_then_fresh(tmp_path: Path) -> None:
    """Whatever the tickers are called; the gap is filled in by the source."""
    state = tmp_path / "state"
    argv = ("--synthetic", "--tickers", ",".join(ODD), "--bars", "300", "--state-dir", f"{state}")
    with daemon(tmp_path, *argv, *LATE) as one:
        wait(lambda: len(archived(state)) == len(ODD) and (state / "archive.lock").exists())
        wait((state / "archive" / "synthetic-none" / "quotes.parquet").exists)
        with StockDataReader(shm_name=one.name, shm_dir=tmp_path) as reader:
            quotes, frames = reader.snapshot().quotes, {s: reader.get_stock(s) for s in ODD}
        lose_segment(one)
    assert sorted(path.name for path in state.iterdir()) == ["archive", "archive.lock"]

    # A source that has nothing: what is there is the archive's.
    with daemon(tmp_path, *argv, *LATE, command=_without_source()) as one:
        one.wait_for("loaded the bars of 5 tickers")
        with StockDataReader(shm_name=one.name, shm_dir=tmp_path) as reader:
            for symbol, quote in reader.snapshot().quotes.items():
                assert quote.stale
                assert quote.price == quotes[symbol].price
                assert quote.updated_ms == quotes[symbol].updated_ms
                assert len(reader.get_stock(symbol)) >= len(frames[symbol]) - 1
                old, new = frames[symbol].iloc[:-1], reader.get_stock(symbol)
                assert new.iloc[: len(old)].equals(old)
            assert len(reader) == len(ODD)
        lose_segment(one)

    with daemon(tmp_path, *argv, "--refresh", "0.2") as one:
        one.wait_for("5 quotes out of the archive")
        one.wait_for("loaded the bars of 5 tickers")
        with StockDataReader(shm_name=one.name, shm_dir=tmp_path) as reader:
            wait(lambda: not any(quote.stale for quote in reader.snapshot().quotes.values()))
            for symbol in ODD:
                assert len(reader.get_stock(symbol)) == 300
        told = one.ask("get_info")["data"]["archive"]
        assert (told["loaded"], told["set_aside"], told["error"]) == (5, 0, None)
        assert one.stop() == -signal.SIGTERM  # as twistd says it
        assert "Traceback" not in one.log


def _without_source() -> tuple[str, ...]:
    """Run a daemon whose source never answers."""
    program = (
        "import sys, quoteshm.sources.synthetic as s\n"
        "async def fetch(self, wanted):\n"
        "    if False: yield\n"
        "s.Synthetic.fetch = fetch\n"
        "from quoteshm.service.daemon import serve\n"
        "sys.exit(serve(sys.argv[1:]))\n"
    )
    return (*SERVE[:-1], program)


def test_a_folder_of_files_fills_the_gap(tmp_path: Path) -> None:
    """Days that came while the daemon was away, and one that was corrected."""
    state, files = tmp_path / "state", tmp_path / "files"
    files.mkdir()
    heading = "date,open,high,low,close,volume\n"
    rows = [f"2024-01-{day:02},10,12,9,{10 + day / 100},100\n" for day in range(1, 8)]
    (files / "KO.csv").write_text(heading + "".join(rows[:4]))
    (files / "PEP.csv").write_text(heading + "".join(rows[:4]))
    argv = ("--source", "files", "--files", f"{files}", "--state-dir", f"{state}")
    with daemon(tmp_path, *argv) as one:
        one.wait_for(r"epoch 2:")
        assert one.stop() == -signal.SIGTERM  # as twistd says it
    assert archived(state, "files-none") == ["KO", "PEP"]
    rows[1] = "2024-01-02,10,12,9,11.5,100\n"
    (files / "KO.csv").write_text(heading + "".join(rows))
    with daemon(tmp_path, *argv, "--refresh", "0.2") as one:
        one.wait_for("loaded the bars of 2 tickers")
        with StockDataReader(shm_name=one.name, shm_dir=tmp_path) as reader:
            wait(lambda: len(reader.get_stock("KO")) == 7)
            assert reader.get_stock("KO")["Close"].iloc[1] == 11.5
            wait(lambda: not reader.get_quote("PEP").stale)
            assert len(reader.get_stock("PEP")) == 4


def test_what_is_damaged_is_set_aside_and_named(tmp_path: Path) -> None:
    """Each ticker stands alone; the source brings the missing one anew."""
    state = tmp_path / "state"
    argv = ("--synthetic", "--tickers", "KO,PEP", "--bars", "50", "--state-dir", f"{state}")
    with daemon(tmp_path, *argv, *LATE) as one:
        wait(lambda: len(archived(state)) == 2)
        assert one.stop() == -signal.SIGTERM  # as twistd says it
    path = state / "archive" / "synthetic-none" / "1d" / "KO.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with daemon(tmp_path, *argv, *LATE) as one:
        found = one.wait_for(r"set (\S+) aside as (\S+): ")
        assert found.group(1) == str(path)
        assert path.with_name(found.group(2)).exists()
        one.wait_for("loaded the bars of 1 tickers")
        with StockDataReader(shm_name=one.name, shm_dir=tmp_path) as reader:
            wait(lambda: len(reader.get_stock("KO")) == 50)
        assert one.stop() == -signal.SIGTERM  # as twistd says it
    assert archived(state) == ["KO", "PEP"]


def test_a_kill_while_it_writes_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    """At any moment, many times: every file can be read, and none is lost."""
    state = tmp_path / "state"
    argv = (
        *("--synthetic", "--synthetic-count", "40", "--bars", "2000", "--state-dir", f"{state}"),
        *("--synthetic-speed", "1e6", "--refresh", "0.01", "--log-level", "warn"),
    )
    busy = (
        "import sys, quoteshm.service.archiver as a\n"
        "a.SERIES_S = a.QUOTES_S = a.LOOK_S = 0.0\n"
        "from quoteshm.service.daemon import serve\n"
        "sys.exit(serve(sys.argv[1:]))\n"
    ).replace("a.LOOK_S = 0.0", "0.0; a.LOOK_S = 0.01")
    archive = Archive(state / "archive", "synthetic", "none")
    there: set[str] = set()
    for life in range(8):
        with daemon(tmp_path, *argv, name=unique_name(), command=(*SERVE[:-1], busy)) as one:
            count = len(list(state.rglob("*.new"))) + len(there)
            wait(lambda count=count: len(archived(state)) > min(count, 39))  # type: ignore[misc]
            time.sleep(0.05 * life)  # some moment
            lose_segment(one)
        for symbol in archived(state):
            loaded = archive.load_series(symbol, "1d")
            assert loaded.notes == ()
            assert loaded.record is not None
            there.add(symbol)
        market = archive.load_market()
        assert market.notes == ()
        assert there == set(archived(state))
    assert len(there) == 40


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """Mount a small disk for a daemon's state."""
    try:
        with small_disk(tmp_path / "state") as place:
            yield place
    except NoMountError as error:
        pytest.skip(str(error))


def test_a_full_disk_harms_no_publishing(tmp_path: Path, state: Path) -> None:
    """It is told of once; what has room is whole, and the daemon serves everybody."""
    argv = ("--synthetic", "--synthetic-count", "60", "--bars", "2000")
    with daemon(tmp_path, *argv, "--state-dir", f"{state}") as one:
        one.wait_for(r"cannot write \S+: No space left on device")
        with StockDataReader(shm_name=one.name, shm_dir=tmp_path) as reader:
            epoch = reader.snapshot_state.epoch
            reader.wait(epoch, timeout=WAIT_S)
            assert len(reader) == 60
        assert one.stop() == -signal.SIGTERM  # as twistd says it
        assert one.log.count("cannot write") == 1
    archive = Archive(state / "archive", "synthetic", "none")
    assert archived(state)
    for symbol in archived(state):
        assert archive.load_series(symbol, "1d").record is not None
    assert list(state.rglob("*.new")) == []


def test_a_folder_that_may_not_be_written_harms_no_publishing(tmp_path: Path) -> None:
    """A file stands where the folder should be."""
    state = tmp_path / "state"
    state.write_text("in the way")
    with daemon(tmp_path, "--synthetic", "--state-dir", f"{state}") as one:
        one.wait_for("cannot write")
        assert one.ask("get_quote", ticker="AAPL")["type"] == "response"
        assert one.stop() == -signal.SIGTERM  # as twistd says it
    assert state.read_text() == "in the way"


def test_two_daemons_do_not_share_a_state_folder(tmp_path: Path) -> None:
    """The second one says whose it is, and ends."""
    argv = ("--synthetic", "--state-dir", f"{tmp_path}/state", "--port", "0")
    with daemon(tmp_path, *argv) as one:
        one.wait_for("listening")
        name = unique_name()
        status, text = refused(
            tmp_path, *argv, "--shm-name", name, "--shm-dir", f"{tmp_path}", command=SERVE
        )
        assert status == 1
        assert f"is being written by process {one.process.pid}" in text
        assert not (tmp_path / name).exists()


def test_without_pyarrow_the_archive_is_numpys(tmp_path: Path) -> None:
    """The same warm start, out of .npz files."""
    state, hidden = tmp_path / "state", tmp_path / "hidden"
    (hidden / "pyarrow").mkdir(parents=True)
    (hidden / "pyarrow" / "__init__.py").write_text("raise ImportError('not here')\n")
    argv = ("--synthetic", "--tickers", "KO,PEP", "--bars", "50", "--state-dir", f"{state}")
    env = {"PYTHONPATH": os.pathsep.join([str(hidden), os.environ.get("PYTHONPATH", "")])}
    for start in range(2):
        with daemon(tmp_path, *argv, *LATE, env=env) as one:
            if start:
                one.wait_for("2 quotes out of the archive")
                one.wait_for("loaded the bars of 2 tickers")
            else:
                wait(lambda: len(list(state.rglob("*.npz"))) == 3)
            assert one.stop() == -signal.SIGTERM  # as twistd says it
    assert list(state.rglob("*.parquet")) == []
    shutil.rmtree(state)
