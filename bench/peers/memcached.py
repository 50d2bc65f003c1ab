"""memcached over a Unix socket: Debian's server, and pymemcache."""

from __future__ import annotations

import getpass
import shutil
import subprocess
import time
from typing import Any

import pymemcache

from bench.market import Step
from bench.peers import base, packing
from quoteshm import Quote


class Writer(base.Writer):
    """Sets many at once; readers may see some of them."""

    def open(self) -> None:
        """Start a server of our own."""
        program = shutil.which("memcached")
        if program is None:
            raise base.UnavailableError("memcached is not installed")
        path = self.folder / "memcached.sock"
        argv = [program, "-s", str(path), "-m", "256", "-t", "1", "-u", getpass.getuser()]
        self.server = subprocess.Popen(argv)  # noqa: S603  our own
        until = time.monotonic() + 10
        while not path.exists():
            if time.monotonic() > until or self.server.poll() is not None:
                raise base.UnavailableError("memcached did not start")
            time.sleep(0.01)
        self.client: Any = pymemcache.Client(f"unix:{path}", no_delay=True)

    def store(self) -> None:
        """Store the quotes."""
        self.publish(self.market.step(0))

    def publish(self, step: Step) -> None:
        """Set all quotes."""
        self.client.set_many(dict(packing.quotes_of(self.market.symbols, step)))

    def tick_one(self, step: Step) -> None:
        """Set one."""
        [(key, quote)] = packing.quotes_of([self.market.symbols[base.ONE]], step)
        self.client.set(key, quote)

    def close(self) -> None:
        """Stop the server."""
        self.client.close()
        self.server.terminate()
        self.server.wait(10)


class Reader(base.Reader):
    """One connection."""

    def open(self) -> None:
        """Connect."""
        self.client: Any = pymemcache.Client(f"unix:{self.folder / 'memcached.sock'}")

    def quote(self, symbol: str) -> Quote:
        """Get and decode."""
        return packing.decode(self.client.get(symbol))

    def facts(self, quote: Quote) -> base.Facts:
        """Give a quote's facts."""
        return packing.facts(quote)

    def close(self) -> None:
        """Disconnect."""
        self.client.close()
