"""The commands: what each asks for, and how its answer is printed.

What takes long to import is imported where it is used: ``quoteshm get`` loads no pandas, and no
command but ``serve`` loads Twisted.
"""

from __future__ import annotations

import contextlib
import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar, cast

import click

from quoteshm.cli import INTERRUPTED, output
from quoteshm.cli.output import Column, Format
from quoteshm.errors import ErrorCode, RequestError, SegmentError, UnknownTickerError
from quoteshm.text import printable

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable, Iterator

    import pandas as pd

    from quoteshm.cli.top import Market
    from quoteshm.client.blocking import QuoteClient
    from quoteshm.shm.reader import StockDataReader

F = TypeVar("F", bound=Callable[..., Any])

_MOMENTS_FROM: Final = 100_000_000_000  # a greater number under a key in _ms is a moment
_STAMP_DIGITS: Final = 9  # more than those of a date such as 20260131
_OK: Final = "ok"
TIMEOUT_S: Final = 5.0
_REQUEST_NBYTES: Final = 32_768  # of tickers: half of what a server takes unless told otherwise
_NOTHING_YET: Final = "no ticker has a value yet: `quoteshm status` says why"


def complain(text: object) -> None:
    """Print one line to standard error."""
    click.echo(f"quoteshm: {printable(text)}", err=True)


# -- options that commands share -------------------------------------------------------------


def _together(*options: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


class Server(NamedTuple):
    """The server that the command line names."""

    host: str
    port: int
    path: str | None
    tls: bool
    tls_ca: str | None
    token_file: str | None

    def connect(self, timeout_s: float = TIMEOUT_S) -> QuoteClient:
        """Make a client of it."""
        from quoteshm.client.blocking import QuoteClient  # noqa: PLC0415 (start-up time)

        return QuoteClient(
            self.host,
            self.port,
            path=self.path,
            tls=self._tls(),
            token=self._token(),
            timeout_s=timeout_s,
        )

    def attach(self, shm_name: str | None, shm_dir: str | None) -> StockDataReader:
        """Make a reader of its segment, or of the one that is named."""
        from quoteshm.shm.reader import StockDataReader  # noqa: PLC0415 (start-up time)

        if shm_name is None and (self.path or self.tls or self.tls_ca or self.token_file):
            # Ways in that the reader does not know.
            with self.connect() as client:
                found = client.get_shm_name()
            shm_name, shm_dir = found.shm_name, shm_dir or found.shm_dir
        return StockDataReader(self.host, self.port, shm_name=shm_name, shm_dir=shm_dir)

    def _tls(self) -> bool | ssl.SSLContext:
        if self.tls_ca is None:
            return self.tls
        import ssl  # noqa: PLC0415 (start-up time)

        try:
            return ssl.create_default_context(cafile=self.tls_ca)
        except OSError as error:
            raise click.BadParameter(f"{self.tls_ca}: {error.strerror or error}") from error

    def _token(self) -> str | None:
        if self.token_file is None:
            return None
        try:
            return Path(self.token_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeError) as error:
            why = getattr(error, "strerror", None) or error
            raise click.BadParameter(f"{self.token_file}: {why}") from error


_server_flags = _together(
    click.option(
        "--host",
        default="127.0.0.1",
        envvar="QUOTESHM_HOST",
        show_envvar=True,
        show_default=True,
        help="Server to ask.",
    ),
    click.option(
        "--port",
        type=click.IntRange(1, 65_535),
        default=9000,
        envvar="QUOTESHM_PORT",
        show_envvar=True,
        show_default=True,
        help="Its TCP port.",
    ),
    click.option(
        "--socket",
        "path",
        envvar="QUOTESHM_SOCKET",
        show_envvar=True,
        metavar="PATH",
        help="Its Unix socket, instead of the two.",
    ),
    click.option("--tls", is_flag=True, help="Speak TLS."),
    click.option(
        "--tls-ca",
        metavar="FILE",
        help="Speak TLS with a server that these authorities know, in place of the system's.",
    ),
    click.option(
        "--token-file",
        envvar="QUOTESHM_TOKEN_FILE",
        show_envvar=True,
        metavar="FILE",
        help="Holds the token that the server wants to hear.",
    ),
)


def server_options(command: F) -> F:
    """Give a command the options that name a server, as one argument."""

    @_server_flags
    @functools.wraps(command)
    def with_server(  # noqa: PLR0913 (a command line's options)
        *args: object,
        host: str,
        port: int,
        path: str | None,
        tls: bool,
        tls_ca: str | None,
        token_file: str | None,
        **options: object,
    ) -> object:
        server = Server(host, port, path, tls, tls_ca, token_file)
        return command(*args, server=server, **options)

    return cast("F", with_server)


timeout_option = click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    default=TIMEOUT_S,
    show_default=True,
    metavar="SECONDS",
    help="Longest wait for an answer.",
)

