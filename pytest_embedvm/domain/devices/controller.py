"""`<controller>`: what other devices plug into."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Final, Literal, cast

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.domain.addresses.chipset import Chipset, Seat
from pytest_embedvm.domain.addresses.shapes import PciAddress
from pytest_embedvm.domain.backends.virtio import VirtioOptions, given
from pytest_embedvm.domain.devices import _controller_plugging as plugging
from pytest_embedvm.domain.devices._base import Bus, Context, Device, PciTurn
from pytest_embedvm.domain.devices._controller_checks import check_controller
from pytest_embedvm.domain.devices._controller_models import (
    COMPANIONS,
    DEFAULT_PCI_NAMES,
    DEVICE_ALIASES,
    PLUGGED_SCSI,
    ROOTS,
    START_PORTS,
    USB_PORTS,
    XHCI,
    PciName,
    driver,
)
from pytest_embedvm.errors import ConfigUnsupported, InternalError, XMLSyntaxError
from pytest_embedvm.qemu.parts import DevicePart, Json, Part, option
from pytest_embedvm.xml.mapping import At
from pytest_embedvm.xml.scalars import Memory, OnOff, Unsigned, Whole

#: libvirt: qemuBuildControllersCommandLine's contOrder
_COMMAND_LINE_TURNS: Final = ("pci", "usb", "scsi", "ide", "sata", "virtio-serial", "ccid", "fdc")


ControllerType = Literal["ide", "fdc", "scsi", "sata", "virtio-serial", "ccid", "usb", "pci", "xenbus", "isa"]


#: PCI bus numbers have eight bits.
MAX_BUSES: Final = 256

#: QEMU's name of what libvirt calls otherwise.
_SCSI_OPTIONS: Final = {
    "num_queues": "queues",
    "cmd_per_lun": "cmd_per_lun",
    "max_sectors": "max_sectors",
    "ioeventfd": "ioeventfd",
}


@dataclass(kw_only=True)
class Driver(VirtioOptions):
    """`<driver>`: how a virtio controller works."""

    queues: int | None = None
    cmd_per_lun: int | None = None
    max_sectors: int | None = None
    ioeventfd: Annotated[bool | None, OnOff()] = None

    def scsi_props(self) -> dict[str, Json]:
        """QEMU's properties of virtio-scsi."""
        return given({name: getattr(self, ours) for name, ours in _SCSI_OPTIONS.items()})


