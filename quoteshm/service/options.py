"""The daemon's options, from one table: flags, environment variables, and the keys of a file.

A flag counts before its environment variable (``--shm-name`` is ``QUOTESHM_SHM_NAME``), that one
before the key of the same name in the TOML file, and that one before the default. `parse` is
pure: what it reads is passed in. `Options` is the same for ``twistd``.
"""

from __future__ import annotations

import ipaddress
import os
import re
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple, NoReturn

from twisted.internet.endpoints import quoteStringArgument
from twisted.python import usage

from quoteshm.errors import SettingsError
from quoteshm.model import INTERVALS, SeriesKind
from quoteshm.service.logs import FORMATS
from quoteshm.service.settings import BACKLOG, DEFAULT_TICKERS, Settings
from quoteshm.shm import layout
from quoteshm.sources.synthetic import synthetic_tickers

ENVIRONMENT: Final = "QUOTESHM_"
LOG_LEVELS: Final = ("debug", "info", "warn", "error", "critical")
MAX_SYMBOL_NBYTES: Final = layout.DIRECTORY_ROW["symbol"].itemsize
TICKER: Final = f"a symbol of 1 to {MAX_SYMBOL_NBYTES} printable bytes"

#: What prices can be adjusted for.
ADJUSTMENTS: Final = ("split", "all", "none")
#: Seconds between two refreshes, where ``--refresh`` does not say.
REFRESH_S: Final = {"yahoo": 60.0, "files": 5.0, "synthetic": 1.0}
#: So many refreshes may fail before a quote is stale, where ``--freshness`` does not say.
FRESH_REFRESHES: Final = 3
#: Nor is it before so many seconds: a busy machine takes some of them, and nothing is wrong.
LEAST_FRESHNESS_S: Final = 2.0

ReadText = Callable[[str], str]


def read_file(path: str) -> str:
    """Read a file of text, UTF-8."""
    return Path(path).read_text(encoding="utf-8")


# -- checks: what an option's text must be ---------------------------------------------------


class Check(NamedTuple):
    """What a text must be, in words, and how it is read; `read` raises ValueError."""

    expected: str
    read: Callable[[str], Any]
    text_only: bool = False  # a number of the TOML file is not taken for it


def _within(lowest: float, highest: float, number: float) -> None:
    if not lowest <= number <= highest:  # also when it is NaN
        raise ValueError(number)


def _whole(lowest: int, highest: int) -> Check:
    def read(text: str) -> int:
        number = int(text)
        _within(lowest, highest, number)
        return number

    return Check(f"a whole number from {lowest} to {highest}", read)


def _seconds(lowest: float, highest: float, what: str = "seconds") -> Check:
    def read(text: str) -> float:
        number = float(text)
        _within(lowest, highest, number)
        return number

    return Check(f"{what} from {lowest:g} to {highest:g}", read)


def _one_of(*choices: str) -> Check:
    def read(text: str) -> str:
        if text not in choices:
            raise ValueError(text)
        return text

    return Check(f"one of {', '.join(choices)}", read)


def _read_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", text):
        raise ValueError(text)
    return text


def _read_mode(text: str) -> int:
    mode = int(text, 8)
    owner_writes, others_never = 0o600, 0o133  # readers of P4 cannot alter the segment
    if mode & owner_writes != owner_writes or mode & others_never or not 0 <= mode <= 0o777:  # noqa: PLR2004 (all the bits)
        raise ValueError(text)
    return mode


def _read_interface(text: str) -> str:
    return "127.0.0.1" if text == "localhost" else str(ipaddress.ip_address(text))


def _read_kinds(text: str) -> tuple[tuple[str, int | None], ...]:
    kinds: dict[str, int | None] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        interval, colon, bars = part.partition(":")
        if interval not in INTERVALS or interval in kinds:
            raise ValueError(part)
        kinds[interval] = BARS.read(bars) if colon else None
    _within(1, layout.MAX_KINDS, len(kinds))
    return tuple(kinds.items())


def _is_short(ticker: str) -> bool:
    return ticker.isprintable() and 0 < len(ticker.encode()) <= MAX_SYMBOL_NBYTES


