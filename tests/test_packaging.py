"""What is installed is what works here: tried with a wheel, from a folder that is not this one."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*argv: str | Path, cwd: Path) -> str:
    """Run a program as a user would who has never seen the checkout."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    done = subprocess.run(
        [str(word) for word in argv],
        cwd=cwd,
        env=kept,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel, with the build backend that is installed here: no network is needed."""
    out = tmp_path_factory.mktemp("a dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", out, ROOT, cwd=out)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel alone into a new environment, beside this one's other packages."""
    folder = tmp_path_factory.mktemp("an env")
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    site = folder / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    pip = (sys.executable, "-m", "pip", "--python", folder / "bin" / "python")
    run(*pip, "install", "--no-deps", "--no-index", "--quiet", wheel, cwd=folder)
    # Last on the path, and its own .pth files (an editable install of this project) are not read.
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def test_the_wheel_has_the_plugin_and_leaves_twisteds_own_folder_alone(wheel: Path) -> None:
    """An ``__init__.py`` of ours would overwrite Twisted's, and removing us would delete it."""
    names = zipfile.ZipFile(wheel).namelist()

    plugins = [name for name in names if name.startswith("twisted/")]
    assert plugins == ["twisted/plugins/quoteshm_plugin.py"]
    assert "quoteshm/py.typed" in names
    assert not [name for name in names if name.startswith(("tests/", "utils/", "bench/"))]


def test_the_wheel_has_every_file_of_the_page(wheel: Path) -> None:
    """Its licences too."""
    names = zipfile.ZipFile(wheel).namelist()

    page = {name for name in names if name.startswith("quoteshm/web/static/")}
    assert page == {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "quoteshm" / "web" / "static").rglob("*")
        if path.is_file()
    }
    assert "quoteshm/web/static/index.html" in page


def test_an_installed_wheel_offers_the_plugin_from_another_folder(
    installed: Path, tmp_path: Path
) -> None:
    """``twistd`` lists the command, and the command is the one that was installed."""
    python = installed / "bin" / "python"
    twistd = "import sys; sys.argv[0] = 'twistd'; from twisted.scripts.twistd import run; run()"

    listed = run(python, "-P", "-c", twistd, "--help", cwd=tmp_path)
    options = run(python, "-P", "-c", twistd, "quoteshm", "--help", cwd=tmp_path)
    where = run(python, "-P", "-c", "import quoteshm; print(quoteshm.__file__)", cwd=tmp_path)

    assert "Market data for every process on the machine." in listed
    assert "--synthetic-speed" in options
    assert Path(where.strip()).is_relative_to(installed)


def test_the_installed_version_is_told(installed: Path, tmp_path: Path) -> None:
    """``--version`` is ours, where twistd would tell Twisted's."""
    twistd = "import sys; sys.argv[0] = 'twistd'; from twisted.scripts.twistd import run; run()"

    told = run(
        installed / "bin" / "python", "-P", "-c", twistd, "quoteshm", "--version", cwd=tmp_path
    )

    assert told.startswith("quoteshm ")
