"""The program itself."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_matplotlib_is_not_needed_but_for_the_chart() -> None:
    """A check of the benchmarks runs without it."""
    code = "import sys; sys.modules['matplotlib'] = None; import bench.__main__"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
