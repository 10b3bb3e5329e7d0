"""What every kind of device says of itself, and what it may see while it does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum, auto
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal, Self

from pytest_embedvm.domain.addresses.chipset import Chipset, Seat, chipset
from pytest_embedvm.domain.addresses.placing import place
from pytest_embedvm.domain.addresses.shapes import AddressSlot, VirtioSerialAddress
from pytest_embedvm.domain.backends.source import BackingStore, NeededFile, Source
from pytest_embedvm.domain.devices._resemblance import resembles
from pytest_embedvm.domain.host import Host
from pytest_embedvm.errors import EmbedError, NoDevice
from pytest_embedvm.qemu.capabilities import Capabilities
from pytest_embedvm.qemu.parts import Command, Json, Part
from pytest_embedvm.xml.mapping import At

if TYPE_CHECKING:
    from pytest_embedvm.domain.model import Domain

#: What a device plugs into. `pcie`: a PCI Express endpoint where the machine has such ports, a conventional slot
#: where not (libvirt: qemuDomainDeviceCalculatePCIConnectFlags, "virtioFlags"); `pci`: a conventional device;
#: `pcie-root`: one that is integrated into the root complex.
#: `for …`: a place that takes a PCI controller of that model.
Bus = Literal[
    "pcie", "pci", "pcie-root", "drive", "virtio-serial", "usb", "isa",
    "for pci-bridge", "for pci-expander-bus", "for pcie-expander-bus", "for dmi-to-pci-bridge",
    "for pcie-to-pci-bridge", "for pcie-root-port", "for pcie-switch-upstream-port", "for pcie-switch-downstream-port",
]  # fmt: skip


class PciTurn(IntEnum):
    """Whose turn it is when PCI addresses are given (libvirt: qemuDomainAssignDevicePCISlots)."""

    PCI_CONTROLLER = auto()
    FILESYSTEM = auto()
    INTERFACE = auto()
    SOUND = auto()
    CONTROLLER = auto()
    DISK = auto()
    HOSTDEV = auto()
    MEMBALLOON = auto()
    RNG = auto()
    WATCHDOG = auto()
    VIDEO = auto()
    SHMEM = auto()
    INPUT = auto()
    SERIAL = auto()
    IOMMU = auto()
    VSOCK = auto()
    MEMORY = auto()
    CRYPTO = auto()
    PANIC = auto()
    LAST = auto()


#: The command line's turn of what nothing plugs into.
PLUGGED_IN: Final = 100

#: What `<boot dev='…'/>` calls a device.
BootClass = Literal["hd", "cdrom", "fd", "network"]


@dataclass(frozen=True)
class Context:
    """The domain a device belongs to, the QEMU it is meant for, the host it will run on."""

    domain: Domain
    capabilities: Capabilities
    host: Host
    #: Whether the domain runs already, and the device is to be plugged in.
    plugging: bool = False

    @property
    def is_q35(self) -> bool:
        """Whether the machine's root bus is PCI Express."""
        return self.chipset.is_express

    @property
    def chipset(self) -> Chipset:
        """What the machine type has built in."""
        return chipset(self.domain.os.machine_family)

    @property
    def has_display(self) -> bool:
        """Whether somebody can look at the machine: then it gets a video card, a mouse and a keyboard unasked."""
        return any(device.is_display for device in self.domain.devices.all)

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
        # libvirt: qemuProcessPrepareDeviceBootorder: <boot dev> names the first device of its class at the start
        if self.plugging or any(other.own_boot_order is not None for other in self.domain.devices.all):
            return None
        first = next(other for other in self.domain.devices.all if other.boot_class == boot_class)
        order = [boot.dev for boot in self.domain.os.boot]
        return order.index(boot_class) + 1 if first is device and boot_class in order else None


