"""A guest that goes into a file."""

from __future__ import annotations

import contextlib
import signal
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
from pytest_embedvm.driver import compression, save_image, state, stop, transfer
from pytest_embedvm.driver.events import JobCompleted
from pytest_embedvm.driver.long_job import UNLIMITED, Stats
from pytest_embedvm.driver.root import file_name
from pytest_embedvm.driver.running import Running
from pytest_embedvm.driver.save_image import Header
from pytest_embedvm.driver.transfer import Transfer
from pytest_embedvm.errors import EmbedError, OperationAborted, OperationFailed, OperationInvalid, OperationTimeout
from pytest_embedvm.units import MIB

if TYPE_CHECKING:
    from pytest_embedvm.driver.machine import Machine

#: How long QEMU may take to write a guest.
SAVE_TIMEOUT_S: Final = 600.0


def managed_path(machine: Machine) -> Path:
    """Where the image is from which MACHINE starts next, if there is one."""
    # libvirt: qemuDomainManagedSavePath
    return machine.root.path / "lib/qemu/save" / f"{file_name(machine.name)}.save"


async def save(machine: Machine, path: Path, *, xml: str | None = None, running: bool | None = None) -> None:
    """Write the guest of MACHINE into the file PATH, and end it. When this raises, it runs on as before.

    :param xml: the domain it is to be when it is restored, for the host's side of its devices; None: the same.
    :param running: whether it is to run then; None: if it runs now.
    :raise OperationInvalid: when it does not run.
    :raise ConfigUnsupported: when XML is another machine.
    :raise SystemFailure: when the file cannot be written.
    :raise OperationFailed: when QEMU, or the program that compresses, fails.
    :raise OperationAborted: when somebody called it off.
    """
    async with machine.changing("save") as qemu:
        await _save(machine, qemu, path, xml, running)


async def managed_save(machine: Machine, *, running: bool | None = None) -> None:
    """Save MACHINE where its next start finds it.

    :raise OperationInvalid: also when it is transient.
    """
    async with machine.changing("managed save") as qemu:
        if qemu is not None and not machine.persistent:
            raise OperationInvalid("cannot do managed save for transient domain")
        machine.root.directory("lib", "qemu", "save")
        await _save(machine, qemu, managed_path(machine), None, running)


async def _save(machine: Machine, qemu: Running | None, path: Path, xml: str | None, running: bool | None) -> None:
    if qemu is None or machine.live is None or machine.status.state not in (DomainState.RUNNING, DomainState.PAUSED):
        raise OperationInvalid("domain is not running", origin=ErrorDomain.DOMAIN)
    driver, format_ = machine.driver, machine.driver.config.save_image_format
    compression.check(format_)
    saved = machine.live
    if xml is not None:
        saved = await driver.complete(definition.parse(xml))
        abi.check(machine.live, saved, driver.host)
    runs = machine.status.state is DomainState.RUNNING if running is None else running
    text = definition.format(migratable(saved, driver.host), inactive=True)
    with save_image.created(path, Header(text, runs, format_)) as descriptor:
        stats = await _Saving(machine, qemu).run(format_, descriptor)
    qemu.ending = state.SAVED
    qemu.process.send_signal(signal.SIGKILL)
    await qemu.wait_ended(stop.FORCED_TIMEOUT_S)
    machine.emit(JobCompleted(stats))


class _Saving:
    def __init__(self, machine: Machine, qemu: Running) -> None:
        self._machine = machine
        self._qemu = qemu
        self._job = machine.long_job
        self._was_running = machine.status.state is DomainState.RUNNING

    async def run(self, format_: str, descriptor: int) -> Stats:
        """Have QEMU write the guest to DESCRIPTOR, and leave it paused."""
        # libvirt: qemuDomainSaveInternal
        self._job.begin(DomainJobOperation.SAVE)
        half = self._qemu.transfer = Transfer()
        try:
            await self._pause()
            async with compression.writing(format_, descriptor) as target:
                await transfer.set_up(self._qemu, max_bandwidth=UNLIMITED * MIB)
                await transfer.write(self._qemu, target)
                await self._wait(half)
            return self._job.stats(await transfer.query(self._qemu), DomainJobType.COMPLETED)
        except BaseException:
            with contextlib.suppress(EmbedError):
                await self._call_off(half)
            raise
        finally:
            self._job.end()
            self._qemu.transfer = None

    async def _pause(self) -> None:
        if self._was_running:
            self._qemu.pausing = DomainPausedReason.SAVE
            await self._qemu.monitor.execute("stop")

    async def _wait(self, half: Transfer) -> None:
        # libvirt: qemuMigrationJobCheckStatus
        done = await transfer.first(half.wait_over(), self._qemu.monitor.wait_closed(), timeout=SAVE_TIMEOUT_S)
        if half.status == transfer.COMPLETED:
            return
        if self._job.aborted or half.status == transfer.CANCELLED:
            raise OperationAborted("job 'domain save' canceled by client")
        if done is None:
            seen = f"last seen: migration {half.status}"
            raise OperationTimeout(f"the domain was not saved within {SAVE_TIMEOUT_S:g} s; {seen}")
        if done == 1:
            raise OperationFailed("domain is not running")
        reason = (await transfer.query(self._qemu)).get("error-desc")
        raise OperationFailed(f"job 'domain save' {f'failed: {reason}' if reason else 'unexpectedly failed'}")

    async def _call_off(self, half: Transfer) -> None:
        """Let the guest run on, if it ran."""
        if half.under_way:
            await self._qemu.monitor.execute("migrate_cancel")
            await transfer.first(half.wait_ended(), timeout=transfer.CANCEL_TIMEOUT_S)
        self._qemu.pausing = DomainPausedReason.UNKNOWN
        if self._was_running and self._machine.status == state.paused(DomainPausedReason.SAVE):
            self._qemu.resuming = DomainRunningReason.SAVE_CANCELED
            await self._qemu.monitor.execute("cont")


# Managed images


def has_managed(machine: Machine) -> bool:
    return managed_path(machine).exists()


async def remove_managed(machine: Machine) -> None:
    """Remove the image from which MACHINE would start next.

    :raise SystemFailure: when there is none.
    """
    async with machine.changing("remove managed save"):
        save_image.remove(managed_path(machine))


def require_managed(machine: Machine) -> Path:
    """:raise OperationInvalid: when MACHINE has no managed image."""
    path = managed_path(machine)
    if not path.exists():
        raise OperationInvalid("domain does not have managed save image")
    return path
