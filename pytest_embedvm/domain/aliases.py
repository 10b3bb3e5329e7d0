"""Aliases: a name for each device that is unique in the domain."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from pytest_embedvm.domain.devices._base import Device
from pytest_embedvm.domain.model import Domain
from pytest_embedvm.errors import ConfigUnsupported

_OWN: Final = re.compile(r"ua-[A-Za-z0-9_-]*")


def assign(domain: Domain) -> None:
    """Give every device an alias that has one (libvirt: qemuAssignDeviceAliases); only the user's own names stay.

    :raise ConfigUnsupported: when the user gave two devices the same one.
    """
    taken: set[str] = set()
    for device in domain.devices.all:
        if device.alias is not None and not is_own(device.alias):
            device.alias = None
        if device.alias in taken:
            raise ConfigUnsupported(
                f"non unique alias detected: {device.alias}"
            )  # libvirt: virDomainDefValidateAliases
        taken |= {device.alias} if device.alias else set()
    for device in domain.devices.all:
        if device.alias is None:
            device.alias = _first_free(device, taken)
            taken |= {device.alias} if device.alias else set()


def assign_new(domain: Domain, devices: Iterable[Device]) -> None:
    """Give each of DEVICES, which are new in DOMAIN, an alias; those of the others stay.

    :raise ConfigUnsupported: when the user gave it one that another has.
    """
    # libvirt: qemuAssignDeviceNetAlias and the like: behind the highest number, so that none is used twice too soon
    devices = list(devices)
    taken = {d.alias for d in domain.devices.all if d.alias and not any(d is new for new in devices)}
    for device in devices:
        if device.alias is not None and not is_own(device.alias):
            device.alias = None
        if device.alias in taken:
            raise ConfigUnsupported(f"non unique alias detected: {device.alias}")
        device.alias = device.alias or _behind(device, taken)
        taken |= {device.alias} if device.alias else set()


def _behind(device: Device, taken: set[str]) -> str | None:
    numbered = re.compile(rf"{re.escape(device.alias_prefix)}([0-9]+)")
    numbers = [int(found[1]) for alias in taken if (found := numbered.fullmatch(alias))]
    behind = device.own_alias(max(numbers, default=-1) + 1)
    return behind if behind and numbered.fullmatch(behind) else _first_free(device, taken)


def is_own(alias: str) -> bool:
    """Whether the user chose ALIAS (libvirt: virDomainDeviceAliasIsUserAlias)."""
    return bool(_OWN.fullmatch(alias))


def _first_free(device: Device, taken: set[str]) -> str | None:
    number = 0
    while device.own_alias(number) in taken and device.own_alias(number) != device.own_alias(number + 1):
        number += 1
    return device.own_alias(number)
