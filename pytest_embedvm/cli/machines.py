"""What lives: the roots of this user and their VMs, whoever has them open. Nothing is locked, nobody is asked."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_embedvm.cli.errors import CommandFailed

if TYPE_CHECKING:
    from pytest_embedvm.driver.lock import Holder

#: In the environment of each VM's QEMU: its runtime directory, which names root and id.
_HOME: Final = re.compile(r"HOME=(/.*)/lib/qemu/domain-(\d+)-[^/]+")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A running VM."""

    root: Path
    name: str
    id: int
    pid: int
    #: When its QEMU began, in clock ticks since the host's boot: with `pid`, the process's identity.
    start_time: int
    state: str

    @property
    def age_s(self) -> float:
        uptime = float(Path("/proc/uptime").read_text().split()[0])
        return uptime - self.start_time / os.sysconf("SC_CLK_TCK")

    @property
    def door(self) -> Path:
        """The socket of its second monitor."""
        return Path(_environment(self.pid).get("HOME", "/nonexistent"), "debug.sock")

    def pidfd(self) -> int:
        """A descriptor of its QEMU, and of no other process that has the number by now.

        :raise CommandFailed: when it has ended.
        """
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            raise CommandFailed(f"domain '{self.name}' has ended") from None
        if start_time(self.pid) == self.start_time and _vm_of(self.pid) == (self.root, self.id):
            return descriptor
        os.close(descriptor)
        raise CommandFailed(f"domain '{self.name}' has ended; process {self.pid} is another one now")

    def kill(self) -> None:
        """SIGKILL its QEMU, and nothing else.

        :raise CommandFailed: when it has ended.
        """
        descriptor = self.pidfd()
        try:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        finally:
            os.close(descriptor)


@dataclass(frozen=True, kw_only=True)
class Root:
    """A root that a process has open, or in which a VM runs."""

    #: As `embedvm ps` numbers them, from 1 on, the one opened first first.
    number: int
    path: Path
    #: How the driver's logs call it.
    label: str
    #: Who has it open; None: nobody, its VMs were kept.
    holder: Holder | None
    machines: tuple[Machine, ...]


def roots() -> list[Root]:
    """Every root of this user that lives: those of the index, and those that only their VMs tell of."""
    from pytest_embedvm.driver import index

    known = [entry.path for entry in reversed(index.roots())]
    paths = dict.fromkeys((*known, *sorted(_roots_of_processes())))
    living = [root for root in map(look, paths) if root.holder or root.machines]
    return [dataclasses.replace(root, number=number) for number, root in enumerate(living, 1)]


def look(path: Path) -> Root:
    """The root at PATH."""
    from pytest_embedvm.driver.logs import label

    machines = sorted(_machines(path), key=lambda machine: machine.id)
    return Root(number=0, path=path, label=label(path), holder=_holder(path), machines=tuple(machines))


def _holder(path: Path) -> Holder | None:
    from pytest_embedvm.driver.lock import Holder, holder

    try:
        return holder(path / "run/qemu/driver.pid")
    except OSError:  # somebody has it, or had it, of whom this user may know nothing
        return Holder(None, "") if path.exists() else None


def _roots_of_processes() -> Iterator[Path]:
    """The roots in which VMs of this user run, whether or not the index knows them."""
    for process in Path("/proc").iterdir():
        if process.name.isdecimal() and (found := _vm_of(int(process.name))):
            yield found[0]


def _machines(path: Path) -> Iterator[Machine]:
    for file in (path / "run/qemu").glob("*.pid"):
        with contextlib.suppress(OSError, ValueError):
            pid = int(file.read_text())
            began, found = start_time(pid), _vm_of(pid)
            if began is not None and found and found[0] == path:
                yield Machine(root=path, name=file.stem, id=found[1], pid=pid, start_time=began, state="running")


def start_time(pid: int) -> int | None:
    """When process PID began, in clock ticks since the host's boot; None when it has ended."""
    try:
        # proc(5): fields 3 and 22, counted after the parenthesized name
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _vm_of(pid: int) -> tuple[Path, int] | None:
    """The root and the id of the VM whose QEMU is process PID; None when it is no VM, or another user's."""
    found = _HOME.fullmatch(f"HOME={_environment(pid).get('HOME', '')}")
    return (Path(found[1]), int(found[2])) if found else None


def _environment(pid: int) -> dict[str, str]:
    try:
        data = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return {}
    words = (os.fsdecode(word).partition("=") for word in data.split(b"\0"))
    return {name: value for name, _, value in words}


def command_line(pid: int) -> list[str]:
    """The words of process PID; none when it has ended."""
    try:
        data = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return []
    return [os.fsdecode(word) for word in data.split(b"\0")[:-1]]
