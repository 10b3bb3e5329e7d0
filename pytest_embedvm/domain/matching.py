"""Which device of a domain is meant: by a description that the user wrote, or by its alias."""

from __future__ import annotations

from dataclasses import replace

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.domain.aliases import is_own
from pytest_embedvm.domain.devices._base import Device
from pytest_embedvm.domain.model import Domain
from pytest_embedvm.errors import ConfigUnsupported, InternalError, OperationUnsupported


def find(domain: Domain, described: Device, *, live: bool) -> Device:
    """The device of DOMAIN, running if LIVE, that is DESCRIBED, and that DOMAIN can lose.

    :raise OperationUnsupported, OperationFailed: when it cannot.
    :raise NoDevice: when there is none.
    """
    _require(described, live=live)
    if described.alias and not live and not is_own(described.alias):
        described = replace(described, alias=None)
    return losing(domain, described.find(domain.devices.all, live=live), live=live)


def with_alias(domain: Domain, alias: str, *, live: bool) -> Device:
    """The device of DOMAIN with this ALIAS, that DOMAIN can lose.

    :raise OperationUnsupported, OperationFailed: when it cannot.
    :raise InternalError: when there is none.
    """
    # libvirt: virDomainDefFindDevice
    named = live or is_own(alias)  # a definition has those names only that the user chose
    found = next((device for device in domain.devices.all if named and device.alias == alias), None)
    if found is None:
        raise InternalError(f"no device found with alias {alias}", origin=ErrorDomain.DOMAIN)
    _require(found, live=live)
    return losing(domain, found, live=live)


def losing(domain: Domain, device: Device, *, live: bool) -> Device:
    """DEVICE, if DOMAIN can lose it."""
    if live:
        device.check_unplug(domain.devices.all)
    return device


def _require(device: Device, *, live: bool) -> None:
    # libvirt: qemuDomainDetachDeviceLive, qemuDomainDetachDeviceConfig
    if live and not device.pluggable:
        raise OperationUnsupported(f"live detach of device '{device.kind_name}' is not supported")
    if not live and not device.configurable:
        raise OperationUnsupported(f"persistent detach of device '{device.kind_name}' is not supported")


def changing(domain: Domain, described: Device, *, live: bool) -> Device:
    """The device of DOMAIN, running if LIVE, that is DESCRIBED and that can be changed.

    :raise ConfigUnsupported, OperationUnsupported: when its kind cannot.
    :raise NoDevice: when there is none.
    """
    # libvirt: qemuDomainUpdateDeviceLive, qemuDomainUpdateDeviceConfig
    if not described.changeable:
        if live:
            sentence = f"live update of device '{described.kind_name}' is not supported"
            raise ConfigUnsupported(sentence, origin=ErrorDomain.QEMU)
        raise OperationUnsupported(f"persistent update of device '{described.kind_name}' is not supported")
    return described.find(domain.devices.all, live=live)


def replaced(domain: Domain, device: Device, by: Device) -> Domain:
    """A copy of DOMAIN that has BY in place of DEVICE."""
    place = next(number for number, other in enumerate(domain.devices.all) if other is device)
    rest = domain.copy()
    rest.devices.all[place] = by
    return rest


def without(domain: Domain, device: Device) -> Domain:
    """A copy of DOMAIN that has no DEVICE."""
    place = next(number for number, other in enumerate(domain.devices.all) if other is device)
    rest = domain.copy()
    del rest.devices.all[place]
    return rest
