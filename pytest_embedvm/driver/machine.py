"""A domain that is alive: its definition, its state, and what can be done to it."""

from __future__ import annotations

import contextlib
import signal
import uuid
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final, Literal

from pytest_embedvm.constants import (
    DomainCreateFlags,
    DomainDestroyFlagsValues,
    DomainEventStartedDetailType,
    DomainEventSuspendedDetailType,
    DomainEventType,
    DomainMetadataType,
    DomainPausedReason,
    DomainQemuMonitorCommandFlags,
    DomainShutoffReason,
    DomainState,
    ErrorDomain,
)
from pytest_embedvm.domain.model import Completed, Domain
from pytest_embedvm.driver import channels, defining, metadata, passthrough, persist, power, stop
from pytest_embedvm.driver.client import Client
from pytest_embedvm.driver.console import ConsoleLink
from pytest_embedvm.driver.events import Event, Lifecycle, MetadataChange
from pytest_embedvm.driver.evidence import Evidence, collect
from pytest_embedvm.driver.job import Job
from pytest_embedvm.driver.long_job import LongJob
from pytest_embedvm.driver.roots.root import Root
from pytest_embedvm.driver.running import Running
from pytest_embedvm.driver.saving.restore import start_from_managed
from pytest_embedvm.driver.start import Adaptation, start_as
from pytest_embedvm.driver.state import Ending, Status, paused, shutoff
from pytest_embedvm.errors import NoDomain, OperationInvalid
from pytest_embedvm.qemu.process import Process

if TYPE_CHECKING:
    from pytest_embedvm.driver.driver import Driver
    from pytest_embedvm.driver.templates.template import Cloned

Action = Literal["on_poweroff", "on_reboot", "on_crash"]


