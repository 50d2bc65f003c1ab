"""What a campaign reports: a row a part, with its figures, its time, and what it may never see."""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class ViolationError(Exception):
    """What is tested did what it never may."""


def check(good: object, what: str) -> None:
    """Stop at what may never be."""
    if not good:
        raise ViolationError(what)


def short_run(campaign: str) -> dict[str, Any]:
    """Run a campaign in its short form; give its parts by name, all of them without a violation."""
    run = subprocess.run(
        [sys.executable, "-m", f"tests.campaigns.{campaign}", "--short", "--json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    told = {one["name"]: one for one in json.loads(run.stdout)["parts"]}
    assert not [one for one in told.values() if one["violation"]], (told, run.stderr)
    assert run.returncode == 0
    return told


@dataclass
class Row:
    """What came of one part."""

    name: str
    seconds: float = 0.0
    figures: str = ""
    violation: str = ""

    @classmethod
    def of(cls, name: str, act: Callable[[], str]) -> Row:
        """Do a part, which gives its figures, or raises at a violation."""
        row, begun = cls(name), time.monotonic()
        try:
            row.figures = act()
        except Exception as error:  # noqa: BLE001  it is what is looked for: the other parts go on
            notes = " ".join(getattr(error, "__notes__", ()))
            row.violation = f"{type(error).__name__}: {error} {notes}".strip()
        row.seconds = round(time.monotonic() - begun, 1)
        return row


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """Make the parser of what every campaign takes."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--short", action="store_true", help="little of each")
    parser.add_argument("--json", action="store_true")
    return parser


def conclude(rows: Sequence[Row], seed: int, *, as_json: bool, note: str = "") -> int:
    """Print what came of it, and give the exit status."""
    if as_json:
        print(json.dumps({"seed": seed, "parts": [asdict(row) for row in rows]}, indent=1))  # noqa: T201  what was asked for
    else:
        print_table(rows, seed, note)
    return 1 if any(row.violation for row in rows) else 0


def print_table(rows: Sequence[Row], seed: int, note: str = "") -> None:
    """Print a line a part, and more of them where its figures or its violation have more."""
    width = max((len(row.name) for row in rows), default=0)
    for row in rows:
        violation = row.violation.splitlines()
        said = row.figures.splitlines() + [f"!! {line}" for line in violation]
        verdict = "BAD" if violation else "ok"
        print(f"{verdict:3}  {row.seconds:6.1f} s  {row.name:{width}}  {said[0] if said else ''}")  # noqa: T201  the campaign's table
        for more in said[1:]:
            print(f"{'':{width + 17}}{more}")  # noqa: T201  the same
    bad = sum(bool(row.violation) for row in rows)
    print(f"{len(rows)} parts, {bad} violations, seed {seed}{note}")  # noqa: T201  the same