def _read_tickers(text: str) -> tuple[str, ...]:
    tickers: dict[str, None] = {}
    for number, line in enumerate(text.splitlines(), 1):
        for ticker in filter(None, re.split(r"[\s,]+", line.partition("#")[0])):
            if not _is_short(ticker):
                raise _BadLineError(number, ticker)
            tickers[ticker] = None
    if not tickers:
        raise ValueError(text)
    return tuple(tickers)


class _BadLineError(ValueError):
    """A line of a file is not what it is to be."""

    def __init__(self, number: int, found: str) -> None:
        super().__init__(number, found)
        self.number, self.found = number, found


def is_symbol(text: str) -> bool:
    """Tell whether a text is one symbol as ``--tickers`` takes it."""
    try:
        return _read_tickers(text) == (text,)
    except ValueError:
        return False


def read_tickers(path: Path, read_text: ReadText, label: str = "--tickers") -> tuple[str, ...]:
    """Read a file of tickers.

    Raises
    ------
    SettingsError
        It cannot be read, or has no ticker, or a bad one: file and line are named.

    """
    place = f"{label}: {path}"
    try:
        text = read_text(str(path))
    except OSError as error:
        raise SettingsError(label, f"@{path}", f"a file to read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise SettingsError(place, f"no UTF-8 at byte {error.start}", "text") from None
    except ValueError as error:  # a name that no file can have
        raise SettingsError(label, f"@{path}", f"a file to read ({error})") from None
    try:
        return _read_tickers(text)
    except _BadLineError as error:
        place = f"{place}, line {error.number}"
        raise SettingsError(place, error.found[:80], TICKER) from None
    except ValueError:
        raise SettingsError(place, "no ticker", "at least one") from None


def _read_hosts(text: str) -> tuple[str, ...]:
    names = tuple(name.strip().lower() for name in text.split(","))
    for name in names:
        if not re.fullmatch(r"[a-z0-9_]([a-z0-9_.-]{0,251}[a-z0-9_])?", name):
            raise ValueError(name)
    return names


def _read_text(text: str) -> str:
    if not text or "\0" in text:
        raise ValueError(text)
    return text


def _read_path(text: str) -> Path:
    return Path(_read_text(text))


BARS: Final = _whole(2, 10_000_000)
TICKERS: Final = Check(
    "symbols of 1 to 32 bytes with commas between them, or @FILE of such",
    _read_tickers,
)


# -- the table -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Option:
    """One option; `check` is None for a switch, which takes no value."""

    name: str
    check: Check | None
    default: str | None
    help: str
    short: str | None = None
    many: bool = False

    @property
    def variable(self) -> str:
        """The name of its environment variable."""
        return ENVIRONMENT + self.name.replace("-", "_").upper()


OPTIONS: Final = (
    Option("port", _whole(0, 65_535), "9000", "TCP port; 0 takes any free one", "p"),
    Option(
        "interface",
        Check("an IP address", _read_interface, text_only=True),
        "127.0.0.1",
        "address that the port is opened on",
    ),
    Option(
        "endpoint",
        Check("a Twisted endpoint such as unix:/run/quoteshm.sock", _read_text, text_only=True),
        None,
        "listen here in place of --port, or beside it if that is given too; may be repeated",
        many=True,
    ),
    Option("source", _one_of(*REFRESH_S), "yahoo", "where bars come from: yahoo, files, synthetic"),
    Option("synthetic", None, None, "the same as --source synthetic: random bars, no network"),
    Option(
        "synthetic-count",
        _whole(1, 1_000_000),
        None,
        "so many synthetic tickers in place of the default ones",
    ),
    Option(
        "synthetic-speed",
        _seconds(0.001, 1e9, "a factor"),
        "1",
        "how many times faster than the wall's the synthetic clock runs",
    ),
    Option("tickers", TICKERS, None, "AAPL,MSFT or @FILE; by default 20 well-known ones", "t"),
    Option("files", Check("a folder", _read_path), None, "folder of CSV or Parquet files"),
    Option("live", None, None, "quotes as they are made: Yahoo's stream, beside the refreshes"),
    Option(
        "intervals",
        Check(
            f"1 to {layout.MAX_KINDS} of {', '.join(INTERVALS)}, each with :BARS or not",
            _read_kinds,
        ),
        "1d",
        "series of each ticker, for example 1d,1m or 1d,1m:5000",
    ),
    Option("bars", BARS, "2520", "bars kept of each series"),
    Option(
        "refresh",
        _seconds(0.01, 86_400),
        None,
        "seconds between two refreshes; by default "
        + ", ".join(f"{seconds:g} for {source}" for source, seconds in REFRESH_S.items()),
    ),
    Option(
        "requests-per-minute",
        _whole(1, 100_000),
        "60",
        "the most requests of Yahoo in any minute, of all daemons of this user with the same "
        "--shm-dir",
    ),
    Option(
        "adjust",
        _one_of(*ADJUSTMENTS),
        None,
        "what Yahoo's prices are adjusted for: split (by default), all (splits and dividends; for "
        "intervals of a day and longer), none (as traded; for a day and shorter)",
    ),
    Option(
        "freshness",
        _seconds(0.01, 4_000_000),
        None,
        f"seconds until a quote is stale; by default {FRESH_REFRESHES} times --refresh, and at "
        f"least {LEAST_FRESHNESS_S:g}",
    ),
    Option(
        "shm-name",
        Check("letters, digits and ._- (at most 64)", _read_name, text_only=True),
        "shm0",
        "name of the segment",
    ),
    Option("shm-dir", Check("a folder", _read_path), "/dev/shm", "folder of the segment"),  # noqa: S108 (shared memory lives there)
    Option("no-shm", None, None, "serve over the network only"),
    Option(
        "shm-mode",
        Check(
            "an octal mode such as 0640: read and write for the owner, write for nobody else",
            _read_mode,
            text_only=True,
        ),
        "0640",
        "permissions of the segment, octal",
    ),
    Option("shm-group", Check("a group", _read_text, text_only=True), None, "its group"),
    Option(
        "max-tickers",
        _whole(1, 10_000_000),
        None,
        "room for so many tickers; by default twice those at the start, and at least 64",
    ),
    Option("keep-segment", None, None, "leave the segment in place when the daemon stops"),
    Option(
        "state-dir",
        Check("a folder", _read_path),
        None,
        "folder of the archive, which outlives the machine's start; without it there is none",
    ),
    Option("max-line-bytes", _whole(256, 16_777_216), "65536", "longest request"),
    Option(
        "max-connections",
        _whole(1, 1_000_000),
        "10000",
        "connections at a time; each takes a file, so ulimit -n has to allow as many",
    ),
    Option(
        "max-connections-per-peer",
        _whole(1, 1_000_000),
        "10000",
        "of them those of one peer: an IPv4 address, an IPv6 network of /64, or, over Unix "
        "sockets, a user; as many as all, since all programs of one machine share one address",
    ),
    Option(
        "idle-timeout",
        _seconds(0, 31_536_000),
        "300",
        "seconds until a connection that asks for nothing and has no subscription is closed; "
        "0 is never",
    ),
    Option(
        "write-timeout",
        _seconds(0.01, 86_400),
        "30",
        "seconds until a connection that takes nothing of what waits for it is cut",
    ),
    Option(
        "max-pending-bytes",
        _whole(65_536, 1 << 40),
        str(64 << 20),
        "longest reply, and the most that waits in memory for one connection",
    ),
    Option(
        "max-requests-per-turn",
        _whole(1, 1_000_000),
        "64",
        "requests of one connection that are answered before the others have their turn",
    ),
    Option(
        "heartbeat",
        _seconds(1, 3600),
        "5",
        "seconds of silence until a subscription is sent a sign of life",
    ),
    Option(
        "auth-token-file",
        Check("a file", _read_path),
        None,
        "file with one line, the token that clients have to show first; others may not read it",
    ),
    Option(
        "tls-client-ca",
        Check("a PEM file", _read_path),
        None,
        "ask clients of ssl: endpoints for certificates of these authorities",
    ),
    Option(
        "http",
        _whole(0, 65_535),
        None,
        "TCP port of the dashboard, /metrics, /healthz, /readyz and the WebSocket /wire, on "
        "--interface; 0 takes any free one. Needs the extra web",
    ),
    Option(
        "http-host",
        Check("names of hosts with commas between them", _read_hosts, text_only=True),
        None,
        "names that browsers and Prometheus may use for this machine over --http, besides "
        "localhost and addresses",
    ),
    Option("config", Check("a TOML file", _read_text), None, "TOML file with these options", "c"),
    Option("log-level", _one_of(*LOG_LEVELS), "info", f"{', '.join(LOG_LEVELS)}"),
    Option(
        "log-format",
        _one_of(*FORMATS),
        "text",
        "text for people, json for one object a line",
    ),
)

_BY_NAME: Final = {option.name: option for option in OPTIONS}


# -- parsing ---------------------------------------------------------------------------------


class _Origin(NamedTuple):
    """Where a value was given; a higher rank counts first."""

    rank: int
    label: str  # for errors; it holds the option's name


class _Given(NamedTuple):
    value: Any
    origin: _Origin
    file: Path | None = None  # that the value came out of


_NOWHERE: Final = _Origin(0, "")
_TRUE: Final = ("1", "true", "yes", "on")
_FALSE: Final = ("0", "false", "no", "off", "")


def _check(option: Option, origin: _Origin, texts: Sequence[str], read_text: ReadText) -> _Given:
    """Check the texts that one place gives for one option; the last one counts."""
    if option.check is None:
        if texts[-1].lower() not in _TRUE + _FALSE:
            raise SettingsError(origin.label, texts[-1], "true or false")
        return _Given(texts[-1].lower() in _TRUE, origin)
    if option.check is TICKERS and texts[-1].startswith("@"):
        path = Path(texts[-1][1:])
        return _Given(read_tickers(path, read_text, origin.label), origin, path.absolute())
    values = []
    for text in texts:
        try:
            values.append(option.check.read(text))
        except ValueError:
            raise SettingsError(origin.label, text, option.check.expected) from None
    return _Given(tuple(values) if option.many else values[-1], origin)


def _toml_texts(option: Option, label: str, value: object) -> list[str]:
    """Give a value of the TOML file as the texts that flags would have."""
    parts = value if isinstance(value, list) else [value]
    if option.check is None:
        if not isinstance(value, bool):
            raise SettingsError(label, value, "true or false")
        return [str(value)]
    simple = (str,) if option.check.text_only else (str, int, float)
    if any(isinstance(part, bool) or not isinstance(part, simple) for part in parts):
        raise SettingsError(label, value, option.check.expected)
    texts = [str(part) for part in parts]
    # A list is what commas are on the command line.
    return texts if option.many else [",".join(texts)]


def _read_config(path: str, label: str, read_text: ReadText) -> dict[str, _Given]:
    try:
        table = tomllib.loads(read_text(path))
    except OSError as error:
        raise SettingsError(label, path, f"a file to read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(label, path, f"a TOML file ({error})") from None
    found = {}
    for key, value in table.items():
        place = f"{key} in {path}"
        option = _BY_NAME.get(key)
        if option is None or key == "config":
            known = ", ".join(name for name in _BY_NAME if name != "config")
            raise SettingsError(place, value, f"no such key, but one of {known}")
        place = f"{place} (--{key})"
        texts = _toml_texts(option, place, value)
        if texts:
            found[key] = _check(option, _Origin(1, place), texts, read_text)
    return found


def settle(
    flags: Mapping[str, Sequence[str]],
    environ: Mapping[str, str],
    read_text: ReadText,
) -> Settings:
    """Make settings of the flags that were given, the environment and the file they name.

    Parameters
    ----------
    flags : mapping of str to sequence of str
        The texts that each flag was given, in their order.
    environ : mapping of str to str
        The environment.
    read_text : callable
        Reads a file; raises OSError.

    Raises
    ------
    SettingsError
        An option has a bad value; it is named.

    """
    given: dict[str, _Given] = {}
    for option in OPTIONS:
        if option.default is not None:
            given[option.name] = _check(option, _NOWHERE, [option.default], read_text)

    told: dict[str, _Given] = {}
    for option in OPTIONS:
        name = option.name
        if name in flags:
            told[name] = _check(option, _Origin(3, f"--{name}"), flags[name], read_text)
        elif environ.get(option.variable):
            origin = _Origin(2, f"{option.variable} (--{name})")
            texts = environ[option.variable].split() if option.many else [environ[option.variable]]
            told[name] = _check(option, origin, texts, read_text)
    if "config" in told:
        given |= _read_config(told["config"].value, told["config"].origin.label, read_text)
    given |= told
    return _derive(given)


def _derive(given: Mapping[str, _Given]) -> Settings:
    """Fill in what follows from other options, and refuse what contradicts them."""

    def value(name: str, default: Any = None) -> Any:  # noqa: ANN401 (each option has its own type)
        return given[name].value if name in given else default

    def rank(name: str) -> int:
        return given[name].origin.rank if name in given else 0

    source, source_rank = _choose_source(given)
    owners = (
        ("files", "files"),
        ("synthetic-count", "synthetic"),
        ("adjust", "yahoo"),
        ("live", "yahoo"),
    )
    for name, owner in owners:
        # One that a stronger choice of another source has overruled does no harm.
        if value(name) and source != owner and rank(name) >= source_rank:
            raise SettingsError(given[name].origin.label, str(value(name)), f"--source {owner}")
    if source == "files" and "files" not in given:
        raise SettingsError("--files", None, "a folder, since --source is files")

    refresh_s = value("refresh", REFRESH_S[source])
    tickers, tickers_file = _choose_tickers(given, source)
    max_tickers = value("max-tickers")
    if max_tickers is not None and max_tickers < len(tickers):
        expected = f"{len(tickers)} or more, for so many tickers"
        raise SettingsError(given["max-tickers"].origin.label, max_tickers, expected)
    if source == "yahoo" and "adjust" in given:
        _check_adjustment(given["adjust"], [interval for interval, _ in value("intervals")])
    endpoints = _choose_endpoints(given)
    if "tls-client-ca" in given and rank("tls-client-ca") >= rank("endpoint"):
        # Who asks for certificates and forgets where would be open to everybody.
        _check_certificates_asked_for(given["tls-client-ca"], endpoints)
    return Settings(
        endpoints=endpoints,
        source=source,
        tickers=tickers,
        tickers_file=tickers_file,
        files=value("files") if source == "files" else None,
        synthetic_speed=value("synthetic-speed"),
        live=source == "yahoo" and value("live", default=False),
        kinds=tuple(
            SeriesKind(interval, capacity or value("bars"))
            for interval, capacity in value("intervals")
        ),
        adjust=value("adjust", "split"),
        requests_per_minute=value("requests-per-minute"),
        refresh_s=refresh_s,
        freshness_s=value("freshness", max(LEAST_FRESHNESS_S, FRESH_REFRESHES * refresh_s)),
        shm=not value("no-shm", default=False),
        shm_name=value("shm-name"),
        shm_dir=value("shm-dir"),
        shm_mode=value("shm-mode"),
        shm_group=value("shm-group"),
        max_tickers=max_tickers,
        keep_segment=value("keep-segment", default=False),
        state_dir=value("state-dir"),
        max_line_bytes=value("max-line-bytes"),
        max_connections=value("max-connections"),
        max_connections_per_peer=value("max-connections-per-peer"),
        max_requests_per_turn=value("max-requests-per-turn"),
        max_pending_bytes=value("max-pending-bytes"),
        idle_timeout_s=value("idle-timeout"),
        write_timeout_s=value("write-timeout"),
        heartbeat_s=value("heartbeat"),
        auth_token_file=value("auth-token-file"),
        tls_client_ca=value("tls-client-ca"),
        http=_tcp(given, "http") if "http" in given else None,
        http_hosts=value("http-host", ()),
        log_level=value("log-level"),
        log_format=value("log-format"),
    )


def _choose_source(given: Mapping[str, _Given]) -> tuple[str, int]:
    """Settle ``--source`` and ``--synthetic``: the stronger one counts."""
    named, switch = given["source"], given.get("synthetic")
    if switch is None or not switch.value or named.origin.rank > switch.origin.rank:
        return named.value, named.origin.rank
    if named.origin.rank == switch.origin.rank and named.value != "synthetic":
        raise SettingsError(switch.origin.label, True, f"no --source {named.value} beside it")  # noqa: FBT003 (what was found)
    return "synthetic", switch.origin.rank


def _choose_tickers(
    given: Mapping[str, _Given], source: str
) -> tuple[tuple[str, ...], Path | None]:
    """Give the tickers, and the file that they are in."""
    named, count = given.get("tickers"), given.get("synthetic-count")
    if source == "synthetic" and count is not None:
        if named is not None and named.origin.rank == count.origin.rank:
            raise SettingsError(count.origin.label, count.value, "no --tickers beside it")
        if named is None or named.origin.rank < count.origin.rank:
            return synthetic_tickers(count.value), None
    if named is not None:
        return named.value, named.file
    return () if source == "files" else DEFAULT_TICKERS, None


def _check_adjustment(given: _Given, intervals: Sequence[str]) -> None:
    """Refuse what Yahoo cannot give: see `quoteshm.sources.yahoo`."""
    day = INTERVALS["1d"]
    if given.value == "all" and any(INTERVALS[one] < day for one in intervals):
        expected = "only --intervals of a day and longer beside it, or split"
        raise SettingsError(given.origin.label, given.value, expected)
    if given.value == "none" and any(INTERVALS[one] > day for one in intervals):
        expected = "only --intervals of a day and shorter beside it, or split"
        raise SettingsError(given.origin.label, given.value, expected)


def _choose_endpoints(given: Mapping[str, _Given]) -> tuple[str, ...]:
    """Put the port beside the endpoints only where somebody asked for it."""
    port = _tcp(given, "port")
    if "endpoint" not in given:
        return (port,)
    wanted: tuple[str, ...] = given["endpoint"].value
    return (port, *wanted) if given["port"].origin is not _NOWHERE else wanted


def _tcp(given: Mapping[str, _Given], name: str) -> str:
    """Give the endpoint of the port that an option names."""
    interface = quoteStringArgument(given["interface"].value)
    return f"tcp:{given[name].value}:interface={interface}:backlog={BACKLOG}"


def _check_certificates_asked_for(given: _Given, endpoints: Sequence[str]) -> None:
    if not any(endpoint.startswith("ssl:") for endpoint in endpoints):
        raise SettingsError(given.origin.label, str(given.value), "an --endpoint ssl:... beside it")


# -- the command line ------------------------------------------------------------------------


def _described(option: Option) -> str:
    return option.help if option.default is None else f"{option.help} [default: {option.default}]"


class Options(usage.Options):
    """The options as ``twistd quoteshm`` takes them; `settings` once they are parsed."""

    synopsis = "Usage: quoteshm serve [options]"
    longdesc = (
        "Each option can also be given as an environment variable (--shm-name is "
        "QUOTESHM_SHM_NAME) and as a key of the TOML file that --config names."
    )
    optFlags: ClassVar = [
        [option.name, option.short, option.help] for option in OPTIONS if option.check is None
    ]
    optParameters: ClassVar = [
        [option.name, option.short, None, _described(option)]
        for option in OPTIONS
        if option.check is not None and not option.many
    ]
    settings: Settings

    def __init__(
        self,
        environ: Mapping[str, str] = os.environ,
        read_text: ReadText = read_file,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._environ, self._read_text = environ, read_text
        self._endpoints: list[str] = []

    def opt_endpoint(self, text: str) -> None:  # noqa: D102 (its help is the table's)
        self._endpoints.append(text)

    opt_endpoint.__doc__ = _BY_NAME["endpoint"].help

    def opt_version(self) -> NoReturn:
        """Print the version and exit."""
        sys.stdout.write(f"quoteshm {metadata.version('quoteshm')}\n")
        raise SystemExit(0)

    def parseArgs(self, *words: str) -> None:
        """Refuse what is no option."""
        if words:
            message = f"found {words[0]!r}, expected only options"
            raise usage.UsageError(message)

    def postOptions(self) -> None:
        """Settle flags, environment and file, once the flags are known."""
        flags = {option.name: [str(self[option.name])] for option in OPTIONS if self._has(option)}
        if self._endpoints:
            flags["endpoint"] = self._endpoints
        self.settings = settle(flags, self._environ, self._read_text)

    def _has(self, option: Option) -> bool:
        return not option.many and self[option.name] not in (None, 0)


def parse(
    argv: Sequence[str],
    environ: Mapping[str, str],
    read_text: ReadText,
) -> Settings:
    """Make settings of a command line.

    Raises
    ------
    SettingsError
        An option has a bad value, or there is no such option; it is named.

    """
    options = Options(environ, read_text)
    try:
        options.parseOptions(list(argv))  # type: ignore[no-untyped-call]
    except usage.UsageError as error:
        raise SettingsError("command line", str(error), "the options of --help") from None
    return options.settings
