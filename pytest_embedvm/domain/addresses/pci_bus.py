"""PCI buses: what may be plugged into which, and what is taken (libvirt: virDomainPCIAddressSet)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import IntFlag
from typing import Final

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.domain.addresses.shapes import PciAddress
from pytest_embedvm.errors import EmbedError, InternalError, XMLError

LAST_SLOT: Final = 31


class Connect(IntFlag):
    """How a device is connected, or what a bus accepts (libvirt: virDomainPCIConnectFlags)."""

    PCI_DEVICE = 1
    PCIE_DEVICE = 2
    ROOT_PORT = 4
    UPSTREAM_PORT = 8
    DOWNSTREAM_PORT = 16
    DMI_TO_PCI = 32
    PCI_EXPANDER = 64
    PCIE_EXPANDER = 128
    PCI_BRIDGE = 256
    PCIE_TO_PCI = 512
    #: May be chosen, or wants to be chosen, without the user naming it.
    AUTOMATIC = 1024
    #: Several such devices share one slot, a function each.
    AGGREGATE = 2048
    #: Part of the root complex: on bus 0 only.
    INTEGRATED = 4096


ENDPOINT: Final = Connect.PCI_DEVICE | Connect.PCIE_DEVICE
TYPES: Final = Connect(1023)

#: libvirt: virDomainPCIAddressFlagsCompatible's names of them, the first that fits
_NAMES: Final = {
    Connect.PCI_DEVICE: "standard PCI device",
    Connect.PCIE_DEVICE: "PCI Express device",
    Connect.ROOT_PORT: "pcie-root-port",
    Connect.UPSTREAM_PORT: "pcie-switch-upstream-port",
    Connect.DOWNSTREAM_PORT: "pcie-switch-downstream-port",
    Connect.DMI_TO_PCI: "dmi-to-pci-bridge",
    Connect.PCIE_TO_PCI: "pcie-to-pci-bridge",
    Connect.PCI_EXPANDER: "pci-expander-bus",
    Connect.PCIE_EXPANDER: "pcie-expander-bus",
    Connect.PCI_BRIDGE: "pci-bridge",
}

_CONVENTIONAL: Final = Connect.AUTOMATIC | Connect.PCI_DEVICE | Connect.PCI_BRIDGE
_PORT: Final = Connect.AUTOMATIC | Connect.PCIE_DEVICE | Connect.UPSTREAM_PORT | Connect.PCIE_TO_PCI

#: What a controller's bus accepts, its first slot and its last (libvirt: virDomainPCIAddressBusSetModel).
_MODELS: Final = {
    "pci-root": (_CONVENTIONAL | Connect.PCI_EXPANDER, 1, LAST_SLOT),
    "pci-bridge": (_CONVENTIONAL, 1, LAST_SLOT),
    "pci-expander-bus": (_CONVENTIONAL, 0, LAST_SLOT),
    "pcie-root": (
        Connect.PCIE_DEVICE | Connect.ROOT_PORT | Connect.DMI_TO_PCI | Connect.PCIE_EXPANDER,
        1,
        LAST_SLOT,
    ),
    "dmi-to-pci-bridge": (Connect.PCI_DEVICE | Connect.PCI_BRIDGE, 0, LAST_SLOT),
    "pcie-to-pci-bridge": (_CONVENTIONAL, 1, LAST_SLOT),
    "pcie-root-port": (_PORT, 0, 0),
    "pcie-switch-downstream-port": (_PORT, 0, 0),
    "pcie-switch-upstream-port": (Connect.DOWNSTREAM_PORT, 0, LAST_SLOT),
    "pcie-expander-bus": (Connect.ROOT_PORT | Connect.DMI_TO_PCI, 0, LAST_SLOT),
}


@dataclass
class Bus:
    """One bus: a bit for each function taken, by slot."""

    model: str
    only: Connect | None = None
    taken: dict[int, int] = field(default_factory=dict)
    shared: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        accepts, self.first, self.last = _MODELS[self.model]
        self.accepts = accepts if self.only is None else self.only

    @property
    def is_full(self) -> bool:
        return all(self.taken.get(slot) for slot in range(self.first, self.last + 1))

    def free_place(self, connect: Connect, function: int | None) -> tuple[int, int] | None:
        """A slot nothing is in, or a free function of one that such devices share."""
        for slot in range(self.first, self.last + 1):
            if not self.taken.get(slot):
                return slot, function or 0
            if connect & Connect.AGGREGATE and slot in self.shared:
                free = [f for f in range(8) if not self.taken[slot] & 1 << f]
                if free:
                    return slot, free[0]
        return None


class Buses:
    """The buses of a domain. While it is `growing`, buses that are missing are added."""

    def __init__(self, models: list[str], *, has_pcie_to_pci: bool, growing: bool) -> None:
        self._buses = [Bus(model) for model in models]
        self._has_pcie_to_pci = has_pcie_to_pci
        self.growing = growing

    def __len__(self) -> int:
        return len(self._buses)

    @property
    def models(self) -> list[str]:
        return [bus.model for bus in self._buses]

    @property
    def is_full(self) -> bool:
        return all(bus.is_full for bus in self._buses)

    def is_used(self, address: PciAddress) -> bool:
        """Whether anything is in the slot of ADDRESS."""
        return bool(self._buses[address.bus].taken.get(address.slot or 0))

    def reserve(self, address: PciAddress, connect: Connect, *, chosen: bool = True) -> None:
        """Take ADDRESS, which the user chose, or not.

        :raise XMLError: when it is taken, does not exist, or is not for such a device; InternalError when not chosen.
        """
        if self.growing and address.bus >= len(self._buses):
            self._grow(address, connect)
        refuse: type[EmbedError] = XMLError if chosen else InternalError
        for sentence in self._objections(address, connect, chosen=chosen):
            raise refuse(sentence, origin=ErrorDomain.DOMAIN)
        bus, slot = self._buses[address.bus], address.slot or 0
        if not bus.taken.get(slot) and connect & Connect.AGGREGATE:
            bus.shared.add(slot)
        bus.taken[slot] = bus.taken.get(slot, 0) | 1 << address.function

    def reserve_next(self, connect: Connect, function: int | None = None) -> PciAddress:
        """Take the first place that fits.

        :raise InternalError: when there is none, and no bus can be added.
        """
        address = self._next(connect, function)
        self.reserve(address, connect, chosen=False)
        return address

    def reserve_function(self, address: PciAddress, function: int, connect: Connect) -> PciAddress:
        """Take another function of the slot of ADDRESS."""
        address = replace(address, function=function, multifunction=None)
        self.reserve(address, connect)
        return address

    def _next(self, connect: Connect, function: int | None) -> PciAddress:
        if not self._buses:
            raise XMLError("No PCI buses available", origin=ErrorDomain.DOMAIN)
        for index, bus in enumerate(self._buses):
            if _mismatch(index, bus.accepts, connect, chosen=False):
                continue
            place = bus.free_place(connect, function)
            if place:
                return PciAddress(bus=index, slot=place[0], function=place[1])
        if not self.growing:
            raise InternalError("No more available PCI slots", origin=ErrorDomain.DOMAIN)
        address = PciAddress(bus=len(self._buses), function=function or 0)
        self._grow(address, connect)
        address.slot = self._buses[address.bus].first
        return address

    def _grow(self, address: PciAddress, connect: Connect) -> None:
        """Add buses until that of ADDRESS is there; ADDRESS moves up if one more is needed in between."""
        # libvirt: virDomainPCIAddressSetGrow
        missing = address.bus - len(self._buses) + 1
        if connect & Connect.PCI_DEVICE:
            new = ["pci-bridge"] * missing
            if not any(bus.accepts & Connect.PCI_BRIDGE for bus in self._buses):
                if missing == 1:
                    new.append("pci-bridge")
                    address.bus += 1
                new[: 2 if self._has_pcie_to_pci else 1] = (
                    ["pcie-root-port", "pcie-to-pci-bridge"] if self._has_pcie_to_pci else ["dmi-to-pci-bridge"]
                )
            self._add(new)
        elif connect & (Connect.PCIE_DEVICE | Connect.UPSTREAM_PORT):
            self._add(["pcie-root-port"] * missing)
        else:
            raise InternalError(
                f"a PCI slot is needed to connect a PCI controller model='{_name(connect)}', but none is available, "
                "and it cannot be automatically added",
                origin=ErrorDomain.DOMAIN,
            )

    def _add(self, models: list[str]) -> None:
        for model, following in zip(models, [*models[1:], None], strict=True):
            # The port that is added for a bridge is for that bridge alone, not for the spare port's sake.
            only = Connect.PCIE_TO_PCI if following == "pcie-to-pci-bridge" else None
            self._buses.append(Bus(model, only))

    def _objections(self, address: PciAddress, connect: Connect, *, chosen: bool) -> Iterator[str]:
        # libvirt: virDomainPCIAddressValidate, virDomainPCIAddressReserveAddrInternal
        slot = address.slot or 0
        if not self._buses:
            yield "No PCI buses available"
        elif address.domain:
            yield f"Invalid PCI address {address}. Only PCI domain 0 is available"
        elif address.bus >= len(self._buses):
            yield f"Invalid PCI address {address}. Only PCI buses up to {len(self._buses) - 1} are available"
        else:
            bus = self._buses[address.bus]
            mismatch = _mismatch(address.bus, bus.accepts, connect, chosen=chosen)
            if mismatch:
                yield f"The device at PCI address {address} {mismatch}"
            elif slot < bus.first:
                yield f"Invalid PCI address {address}. slot must be >= {bus.first}"
            elif slot > bus.last:
                yield f"Invalid PCI address {address}. slot must be <= {bus.last}"
            elif bus.taken.get(slot, 0) & 1 << address.function:
                yield f"Attempted double use of PCI Address {address}"


def _mismatch(index: int, accepts: Connect, connect: Connect, *, chosen: bool) -> str | None:
    """Why a device that is connected so cannot be on a bus that accepts this; None if it can."""
    # libvirt: virDomainPCIAddressFlagsCompatible
    if connect & Connect.INTEGRATED:
        if index:
            return "needs to be an integrated device (bus=0)"
        accepts |= Connect.AUTOMATIC
    if chosen:
        accepts |= ENDPOINT if accepts & ENDPOINT else Connect(0)
        connect |= Connect.PCI_DEVICE if connect & Connect.PCI_BRIDGE else Connect(0)
    elif connect & Connect.AUTOMATIC and not accepts & Connect.AUTOMATIC:
        return (
            f"was auto-assigned this address, but the PCI controller with index='{index}' doesn't allow auto-assignment"
        )
    if connect & accepts & TYPES:
        return None
    return (
        f"cannot be plugged into the PCI controller with index='{index}'. "
        f"It requires a controller that accepts a {_name(connect)}."
    )


def _name(connect: Connect) -> str:
    return next(name for flag, name in _NAMES.items() if connect & flag)
