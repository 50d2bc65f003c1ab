"""A client program pays for what it uses: no Twisted, no yfinance."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import pytest

import quoteshm

HEAVY = ("twisted", "yfinance", "curl_cffi", "rich", "click")


@pytest.mark.parametrize(
    "statement",
    [
        "import quoteshm",
        "from quoteshm import StockDataReader, QuoteClient",
        "from quoteshm import AsyncQuoteClient; from quoteshm.client import events",
    ],
)
def test_the_public_face_loads_no_server(statement: str) -> None:
    """Importing the package, and what client programs use of it, loads nothing of the daemon's."""
    program = f"import sys\n{statement}\nprint(*sorted(sys.modules), sep='\\n')"

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert loaded.isdisjoint(HEAVY)
    assert "quoteshm" in loaded


def test_a_client_that_waits_pays_for_no_event_loop() -> None:
    """Nor for TLS that it does not speak."""
    program = "import sys\nimport quoteshm.client.blocking\nprint(*sys.modules, sep='\\n')"

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert {"asyncio", "ssl", "pandas"}.isdisjoint(done.stdout.split())


def test_what_is_not_loaded_yet_is_named_too() -> None:
    """For who completes names in a notebook."""
    assert set(quoteshm.__all__) <= set(dir(quoteshm))


def test_the_version_is_the_packages() -> None:
    """As installed."""
    assert quoteshm.__version__ == importlib.metadata.version("quoteshm")
