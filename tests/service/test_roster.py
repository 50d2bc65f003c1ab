"""Tickers that come and go while the daemon runs."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from twisted.internet import task
from twisted.logger import capturedLogs, formatEvent
from twisted.trial import unittest

from quoteshm.market.quotes import QuoteCache
from quoteshm.model import SeriesKind
from quoteshm.service.publisher import Publisher
from quoteshm.service.refresh import EAGER, RefreshService
from quoteshm.service.roster import LOGGED, Roster
from quoteshm.shm import layout
from quoteshm.shm.segment import SegmentSpec
from quoteshm.shm.writer import SegmentWriter
from quoteshm.sources.files import Files
from quoteshm.sources.synthetic import Synthetic
from tests.published import FakeClock

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

KINDS = (SeriesKind("1d", 10), SeriesKind("1m", 10))
REFRESH_S = 10.0


class Choosy(Synthetic):
    """A source that cannot have all that it is asked for."""

    def refuse(self, tickers: Sequence[str]) -> dict[str, str]:
        """Have no ticker that begins with Z."""
        return {ticker: "nothing with a Z" for ticker in tickers if ticker.startswith("Z")}


class Case(unittest.TestCase):
    """Synthetic tickers in anonymous memory, and time in the test's hands."""

    def setUp(self) -> None:
        """Serve AAPL and MSFT."""
        self.time, self.clock = task.Clock(), FakeClock()
        spec = SegmentSpec(
            max_tickers=2,
            kinds=KINDS,
            source="synthetic",
            freshness_ms=1000,
            directory=Path(),
        )
        self.writer = SegmentWriter.anonymous(spec, self.clock)
        self.cache = QuoteCache(self.writer, self.clock)
        self.publisher = Publisher(self.writer, self.clock)
        self.refresh = RefreshService(
            Choosy(self.clock),
            self.publisher,
            ("AAPL", "MSFT"),
            KINDS,
            refresh_s=REFRESH_S,
            failures=self.cache.failures,
            reactor=self.time,  # type: ignore[arg-type]
            clock=self.clock,
            rng=random.Random(1),  # noqa: S311 (for jitter)
            patience=EAGER,
        )
        self.cache.wanted = self.refresh.wanted
        self.served: list[list[str]] = []
        self.dropped: list[str] = []
        self.roster = Roster(
            self.refresh,
            self.publisher,
            changed=lambda tickers: self.served.append(list(tickers)),
            removed=self.dropped.extend,
        )
        self.refresh.startService()
        self.addCleanup(self.refresh.stopService)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.now_ms += round(seconds * 1000)
        self.time.advance(seconds)

    def flags(self, *tickers: str) -> list[int]:
        """Give the flags of tickers in the segment."""
        flags = self.writer.quotes()["flags"]
        return [int(flags[self.writer.row_of[ticker]]) for ticker in tickers]


class TestAdd(Case):
    """Tickers that come."""

    def test_it_has_a_value_at_once_and_not_with_the_next_refresh(self) -> None:
        """Until then it says that it was not fetched yet; the segment grows for it."""
        assert self.roster.add(["IBM", "AAPL", "IBM"]) == (["IBM"], ["AAPL"], {})
        assert self.cache.missing(["IBM"]) == ["IBM"]
        with pytest.raises(KeyError, match="no value yet for IBM: not fetched yet"):
            self.cache.get("IBM")
        self.advance(0)
        assert self.cache.tickers() == ["AAPL", "IBM", "MSFT"]
        assert self.writer.spec.max_tickers == 4
        assert self.served == [["AAPL", "MSFT", "IBM"]]
        assert len(self.writer.history(self.writer.row_of["IBM"], "1m")[0]) == 10

    def test_what_no_option_could_name_is_refused(self) -> None:
        """With the reason, and the others are added."""
        bad = ["", "A B", "A,B", "#A", "x" * 33, "ä" * 17, "a\x1b", "\ud800"]
        added, known, refused = self.roster.add([*bad, "ä" * 16])
        assert (added, known) == (["ä" * 16], [])
        assert sorted(refused) == sorted(bad)
        assert set(refused.values()) == {
            "expected 1 to 32 printable bytes without space, comma or #"
        }

    def test_what_the_source_cannot_have_is_refused(self) -> None:
        """It is not asked for, nor is anything else changed."""
        assert self.roster.add(["ZM"]) == ([], [], {"ZM": "nothing with a Z"})
        assert self.served == []
        assert list(self.refresh.wanted) == ["AAPL", "MSFT"]

    def test_there_is_room_for_as_many_as_a_segment_holds(self) -> None:
        """Those beyond are refused; one that was there before has its row."""
        self.roster.remove(["MSFT"])
        self.patch(layout, "MAX_TICKERS", 3)
        added, _, refused = self.roster.add(["IBM", "MSFT", "GE"])
        assert added == ["IBM", "MSFT"]
        assert refused == {"GE": "no room: a segment holds at most 3 tickers"}

    def test_a_folder_has_what_it_has(self) -> None:
        """A file for each, or the reason."""
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        folder = Path(temporary.name)
        (folder / "KO.csv").touch()
        source = Files(folder)
        why = f"no file PEP.csv or PEP.parquet in {folder}"
        assert source.refuse(["KO", "PEP"]) == {"PEP": why}
        missing = Files(folder / "none").refuse(["KO"])
        assert missing["KO"].endswith("No such file or directory")


