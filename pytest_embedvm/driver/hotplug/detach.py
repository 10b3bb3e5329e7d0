"""A device away from a machine: out of its definition, out of its running QEMU, or both."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pytest_embedvm.domain import matching
from pytest_embedvm.domain.devices._base import Device
from pytest_embedvm.domain.model import Domain
from pytest_embedvm.driver import defining, persist
from pytest_embedvm.driver.hotplug import unplugging
from pytest_embedvm.driver.hotplug.attach import read

if TYPE_CHECKING:
    from pytest_embedvm.driver.machine import Machine

#: The device of a domain that is meant; told whether the domain is the running one.
Choose = Callable[[Domain, bool], Device]


async def detach(machine: Machine, xml: str, flags: int) -> None:
    """Take away the device that XML describes; returns after 5 s while a guest still has it.

    :raise NoDevice: when definition or live, whichever FLAGS mean, has none. The other one keeps its own then.
    :raise OperationUnsupported, OperationFailed: when it cannot be taken away, or the guest does not let it go.
    """

    def choose(domain: Domain, live: bool) -> Device:
        return matching.find(domain, device, live=live)

    async with machine.changing("detach device"):
        defining.impact(machine, flags)  # libvirt looks at the flags first
        device = read(machine, xml)
        await _detach(machine, flags, choose)


async def detach_alias(machine: Machine, alias: str, flags: int) -> None:
    """Take away the device with this ALIAS; as `detach`."""

    def choose(domain: Domain, live: bool) -> Device:
        return matching.with_alias(domain, alias, live=live)

    async with machine.changing("detach device"):
        await _detach(machine, flags, choose)


async def _detach(machine: Machine, flags: int, choose: Choose) -> None:
    live, definition = defining.impact(machine, flags)
    left = None
    if definition:
        left = await machine.driver.complete(matching.without(definition, choose(definition, False)))
    if live and machine.running:
        await unplugging.detach(machine, machine.running, choose(live, True))
    if left:
        persist.save(machine.root, left)
        machine.definition = left
