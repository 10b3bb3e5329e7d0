"""What clones cost in memory while many are alive at once."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from bench.template import clone, private_root, qemu_pid

#: Where the memory is read, besides at the end.
STEPS = (1, 5, 10, 20, 30, 40)


class Alive(NamedTuple):
    """`clones` are alive: what belongs to them, and what the host has left; MB are 10^6 bytes."""

    clones: int
    #: The QEMUs' PSS: what several share, the template's pages among it, counts a part for each.
    pss_mb: float
    #: By how much the host's MemAvailable is less than before the first: what it truly costs, and what others do.
    available_mb: float


def alive(template: Path, count: int) -> list[Alive]:
    """Start COUNT clones of TEMPLATE, each of which runs a command, and look at the memory on the way."""
    seen: list[Alive] = []
    with private_root() as (root, connection):
        before, names = available(), []
        for number in range(1, count + 1):
            names.append(f"clone-{number}")
            vm = clone(connection, template, names[-1])
            vm.run("true")
            vm.close()
            if number in STEPS or number == count:
                used = sum(pss(qemu_pid(root, name)) for name in names)
                seen.append(Alive(number, used / 1e6, (before - available()) / 1e6))
    return seen


def pss(pid: int) -> int:
    """Bytes: a process's own pages, and its part of those that it shares."""
    return _kilobytes(Path(f"/proc/{pid}/smaps_rollup"), "Pss:")


def available() -> int:
    """Bytes that the host could give without swapping."""
    return _kilobytes(Path("/proc/meminfo"), "MemAvailable:")


def _kilobytes(file: Path, word: str) -> int:
    lines = (line.split() for line in file.read_text().splitlines())
    return next(int(words[1]) for words in lines if words[0] == word) * 1024
