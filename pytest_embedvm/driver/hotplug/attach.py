"""A device for a machine: into its definition, into its running QEMU, or both."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from pytest_embedvm.domain import attaching
from pytest_embedvm.domain.argv import Launch
from pytest_embedvm.domain.attaching import Addition
from pytest_embedvm.domain.devices._base import Device
from pytest_embedvm.domain.model import Completed
from pytest_embedvm.driver import channels, defining, events, logs, media, persist
from pytest_embedvm.driver.hotplug import plugging, unplugging
from pytest_embedvm.driver.ports import ports
from pytest_embedvm.driver.running import Running
from pytest_embedvm.driver.start import learn, make_logs
from pytest_embedvm.errors import EmbedError
from pytest_embedvm.qemu.monitor import CommandError
from pytest_embedvm.qemu.parts import DevicePart, Part

if TYPE_CHECKING:
    from pytest_embedvm.driver.machine import Machine


async def attach(machine: Machine, xml: str, flags: int) -> None:
    """Give MACHINE the device that XML describes; if one of definition and live cannot have it, neither gets it.

    :raise OperationInvalid, OperationUnsupported, OperationFailed: when it cannot be plugged in.
    :raise CommandError: when QEMU refuses it. Nothing of it is left then.
    """
    async with machine.changing("attach device") as running:
        live, definition = defining.impact(machine, flags)
        device = read(machine, xml)
        host = machine.driver.host
        await host.prepare(machine.definition.devices.emulator or "")
        defined = attaching.define(definition, device, host) if definition else None
        if live and running:
            await _attach_live(machine, running, live, device)
        if defined:
            # libvirt: qemuDomainAttachDeviceLiveAndConfig: the definition last, when nothing else can fail
            persist.save(machine.root, defined)
            machine.definition = defined


def read(machine: Machine, xml: str) -> Device:
    """The device that XML describes."""
    device, unknown = attaching.parse(xml)
    if unknown:
        logs.unknown(machine.root.log, machine.definition, unknown)
    return device


async def _attach_live(machine: Machine, running: Running, live: Completed, device: Device) -> None:
    addition = attaching.add(live, device, machine.driver.host)
    alone = addition.alone
    media.prepare(alone, machine.driver.host, may_drop=False)
    addition.number_nodes()
    parts = list(addition.device.parts(addition.context))
    async with contextlib.AsyncExitStack() as undo:
        undo.push_async_callback(running.holdings.release, addition.device.id)
        home = machine.root.runtime_directory(running.id, machine.name)
        lent = Launch(live.devices.emulator or "", tuple(parts), {})
        machine.driver.ownership.lend(lent, alone, home, running.holdings.stack(addition.device.id))
        make_logs(port.log for port in ports(parts) if port.log and port.log.is_relative_to(machine.root.path))
        for part in unplugging.backends(parts):
            await plugging.plug(machine, running, part, undo)
        for new in (*addition.controllers, addition.device):
            await _plug_front(machine, running, addition, new, undo)
        await _learn(machine, running, parts)
        undo.pop_all()
    machine.emit(events.DeviceAdded(addition.device.id))
    running.recording.flush()


async def _plug_front(
    machine: Machine, running: Running, addition: Addition, device: Device, undo: contextlib.AsyncExitStack
) -> None:
    """Show DEVICE to the guest; UNDO takes it away again."""
    context = addition.context
    for part in device.parts(context):
        if not isinstance(part, DevicePart):
            continue
        try:
            await plugging.send(machine, running, part, undo)
        except CommandError:
            raise
        except BaseException:  # it may be there
            _enter(machine, device)
            await _withdraw(machine, running, device)
            raise
    _enter(machine, device)
    undo.push_async_callback(_withdraw, machine, running, device)
    for command in device.commands(context):
        await running.monitor.execute(command.name, command.arguments)


def _enter(machine: Machine, device: Device) -> None:
    if machine.live:
        attaching.insert(machine.live, device)


async def _withdraw(machine: Machine, running: Running, device: Device) -> None:
    """Take DEVICE from the guest again; if that keeps it, it stays in the domain until the guest lets it go."""
    try:
        gone = await unplugging.eject(running, device)
    except EmbedError as error:
        machine.root.log.about(machine.name).warning("device %s stays: %s", device.id, error)
        return
    if gone and machine.live:
        machine.live.devices.all = [other for other in machine.live.devices.all if other is not device]


async def _learn(machine: Machine, running: Running, parts: list[Part]) -> None:
    """Note what only QEMU knows of the device, and what can be talked to."""
    running.ports += ports(parts)
    if running.agent is None:
        running.agent = channels.agent_channel(running.ports)
    await learn(machine, running)