@dataclass(kw_only=True)
class Controller(Device):
    alias_prefix: ClassVar[str] = "controller"
    pluggable: ClassVar[bool] = True
    configurable: ClassVar[bool] = True

    type: ControllerType = "ide"
    index: int = -1
    model: str | None = None
    ports: int | None = None
    vectors: int | None = None
    driver: Driver | None = None
    pcihole64: Annotated[int | None, At("pcihole64"), Memory()] = None  # KiB
    model_name: Annotated[PciName | None, At("model/@name")] = None
    chassis_number: Annotated[int | None, At("target/@chassisNr")] = None
    chassis: Annotated[int | None, At("target/@chassis")] = None
    port: Annotated[int | None, At("target/@port"), Whole(digits=1)] = None
    bus_number: Annotated[int | None, At("target/@busNr")] = None
    hotplug: Annotated[bool | None, At("target/@hotplug"), OnOff()] = None
    alias: Annotated[str | None, At("alias/@name")] = None
    start_port: Annotated[int | None, At("master/@startport"), Unsigned()] = None
    #: Part of the board: it has a place and a name, and QEMU needs not be told of it.
    is_builtin: bool = field(default=False, metadata={"xml": False})
    #: Of a PCI controller: how many others are between it and the root.
    depth: int = field(default=0, metadata={"xml": False})

    @classmethod
    def implied(cls, context: Context) -> Iterable[Device]:
        # libvirt: qemuDomainDefAddDefaultDevices
        there = _controllers(context)
        chipset = context.chipset
        usb = next((m for m in chipset.usb_models if context.capabilities.has_device(driver("usb", m))), None)
        if usb and not any((d.type, d.index) == ("usb", 0) for d in there):
            yield cls(type="usb", index=0, model=usb)
        for kind in chipset.implicit:
            if not any((d.type, d.index) == (kind, 0) for d in there):
                yield cls(type=cast("ControllerType", kind), index=0)
        if chipset.root and not any((d.type, d.index) == ("pci", 0) for d in there):
            yield cls(type="pci", index=0, model=chipset.root)

    def arrange(self, devices: list[Device]) -> None:
        # libvirt: virDomainControllerInsertPreAlloced: by index within a type, those without one where they are
        def comes_after(other: Device) -> bool:
            if not isinstance(other, Controller) or other.type != self.type or self.index == -1:
                return False
            if other.index == self.index:
                return other.start_port is not None and self.start_port is None
            return other.index > self.index

        same = [i for i, d in enumerate(devices) if isinstance(d, Controller) and d.type == self.type]
        place = next((i for i in same if comes_after(devices[i])), same[-1] + 1 if same else len(devices))
        devices.insert(place, self)

    def prepare(self, context: Context) -> None:
        if self.index == -1:
            self.index = self._free_index(context)

    def complete(self, context: Context) -> None:
        builtin = context.chipset.builtin.get(self.type)
        if self.model is None:
            self.model = self._default_model(context)
        if self.start_port is None and self._has_master(context):
            self.start_port = START_PORTS.get(self.model or "")
        self.is_builtin = (
            self.index == 0 and builtin is not None and self.model in builtin.models and self.type != "usb"
        )

    def _free_index(self, context: Context) -> int:
        # libvirt: virDomainAssignControllerIndexes
        others = [c for c in _controllers(context) if c.type == self.type]
        if self.model in COMPANIONS:
            here = next(i for i, d in enumerate(others) if d is self)
            begun = others[here - 1] if here else self
            if begun.model in COMPANIONS and not any((d.index, d.model) == (begun.index, self.model) for d in others):
                return max(begun.index, 0)
        taken = {d.index for d in others}
        return next(i for i in range(len(taken) + 1) if i not in taken)

    def _has_master(self, context: Context) -> bool:
        """Whether the USB 2 controller that this one helps is there."""
        return any((c.type, c.index, c.model) == ("usb", self.index, "ich9-ehci1") for c in _controllers(context))

    def _default_model(self, context: Context) -> str | None:
        # libvirt: qemuDomainControllerDefPostParse, qemuDomainDefaultSCSIControllerModel
        if self.type == "usb" and context.capabilities.has_device("piix3-usb-uhci"):
            return "piix3-uhci"
        if self.type == "scsi":
            if context.plugging:
                return PLUGGED_SCSI
            return "lsilogic" if context.capabilities.has_device("lsi53c895a") else "virtio-scsi"
        return context.chipset.root if self.type == "pci" and self.index == 0 else None

    def check(self, context: Context) -> None:
        check_controller(self, context)
        if self.type == "usb":
            self._check_master(context)
        self._check_driver()
        name = self._driver(context)
        if name and name not in DEVICE_ALIASES and not self.is_builtin:
            context.capabilities.require_device(name)

    def _check_master(self, context: Context) -> None:
        if self.model not in START_PORTS or self._has_master(context):
            return
        if self.start_port is None and all(d.model != "ich9-ehci1" for d in _controllers(context)):
            raise XMLSyntaxError("No master USB controller specified")  # libvirt: virDomainDefPostParseInternal's USB
        raise InternalError("masterbus not found", origin=ErrorDomain.QEMU)  # libvirt: qemuBuildUSBControllerDevProps

    def _check_driver(self) -> None:
        # libvirt: qemuValidateDomainDeviceDefControllerSCSI
        virtio = (self.model or "").startswith("virtio")
        if self.driver and not virtio and self.type != "virtio-serial":
            self.driver.check_absent()
        for name in self.driver.scsi_props() if self.driver else ():
            if self.type != "scsi" or not virtio:
                raise ConfigUnsupported(
                    f"'{_SCSI_OPTIONS[name]}' is only supported by virtio-scsi controller", origin=ErrorDomain.QEMU
                )

    def check_addition(self, others: Iterable[Device], *, live: bool) -> None:
        plugging.check_addition(self, [other for other in others if isinstance(other, Controller)], live=live)

    def check_plug(self) -> None:
        plugging.check_plug(self)

    def check_unplug(self, others: Iterable[Device]) -> None:
        plugging.check_unplug(self, others)

    def find(self, others: Iterable[Device], *, live: bool) -> Device:
        return plugging.find(self, [other for other in others if isinstance(other, Controller)], live=live)

    @property
    def bus(self) -> Bus | None:
        # libvirt: qemuDomainDeviceCalculatePCIConnectFlags
        if self.type in ("fdc", "ccid") or self.model in ("none", *ROOTS):
            return None
        if self.type == "pci":
            return cast("Bus", f"for {self.model}")
        express = self.type == "virtio-serial" or self.model in (*XHCI, "virtio-scsi", "virtio-non-transitional")
        return "pcie" if express and self.model != "virtio-transitional" else "pci"

    @property
    def pci_turn(self) -> PciTurn:
        return PciTurn.PCI_CONTROLLER if self.type == "pci" else PciTurn.CONTROLLER

    @property
    def pci_function(self) -> int | None:
        return COMPANIONS.get(self.model or "")

    @property
    def pci_slot_mates(self) -> str | None:
        return f"usb{self.index}" if self.model in COMPANIONS else None

    def seat(self, chipset: Chipset) -> Seat | None:
        builtin = chipset.builtin.get(self.type)
        if builtin and self.index == 0 and self.model in builtin.models:
            return Seat((builtin.place,), sentence=builtin.sentence)
        if self.model == "ich9-uhci1":
            return chipset.usb2
        return chipset.bridge if self.model == "dmi-to-pci-bridge" else None

    @property
    def command_line_turn(self) -> int:
        if self.type == "pci":
            # libvirt keeps the order of the XML, and QEMU refuses a bridge that stands before what it plugs into
            return self.depth - MAX_BUSES
        return _COMMAND_LINE_TURNS.index(self.type) if self.type in _COMMAND_LINE_TURNS else 0

    @property
    def usb_ports(self) -> int:
        """The ports a USB controller has for devices; none for one that only helps another."""
        # libvirt: virDomainUSBAddressControllerModelToPorts
        if self.type != "usb":
            return 0
        return self.ports if self.model in XHCI and self.ports else USB_PORTS.get(self.model or "", 0)

    def own_alias(self, number: int) -> str:
        # libvirt: qemuAssignDeviceControllerAlias
        if self.type == "pci":
            return f"pcie.{self.index}" if self.model == "pcie-root" else f"pci.{self.index}"
        if self.is_builtin:
            return "ide"
        return "usb" if self.type == "usb" and not self.index else f"{self.type}{self.index}"

    def settle(self, context: Context) -> None:
        # libvirt: qemuDomainAssignPCIAddresses, qemuDomainPCIControllerSetDefaultModelName
        if self.type != "pci":
            return
        self.depth = self._find_depth(context)
        self.model_name = self.model_name or DEFAULT_PCI_NAMES.get(self.model or "")
        address = self.address if isinstance(self.address, PciAddress) else PciAddress()
        slot = address.slot or 0
        if self.model == "pci-bridge":
            self.chassis_number = self.index if self.chassis_number is None else self.chassis_number
            if self.index <= address.bus:
                raise ConfigUnsupported(
                    f"PCI controller at index {self.index} (0x{self.index:02x}) has bus='0x{address.bus:02x}', "
                    "but index must be larger than bus",
                    origin=ErrorDomain.QEMU,
                )
        elif self.model in ("pcie-root-port", "pcie-switch-downstream-port"):
            self.chassis = self.index if self.chassis is None else self.chassis
            port = (slot << 3) + address.function if self.model == "pcie-root-port" else slot
            self.port = port if self.port is None else self.port
        elif self.model in ("pci-expander-bus", "pcie-expander-bus") and self.bus_number is None:
            self.bus_number = self._free_bus_number(context)

    def _find_depth(self, context: Context) -> int:
        above = {
            c.index: c.address.bus
            for c in _controllers(context)
            if isinstance(c.address, PciAddress) and c.type == "pci"
        }
        index, depth = self.index, 0
        while index in above and depth < MAX_BUSES:
            index, depth = above[index], depth + 1
        return depth

    def _free_bus_number(self, context: Context) -> int:
        # libvirt: qemuDomainAddressFindNewBusNr
        numbers = [c.bus_number for c in _controllers(context)]
        lowest = min((number for number in numbers if number is not None), default=256)
        if lowest <= 2:
            raise ConfigUnsupported(
                "No free busNr lower than current lowest busNr is available to auto-assign to bus "
                f"{self.index}. Must be manually assigned",
                origin=ErrorDomain.QEMU,
            )
        return lowest - 2

    def parts(self, context: Context) -> Iterable[Part]:
        if self.pcihole64 is not None:
            # libvirt: qemuBuildGlobalControllerCommandLine
            host = "q35-pcihost" if self.model == "pcie-root" else "i440FX-pcihost"
            yield option("-global", f"{host}.pci-hole64-size={self.pcihole64}K")
        name = self._driver(context)
        if not name or self.is_builtin:
            return
        if self.type == "fdc":
            yield DevicePart({"driver": name})
            return
        # libvirt: qemuBuildControllerDevProps
        identity: dict[str, Json] = {"id": self.id}
        if self.type == "usb" and self.start_port is not None:
            identity = {"masterbus": f"{self.id}.0", "firstport": self.start_port}
        yield DevicePart({"driver": name} | self._options() | identity | self._driver_options() | self.place(context))

    def _driver(self, context: Context) -> str | None:
        """QEMU's device; None where there is nothing to add."""
        if self.model == "none" or self.model in ROOTS or (self.type == "fdc" and not context.is_q35):
            return None
        return self.model_name if self.type == "pci" and self.model_name else driver(self.type, self.model)

    def _options(self) -> dict[str, Json]:
        """What stands before the id on the command line."""
        xhci = self.type == "usb" and self.model in XHCI and self.ports
        options: dict[str, Json | None] = {
            **(self.driver.virtio_props() if self.driver else {}),
            "p2": self.ports if xhci else None,
            "p3": self.ports if xhci else None,
            "port": self.port,
            "chassis": self.chassis,
            "chassis_nr": self.chassis_number,
            "bus_nr": self.bus_number,
        }
        return given(options)

    def _driver_options(self) -> dict[str, Json]:
        serial = self.type == "virtio-serial"
        options: dict[str, Json | None] = {
            **(self.driver.scsi_props() if self.driver else {}),
            "max_ports": self.ports if serial else None,
            "vectors": self.vectors if serial else None,
            "hotplug": self.hotplug,
        }
        return given(options)


def _controllers(context: Context) -> list[Controller]:
    return [device for device in context.domain.devices.all if isinstance(device, Controller)]
