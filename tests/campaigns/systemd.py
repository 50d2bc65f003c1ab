"""The units of `deploy/` under a systemd of their own, with all of their sandbox.

It runs in namespaces (processes, mounts, network), with files of its own for those it changes:
the machine's own systemd, if there is one, its users and its /dev/shm are left alone. Takes root,
`unshare` and systemd's programs.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.campaigns.report import Row, ViolationError, arguments, check, conclude

if TYPE_CHECKING:
    from collections.abc import Callable

PROJECT: Final = Path(__file__).parents[2]
INIT: Final = "/lib/systemd/systemd"
UNITS: Final = Path("/etc/systemd/quoteshm-campaign")
BIN: Final = "/opt/quoteshm/bin"
SEGMENT: Final = Path("/dev/shm/shm0")  # noqa: S108 (shared memory, of a namespace of its own)
LOG: Final = Path("/run/quoteshm.log")
ENVIRONMENT: Final = Path("/etc/quoteshm/environment")
LIMIT_S: Final = 120.0
#: What becomes the first process of the namespaces. This Python is put under /opt, since the units
#: see no homes, and the paths of the tests follow it there.
BOOT: Final = """set -e
mount --make-rprivate /
for made in /run /opt /var/lib; do mount -t tmpfs tmpfs $made; done
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mkdir /opt/etc /opt/project /opt/packages /opt/python
cp -a /etc/. /opt/etc/
mount --bind /opt/etc /etc
mount --bind {project} /opt/project
mount --bind {packages} /opt/packages
mount --bind {python} /opt/python
export LD_LIBRARY_PATH=/opt/python/lib
/opt/python/bin/python3 -m venv --without-pip /opt/quoteshm
site=$(echo /opt/quoteshm/lib/python3*/site-packages)
printf '/opt/project\\n/opt/packages\\n' > $site/campaign.pth
printf '#!{bin}/python\\nfrom twisted.scripts.twistd import run\\nrun()\\n' > {bin}/twistd
chmod +x {bin}/twistd
systemd-sysusers /opt/project/deploy/quoteshm.sysusers.conf
systemd-tmpfiles --create /opt/project/deploy/quoteshm.tmpfiles.conf
useradd --groups quoteshm-readers reader-in-group
useradd reader-of-nothing
printf 'LD_LIBRARY_PATH=/opt/python/lib\\nQUOTESHM_SOURCE=synthetic\\n' > {environment}
mkdir -p {units}/quoteshm.service.d
(cd /opt/project/deploy; cp quoteshm.service quoteshm.socket {units}/)
# Only what is tried is started: no other unit of this machine is in reach.
sed -i 's/^\\[Unit\\]/[Unit]\\nDefaultDependencies=no/; s/network-online.target//' \\
  {units}/quoteshm.service {units}/quoteshm.socket
sed -i '/^Wants=$/d' {units}/quoteshm.service
printf '[Service]\\nStandardOutput=append:{log}\\nStandardError=append:{log}\\n' \\
  > {units}/quoteshm.service.d/log.conf
printf '[Unit]\\nDefaultDependencies=no\\nWants=inside.service\\n' > {units}/campaign.target
cat > {units}/inside.service <<END
[Unit]
DefaultDependencies=no
[Service]
Type=oneshot
WorkingDirectory=/opt/project
Environment=LD_LIBRARY_PATH=/opt/python/lib
ExecStart={bin}/python -m tests.campaigns.systemd --inside {result}
StandardOutput=append:{result}.log
StandardError=append:{result}.log
END
umount -R /sys/fs/cgroup
mount -t tmpfs tmpfs /sys/fs/cgroup
mkdir /sys/fs/cgroup/unified /sys/fs/cgroup/systemd
mount -t cgroup -o none,name=systemd,xattr cgroup /sys/fs/cgroup/systemd 2>/dev/null ||
  {{ umount /sys/fs/cgroup; mount -t cgroup2 cgroup2 /sys/fs/cgroup; }}
exec env -i container=quoteshm PATH=/usr/sbin:/usr/bin:/sbin:/bin SYSTEMD_UNIT_PATH={units} \\
  {init} --system --unit=campaign.target --log-target=console --show-status=no
