"""A real browser on a real daemon's page: what tests of the dashboard share."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tests.processes.daemons import SERVE, Running, daemon

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, ConsoleMessage, Page, Request

CHROMIUM: Final = shutil.which("chromium") or shutil.which("chromium-browser")
#: A loaded machine is slow, and a test that passes does not wait for it.
WAIT_MS: Final = 20_000


@contextlib.contextmanager
def served(
    folder: Path, *argv: str, http: int = 0, name: str | None = None
) -> Iterator[tuple[Running, str]]:
    """Run a daemon with a page; give it and the page's address."""
    with daemon(folder, "--http", str(http), *argv, name=name, command=SERVE) as running:
        found = running.wait_for(r"dashboard at http://127\.0\.0\.1:(\d+)/")
        yield running, f"http://127.0.0.1:{found.group(1)}/"


@dataclass
class Seen:
    """What a page has said and asked for."""

    address: str
    troubles: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)

    def said(self, message: ConsoleMessage) -> None:
        """Note what the console was told."""
        # A browser calls it an error of the page that nobody listens where it connects to.
        if message.type in ("error", "warning") and "WebSocket connection to" not in message.text:
            self.troubles.append(f"{message.type}: {message.text}")

    def asked(self, request: Request) -> None:
        """Note what was asked of anybody but the daemon."""
        if not request.url.startswith(self.address):
            self.elsewhere.append(request.url)


@contextlib.contextmanager
def page_of(  # noqa: PLR0913 (each is a way in which people's browsers differ)
    browser: Browser,
    address: str,
    *,
    dark: bool = False,
    phone: bool = False,
    still: bool = False,
    place: str = "",
) -> Iterator[Page]:
    """Open the page; afterwards it has said nothing bad, and loaded nothing from elsewhere."""
    context = browser.new_context(
        viewport={"width": 390, "height": 844} if phone else {"width": 1360, "height": 860},
        is_mobile=phone,
        has_touch=phone,
        color_scheme="dark" if dark else "light",
        reduced_motion="reduce" if still else "no-preference",
    )
    context.set_default_timeout(WAIT_MS)
    page = context.new_page()
    seen = Seen(address)
    page.on("console", seen.said)
    page.on("pageerror", lambda error: seen.troubles.append(str(error)))
    page.on("request", seen.asked)
    try:
        page.goto(address + place)
        yield page
        assert seen.troubles == []
        assert seen.elsewhere == []
    finally:
        context.close()
