"""The campaign under a systemd of its own takes root and minutes: here, only what it boots with."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

from tests.campaigns.systemd import boot_script


def test_a_project_under_a_path_with_a_space_is_mounted() -> None:
    """As one word each; and the shell can read all of the script."""
    paths = project, packages, python = Path("/a b/p"), Path("/a b/q"), Path("/it's python")
    script = boot_script(project, packages, python, Path("/tmp/result"))  # noqa: S108  a name only
    mounted = [shlex.split(line)[2:] for line in script.splitlines() if "mount --bind" in line]
    assert [Path(words[0]) for words in mounted[1:]] == list(paths)
    assert all(len(words) == 2 for words in mounted)
    subprocess.run(["sh", "-n"], input=script, text=True, check=True)
