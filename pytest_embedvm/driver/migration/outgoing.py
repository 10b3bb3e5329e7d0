"""A guest that goes elsewhere: begin, prepare, perform, finish, confirm; or it runs on as if nothing had been."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_embedvm.constants import (
    DomainJobOperation,
    DomainJobType,
    DomainPausedReason,
    DomainRunningReason,
    DomainState,
    ErrorDomain,
)
from pytest_embedvm.domain import abi, definition
from pytest_embedvm.domain.migratable import migratable
from pytest_embedvm.domain.model import Completed, Domain
from pytest_embedvm.driver import logs, persist, state, stop
from pytest_embedvm.driver.descriptors import connect_unix
from pytest_embedvm.driver.events import JobCompleted
from pytest_embedvm.driver.long_job import Stats
from pytest_embedvm.driver.migration import transfer
from pytest_embedvm.driver.migration.peer import Arrival, Offer, Peer
from pytest_embedvm.driver.migration.transfer import Transfer
from pytest_embedvm.driver.running import Running
from pytest_embedvm.errors import (
    EmbedError,
    InternalError,
    OperationAborted,
    OperationFailed,
    OperationInvalid,
    OperationTimeout,
)
from pytest_embedvm.loop import to_its_end
from pytest_embedvm.units import KIB, MIB

if TYPE_CHECKING:
    from pytest_embedvm.driver.machine import Machine

#: How long a guest may take to be sent; to that comes twice what its memory takes at the given bandwidth.
PERFORM_TIMEOUT_S: Final = 600.0
#: A destination that cannot load the guest hangs up, then says why, and ends.
LAST_WORDS_TIMEOUT_S: Final = 2.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a caller wants of a migration."""

    #: Whether the guest runs while it is sent.
    live: bool = False
    paused: bool = False
    #: Whether only the definition goes.
    offline: bool = False
    persist: bool = False
    undefine: bool = False
    #: Whether a guest that an I/O error pauses is kept.
    abort_on_error: bool = False
    #: QEMU's parameters for slowing the guest down; None: it is not.
    throttle: Mapping[str, int] | None = None
    #: MiB/s; None for what `set_max_speed` said.
    bandwidth: int | None = None
    #: Its name there; None: the same.
    name: str | None = None
    #: The domain it is to be there, for the host's side of its devices; None: the same.
    xml: str | None = None
    #: What is to be defined there; None: what is defined here.
    persistent_xml: str | None = None


async def migrate(machine: Machine, peer: Peer, plan: Plan) -> Arrival:
    """Move the guest of MACHINE, or with `plan.offline` its definition, to PEER.

    It is in one place at any moment. When this raises, it runs on here as before, or is paused if nobody can tell
    whether it runs there.

    :raise OperationInvalid: when it does not run, or is in a state that cannot be moved.
    :raise ConfigUnsupported: when `plan.xml` is another machine.
    :raise OperationFailed: when QEMU cannot send it.
    :raise OperationAborted: when somebody called it off.
    :raise OperationTimeout: when it takes too long.
    :raise EmbedError: what the destination raised.
    """
    async with machine.changing("migration out") as running:
        offer = await _begin(machine, plan)
        if plan.offline:
            await _prepare_offline(peer, offer)
            arrival = await peer.finish({})
            if plan.undefine and not machine.active:
                _forget_definition(machine)
                machine.driver.dismiss(machine)
            return arrival
        if running is None:
            raise OperationInvalid("domain is not running", origin=ErrorDomain.DOMAIN)
        return await _Migration(machine, running, peer, plan).run(offer)


async def _prepare_offline(peer: Peer, offer: Offer) -> None:
    try:
        await peer.prepare(offer)
    except BaseException:
        with contextlib.suppress(EmbedError):
            await peer.abandon()
        raise


