"""Ports of virtio-serial controllers (libvirt: virDomainVirtioSerialAddrSet)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.domain.addresses.shapes import VirtioSerialAddress
from pytest_embedvm.domain.devices._base import Context, Device
from pytest_embedvm.errors import XMLError

#: libvirt: VIR_DOMAIN_DEFAULT_VIRTIO_SERIAL_PORTS
PORTS: Final = 31


def assign(context: Context, add_controller: Callable[[int], object]) -> None:
    """Give every channel a port; a console without one keeps none, QEMU finds it.

    :raise XMLError: when a port the user chose is taken or not there.
    """
    free = _Free(context, add_controller)
    devices = [device for device in context.domain.devices.all if device.bus == "virtio-serial"]
    for device in devices:
        if isinstance(device.address, VirtioSerialAddress) and device.address.port:
            free.take(device.address.controller, device.address.port)
    for device in devices:
        if isinstance(device.address, VirtioSerialAddress) and device.address.port:
            continue
        if not device.finds_own_port:
            device.address = free.next(device)
        elif isinstance(device.address, VirtioSerialAddress):
            free.next(device)  # libvirt: virDomainVirtioSerialAddrAssign finds it one, and throws the answer away
            device.address.port = 0


class _Free:
    """The ports of each controller that are not taken."""

    def __init__(self, context: Context, add_controller: Callable[[int], object]) -> None:
        self._sizes = {i: ports or PORTS for i, ports in context.domain.virtio_serial_ports().items()}
        self._ports = {i: set(range(size)) for i, size in self._sizes.items()}
        self._add_controller = add_controller

    def take(self, controller: int, port: int) -> None:
        if controller not in self._ports:
            raise XMLError(f"virtio serial controller {controller} is missing", origin=ErrorDomain.DOMAIN)
        if port not in self._ports[controller]:
            raise XMLError(
                f"virtio serial controller {controller} does not have port {port}"
                if port >= self._sizes[controller]
                else f"virtio serial port {port} on controller {controller} is already occupied",
                origin=ErrorDomain.DOMAIN,
            )
        self._ports[controller].remove(port)

    def next(self, device: Device) -> VirtioSerialAddress:
        wanted = device.address
        among = [wanted.controller] if isinstance(wanted, VirtioSerialAddress) else sorted(self._ports)
        for index in among:
            usable = [port for port in sorted(self._ports.get(index, ())) if port]  # 0 is for a console
            if usable:
                self.take(index, usable[0])
                return VirtioSerialAddress(controller=index, port=usable[0])
        if isinstance(wanted, VirtioSerialAddress):
            raise XMLError(
                f"Unable to find a free port on virtio-serial controller {wanted.controller}", origin=ErrorDomain.DOMAIN
            )
        new = next(i for i in range(len(self._ports) + 1) if i not in self._ports)
        self._add_controller(new)
        self._sizes[new], self._ports[new] = PORTS, set(range(PORTS))
        return self.next(device)
