"""What is known about a machine when a test fails."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_embedvm.driver.running import Running
from pytest_embedvm.driver.start import command_line

if TYPE_CHECKING:
    from pytest_embedvm.driver.driver import Driver

TAIL_BYTES: Final = 16 * 1024


@dataclass(frozen=True)
class Evidence:
    """Of the last start of a machine, running or not. Paths stay valid until the root is purged."""

    #: As a shell would take it; empty if the machine was never started.
    command_line: str
    #: The last 16 KiB of what QEMU wrote to its standard output and error.
    qemu_log_tail: str
    #: The last messages of the monitor in both directions, oldest first.
    qmp_trace: list[str]
    #: What the guest wrote to its consoles, by device alias.
    console_logs: Mapping[str, Path]
    #: What was captured of its cards, and in a sentence what each holds.
    captures: Mapping[Path, str]
    log: Path
    #: The directory of the template that it went on from.
    template: Path | None = None


async def of_all(driver: Driver) -> dict[str, Evidence]:
    """What is known of each machine by its name, those that are gone included."""
    machines = (*driver.registry.gone, *driver.registry)
    for machine in machines:
        await machine.flush()
    return {machine.name: machine.evidence() for machine in machines}


def collect(last: Running | None, log: Path) -> Evidence:
    """What is known of the run LAST; if there was none, what LOG holds."""
    if last is None:
        return Evidence("", tail(log), [], {}, {}, log)
    return Evidence(
        command_line=command_line(last.argv, {}),
        qemu_log_tail=tail(last.log, last.log_start),
        qmp_trace=last.trace,
        console_logs={port.alias: port.log for port in last.ports if port.log},
        captures={capture.path: capture.summary for capture in last.captures},
        log=last.log,
        template=last.cloned.template.folder if last.cloned else None,
    )


def tail(path: Path, start: int = 0) -> str:
    """The end of the file at PATH, from START on; empty if there is no such file."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(start, size - TAIL_BYTES))
            return file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