async def _begin(machine: Machine, plan: Plan) -> Offer:
    """What the destination is offered."""
    # libvirt: qemuMigrationSrcBeginPhase
    if plan.offline and not plan.persist:
        raise OperationInvalid("offline migration must be specified with the persistent flag set")
    if not plan.offline and machine.status.state not in (DomainState.RUNNING, DomainState.PAUSED):
        raise OperationInvalid("domain is not running", origin=ErrorDomain.DOMAIN)
    if machine.running is not None and machine.running.jobs and not plan.offline:
        # libvirt: qemuMigrationSrcIsAllowed
        raise OperationInvalid("domain has active block job")
    driver = machine.driver
    source = machine.live or await driver.complete(machine.definition)
    target: Domain = source
    if plan.xml is not None:
        given = await driver.complete(definition.parse(plan.xml, on_unknown=partial(logs.unknown, machine.root.log)))
        abi.check(source, given, driver.host)
        target = given
    return Offer(
        xml=_spell(machine, target, plan.name),
        persistent_xml=await _persistent(machine, plan),
        nvram=_own_store(source),
        persist=plan.persist,
        paused=plan.paused or machine.status.state is DomainState.PAUSED,
        offline=plan.offline,
        autodestroy=machine.autodestroy,
    )


def _spell(machine: Machine, domain: Domain, name: str | None) -> str:
    return definition.format(migratable(domain, machine.driver.host, name), inactive=True)


async def _persistent(machine: Machine, plan: Plan) -> str | None:
    if not plan.persist:
        return None
    if plan.persistent_xml is not None:
        given = definition.parse(plan.persistent_xml, on_unknown=partial(logs.unknown, machine.root.log))
        return _spell(machine, await machine.driver.complete(given), plan.name)
    return _spell(machine, machine.definition, plan.name) if machine.redefined else None


def _own_store(domain: Completed) -> str | None:
    nvram = domain.os.nvram
    return nvram.path if nvram is not None and nvram.path is not None and Path(nvram.path).exists() else None


def _forget_definition(machine: Machine) -> None:
    # libvirt: qemuMigrationSrcConfirm, which tells nobody
    persist.remove(machine.root, machine.name)
    machine.persistent = False


