"""What was found, as tables for a terminal and as JSON."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.figures import Case, Fact, Figure, Found
from bench.peers import LABELS, LIMIT, OURS

QUESTIONS = {
    "A": "A. One quote",
    "B": "B. The history of one ticker",
    "C": "C. The whole market",
    "D": "D. Publishing",
    "E": "E. A panel",
    "F": "F. From publish to seen",
}


def number(value: float) -> str:
    """Write three digits or more."""
    places = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:,.{places}f}"


def times(value: float | None) -> str:
    """Write a ratio."""
    if value is None:
        return ""
    return f"{value:,.{0 if value >= 10 else 1 if value >= 2 else 2}f}"


def summary(found: Found) -> Table:
    """Give one line a case: ours, the best of the others, the limit."""
    table = Table(
        title="Medians, microseconds. A ratio is the other's time by ours: above 1, ours is faster."
    )
    for column in ("", "quoteshm", "p99"):
        table.add_column(column, justify="right" if column else "left")
    for column in ("best peer", "", "ratio", "limit", "ratio", "the limit is"):
        table.add_column(
            column, justify="left" if column in {"best peer", "the limit is"} else "right"
        )
    question = ""
    for case in found.cases:
        if case.question != question:
            table.add_section()
            question = case.question
        ours, best, limit = (case.figures.get(who or "") for who in (OURS, case.best_peer, LIMIT))
        table.add_row(
            f"{case.question}. {case.what}",
            number(ours.p50) if ours else "-",
            number(ours.p99) if ours else "-",
            LABELS[case.best_peer] if case.best_peer else "",
            number(best.p50) if best else "",
            times(case.ratio(case.best_peer)),
            number(limit.p50) if limit else "",
            times(case.ratio(LIMIT)),
            case.limit_is if limit else "",
        )
    return table


def details(question: str, cases: list[Case]) -> Table:
    """Give all contenders of each case of one question, the quickest first."""
    table = Table(title=QUESTIONS[question])
    for column in ("", "by", "p50, us", "p99, us", "ratio", ""):
        table.add_column(
            column, justify="right" if column in {"p50, us", "p99, us", "ratio"} else "left"
        )
    for case in cases:
        table.add_section()
        what = case.what
        for who, figure in sorted(case.figures.items(), key=lambda item: item[1].p50):
            table.add_row(
                what,
                LABELS[who],
                number(figure.p50),
                number(figure.p99),
                times(case.ratio(who)),
                case.limit_is if who == LIMIT else case.notes.get(who, ""),
                style="bold" if who == OURS else "dim" if who == LIMIT else None,
            )
            what = ""
        for who, why in case.left_out.items():
            table.add_row(what, LABELS[who], "-", "-", "", why, style="dim")
            what = ""
    return table


def facts(title: str, found: list[Fact]) -> Table:
    """Give the lines of a table that compares nobody."""
    table = Table(title=title)
    columns = list(dict.fromkeys(column for fact in found for column in fact.cells))
    for column in columns:
        numeric = any(isinstance(fact.cells.get(column), int | float) for fact in found)
        table.add_column(column, justify="right" if numeric else "left")
    for fact in found:
        cells = [fact.cells.get(column, "") for column in columns]
        table.add_row(*(f"{cell:,}" if isinstance(cell, int | float) else cell for cell in cells))
    return table


def show(console: Console, found: Found) -> None:
    """Print every table."""
    console.print(", ".join(f"{name} {text}" for name, text in found.about.items()))
    for question in QUESTIONS:
        cases = [case for case in found.cases if case.question == question]
        if cases:
            console.print(details(question, cases))
    for title in dict.fromkeys(fact.table for fact in found.facts):
        console.print(facts(title, [fact for fact in found.facts if fact.table == title]))
    if found.cases:
        console.print(summary(found))


def save(path: Path, found: Found) -> None:
    """Write all figures as JSON."""
    path.write_text(json.dumps(dataclasses.asdict(found), indent=1))


def load(path: Path) -> Found:
    """Read them back."""
    raw = json.loads(path.read_text())
    for case in raw["cases"]:
        case["figures"] = {who: Figure(**figure) for who, figure in case["figures"].items()}
    cases = [Case(**case) for case in raw["cases"]]
    return Found(raw["about"], cases, [Fact(**fact) for fact in raw["facts"]], raw["seconds"])
