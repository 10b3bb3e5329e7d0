"""What is known of a failed test's machines: in its report, and whole in the output directory."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from pytest_embedvm.files import make_private_directory
from pytest_embedvm.plugin.settings import SETTINGS

if TYPE_CHECKING:
    from pytest_embedvm.driver.evidence import Evidence
    from pytest_embedvm.libvirt import virConnect

#: The connections a test has opened through the fixtures, oldest first.
CONNECTIONS: Final = pytest.StashKey["list[virConnect]"]()

CONSOLE_LINES: Final = 20
QMP_MESSAGES: Final = 20

#: Lists the files below its directory that the plugin wrote, a line each; only these are removed by the next run.
LIST: Final = ".embedvm-output"

_UNSAFE: Final = re.compile(r"[^\w.\-\[\]]+")
_LONGEST_NAME: Final = 150


def clean(output: Path) -> None:
    """Remove what an earlier run kept in OUTPUT, and directories that are empty then; nothing else.

    :raise OSError: when OUTPUT is no directory, or something in it cannot be removed.
    """
    try:
        names = (output / LIST).read_text().splitlines()
    except FileNotFoundError:
        return
    folders = set()
    for name in names:
        path = output / name
        if name and ".." not in path.parts and not Path(name).is_absolute():
            path.unlink(missing_ok=True)
            folders |= {path.parent, path.parent.parent}
    (output / LIST).unlink()
    for folder in sorted({*folders, output}, key=lambda path: len(path.parts), reverse=True):
        if folder.is_relative_to(output):
            with contextlib.suppress(OSError):  # not empty: what is in it is the user's
                folder.rmdir()


def collect(item: pytest.Item, report: pytest.TestReport) -> None:
    """Add the evidence of each machine of ITEM to REPORT, and keep the files."""
    from pytest_embedvm.api.evidence import evidence
    from pytest_embedvm.libvirt import libvirtError

    connections: list[virConnect] = item.stash.get(CONNECTIONS, [])
    seen: Counter[str] = Counter()
    for connection in connections:
        try:
            machines = evidence(connection)
        except libvirtError as error:
            report.sections.append(("embedvm: no evidence", str(error)))
            continue
        for name, found in machines.items():
            report.sections += _sections(name, found)
            seen[name] += 1
            machine = name if seen[name] == 1 else f"{name}-{seen[name]}"
            report.sections.append((f"embedvm: {name}: files", _kept(item, report.when or "", machine, found)))


def _sections(name: str, found: Evidence) -> list[tuple[str, str]]:
    sections = []
    template = _console_of_template(found)
    before = _text(template) if template else ""
    for alias, path in found.console_logs.items():
        lines = (before + _text(path)).splitlines()
        before = ""  # a template has the first console's alone
        if lines:
            tail = "\n".join(lines[-CONSOLE_LINES:])
            sections.append((f"embedvm: {name}: last {CONSOLE_LINES} lines of console {alias}", tail))
    if found.qemu_log_tail.strip():
        sections.append((f"embedvm: {name}: QEMU's standard error", found.qemu_log_tail.strip()))
    if found.qmp_trace:
        tail = "\n".join(found.qmp_trace[-QMP_MESSAGES:])
        sections.append((f"embedvm: {name}: last {QMP_MESSAGES} QMP messages", tail))
    if found.captures:
        sections.append((f"embedvm: {name}: captures", "\n".join(found.captures.values())))
    if found.command_line:
        sections.append((f"embedvm: {name}: command line", found.command_line))
    return sections


def _kept(item: pytest.Item, when: str, machine: str, found: Evidence) -> str:
    """The folder with what was FOUND, whole; or why there is none."""
    output = item.config.stash[SETTINGS].output
    folder = Path(_safe(item.nodeid), _safe(f"{machine}-{when}" if when == "setup" else machine))
    try:
        _keep(output, folder, found)
    except OSError as error:
        return f"they cannot be kept in --embedvm-output {output}: {error.strerror}"
    return str(output / folder)


def _keep(output: Path, folder: Path, found: Evidence) -> None:
    texts = {"command-line.sh": found.command_line, "qmp.log": "\n".join(found.qmp_trace)}
    copies = {"qemu.log": found.log, **{f"{alias}.log": path for alias, path in found.console_logs.items()}}
    copies |= {path.name: path for path in found.captures}
    template = _console_of_template(found)
    if template is not None:
        copies["template-console.log"] = template
    make_private_directory(output / folder)
    with (output / LIST).open("a") as listed:
        # Listed before it is there; one write, so that the lines of several workers do not mix.
        listed.write("".join(f"{folder / name}\n" for name in (*texts, *copies)))
    for name, text in texts.items():
        (output / folder / name).write_text(text + "\n" if text else "")
    for name, path in copies.items():
        if path.is_file():
            shutil.copyfile(path, output / folder / name)


def _console_of_template(found: Evidence) -> Path | None:
    """What the first console of a clone's template had shown when it was stopped; None where it is no clone."""
    from pytest_embedvm.guest.templates.building import CONSOLE

    return found.template / CONSOLE if found.template is not None else None


def _safe(name: str) -> str:
    """NAME as one component of a path that is pleasant to type."""
    return _UNSAFE.sub("-", name).strip(".-")[-_LONGEST_NAME:] or "unnamed"


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace").replace("\r", "")
    except FileNotFoundError:
        return ""
