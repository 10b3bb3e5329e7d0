"""A guest that goes into a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_embedvm.constants import (
    DomainJobOperation,
    DomainPausedReason,
    DomainRunningReason,
    DomainState,
    ErrorDomain,
)
from pytest_embedvm.domain import abi, definition
from pytest_embedvm.domain.migratable import migratable
from pytest_embedvm.driver import state, stop
from pytest_embedvm.driver.events import JobCompleted
from pytest_embedvm.driver.roots.root import file_name
from pytest_embedvm.driver.running import Running
from pytest_embedvm.driver.saving import compression
from pytest_embedvm.driver.saving import image as save_image
from pytest_embedvm.driver.saving.image import Header
from pytest_embedvm.driver.saving.to_file import Purpose, ToFile
from pytest_embedvm.errors import OperationInvalid

if TYPE_CHECKING:
    from pytest_embedvm.driver.machine import Machine

SAVE: Final = Purpose(
    "domain save", DomainJobOperation.SAVE, DomainPausedReason.SAVE, DomainRunningReason.SAVE_CANCELED
)


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
    if qemu.jobs:
        # libvirt: qemuMigrationSrcIsAllowed
        raise OperationInvalid("domain has active block job")
    driver, format_ = machine.driver, machine.driver.config.save_image_format
    compression.check(format_)
    saved = machine.live
    if xml is not None:
        saved = await driver.complete(definition.parse(xml))
        abi.check(machine.live, saved, driver.host)
    runs = machine.status.state is DomainState.RUNNING if running is None else running
    text = definition.format(migratable(saved, driver.host), inactive=True)
    with save_image.created(path, Header(text, runs, format_)) as descriptor:
        stats = await ToFile(machine, qemu, SAVE).run(format_, descriptor)
    await stop.end(qemu, state.SAVED)
    machine.emit(JobCompleted(stats))


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
