"""Aliases: a name for each device that is unique in the domain."""

from __future__ import annotations

from pytest_embedvm.domain.model import Domain


def assign(domain: Domain) -> None:
    """Give every device that has no alias the first free one of its kind (libvirt: qemuAssignDeviceAliases)."""
    taken = {device.alias for device in domain.devices.all if device.alias}
    for device in domain.devices.all:
        number = 0
        while device.alias is None:
            alias = device.own_alias(number)
            if alias not in taken:
                taken.add(alias)
                device.alias = alias
            number += 1