format_options = _together(
    click.option("--table", "forced", flag_value="table", help="Print a table, also in a pipe."),
    click.option("--json", "forced", flag_value="json", help="Print NDJSON, also on a terminal."),
    click.option("--csv", "forced", flag_value="csv", help="Print CSV."),
)

segment_options = _together(
    click.option("--shm-name", metavar="NAME", help="Read this segment, and ask no server for it."),
    click.option(
        "--shm-dir",
        metavar="DIR",
        type=click.Path(file_okay=False),
        help="Its folder, by default /dev/shm.",
    ),
)

asking = _together(format_options, server_options, timeout_option)


# -- commands --------------------------------------------------------------------------------


class ReaderGoneError(Exception):
    """Whoever read the output has gone."""


class _Commands(click.Group):
    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 (as click has it)
        """Run a command; a closed pipe is told from errors, which click would not do."""
        try:
            status = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError as error:
            raise ReaderGoneError from error
        return status


@click.group(
    cls=_Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="quoteshm", message="%(prog)s %(version)s")
@click.pass_context
def cli(context: click.Context) -> None:
    """Read a quoteshm server: quotes, history, the whole market live.

    Prints a table on a terminal and NDJSON, one document a line, in a pipe. Exit status: 0 fine, 1
    an error answer (an unknown ticker), 2 wrong usage, 3 no connection.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        context.exit(2)


@cli.command("list")
@asking
def list_(forced: str | None, server: Server, timeout_s: float) -> None:
    """List the tickers that have a quote.

    As NDJSON each line is a string, so that this prints all quotes: quoteshm list | xargs quoteshm
    get
    """
    with server.connect(timeout_s) as client:
        tickers = client.list_tickers()
    if not tickers:
        complain(_NOTHING_YET)
    match Format.choose(forced):
        case Format.JSON:
            output.print_json(tickers)
        case Format.CSV:
            output.print_csv(["ticker"], ([ticker] for ticker in tickers))
        case Format.TABLE:
            from rich.columns import Columns  # noqa: PLC0415 (start-up time)
            from rich.text import Text  # noqa: PLC0415 (the same)

            texts = [Text(printable(ticker)) for ticker in tickers]
            if texts:
                columns = Columns(texts, padding=(0, 3), column_first=True, equal=True)
                output.console().print(columns)


def _check_tickers(tickers: tuple[str, ...], *, everything: bool) -> None:
    if everything == bool(tickers):
        found = "both TICKER and --all" if everything else "neither TICKER nor --all"
        message = f"found {found}, expected one of them"
        raise click.UsageError(message)


@cli.command
@click.argument("tickers", metavar="TICKER...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every ticker.")
@asking
def get(
    tickers: tuple[str, ...],
    *,
    everything: bool,
    forced: str | None,
    server: Server,
    timeout_s: float,
) -> int:
    """Print the latest quotes, all of one epoch.

    A ticker without one is named on standard error, and makes the exit status 1; the others are
    printed.
    """
    _check_tickers(tickers, everything=everything)
    wanted = list(dict.fromkeys(tickers))
    with server.connect(timeout_s) as client:
        answer = client.get_quotes(None if everything else wanted)
        quotes = dict(answer.quotes)
        problems = []
        for ticker in answer.missing:
            try:
                quotes[ticker] = client.get_quote(ticker)  # says why there is none
            except (UnknownTickerError, RequestError) as error:
                problems.append(error)
    order = sorted(quotes) if everything else [ticker for ticker in wanted if ticker in quotes]
    if everything and not order:
        complain(_NOTHING_YET)
    if order or everything:
        output.print_quotes([quotes[ticker] for ticker in order], Format.choose(forced))
    for problem in problems:
        complain(problem)
    return 1 if problems else 0


def _moment(_context: click.Context, _option: click.Parameter, text: str | None) -> Any:  # noqa: ANN401 (int or Timestamp, and pandas is not loaded before it is needed)
    """Read ``--since``: milliseconds since the Unix epoch, or a date with a time or without."""
    if text is None:
        return None
    if text.removeprefix("-").isdecimal() and len(text) >= _STAMP_DIGITS:
        return int(text)
    import pandas as pd  # noqa: PLC0415 (start-up time)

    with contextlib.suppress(ValueError, OverflowError):
        moment = pd.Timestamp(text)
        if not pd.isna(moment):
            return moment
    raise click.BadParameter(f"found {text!r}, expected a date, a time, or milliseconds")


@cli.command
@click.argument("ticker")
@click.option("--interval", metavar="I", help="1d, 1m, ...; by default the server's first.")
@click.option("--last", type=click.IntRange(min=1), metavar="N", help="Only the N newest bars.")
@click.option(
    "--since",
    callback=_moment,
    metavar="TIME",
    help="Only bars from then on: 2026-01-31, '2026-01-31 15:30', or milliseconds since the Unix "
    "epoch. Without a zone it is the exchange's.",
)
@asking
def history(  # noqa: PLR0913 (a command line's options)
    ticker: str,
    interval: str | None,
    last: int | None,
    since: int | pd.Timestamp | None,
    *,
    forced: str | None,
    server: Server,
    timeout_s: float,
) -> None:
    """Print the bars of a ticker, oldest first.

    Times are those of its exchange. The last bar is the forming one, if there is one.
    """
    with server.connect(timeout_s) as client:
        frame = client.get_history(ticker, interval, last=last, since=since)
    shape = Format.choose(forced)
    if shape is Format.TABLE:
        output.print_table(_bar_columns(frame))
        return
    index = _times(frame).as_unit("ms")
    fields = ("time_ms", "time", "open", "high", "low", "close", "volume")
    rows = zip(
        index.asi8.tolist(),
        (moment.isoformat() for moment in index),
        *(frame[name].tolist() for name in frame.columns),
        strict=True,
    )
    if shape is Format.CSV:
        output.print_csv(fields, rows)
    else:
        output.print_json(dict(zip(fields, row, strict=True)) for row in rows)


def _times(frame: pd.DataFrame) -> pd.DatetimeIndex:
    import pandas as pd  # noqa: PLC0415 (start-up time)

    return pd.DatetimeIndex(frame.index)


def _bar_columns(frame: pd.DataFrame) -> list[Column]:
    index = _times(frame)
    are_dates = bool((index == index.normalize()).all())
    heading = "DATE" if are_dates else "TIME"
    times = index.strftime("%Y-%m-%d" if are_dates else "%Y-%m-%d %H:%M:%S").tolist()
    return [
        Column(f"{heading} ({index.tz})", times),
        *(
            Column(name.upper(), output.prices(frame[name].tolist()), numeric=True)
            for name in ("Open", "High", "Low", "Close")
        ),
        Column("VOLUME", [output.volume(v) for v in frame["Volume"].tolist()], numeric=True),
    ]


@cli.command
@asking
def epoch(forced: str | None, server: Server, timeout_s: float) -> None:
    """Print the market's epoch and last update."""
    with server.connect(timeout_s) as client:
        state = client.get_snapshot_epoch()
    match Format.choose(forced):
        case Format.JSON:
            output.print_json([state._asdict()])
        case Format.CSV:
            output.print_csv(state._fields, [state])
        case Format.TABLE:
            updated = state.last_update_ms
            ago = f"{output.age(output.now_ms() - updated)} ago"
            zone, times = output.local_times([updated], date=True)
            columns = [
                Column("EPOCH", [str(state.epoch)], numeric=True),
                Column(f"LAST UPDATE ({zone})", times if updated else [output.NOTHING]),
                Column("AGE", [ago if updated else output.NOTHING]),
            ]
            output.print_table(columns)


