"""Aliases: a name for each device that is unique in the domain."""

from __future__ import annotations

import re
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


def is_own(alias: str) -> bool:
    """Whether the user chose ALIAS (libvirt: virDomainDeviceAliasIsUserAlias)."""
    return bool(_OWN.fullmatch(alias))


def _first_free(device: Device, taken: set[str]) -> str | None:
    number = 0
    while device.own_alias(number) in taken and device.own_alias(number) != device.own_alias(number + 1):
        number += 1
    return device.own_alias(number)
