"""One more device for a domain: read by itself, then completed as if it had stood in the domain's XML."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.domain import aliases, check, complete, implicit
from pytest_embedvm.domain.addresses.shapes import PciAddress
from pytest_embedvm.domain.definition import unknown_in
from pytest_embedvm.domain.devices import KINDS
from pytest_embedvm.domain.devices._base import Context, Device
from pytest_embedvm.domain.host import Host
from pytest_embedvm.domain.model import Completed, Devices, Domain
from pytest_embedvm.errors import ConfigUnsupported, InternalError, OperationUnsupported, XMLError
from pytest_embedvm.xml import document, mapping


def parse(text: str) -> tuple[Device, list[str]]:
    """The device that TEXT describes, and what of it libvirt's schema does not know.

    :raise XMLSyntaxError: when TEXT is not well formed.
    :raise XMLError: when it is no device, or a value is not valid.
    :raise ConfigUnsupported: when it asks for what libvirt knows and this driver cannot give.
    """
    root = document.parse_fragment(text, "device_definition")
    tag = root.tag if isinstance(root.tag, str) else ""
    seen = mapping.Seen()
    if tag not in KINDS:
        unknown_in([(("domain", "devices", tag), "")])  # one that is libvirt's is refused by its name
        # libvirt: virDomainDeviceDefParse
        raise ConfigUnsupported(f"unknown device type '{tag}'", origin=ErrorDomain.DOMAIN)
    device = mapping.read(KINDS[tag], root, seen)
    unread = ((("domain", "devices", *path), value) for path, value in mapping.unread(root, seen))
    return device, unknown_in(unread)


def define(domain: Domain, device: Device, host: Host) -> Completed:
    """The definition DOMAIN with DEVICE in it; DOMAIN and DEVICE stay as they are.

    :raise OperationUnsupported: when a definition cannot get a device of this kind.
    :raise OperationInvalid: when something in it is in the way.
    """
    if not device.configurable:
        raise OperationUnsupported(f"persistent attach of device '{device.kind_name}' is not supported")
    device.check_addition(domain.devices.all, live=False)
    _check_boot_order(domain, device)
    defined = domain.copy()
    defined.devices.all.append(deepcopy(device))
    return complete.complete(defined, host)


@dataclass(frozen=True)
class Addition:
    """What a running domain is to get: DEVICE, and the controllers it needs, which come first."""

    context: Context
    controllers: tuple[Device, ...]
    device: Device

    @property
    def alone(self) -> Domain:
        """A domain that has the device only."""
        domain = self.context.domain
        return Domain(type=domain.type, name=domain.name, devices=Devices(all=[self.device]))

    def number_nodes(self) -> None:
        """Give the device's block nodes numbers that no other device has."""
        others = (other for other in self.context.domain.devices.all if other is not self.device)
        self.device.renumber_nodes(max((other.last_node for other in others), default=0))


def add(live: Completed, device: Device, host: Host) -> Addition:
    """DEVICE as the running domain LIVE would get it; both stay as they are.

    :raise OperationUnsupported: when it cannot be plugged into a running domain.
    :raise OperationFailed: when something in LIVE is in the way.
    :raise InternalError: when there is no place for it.
    :raise ConfigUnsupported, XMLError: as for a domain that is defined with it.
    """
    if not device.pluggable:
        raise OperationUnsupported(f"live attach of device '{device.kind_name}' is not supported")
    domain, device = live.copy(), deepcopy(device)
    before = list(domain.devices.all)
    device.check_addition(before, live=True)
    _check_boot_order(domain, device)
    context = Context(domain, host.capabilities(domain.devices.emulator or ""), host, plugging=True)
    insert(domain, device)
    device.prepare(context)
    device.complete(context)
    device.check_plug()
    implicit.add_controllers(context)
    domain.check_controllers()
    implicit.plug_addresses(context)
    _check_bus(domain, device)
    new = [other for other in domain.devices.all if not any(other is old for old in before)]
    controllers = tuple(other for other in new if other is not device)
    for other in (*controllers, device):
        check.check_device(other, context)
    aliases.assign_new(domain, (*controllers, device))
    for other in (*controllers, device):
        other.settle(context)
    return Addition(context, controllers, device)


def _check_bus(domain: Domain, device: Device) -> None:
    """Refuse an address of the user's on a bus that takes nothing new while the machine runs."""
    address = device.address
    if not isinstance(address, PciAddress):
        return
    # libvirt: virDomainPCIAddressFlagsCompatible, virDomainPCIAddressEnsureAddr
    bus = domain.controller("pci", address.bus)
    if bus.model == "pcie-root" or bus.hotplug is False:
        raise XMLError(
            f"The device at PCI address {address} requires hotplug capability, "
            f"but the PCI controller with index='{address.bus}' doesn't support hotplug",
            origin=ErrorDomain.DOMAIN,
        )
    if address.function:
        raise InternalError("Only PCI device addresses with function=0 are supported", origin=ErrorDomain.DOMAIN)


def insert(domain: Domain, device: Device) -> None:
    """Put DEVICE among those of its kind in DOMAIN, where it belongs."""
    same = [other for other in domain.devices.all if type(other) is type(device)]
    device.arrange(same)
    domain.devices.all = [other for other in domain.devices.all if type(other) is not type(device)] + same


def _check_boot_order(domain: Domain, device: Device) -> None:
    # libvirt: virDomainDefCompatibleDevice
    order = device.own_boot_order
    if order is None:
        return
    if domain.os.boot:
        raise ConfigUnsupported("per-device boot elements cannot be used together with os/boot elements")
    if any(other.own_boot_order == order for other in domain.devices.all):
        raise ConfigUnsupported(f"boot order {order} is already used by another device")
