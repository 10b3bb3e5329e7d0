"""What every kind of device says of itself, and what it may see while it does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pytest_embedvm.domain.addresses.placing import place
from pytest_embedvm.domain.addresses.shapes import AddressSlot
from pytest_embedvm.domain.host import Host
from pytest_embedvm.qemu.capabilities import Capabilities
from pytest_embedvm.qemu.parts import Json, Part
from pytest_embedvm.xml.mapping import At

if TYPE_CHECKING:
    from pytest_embedvm.domain.model import Domain

#: What a device plugs into. `pcie`: a PCI Express endpoint where the machine has such ports, a conventional slot
#: where not (libvirt: qemuDomainDeviceCalculatePCIConnectFlags, "virtioFlags"); `pci`: a conventional device;
#: `pcie-root`: one that is integrated into the root complex.
Bus = Literal["pcie", "pci", "pcie-root", "drive", "virtio-serial", "usb", "isa"]

#: What `<boot dev='…'/>` calls a device.
BootClass = Literal["hd", "cdrom", "fd", "network"]


@dataclass(frozen=True)
class Context:
    """The domain a device belongs to, the QEMU it is meant for, the host it will run on."""

    domain: Domain
    capabilities: Capabilities
    host: Host

    @property
    def is_q35(self) -> bool:
        """Whether the machine's root bus is PCI Express."""
        return self.domain.os.machine_family in ("q35", "virt")

    def controller_alias(self, kind: str, index: int) -> str:
        """The alias of the controller of this KIND and INDEX, which is also QEMU's name for its bus."""
        return self.domain.controller(kind, index).alias or ""

    def boot_index(self, device: Device) -> dict[str, Json]:
        """QEMU's `bootindex` for DEVICE: its own `<boot order>`, or its class's turn in `<os>`; or nothing."""
        index = device.own_boot_order
        if index is None and device.boot_class is not None:
            index = self._turn(device, device.boot_class)
        return {} if index is None else {"bootindex": index}

    def _turn(self, device: Device, boot_class: BootClass) -> int | None:
        # libvirt: qemuProcessPrepareDeviceBootorder: <boot dev> names the first device of its class
        if any(other.own_boot_order is not None for other in self.domain.devices.all):
            return None
        first = next(other for other in self.domain.devices.all if other.boot_class == boot_class)
        order = [boot.dev for boot in self.domain.os.boot]
        return order.index(boot_class) + 1 if first is device and boot_class in order else None


@dataclass(kw_only=True)
class Device:
    """A device of a domain: a plain dataclass whose fields are its XML."""

    #: The word before the number in its alias (libvirt: qemu_alias.c).
    alias_prefix: ClassVar[str]

    alias: Annotated[str | None, At("alias/@name")] = None
    address: AddressSlot = None

    @classmethod
    def implied(cls, context: Context) -> Iterable[Device]:
        """Devices that libvirt adds to a domain which does not name them, seen before any is completed."""
        return ()

    def complete(self, context: Context) -> None:
        """Fill in what the user left open and libvirt fills in: models, MAC addresses, controllers' indexes."""

    def check(self, context: Context) -> None:
        """Refuse what cannot be given.

        :raise ConfigUnsupported: naming the element and its value.
        :raise XMLError: where libvirt calls it an error of the XML.
        """

    def settle(self, context: Context) -> None:
        """Take over what other devices have been given; called last, when all have aliases and addresses."""

    def forget_live(self) -> None:
        """Drop what only a running domain has (libvirt: VIR_DOMAIN_XML_INACTIVE); the alias is dropped by others."""

    @property
    def bus(self) -> Bus | None:
        """What it plugs into; None for what has no address."""
        return None

    @property
    def is_display(self) -> bool:
        """Whether it is a way to see the guest's screen, so that QEMU needs no `-display none`."""
        return False

    @property
    def boot_class(self) -> BootClass | None:
        """What `<boot dev='…'/>` calls it; None for what nothing boots from."""
        return None

    @property
    def own_boot_order(self) -> int | None:
        """Its `<boot order='…'/>`, for kinds that have one."""
        return None

    def own_alias(self, number: int) -> str:
        """Its alias, if NUMBER is the first that is free for its prefix."""
        return f"{self.alias_prefix}{number}"

    def parts(self, context: Context) -> Iterable[Part]:
        """What QEMU needs for it, in the order of the command line."""
        raise NotImplementedError

    @property
    def id(self) -> str:
        """Its alias, once it has one: QEMU's id for it."""
        return self.alias or ""

    def place(self, context: Context) -> dict[str, Json]:
        """QEMU's properties for where it sits: `bus` and `addr`, `port`, or none."""
        return {} if self.address is None else place(self.address, context.controller_alias)
