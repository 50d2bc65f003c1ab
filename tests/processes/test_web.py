"""A real daemon over HTTP: found by its log, read by any client, watched by WebSocket."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import time
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.processes.daemons import SERVE, TWISTD, daemon, refused
from tests.web.talking import RefusedError, Reply, WebSocket, ask, exchange

if TYPE_CHECKING:
    from pathlib import Path

    from tests.processes.daemons import Running

COMMANDS = [(*TWISTD, "-n", "--pidfile=", "quoteshm"), SERVE]
NAMES = ["twistd", "serve"]
#: twistd ends by the signal that ended it.
ENDED = (0, -signal.SIGTERM)


def http_port(running: Running) -> int:
    """Give the port that its log names."""
    return int(running.wait_for(r"http://127\.0\.0\.1:(\d+)/").group(1))


def opened(port: int, origin: str | None = None) -> contextlib.closing[WebSocket]:
    """Open a WebSocket for a block."""
    return contextlib.closing(WebSocket(port, origin))


def until_ready(port: int) -> Reply:
    """Wait until it has something to serve."""
    until = time.monotonic() + 30
    while (found := ask(port, "/readyz")).status != 200:
        assert time.monotonic() < until, found
        time.sleep(0.05)  # nothing says when
    return found


@pytest.mark.parametrize("command", COMMANDS, ids=NAMES)
def test_it_is_served_counted_and_watched(tmp_path: Path, command: tuple[str, ...]) -> None:
    """All of it at once, and it ends as ever."""
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(
            daemon(tmp_path, "--synthetic", "--http", "0", command=command)
        )
        port = http_port(running)
        told = json.loads(until_ready(port).body)
        assert told["tickers"] == 20
        assert ask(port, "/healthz").status == 200
        page = ask(port, "/")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert running.ask("get_info")["data"]["http"] == f"127.0.0.1:{port}"

        watching = stack.enter_context(opened(port, origin=f"http://127.0.0.1:{port}"))
        assert len(watching.ask("subscribe", tickers="*")["data"]["quotes"]) == 20
        first, second = watching.receive(), watching.receive()
        assert second["epoch"] > first["epoch"]
        assert second["data"]
        with pytest.raises(RefusedError):
            WebSocket(port, origin="http://evil.example")

        families = text_string_to_metric_families(ask(port, "/metrics").body.decode())
        samples = {
            (sample.name, *sample.labels.values()): sample.value
            for family in families
            for sample in family.samples
        }
        assert samples["quoteshm_tickers",] == 20
        assert samples["quoteshm_subscriptions",] == 1
        assert samples["quoteshm_connections",] == 1
        assert samples["quoteshm_batches_total",] >= 2
        assert samples["quoteshm_segment_allocated_bytes",] > 1e6
        assert samples["quoteshm_heartbeat_age_seconds",] < 3
        assert samples["process_resident_memory_bytes",] > 1e7

        running.process.send_signal(signal.SIGTERM)
        assert watching.farewell() == 1000
        assert running.process.wait(15) in ENDED
        assert "Traceback" not in running.log


def test_clients_that_mean_no_good_are_nobodys_trouble(tmp_path: Path) -> None:
    """Nothing of theirs is a line above debug, and the page is served all the while."""
    with daemon(tmp_path, "--synthetic", "--http", "0", "--freshness", "60") as running:
        port = http_port(running)
        until_ready(port)
        before = [line for line in running.log.splitlines() if "epoch" not in line]
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(300)]
        for one in silent:
            one.close()
        host = b"Host: localhost\r\n"
        for data in (
            b"\x00" * 100_000,
            b"GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
            b"POST / HTTP/1.1\r\n" + host + b"Content-Length: 1000000000\r\n\r\n" + b"x" * 100_000,
            b"GET / HTTP/1.1\r\n" + host + b"X: " + b"y" * 1_000_000 + b"\r\n\r\n",
            b"GET /static/../../pyproject.toml HTTP/1.0\r\n" + host + b"\r\n",
            b"GET /wire HTTP/1.0\r\n" + host + b"Upgrade: websocket\r\n\r\n",
        ):
            try:
                answer = exchange(port, data)
            except (BrokenPipeError, ConnectionResetError):  # it has closed before all was sent
                continue
            assert b"200 OK" not in answer
            assert b"[project]" not in answer
        with pytest.raises(RefusedError):
            WebSocket(port, host="evil.example")
        with opened(port) as watching:
            watching.socket.sendall(b"\xff" * 10_000)
            assert watching.farewell() == 1002
        assert ask(port, "/readyz").status == 200
        after = [line for line in running.log.splitlines() if "epoch" not in line]
        assert after == before


@pytest.mark.parametrize("command", COMMANDS, ids=NAMES)
def test_the_log_can_be_json(tmp_path: Path, command: tuple[str, ...]) -> None:
    """Every line of it, from the first to the last, requests at debug too."""
    argv = ("--synthetic", "--http", "0", "--log-format", "json", "--log-level", "debug")
    with daemon(tmp_path, *argv, command=command) as running:
        port = http_port(running)
        until_ready(port)
        ask(port, "/healthz")
        assert running.stop() in ENDED
        told = [json.loads(line) for line in running.log.splitlines()]
    assert all({"time", "level", "namespace", "text"} <= set(line) for line in told)
    (asked,) = [line for line in told if line.get("path") == "/healthz"]
    assert (asked["status"], asked["level"], asked["method"]) == (200, "debug", "GET")
    epochs = [line["epoch"] for line in told if "epoch" in line]
    assert epochs == sorted(epochs)


def test_a_missing_extra_is_one_line_that_names_it(tmp_path: Path) -> None:
    """And nothing is opened."""
    without = (
        "import sys; sys.modules['wsproto'] = None; "
        "from quoteshm.service.daemon import serve; sys.exit(serve(sys.argv[1:]))"
    )
    command = (*SERVE[:3], without)
    status, said = refused(tmp_path, "--synthetic", "--http", "0", "--port", "0", command=command)
    assert status == 1
    assert len(said.splitlines()) == 1
    assert "--http" in said
    assert "quoteshm[web]" in said


def test_a_port_in_use_is_one_clear_line(tmp_path: Path) -> None:
    """As that of the wire."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        argv = ("--synthetic", "--port", "0", "--shm-dir", str(tmp_path), "--http", port)
        status, said = refused(tmp_path, *argv, command=SERVE)
    assert status == 1
    assert "cannot start" in said
    assert "Traceback" not in said
