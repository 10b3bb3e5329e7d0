"""The picture in ARCHITECTURE.md, as a test: a module imports its own room or a lower floor."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "pytest_embedvm"

FLOORS = {
    "errors": 0, "constants": 0, "units": 0, "loop": 0, "files": 0, "logs": 0, "inotify": 0,
    "xml": 1, "qemu": 1,
    "domain": 2, "network": 2, "storage": 2, "secret": 2,
    "driver": 3,
    "api": 4, "libvirt": 4, "libvirt_qemu": 4, "embed": 4,
    "guest": 5,
    "plugin": 6, "cli": 6,
    "embedvm": 7,
    "__main__": 7,
}  # fmt: skip

#: Rooms that are one thing in two places, so they may know each other: the drop-in module is made of `api`.
TOGETHER = {("libvirt", "api"), ("libvirt_qemu", "api"), ("embed", "api")}

#: `domain` is pure: it must not even be able to touch a file, a clock, a socket, a thread.
IMPURE = {"asyncio", "os", "pathlib", "shutil", "socket", "subprocess", "tempfile", "threading", "time"}

MODULES = sorted(PACKAGE.rglob("*.py"))


def room(module: str) -> str:
    """The room of a dotted name inside the package: `pytest_embedvm.qemu.parts` is in `qemu`."""
    return module.split(".")[1] if "." in module else ""


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> list[tuple[int, str]]:
    """Every (line, dotted name) that PATH imports; `from pkg import submodule` counts as pkg.submodule."""
    found = []
    package = dotted(path) if path.name == "__init__.py" else dotted(path).rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            found += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
    return found


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_looks_down_never_up(path: Path) -> None:
    own = room(dotted(path))
    if not own:
        return
    for line, name in imports(path):
        if not name.startswith("pytest_embedvm."):
            continue
        other = room(name)
        if other in ("__version__", own) or (own, other) in TOGETHER:
            continue
        assert other in FLOORS, f"{path}:{line} imports {name}, which is in no known room"
        assert FLOORS[other] < FLOORS[own] or FLOORS[own] == 0, f"{path}:{line}: {own} must not import {name}"


@pytest.mark.parametrize("path", [p for p in MODULES if room(dotted(p)) in ("domain", "xml")], ids=dotted)
def test_the_subjects_are_pure(path: Path) -> None:
    touched = {name.split(".")[0] for _, name in imports(path)} & IMPURE
    assert not touched, f"{path} imports {touched}"


def test_every_room_stands_on_a_floor() -> None:
    rooms = {room(dotted(path)) for path in MODULES} - {""}
    assert rooms <= set(FLOORS)


@pytest.mark.parametrize("path", [p for p in MODULES if p.name != "constants.py"], ids=dotted)
def test_files_are_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400, f"{path} is two rooms"


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_no_shell_and_no_import_inside_a_function_to_hide_a_cycle(path: Path) -> None:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "shell":
            pytest.fail(f"{path}:{node.value.lineno} passes shell=")
    if room(dotted(path)) in ("plugin", "cli", ""):
        return  # these import late on purpose: they must cost nothing where they are not used
    for function in (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)):
        late = [n.lineno for n in ast.walk(function) if isinstance(n, ast.Import | ast.ImportFrom)]
        assert not late, f"{path}:{late} imports inside {function.name}()"


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_a_deadline_loses_no_cancel(path: Path) -> None:
    """asyncio.wait_for() does before Python 3.12, when what it waits for is done at that moment; timeout() never."""
    attributes = (n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Attribute))
    lines = [n.lineno for n in attributes if ast.unparse(n) == "asyncio.wait_for"]
    assert not lines, f"{path}:{lines}: asyncio.timeout()"