class _Migration:
    """One migration of a running machine; the machine's job is the caller's."""

    def __init__(self, machine: Machine, running: Running, peer: Peer, plan: Plan) -> None:
        self._machine = machine
        self._running = running
        self._peer = peer
        self._plan = plan
        self._job = machine.long_job
        self._transfer = Transfer(stops_at_io_errors=plan.abort_on_error)
        self._was_running = machine.status.state is DomainState.RUNNING

    async def run(self, offer: Offer) -> Arrival:
        self._job.begin(DomainJobOperation.MIGRATION_OUT)
        self._running.transfer = self._transfer
        stats: Stats = {}
        try:
            await self._perform(await self._peer.prepare(offer))
            stats = self._job.stats(await transfer.query(self._running), DomainJobType.COMPLETED)
        except BaseException as error:
            await self._cancelled(error)
            raise
        finally:
            self._job.end()
        return await to_its_end(self._commit(stats))

    # Perform

    async def _perform(self, place: Path | None) -> None:
        """Send the guest to PLACE."""
        # libvirt: qemuMigrationSrcRun
        running, plan = self._running, self._plan
        self._refuse_if_aborted()
        if place is None:
            raise InternalError("the destination awaits no guest")
        running.pausing = DomainPausedReason.MIGRATION
        running.resuming = DomainRunningReason.MIGRATION_CANCELED
        bandwidth = plan.bandwidth or self._job.max_speed
        await transfer.set_up(running, throttle=plan.throttle, max_bandwidth=bandwidth * MIB)
        if self._was_running and not (plan.live and transfer.may_run(self._machine)):
            await running.monitor.execute("stop")
        await transfer.send(running, connect_unix(place))
        self._refuse_if_aborted()
        await self._wait(PERFORM_TIMEOUT_S + 2 * self._machine.info()[1] * KIB / (bandwidth * MIB))

    def _refuse_if_aborted(self) -> None:
        if self._job.aborted:
            raise OperationAborted("job 'migration out' canceled by client")

    async def _wait(self, timeout: float) -> None:
        """Wait until QEMU has sent everything."""
        done = await transfer.first(
            self._transfer.wait_over(),
            self._running.monitor.wait_closed(),
            self._peer.wait_lost(),
            timeout=timeout,
        )
        # libvirt: qemuMigrationJobCheckStatus, qemuMigrationAnyCompleted
        if self._transfer.io_error:
            raise OperationFailed("job 'migration out' failed due to I/O error")
        if self._transfer.status == transfer.COMPLETED:
            return
        if self._job.aborted or self._transfer.status == transfer.CANCELLED:
            raise OperationAborted("job 'migration out' canceled by client")
        match done:
            case 0:
                raise await self._failure()
            case 1:
                raise OperationFailed("domain is not running")
            case 2:
                raise OperationFailed("Lost connection to destination host")
        seen = f"last seen: migration {self._transfer.status}"
        raise OperationTimeout(f"migration of domain '{self._machine.name}' did not end within {timeout:g} s; {seen}")

    async def _failure(self) -> EmbedError:
        reason = (await transfer.query(self._running)).get("error-desc")
        failed = f"failed: {reason}" if reason else "unexpectedly failed"
        return OperationFailed(f"job 'migration out' {failed}")

    # Finish and confirm

    async def _commit(self, stats: Stats) -> Arrival:
        """Past this point the guest is there, or the destination says that it is not."""
        try:
            arrival = await self._peer.finish(stats)
        except BaseException as error:
            await self._cancelled(error)
            raise
        await self._leave()
        self._job.end(stats)
        self._machine.emit(JobCompleted(stats))
        return arrival

    async def _leave(self) -> None:
        """End the QEMU that the guest has left."""
        # libvirt: qemuMigrationSrcComplete
        if self._plan.undefine and self._machine.persistent:
            _forget_definition(self._machine)
        self._running.ending = state.MIGRATED
        self._running.process.send_signal(signal.SIGKILL)
        await self._running.wait_ended(stop.FORCED_TIMEOUT_S)

    # Neither

    async def _cancelled(self, error: BaseException) -> None:
        """Let the guest run on here, because of ERROR.

        :raise EmbedError: when something better is known to be said than ERROR.
        """
        with contextlib.suppress(EmbedError):  # what is wrong with our QEMU is in ERROR
            await self._call_off()
        words, doubt = "", None
        try:
            if self._transfer.status == transfer.FAILED:
                await transfer.first(self._peer.wait_lost(), timeout=LAST_WORDS_TIMEOUT_S)
            words = await self._peer.abandon()
        except EmbedError as also:
            doubt = also
        if doubt is not None and self._transfer.status == transfer.COMPLETED:
            raise OperationFailed(f"{error}; it stays paused here, because it may run there: {doubt}") from error
        await self._run_on()
        if words and isinstance(error, OperationFailed):
            # libvirt: qemuMigrationSrcPerformPeer2Peer3 prefers the destination's own words
            raise InternalError(f"guest unexpectedly quit: {words}") from error

    async def _call_off(self) -> None:
        """Have our QEMU send nothing more."""
        if self._transfer.under_way:
            await self._running.monitor.execute("migrate_cancel")
            await transfer.first(self._transfer.wait_ended(), timeout=transfer.CANCEL_TIMEOUT_S)

    async def _run_on(self) -> None:
        # libvirt: qemuMigrationSrcRestoreDomainState
        machine, running = self._machine, self._running
        if self._was_running and machine.status == state.paused(DomainPausedReason.MIGRATION):
            running.resuming = DomainRunningReason.MIGRATION_CANCELED
            try:
                await running.monitor.execute("cont")
            except EmbedError as error:
                machine.root.log.about(machine.name).warning("failed to resume the guest after failure: %s", error)
        running.pausing, running.resuming = DomainPausedReason.UNKNOWN, DomainRunningReason.UNPAUSED
        running.transfer = None
