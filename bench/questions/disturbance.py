"""G. Readers do not disturb the writer, nor the writer its readers."""

from __future__ import annotations

from bench.figures import Fact
from bench.market import Market
from bench.peers import OURS
from bench.setting import Setting, note

TABLE = "G. Readers that never pause, while the writer publishes as fast as it can"
TICKERS = 500
WRITES = {"tick": "all", "tick_one": "one"}
READS = ("quote", "table", "history")


def run(setting: Setting) -> None:
    """Let readers spin beside the writer: on the other cores, then on its own as well."""
    plan = setting.plan
    market = Market(min(TICKERS, plan.batches[0]), plan.bars)
    crew = setting.crews[OURS]
    others, everywhere = crew.cores[1:], crew.cores
    with crew.storing(market, setting.folder):
        for method in WRITES:
            beside(setting, 0, "-", others, method)
            for count in filter(None, plan.readers):
                for how in READS:
                    beside(setting, count, how, others, method)
                beside(setting, count, "quote", everywhere, method)


def beside(setting: Setting, count: int, how: str, cores: tuple[int, ...], method: str) -> None:
    """Publish as fast as can be beside so many readers."""
    crew = setting.crews[OURS]
    note(f"  {count} readers of {how} on cores {cores}, {method}")
    if count:
        crew.reader.tell("call", "attach", count, how, cores)
    samples = crew.writer.tell("time_publish", setting.plan.seconds * 3, method, 20)
    counts = crew.reader.tell("call", "detach") if count else [[0] * 4]
    reads, retries, timeouts, _ = map(sum, zip(*counts, strict=True))
    cells: dict[str, str | int | float] = {
        "readers": count,
        "they read": how,
        "on": "-" if not count else "both cores" if len(cores) > 1 else "the other core",
        "the writer ticks": WRITES[method],
        "commit p50, us": round(samples.p50_us, 1),
        "p99": round(samples.p99_us, 1),
        "commits": len(samples.singles),
        "reads": reads,
        "tried again": retries,
        "failed": timeouts,
        "longest read, ms": round(max(row[-1] for row in counts) / 1e6, 2),
    }
    setting.found.facts.append(Fact(TABLE, cells))
