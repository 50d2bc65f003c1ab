"""The chart of the README: one line a question, ours next to each peer, on a logarithmic axis."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from bench.figures import Case, Found
from bench.peers import LABELS, NO_PEERS

#: Text and grid, ours, peers: for a light page and for a dark one.
THEMES: Final = {
    "light": ("#24292f", "#d0d7de", "#0969da", "#8c959f"),
    "dark": ("#e6edf3", "#30363d", "#58a6ff", "#8b949e"),
}
NAMES: Final = 3  # peers named on each line, beginning with the quickest


def draw(found: Found, folder: Path) -> list[Path]:
    """Draw it once for each theme; give the files."""
    cases = [case for case in found.cases if case.headline and case.ours and case.best_peer]
    return (
        [one(cases, theme, folder / f"benchmarks-{theme}.svg") for theme in THEMES] if cases else []
    )


def one(cases: list[Case], theme: str, path: Path) -> Path:
    """Draw one."""
    ink, grid, ours, peers = THEMES[theme]
    style: Any = {
        "svg.fonttype": "none",  # text stays text
        "svg.hashsalt": "quoteshm",  # the same figures give the same file
        "font.family": "sans-serif",
        "text.color": ink,
        "axes.labelcolor": ink,
        "xtick.color": ink,
        "ytick.color": ink,
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=(9, 0.52 * len(cases) + 1), layout="constrained")
        axes = figure.add_subplot()
        for place, case in enumerate(cases):
            others = {who: found.p50 for who, found in case.figures.items() if who not in NO_PEERS}
            values = [case.ours or 1, *others.values()]
            axes.plot([min(values), max(values)], [place, place], color=grid, linewidth=2, zorder=1)
            axes.scatter(list(others.values()), [place] * len(others), 26, peers, zorder=2)
            axes.scatter([case.ours or 1], [place], 60, ours, zorder=3)
            quickest = sorted(others, key=others.__getitem__)[:NAMES]
            words = ", ".join(
                f"{LABELS[who]} {times(others[who] / (case.ours or 1))}" for who in quickest
            )
            axes.annotate(
                words,
                (max(values), place),
                (8, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                color=peers,
            )
        axes.set_yticks(range(len(cases)), [f"{case.question}. {case.what}" for case in cases])
        axes.set_xscale("log")
        axes.invert_yaxis()
        low, high = axes.get_xlim()
        axes.set_xticks([tick for tick in 10.0 ** np.arange(-1, 9) if low <= tick <= high])
        axes.set_xlim(low, high * 4000)  # room for the names
        axes.set_xlabel(
            "microseconds, medians; quoteshm in colour, and how many times longer others take"
        )
        axes.grid(axis="x", color=grid, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_facecolor("none")
        for side in axes.spines.values():
            side.set_visible(False)
        axes.tick_params(which="both", length=0)
        about: Any = {"format": "svg", "transparent": True, "metadata": {"Date": None}}
        # A margin, as the reader's letters may be wider than those that were measured.
        figure.savefig(path, bbox_inches="tight", pad_inches=0.5, **about)
    return path


def times(ratio: float) -> str:
    """Write a ratio."""
    return f"{ratio:,.0f}x" if ratio >= 10 else f"{ratio:.1f}x" if ratio >= 1 else f"{ratio:.2f}x"
