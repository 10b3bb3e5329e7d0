"""What is known of a failed test's machines: in its report, and whole in the output directory."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from pytest_embedvm.errors import EmbedError
from pytest_embedvm.files import make_private_directory
from pytest_embedvm.plugin.settings import SETTINGS

if TYPE_CHECKING:
    from pytest_embedvm.driver.evidence import Evidence
    from pytest_embedvm.libvirt import virConnect

#: The connections a test has opened through the fixtures, oldest first.
CONNECTIONS: Final = pytest.StashKey["list[virConnect]"]()

CONSOLE_LINES: Final = 20
QMP_MESSAGES: Final = 20

#: A directory without this file was not made by the plugin, and is never removed.
STAMP: Final = ".embedvm-output"

_UNSAFE: Final = re.compile(r"[^\w.\-\[\]]+")
_LONGEST_NAME: Final = 150


def clean(output: Path) -> None:
    """Remove what an earlier run left in OUTPUT, if it was this plugin that wrote there."""
    if (output / STAMP).is_file():
        shutil.rmtree(output, ignore_errors=True)


def collect(item: pytest.Item, report: pytest.TestReport) -> None:
    """Add the evidence of each machine of ITEM to REPORT, and keep the files."""
    from pytest_embedvm.api.evidence import evidence

    connections: list[virConnect] = item.stash.get(CONNECTIONS, [])
    for number, connection in enumerate(connections):
        try:
            machines = evidence(connection)
        except EmbedError as error:
            report.sections.append(("embedvm: no evidence", error.message))
            continue
        for name, found in machines.items():
            folder = _folder(item, report.when or "", number, name)
            _keep(folder, found)
            report.sections += _sections(name, found, folder)


def _sections(name: str, found: Evidence, folder: Path) -> list[tuple[str, str]]:
    sections = []
    for alias, path in found.console_logs.items():
        lines = _text(path).splitlines()
        if lines:
            tail = "\n".join(lines[-CONSOLE_LINES:])
            sections.append((f"embedvm: {name}: last {CONSOLE_LINES} lines of console {alias}", tail))
    if found.qemu_log_tail.strip():
        sections.append((f"embedvm: {name}: QEMU's standard error", found.qemu_log_tail.strip()))
    if found.qmp_trace:
        tail = "\n".join(found.qmp_trace[-QMP_MESSAGES:])
        sections.append((f"embedvm: {name}: last {QMP_MESSAGES} QMP messages", tail))
    if found.command_line:
        sections.append((f"embedvm: {name}: command line", found.command_line))
    return [*sections, (f"embedvm: {name}: files", str(folder))]


def _keep(folder: Path, found: Evidence) -> None:
    make_private_directory(folder)
    (folder / "command-line.sh").write_text(found.command_line + "\n")
    (folder / "qmp.log").write_text("".join(f"{line}\n" for line in found.qmp_trace))
    for name, path in {"qemu.log": found.log, **{f"{a}.log": p for a, p in found.console_logs.items()}}.items():
        if path.is_file():
            shutil.copyfile(path, folder / name)


def _folder(item: pytest.Item, when: str, number: int, name: str) -> Path:
    output = item.config.stash[SETTINGS].output
    make_private_directory(output)
    (output / STAMP).touch()
    machine = name if number == 0 else f"{name}-{number + 1}"
    return output / _safe(item.nodeid) / _safe(f"{machine}-{when}" if when == "setup" else machine)


def _safe(name: str) -> str:
    """NAME as one component of a path that is pleasant to type."""
    return _UNSAFE.sub("-", name).strip(".-")[-_LONGEST_NAME:] or "unnamed"


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace").replace("\r", "")
    except FileNotFoundError:
        return ""
