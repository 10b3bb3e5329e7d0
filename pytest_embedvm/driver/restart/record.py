"""What is on record of a machine, as data."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest_embedvm.domain.host import Volume
from pytest_embedvm.driver.ports import Port
from pytest_embedvm.driver.state import Status
from pytest_embedvm.qemu.identity import Identity


@dataclass(frozen=True)
class BlockJob:
    """A block job that was begun and whose end nobody was told: QEMU's name of it, and the disk's target."""

    name: str
    disk: str


@dataclass(frozen=True)
class Companion:
    """A program that runs beside a QEMU."""

    name: str
    identity: Identity


@dataclass(frozen=True)
class Pending:
    """An event that was emitted and not delivered: its kind, and its fields as text."""

    kind: str
    fields: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Record:
    """All that is on record of one machine."""

    name: str
    uuid: uuid.UUID
    id: int
    status: Status
    #: Its QEMU; None once that is gone, and only events are left to be told.
    process: Identity | None
    #: When its QEMU was started, in seconds since 1970.
    started: float
    #: Whether it outlives who started it.
    kept: bool
    #: Whether somebody was told that it had started.
    announced: bool
    fake_reboot: bool
    log: Path
    log_start: int
    argv: tuple[str, ...]
    ports: tuple[Port, ...]
    #: The files, sockets too, that have to be removed in the end.
    files: tuple[Path, ...]
    companions: tuple[Companion, ...]
    jobs: tuple[BlockJob, ...]
    #: Disk nodes that stand in the XML because an image's header said so, by their number.
    detected: tuple[int, ...]
    #: What the volumes of storage pools are that its images are in, by the images' numbers.
    volumes: tuple[tuple[int, Volume], ...]
    events: tuple[Pending, ...]
    #: The live XML.
    domain: str

    @property
    def alive(self) -> bool:
        """Whether its QEMU runs at this moment."""
        return self.process is not None and self.process.alive
