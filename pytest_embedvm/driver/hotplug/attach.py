"""A device for a machine: into its definition, into its running QEMU, or both."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_embedvm.domain import attaching
from pytest_embedvm.domain.argv import Launch
from pytest_embedvm.domain.attaching import Addition
from pytest_embedvm.domain.devices._base import Context, Device
from pytest_embedvm.domain.model import Completed
from pytest_embedvm.driver import channels, defining, events, logs, media, persist
from pytest_embedvm.driver.hotplug import unplugging
from pytest_embedvm.driver.hotplug.plugging import Plugging
from pytest_embedvm.driver.ports import ports
from pytest_embedvm.driver.running import Running
from pytest_embedvm.driver.secret import sealing
from pytest_embedvm.driver.start import learn, make_logs
from pytest_embedvm.driver.uri import Uri
from pytest_embedvm.errors import EmbedError
from pytest_embedvm.qemu.monitor import CommandError
from pytest_embedvm.qemu.parts import DevicePart, Part

if TYPE_CHECKING:
    from pytest_embedvm.driver.machine import Machine


async def attach(machine: Machine, xml: str, flags: int, uri: Uri | None = None) -> None:
    """Give MACHINE the device that XML describes; if one of definition and live cannot have it, neither gets it.

    :param uri: of the connection that wants it, whose networks and secrets are the root's or the host's.
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
            await _attach_live(machine, running, live, device, uri)
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


async def _attach_live(machine: Machine, running: Running, live: Completed, device: Device, uri: Uri | None) -> None:
    addition = attaching.add(live, device, machine.driver.host)
    await machine.driver.hosts.allocate(addition.alone, uri)
    media.prepare(addition.alone, machine.driver.host, may_drop=False)
    addition.number_nodes()
    parts = list(addition.device.parts(addition.context))
    home = machine.root.runtime_directory(running.id, machine.name)
    sealed = await _seal(machine, parts, home, uri)
    async with contextlib.AsyncExitStack() as undo:
        plugging = Plugging(machine, running, undo)
        _lend(plugging, addition, sealed, home)
        make_logs(port.log for port in ports(parts) if port.log and port.log.is_relative_to(machine.root.path))
        for part in unplugging.backends(sealed):
            if sealing.is_key(part):
                await _plug_key(machine, running, part, home)
            else:
                await plugging.plug(part)
        for new in (*addition.controllers, addition.device):
            await _show(plugging, new, addition.context)
        await _learn(plugging, parts)
        undo.pop_all()
    machine.emit(events.DeviceAdded(addition.device.id))
    running.recording.flush()


def _lend(plugging: Plugging, addition: Addition, parts: tuple[Part, ...], home: Path) -> None:
    """Give QEMU's user what it is to open, until the device is gone."""
    machine, running, alias = plugging.machine, plugging.running, addition.device.id
    plugging.undo.push_async_callback(running.holdings.release, alias)
    lent = Launch(addition.context.domain.devices.emulator or "", parts, {})
    machine.driver.ownership.lend(lent, addition.alone, home, running.holdings.stack(alias))


async def _seal(machine: Machine, parts: list[Part], home: Path, uri: Uri | None) -> tuple[Part, ...]:
    """PARTS with the secrets that they need, encrypted."""
    values = await sealing.values(parts, machine.driver.hosts.secrets(uri) or machine.driver.secrets)
    try:
        return sealing.seal(tuple(parts), values, home)
    finally:
        sealing.wipe(values)


async def _plug_key(machine: Machine, running: Running, part: Part, home: Path) -> None:
    """Give QEMU the machine's key, which stays; if it does not take it, it is as if there had been none."""
    async with contextlib.AsyncExitStack() as undo:
        undo.callback(sealing.forget_key, home)
        await Plugging(machine, running, undo).plug(part)
        undo.pop_all()


async def _show(plugging: Plugging, device: Device, context: Context) -> None:
    """Let the guest have DEVICE."""
    machine, running = plugging.machine, plugging.running
    for part in device.parts(context):
        if isinstance(part, DevicePart):
            try:
                await plugging.send(part)
            except CommandError:
                raise
            except BaseException:  # it may be there
                _enter(machine, device)
                await _withdraw(machine, running, device)
                raise
    _enter(machine, device)
    plugging.undo.push_async_callback(_withdraw, machine, running, device)
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


async def _learn(plugging: Plugging, parts: list[Part]) -> None:
    """Note what only QEMU and the host know of the device, and what can be talked to."""
    machine, running = plugging.machine, plugging.running
    running.ports += ports(parts)
    if running.agent is None:
        running.agent = channels.agent_channel(running.ports)
    await learn(machine, running)
