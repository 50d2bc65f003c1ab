"""Options: flag, then environment, then file, then default; a bad one is named."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quoteshm.errors import SettingsError
from quoteshm.model import SeriesKind
from quoteshm.service.options import OPTIONS, Option, Options, parse
from quoteshm.service.settings import DEFAULT_TICKERS, Settings

if TYPE_CHECKING:
    from collections.abc import Mapping


def settings(
    *argv: str,
    env: Mapping[str, str] | None = None,
    files: Mapping[str, str] | None = None,
) -> Settings:
    """Parse a command line, with this environment and these files."""

    def read_text(path: str) -> str:
        try:
            return (files or {})[path]
        except KeyError:
            raise FileNotFoundError(2, "No such file or directory", path) from None

    return parse(argv, env or {}, read_text)


# -- precedence ------------------------------------------------------------------------------

#: For each option that takes a value: four good values, weakest first, and where it is seen.
SAMPLES = {
    "port": ("1", "2", "3", "endpoints"),
    "interface": ("127.0.0.2", "127.0.0.3", "127.0.0.4", "endpoints"),
    "endpoint": ("unix:/a", "unix:/b", "unix:/c", "endpoints"),
    "source": ("synthetic", "yahoo", "synthetic", "source"),
    "synthetic-speed": ("2", "3", "4.5", "synthetic_speed"),
    "tickers": ("A", "B", "C,D", "tickers"),
    "intervals": ("1m", "1h", "1d,1m:50", "kinds"),
    "bars": ("10", "20", "30", "kinds"),
    "refresh": ("10", "20", "0.5", "refresh_s"),
    "requests-per-minute": ("10", "20", "30", "requests_per_minute"),
    "adjust": ("all", "split", "none", "adjust"),
    "freshness": ("10", "20", "0.5", "freshness_s"),
    "shm-name": ("a", "b", "c", "shm_name"),
    "shm-dir": ("/a", "/b", "/c", "shm_dir"),
    "shm-mode": ("0600", "0644", "640", "shm_mode"),
    "shm-group": ("a", "b", "c", "shm_group"),
    "max-tickers": ("100", "200", "300", "max_tickers"),
    "state-dir": ("/a", "/b", "/c", "state_dir"),
    "max-line-bytes": ("1000", "2000", "3000", "max_line_bytes"),
    "max-connections": ("1", "2", "3", "max_connections"),
    "max-connections-per-peer": ("1", "2", "3", "max_connections_per_peer"),
    "idle-timeout": ("0", "1", "2.5", "idle_timeout_s"),
    "write-timeout": ("1", "2", "2.5", "write_timeout_s"),
    "max-pending-bytes": ("65536", "70000", "80000", "max_pending_bytes"),
    "max-requests-per-turn": ("1", "2", "3", "max_requests_per_turn"),
    "heartbeat": ("1", "2", "2.5", "heartbeat_s"),
    "auth-token-file": ("/a", "/b", "/c", "auth_token_file"),
    "http": ("1", "2", "3", "http"),
    "http-host": ("a", "b.example", "c,D", "http_hosts"),
    "log-level": ("debug", "warn", "error", "log_level"),
    "log-format": ("json", "text", "json", "log_format"),
}
ELSEWHERE = {"files", "synthetic-count", "config", "tls-client-ca"}


@pytest.mark.parametrize("option", [o for o in OPTIONS if o.check], ids=lambda o: o.name)
def test_a_flag_counts_before_the_environment_and_that_before_the_file(option: Option) -> None:
    """The four places, for every option of the table that takes a value."""
    if option.name in ELSEWHERE:
        return
    low, middle, high, field = SAMPLES[option.name]
    flag = (f"--{option.name}", high)
    config = {"QUOTESHM_CONFIG": "q.toml"}
    files = {"q.toml": f"{option.name} = '{low}'"}
    env = {option.variable: middle}

    def seen(*argv: str, env: Mapping[str, str] | None = None, with_file: bool = False) -> object:
        env = {**(env or {}), **(config if with_file else {})}
        found = settings(*argv, env=env, files=files)
        return getattr(found, field)

    assert seen(*flag, env=env, with_file=True) == seen(*flag)
    assert seen(env=env, with_file=True) == seen(env=env)
    assert seen(with_file=True) == seen(f"--{option.name}", low)
    assert len({seen(*flag), seen(env=env), seen(with_file=True)}) == len({low, middle, high})


def test_the_page_has_a_port_beside_that_of_the_wire() -> None:
    """On the same interface; without the option there is none."""
    found = settings("--http", "8080", "--interface", "::1", "--http-host", "A.example, b")
    assert found.http == "tcp:8080:interface=\\:\\:1:backlog=1024"
    assert found.endpoints[0].startswith("tcp:9000:")
    assert found.http_hosts == ("a.example", "b")
    assert settings().http is None
    for bad in ("http://a", "a:8080", "-a", "a,,b", "é"):
        with pytest.raises(SettingsError, match="--http-host"):
            settings("--http-host", bad)


def test_every_option_is_sampled() -> None:
    """A new option cannot be forgotten above."""
    assert set(SAMPLES) | ELSEWHERE == {option.name for option in OPTIONS if option.check}


@pytest.mark.parametrize("name", ["no-shm", "keep-segment", "synthetic", "live"])
def test_a_switch_is_given_as_a_flag_a_word_or_a_truth(name: str) -> None:
    """Switches, in their three places."""
    on = settings(f"--{name}")
    variable = "QUOTESHM_" + name.replace("-", "_").upper()

    assert on != settings()
    for word in ("1", "true", "Yes", "ON"):
        assert settings(env={variable: word}) == on
    assert settings(env={variable: "off"}) == settings()
    assert settings("--config", "q", files={"q": f"{name} = true"}) == on
    assert settings("--config", "q", env={variable: "0"}, files={"q": f"{name} = true"}) == (
        settings()
    )


def test_a_toml_file_has_numbers_and_lists() -> None:
    """What is a list on the command line may be one in the file."""
    text = """
        port = 1
        bars = 50
        refresh = 2.5
        synthetic = true
        tickers = ["A", "B"]
        intervals = ["1d", "1m:60"]
    """

    found = settings("--config", "q.toml", files={"q.toml": text})

    assert found.endpoints == ("tcp:1:interface=127.0.0.1:backlog=1024",)
    assert (found.source, found.refresh_s, found.tickers) == ("synthetic", 2.5, ("A", "B"))
    assert found.kinds == (SeriesKind("1d", 50), SeriesKind("1m", 60))


def test_an_empty_variable_is_none() -> None:
    """As everywhere: an empty environment variable is one that is not set."""
    assert settings(env={"QUOTESHM_PORT": ""}) == settings()


# -- what follows from what ------------------------------------------------------------------


def test_the_defaults_are_those_of_the_record() -> None:
    """The table and the record tell the same story."""
    assert settings() == Settings()


@pytest.mark.parametrize(
    ("argv", "refresh_s"),
    [
        (["--source", "yahoo"], 60.0),
        (["--source", "files", "--files", "d"], 5.0),
        (["--synthetic"], 1.0),
    ],
)
def test_each_source_has_its_own_pace(argv: list[str], refresh_s: float) -> None:
    """A quote is stale after three refreshes that did not come."""
    found = settings(*argv)

    assert (found.refresh_s, found.freshness_s) == (refresh_s, 3 * refresh_s)
    assert settings(*argv, "--refresh", "7").freshness_s == 21.0


def test_a_short_refresh_leaves_time_to_be_late() -> None:
    """Three refreshes of a few milliseconds make no quote stale, unless somebody says so."""
    argv = ("--synthetic", "--refresh", "0.05")
    assert settings(*argv).freshness_s == 2.0
    assert settings(*argv, "--freshness", "0.15").freshness_s == 0.15


def test_the_default_tickers_are_those_of_the_source() -> None:
    """A folder of files knows its own."""
    assert settings().tickers == settings("--synthetic").tickers == DEFAULT_TICKERS
    assert settings("--source", "files", "--files", "d").tickers == ()
    assert len(settings("--synthetic", "--synthetic-count", "3").tickers) == 3


def test_tickers_come_from_a_file_with_comments() -> None:
    """One a line, or with commas; a ticker counts once."""
    files = {"list": "AAPL, MSFT  # the big ones\n\n# none here\nBRK-B\nAAPL\n"}

    assert settings("--tickers", "@list", files=files).tickers == ("AAPL", "MSFT", "BRK-B")


def test_a_file_of_tickers_is_remembered_and_its_faults_have_a_line() -> None:
    """Whole, as a daemon leaves its folder; a list of tickers has no file."""
    assert (
        settings("--tickers", "@list", files={"list": "A"}).tickers_file == Path("list").absolute()
    )
    assert settings("--tickers", "A").tickers_file is None
    assert settings("--synthetic-count", "3", "--synthetic").tickers_file is None
    for text, why in (
        ("A\r\n\n  # x\nB, " + "x" * 33, f"list, line 4: found '{'x' * 33}', expected a symbol"),
        ("\n# A\n,", "list: found 'no ticker', expected at least one"),
    ):
        with pytest.raises(SettingsError, match=f"^--tickers: {why}"):
            settings("--tickers", "@list", files={"list": text})


def test_an_endpoint_takes_the_ports_place_unless_the_port_is_asked_for() -> None:
    """Also across the places where options are given."""
    unix = ("--endpoint", "unix:/run/q", "--endpoint", "tcp:1")
    port = "tcp:7:interface=127.0.0.1:backlog=1024"

    assert settings(*unix).endpoints == ("unix:/run/q", "tcp:1")
    assert settings(*unix, "--port", "7").endpoints == (port, "unix:/run/q", "tcp:1")
    assert settings(*unix, env={"QUOTESHM_PORT": "7"}).endpoints[0] == port
    assert settings(env={"QUOTESHM_ENDPOINT": "tcp:1 tcp:2"}).endpoints == ("tcp:1", "tcp:2")


def test_certificates_are_asked_for_where_there_is_tls() -> None:
    """A stronger choice of endpoints without it overrules a weaker one of authorities."""
    files = {"q": "endpoint = 'ssl:1'\ntls-client-ca = 'ca.pem'"}
    flags = ("--endpoint", "ssl:1", "--tls-client-ca", "ca.pem")

    assert settings(*flags).tls_client_ca == Path("ca.pem")
    assert settings("--config", "q", files=files).tls_client_ca == Path("ca.pem")
    assert settings("--config", "q", "--endpoint", "tcp:1", files=files).endpoints == ("tcp:1",)
    with pytest.raises(SettingsError, match="--tls-client-ca"):
        settings("--config", "q", "--endpoint", "tcp:1", "--tls-client-ca", "x", files=files)


def test_an_address_with_colons_is_quoted() -> None:
    """An IPv6 address would be taken for arguments of the endpoint."""
    assert settings("--interface", "::1").endpoints == (r"tcp:9000:interface=\:\:1:backlog=1024",)
    assert settings("--interface", "localhost") == settings()


def test_a_stronger_source_overrules_what_belongs_to_a_weaker_one() -> None:
    """A file that configures synthetic bars does no harm to ``--source files``."""
    files = {"q": "synthetic = true\nsynthetic-count = 5\nfiles = 'd'"}

    found = settings("--config", "q", "--source", "files", files=files)

    assert (found.source, found.files) == ("files", Path("d"))
    assert not settings("--config", "q", "--synthetic", files={"q": "live = true"}).live
    assert not settings(env={"QUOTESHM_LIVE": "0", "QUOTESHM_SYNTHETIC": "1"}).live
    assert settings("--source", "synthetic", env={"QUOTESHM_SYNTHETIC": "0"}).source == "synthetic"


def test_the_room_grows_with_the_tickers_at_the_start() -> None:
    """Twice as many, at least 64, unless it is said."""
    assert [settings().room(n) for n in (0, 20, 32, 33, 5000)] == [64, 64, 64, 66, 10_000]
    assert settings("--max-tickers", "30").room(20) == 30


# -- bad values ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--port", "65536"], "--port"),
        (["--port", "http"], "--port"),
        (["--port", ""], "--port"),
        (["--interface", "example.org"], "--interface"),
        (["--source", "bloomberg"], "--source"),
        (["--source", "files"], "--files"),
        (["--files", "d"], "--files"),
        (["--synthetic", "--live"], "--live"),
        (["--synthetic", "--source", "files", "--files", "d"], "--synthetic"),
        (["--synthetic-count", "3"], "--synthetic-count"),
        (["--synthetic", "--synthetic-count", "0"], "--synthetic-count"),
        (["--synthetic", "--synthetic-count", "3", "--tickers", "A"], "--synthetic-count"),
        (["--synthetic-speed", "inf"], "--synthetic-speed"),
        (["--tickers", ","], "--tickers"),
        (["--tickers", "x" * 33], "--tickers"),
        (["--tickers", "A\x00B"], "--tickers"),
        (["--tickers", "@missing"], "--tickers"),
        (["--intervals", "1d,1d"], "--intervals"),
        (["--intervals", "7m"], "--intervals"),
        (["--intervals", "1d:0"], "--intervals"),
        (["--intervals", ""], "--intervals"),
        (["--intervals", "1m,2m,5m,15m,30m,1h,90m,1d,1wk"], "--intervals"),
        (["--bars", "1"], "--bars"),
        (["--refresh", "0"], "--refresh"),
        (["--refresh", "nan"], "--refresh"),
        (["--requests-per-minute", "0"], "--requests-per-minute"),
        (["--adjust", "dividends"], "--adjust"),
        (["--adjust", "all", "--intervals", "1d,1m"], "--adjust"),
        (["--adjust", "none", "--intervals", "1d,1wk"], "--adjust"),
        (["--adjust", "none", "--synthetic"], "--adjust"),
        (["--freshness", "-1"], "--freshness"),
        (["--shm-name", "../shm0"], "--shm-name"),
        (["--shm-name", ".hidden"], "--shm-name"),
        (["--shm-mode", "0666"], "--shm-mode"),
        (["--shm-mode", "0440"], "--shm-mode"),
        (["--shm-mode", "rw"], "--shm-mode"),
        (["--shm-mode=-200"], "--shm-mode"),
        (["--shm-dir", "a\0b"], "--shm-dir"),
        (["--max-tickers", "19"], "--max-tickers"),
        (["--max-line-bytes", "10"], "--max-line-bytes"),
        (["--log-level", "loud"], "--log-level"),
        (["--config", "missing.toml"], "--config"),
        (["--max-connections", "0"], "--max-connections"),
        (["--max-connections-per-peer", "many"], "--max-connections-per-peer"),
        (["--idle-timeout", "-1"], "--idle-timeout"),
        (["--idle-timeout", "inf"], "--idle-timeout"),
        (["--write-timeout", "0"], "--write-timeout"),
        (["--max-pending-bytes", "100"], "--max-pending-bytes"),
        (["--max-requests-per-turn", "0"], "--max-requests-per-turn"),
        (["--heartbeat", "0"], "--heartbeat"),
        (["--auth-token-file", ""], "--auth-token-file"),
        (["--tls-client-ca", "ca.pem"], "--tls-client-ca"),
        (["--tls-client-ca", "ca.pem", "--endpoint", "tcp:1"], "--tls-client-ca"),
        (["--synthetic=yes"], "--synthetic"),
        (["--port"], "--port"),
        (["surplus"], "surplus"),
    ],
)
def test_a_bad_value_is_one_line_that_names_the_option(argv: list[str], named: str) -> None:
    """Whatever is wrong, the user reads where."""
    with pytest.raises(SettingsError) as caught:
        settings(*argv)

    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("port = 'x'", "port in q (--port)"),
        ("ports = 1", "ports in q"),
        ("no-shm = 1", "no-shm in q"),
        ("port = true", "port in q"),
        ("shm-mode = 0o640", "shm-mode in q"),
        ("[tickers]\na = 1", "tickers in q"),
        ("config = 'other'", "config in q"),
        ("port =", "--config"),
    ],
)
def test_a_bad_file_is_named_with_the_key(text: str, named: str) -> None:
    """Also a number where it would be misread: 0o640 is the number 416."""
    with pytest.raises(SettingsError) as caught:
        settings("--config", "q", files={"q": text})

    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bad_variable_is_named_with_its_option() -> None:
    """The user looks where it was set."""
    with pytest.raises(SettingsError, match=r"^QUOTESHM_PORT \(--port\): found 'x'"):
        settings(env={"QUOTESHM_PORT": "x"})


@given(
    name=st.sampled_from([option.name for option in OPTIONS if option.check]),
    text=st.text(max_size=20),
)
def test_any_text_is_settings_or_a_settings_error(name: str, text: str) -> None:
    """No value of any option escapes as another exception."""
    said = f"--{name}"
    try:
        settings(f"--{name}", text)
    except SettingsError as error:
        said = str(error)

    assert name in said or "--files" in said


def test_the_help_tells_every_option_and_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    """Taken from the table, the repeatable one too."""
    with pytest.raises(SystemExit) as left:
        parse(["--help"], {}, lambda _: "")

    assert left.value.code == 0
    told = " ".join(capsys.readouterr().out.split())
    for option in OPTIONS:
        assert f"--{option.name}" in told
        assert option.help.replace(" ", "")[:20] in told.replace(" ", "")


def test_what_is_not_there_yet_is_not_accepted() -> None:
    """Every option that is taken does something."""
    taken = {name.rstrip("=") for name in Options().longOpt} - {"help", "version"}

    assert taken == {option.name for option in OPTIONS}
