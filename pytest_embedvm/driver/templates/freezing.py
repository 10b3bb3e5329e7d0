"""A template in the making: a guest whose memory is a file from its start, prepared, and then stopped for good."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast, get_args

from pytest_embedvm.constants import DomainJobOperation, DomainPausedReason, DomainRunningReason, DomainState
from pytest_embedvm.domain import clonable, definition
from pytest_embedvm.domain.backends.source import NeededFile
from pytest_embedvm.domain.migratable import migratable
from pytest_embedvm.domain.model import Completed
from pytest_embedvm.domain.sections.firmware import STORE
from pytest_embedvm.driver import media, nvram, state, stop, subdrivers
from pytest_embedvm.driver.client import Client
from pytest_embedvm.driver.running import Running
from pytest_embedvm.driver.saving.to_file import Purpose, ToFile
from pytest_embedvm.driver.templates.memory import MemoryFile
from pytest_embedvm.driver.templates.template import Template
from pytest_embedvm.errors import ConfigUnsupported, OperationFailed, OperationInvalid, SystemFailure
from pytest_embedvm.files import PRIVATE_FILE, copy_sparse, make_private_directory, write_atomically
from pytest_embedvm.qemu.image import Format, create_overlay
from pytest_embedvm.qemu.monitor import CommandError

if TYPE_CHECKING:
    from pytest_embedvm.driver.driver import Driver
    from pytest_embedvm.driver.machine import Machine

FREEZE: Final = Purpose("template", DomainJobOperation.SAVE, DomainPausedReason.SAVE, DomainRunningReason.SAVE_CANCELED)


async def obstacles(driver: Driver, xml: str) -> list[str]:
    """Why a guest of the domain XML cannot be cloned, half a sentence each; nothing is started.

    :raise EmbedError: when such a domain cannot be started at all, as far as its XML says.
    """
    return clonable.obstacles(await _read(driver, xml))


async def _read(driver: Driver, xml: str) -> Completed:
    driver.require_own_process()
    domain = await driver.complete(definition.parse(xml))
    media.find_volumes(domain, driver.host)
    return domain


async def begin(driver: Driver, client: Client | None, xml: str, folder: Path, flags: int = 0) -> Machine:
    """Start the domain XML so that it can become the template in FOLDER, which is made.

    What the guest writes to its disks goes into FOLDER, too: the domain's own images stay as they are.

    :param flags: START_PAUSED, START_AUTODESTROY.
    :raise ConfigUnsupported: when a guest of this domain cannot be cloned; says why.
    :raise SystemFailure: when FOLDER cannot be written.
    """
    template = Template(folder)
    subdrivers.require(xml, client.uri if client else None)
    wanted = await _read(driver, xml)
    _require_clonable(wanted)
    domain = Completed(clonable.over(wanted, _make_files(template, wanted)))
    given = _own_variables(driver, domain)
    machine = driver.admit(domain, live=True)
    try:
        if given is not None:
            driver.host.make_places(domain.name)
            nvram.take_along(domain, given)
        await machine.create(flags, client, domain, MemoryFile(str(template.ram), shared=True, arriving=False))
    finally:
        driver.dismiss(machine)
    return machine


def _own_variables(driver: Driver, domain: Completed) -> Path | None:
    """Have DOMAIN write its firmware's variables where the driver puts them; returns where it has its own, if it has.

    They go with the machine, and the domain's own stay as they are.
    """
    if domain.os.nvram is None or domain.os.nvram.path is None:
        return None
    given, own = domain.os.nvram.path, driver.host.path("nvram", domain.name, STORE)
    domain.os.nvram.path = own
    return Path(given) if given != own and Path(given).exists() else None


def _require_clonable(domain: Completed) -> None:
    found = clonable.obstacles(domain)
    if found:
        raise ConfigUnsupported(f"domain '{domain.name}' cannot be cloned: {'; '.join(found)}")


def _make_files(template: Template, domain: Completed) -> dict[str, str]:
    try:
        make_private_directory(template.folder)
        os.close(os.open(template.ram, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_FILE))
        return {image.device: _overlay(template, image) for image in clonable.written_images(domain)}
    except OSError as error:
        raise SystemFailure(f"Failed to create file '{error.filename or template.folder}': {error.strerror}") from error


def _overlay(template: Template, image: NeededFile) -> str:
    overlay = template.disk(image.device)
    make_private_directory(overlay.parent)
    create_overlay(Path(image.path), overlay, _format(image.format))
    return str(overlay)


def _freeze_plugged(template: Template, live: Completed) -> None:
    """The images of disks that were plugged in are as good as frozen: nobody writes to them from now on."""
    for image in clonable.written_images(live):
        if Path(image.path) != template.disk(image.device):
            template.disk(image.device).unlink(missing_ok=True)  # of one that was taken out, or of an attempt
            _overlay(template, image)


def _format(word: str) -> Format:
    for known in get_args(Format):
        if word == known:
            return cast("Format", known)
    raise ConfigUnsupported(f"there can be no overlay over an image of format '{word}'")


async def freeze(machine: Machine, folder: Path) -> Template:
    """Stop the guest of MACHINE, which was started for FOLDER, and end it: the template is there.

    When this raises, the guest goes on as before, and there is none.

    :raise OperationInvalid: when it does not run, or was not started for this.
    :raise ConfigUnsupported: when it was given a device with which it cannot be cloned.
    :raise OperationFailed: when QEMU cannot write the state of its devices; with its own words.
    :raise SystemFailure: when FOLDER cannot be written.
    """
    template = Template(folder)
    async with machine.changing("template") as qemu:
        live = machine.live
        if qemu is None or live is None or machine.status.state not in (DomainState.RUNNING, DomainState.PAUSED):
            raise OperationInvalid("domain is not running")
        if qemu.jobs:
            raise OperationInvalid("domain has active block job")
        if not _is_memory_of(qemu, template):
            raise OperationInvalid(f"domain '{machine.name}' was not started to be the template in '{folder}'")
        _require_clonable(live)
        await _write(machine, qemu, live, template)
        await stop.end(qemu, state.SAVED)
    return template


def _is_memory_of(qemu: Running, template: Template) -> bool:
    """Whether QEMU writes its guest's memory to TEMPLATE's file; a clone has it, too, and does not."""
    objects = (json.loads(word) for word in qemu.argv if word.startswith('{"qom-type":"memory-backend-file"'))
    return any(memory["mem-path"] == str(template.ram) and memory["share"] for memory in objects)


async def _write(machine: Machine, qemu: Running, live: Completed, template: Template) -> None:
    job = ToFile(machine, qemu, FREEZE, ignore_shared=True)
    with _new(template.state) as descriptor:
        try:
            await job.run("raw", descriptor)
        except CommandError as error:
            raise OperationFailed(f"the guest cannot be made a template: {error.description}") from error
        async with job.paused():
            await _write_domain(machine.driver, live, template)


@contextlib.contextmanager
def _new(path: Path) -> Iterator[int]:
    """The new file PATH, gone again if the block fails."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_FILE)
    except OSError as error:
        raise SystemFailure(f"Failed to create file '{path}': {error.strerror}") from error
    try:
        yield descriptor
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


async def _write_domain(driver: Driver, live: Completed, template: Template) -> None:
    """Write what was LIVE; with that the TEMPLATE is whole."""
    try:
        if live.os.nvram is not None and live.os.nvram.path is not None:
            template.nvram.unlink(missing_ok=True)  # of an attempt that failed
            await asyncio.to_thread(copy_sparse, Path(live.os.nvram.path), template.nvram)
        _freeze_plugged(template, live)
        text = definition.format(migratable(live, driver.host), inactive=True)
        write_atomically(template.xml, text.encode(), sync=False)
    except OSError as error:
        raise SystemFailure(f"Failed to create file '{error.filename or template.xml}': {error.strerror}") from error
