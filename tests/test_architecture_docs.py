"""docs/architecture.md: every module has its line there, and the line is what the module says."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/architecture.md").read_text().partition("## Every module")[2]
MODULES = sorted(path for path in (ROOT / "quoteshm").rglob("*.py") if path.name != "__init__.py")


def told(page: str) -> dict[Path, str]:
    """Read the tables: a folder above, then a module a line."""
    found, folder = {}, ROOT
    for name, text in re.findall(r"^\| `([^`]+)` \| (.*?) ?\|$", page, re.MULTILINE):
        if name.endswith("/"):
            folder = ROOT / name
        else:
            found[folder / f"{name}.py"] = text
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: f"{path.parent.name}.{path.stem}")
def test_a_module_is_on_the_page_with_its_own_words(path: Path) -> None:
    """The first lines of its docstring."""
    words = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n\n")[0]
    own = " ".join(words.split()).replace("``", "`").rstrip(".")
    assert told(PAGE).get(path) == own


def test_the_page_names_no_module_that_there_is_not() -> None:
    """One that went, or has another name."""
    assert sorted(told(PAGE)) == MODULES
