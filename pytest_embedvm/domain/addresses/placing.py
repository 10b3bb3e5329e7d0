"""An address in QEMU's properties: which bus, and where on it."""

from __future__ import annotations

from collections.abc import Callable

from pytest_embedvm.domain.addresses.shapes import (
    Address,
    IsaAddress,
    PciAddress,
    UsbAddress,
    VirtioSerialAddress,
)
from pytest_embedvm.qemu.parts import Json

#: The alias of the controller of a type and an index.
ControllerAlias = Callable[[str, int], str]


def place(address: Address, controller: ControllerAlias) -> dict[str, Json]:
    """QEMU's properties for ADDRESS; a drive's depend on the disk, which says its own."""
    match address:
        case PciAddress():
            return _pci(address, controller("pci", address.bus))
        case VirtioSerialAddress():
            return {"bus": f"{controller('virtio-serial', address.controller)}.{address.bus}", "nr": address.port}
        case UsbAddress():
            return {"bus": f"{controller('usb', address.bus)}.0", "port": address.port}
        case IsaAddress():
            numbers = {"iobase": address.iobase, "irq": address.irq}
            return {name: number for name, number in numbers.items() if number is not None}
        case _:
            return {}


def _pci(address: PciAddress, bus: str) -> dict[str, Json]:
    # libvirt: qemuBuildDeviceAddresPCIGetBus
    function = f".0x{address.function:x}" if address.function else ""
    props: dict[str, Json] = {"bus": bus}
    if address.multifunction is not None:
        props["multifunction"] = address.multifunction
    return props | {"addr": f"0x{address.slot or 0:x}{function}"}
