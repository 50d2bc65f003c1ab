"""The floors hold: a module imports only from the ones below it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "quoteshm"

#: The floor of each module or folder; the longest name that fits counts.
FLOORS = {
    "quoteshm.errors": 0,
    "quoteshm.clock": 0,
    "quoteshm.model": 0,
    "quoteshm.text": 0,
    "quoteshm.shm": 1,
    "quoteshm.market": 2,
    "quoteshm.sources": 2,
    "quoteshm.wire": 3,
    "quoteshm.client": 4,
    "quoteshm.web": 4,
    "quoteshm.service": 5,
    "quoteshm.cli": 6,
    "quoteshm.__main__": 7,
}
#: The public face looks down on what client programs use, and is on no floor itself.
FACE = "quoteshm"
FACE_SHOWS = (
    "quoteshm.errors",
    "quoteshm.clock",
    "quoteshm.model",
    "quoteshm.shm",
    "quoteshm.client",
)


def home(module: str) -> str:
    """Name the part of the package that a module belongs to."""
    while module not in FLOORS and module != FACE:
        module = module.rpartition(".")[0]
        if not module:
            raise LookupError(module)
    return module


def module_name(path: Path) -> str:
    """Name the module in a file."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(source: str, module: str, *, is_package: bool = False) -> set[str]:
    """Name what a module imports of this package, wherever in it the import stands."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".") if is_package else module.split(".")[:-1]
                above = parts[: len(parts) - node.level + 1]
                base = ".".join([*above, node.module] if node.module else above)
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return {name for name in found if name == FACE or name.startswith(f"{FACE}.")}


def reaches_up(module: str, target: str) -> bool:
    """Tell whether ``module`` may not import ``target``."""
    own, other = home(module), home(target)
    if own == other:
        return False
    if own == FACE:
        return other not in FACE_SHOWS
    if other == FACE:
        # Only a submodule counts on its floor; names of the face itself are for client programs.
        return FLOORS[own] < FLOORS["quoteshm.cli"]
    return FLOORS[other] >= FLOORS[own] and not (FLOORS[own] == FLOORS[other] == 0)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=module_name)
def test_a_module_imports_only_from_the_floors_below(path: Path) -> None:
    """No import reaches up, or across to another folder of the same floor."""
    module = module_name(path)
    names = imported(path.read_text(), module, is_package=path.name == "__init__.py")

    assert sorted(name for name in names if reaches_up(module, name)) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("quoteshm.shm.reader", "from quoteshm.client.blocking import QuoteClient"),
        ("quoteshm.shm.reader", "def f():\n    import quoteshm.wire.messages"),
        ("quoteshm.market.bars", "from quoteshm.sources import base"),
        ("quoteshm.errors", "from .shm import layout"),
        ("quoteshm.wire.protocol", "from ..service import daemon"),
        ("quoteshm.shm.reader", "from quoteshm import StockDataReader"),
        ("quoteshm", "from quoteshm.service.settings import Settings"),
    ],
)
def test_an_import_that_reaches_up_is_found(module: str, source: str) -> None:
    """The check can fail, for each way of writing an import."""
    assert any(reaches_up(module, name) for name in imported(source, module))
