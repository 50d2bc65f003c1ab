"""The ``quoteshm`` command: its entry point, and what becomes of errors.

Data goes to standard output, a line for each error to standard error. Exit status: 0 fine, 1 an
error answer, 2 wrong usage, 3 no connection; as ever 130 after Ctrl-C, and 141 when whoever reads
the output has gone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

__all__ = ["main", "run"]

ERROR_ANSWER: Final = 1
USAGE: Final = 2
NO_CONNECTION: Final = 3
INTERRUPTED: Final = 130  # what a shell says of a process that SIGINT ended
NO_READER: Final = 141  # and SIGPIPE


def main(args: Sequence[str] | None = None, prog_name: str = "quoteshm") -> NoReturn:
    """Run the command and exit with its status."""
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
    except BrokenPipeError:
        # What is still buffered goes nowhere, or Python would complain at its exit.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        return NO_READER


def _run(args: list[str] | None, prog_name: str) -> int:
    import click  # noqa: PLC0415 (so that Ctrl-C is quiet from the start)

    from quoteshm.cli.commands import cli, complain  # noqa: PLC0415 (the same)
    from quoteshm.errors import (  # noqa: PLC0415 (the same)
        ConnectionFailedError,
        QuoteShmError,
        SegmentError,
    )

    try:
        status = cli.main(args, prog_name, standalone_mode=False)
        sys.stdout.flush()
    except click.Abort:
        return INTERRUPTED
    except click.UsageError as error:
        command = prog_name if error.ctx is None else error.ctx.command_path
        what = error.format_message().rstrip(".")
        complain(f"{what[:1].lower()}{what[1:]}; see {command} --help")
        return USAGE
    except click.ClickException as error:
        complain(error.format_message())
        return error.exit_code
    except (ConnectionFailedError, SegmentError, TimeoutError) as error:
        complain(error)
        return NO_CONNECTION
    except QuoteShmError as error:
        complain(error)
        return ERROR_ANSWER
    else:
        return status if isinstance(status, int) else 0