@cli.command
@asking
def ping(forced: str | None, server: Server, timeout_s: float) -> None:
    """Print how long the server takes to answer."""
    with server.connect(timeout_s) as client:
        client.ping()  # connects
        took_ms = client.ping() * 1000
        address = client.address
    where: dict[str, object] = {"host": server.host, "port": server.port}
    if server.path is not None:
        where = {"socket": server.path}
    record = {**where, "round_trip_ms": round(took_ms, 3)}
    match Format.choose(forced):
        case Format.JSON:
            output.print_json([record])
        case Format.CSV:
            output.print_csv(list(record), [record.values()])
        case Format.TABLE:
            click.echo(f"{printable(address)} answered in {took_ms:.2f} ms")


@cli.command
@click.option("--all", "everything", is_flag=True, help="Also the tickers that are fine.")
@click.argument("tickers", metavar="[TICKER]...", nargs=-1)
@asking
def status(
    tickers: tuple[str, ...],
    *,
    everything: bool,
    forced: str | None,
    server: Server,
    timeout_s: float,
) -> int:
    """Print how each ticker fares: last and next attempt, bars, and what is wrong with it.

    On a terminal the tickers that are fine are only counted, unless --all or their names are given.
    The exit status is 1 if anything fails: a ticker, or the source as a whole. A ticker that waits
    for its first answer does not.
    """
    from quoteshm.cli import status as reporting  # noqa: PLC0415 (start-up time)

    with server.connect(timeout_s) as client:
        report = reporting.Report.of(client.get_info(), list(dict.fromkeys(tickers)))
    report.print(Format.choose(forced), everything=everything or bool(tickers))
    for ticker in report.unknown:
        complain(UnknownTickerError(ticker))
    return 0 if report.is_well else 1