"""
READ: Final = (
    "from quoteshm import StockDataReader as R; print(R(shm_name='shm0').get_quote('AAPL').price)"
)


# -- inside ----------------------------------------------------------------------------------


def systemctl(*words: str, timeout_s: float = 30.0) -> str:
    """Have systemd do something."""
    done = subprocess.run(
        ["/usr/bin/systemctl", "--no-pager", *words],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    log = LOG.read_text(errors="replace")[-2000:] if LOG.exists() else ""
    check(done.returncode == 0, f"systemctl {words}: {done.stderr} {log}")
    return done.stdout.strip()


def show(name: str) -> str:
    """Give a property of the service."""
    return systemctl("show", "quoteshm.service", "--value", "-p", name)


def until(good: Callable[[], bool], what: str, within_s: float = 20.0) -> None:
    """Wait until something is so."""
    end = time.monotonic() + within_s
    while not good():
        if time.monotonic() > end:
            log = LOG.read_text(errors="replace")[-2000:]
            raise ViolationError(f"not within {within_s} s: {what}; {show('StatusText')}; {log}")
        time.sleep(0.05)  # systemd has no event for these


def configure(*, environment: str = "", service: str = "") -> None:
    """Add lines to the daemon's environment, and to the service."""
    with ENVIRONMENT.open("a") as file:
        file.write(environment)
    if service:
        (UNITS / "quoteshm.service.d/campaign.conf").write_text(f"[Service]\n{service}")
    systemctl("daemon-reload")


