"""PCI addresses as libvirt gives them, and the controllers that have to be added for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.domain.addresses.chipset import Seat
from pytest_embedvm.domain.addresses.pci_bus import Buses, Connect
from pytest_embedvm.domain.addresses.shapes import PciAddress
from pytest_embedvm.domain.devices._base import Context, Device
from pytest_embedvm.errors import InternalError

#: What a device plugs into, as a connection; `pcie` is a conventional slot where the machine has no Express.
_CONNECTS: Final = {
    "pci": Connect.PCI_DEVICE | Connect.AUTOMATIC,
    "pcie": Connect.PCIE_DEVICE | Connect.AUTOMATIC,
    "pcie-root": Connect.PCIE_DEVICE | Connect.AUTOMATIC | Connect.INTEGRATED,
    # libvirt: virDomainPCIControllerModelToConnectType
    "for pci-bridge": Connect.PCI_BRIDGE,
    "for pci-expander-bus": Connect.PCI_EXPANDER,
    "for pcie-expander-bus": Connect.PCIE_EXPANDER,
    "for dmi-to-pci-bridge": Connect.DMI_TO_PCI,
    "for pcie-to-pci-bridge": Connect.PCIE_TO_PCI,
    "for pcie-root-port": Connect.ROOT_PORT | Connect.AGGREGATE,
    "for pcie-switch-upstream-port": Connect.UPSTREAM_PORT,
    "for pcie-switch-downstream-port": Connect.DOWNSTREAM_PORT,
}

#: Adds a PCI controller of a model and an index to the domain.
AddController = Callable[[str, int], Device]


def assign(context: Context, add_controller: AddController) -> None:
    """Give every device on PCI its address, adding the controllers this takes.

    :raise XMLError: when an address the user chose is taken, does not exist, or is not for such a device.
    :raise InternalError: when there is no place for a device.
    """
    models = context.domain.pci_models()
    if models:
        models = _Assignment(context, models, growing=True).add_buses(add_controller)
    _Assignment(context, models, growing=False).settle()


def assign_free(context: Context) -> None:
    """Give those that have none an address among the buses that are there; these are all that a running machine has.

    A PCI Express device for which no port is free goes into a conventional slot: there libvirt has no place for it.

    :raise XMLError, InternalError: as `assign`.
    """
    models = context.domain.pci_models()
    _Assignment(context, models, growing=False, plugging=True).settle()


class _Assignment:
    """One pass over the devices: the first finds out which buses are needed, the second gives the addresses."""

    def __init__(self, context: Context, models: list[str | None], *, growing: bool, plugging: bool = False) -> None:
        # libvirt: qemuDomainPCIAddressSetCreate; a bus that is missing below one that is there is the usual kind
        usual = "pcie-root-port" if context.chipset.is_express else "pci-bridge"
        self.context = context
        #: Whether the machine runs already.
        self.plugging = plugging
        #: Whether there is the root and nothing else.
        self.is_plain = len(models) == 1
        self.buses = Buses(
            [model or usual for model in models],
            has_pcie_to_pci=context.capabilities.has_device("pcie-pci-bridge"),
            growing=growing,
        )
        self._collect()
        if models:
            self._seat()

    def add_buses(self, add_controller: AddController) -> list[str | None]:
        """Find out which buses are needed, and add controllers for those that are not there."""
        # libvirt: qemuDomainAssignPCIAddresses
        if not self.context.chipset.is_express and not self.buses.is_full:
            # One slot stays free for a bridge, so that the machine can grow.
            self.buses.reserve_next(_CONNECTS["pci"])
        self._assign_all()
        if self.is_plain and len(self.buses) > 1 and self.context.chipset.is_express:
            # Nobody but this function manages the ports here: one spare, to plug something in later.
            self.buses.reserve_next(_CONNECTS["pcie"])
        index = 1
        there = self.context.domain.pci_models()
        while index < len(self.buses):
            if index >= len(there) or there[index] is None:
                controller = add_controller(self.buses.models[index], index)
                self.buses.reserve_next(self._connect(controller))
            index += 1
        return list(self.buses.models)

    def settle(self) -> None:
        """Give the addresses."""
        self._assign_all()
        self._mark_multifunction()

    def _connect(self, device: Device) -> Connect:
        bus = device.bus
        if bus in ("pcie", "pcie-root") and not self.context.chipset.is_express:
            bus = "pci"
        return _CONNECTS[bus or "pci"]

    def _on_pci(self) -> list[Device]:
        """Devices that plug into PCI, in the order in which libvirt gives addresses."""
        # libvirt: qemuDomainAssignDevicePCISlots
        devices = [device for device in self.context.domain.devices.all if device.bus in _CONNECTS]
        return sorted(devices, key=lambda device: device.pci_turn)

    def _collect(self) -> None:
        # libvirt: qemuDomainCollectPCIAddress; what is on the board is taken last, by _seat()
        for device in self.context.domain.devices.all:
            address = device.address
            if not isinstance(address, PciAddress) or is_wanted(device):
                continue
            address.slot = address.slot or 0
            seat = device.seat(self.context.chipset)
            if not (seat and seat.sentence and _is_at(address, seat)):
                self.buses.reserve(address, self._connect(device))

    def _seat(self) -> None:
        """Put devices where the board has them, and keep free what it needs."""
        chipset = self.context.chipset
        for device in self._on_pci():
            seat = device.seat(chipset)
            if seat and seat.sentence:
                _require(device, seat)
                self.buses.reserve(_address(device), self._connect(device))
        for slot, function in chipset.reserved:
            self.buses.reserve(PciAddress(slot=slot, function=function), _CONNECTS["pcie"])
        for device in self._on_pci():
            seat = device.seat(chipset)
            if seat and not seat.sentence and is_wanted(device):
                self._prefer(device, seat)

    def _prefer(self, device: Device, seat: Seat) -> None:
        for slot, function in seat.places:
            address = PciAddress(slot=slot, function=function)
            if not self.buses.is_used(address):
                self.buses.reserve(address, self._connect(device))
                device.address = address
                return
        if seat.goes_first:
            self._assign(device)

    def _assign_all(self) -> None:
        for device in self._on_pci():
            if is_wanted(device):
                self._assign(device)

    def _assign(self, device: Device) -> None:
        connect, function = self._connect(device), device.pci_function
        sibling = self._sibling(device)
        if sibling is not None and function is not None:
            address = self.buses.reserve_function(sibling, function, connect)
        else:
            address = self._next(connect, function)
        if not self.buses.growing:
            device.address = address

    def _next(self, connect: Connect, function: int | None) -> PciAddress:
        try:
            return self.buses.reserve_next(connect, function)
        except InternalError:
            if not self.plugging or not connect & Connect.PCIE_DEVICE:
                raise
            return self.buses.reserve_next(_CONNECTS["pci"], function)

    def _sibling(self, device: Device) -> PciAddress | None:
        """The address of a device that shares its slot with DEVICE."""
        if device.pci_slot_mates is None:
            return None
        for other in self.context.domain.devices.all:
            if other.pci_slot_mates == device.pci_slot_mates and isinstance(other.address, PciAddress):
                return other.address
        return None

    def _mark_multifunction(self) -> None:
        # libvirt: virDomainPCIAddressSetAllMulti
        addresses = [d.address for d in self.context.domain.devices.all if isinstance(d.address, PciAddress)]
        shared = {(a.domain, a.bus, a.slot) for a in addresses if a.function}
        for address in addresses:
            if address.multifunction is None and not address.function:
                address.multifunction = True if (address.domain, address.bus, address.slot) in shared else None


def is_wanted(device: Device) -> bool:
    """Whether DEVICE still needs a PCI address."""
    # libvirt: virDeviceInfoPCIAddressIsWanted
    address = device.address
    if isinstance(address, PciAddress):
        return not (address.domain or address.bus or address.slot)
    return address is None


def _is_at(address: PciAddress, seat: Seat) -> bool:
    return (address.domain, address.bus) == (0, 0) and (address.slot, address.function) in seat.places


def _require(device: Device, seat: Seat) -> None:
    if is_wanted(device):
        slot, function = seat.places[0]
        device.address = PciAddress(slot=slot, function=function)
    if not _is_at(_address(device), seat):
        raise InternalError(seat.sentence or "", origin=ErrorDomain.QEMU)


def _address(device: Device) -> PciAddress:
    if isinstance(device.address, PciAddress):
        return device.address
    raise InternalError("a device on PCI has an address of another kind", origin=ErrorDomain.QEMU)
