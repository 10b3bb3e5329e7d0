"""Ports of USB controllers and hubs (libvirt: virDomainUSBAddressSet)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.domain.addresses.shapes import UsbAddress
from pytest_embedvm.domain.devices._base import Context, Device
from pytest_embedvm.errors import ConfigUnsupported, InternalError, XMLError

#: libvirt: VIR_DOMAIN_USB_HUB_PORTS, VIR_DOMAIN_DEVICE_USB_MAX_PORT_DEPTH
HUB_PORTS: Final = 8
DEPTH: Final = 4


def assign(context: Context, add_hub: Callable[[], None]) -> None:
    """Give every USB device a port, adding hubs where there are too few.

    :raise XMLError: when a port the user chose is taken or not there.
    :raise ConfigUnsupported: when the domain has USB devices and no USB.
    """
    # libvirt: qemuDomainAssignUSBAddresses
    domain = context.domain
    _add_hubs(context, add_hub)
    ports = _Ports(domain.usb_ports())
    hubs = [device for device in domain.devices.all if device.bus == "usb" and device.usb_ports]
    others = [device for device in domain.devices.all if device.bus == "usb" and not device.usb_ports]
    for device in (*hubs, *others):
        if _is_given(device):
            ports.take(device)
    for device in (*hubs, *others):
        if not _is_given(device):
            ports.find(device)


def _is_given(device: Device) -> bool:
    return isinstance(device.address, UsbAddress) and bool(device.address.port)


def _add_hubs(context: Context, add_hub: Callable[[], None]) -> None:
    # libvirt: qemuDomainUSBAddressAddHubs
    devices = [device for device in context.domain.devices.all if device.bus == "usb"]
    buses = context.domain.usb_ports()
    if devices and not buses:
        raise ConfigUnsupported(
            "USB is disabled for this domain, but USB devices are present in the domain XML", origin=ErrorDomain.QEMU
        )
    there = sum(buses.values()) + sum(device.usb_ports for device in devices)
    missing = len(devices) - there
    if missing > 0:
        for _ in range(-(-(missing + 1) // (HUB_PORTS - 1))):
            add_hub()


@dataclass
class _Hub:
    """What has ports: a controller, or a hub in a port of another."""

    size: int
    taken: set[int] = field(default_factory=set)
    hubs: dict[int, _Hub] = field(default_factory=dict)

    def free_path(self, depth: int = 1) -> list[int] | None:
        # libvirt: virDomainUSBAddressFindFreePort
        free = next((port for port in range(1, self.size + 1) if port not in self.taken), None)
        if free is not None:
            return [free]
        if depth >= DEPTH:
            return None
        for port, hub in sorted(self.hubs.items()):
            path = hub.free_path(depth + 1)
            if path:
                return [port, *path]
        return None


class _Ports:
    def __init__(self, buses: dict[int, int]) -> None:
        self._buses = {bus: _Hub(ports) for bus, ports in sorted(buses.items())}

    def take(self, device: Device) -> None:
        """Take the port of DEVICE's address."""
        address = device.address
        if not isinstance(address, UsbAddress) or not address.port:
            return
        where, path = f"bus {address.bus} port {address.port}", [int(p) for p in address.port.split(".")]
        hub = self._hub(address, path)
        port = path[-1]
        if port > hub.size:
            raise XMLError(
                f"requested USB port {address.port} not present on USB bus {address.bus}", origin=ErrorDomain.DOMAIN
            )
        if port in hub.taken:
            what = "hub on" if device.usb_ports else "address"
            raise XMLError(f"Duplicate USB {what} {where}", origin=ErrorDomain.DOMAIN)
        hub.taken.add(port)
        if device.usb_ports:
            hub.hubs[port] = _Hub(device.usb_ports)

    def _hub(self, address: UsbAddress, path: list[int]) -> _Hub:
        # libvirt: virDomainUSBAddressFindPort
        hub = self._buses.get(address.bus)
        if hub is None:
            raise XMLError(f"Missing USB bus {address.bus}", origin=ErrorDomain.DOMAIN)
        for port in path[:-1]:
            if port not in hub.hubs:
                fault = "port {} out of range in" if port > hub.size else "there is no hub at port {} in"
                raise XMLError(
                    f"{fault.format(port)} USB address bus: {address.bus} port: {address.port}",
                    origin=ErrorDomain.DOMAIN,
                )
            hub = hub.hubs[port]
        return hub

    def find(self, device: Device) -> None:
        """Give DEVICE the first free port, on the bus it asks for or on any."""
        buses = self._buses
        if isinstance(device.address, UsbAddress):
            bus = device.address.bus
            if bus not in buses:
                raise XMLError(
                    f"USB bus {bus} requested but no controller with that index is present", origin=ErrorDomain.DOMAIN
                )
            buses = {bus: buses[bus]}
        for bus, hub in buses.items():
            path = hub.free_path()
            if path:
                device.address = UsbAddress(bus=bus, port=".".join(map(str, path)))
                self.take(device)
                return
        raise InternalError("No free USB ports", origin=ErrorDomain.DOMAIN)