@cli.command
@click.argument("tickers", metavar="TICKER...", nargs=-1, required=True)
@asking
def add(tickers: tuple[str, ...], *, forced: str | None, server: Server, timeout_s: float) -> int:
    """Have the server serve more tickers.

    It takes the server's Unix socket (--socket) or its token (--token-file). A ticker that is
    refused is named on standard error, and makes the exit status 1. They are served until the
    server is started again: what it serves then is for its own --tickers to say.
    """
    outcomes: dict[str, str] = {}
    refused: dict[str, str] = {}
    with server.connect(timeout_s) as client:
        for some in _requests_of(tickers):
            answer = client.add_tickers(some)
            outcomes |= dict.fromkeys(answer.added, "added") | dict.fromkeys(answer.known, "known")
            refused |= answer.refused
    _print_outcomes(outcomes, Format.choose(forced))
    for ticker, why in refused.items():
        complain(f"{ticker} is not added: {why}")
    return 1 if refused else 0


@cli.command
@click.argument("tickers", metavar="TICKER...", nargs=-1, required=True)
@asking
def remove(
    tickers: tuple[str, ...], *, forced: str | None, server: Server, timeout_s: float
) -> int:
    """Have the server serve tickers no longer, to nobody.

    It takes what add takes. A ticker that is not served is named on standard error, and makes the
    exit status 1.
    """
    removed: list[str] = []
    unknown: list[str] = []
    with server.connect(timeout_s) as client:
        for some in _requests_of(tickers):
            answer = client.remove_tickers(some)
            removed += answer.removed
            unknown += answer.unknown
    _print_outcomes(dict.fromkeys(removed, "removed"), Format.choose(forced))
    for ticker in unknown:
        complain(UnknownTickerError(ticker))
    return 1 if unknown else 0


