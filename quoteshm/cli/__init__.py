"""The ``quoteshm`` command: its entry point, and what becomes of errors.

Data goes to standard output, a line for each error to standard error. Exit status: 0 fine, 1 an
error answer, 2 wrong usage, 3 no connection; as ever 130 after Ctrl-C, and 141 when whoever reads
the output has gone.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

__all__ = ["main", "run"]

ERROR_ANSWER: Final = 1
USAGE: Final = 2
NO_CONNECTION: Final = 3
INTERRUPTED: Final = 130  # what a shell says of a process that SIGINT ended
NO_READER: Final = 141  # and SIGPIPE


def main(args: Sequence[str] | None = None, prog_name: str = "quoteshm") -> NoReturn:
    """Run the command and exit with its status."""
    if sys.stdout is None:  # closed by whoever started this
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 (for good)
    elif isinstance(sys.stdout, io.TextIOWrapper):
        # As on standard error: what an old locale cannot show is spelled out, and no exception.
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(run(args, prog_name))


def run(args: Sequence[str] | None = None, prog_name: str = "quoteshm") -> int:
    """Run the command.

    Parameters
    ----------
    args : sequence of str, optional
        The command line, the process's own unless given.
    prog_name : str
        What the command calls itself.

    Returns
    -------
    int
        The exit status.

    """
    try:
        return _run(None if args is None else list(args), prog_name)
    except KeyboardInterrupt:
        return INTERRUPTED


def _run(args: list[str] | None, prog_name: str) -> int:
    import click  # noqa: PLC0415 (so that Ctrl-C is quiet from the start)

    from quoteshm.cli.commands import ReaderGoneError, cli, complain  # noqa: PLC0415 (the same)
    from quoteshm.errors import QuoteShmError  # noqa: PLC0415 (the same)

    try:
        status = cli.main(args, prog_name, standalone_mode=False)
    except click.Abort:  # what click makes of Ctrl-C
        return INTERRUPTED
    except ReaderGoneError:
        _give_up_output()
        return NO_READER
    except (click.ClickException, QuoteShmError, TimeoutError) as error:
        return _tell(error, prog_name)
    except UnicodeEncodeError as error:  # a command line can hold any bytes
        complain(f"found {error.object!r}, expected UTF-8")
        return USAGE
    except OSError as error:  # of the output: a full disk
        _give_up_output()
        complain(error)
        return ERROR_ANSWER
    else:
        return status if isinstance(status, int) else 0


def _give_up_output() -> None:
    """Have what is still buffered go nowhere, or Python would complain at its exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _tell(error: Exception, prog_name: str) -> int:
    """Say in one line what went wrong; give the exit status."""
    import click  # noqa: PLC0415 (as in _run)

    from quoteshm.cli.commands import complain  # noqa: PLC0415 (the same)
    from quoteshm.errors import (  # noqa: PLC0415 (the same)
        ConnectionFailedError,
        SegmentError,
        SettingsError,
    )

    if isinstance(error, click.UsageError):
        command = prog_name if error.ctx is None else error.ctx.command_path
        what = error.format_message().rstrip(".")
        complain(f"{what[:1].lower()}{what[1:]}; see {command} --help")
        return USAGE
    complain(error)
    if isinstance(error, SettingsError):
        return USAGE
    unreachable = isinstance(error, ConnectionFailedError | SegmentError | TimeoutError)
    return NO_CONNECTION if unreachable else ERROR_ANSWER
