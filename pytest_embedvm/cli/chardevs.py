"""The consoles of a running VM: which there are, where each is logged, at which terminal it takes what is typed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from pytest_embedvm.cli.errors import CommandFailed
from pytest_embedvm.cli.machines import Machine


@dataclass(frozen=True)
class Console:
    """A console. `alias` is the device's, as `serial0`; `kind` its backend's, as `pty`, whose terminal is `path`."""

    alias: str
    kind: str
    path: Path | None
    log: Path


def console(machine: Machine, alias: str | None = None) -> Console:
    """The console of MACHINE with this ALIAS, or the first.

    :raise CommandFailed: when there is none; it lists those there are.
    """
    found = list(_consoles(machine))
    for one in found:
        if alias in (None, one.alias):
            return one
    if not found:
        raise CommandFailed(f"domain '{machine.name}' has no console with a log")
    raise CommandFailed(f"domain '{machine.name}' has no console {alias}, but {', '.join(c.alias for c in found)}")


def _consoles(machine: Machine) -> Iterator[Console]:
    # S314: our own driver wrote this document.
    devices = ElementTree.fromstring(machine.xml).findall("devices/*")  # noqa: S314
    named = {alias.get("name"): device for device in devices if (alias := device.find("alias")) is not None}
    for name, log in machine.console_logs.items():
        if (device := named.get(name)) is not None:
            source = device.find("source")
            path = source.get("path") if source is not None else None
            yield Console(name, device.get("type", ""), Path(path) if path else None, log)