def _requests_of(tickers: Iterable[str]) -> Iterator[list[str]]:
    """Cut tickers into requests that a server takes: a line of it has a bound."""
    some: list[str] = []
    size = 0
    for ticker in dict.fromkeys(tickers):
        nbytes = len(json.dumps(ticker)) + 1
        if some and size + nbytes > _REQUEST_NBYTES:
            yield some
            some, size = [], 0
        some.append(ticker)
        size += nbytes
    yield some


def _print_outcomes(outcomes: dict[str, str], shape: Format) -> None:
    match shape:
        case Format.JSON:
            output.print_json({"ticker": t, "outcome": outcome} for t, outcome in outcomes.items())
        case Format.CSV:
            output.print_csv(["ticker", "outcome"], outcomes.items())
        case Format.TABLE:
            if outcomes:
                tickers = [printable(ticker) for ticker in outcomes]
                columns = [Column("TICKER", tickers), Column("OUTCOME", [*outcomes.values()])]
                output.print_table(columns)


@cli.command
@asking
def info(forced: str | None, server: Server, timeout_s: float) -> None:
    """Print what the server is, and how it fares."""
    with server.connect(timeout_s) as client:
        document = client.get_info()
    match Format.choose(forced):
        case Format.JSON:
            output.print_json([document])
        case Format.CSV:
            output.print_csv(["name", "value"], output.flatten(document))
        case Format.TABLE:
            _print_info(document)


def _print_info(document: dict[str, Any]) -> None:
    """Print the facts, and how many tickers fare well."""
    statuses = {
        ticker: status
        for ticker, status in document.pop("ticker_status", {}).items()
        if isinstance(status, dict)
    }
    leaves = output.flatten(document)
    output.print_table(
        [
            Column("NAME", [printable(name) for name, _ in leaves]),
            Column("VALUE", [_fact(name, value) for name, value in leaves], wraps=True),
        ],
    )
    fine = sum(status.get("state") == _OK for status in statuses.values())
    more = "" if fine == len(statuses) else "; quoteshm status says what is with the others"
    click.echo(f"\n{fine} of {len(statuses)} tickers are fine{more}")


