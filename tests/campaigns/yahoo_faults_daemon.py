"""twistd with a Yahoo source that is in a hurry, and a look at its reactor.

``python -m tests.campaigns.yahoo_faults_daemon FIGURES [OPTIONS OF THE DAEMON]`` does in tenths of
seconds what takes tens of seconds otherwise. At its end it writes into the file FIGURES how late
its reactor was.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from twisted.internet import reactor as installed
from twisted.scripts import twistd

from quoteshm.service import live
from quoteshm.sources import breaker
from quoteshm.sources.yahoo import Yahoo
from tests.campaigns import steps
from tests.campaigns.lateness import Lateness

reactor: Any = installed  # of several interfaces

#: Instead of ten, thirty and thirty seconds.
TIMEOUT_S: Final = 1.0
PAUSE_S: Final = 1.5
MUTE_S: Final = 1.5


def main(figures: Path, argv: list[str]) -> None:
    """Run it."""
    steps.die_with_parent()
    breaker.FIRST_PAUSE_S = PAUSE_S  # type: ignore[misc]
    live.MUTE_S, live.LOOK_S, live.FIRST_WAIT_S = MUTE_S, 0.1, 0.2  # type: ignore[misc]
    lateness = Lateness()

    def impatient() -> object:
        from quoteshm.sources.yahoo_download import YahooSession  # noqa: PLC0415 (it brings yfinance)

        return YahooSession(TIMEOUT_S)

    make: Callable[..., None] = Yahoo.__init__
    Yahoo.__init__ = functools.partialmethod(make, session=impatient)  # type: ignore[method-assign,assignment]

    def write() -> None:
        lateness.stop()
        told = {**lateness.figures(), "stacks": lateness.stacks.most_common(3)}
        figures.write_text(json.dumps(told))

    reactor.callWhenRunning(lateness.start)
    reactor.addSystemEventTrigger("after", "shutdown", write)
    sys.argv = ["twistd", "-n", "--pidfile=", "quoteshm", *argv]
    twistd.run()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
