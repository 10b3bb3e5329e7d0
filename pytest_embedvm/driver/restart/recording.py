"""When a machine is put on record: at each change of what others, or the next process, have to know of it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_embedvm.constants import DomainPausedReason
from pytest_embedvm.domain import block, definition
from pytest_embedvm.driver.hub import EventHub
from pytest_embedvm.driver.restart import pending, status
from pytest_embedvm.driver.restart.record import Companion, Pending, Record
from pytest_embedvm.driver.roots.root import Root
from pytest_embedvm.driver.secret.vault import Vault
from pytest_embedvm.driver.state import paused
from pytest_embedvm.errors import SystemFailure

if TYPE_CHECKING:
    from pytest_embedvm.driver.machine import Machine
    from pytest_embedvm.driver.running import Running

STARTING: Final = paused(DomainPausedReason.STARTING_UP)
#: How much later than it changed a run may be on record that ends with us: no other process takes it over.
LATE_S: Final = 0.05


class Recordings:
    """The records of one root's machines: one for each name."""

    def __init__(self, root: Root, events: EventHub) -> None:
        self._root = root
        self._events = events
        self._of: dict[str, Recording] = {}

    def new(self, machine: Machine, *, kept: bool) -> Recording:
        """A record in the place of an earlier one, which is written no more."""
        earlier = self._of.get(machine.name)
        if earlier:
            earlier.close()
        self._of[machine.name] = Recording(machine, self._root.status_path(machine.name), self._events, kept=kept)
        return self._of[machine.name]

    def end(self, name: str) -> None:
        """The QEMU of NAME is gone."""
        if name in self._of:
            self._of[name].end()

    def mark(self, name: str) -> None:
        """Something changed in what is on record of NAME."""
        if name in self._of:
            self._of[name].mark()


class Recording:
    """The record of one run of a machine, from before its QEMU begins until nothing more is to be told of it."""

    def __init__(self, machine: Machine, path: Path, events: EventHub, *, kept: bool) -> None:
        #: Whether the run is to outlive us.
        self.kept = kept
        self._machine = machine
        self._path = path
        self._events = events
        self._running: Running | None = None
        #: What stays on record of a run that has ended, until it is told.
        self._ended: Record | None = None
        self._due: asyncio.Handle | None = None
        self._closed = False

    def begin(self, running: Running) -> None:
        """Put the run on record, before anybody can have heard of it.

        :raise SystemFailure: when that cannot be written.
        """
        self._running = running
        status.write(self._path, self._record(running))

    def resume(self, running: Running) -> None:
        """Go on with the record of a run that another process began."""
        self._running = running

    def end(self) -> None:
        """Its QEMU is gone; the record goes as soon as everything is told."""
        if self._running is not None:
            self.only_tell(self._record(self._running))

    def only_tell(self, record: Record) -> None:
        """Keep RECORD, whose QEMU is gone, until everything is told."""
        self._ended = dataclasses.replace(record, process=None, status=self._machine.status, companions=(), jobs=())
        self.flush()

    def mark(self) -> None:
        """Something changed: write it, once all that changes together has changed.

        A start, a resume and what the guest does next change it several times in a few milliseconds, and each writing
        costs as much as one of them: what is not to outlive us is written when they are over.
        Of a start that is under way nothing more is on record than that: who finds it ends it, whatever its state.
        """
        starting = self._running is not None and not self._running.announced and self._ended is None
        if self._due is None and not self._closed and not starting:
            loop = asyncio.get_running_loop()
            self._due = loop.call_soon(self.flush) if self.kept else loop.call_later(LATE_S, self.flush)

    def flush(self) -> None:
        """Write what is the case now. That it cannot be written is in the log."""
        if self._due is not None:
            self._due.cancel()
            self._due = None
        if self._closed:
            return
        if self._ended is not None and not self._undelivered(self._ended.kept):
            self.remove()
            return
        try:
            self._write()
        except SystemFailure as error:
            self._machine.root.log.about(self._machine.name).warning("it cannot be put on record: %s", error)

    def _write(self) -> None:
        if self._ended is not None:
            status.write(self._path, dataclasses.replace(self._ended, events=self._undelivered(self._ended.kept)))
        elif self._running is not None:
            status.write(self._path, self._record(self._running))

    def _undelivered(self, kept: bool) -> tuple[Pending, ...]:
        return tuple(map(pending.write, self._events.undelivered(self._machine) if kept else ()))

    def remove(self) -> None:
        """Take it off the record."""
        self.close()
        with contextlib.suppress(OSError):  # the root itself may be gone
            self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Leave the record as it is from here on."""
        self._closed = True
        if self._due is not None:
            self._due.cancel()

    def _record(self, running: Running) -> Record:
        machine = self._machine
        domain = machine.live or machine.definition
        return Record(
            name=machine.name,
            uuid=machine.uuid,
            id=running.id,
            status=machine.status if machine.active else STARTING,
            process=running.process.identity,
            started=running.started,
            kept=running.kept and machine.owner is None,
            announced=running.announced,
            fake_reboot=running.fake_reboot,
            log=running.log,
            log_start=running.log_start,
            argv=running.argv,
            ports=tuple(running.ports),
            files=tuple(running.files),
            companions=tuple(Companion(c.name, c.identity) for c in running.companions),
            jobs=tuple(running.jobs.values()),
            detected=tuple(block.detected(domain)),
            volumes=tuple(block.found(domain)),
            events=self._undelivered(running.kept),
            domain=definition.format(definition.spelled(domain, Vault(machine.root).conceal)),
        )