def _fact(name: str, value: object) -> str:
    if value is None or value in ({}, []):
        return output.NOTHING
    if name.endswith("_ms") and isinstance(value, int) and value >= _MOMENTS_FROM:
        return output.local_time(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return printable(value)


@cli.command
@click.argument("tickers", metavar="TICKER...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every ticker.")
@asking
def watch(
    tickers: tuple[str, ...],
    *,
    everything: bool,
    forced: str | None,
    server: Server,
    timeout_s: float,
) -> int:
    """Print a line whenever a quote changes, until Ctrl-C.

    The latest quotes come first. When the connection falls, standard error says so, and when it is
    back; changes that were missed meanwhile are printed then, each ticker at its latest.
    """
    _check_tickers(tickers, everything=everything)
    from quoteshm.cli import watch as watching  # noqa: PLC0415 (start-up time)

    wanted = "*" if everything else list(dict.fromkeys(tickers))
    try:
        with server.connect(timeout_s) as client, client.subscribe(wanted) as events:
            watching.follow(events, Format.choose(forced), client.address)
    except KeyboardInterrupt:  # the way to end it; click would print an empty line
        return INTERRUPTED


@cli.command
@click.argument("tickers", metavar="[TICKER]...", nargs=-1)
@click.option("--once", is_flag=True, help="Print one frame and exit, in any format.")
@click.option(
    "--sort",
    type=click.Choice(["ticker", "price", "change", "volume", "age"]),
    default="ticker",
    show_default=True,
    help="Column to sort by at the start.",
)
@segment_options
@format_options
@server_options
def top(  # noqa: PLR0913 (a command line's options)
    tickers: tuple[str, ...],
    *,
    once: bool,
    sort: str,
    shm_name: str | None,
    shm_dir: str | None,
    forced: str | None,
    server: Server,
) -> int:
    """Watch the market live: out of shared memory, or from a server on another machine.

    Keys: q quits; t p c v a sort by ticker, price, change, volume, age, and turn the order round
    when pressed again; arrows, PgUp, PgDn, Home and End scroll.
    """
    shape = Format.choose(forced)
    if not once and (shape is not Format.TABLE or not sys.stdout.isatty()):
        raise click.UsageError("top needs a terminal; --once prints one frame anywhere")
    from quoteshm.cli import top as live  # noqa: PLC0415 (start-up time)

    wanted = list(dict.fromkeys(tickers))
    with contextlib.ExitStack() as stack:
        market = _open_market(stack, server, shm_name, shm_dir, wanted)
        board = live.Board(wanted, live.Sort(sort))
        if not once:
            live.watch(market, board)
            return 0
        look = market.look()
        missing = board.update(look)
        if shape is Format.TABLE:
            live.print_frame(board, look)
        else:
            output.print_quotes(board.rows(), shape)
    if not look.state.is_well:
        complain(look.state.words)
    for ticker in missing:
        complain(UnknownTickerError(ticker))
    return 1 if missing else 0


def _open_market(
    stack: contextlib.ExitStack,
    server: Server,
    shm_name: str | None,
    shm_dir: str | None,
    tickers: list[str],
) -> Market:
    """Read the segment, or, where the server has none on this machine, subscribe."""
    from quoteshm.cli import top as live  # noqa: PLC0415 (start-up time)

    try:
        return live.LocalMarket(stack.enter_context(server.attach(shm_name, shm_dir)))
    except (SegmentError, RequestError) as error:
        is_refusal = isinstance(error, RequestError) and error.code is not ErrorCode.NOT_FOUND
        if is_refusal or shm_name is not None or shm_dir is not None:
            raise
    from quoteshm.cli.remote import RemoteMarket  # noqa: PLC0415 (start-up time)

    client = stack.enter_context(server.connect())
    return stack.enter_context(RemoteMarket(client, tickers))


@cli.command
@click.argument("tickers", metavar="TICKER...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every ticker.")
@click.option("--interval", metavar="I", help="1d, 1m, ...; by default the segment's first.")
@click.option(
    "--format",
    "forced",
    type=click.Choice(["csv", "parquet", "arrow"]),
    help="By default what the file's name ends with, else csv. All but csv take pyarrow.",
)
@click.option(
    "--output",
    "-o",
    metavar="FILE",
    type=click.Path(dir_okay=False, allow_dash=True),
    default="-",
    show_default="standard output",
    help="Where to write; the file is there once it is whole.",
)
@segment_options
@server_options
def export(  # noqa: PLR0913 (a command line's options)
    tickers: tuple[str, ...],
    *,
    everything: bool,
    interval: str | None,
    forced: str | None,
    output: str,
    shm_name: str | None,
    shm_dir: str | None,
    server: Server,
) -> int:
    """Write the bars of tickers into one file, out of shared memory.

    One row a bar, the tickers one after the other; the last bar of each is the forming one, if
    there is one. A ticker that is not there is named on standard error, and makes the exit status
    1; the others are written.
    """
    _check_tickers(tickers, everything=everything)
    from quoteshm.cli import export as exporting  # noqa: PLC0415 (start-up time)

    kind = exporting.Kind.of(forced, output)
    with server.attach(shm_name, shm_dir) as reader:
        wanted = reader.list_tickers() if everything else list(dict.fromkeys(tickers))
        if not wanted:
            complain(_NOTHING_YET)
        missing = exporting.export(reader, wanted, interval, kind, output)
    for problem in missing:
        complain(problem)
    return 1 if missing else 0


@cli.command(
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("arguments", metavar="[OPTIONS]", nargs=-1, type=click.UNPROCESSED)
def serve(arguments: tuple[str, ...]) -> int:
    """Run the daemon in the foreground.

    Its options: quoteshm serve --help.
    """
    from quoteshm.service import daemon  # noqa: PLC0415 (loads Twisted)

    return daemon.serve(arguments)
