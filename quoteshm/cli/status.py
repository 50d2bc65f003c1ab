"""How each ticker of a server fares, and its source: what ``quoteshm status`` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click

from quoteshm.cli import output
from quoteshm.cli.output import Column, Format
from quoteshm.text import printable

if TYPE_CHECKING:
    from rich.text import Text

#: States of tickers with which nothing is wrong.
WELL: Final = ("ok", "waiting")
#: Conditions of the live stream in which it brings what it can.
STREAMING: Final = ("live", "quiet", "starting")
_SOURCE: Final = ("source", "error", "refresh_s", "requests", "live", "archive")
_FIELDS: Final = (
    "state",
    "last_attempt_ms",
    "last_success_ms",
    "next_attempt_s",
    "quarantined_until_ms",
    "market_opens_ms",
    "since_ms",
    "attempts",
    "bars",
    "restatements",
    "message",
)


@dataclass(frozen=True)
class Report:
    """What is to be said.

    Attributes
    ----------
    source : dict of str to object
        What the server says of its source, its requests, its stream and its archive.
    facts : list of (str, str, bool)
        The same for people, and the tickers in total: name, words, and whether it is well.
    tickers : dict of str to dict
        The status of each ticker, as the server has it.
    unknown : list of str
        Tickers that were asked for, and are not served.

    """

    source: dict[str, Any]
    facts: list[tuple[str, str, bool]]
    tickers: dict[str, dict[str, Any]]
    unknown: list[str]

    @classmethod
    def of(cls, info: Mapping[str, Any], wanted: Sequence[str] = ()) -> Report:
        """Make it of what ``get_info`` gives: of some tickers, or of all."""
        known = {t: s for t, s in info.get("ticker_status", {}).items() if isinstance(s, dict)}
        source = {name: info[name] for name in _SOURCE if name in info}
        if not wanted:
            return cls(source, _facts(info, known), known, [])
        tickers = {ticker: known[ticker] for ticker in wanted if ticker in known}
        unknown = [ticker for ticker in wanted if ticker not in known]
        return cls(source, _facts(info, tickers), tickers, unknown)

    @property
    def is_well(self) -> bool:
        """Whether nothing fails."""
        return all(is_well for _, _, is_well in self.facts) and not self.unknown

    def print(self, shape: Format, *, everything: bool) -> None:
        """Print it: one JSON document, CSV of the tickers, or tables."""
        if shape is Format.JSON:
            output.print_json([{"is_well": self.is_well, **self.source, "tickers": self.tickers}])
        elif shape is Format.CSV:
            output.print_csv(["ticker", *_FIELDS], map(_csv_row, self.tickers.items()))
        else:
            self._print_tables(everything=everything)

    def _print_tables(self, *, everything: bool) -> None:
        names, words = [name for name, _, _ in self.facts], [_styled(*fact) for fact in self.facts]
        output.print_table([Column("NAME", names), Column("STATE", words, wraps=True)])
        shown = {t: s for t, s in self.tickers.items() if everything or s.get("state") != "ok"}
        if shown:
            click.echo()
            output.print_table(_columns(shown))


def _facts(info: Mapping[str, Any], tickers: Mapping[str, Mapping[str, Any]]) -> list[Any]:
    """Say how the source fares, and what is between it and the quotes."""
    error = info.get("error")
    facts = [("source", f"{info.get('source')}: {error or 'ok'}", error is None)]
    requests, live = info.get("requests"), info.get("live")
    if isinstance(requests, dict):
        every = info.get("ticker_status", {}).values()
        rests = all("market_opens_ms" in one for one in every)
        facts += _request_facts(requests, rests=rests)
    if isinstance(live, dict):
        state, why = live.get("state"), live.get("why")
        said = f"{state}: {why}" if why else f"{state}, {live.get('messages')} messages"
        facts.append(("live", said, state in STREAMING))
    archive = info.get("archive")
    if isinstance(archive, dict):
        error = archive.get("error")
        facts.append(("archive", error or "ok", error is None))
    counts: dict[str, int] = {}
    for one in tickers.values():
        state = str(one.get("state"))
        counts[state] = counts.get(state, 0) + 1
    said = ", ".join(f"{count} {state}" for state, count in counts.items()) or "none"
    facts.append(("tickers", said, all(state in WELL for state in counts)))
    opens = [one["market_opens_ms"] for one in tickers.values() if "market_opens_ms" in one]
    if opens:
        until = output.local_time(min(opens))
        facts.append(("market", f"closed for {len(opens)} of them until {until}", True))
    return facts


def _request_facts(requests: Mapping[str, Any], *, rests: bool) -> list[tuple[str, str, bool]]:
    """Say how it stands; what only the next answer can decide is no fault where none is due."""
    state, most = requests.get("state"), requests.get("per_minute")
    shared = ", with other daemons" if requests.get("shared") else ""
    budget = f"{requests.get('count')} made, at most {most} a minute{shared}"
    if requests.get("waiting"):
        budget += "; the next one waits for its turn"
    if state == "closed":
        return [("requests", budget, True)]
    until_ms, error = requests.get("until_ms"), requests.get("error") or ""
    held = (
        "none until " + output.local_time(until_ms) if state == "open" and until_ms else "probing"
    )
    rests = rests and held == "probing"
    held = "probing with the next ticker that is due" if rests else held
    return [("requests", budget, True), ("breaker", f"{held}: {error}", rests)]


def _styled(_name: str, said: str, is_well: bool) -> str | Text:  # noqa: FBT001 (a fact's fields)
    if is_well:
        return printable(said)
    from rich.text import Text  # noqa: PLC0415 (start-up time)

    return Text(printable(said), f"bold {output.STALE_STYLE}")


def _csv_row(ticker: tuple[str, Mapping[str, Any]]) -> list[object]:
    symbol, one = ticker
    return [symbol, *(_bars(one) if name == "bars" else one.get(name) for name in _FIELDS)]


def _bars(one: Mapping[str, Any]) -> str:
    """Give the bars of each interval, short."""
    bars = one.get("bars")
    return " ".join(f"{i}:{n}" for i, n in bars.items()) if isinstance(bars, dict) else ""


def _columns(tickers: Mapping[str, Mapping[str, Any]]) -> list[Column]:
    every = [*tickers.values()]
    zone, successes = output.local_times([one.get("last_success_ms") for one in every])
    attempts = output.local_times([one.get("last_attempt_ms") for one in every])[1]
    why = [_why(one) for one in every]
    columns = [
        Column("TICKER", [printable(ticker) for ticker in tickers]),
        Column("STATE", [_styled("", str(s := o.get("state")), s in WELL) for o in every]),
        Column("LAST ATTEMPT", attempts, rank=3),
        Column(f"LAST SUCCESS ({zone})" if zone else "LAST SUCCESS", successes, rank=1),
        Column("NEXT", [_next(one) for one in every]),
        Column("BARS", [_bars(one) for one in every], rank=2),
        Column("RESTATED", [str(one.get("restatements", 0)) for one in every], True, rank=4),  # noqa: FBT003 (numeric)
    ]
    return [*columns, Column("WHY", why, wraps=True)] if any(why) else columns


def _why(one: Mapping[str, Any]) -> str:
    """Say what is wrong with it."""
    said = printable(one.get("message", ""))
    until_ms = one.get("quarantined_until_ms")
    return said if until_ms is None else f"{said}; left alone until {output.local_time(until_ms)}"


def _next(one: Mapping[str, Any]) -> str:
    """Say when it is asked for next."""
    wait_s = one.get("next_attempt_s")
    if not isinstance(wait_s, int | float):
        return output.NOTHING
    return "now" if wait_s < 1 else f"in {output.age(round(wait_s * 1000))}"
