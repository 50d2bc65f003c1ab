"""A daemon that says what a test has it say, to a page that comes from a real one."""

from __future__ import annotations

import contextlib
import json
import re
from typing import TYPE_CHECKING, Any, Final

from tests.web.browsing import WAIT_MS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from playwright.sync_api import Browser, Page

#: Its clock: years before the browser's.
NOW_MS: Final = 1_700_000_001_000
DAY_MS: Final = 86_400_000


def told(op: str, data: object, **more: object) -> str:
    """Write what a daemon says."""
    kind = "event" if op in {"quotes", "restated"} else "response"
    return json.dumps({"v": 1, "type": kind, "op": op, "data": data, **more})


def quote(price: float = 12.0, **changes: object) -> dict[str, object]:
    """Make a quote that was confirmed a second ago."""
    return {
        "price": price, "prev_close": 10.0, "open": 10.0, "high": 12.0, "low": 9.0, "volume": 5,
        "currency": "USD", "source": "scripted", "stale": False,
        "ts_epoch_ms": NOW_MS - 1000, "updated_ms": NOW_MS - 1000,
    } | changes  # fmt: skip


class Scripted:
    """What it answers may be changed at any time; what it was asked is in `asked`."""

    def __init__(
        self,
        quotes: Mapping[str, object],
        status: Mapping[str, object] | None = None,
        failures: Mapping[str, str] | None = None,
    ) -> None:
        self.asked: list[dict[str, Any]] = []
        self._routes: list[Any] = []
        if status is None:
            status = {ticker: {"state": "ok", "next_attempt_s": 60.0} for ticker in quotes}
        self.info: dict[str, Any] = {
            "now_ms": NOW_MS, "source": "scripted", "adjustment": "none", "freshness_ms": 60_000,
            "epoch": 2, "instance": "00", "shm_name": None, "uptime_s": 1.0, "limits": {},
            "counts": {"tickers": len(quotes), "capacity": 64}, "intervals": {"1d": 8},
            "failures": failures or {}, "ticker_status": status,
            "last_update_ms": NOW_MS - 1000, "quoteshm": "0", "pid": 1,
            "protocol_version": 1, "layout_version": 1,
        }  # fmt: skip
        self.snapshot: dict[str, Any] = {
            "epoch": 2, "instance": "00", "resumed": False, "freshness_ms": 60_000,
            "heartbeat_s": 60, "quotes": quotes, "missing": [], "restated": [],
        }  # fmt: skip
        self.bars: dict[str, Any] = {"interval": "1d", "time_zone": "UTC", "forming": False}
        self.bars["time"] = [day * DAY_MS for day in range(19_000, 19_003)]
        for name in ("open", "high", "low", "close", "volume"):
            self.bars[name] = [10.0, None, 12.0]

    def histories(self, last: int = 40) -> int:
        """Count how often so many bars were asked for; 40 are those of a row's line."""
        return sum(one["type"] == "get_history" and one.get("last") == last for one in self.asked)

    def tell(self, op: str, data: object) -> None:
        """Send an event."""
        self._routes[-1].send(told(op, data, epoch=4, skipped=0))

    def cut(self) -> None:
        """Break off, for good."""
        self.snapshot = {}
        self._routes[-1].close(code=1011)

    def _answer(self, route: Any) -> None:
        self._routes.append(route)

        def heard(text: str) -> None:
            asked = json.loads(text)
            self.asked.append(asked)
            answers = {"subscribe": self.snapshot, "get_info": self.info}
            data = answers.get(asked["type"]) or self.bars | {"ticker": asked.get("ticker")}
            if self.snapshot:
                route.send(told(asked["type"], data, id=asked["id"]))

        route.on_message(heard)

    @contextlib.contextmanager
    def page(
        self,
        browser: Browser,
        address: str,
        *,
        before: str = "",
        phone: bool = False,
        stops_time: bool = False,
    ) -> Iterator[Page]:
        """Open the page of a daemon as if it came from this one; its errors are the test's.

        Parameters
        ----------
        browser : Browser
        address : str
            Of the page.
        before : str
            A script that runs first.
        phone : bool
            Whether the screen is small.
        stops_time : bool
            Whether the page's time passes only when the test says so.

        """
        size = {"width": 390, "height": 844} if phone else {"width": 1360, "height": 860}
        context = browser.new_context(
            viewport={"width": size["width"], "height": size["height"]},
            is_mobile=phone,
            timezone_id="America/New_York",
        )
        context.set_default_timeout(WAIT_MS)
        errors: list[str] = []
        try:
            page = context.new_page()
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.route_web_socket(re.compile("/wire$"), self._answer)
            if before:
                page.add_init_script(before)
            if stops_time:
                page.clock.install(time=NOW_MS / 1000)
            page.goto(address)
            yield page
            assert errors == []
        finally:
            context.close()
