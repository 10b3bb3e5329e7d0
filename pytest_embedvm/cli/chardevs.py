"""The consoles of a running VM: which there are, where each is logged, at which terminal it takes what is typed."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pytest_embedvm.cli.errors import CommandFailed
from pytest_embedvm.cli.machines import Machine, command_line

#: A comma of QEMU's key=value syntax; one that is doubled is part of the value.
_COMMA: Final = re.compile(r"(?<!,),(?!,)")


@dataclass(frozen=True)
class Console:
    """A console; `alias` is the device's, as `serial0`."""

    alias: str
    kind: str
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
    words = command_line(machine.pid)
    for option, value in itertools.pairwise(words):
        if option != "-chardev":
            continue
        kind, *pairs = _COMMA.split(value)
        props: Mapping[str, str] = dict(pair.replace(",,", ",").split("=", 1) for pair in pairs)
        if "logfile" in props:
            yield Console(props["id"].removeprefix("char"), kind, Path(props["logfile"]))
