"""A guest that comes out of a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pytest_embedvm.constants import (
    DomainCreateFlags,
)
from pytest_embedvm.domain import abi, definition
from pytest_embedvm.domain.migratable import migratable
from pytest_embedvm.domain.model import Completed
from pytest_embedvm.driver import subdrivers
from pytest_embedvm.driver.client import Client
from pytest_embedvm.driver.loading import bring_back, learn_channels, wait_loaded
from pytest_embedvm.driver.migration import transfer
from pytest_embedvm.driver.migration.arriving import Arriving
from pytest_embedvm.driver.migration.transfer import Transfer
from pytest_embedvm.driver.running import Running
from pytest_embedvm.driver.saving import compression
from pytest_embedvm.driver.saving import image as save_image
from pytest_embedvm.driver.saving import save as saving
from pytest_embedvm.driver.saving.image import Image, Incomplete
from pytest_embedvm.driver.saving.to_file import SAVE_TIMEOUT_S

if TYPE_CHECKING:
    from pytest_embedvm.driver.driver import Driver
    from pytest_embedvm.driver.machine import Machine


async def restore(
    driver: Driver,
    client: Client | None,
    path: Path,
    *,
    xml: str | None = None,
    running: bool | None = None,
    reset_nvram: bool = False,
) -> Machine:
    """Let the guest that is saved in the file PATH go on. The file stays.

    :param client: the connection that wants it.
    :param xml: the domain it is to be, for the host's side of its devices; None: as saved.
    :param running: whether it is to run; None: as saved.
    :raise SystemFailure: when the file cannot be read.
    :raise OperationFailed: when it is no image, is not complete, or is of another version.
    :raise OperationInvalid: when the domain runs already.
    :raise InternalError: when QEMU ends instead; with its own words.
    """
    with save_image.opened(path) as image:
        domain = await _domain(driver, image, xml)
        subdrivers.require(xml or image.header.xml, client.uri if client else None)
        machine = driver.admit(domain, live=True)
        paused = not (image.header.running if running is None else running)
        flags = DomainCreateFlags.START_RESET_NVRAM if reset_nvram else DomainCreateFlags.NONE
        try:
            async with machine.changing("restore"):
                await _load(machine, client, image, Completed(domain.copy()), flags, paused=paused)
        finally:
            driver.dismiss(machine)
    return machine


async def start_from_managed(machine: Machine, flags: int, client: Client | None) -> bool:
    """Let MACHINE go on where its managed image left it; whether there was one. The caller has the job."""
    # libvirt: qemuDomainObjStart
    path = saving.managed_path(machine)
    if not path.exists():
        return False
    if flags & DomainCreateFlags.START_FORCE_BOOT:
        save_image.remove(path)
        return False
    try:
        with save_image.opened(path) as image:
            domain = await _domain(machine.driver, image, None)
            paused = bool(flags & DomainCreateFlags.START_PAUSED) or not image.header.running
            await _load(machine, client, image, domain, flags, paused=paused)
    except Incomplete as error:
        machine.root.log.about(machine.name).warning("%s is removed: %s", path, error.detail)
        save_image.remove(path)
        return False
    save_image.remove(path)
    return True


async def _domain(driver: Driver, image: Image, xml: str | None) -> Completed:
    saved = await driver.complete(definition.parse(image.header.xml))
    if xml is None:
        return saved
    given = await driver.complete(definition.parse(xml))
    abi.check(saved, given, driver.host)
    return given


async def _load(
    machine: Machine, client: Client | None, image: Image, domain: Completed, flags: int, *, paused: bool
) -> None:
    async def read(running: Running) -> None:
        await _read(machine, running, image)

    await bring_back(machine, client, domain, flags, adaptation=Arriving(), load=read, paused=paused)


async def _read(machine: Machine, running: Running, image: Image) -> None:
    half = running.transfer = Transfer()
    await transfer.set_up(running, arriving=True)
    async with compression.reading(image.header.format, image.descriptor) as source:
        await transfer.read(running, source)
        await wait_loaded(machine, running, half, SAVE_TIMEOUT_S)
    running.transfer = None
    await learn_channels(machine, running)


# Images as such


def text(path: Path, *, secure: bool) -> str:
    """The domain that is saved in the file PATH, as XML; with its passwords only if that is SECURE."""
    with save_image.opened(path) as image:
        saved = image.header.xml
    if secure:
        return saved
    return definition.format(definition.spelled(definition.parse(saved), lambda _password: None))


async def redefine(driver: Driver, path: Path, xml: str, *, running: bool | None) -> None:
    """Have the guest that is saved in the file PATH restored as the domain XML.

    :raise ConfigUnsupported: when XML is another machine.
    """
    with save_image.opened(path) as image:
        given = await _domain(driver, image, xml)
    changed = definition.format(migratable(given, driver.host), inactive=True)
    save_image.change(path, xml=changed, running=running)