@dataclass(kw_only=True)
class Device:
    """A device of a domain: a plain dataclass whose fields are its XML."""

    #: The word before the number in its alias (libvirt: qemu_alias.c).
    alias_prefix: ClassVar[str]
    #: Whether QEMU chooses its virtio-serial port, if the user does not.
    finds_own_port: ClassVar[bool] = False

    #: Whether a running domain can get and lose it, and whether a definition can (libvirt: qemuDomainAttachDeviceLive,
    #: qemuDomainAttachDeviceConfig).
    pluggable: ClassVar[bool] = False
    configurable: ClassVar[bool] = False
    #: Whether something of it can change while it is there (libvirt: qemuDomainUpdateDeviceLive).
    changeable: ClassVar[bool] = False

    alias: Annotated[str | None, At("alias/@name")] = None
    address: AddressSlot = None

    @classmethod
    def implied(cls, context: Context) -> Iterable[Device]:
        """Devices of this kind that libvirt adds to the domain unasked, seen before any is completed."""
        return ()

    def arrange(self, devices: list[Device]) -> None:
        """Take its place among DEVICES of its kind, which stand before it in the document; last, unless it knows."""
        devices.append(self)

    @property
    def stands_first(self) -> bool:
        """Whether it was added unasked and stands before those of its kind that were not."""
        return False

    def prepare(self, context: Context) -> None:
        """Fill in what decides which devices are added unasked: called first, in the order of `arrange()`."""

    def complete(self, context: Context) -> None:
        """Fill in what the user left open and libvirt fills in: models, MAC addresses, controllers' indexes."""

    def check(self, context: Context) -> None:
        """Refuse what cannot be given.

        :raise ConfigUnsupported: naming the element and its value.
        :raise XMLError: where libvirt calls it an error of the XML.
        """

    def settle(self, context: Context) -> None:
        """Fill in what follows from aliases and addresses, its own and others'; called last."""

    def forget_live(self) -> None:
        """Drop what only a running domain has (libvirt: VIR_DOMAIN_XML_INACTIVE); the alias is dropped by others."""

    @property
    def bus(self) -> Bus | None:
        """What it plugs into; None for what has no address."""
        return None

    def cpu_props(self, context: Context) -> dict[str, Json]:
        """Properties of -cpu that this device is made of."""
        return {}

    @property
    def keeps_state(self) -> bool:
        """Whether what it remembers stays when a transient domain ends, and when its definition is forgotten."""
        return False

    @property
    def has_firmware_log(self) -> bool:
        """Whether the firmware keeps a log for it in the guest's memory, beside the tables of ACPI."""
        return False

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

    @property
    def command_line_turn(self) -> int:
        """What others plug into stands before them on the command line: it has a lower number than theirs."""
        return PLUGGED_IN

    @property
    def pci_turn(self) -> PciTurn:
        """When it gets its PCI address; kinds on PCI say so."""
        return PciTurn.LAST

    @property
    def usb_ports(self) -> int:
        """How many USB devices it has room for."""
        return 0

    @property
    def pci_function(self) -> int | None:
        """The function it must have in its slot; None for any."""
        return None

    @property
    def pci_slot_mates(self) -> str | None:
        """A name for those who share one slot with it; None for nobody."""
        return None

    def seat(self, chipset: Chipset) -> Seat | None:
        """Where on this board it belongs; None for anywhere."""
        return None

    def needed_controllers(self) -> Iterable[tuple[str, int]]:
        """Type and index of the controllers that libvirt adds for it where they are missing."""
        if self.bus == "virtio-serial":
            address = self.address
            yield "virtio-serial", address.controller if isinstance(address, VirtioSerialAddress) else 0

    def own_alias(self, number: int) -> str | None:
        """Its alias, if NUMBER is the first that is free for its prefix; a kind may have one whatever the number.

        None for a kind that libvirt gives no alias.
        """
        return f"{self.alias_prefix}{number}"

    def needed_files(self) -> Iterable[NeededFile]:
        """The files and block devices of the host that have to be there when the domain starts."""
        return ()

    def without_medium(self) -> Device | None:
        """What is left of it when its medium is not there and the domain is to start all the same; None for nothing."""
        return self

    def has_node(self, name: str) -> bool:
        """Whether QEMU's block node NAME is one of its own."""
        return False

    def missing_volumes(self) -> Iterable[Source]:
        """Those of its sources that are volumes of storage pools and were not found yet."""
        return ()

    def learn_backing(self, below: BackingStore) -> None:
        """The last image of its chain stands on BELOW, as its header says."""

    def number_nodes(self, devices: list[Device]) -> None:
        """Number its block nodes, among those of DEVICES."""

    def clone_obstacle(self) -> str | None:
        """Why a guest that has it cannot be cloned; None where it can."""
        return None

    def renew(self, new_mac: Callable[[], str]) -> None:
        """Be the same device of another machine: addresses that no two may have are new."""

    def written_image(self) -> NeededFile | None:
        """The image that the guest writes to through it."""
        return None

    def write_to(self, path: str) -> None:
        """Have the guest write to the qcow2 image at PATH instead."""

    def environment(self, context: Context) -> Mapping[str, str]:
        """What it adds to QEMU's environment."""
        return {}

    def parts(self, context: Context) -> Iterable[Part]:
        """What QEMU needs for it, in the order of the command line."""
        raise NotImplementedError

    def spell_password(self, spell: Callable[[str], str | None]) -> None:
        """Write its password, if the domain's XML says one, as SPELL does."""

    @property
    def has_password(self) -> bool:
        """Whether the domain's XML says a password of it."""
        return False

    def commands(self, context: Context) -> Iterable[Command]:
        """QMP commands that are due once QEMU is up, before the guest runs for the first time."""
        return ()

    def check_plug(self) -> None:
        """Refuse to be plugged into a running domain; called once it is completed.

        :raise OperationUnsupported: in libvirt's words.
        """

    def check_unplug(self, others: Iterable[Device]) -> None:
        """Refuse to be taken from a running domain, whose devices are OTHERS.

        :raise OperationUnsupported, OperationFailed: in libvirt's words.
        """

    def check_addition(self, others: Iterable[Device], *, live: bool) -> None:
        """Refuse to be added to a domain, running if LIVE, in whose OTHERS something is in its way.

        :raise OperationInvalid, OperationFailed: in libvirt's words.
        """

    def find(self, others: Iterable[Device], *, live: bool) -> Device:
        """The one of OTHERS that this one, as a user wrote it to have it detached, describes.

        :param live: whether OTHERS are those of a running domain.
        :raise NoDevice: when there is none; some kinds' errors in definitions are others.
        :raise OperationFailed: when there are several.
        """
        found = next((other for other in others if resembles(self, other)), None)
        if found is None:
            raise self.missing(live=live)
        return found

    def missing(self, *, live: bool) -> EmbedError:
        """What libvirt says when a domain, running if LIVE, has no device like this one."""
        return NoDevice(f"matching {self.kind_name} device not found")

    def redefined(self, described: Self) -> Self:
        """What a definition has instead of this device, which a user DESCRIBED anew: what that says, in its place."""
        return replace(described, address=described.address or self.address, alias=described.alias or self.alias)

    def updated(self, described: Self) -> Self:
        """A copy of this device, which runs, changed to what a user DESCRIBED.

        :raise OperationUnsupported: when it cannot be changed so.
        """
        raise NotImplementedError

    def update_commands(self) -> Iterable[Command]:
        """QMP commands that make the running device what it is after an update, beside its medium."""
        return ()

    def has_medium_of(self, other: Self) -> bool:
        """Whether the same medium is in it as in OTHER, itself before or after an update."""
        return True

    def learn_tray(self, *, is_open: bool) -> None:
        """The guest, or somebody for it, has opened or closed its tray."""

    @property
    def kind_name(self) -> str:
        """Libvirt's word for the kind (virDomainDeviceTypeToString)."""
        return type(self).__name__.lower()

    @property
    def last_node(self) -> int:
        """The highest number of its block nodes; 0 if it has none."""
        return 0

    @property
    def top_node(self) -> str | None:
        """QEMU's node that the guest reads from; None for a device without one, and for an empty drive."""
        return None

    def renumber_nodes(self, after: int) -> None:
        """Number its block nodes from the one AFTER on."""

    @property
    def id(self) -> str:
        """Its alias, once it has one: QEMU's id for it."""
        return self.alias or ""

    def place(self, context: Context) -> dict[str, Json]:
        """QEMU's properties for where it sits: `bus` and `addr`, `port`, or none."""
        return {} if self.address is None else place(self.address, context.controller_alias)
