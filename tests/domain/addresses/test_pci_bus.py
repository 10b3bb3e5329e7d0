from __future__ import annotations

import pytest

from pytest_embedvm.domain.addresses.pci_bus import Buses, Connect
from pytest_embedvm.domain.addresses.shapes import PciAddress
from pytest_embedvm.errors import InternalError, XMLError

CONVENTIONAL = Connect.PCI_DEVICE | Connect.AUTOMATIC
EXPRESS = Connect.PCIE_DEVICE | Connect.AUTOMATIC
PORT = Connect.ROOT_PORT | Connect.AGGREGATE


def buses(*models: str, growing: bool = True, has_pcie_to_pci: bool = True) -> Buses:
    return Buses(list(models), growing=growing, has_pcie_to_pci=has_pcie_to_pci)


def test_express_devices_get_a_port_each() -> None:
    topology = buses("pcie-root")
    places = [topology.reserve_next(EXPRESS) for _ in range(3)]
    assert [str(place) for place in places] == ["0000:01:00.0", "0000:02:00.0", "0000:03:00.0"]
    assert topology.models == ["pcie-root", *["pcie-root-port"] * 3]


def test_ports_share_a_slot_function_by_function() -> None:
    topology = buses("pcie-root", growing=False)
    places = [topology.reserve_next(PORT) for _ in range(9)]
    assert [(place.slot, place.function) for place in places] == [*((1, f) for f in range(8)), (2, 0)]


def test_a_slot_that_something_else_is_in_is_not_shared() -> None:
    topology = buses("pcie-root", growing=False)
    topology.reserve(PciAddress(slot=1), EXPRESS)
    assert topology.reserve_next(PORT).slot == 2


def test_a_conventional_device_on_express_gets_a_bridge_on_a_port_of_its_own() -> None:
    topology = buses("pcie-root")
    assert str(topology.reserve_next(CONVENTIONAL)) == "0000:02:01.0"
    assert topology.models == ["pcie-root", "pcie-root-port", "pcie-to-pci-bridge"]
    assert topology.reserve_next(EXPRESS).bus == 3, "the bridge's port is for the bridge"
    assert topology.reserve_next(Connect.PCIE_TO_PCI).bus == 1


def test_an_old_qemu_gets_a_dmi_bridge_instead() -> None:
    topology = buses("pcie-root", has_pcie_to_pci=False)
    assert str(topology.reserve_next(CONVENTIONAL)) == "0000:02:01.0"
    assert topology.models == ["pcie-root", "dmi-to-pci-bridge", "pci-bridge"]


def test_a_full_conventional_bus_grows_a_bridge() -> None:
    topology = buses("pci-root")
    places = [topology.reserve_next(CONVENTIONAL) for _ in range(32)]
    assert [str(place) for place in places[30:]] == ["0000:00:1f.0", "0000:01:01.0"]
    assert topology.models == ["pci-root", "pci-bridge"]


def test_is_full() -> None:
    topology = buses("pcie-root-port", growing=False)
    assert not topology.is_full
    topology.reserve_next(EXPRESS)
    assert topology.is_full


def test_nothing_is_added_once_addresses_are_given() -> None:
    with pytest.raises(InternalError, match="internal error: No more available PCI slots"):
        buses("pcie-root", growing=False).reserve_next(EXPRESS)


def test_a_controller_that_nothing_can_be_added_for() -> None:
    with pytest.raises(
        InternalError, match="to connect a PCI controller model='pcie-switch-downstream-port', but none"
    ):
        buses("pcie-root").reserve_next(Connect.DOWNSTREAM_PORT)


def test_no_buses() -> None:
    with pytest.raises(XMLError, match="No PCI buses available"):
        buses().reserve_next(EXPRESS)


@pytest.mark.parametrize(
    ("address", "connect", "sentence"),
    [
        (PciAddress(slot=5), CONVENTIONAL, "Attempted double use of PCI Address 0000:00:05.0"),
        (PciAddress(slot=0), CONVENTIONAL, "Invalid PCI address 0000:00:00.0. slot must be >= 1"),
        (PciAddress(bus=1, slot=1), CONVENTIONAL, "Invalid PCI address 0000:01:01.0. slot must be <= 0"),
        (
            PciAddress(domain=1, slot=2),
            CONVENTIONAL,
            "Invalid PCI address 0001:00:02.0. Only PCI domain 0 is available",
        ),
        (
            PciAddress(bus=7, slot=2),
            CONVENTIONAL,
            "Invalid PCI address 0000:07:02.0. Only PCI buses up to 1 are availab",
        ),
        (
            PciAddress(bus=1, slot=0),
            PORT,
            "The device at PCI address 0000:01:00.0 cannot be plugged into the PCI controller with index='1'. "
            "It requires a controller that accepts a pcie-root-port.",
        ),
        (
            PciAddress(bus=1, slot=0),
            EXPRESS | Connect.INTEGRATED,
            "The device at PCI address 0000:01:00.0 needs to be an integrated device (bus=0)",
        ),
    ],
)
def test_what_the_user_chose_and_cannot_be(address: PciAddress, connect: Connect, sentence: str) -> None:
    topology = buses("pcie-root", "pcie-root-port", growing=False)
    topology.reserve(PciAddress(slot=5), EXPRESS)
    with pytest.raises(XMLError) as caught:
        topology.reserve(address, connect)
    assert caught.value.message.startswith(f"XML error: {sentence}")


def test_another_function_of_a_slot() -> None:
    topology = buses("pci-root", growing=False)
    first = topology.reserve_next(CONVENTIONAL, 7)
    assert str(first) == "0000:00:01.7"
    assert str(topology.reserve_function(first, 0, CONVENTIONAL)) == "0000:00:01.0"
    assert topology.is_used(PciAddress(slot=1))
