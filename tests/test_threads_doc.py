"""docs/threads.md: every wait of the package is in its table, with its seconds."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.test_architecture import MODULES, PACKAGE, dotted

TEXT = (PACKAGE.parent / "docs/threads.md").read_text()

#: Seconds that nobody waits for: how long a measured loop has to run, and how old a dead root must be.
NO_WAITS = {"qemu.kvm_loop.FIRST_ENOUGH_S", "driver.roots.purge.DAY_S", "cli.purge._UNITS_S", "plugin.dead_roots.DAY_S"}


def seconds(path: Path) -> dict[str, float]:
    """The constants of a module that end in _S, by their dotted names."""
    above, found = dotted(path).removeprefix("pytest_embedvm").lstrip("."), {}
    for node in ast.parse(path.read_text()).body:
        targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
        for target in targets:
            if isinstance(target, ast.Name) and re.fullmatch(r"_?[A-Z_]+_S", target.id):
                found[f"{above}.{target.id}"] = eval(ast.unparse(node.value), {})  # type: ignore[attr-defined]
    return found


def test_every_wait_is_listed_with_its_seconds() -> None:
    there = {name: value for path in MODULES for name, value in seconds(path).items() if name not in NO_WAITS}
    rows = re.findall(r"^\| .* \| ([\d.]+) \| `([\w.]+)` \|$", TEXT, re.MULTILINE)
    listed = {name: float(value) for value, name in rows}
    assert len(listed) == len(rows)
    assert listed == there


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_no_wait_is_a_bare_number(path: Path) -> None:
    """`wait(5)`, `timeout=5`: what has no name is in no table."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        waits = name in {"wait", "wait_for", "join", "sleep", "settimeout"} and len(node.args) < 3
        given = [*(node.args[-1:] if waits else []), *(k.value for k in node.keywords if k.arg == "timeout")]
        bare = [n for n in given if isinstance(n, ast.Constant) and isinstance(n.value, int | float) and n.value > 0]
        assert not bare, f"{path}:{node.lineno} waits {ast.unparse(bare[0])} s"


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#]+)[^)]*\)", TEXT))
def test_links_lead_somewhere(link: str) -> None:
    assert (PACKAGE.parent / "docs" / link).exists()
