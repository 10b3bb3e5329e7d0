"""What lives: the roots of this user and their VMs, whoever has them open. Nothing is locked, nobody is asked."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from pytest_embedvm.cli.errors import CommandFailed

if TYPE_CHECKING:
    from pytest_embedvm.driver.restart.record import Record
    from pytest_embedvm.driver.roots.lock import Holder
    from pytest_embedvm.qemu.identity import Identity

#: HOME in the environment of each VM's QEMU: its runtime directory.
_HOME: Final = re.compile(r"(/.*)/lib/qemu/domain-\d+-[^/]+")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A running VM, as its driver has put it on record."""

    root: Path
    name: str
    id: int
    process: Identity
    #: libvirt's words, as `paused` and `user`.
    state: str
    reason: str
    #: When its QEMU was started, in seconds since 1970.
    started: float
    #: Whether it outlives who started it.
    kept: bool
    #: The live XML.
    xml: str
    #: What its consoles have said, by alias.
    console_logs: Mapping[str, Path]

    @classmethod
    def of(cls, root: Path, record: Record, process: Identity) -> Self:
        from pytest_embedvm.driver.secret.vault import without_passwords

        return cls(
            root=root,
            name=record.name,
            id=record.id,
            process=process,
            state=record.status.state.name.lower(),
            reason=getattr(record.status.reason, "name", "unknown").lower().replace("_", " "),
            started=record.started,
            kept=record.kept,
            xml=without_passwords(record.domain),
            console_logs={port.alias: port.log for port in record.ports if port.log},
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def door(self) -> Path:
        """The socket of its second monitor."""
        from pytest_embedvm.driver.start import DOOR

        return Path(_environment(self.pid).get("HOME", "/nonexistent"), DOOR)

    def pidfd(self) -> int:
        """A descriptor of its QEMU, and of no other process that has the number by now.

        :raise CommandFailed: when it has ended.
        """
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            raise CommandFailed(f"domain '{self.name}' has ended") from None
        if self.process.alive and _root_of(self.pid) == self.root:
            return descriptor
        os.close(descriptor)
        raise CommandFailed(f"domain '{self.name}' has ended; process {self.pid} is another one now")


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
    from pytest_embedvm.driver.roots import index

    known = [entry.path for entry in reversed(index.roots())]
    paths = dict.fromkeys((*known, *sorted(_roots_of_processes())))
    living = [root for root in map(look, paths) if root.holder or root.machines]
    return [dataclasses.replace(root, number=number) for number, root in enumerate(living, 1)]


def look(path: Path) -> Root:
    """The root at PATH."""
    from pytest_embedvm.driver.logs import label

    return Root(number=0, path=path, label=label(path), holder=_holder(path), machines=tuple(_machines(path)))


def _machines(path: Path) -> Iterator[Machine]:
    from pytest_embedvm.driver.restart.status import machines_of

    for record in machines_of(path):
        if record.process and _root_of(record.process.pid) == path:
            yield Machine.of(path, record, record.process)


def _holder(path: Path) -> Holder | None:
    from pytest_embedvm.driver.roots.lock import Holder, holder

    try:
        return holder(path / "run/qemu/driver.pid")
    except OSError:  # somebody has it, or had it, of whom this user may know nothing
        return Holder(None, "") if path.exists() else None


def _roots_of_processes() -> Iterator[Path]:
    """The roots in which VMs of this user run, whether or not the index knows them."""
    for process in Path("/proc").iterdir():
        if process.name.isdecimal() and (root := _root_of(int(process.name))):
            yield root


def _root_of(pid: int) -> Path | None:
    """The root of the VM whose QEMU is process PID; None when it is no VM, or another user's."""
    found = _HOME.fullmatch(_environment(pid).get("HOME", ""))
    return Path(found[1]) if found else None


def _environment(pid: int) -> dict[str, str]:
    try:
        data = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return {}
    words = (os.fsdecode(word).partition("=") for word in data.split(b"\0"))
    return {name: value for name, _, value in words}
