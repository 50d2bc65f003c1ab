"""F. From publish to seen: in a reader that spins, and in one that sleeps."""

from __future__ import annotations

from bench.crew import Crew
from bench.figures import Case
from bench.market import Market
from bench.peers import OURS
from bench.setting import Setting, check_nothing
from bench.timing import Samples

WAYS = {
    "spin": ("publish to seen, spinning", (OURS, "iceoryx2", "lmdb")),
    "sleep": ("publish to seen, asleep before", (OURS, "subscribe", "iceoryx2", "redis")),
}
NOTES = {
    "spin": {"iceoryx2": "publish-subscribe", "lmdb": "polling"},
    "sleep": {
        OURS: "reader.wait",
        "subscribe": "a Unix socket",
        "iceoryx2": "publish-subscribe and an event",
        "redis": "publish-subscribe",
    },
}
TICKERS = 20
GAP_S = 0.001
#: Pulses that are not counted, at the beginning.
WARM_UP = 20


def run(setting: Setting) -> None:
    """Publish the time as a price, and look at the same clock when it is seen."""
    for how in WAYS:
        ask(setting, how)


def ask(setting: Setting, how: str) -> None:
    """Let those take turns who can be waited for in this way."""
    what, who = WAYS[how]
    case = Case("F", what, notes=NOTES[how], headline=True)

    def once(crew: Crew) -> None:
        crew.reader.begin("see", how)
        crew.writer.tell("call", "pulse", WARM_UP + setting.plan.pulses, GAP_S)
        delays = crew.reader.answer()  # fewer than pulses, where a reader was not on its core
        assert delays, "nothing was seen"
        delays = delays[min(WARM_UP, len(delays) // 2) :]
        case.add(crew.module, Samples(delays, delays))

    setting.take_turns(who, Market(TICKERS, 2), [case], check_nothing, once)