class Machine:
    """One domain of a root, from the moment it is created or defined until it is neither.

    `definition` is what the next start will have; `live` what runs. Every method must run on the loop thread.
    """

    #: As in libvirt, whose QEMU driver never sets the flag (measured: a redefinition does not).
    updated: Final = False

    def __init__(self, driver: Driver, definition: Domain, *, persistent: bool) -> None:
        self._driver = driver
        self.definition = definition
        self.live: Completed | None = None
        self.persistent = persistent
        self._status = shutoff(DomainShutoffReason.UNKNOWN)
        #: Whose end ends it: the connection that started it with AUTO_DESTROY.
        self.owner: Client | Driver | None = None
        self.job = Job()
        self.long_job = LongJob()
        #: A QEMU that is being started and does not answer yet.
        self._spawned: Process | None = None
        #: Whether `definition` was ever a persistent one; it stays one for XML after an undefine, as libvirt's newDef.
        self.redefined = persistent
        self._running: Running | None = None
        self._last: Running | None = None

    # What it is

    @property
    def name(self) -> str:
        return self.definition.name

    @property
    def uuid(self) -> uuid.UUID:
        if self.definition.uuid is None:  # complete() gives every domain one
            raise NoDomain(f"domain '{self.name}' has no uuid")
        return self.definition.uuid

    @property
    def driver(self) -> Driver:
        return self._driver

    @property
    def running(self) -> Running | None:
        """Its QEMU; None while it does not run."""
        return self._running

    @property
    def cloned(self) -> Cloned | None:
        """What it was cloned from, if it was, also when its QEMU has ended."""
        return self._last.cloned if self._last else None

    @property
    def root(self) -> Root:
        return self._driver.root

    @property
    def id(self) -> int:
        """The number of this run; -1 while it does not run."""
        return self._running.id if self._running else -1

    @property
    def active(self) -> bool:
        return self._running is not None

    @property
    def starting(self) -> bool:
        """Whether a start, or another job, is under way."""
        return self.job.locked()

    @property
    def status(self) -> Status:
        return self._status

    @status.setter
    def status(self, status: Status) -> None:
        self._status = status
        self._driver.recordings.mark(self.name)

    @property
    def kept(self) -> bool:
        """Whether it runs, and outlives this process."""
        return self._running is not None and self._running.kept and self._running.announced and self.owner is None

    @property
    def autodestroy(self) -> bool:
        return self.owner is not None

    @property
    def state(self) -> tuple[DomainState, int]:
        """The state and its reason, of one that is not gone."""
        self._require_there()
        return self.status.state, self.status.reason

    def action(self, what: Action) -> str:
        """What the running domain asks to be done: `destroy`, `restart` or `preserve`."""
        # libvirt: virDomainDefParseBootOptions' defaults
        chosen = getattr(self.live or self.definition, what)
        return chosen or ("restart" if what == "on_reboot" else "destroy")

    def info(self) -> tuple[DomainState, int, int, int, int]:
        """State, most and present memory in KiB, number of CPUs, CPU time used by QEMU in nanoseconds."""
        self._require_there()
        domain = self.live or self.definition
        cpus = domain.vcpu.current or domain.vcpu.maximum
        used = self._running.cpu_time_ns if self._running else 0
        return self.status.state, domain.memory, domain.current_memory or domain.memory, cpus, used

    def xml(self, flags: int = 0) -> str:
        """The domain as XML: what runs, or with INACTIVE what the next start will have."""
        self._require_there()
        return defining.text(self, flags)

    # Start and end

    async def create(
        self,
        flags: int = 0,
        client: Client | None = None,
        domain: Completed | None = None,
        adaptation: Adaptation | None = None,
    ) -> None:
        """Start it, and return when its QEMU runs (or is paused, with START_PAUSED).

        :param client: the connection that wants it; with START_AUTODESTROY its end ends it.
        :param domain: what runs this time, instead of the definition.
        :param adaptation: what is different about this start.
        :raise OperationInvalid: when it is running.
        :raise InternalError: when QEMU ends instead; with its own words.
        """
        async with self._job("start"):
            if self.active:
                raise OperationInvalid("domain is already running")
            wait = bool(flags & DomainCreateFlags.START_PAUSED)
            if domain is None and await start_from_managed(self, flags, client):
                return
            # What was completed a moment ago is not completed again: that would find the same, and takes longer.
            live = Completed(domain.copy()) if domain else None
            await self.bring_up(live, flags, client, wait=wait, adaptation=adaptation)
            self.emit_lifecycle(DomainEventType.STARTED, DomainEventStartedDetailType.BOOTED)
            if wait:
                self.status = paused(DomainPausedReason.USER)
                self.emit_lifecycle(DomainEventType.SUSPENDED, DomainEventSuspendedDetailType.PAUSED)
            if self._running:  # else it is gone already
                self._running.announce()

    async def bring_up(
        self,
        live: Completed | None,
        flags: int,
        client: Client | None,
        *,
        wait: bool,
        adaptation: Adaptation | None = None,
    ) -> None:
        """Start QEMU for LIVE, or for the definition; the caller has the job. A failure leaves nothing.

        :param wait: the guest does not run yet.
        :param adaptation: what is different about this start: the guest comes from elsewhere, its memory is in a file.
        """
        try:
            live = live or await self._driver.complete(self.definition)
            await start_as(self, live, flags, client or Client(), wait=wait, adaptation=adaptation)
        except BaseException:
            failed = self._running
            self._forget_run(shutoff(DomainShutoffReason.FAILED))
            if failed:
                failed.ended.set()  # a destroy may wait for it
            raise
        finally:
            self._spawned = None
        if flags & DomainCreateFlags.START_AUTODESTROY:
            self.owner = client or self._driver

    def adopted(self, running: Running, live: Completed, status: Status) -> None:
        """There is a QEMU from before, as it was on record."""
        self.live, self._last = live, running
        self.started(running)
        self.status = status

    def spawned(self, running: Running) -> None:
        """There is a QEMU; what it says from here on is evidence, should it not get as far as `started`."""
        self._last, self._spawned = running, running.process

    def started(self, running: Running) -> None:
        """QEMU answers; from here on its events count."""
        self._running = running
        running.agent = channels.agent_channel(running.ports)
        self.status = paused(DomainPausedReason.STARTING_UP)

    def stopped(self, ending: Ending) -> None:
        """QEMU is gone, and all that belonged to it."""
        self._forget_run(shutoff(ending.reason))
        self.emit_lifecycle(DomainEventType.STOPPED, ending.detail)
        self._driver.recordings.end(self.name)
        if not self.persistent:
            self._driver.registry.remove(self)

    def _forget_run(self, status: Status) -> None:
        self._running = self.live = self.owner = None
        self.status = status
        if not self.persistent:
            defining.forget(self)
        self._driver.host.clear_places(self.name)

    async def destroy(self, flags: int = 0) -> None:
        """End it now; with GRACEFUL, let QEMU write its images back first.

        :raise OperationInvalid: when it is not running.
        """
        self._require_there()
        if self.starting and not self.active and await self._end_start():
            return
        graceful = bool(flags & DomainDestroyFlagsValues.GRACEFUL)
        running = self._require_active()
        await stop.destroy(self, running, graceful=graceful)
        if flags & DomainDestroyFlagsValues.REMOVE_LOGS:
            running.log.unlink(missing_ok=True)

    async def _end_start(self) -> bool:
        """End a start that is under way; whether that ended it, so that nothing is left to be destroyed."""
        spawned = self._spawned
        if spawned:
            spawned.send_signal(signal.SIGKILL)
        async with self.job.hold("destroy"):
            return spawned is not None and not self.active

    async def shutdown(self, flags: int = 0) -> None:
        """Ask the guest to power off; returns at once for ACPI, when the guest obeys for the agent."""
        await power.shutdown(self, self._require_active(ErrorDomain.QEMU), flags)

    async def reboot(self, flags: int = 0) -> None:
        """Ask the guest to reboot; returns at once for ACPI, when the guest obeys for the agent."""
        await power.reboot(self, self._require_active(), flags)

    async def reset(self) -> None:
        async with self._running_job("reset") as running:
            await power.reset(self, running)

    async def suspend(self) -> None:
        async with self._running_job("suspend") as running:
            await power.suspend(self, running)

    async def resume(self) -> None:
        async with self._running_job("resume") as running:
            await power.resume(self, running)

    # Its definition

    async def undefine(self, flags: int = 0) -> None:
        """Forget the definition; a running machine runs on as a transient one."""
        async with self._job("undefine"):
            defining.undefine(self, flags)

    async def rename(self, new: str) -> None:
        """Give it another name."""
        async with self._job("rename"):
            defining.rename(self, new)

    def metadata(self, kind: int, uri: str | None, flags: int = 0) -> str:
        """Title, description, or the metadata element of namespace URI.

        :raise NoMetadata: when there is none.
        """
        self._require_there()
        return metadata.get(defining.affected(self, flags)[0], kind, uri)

    async def set_metadata(self, kind: int, text: str | None, key: str | None, uri: str | None, flags: int = 0) -> None:
        """Set one of them, or remove it with None."""
        async with self._job("set_metadata"):
            affected = defining.affected(self, flags)
            for domain in affected:
                metadata.put(domain, kind, text, key, uri)
            if self.persistent and self.definition in affected:
                persist.save(self.root, self.definition)
            self._driver.recordings.mark(self.name)
            self.emit(MetadataChange(DomainMetadataType(kind), uri))

    # What it is asked

    async def monitor_command(self, text: str, flags: int = 0) -> str:
        """QEMU's reply to a QMP message, or with HMP to a line for the human monitor."""
        async with self._running_job("monitor_command") as running:
            hmp = bool(flags & DomainQemuMonitorCommandFlags.HMP)
            return await (passthrough.hmp if hmp else passthrough.qmp)(running.monitor, text)

    async def agent_command(self, text: str, timeout: int, flags: int = 0) -> str:
        """The guest agent's whole reply to the message TEXT; TIMEOUT is seconds or one of libvirt's words."""
        return await passthrough.agent(power.require_agent(self, self._require_active()), text, timeout)

    async def open_console(self, device: str | None, *, force: bool = False) -> ConsoleLink:
        """The console, or serial or parallel port, with this alias, or the first; errors as there."""
        async with self._running_job("open_console") as running:
            return await channels.open_console(self._require_live(), running, device, force=force)

    async def open_channel(self, name: str | None, *, force: bool = False) -> ConsoleLink:
        """The channel with this alias or name, or the first; errors as there."""
        async with self._running_job("open_channel") as running:
            return await channels.open_channel(self._require_live(), running, name, force=force)

    async def flush(self) -> None:
        """Return when what was captured of it is in its files."""
        for capture in self._last.captures if self._last else ():
            await capture.flush()

    def evidence(self) -> Evidence:
        return collect(self._last, self.root.log_path(self.name))

    # Events

    def emit(self, event: Event) -> None:
        self._driver.emit(self, event)

    def emit_lifecycle(self, event: DomainEventType, detail: int) -> None:
        self.emit(Lifecycle(event, detail, self.name))

    # What must be so

    def _require_there(self) -> None:
        self._driver.require_own_process()
        if self not in self._driver.registry:
            # libvirt: qemuDomainObjFromDomain
            raise NoDomain(f"no domain with matching uuid '{self.uuid}' ({self.name})")

    def _require_active(self, origin: ErrorDomain = ErrorDomain.DOMAIN) -> Running:
        self._require_there()
        if self._running is None:
            raise OperationInvalid("domain is not running", origin=origin)
        return self._running

    def _require_live(self) -> Completed:
        self._require_active()
        if self.live is None:  # it is set before QEMU is started
            raise OperationInvalid("domain is not running")
        return self.live

    @contextlib.asynccontextmanager
    async def _job(self, what: str) -> AsyncIterator[None]:
        self._require_there()
        async with self.job.hold(what):
            self._require_there()  # it may have gone while others had their turn
            yield

    @contextlib.asynccontextmanager
    async def changing(self, what: str) -> AsyncIterator[Running | None]:
        """Hold the job while the block runs; WHAT is what the others are told. Yields its QEMU, if it runs."""
        async with self._job(what):
            yield self._running

    @contextlib.asynccontextmanager
    async def _running_job(self, what: str) -> AsyncIterator[Running]:
        async with self._job(what):
            yield self._require_active()
