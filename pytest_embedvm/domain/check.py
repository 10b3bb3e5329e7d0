"""What crosses kinds and cannot be given: found before anything is started."""

from __future__ import annotations

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.domain.addresses.shapes import UnassignedAddress
from pytest_embedvm.domain.devices._base import Context, Device
from pytest_embedvm.domain.model import Domain
from pytest_embedvm.domain.sections.power import check_actions
from pytest_embedvm.errors import ConfigUnsupported, XMLError


def check(context: Context) -> None:
    """Refuse what neither section nor device alone can see, then let each speak for itself.

    :raise ConfigUnsupported: naming element and value.
    :raise XMLError: where libvirt calls it an error of the XML.
    """
    domain = context.domain
    _check_words(domain)
    domain.os.check(context)
    _check_type(context)
    check_actions(domain.on_poweroff or "", domain.on_reboot or "", domain.on_crash or "")
    for section in domain.sections:
        section.check(context)
    _check_boot_order(domain)
    domain.check_controllers()
    for device in domain.devices.all:
        check_device(device, context)


def check_device(device: Device, context: Context) -> None:
    """Refuse a DEVICE that cannot be given; see `Device.check`."""
    _check_address(device)
    device.check(context)


def _check_type(context: Context) -> None:
    domain = context.domain
    if domain.type not in ("qemu", "kvm"):
        # libvirt: virQEMUCapsCacheLookupDefault
        raise ConfigUnsupported(
            f"Emulator '{domain.devices.emulator}' does not support virt type '{domain.type}'",
            origin=ErrorDomain.QEMU,
        )
    refused = context.host.kvm_refused(domain.devices.emulator or "") if domain.type == "kvm" else None
    if refused:
        raise ConfigUnsupported(
            f"Emulator '{domain.devices.emulator}' does not support virt type 'kvm': {refused}",
            origin=ErrorDomain.QEMU,
        )


def _check_boot_order(domain: Domain) -> None:
    # libvirt: virDomainDefBootOrderPostParse
    orders = [device.own_boot_order for device in domain.devices.all if device.own_boot_order is not None]
    for order in orders:
        if orders.count(order) > 1:
            raise ConfigUnsupported(f"boot order '{order}' used for more than one device")


def _check_address(device: Device) -> None:
    if isinstance(device.address, UnassignedAddress):
        # libvirt: virDomainDeviceInfoValidate's caller; this driver has no hostdevs
        raise ConfigUnsupported("address of type 'unassigned' is supported only for hostdevs")


def _check_words(domain: Domain) -> None:
    # libvirt: virDomainDefPostParseCheck, virXMLCheckIllegalChars; virDomainDefPostParseCommon, virDomainDefParseXML
    if "/" in domain.name:
        raise XMLError(f"name {domain.name} cannot contain '/'", origin=ErrorDomain.DOMAIN)
    if domain.title and "\n" in domain.title:
        raise XMLError("Domain title can't contain newlines", origin=ErrorDomain.DOMAIN)
    if not domain.memory:
        raise XMLError(
            "Memory size must be specified via <memory> or in the <numa> configuration", origin=ErrorDomain.DOMAIN
        )
