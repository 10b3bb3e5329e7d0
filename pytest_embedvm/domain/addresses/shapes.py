"""Where a device can sit: the shapes of `<address type='…'>`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Final, TypeAlias

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.errors import XMLError
from pytest_embedvm.xml.mapping import At, Variants
from pytest_embedvm.xml.scalars import OnOff, Scalar, Where, Whole

_USB_PORT: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}){0,3}")


class _PciNumber(Scalar[int]):
    """A part of a PCI address: hexadecimal, within its width."""

    def __init__(self, digits: int, highest: int) -> None:
        self.digits, self.highest = digits, highest

    def read(self, text: str, where: Where) -> int:
        value = Whole().read(text, where)
        if value > self.highest:
            # libvirt: virPCIDeviceAddressIsValid
            raise XMLError(
                f"Invalid PCI address {where.attribute}='0x{value:x}', must be <= 0x{self.highest:X}",
                origin=ErrorDomain.NONE,
            )
        return value

    def write(self, value: int) -> str:
        return f"0x{value:0{self.digits}x}"


@dataclass(kw_only=True)
class PciAddress:
    """A PCI address; a `None` slot means "anywhere on this bus"."""

    domain: Annotated[int, _PciNumber(4, 0xFFFF)] = 0
    bus: Annotated[int, _PciNumber(2, 0xFF)] = 0
    slot: Annotated[int | None, _PciNumber(2, 0x1F)] = None
    function: Annotated[int, _PciNumber(1, 7)] = 0
    multifunction: Annotated[bool | None, OnOff()] = None

    def __str__(self) -> str:
        return f"{self.domain:04x}:{self.bus:02x}:{self.slot or 0:02x}.{self.function:x}"


@dataclass(kw_only=True)
class DriveAddress:
    """A place on a disk controller."""

    controller: int = 0
    bus: int = 0
    target: int = 0
    unit: int = 0


@dataclass(kw_only=True)
class VirtioSerialAddress:
    """A port of a virtio-serial controller."""

    controller: int = 0
    bus: int = 0
    port: int | None = None


class _UsbPort(Scalar[str]):
    """Up to four numbers: ports of hubs behind each other."""

    def read(self, text: str, where: Where) -> str:
        # libvirt: virDomainDeviceUSBAddressParsePort
        if text and not _USB_PORT.fullmatch(text):
            raise XMLError("Cannot parse <address> 'port' attribute", origin=ErrorDomain.DOMAIN)
        return text

    def write(self, value: str) -> str:
        return value


@dataclass(kw_only=True)
class UsbAddress:
    """A port of a USB controller: `1`, or `1.2` behind a hub."""

    bus: int = 0
    port: Annotated[str | None, _UsbPort()] = None


@dataclass(kw_only=True)
class IsaAddress:
    """I/O port and interrupt of an ISA device."""

    iobase: Annotated[int | None, Whole(digits=1)] = None
    irq: Annotated[int | None, Whole(digits=1)] = None


@dataclass(kw_only=True)
class UnassignedAddress:
    """The user keeps the device off every bus for now."""


Address: TypeAlias = PciAddress | DriveAddress | VirtioSerialAddress | UsbAddress | IsaAddress | UnassignedAddress

ADDRESSES: Final[dict[str, type]] = {
    "pci": PciAddress,
    "drive": DriveAddress,
    "virtio-serial": VirtioSerialAddress,
    "usb": UsbAddress,
    "isa": IsaAddress,
    "unassigned": UnassignedAddress,
}

#: The annotation of every device's address.
AddressSlot: TypeAlias = Annotated[Address | None, At("address"), Variants("type", ADDRESSES)]
