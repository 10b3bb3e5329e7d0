"""A clone: a new QEMU that goes on where a template was stopped."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_embedvm.constants import (
    DomainCreateFlags,
    DomainEventStartedDetailType,
    DomainEventSuspendedDetailType,
    DomainEventType,
    DomainPausedReason,
    DomainRunningReason,
)
from pytest_embedvm.domain import clonable
from pytest_embedvm.domain.model import Completed
from pytest_embedvm.driver import state, stop
from pytest_embedvm.driver.client import Client
from pytest_embedvm.driver.loading import learn_channels, wait_loaded
from pytest_embedvm.driver.migration import transfer
from pytest_embedvm.driver.migration.transfer import Transfer
from pytest_embedvm.driver.roots.root import file_name
from pytest_embedvm.driver.running import Running
from pytest_embedvm.driver.templates.memory import MemoryFile
from pytest_embedvm.driver.templates.template import Template
from pytest_embedvm.errors import InternalError, SystemFailure
from pytest_embedvm.qemu.image import create_overlay

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
    domain = clonable.clone(template.domain(), name, driver.host.new_uuid(), driver.host.new_mac)
    machine = driver.admit(await driver.complete(domain), live=True)
    try:
        async with machine.changing("clone"):
            with contextlib.ExitStack() as disks:
                live = Completed(clonable.over(machine.definition, _overlays(machine, template, disks)))
                await _start(machine, client, template, live, disks, flags=flags)
    finally:
        driver.dismiss(machine)
    return machine


def _overlays(machine: Machine, template: Template, stack: contextlib.ExitStack) -> dict[str, str]:
    """What the guest writes to from now on, by target; removed with STACK."""
    images = list(clonable.written_images(machine.definition))
    if not images:
        return {}
    folder = machine.root.directory("lib", "qemu", "clones", file_name(machine.name))
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    return {image.device: _overlay(template.disk(image.device), folder) for image in images}


def _overlay(base: Path, folder: Path) -> str:
    overlay = folder / base.name
    try:
        overlay.unlink(missing_ok=True)
        create_overlay(base, overlay, "qcow2")
    except OSError as error:
        raise SystemFailure(f"Failed to create file '{overlay}': {error.strerror}") from error
    return str(overlay)


async def _start(
    machine: Machine,
    client: Client | None,
    template: Template,
    live: Completed,
    disks: contextlib.ExitStack,
    *,
    flags: int,
) -> None:
    memory = MemoryFile(str(template.ram), shared=False)
    await machine.bring_up(live, flags, client, wait=True, adaptation=memory)
    running = machine.running
    if running is None:  # it ended between its start and now
        raise InternalError("guest unexpectedly quit")
    running.stack.push(disks.pop_all())
    try:
        await _load(machine, running, template)
        await _go_on(machine, running, paused=bool(flags & DomainCreateFlags.START_PAUSED))
    except BaseException:
        running.ending = state.NOT_ARRIVED
        running.process.send_signal(signal.SIGKILL)
        await running.wait_ended(stop.FORCED_TIMEOUT_S)
        raise


async def _load(machine: Machine, running: Running, template: Template) -> None:
    half = running.transfer = Transfer()
    # QEMU would have the guest tell the network its addresses, which are still the template's: a fifth of what it does
    # until it first answers.
    await transfer.set_up(running, ignore_shared=True, announce_rounds=0)
    await transfer.read(running, os.open(template.state, os.O_RDONLY | os.O_CLOEXEC))
    await wait_loaded(machine, running, half)
    await transfer.set_up(running)  # it may be saved, or migrate
    running.transfer = None
    await learn_channels(machine, running)


async def _go_on(machine: Machine, running: Running, *, paused: bool) -> None:
    machine.status = state.paused(DomainPausedReason.MIGRATION)
    machine.emit_lifecycle(DomainEventType.STARTED, DomainEventStartedDetailType.RESTORED)
    if paused:
        machine.emit_lifecycle(DomainEventType.SUSPENDED, DomainEventSuspendedDetailType.RESTORED)
    else:
        running.resuming = DomainRunningReason.RESTORED
        await running.monitor.execute("cont")
    running.announce()
