"""A device out of a running QEMU: the guest has the last word, and may take its time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from pytest_embedvm.domain.devices._base import Context, Device
from pytest_embedvm.driver import events
from pytest_embedvm.driver.hotplug import plugging
from pytest_embedvm.driver.running import Running
from pytest_embedvm.errors import EmbedError, OperationFailed
from pytest_embedvm.qemu.monitor import CommandError
from pytest_embedvm.qemu.parts import DevicePart, Part

if TYPE_CHECKING:
    from pytest_embedvm.driver.machine import Machine

#: How long the guest may take to let a device go; after that it may still do so.
REMOVAL_TIMEOUT_S: Final = 5.0  # libvirt: qemuDomainRemoveDeviceWaitTime


async def detach(machine: Machine, running: Running, device: Device) -> None:
    """Take DEVICE away; returns when it is gone, or after 5 s while the guest still has it.

    :raise OperationFailed: when the guest refuses.
    :raise CommandError: when QEMU does.
    """
    if await eject(running, device):
        await remove(machine, running, device)


async def eject(running: Running, device: Device) -> bool:
    """Ask for DEVICE's removal; whether it is gone by now.

    :raise OperationFailed: when the guest refuses.
    :raise CommandError: when QEMU does.
    """
    gone = running.removals[device.id] = asyncio.get_running_loop().create_future()
    try:
        await running.monitor.execute("device_del", {"id": device.id})
        async with asyncio.timeout(REMOVAL_TIMEOUT_S):
            if not await gone:
                # libvirt: qemuDomainWaitForDeviceRemoval's callers
                raise OperationFailed("unplug of device was rejected by the guest")
    except CommandError as error:
        if error.error_class != "DeviceNotFound":
            raise
    except TimeoutError:
        return False
    finally:
        del running.removals[device.id]
    return True


async def remove(machine: Machine, running: Running, device: Device) -> None:
    """The guest has let DEVICE go: unplug what is behind it, and say so."""
    live = machine.live
    if live is None:
        return
    await plugging.unplug(machine, running, backends(device.parts(context(machine))))
    await running.holdings.release(device.id)
    live.devices.all = [other for other in live.devices.all if other is not device]
    await _forget_port(running, device.id)
    machine.emit(events.DeviceRemoved(device.id))
    running.recording.mark()


def context(machine: Machine) -> Context:
    """What the devices of MACHINE, which runs, see when they say what they are made of."""
    domain = machine.live or machine.definition
    return Context(
        domain, machine.driver.host.capabilities(domain.devices.emulator or ""), machine.driver.host, plugging=True
    )


def backends(parts: Iterable[Part]) -> list[Part]:
    """Those of PARTS that the guest does not see."""
    return [part for part in parts if not isinstance(part, DevicePart)]


async def _forget_port(running: Running, alias: str) -> None:
    running.ports[:] = [port for port in running.ports if port.alias != alias]
    console = running.consoles.get(alias)
    if console is not None:
        await console.close()
    if running.agent is not None and running.agent.alias == alias:
        agent, running.agent = running.agent, None
        await agent.close()


def deleted(machine: Machine, running: Running, alias: str) -> None:
    """QEMU has removed the device ALIAS (DEVICE_DELETED): somebody waits for that, or the guest did it unasked."""
    waiting = running.removals.get(alias)
    if waiting is None:
        running.background(asyncio.get_running_loop().create_task(_let_go(machine, running, alias)))
    elif not waiting.done():
        waiting.set_result(True)


def refused(machine: Machine, running: Running, alias: str) -> None:
    """The guest keeps the device ALIAS (DEVICE_UNPLUG_GUEST_ERROR)."""
    machine.emit(events.DeviceRemovalFailed(alias))
    waiting = running.removals.get(alias)
    if waiting is not None and not waiting.done():
        waiting.set_result(False)


async def _let_go(machine: Machine, running: Running, alias: str) -> None:
    # libvirt: processDeviceDeletedEvent
    try:
        async with machine.changing("remove device") as still:
            if still is running and machine.live:
                for device in [d for d in machine.live.devices.all if d.alias == alias]:
                    await remove(machine, running, device)
    except EmbedError as error:
        machine.root.log.about(machine.name).warning("device %s is gone, and what is behind it stays: %s", alias, error)
