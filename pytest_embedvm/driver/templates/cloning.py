"""A clone: a new QEMU that goes on where a template was stopped."""

from __future__ import annotations

import asyncio
import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_embedvm.constants import (
    DomainCreateFlags,
)
from pytest_embedvm.domain import clonable
from pytest_embedvm.domain.model import Completed
from pytest_embedvm.driver.client import Client
from pytest_embedvm.driver.loading import bring_back, learn_channels, wait_loaded
from pytest_embedvm.driver.migration import transfer
from pytest_embedvm.driver.migration.transfer import Transfer
from pytest_embedvm.driver.network import addresses, links
from pytest_embedvm.driver.running import Running
from pytest_embedvm.driver.templates import belongings
from pytest_embedvm.driver.templates.memory import MemoryFile
from pytest_embedvm.driver.templates.template import Cloned, Template
from pytest_embedvm.errors import OperationInvalid, SystemFailure
from pytest_embedvm.files import copy_sparse, make_private_directory

if TYPE_CHECKING:
    from pytest_embedvm.driver.driver import Driver
    from pytest_embedvm.driver.machine import Machine


async def clone(driver: Driver, client: Client | None, template: Template, name: str, flags: int = 0) -> Machine:
    """Start a machine NAME in DRIVER's root whose guest goes on where TEMPLATE was stopped.

    Its uuid and MAC addresses are new for QEMU; its guest has the template's in memory, until somebody tells it.

    :param flags: START_PAUSED, START_AUTODESTROY.
    :raise OperationFailed: when there is no template, or an active machine of this name.
    :raise InternalError: when QEMU ends instead; with its own words.
    """
    return await _launch(driver, client, await _other(driver, template, name), flags)


async def _other(driver: Driver, template: Template, name: str) -> Cloned:
    """TEMPLATE's domain as a machine of its own."""
    driver.require_own_process()
    former = template.domain()
    other = clonable.clone(former, name, driver.host.new_uuid(), driver.host.new_mac)
    domain = await driver.complete(other)
    return Cloned(template, domain, dict(zip(links.macs(domain), links.macs(former), strict=True)))


async def reset(driver: Driver, client: Client | None, identity: uuid.UUID, flags: int = 0) -> Machine:
    """End the clone that has this IDENTITY, if it runs, and start it anew from its template.

    Name, uuid and MAC addresses stay; what was plugged in or changed goes.

    :param flags: START_PAUSED, START_AUTODESTROY.
    :raise NoDomain: when there is no such machine, nor was there one a while ago.
    :raise OperationInvalid: when it is no clone.
    :raise OperationFailed, InternalError: as `clone`.
    """
    driver.require_own_process()
    machine = driver.registry.recall(identity)
    cloned = machine.cloned
    if cloned is None:
        raise OperationInvalid(f"domain '{machine.name}' is no clone of a template")
    cloned.template.require_whole(cloned.domain)
    if machine.autodestroy:
        flags |= DomainCreateFlags.START_AUTODESTROY
    if machine.active:
        await machine.destroy()
    addresses.forget(cloned.domain, driver.networks)
    return await _launch(driver, client, cloned, flags)


async def _launch(driver: Driver, client: Client | None, cloned: Cloned, flags: int) -> Machine:
    machine = driver.admit(Completed(cloned.domain.copy()), live=True)
    try:
        async with machine.changing("clone"):
            live = belongings.take(machine, cloned.template, cloned.domain)
            memory = MemoryFile(str(cloned.template.ram), shared=False, arriving=True)
            await _start(machine, client, live, memory, cloned, flags=flags)
    finally:
        driver.dismiss(machine)
    return machine


async def template_from(
    driver: Driver, client: Client | None, base: Template, folder: Path, *, name: str, flags: int = 0
) -> Machine:
    """Start a clone NAME of BASE so that it can become the template in FOLDER, which is made.

    What the guest writes goes into FOLDER. BASE has to stay where it is as long as that template is.

    :param flags: START_PAUSED, START_AUTODESTROY.
    :raise OperationFailed: when there is no template BASE, or an active machine of this name.
    :raise SystemFailure: when FOLDER cannot be written.
    :raise InternalError: when QEMU ends instead; with its own words.
    """
    cloned, template = await _other(driver, base, name), Template(folder)
    machine = driver.admit(cloned.domain, live=True)
    try:
        async with machine.changing("clone"):
            live = await _made_beside(machine, base, template)
            memory = MemoryFile(str(template.ram), shared=True, arriving=True)
            await _start(machine, client, live, memory, cloned, flags=flags)
    finally:
        driver.dismiss(machine)
    return machine


async def _made_beside(machine: Machine, base: Template, template: Template) -> Completed:
    """The domain of MACHINE, a clone of BASE, writing to what TEMPLATE consists of."""
    try:
        make_private_directory(template.folder)
        await asyncio.to_thread(copy_sparse, base.ram, template.ram)
    except OSError as error:
        raise SystemFailure(f"Failed to create file '{error.filename or template.ram}': {error.strerror}") from error
    domain = Completed(machine.definition)
    belongings.take_variables(machine, base, domain)
    return belongings.over(domain, base.disk, lambda: make_private_directory(template.disk("").parent))


async def _start(
    machine: Machine, client: Client | None, live: Completed, memory: MemoryFile, cloned: Cloned, *, flags: int
) -> None:
    async def load(running: Running) -> None:
        running.cloned = cloned
        links.silence(machine, cloned.former_macs)
        await _load(machine, running, cloned.template)

    paused = bool(flags & DomainCreateFlags.START_PAUSED)
    await bring_back(machine, client, live, flags, adaptation=memory, load=load, paused=paused)


async def _load(machine: Machine, running: Running, template: Template) -> None:
    half = running.transfer = Transfer()
    await transfer.set_up(running, ignore_shared=True, arriving=True)
    await transfer.read(running, _open(template.state))
    await wait_loaded(machine, running, half)
    await transfer.set_up(running)  # it may be saved, or migrate
    running.transfer = None
    await learn_channels(machine, running)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise SystemFailure(f"Failed to open file '{path}': {error.strerror}") from error
