"""Tests of the commands, over the real client and the server's real operations."""

from __future__ import annotations

import csv
import io
import json
import re
import socket
import socketserver
import ssl
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from quoteshm import cli
from quoteshm.cli import commands
from quoteshm.cli.output import local_time
from quoteshm.client import blocking
from quoteshm.model import MINUTE_MS, Bars, Quote
from quoteshm.service import daemon
from quoteshm.service.roster import BAD_SYMBOL
from quoteshm.shm.batch import History
from quoteshm.wire.operations import answer
from tests.certificates import Authority
from tests.published import FIRST_MS, NOW_MS, Market
from tests.rostering import have_roster

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

QUOTE_FIELDS = list(Quote.__struct_fields__)


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("QUOTESHM_HOST", "QUOTESHM_PORT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def market(monkeypatch: pytest.MonkeyPatch) -> Iterator[Market]:
    """Serve a small market, on the port that the environment names."""
    market = Market()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            for line in self.rfile:
                self.wfile.write(answer(market.context, line.rstrip()).reply)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("QUOTESHM_PORT", str(server.server_address[1]))
        yield market
        server.shutdown()
        thread.join()
    market.writer.close()


class Ran:
    """What a command did."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def documents(self) -> list[Any]:
        """The output, as NDJSON."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def rows(self) -> list[dict[str, str]]:
        """The output, as CSV."""
        return list(csv.DictReader(io.StringIO(self.out)))


class Command:
    """Runs the command."""

    def __init__(self, captured: pytest.CaptureFixture[str]) -> None:
        self._captured = captured

    def __call__(self, *args: str) -> Ran:
        """Run it; errors are at most one line each."""
        status = cli.run(args)
        return Ran(status, *self._captured.readouterr())


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command."""
    return Command(capsys)


@pytest.mark.usefixtures("market")
class TestGet:
    """quoteshm get."""

    def test_quotes_come_as_the_wire_has_them_in_the_order_asked(self, run: Command) -> None:
        """NDJSON in a pipe, a ticker named twice once, a missing price null."""
        ran = run("get", "MSFT", "AAPL", "MSFT")

        assert (ran.status, ran.err) == (0, "")
        assert [quote["ticker"] for quote in ran.documents] == ["MSFT", "AAPL"]
        assert list(ran.documents[0]) == QUOTE_FIELDS
        assert ran.documents[1]["prev_close"] is None
        assert ran.documents[0]["price"] == 370.25

    def test_an_unknown_ticker_leaves_the_others_alone(self, run: Command, market: Market) -> None:
        """It is named on standard error with the reason, and the status says so."""
        market.cache.failures["NEWCO"] = "not found"

        ran = run("get", "XXXX", "AAPL", "NEWCO")

        assert ran.status == 1
        assert [quote["ticker"] for quote in ran.documents] == ["AAPL"]
        unknown, valueless = ran.err.splitlines()
        assert unknown == "quoteshm: unknown ticker: XXXX"
        assert valueless.startswith("quoteshm: no value yet for NEWCO")
        assert "not found" in valueless

    def test_csv_has_full_precision_and_empty_cells(self, run: Command) -> None:
        """With the fields' names as its heading."""
        (row,) = run("get", "--csv", "AAPL").rows

        assert list(row) == QUOTE_FIELDS
        assert (row["price"], row["prev_close"], row["stale"]) == ("189.5", "", "false")

    def test_a_stale_quote_is_marked_in_the_table(self, run: Command, market: Market) -> None:
        """In words."""
        market.clock.now_ms += 60_000

        ran = run("get", "--table", "AAPL", "MSFT")

        heading, aapl, _ = ran.out.splitlines()
        assert heading.startswith("TICKER")
        assert aapl.split()[:4] == ["AAPL", "189.50", "-", "-"]
        assert "STALE" in aapl
        assert "\x1b" not in ran.out

    def test_all_is_every_ticker_with_a_value(self, run: Command) -> None:
        """Sorted."""
        assert [q["ticker"] for q in run("get", "--all").documents] == ["AAPL", "MSFT"]

    def test_a_market_without_a_value_is_told_of(self, run: Command, market: Market) -> None:
        """Nothing at all would look as if something were broken; and it is no error."""
        for ticker in ("AAPL", "MSFT"):
            market.remove(ticker)
        for args in (("get", "--all"), ("list",)):
            ran = run(*args)
            assert (ran.status, ran.out) == (0, "")
            assert ran.err == "quoteshm: no ticker has a value yet: `quoteshm status` says why\n"

    @pytest.mark.parametrize("args", [(), ("--all", "AAPL")])
    def test_it_wants_tickers_or_all(self, run: Command, args: Sequence[str]) -> None:
        """Neither and both are wrong usage, told in one line."""
        ran = run("get", *args)

        assert (ran.status, ran.out) == (2, "")
        assert ran.err.count("\n") == 1
        assert ran.err.startswith("quoteshm: found ")
        assert "see quoteshm get --help" in ran.err

    def test_a_ticker_that_is_no_text_is_wrong_usage(self, run: Command) -> None:
        """As the bytes of another encoding are, on a command line."""
        ran = run("get", "\udcff")

        assert (ran.status, ran.out) == (2, "")
        assert ran.err == "quoteshm: found '\\udcff', expected UTF-8\n"

    def test_a_hostile_ticker_cannot_steer_the_terminal(self, run: Command) -> None:
        """Nor make a second line."""
        ran = run("get", "\x1b[2J\nX")

        assert ran.err == "quoteshm: unknown ticker: \\x1b[2J\\nX\n"


@pytest.mark.usefixtures("market")
class TestHistory:
    """quoteshm history."""

    def test_bars_have_their_time_twice(self, run: Command) -> None:
        """In milliseconds, and as the exchange's own time."""
        first, *_, last = run("history", "AAPL").documents

        assert first["time_ms"] == FIRST_MS
        assert first["time"] == "2023-11-12T00:00:00-05:00"
        assert first["close"] == 188.0
        assert list(last) == ["time_ms", "time", "open", "high", "low", "close", "volume"]

    def test_last_and_since_choose_bars(self, run: Command) -> None:
        """As the server does; a time without a zone is the exchange's."""
        assert len(run("history", "AAPL", "--last", "2").documents) == 2
        assert len(run("history", "AAPL", "--since", str(FIRST_MS + 1)).documents) == 2
        assert len(run("history", "AAPL", "--since", "2023-11-13 00:01").documents) == 1
        assert len(run("history", "AAPL", "--since", "20231113").documents) == 2
        assert len(run("history", "AAPL", "--since", "2023-11-13T05:00:00Z").documents) == 2

    def test_csv_has_a_heading_also_without_bars(self, run: Command) -> None:
        """So that a program that reads it knows the columns."""
        assert run("history", "AAPL", "--csv").rows[1]["close"] == "190.5"
        assert run("history", "MSFT", "--csv").out == "time_ms,time,open,high,low,close,volume\n"

    def test_the_table_names_its_zone(self, run: Command, market: Market) -> None:
        """The exchange's; bars that begin at its midnights need no time of day."""
        heading, first, *_ = run("history", "AAPL", "--table").out.splitlines()
        assert heading.split()[:3] == ["DATE", "(America/New_York)", "OPEN"]
        assert first.split()[:2] == ["2023-11-12", "188.00"]

        row = market.writer.row_of["AAPL"]
        bars = Bars(np.array([FIRST_MS + MINUTE_MS]), np.full((5, 1), 7.0))
        market.write(histories=[History("1m", row, bars, forming=False, replace=True)])
        command = ("history", "AAPL", "--interval", "1m", "--table")
        heading, first = run(*command).out.splitlines()
        assert heading.split()[:3] == ["TIME", "(America/New_York)", "OPEN"]
        assert first.split()[:3] == ["2023-11-12", "00:01:00", "7.00"]

    def test_errors_of_the_server_are_told(self, run: Command) -> None:
        """An unknown ticker, an interval it does not keep."""
        unknown, interval = run("history", "XXXX"), run("history", "AAPL", "--interval", "7m")

        assert (unknown.status, unknown.err) == (1, "quoteshm: unknown ticker: XXXX\n")
        assert interval.status == 1
        assert "7m" in interval.err
        assert "1d, 1m" in interval.err

    @pytest.mark.parametrize("text", ["yesterday-ish", "", "NaT", "2026-13-01", "--1234567890"])
    def test_a_time_that_is_none_is_wrong_usage(self, run: Command, text: str) -> None:
        """It is named."""
        ran = run("history", "AAPL", "--since", text)

        assert ran.status == 2
        assert "--since" in ran.err
        assert repr(text) in ran.err


class TestOthers:
    """The commands without arguments."""

    @pytest.mark.usefixtures("market")
    def test_list_prints_a_string_a_line(self, run: Command) -> None:
        """Which xargs takes as it stands."""
        assert run("list").out == '"AAPL"\n"MSFT"\n'
        assert run("list", "--csv").out == "ticker\nAAPL\nMSFT\n"
        assert run("list", "--table").out.split() == ["AAPL", "MSFT"]

    def test_epoch_prints_the_snapshots_state(self, run: Command, market: Market) -> None:
        """In each format."""
        epoch = market.writer.epoch

        assert run("epoch").documents == [{"epoch": epoch, "last_update_ms": NOW_MS}]
        assert run("epoch", "--csv").out == f"epoch,last_update_ms\n{epoch},{NOW_MS}\n"
        table = run("epoch", "--table").out.splitlines()
        assert table[0].startswith("EPOCH  LAST UPDATE (")
        assert table[1].split()[0] == str(epoch)

    @pytest.mark.usefixtures("market")
    def test_ping_prints_how_long_it_took(self, run: Command) -> None:
        """In milliseconds, and which server it was."""
        (document,) = run("ping").documents

        assert list(document) == ["host", "port", "round_trip_ms"]
        assert 0 <= document["round_trip_ms"] < 1000
        where = f"127.0.0.1:{document['port']}"
        assert run("ping", "--table").out.startswith(f"{where} answered in ")

    @pytest.mark.usefixtures("market")
    def test_info_prints_the_document(self, run: Command) -> None:
        """One line of JSON, or a name and a value a line."""
        (document,) = run("info").documents

        assert document["limits"]["max_line_bytes"] == 65_536
        rows = {row["name"]: row["value"] for row in run("info", "--csv").rows}
        assert rows["limits.max_line_bytes"] == "65536"
        assert re.search(r"limits\.max_line_bytes +65536", run("info", "--table").out)

    def test_info_counts_the_tickers_that_fare_well(self, run: Command, market: Market) -> None:
        """And says who knows more, where there is more."""
        ok, ill = {"state": "ok"}, {"state": "not found"}
        described: dict[str, Any] = {"ticker_status": {"AAPL": ok}, "last_attempt_ms": NOW_MS}
        market.context.describe = lambda: described
        lines = run("info", "--table").out.splitlines()
        assert lines[-1] == "1 of 1 tickers are fine"
        (attempt,) = [line for line in lines if line.startswith("last_attempt_ms")]
        assert "2023-11-1" in attempt

        described["ticker_status"]["NEWCO"] = ill
        (*_, last) = run("info", "--table").out.splitlines()
        assert last == "1 of 2 tickers are fine; quoteshm status says what is with the others"


class TestTickers:
    """quoteshm add, quoteshm remove."""

    @pytest.fixture(autouse=True)
    def _roster(self, market: Market) -> None:
        have_roster(market, "AAPL", "MSFT")

    def test_each_ticker_is_told_what_became_of_it(self, run: Command) -> None:
        """As NDJSON, CSV and a table; what is refused makes the status 1."""
        ran = run("add", "NEWCO", "AAPL")
        assert (ran.status, ran.err) == (0, "")
        assert ran.documents == [
            {"ticker": "NEWCO", "outcome": "added"},
            {"ticker": "AAPL", "outcome": "known"},
        ]
        ran = run("add", "--csv", "IBM", "A B")
        assert (ran.status, ran.err) == (1, f"quoteshm: A B is not added: {BAD_SYMBOL}\n")
        assert ran.rows == [{"ticker": "IBM", "outcome": "added"}]
        ran = run("remove", "--table", "NEWCO", "NOPE")
        assert (ran.status, ran.err) == (1, "quoteshm: unknown ticker: NOPE\n")
        assert ran.out.splitlines()[1].split() == ["NEWCO", "removed"]
        assert run("remove", "--table", "NEWCO").out == ""

    def test_thousands_are_several_requests(self, run: Command) -> None:
        """A server takes lines of 64 kB; what becomes of all of them is one answer."""
        names = [f"SYMBOL{number:05}.EXCHANGE" for number in range(5000)]
        ran = run("add", *names, "A B", names[0])
        assert (ran.status, ran.err) == (1, f"quoteshm: A B is not added: {BAD_SYMBOL}\n")
        assert ran.documents == [{"ticker": name, "outcome": "added"} for name in names]
        ran = run("remove", *names, names[0])
        assert (ran.status, ran.err) == (0, "")
        assert ran.documents == [{"ticker": name, "outcome": "removed"} for name in names]

    def test_a_server_that_has_nothing_to_change_says_so(
        self, run: Command, market: Market
    ) -> None:
        """One line, and status 1; without a ticker it is wrong usage."""
        market.context.roster = None
        ran = run("add", "X")
        assert (ran.status, ran.out) == (1, "")
        assert "the tickers of this server cannot be changed" in ran.err
        assert run("remove").status == 2


class TestStatus:
    """quoteshm status."""

    @pytest.fixture
    def described(self, market: Market) -> dict[str, Any]:
        """Describe a daemon with one ticker that is fine."""
        ok = {
            "state": "ok",
            "last_attempt_ms": NOW_MS,
            "last_success_ms": NOW_MS,
            "next_attempt_s": 40.0,
            "bars": {"1d": 10, "1m": 5},
            "restatements": 2,
        }
        described: dict[str, Any] = {
            "source": "yahoo",
            "error": None,
            "requests": {"count": 3, "per_minute": 60, "state": "closed", "shared": True},
            "ticker_status": {"AAPL": ok},
        }
        market.context.describe = lambda: described
        return described

    @pytest.mark.usefixtures("described")
    def test_all_that_is_well_is_status_0(self, run: Command) -> None:
        """Tickers that are fine are only counted in a table, unless they are asked for."""
        ran = run("status", "--table")
        assert (ran.status, ran.err) == (0, "")
        assert "3 made, at most 60 a minute, with other daemons" in ran.out
        assert "AAPL" not in ran.out
        for args in (("--all",), ("AAPL",)):
            line = run("status", "--table", *args).out.splitlines()[-1]
            assert line.split("  ")[0] == "AAPL"
            assert "in 40 s" in line
            assert "1d:10 1m:5" in line
        (row,) = run("status", "--csv").rows
        assert (row["ticker"], row["bars"], row["restatements"]) == ("AAPL", "1d:10 1m:5", "2")
        (document,) = run("status", "--json").documents
        assert document["is_well"] is True
        assert document["tickers"]["AAPL"]["bars"] == {"1d": 10, "1m": 5}
        assert document["requests"]["count"] == 3

    def test_a_ticker_that_fails_is_status_1_and_says_why(
        self, run: Command, described: dict[str, Any]
    ) -> None:
        """And until when it is left alone; one that waits is not broken."""
        tickers = described["ticker_status"]
        tickers["NEW"] = {"state": "waiting", "last_success_ms": None, "next_attempt_s": 0.0}
        assert run("status").status == 0
        why = {"message": "no such symbol", "quarantined_until_ms": NOW_MS}
        tickers["NOPE"] = {"state": "not found", "last_success_ms": None, **why}
        ran = run("status", "--table")
        assert ran.status == 1
        assert "1 ok, 1 waiting, 1 not found" in ran.out
        assert ran.out.splitlines()[-1].startswith("NOPE")
        assert f"no such symbol; left alone until {local_time(NOW_MS)}" in ran.out
        assert run("status", "AAPL").status == 0

    def test_a_ticker_that_is_not_served_is_status_1(
        self, run: Command, described: dict[str, Any]
    ) -> None:
        """It is named on standard error."""
        assert described
        ran = run("status", "XXXX", "AAPL")
        assert (ran.status, ran.err) == (1, "quoteshm: unknown ticker: XXXX\n")

    @pytest.mark.parametrize(
        ("broken", "said"),
        [
            ({"error": "OSError: so it goes"}, "yahoo: OSError: so it goes"),
            (
                {"requests": {"state": "open", "until_ms": NOW_MS, "error": "A: 429"}},
                f"none until {local_time(NOW_MS)}: A: 429",
            ),
            ({"requests": {"state": "probing", "error": "A: 429"}}, "probing: A: 429"),
            ({"live": {"state": "mute", "why": "no price"}}, "mute: no price"),
            ({"archive": {"error": "No space left"}}, "No space left"),
        ],
    )
    def test_whatever_else_is_broken_is_status_1(
        self, run: Command, described: dict[str, Any], broken: dict[str, Any], said: str
    ) -> None:
        """The source as a whole, the breaker, the stream, the archive."""
        described |= broken
        ran = run("status", "--table")
        assert ran.status == 1
        assert said in ran.out

    def test_a_breaker_that_waits_for_a_ticker_is_no_fault_while_none_is_due(
        self, run: Command, described: dict[str, Any]
    ) -> None:
        """All night, or when there is no ticker any more, nobody could do anything about it."""
        described["requests"] |= {"state": "probing", "error": "A: 429"}
        assert run("status").status == 1
        described["ticker_status"]["AAPL"]["market_opens_ms"] = NOW_MS
        ran = run("status", "--table")
        assert ran.status == 0
        assert "probing with the next ticker that is due: A: 429" in ran.out
        described["ticker_status"].clear()
        assert run("status").status == 0
        described["requests"] |= {"state": "open", "until_ms": NOW_MS}
        assert run("status").status == 1

    def test_a_table_in_a_pipe_is_as_wide_as_columns_says(
        self, run: Command, described: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """And of any width without it, or where it says nothing."""
        described["error"] = "word " * 40
        widest = max(map(len, run("status", "--table").out.splitlines()))
        assert widest > 100
        monkeypatch.setenv("COLUMNS", "60")
        assert max(map(len, run("status", "--table").out.splitlines())) <= 60
        for nonsense in ("", "0", "-5", "x", "9" * 30):
            monkeypatch.setenv("COLUMNS", nonsense)
            assert max(map(len, run("status", "--table").out.splitlines())) == widest

    def test_what_is_well_besides_is_told_too(
        self, run: Command, described: dict[str, Any]
    ) -> None:
        """A stream that is live, and a market that is closed."""
        described["live"] = {"state": "live", "why": None, "messages": 7}
        described["requests"]["waiting"] = True
        for ticker, opens_ms in (("AAPL", NOW_MS + 60_000), ("VOD.L", NOW_MS)):
            one = {"state": "ok", "last_success_ms": NOW_MS, "market_opens_ms": opens_ms}
            described["ticker_status"][ticker] = one
        ran = run("status", "--table")
        assert ran.status == 0
        assert "live, 7 messages" in ran.out
        assert "the next one waits for its turn" in ran.out
        assert f"closed for 2 of them until {local_time(NOW_MS)}" in ran.out


class TestErrors:
    """What becomes of errors."""

    @pytest.mark.parametrize(
        "command",
        [("list",), ("get", "X"), ("history", "X"), ("epoch",), ("ping",), ("info",), ("top",)],
    )
    def test_no_server_is_status_3(self, run: Command, command: Sequence[str]) -> None:
        """One line that names the address."""
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))  # and not listening
            port = str(bound.getsockname()[1])
            extra = ("--once",) if command == ("top",) else ()
            ran = run(*command, "--port", port, *extra)

        assert (ran.status, ran.out) == (3, "")
        assert ran.err.count("\n") == 1
        assert f"127.0.0.1:{port}" in ran.err

    def test_no_answer_in_time_is_status_3(self, run: Command) -> None:
        """A server that accepts and says nothing."""
        with socket.create_server(("127.0.0.1", 0)) as mute:
            started = time.monotonic()
            ran = run("ping", "--timeout", "0.2", "--port", str(mute.getsockname()[1]))

        assert ran.status == 3
        assert "no answer within 0.2 s" in ran.err
        assert time.monotonic() - started < 5

    def test_no_segment_is_status_3(self, run: Command, tmp_path: object) -> None:
        """Its path is named."""
        ran = run("top", "--once", "--shm-name", "none", "--shm-dir", str(tmp_path))

        assert ran.status == 3
        assert f"{tmp_path}/none" in ran.err

    @pytest.mark.parametrize(
        ("args", "named"),
        [
            ((), "Usage: quoteshm"),
            (("nope",), "'nope'"),
            (("list", "--nope"), "--nope"),
            (("list", "--port", "70000"), "70000"),
            (("list", "--timeout", "0"), "--timeout"),
            (("list", "--timeout", "nan"), "timeout_s"),
            (("history", "AAPL", "--last", "0"), "--last"),
            (("top",), "terminal"),
            (("top", "--once", "--sort", "x"), "--sort"),
        ],
    )
    def test_wrong_usage_is_status_2(self, run: Command, args: Sequence[str], named: str) -> None:
        """What is wrong is named on standard error."""
        ran = run(*args)

        assert (ran.status, ran.out) == (2, "")
        assert named in ran.err

    def test_the_environment_names_the_server(
        self, run: Command, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A flag counts before it; a bad value is wrong usage."""
        asked: list[tuple[str, int, float]] = []

        def connect(server: commands.Server, timeout_s: float) -> Any:
            asked.append((server.host, server.port, timeout_s))
            raise KeyboardInterrupt

        monkeypatch.setattr(commands.Server, "connect", connect)
        monkeypatch.setenv("QUOTESHM_HOST", "example.test")
        monkeypatch.setenv("QUOTESHM_PORT", "9001")
        run("list")
        run("list", "--host", "::1", "--port", "9002", "--timeout", "2")
        monkeypatch.setenv("QUOTESHM_PORT", "abc")
        bad = run("list")

        assert asked == [("example.test", 9001, 5.0), ("::1", 9002, 2.0)]
        assert bad.status == 2
        assert "--port" in bad.err
        assert "'abc'" in bad.err

    def test_other_ways_in_are_named_too(
        self, run: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """A Unix socket, TLS and whom to trust, a token; what cannot be read is wrong usage."""
        token, ca = tmp_path / "token", Authority(tmp_path).path
        token.write_text("secret\n")
        made: list[dict[str, Any]] = []

        def client(*_: object, **options: Any) -> Any:
            made.append(options)
            raise KeyboardInterrupt

        monkeypatch.setattr(blocking, "QuoteClient", client)
        run("list", "--socket", "/run/q.sock", "--token-file", str(token))
        run("list", "--tls")
        run("list", "--tls-ca", str(ca))
        assert (made[0]["path"], made[0]["token"], made[0]["tls"]) == (
            "/run/q.sock",
            "secret",
            False,
        )
        assert (made[1]["path"], made[1]["token"], made[1]["tls"]) == (None, None, True)
        assert isinstance(made[2]["tls"], ssl.SSLContext)
        monkeypatch.undo()
        for option in ("--tls-ca", "--token-file"):
            bad = run("list", option, str(tmp_path / "none"))
            assert bad.status == 2
            assert "none: No such file" in bad.err
        both = run("list", "--socket", "/run/q.sock", "--tls")
        assert both.status == 2
        assert "tls" in both.err

    def test_ctrl_c_is_quiet(self, run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
        """Status 130, and not a word."""

        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(commands.Server, "connect", interrupted)

        ran = run("list")

        assert (ran.status, ran.out, ran.err.strip()) == (130, "", "")


class TestServe:
    """quoteshm serve."""

    def test_its_arguments_are_the_daemons_own(
        self, run: Command, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Untouched, --help and -h included; so is its status."""
        got: list[list[str]] = []

        def serve(argv: Sequence[str]) -> int:
            got.append(list(argv))
            return 7

        monkeypatch.setattr(daemon, "serve", serve)

        ran = run("serve", "-p", "0", "--synthetic", "--help", "-h", "--host", "x", "--", "y")

        assert ran.status == 7
        assert got == [["-p", "0", "--synthetic", "--help", "-h", "--host", "x", "--", "y"]]