def read_as(user: str) -> subprocess.CompletedProcess[str]:
    """Read a quote out of the segment as some user."""
    who = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"]
    return subprocess.run(
        [*who, f"{BIN}/python", "-c", READ],
        cwd="/",
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def starts() -> str:
    """Start it: it is ready with data, in its sandbox, and its files are who they should be for."""
    systemctl("start", "quoteshm.service")
    check(show("ActiveState") == "active", "it is active")
    check(show("StatusText") == "synthetic: 20 tickers, all fresh", show("StatusText"))
    status = Path(f"/proc/{show('MainPID')}/status").read_text()
    for line in (r"CapEff:\s+0+$", r"NoNewPrivs:\s+1$", r"Seccomp:\s+2$"):
        check(re.search(line, status, re.MULTILINE), f"{line} in {status}")
    check(SEGMENT.stat().st_mode & 0o777 == 0o640, "mode of the segment")
    check((SEGMENT.owner(), SEGMENT.group()) == ("quoteshm", "quoteshm-readers"), "its owners")
    return show("StatusText")


def readers() -> str:
    """Let a member of the group read, and nobody else."""
    inside, outside = read_as("reader-in-group"), read_as("reader-of-nothing")
    check(inside.returncode == 0 and float(inside.stdout) > 0, inside.stderr)
    check(outside.returncode != 0 and "SegmentAccessError" in outside.stderr, outside.stderr)
    return outside.stderr.splitlines()[-1]


def restarts() -> str:
    """Exchange it under a reader that is attached: the same segment goes on."""
    program = (
        "import sys; from quoteshm import StockDataReader as R; r=R(shm_name='shm0')\n"
        "print('attached', flush=True); sys.stdin.readline()\n"
        "e=r.snapshot_state.epoch; print(r.writer_status(), r.wait(e, 20) > e)"
    )
    with subprocess.Popen(
        [f"{BIN}/python", "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdout is not None  # a pipe
        reader.stdout.readline()
        before = LOG.read_text().count("adopted segment")
        systemctl("restart", "quoteshm.service")
        said, _ = reader.communicate("\n", timeout=30)
    check(said.split() == ["live", "True"], said)
    check(LOG.read_text().count("adopted segment") == before + 1, "it was adopted")
    return "adopted; the reader saw the next epoch"


def watchdog() -> str:
    """Stop the process: the watchdog ends it, with the stacks in its log, and starts another."""
    configure(service="WatchdogSec=2\n")
    systemctl("restart", "quoteshm.service")
    pid, restarts_before = show("MainPID"), int(show("NRestarts"))
    time.sleep(5)
    check(show("MainPID") == pid, "a daemon that is well is left alone")
    os.kill(int(pid), signal.SIGSTOP)
    until(lambda: int(show("NRestarts")) > restarts_before, "another one is started")
    until(lambda: show("ActiveState") == "active", "it is ready")
    check("Fatal Python error: Aborted" in LOG.read_text(), "the stacks are in the log")
    return "ended and started anew"


def without_data() -> str:
    """Start it with a vendor that nobody reaches: not ready, well, and beyond its time to start."""
    systemctl("stop", "quoteshm.socket", "quoteshm.service")
    SEGMENT.unlink()
    configure(
        environment="QUOTESHM_SOURCE=yahoo\nQUOTESHM_TICKERS=AAPL\nQUOTESHM_REFRESH=1\n",
        service="WatchdogSec=2\nTimeoutStartSec=3\n",
    )
    systemctl("start", "--no-block", "quoteshm.service")
    until(lambda: "failing" in show("StatusText"), "it says what fails")
    pid = show("MainPID")
    time.sleep(6)
    check((show("MainPID"), show("ActiveState")) == (pid, "activating"), "it is waited for")
    said = show("StatusText")
    # A call that the sandbox refuses would be another error than that of a missing network.
    check("unreachable" in said and "curl: (" in said, said)
    os.kill(int(pid), signal.SIGSTOP)
    until(lambda: show("MainPID") not in {pid, "0"}, "one that hangs is not waited for")
    systemctl("stop", "quoteshm.socket", "quoteshm.service")
    return said


def inside(result: Path) -> None:
    """Try everything, with a systemd that is all ours."""
    parts = (starts, readers, restarts, watchdog, without_data)
    rows = [Row.of(part.__name__.replace("_", " "), part) for part in parts]
    written = result.with_suffix(".new")
    written.write_text(json.dumps([vars(row) for row in rows]))
    written.rename(result)


# -- outside ---------------------------------------------------------------------------------


def boot_script(project: Path, packages: Path, python: Path, result: Path) -> str:
    """Put the paths of this machine into the script, spaces and all."""
    outside = {"project": project, "packages": packages, "python": python}
    quoted = {name: shlex.quote(str(path)) for name, path in outside.items()}
    return BOOT.format(
        **quoted,
        bin=BIN,
        units=UNITS,
        environment=ENVIRONMENT,
        log=LOG,
        result=result,
        init=INIT,
    )


def run(folder: Path) -> list[Row]:
    """Start a systemd in namespaces of its own, and wait for what comes of it."""
    result = folder / "result"
    boot = folder / "boot.sh"
    packages, python = Path(sysconfig.get_path("purelib")), Path(sys.base_prefix)
    boot.write_text(boot_script(PROJECT, packages, python, result))
    namespaces = ["--mount", "--pid", "--ipc", "--uts", "--net", "--cgroup"]
    with (folder / "boot.log").open("wb") as log:
        process = subprocess.Popen(
            ["unshare", *namespaces, "--fork", "--kill-child", "--mount-proc", "sh", boot],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        end = time.monotonic() + LIMIT_S
        while not result.exists():
            if process.poll() is not None or time.monotonic() > end:
                logs = [path.read_text(errors="replace") for path in folder.glob("*.log")]
                raise ViolationError("systemd did not come to an end: " + "\n".join(logs)[-3000:])
            time.sleep(0.2)  # a file has nothing to wait on
    finally:
        process.kill()  # and with it, by --kill-child, all processes of the namespaces
        process.wait()
    return [Row(**row) for row in json.loads(result.read_text())]


def main() -> int:
    """Run the campaign and print what came of it."""
    parser = arguments(__doc__)
    parser.add_argument("--inside", type=Path, help="for itself")
    said = parser.parse_args()
    if said.inside:
        inside(said.inside)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        rows = run(Path(folder))
    return conclude(rows, said.seed, as_json=said.json)


if __name__ == "__main__":
    sys.exit(main())
