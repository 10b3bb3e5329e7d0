"""Points to which a running guest can be brought back, any number of times: its memory, its devices, its disks."""

from __future__ import annotations

import asyncio
import shutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_embedvm.constants import DomainJobOperation, DomainPausedReason, DomainRunningReason, DomainState
from pytest_embedvm.domain import clonable, definition
from pytest_embedvm.domain.migratable import migratable
from pytest_embedvm.domain.model import Completed
from pytest_embedvm.driver import state, stop
from pytest_embedvm.driver.client import Client
from pytest_embedvm.driver.roots.root import file_name
from pytest_embedvm.driver.running import Running
from pytest_embedvm.driver.saving import image as save_image
from pytest_embedvm.driver.saving import restore as restoring
from pytest_embedvm.driver.saving.image import Header
from pytest_embedvm.driver.saving.to_file import Purpose, ToFile
from pytest_embedvm.driver.templates import belongings
from pytest_embedvm.errors import InvalidArgument, OperationFailed, OperationInvalid, SystemFailure
from pytest_embedvm.files import HALF, copy_sparse, make_private_directory
from pytest_embedvm.qemu.monitor import CommandError

if TYPE_CHECKING:
    from pytest_embedvm.driver.driver import Driver
    from pytest_embedvm.driver.machine import Machine

CHECKPOINT: Final = Purpose(
    "checkpoint", DomainJobOperation.SNAPSHOT, DomainPausedReason.SNAPSHOT, DomainRunningReason.UNPAUSED
)

#: What there is of one: the saved guest, and the images that it wrote to.
_GUEST: Final = "guest"
_DISKS: Final = "disks"


async def checkpoint(machine: Machine, name: str) -> None:
    """Keep what the guest of MACHINE is now under NAME; it goes on as it did. One that had this name is replaced.

    It is a file as large as the memory that the guest has used, below the root until the machine has ended for good.

    :raise OperationInvalid: when it does not run, or is paused, or writes to an image that is not its own.
    :raise InvalidArgument: when NAME is empty.
    :raise OperationFailed: when QEMU cannot save it; with its own words.
    :raise SystemFailure: when a file cannot be written.
    """
    async with machine.changing("checkpoint") as qemu:
        live = machine.live
        if qemu is None or live is None or machine.status.state is not DomainState.RUNNING:
            # One that stays paused could not be saved after that: QEMU takes it for one that has migrated.
            raise OperationInvalid("domain is not running")
        if qemu.jobs:
            raise OperationInvalid("domain has active block job")
        disks = _own_disks(machine, live)
        folder = _folder(machine, name)
        half = folder.with_name(f"{HALF}{folder.name}")
        try:
            machine.root.directory(*half.relative_to(machine.root.path).parts)
            await _write(machine, qemu, live, half, disks)
            await asyncio.to_thread(_replace, folder, half)
        except BaseException:
            shutil.rmtree(half, ignore_errors=True)
            raise


def _own_disks(machine: Machine, live: Completed) -> list[Path]:
    """The images that MACHINE writes to, which have to be its own."""
    images = list(clonable.written_images(live))
    for image in images:
        if Path(image.path).parent != belongings.folder(machine.root, machine.uuid):
            raise OperationInvalid(
                f"domain '{machine.name}' can have no checkpoint: its disk '{image.device}' writes to '{image.path}', "
                "which is not a clone's own"
            )
    return [Path(image.path) for image in images]


async def _write(machine: Machine, qemu: Running, live: Completed, folder: Path, disks: list[Path]) -> None:
    text = definition.format(migratable(live, machine.driver.host), inactive=True)
    job = ToFile(machine, qemu, CHECKPOINT)
    with save_image.created(folder / _GUEST, Header(text, running=True, format="raw"), sync=False) as descriptor:
        try:
            await job.run("raw", descriptor)
        except CommandError as error:
            raise OperationFailed(f"there can be no checkpoint: {error.description}") from error
    async with job.paused():  # QEMU has given its images up, until the guest runs again
        await _copy(disks, make_private_directory(folder / _DISKS))
    await job.go_on(CHECKPOINT.resuming)


async def _copy(files: list[Path], folder: Path) -> None:
    for file in files:
        copy = folder / file.name
        try:
            copy.unlink(missing_ok=True)
            await asyncio.to_thread(copy_sparse, file, copy)
        except OSError as error:
            raise SystemFailure(f"Failed to create file '{copy}': {error.strerror}") from error


def _replace(folder: Path, new: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    new.rename(folder)


async def restore(
    driver: Driver, client: Client | None, identity: uuid.UUID, name: str, *, paused: bool = False
) -> Machine:
    """End the machine that has this IDENTITY, and start it anew as it was at the checkpoint NAME, which stays.

    :param paused: it waits to be resumed.
    :raise NoDomain: when there is no such machine.
    :raise OperationFailed: when it has no such checkpoint; names those that it has.
    :raise SystemFailure: when a file cannot be read, or not be written.
    :raise InternalError: when QEMU ends instead; with its own words. Then the machine is gone.
    """
    machine = driver.by_uuid(identity)
    folder = _folder(machine, name)
    if not folder.is_dir():
        raise OperationFailed(f"no checkpoint '{name}'; {_known(folder.parent)}")
    cloned, owner, disks = machine.cloned, machine.owner, belongings.folder(machine.root, machine.uuid)
    running = machine.running
    if running is not None:
        async with machine.changing("restore"):
            await stop.end(running, state.REVERTED)
    try:
        await _copy(sorted((folder / _DISKS).iterdir()), disks)
        again = await restoring.restore(driver, client, folder / _GUEST, running=False if paused else None)
    except BaseException:
        belongings.forget(machine.root, machine.uuid)
        raise
    again.owner = owner
    if again.running is not None:
        again.running.cloned = cloned
    return again


def _folder(machine: Machine, name: str) -> Path:
    if not name:
        raise InvalidArgument("a checkpoint has to have a name")
    return belongings.folder(machine.root, machine.uuid) / "checkpoints" / file_name(name)


def _known(folder: Path) -> str:
    found = sorted(path.name for path in folder.glob("*") if not path.name.startswith(HALF))
    return f"there are {', '.join(found)}" if len(found) > 1 else f"there is {found[0]}" if found else "there are none"
