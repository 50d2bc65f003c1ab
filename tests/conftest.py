"""What all tests share under pytest. Helpers that trial needs too are in ordinary modules."""

from __future__ import annotations

import importlib.util
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

REQUIRE_ALL = "QUOTESHM_REQUIRE_ALL"
#: What measures, or has a clock that is fast: one after the other, beside what does not mind.
ALONE = ("bench", "campaigns")

#: The oldest Twisted has no WebSocket; where all tests are required, that is an error.
collect_ignore = (
    [
        "processes/test_live.py",
        "service/test_live.py",
        "sources/test_tunnel.py",
        "sources/test_yahoo_live.py",
    ]
    if importlib.util.find_spec("twisted.web.websocket") is None
    and os.environ.get(REQUIRE_ALL) != "1"
    else []
)

# A shell's background job ignores the keyboard's signal, and so would every process it starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep those of a kind in one of xdist's processes."""
    here = Path(__file__).parent
    for item in items:
        if item.path.relative_to(here).parts[0] in ALONE:
            item.add_marker(pytest.mark.xdist_group("alone"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
    call: pytest.CallInfo[None],
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn every skip into a failure where all tests are required, as they are in CI."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get(REQUIRE_ALL) == "1":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, and {REQUIRE_ALL} is set: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Do the same for modules that are skipped as a whole."""
    report = yield
    if report.skipped and os.environ.get(REQUIRE_ALL) == "1":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid} was skipped, and {REQUIRE_ALL} is set: {reason}"
    return report
