"""Memory: what the daemon and a reader take, against the data held."""

from __future__ import annotations

import time
from pathlib import Path

from bench.figures import Fact
from bench.market import Market
from bench.peers import OURS
from bench.setting import Setting, note
from quoteshm import StockDataReader
from tests.processes import daemons

SIZES = "Memory, MB: the daemon, and a reader of all of it"
GROWTH = "Memory, MB: while many batches are published and read"
BAR_NBYTES = 48
MB = 1e6
LOAD_S = 300.0


def usage(pid: int) -> dict[str, float]:
    """Give what a process has in memory, MB."""
    found = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, rest = line.partition(":")
        found[name] = int(rest.split()[0]) * 1024 / MB
    own = found["Private_Clean"] + found["Private_Dirty"]
    return {"rss": found["Rss"], "pss": found["Pss"], "own": own}


def available_mb() -> float:
    """Give what the machine has left, MB."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable"):
            return int(line.split()[1]) * 1024 / MB
    return 0.0


def run(setting: Setting) -> None:
    """Look at the daemon as users run it, and at a reader before and after it read everything."""
    for tickers in setting.plan.memory:
        sizes(setting, tickers)
    growth(setting)


def sizes(setting: Setting, tickers: int) -> None:
    """Run a daemon with so many tickers, and one reader."""
    bars = setting.plan.bars
    data = tickers * bars * BAR_NBYTES / MB
    cells: dict[str, str | int | float] = {
        "tickers": tickers,
        "bars each": bars,
        "data": round(data, 1),
    }
    setting.found.facts.append(Fact(SIZES, cells))
    if available_mb() < 4 * data + 500:
        cells["left out"] = f"{available_mb():.0f} MB of memory are left"
        return
    note(f"  a daemon with {tickers} tickers")
    folder = setting.folder / f"memory-{tickers}"
    folder.mkdir()
    argv = ["--synthetic", "--synthetic-count", str(tickers), "--bars", str(bars)]
    crew = setting.crews[OURS]
    with daemons.daemon(folder, *argv, "--refresh", "1", "--max-tickers", str(tickers)) as running:
        assert running.port
        with StockDataReader(shm_name=running.name, shm_dir=running.directory) as reader:
            until = time.monotonic() + LOAD_S
            while len(reader) < tickers:
                assert time.monotonic() < until, f"not all tickers are here:\n{running.log}"
                time.sleep(0.2)
        segment = running.segment.stat().st_blocks * 512 / MB
        crew.start()
        link = setting.folder / f"attached-{tickers}"
        link.mkdir()
        (link / "shm0").hardlink_to(running.segment)
        pid = crew.reader.tell("pid")
        crew.reader.tell("open", str(link), Market(tickers, bars))
        alone, reads = usage(pid), crew.reader.tell("call", "touch_all")
        after, daemon = usage(pid), usage(running.process.pid)
        crew.reader.tell("close")
        crew.end()
    assert reads >= tickers * (bars - 1), f"{reads} bars were read"
    cells |= {
        "segment": round(segment, 1),
        "daemon RSS": round(daemon["rss"], 1),
        "PSS": round(daemon["pss"], 1),
        "of its own": round(daemon["own"], 1),
        "reader RSS before": round(alone["rss"], 1),
        "of its own before": round(alone["own"], 1),
        "RSS after": round(after["rss"], 1),
        "PSS after": round(after["pss"], 1),
        "of its own after": round(after["own"], 1),
    }


def growth(setting: Setting) -> None:
    """Publish many batches, which a reader reads, and look before and after."""
    plan = setting.plan
    market = Market(min(500, plan.batches[0]), plan.bars)
    crew = setting.crews[OURS]
    with crew.storing(market, setting.folder):
        sides = {"writer": crew.writer.tell("pid"), "reader": crew.reader.tell("pid")}
        for part in range(5):
            for side, pid in sides.items():
                found = usage(pid)
                cells: dict[str, str | int | float] = {
                    "process": side,
                    "batches so far": part * plan.growth // 4,
                    "RSS": round(found["rss"], 2),
                    "of its own": round(found["own"], 2),
                }
                setting.found.facts.append(Fact(GROWTH, cells))
            if part < 4:
                note(f"  {plan.growth // 4} batches")
                crew.writer.begin("steps", plan.growth // 4)
                crew.reader.tell("spend", plan.growth / 4 / 10_000, "history", market.symbols[3])
                crew.writer.answer()
