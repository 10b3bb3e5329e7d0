"""A device that changes while it is there: a cable is pulled, a medium changed."""

from __future__ import annotations

import contextlib
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from pytest_embedvm.constants import DomainDeviceModifyFlags
from pytest_embedvm.domain import matching
from pytest_embedvm.domain.attaching import Addition
from pytest_embedvm.domain.devices._base import Device
from pytest_embedvm.domain.model import Completed
from pytest_embedvm.driver import defining, media, persist
from pytest_embedvm.driver.hotplug import plugging, unplugging
from pytest_embedvm.driver.hotplug.attach import read
from pytest_embedvm.driver.hotplug.plugging import Plugging
from pytest_embedvm.driver.running import Running
from pytest_embedvm.qemu.monitor import CommandError

if TYPE_CHECKING:
    from pytest_embedvm.driver.machine import Machine


async def update(machine: Machine, xml: str, flags: int) -> None:
    """Change the device that XML describes to what it says.

    :param flags: with FORCE a tray opens that the guest has locked.
    :raise NoDevice: when definition or live, whichever FLAGS mean, has none.
    :raise OperationUnsupported: when it cannot change so.
    :raise OperationFailed: when the guest does not open its tray within 5 s.
    """
    async with machine.changing("update device") as running:
        live, definition = defining.impact(machine, flags)
        described = read(machine, xml)
        defined = None
        if definition:
            old = matching.changing(definition, described, live=False)
            defined = await machine.driver.complete(
                matching.replaced(definition, old, old.redefined(deepcopy(described)))
            )
        if live and running:
            force = bool(flags & DomainDeviceModifyFlags.FORCE)
            await _update_live(machine, running, live, described, force=force)
        if defined:
            persist.save(machine.root, defined)
            machine.definition = defined


async def _update_live(machine: Machine, running: Running, live: Completed, described: Device, *, force: bool) -> None:
    old = matching.changing(live, described, live=True)
    new: Any = old.updated(deepcopy(described))
    if not new.has_medium_of(old):
        await _change_medium(machine, running, old, new, force=force)
    for command in new.update_commands():
        await running.monitor.execute(command.name, command.arguments)
    live.devices.all[next(i for i, device in enumerate(live.devices.all) if device is old)] = new
    running.recording.flush()


async def _change_medium(machine: Machine, running: Running, old: Device, new: Device, *, force: bool) -> None:
    # libvirt: qemuDomainChangeMediaBlockdev
    context = unplugging.context(machine)
    changed = Addition(context, (), new)
    media.check(changed.alone)
    changed.number_nodes()
    async with contextlib.AsyncExitStack() as undo:
        coming = Plugging(machine, running, undo)
        nodes = unplugging.backends(new.parts(context))
        for part in nodes:
            await coming.plug(part)
        await _open_tray(running, new.id, force=force)
        if unplugging.backends(old.parts(context)):
            await running.monitor.execute("blockdev-remove-medium", {"id": new.id})
        if nodes:
            top = new.top_node
            await running.monitor.execute("blockdev-insert-medium", {"id": new.id, "node-name": top})
        undo.pop_all()
    await running.monitor.execute("blockdev-close-tray", {"id": new.id})
    await plugging.unplug(machine, running, unplugging.backends(old.parts(context)))


async def _open_tray(running: Running, alias: str, *, force: bool) -> None:
    opened = running.trays.await_open(alias)
    try:
        await running.monitor.execute("blockdev-open-tray", {"id": alias, "force": force})
    except CommandError:
        if force:
            raise
        # The guest has locked it, and was asked to open it.
        await running.trays.wait(alias, opened)
    finally:
        running.trays.opened(alias)
