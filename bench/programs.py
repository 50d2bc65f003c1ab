"""The servers that are Debian's packages: ``python -m bench.programs`` installs what is missing."""
# ruff: noqa: S603, S607  the program is Debian's own

from __future__ import annotations

import shutil
import subprocess
import sys

#: Packages, named as their programs are.
PROGRAMS = ("redis-server", "memcached")


def install() -> None:
    """Install what is missing, if that is possible."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing and shutil.which("apt-get") is not None:
        for command in (["update"], ["install", "--yes", "--no-install-recommends", *missing]):
            subprocess.run(["apt-get", "--quiet", *command], check=False, stdout=sys.stderr)


if __name__ == "__main__":
    install()