class TestRemove(Case):
    """Tickers that go."""

    def test_it_is_flagged_and_asked_for_no_more(self) -> None:
        """Gone from every list, in one commit; its row is kept."""
        epoch = self.writer.epoch
        self.dropped.clear()
        assert self.roster.remove(["MSFT", "NOPE", "MSFT"]) == (["MSFT"], ["NOPE"])
        assert self.writer.epoch == epoch + 2
        assert self.flags("AAPL", "MSFT") == [layout.PRESENT, layout.REMOVED]
        assert (self.dropped, self.served) == (["MSFT"], [["AAPL"]])
        for _ in range(3):
            self.advance(REFRESH_S)
            assert self.cache.tickers() == ["AAPL"]
        with pytest.raises(KeyError, match="ticker removed: MSFT"):
            self.cache.get("MSFT")
        assert list(self.refresh.status()) == ["AAPL"]

    def test_it_comes_back_in_its_row_with_a_history_of_its_own(self) -> None:
        """Rewritten: no bar of its former life, also where nothing was asked in between."""
        row, rewrites = self.writer.row_of["MSFT"], int(self.writer.series("1d")["rewrites"][1])
        for wait_s in (0.0, REFRESH_S):
            self.roster.remove(["MSFT"])
            self.advance(wait_s)
            assert self.roster.add(["MSFT"]) == (["MSFT"], [], {})
            with pytest.raises(KeyError, match="not fetched yet"):
                self.cache.get("MSFT")
            self.advance(0)
            assert self.flags("MSFT") == [layout.PRESENT]
            assert self.writer.row_of["MSFT"] == row
            assert int(self.writer.series("1d")["rewrites"][row]) > rewrites
            rewrites = int(self.writer.series("1d")["rewrites"][row])
            self.advance(REFRESH_S)
            assert self.refresh.status()["MSFT"]["state"] == "ok"

    def test_all_may_go(self) -> None:
        """And come back."""
        self.roster.remove(["AAPL", "MSFT"])
        self.advance(REFRESH_S)
        assert self.cache.tickers() == []
        self.roster.add(["AAPL"])
        self.advance(0)
        assert self.cache.tickers() == ["AAPL"]


class TestServe(Case):
    """A list that takes the place of all before."""

    def test_only_the_differences_are_applied(self) -> None:
        """Whoever else has added or removed what."""
        self.roster.add(["IBM"])
        removed, added = self.roster.serve(("GE", "AAPL", "ZM"))
        assert removed.removed == ["MSFT", "IBM"]
        assert added == (["GE"], ["AAPL"], {"ZM": "nothing with a Z"})
        assert list(self.refresh.wanted) == ["AAPL", "GE"]

    def test_a_line_of_the_log_names_some(self) -> None:
        """One line for a change, however many tickers."""

        def said(act: Any, tickers: Iterable[str]) -> list[str | None]:
            with capturedLogs() as logged:
                act(tickers)
            return [
                formatEvent(event) for event in logged if event["log_namespace"].endswith("ster")
            ]

        many = [f"T{i}" for i in range(LOGGED + 3)]
        assert said(self.roster.add, ["IBM"]) == ["added IBM"]
        (line,) = said(self.roster.add, many)
        assert line is not None
        assert line.endswith("T9 and 3 more")
        assert said(self.roster.add, many) == []
        assert said(self.roster.remove, ["IBM", "AAPL"]) == ["removed IBM, AAPL"]
