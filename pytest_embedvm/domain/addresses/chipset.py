"""What a machine type has built in, which decides where devices can go and which are there unasked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal

#: A place on the root bus: slot and function.
Place = tuple[int, int]


@dataclass(frozen=True)
class Builtin:
    """A controller with index 0 that the board has: where it is, and what libvirt says of another place."""

    place: Place
    sentence: str
    models: tuple[str | None, ...] = (None,)


@dataclass(frozen=True)
class Seat:
    """Where on the root bus a device belongs: the first free of `places`.

    With a `sentence`, it can be nowhere else, and that is what libvirt says of an address elsewhere.
    """

    places: tuple[Place, ...]
    sentence: str | None = None
    #: Whether it comes before all others when its places are taken.
    goes_first: bool = False


@dataclass(frozen=True)
class Chipset:
    """A board. The default is one without PCI."""

    root: Literal["pci-root", "pcie-root"] | None = None
    #: Functions of the root bus that hold devices which are in no domain's XML.
    reserved: tuple[Place, ...] = ()
    #: Where the firmware looks for the first video card.
    video: Seat | None = None
    sound: Seat | None = None
    #: Where real boards have a USB 2 controller, and a bridge to conventional PCI.
    usb2: Seat | None = None
    bridge: Seat | None = None
    #: Controllers on the board, by type.
    builtin: Mapping[str, Builtin] = field(default_factory=dict)
    #: Controllers with index 0 that a domain has unasked, in libvirt's order, beside USB and the PCI root.
    implicit: tuple[str, ...] = ()
    #: Models of the USB controller that a domain has unasked; the first that QEMU has.
    usb_models: tuple[str, ...] = ()

    @property
    def is_express(self) -> bool:
        """Whether the root bus is PCI Express."""
        return self.root == "pcie-root"


# libvirt: qemuDomainValidateDevicePCISlotsPIIX3, qemuDomainDefAddDefaultDevices
_I440FX: Final = Chipset(
    root="pci-root",
    reserved=((0x01, 0), (0x01, 3)),
    video=Seat(((0x02, 0),), goes_first=True),
    builtin=MappingProxyType(
        {
            "ide": Builtin(
                (0x01, 1), "Primary IDE controller must have PCI address 0:0:1.1", (None, "piix3", "piix4", "ich6")
            ),
            "usb": Builtin((0x01, 2), "PIIX3 USB controller at index 0 must have PCI address 0:0:1.2", ("piix3-uhci",)),
        }
    ),
    usb_models=("piix3-uhci",),
)

# libvirt: qemuDomainValidateDevicePCISlotsQ35, qemuDomainDefAddDefaultDevices
_Q35: Final = Chipset(
    root="pcie-root",
    reserved=((0x1F, 0), (0x1F, 3)),
    video=Seat(((0x01, 0),), goes_first=True),
    sound=Seat(((0x1B, 0),)),
    usb2=Seat(((0x1D, 0), (0x1A, 0))),
    bridge=Seat(((0x1E, 0),)),
    builtin=MappingProxyType({"sata": Builtin((0x1F, 2), "Primary SATA controller must have PCI address 0:0:1f.2")}),
    implicit=("sata",),
    usb_models=("qemu-xhci", "nec-xhci", "ich9-ehci1"),
)

#: By `Os.machine_family`; aarch64's `virt` is Express with nothing on the board.
_CHIPSETS: Final = {"i440fx": _I440FX, "q35": _Q35, "virt": Chipset(root="pcie-root")}


def chipset(family: str) -> Chipset:
    """The board of a machine family; one that is not known (microvm, none) has no PCI."""
    return _CHIPSETS.get(family, Chipset())
