"""PCI addresses as real libvirt 9.0 gives them; the expected values are its answers."""

from __future__ import annotations

import pytest

from pytest_embedvm.errors import ConfigUnsupported, EmbedError, InternalError, XMLError
from tests.domain.machines import addresses, completed, controllers

RNG = "<rng model='virtio'><backend model='random'/></rng>"
NO_BALLOON = "<memballoon model='none'/>"


def rng(address: str) -> str:
    return f"<rng model='virtio'><backend model='random'/><address type='pci' {address}/></rng>"


def test_express_ports_are_packed_and_one_is_spare() -> None:
    domain = completed(NO_BALLOON + RNG * 8)
    ports = [f"pci {index} pcie-root-port" for index in range(1, 11)]
    assert controllers(domain) == ["usb 0 qemu-xhci", "sata 0", "pci 0 pcie-root", *ports]
    assert addresses(domain, "rng") == [f"{bus}:0.0" for bus in range(2, 10)]
    in_first_slot = ["0:1.0+", *(f"0:1.{function}" for function in range(1, 8))]
    assert addresses(domain, "controller")[3:] == [*in_first_slot, "0:2.0+", "0:2.1"]


def test_no_spare_port_for_those_who_bring_their_own() -> None:
    domain = completed(NO_BALLOON + "<controller type='pci' index='5' model='pcie-root-port'/>" + RNG)
    assert [c for c in controllers(domain) if c.startswith("pci ")] == [
        "pci 5 pcie-root-port", "pci 0 pcie-root", *(f"pci {index} pcie-root-port" for index in range(1, 5)),
    ]  # fmt: skip
    assert addresses(domain, "rng") == ["2:0.0"]


def test_conventional_machine() -> None:
    domain = completed(NO_BALLOON + RNG, "pc")
    assert controllers(domain) == ["usb 0 piix3-uhci", "pci 0 pci-root"]
    assert addresses(domain, "controller") == ["0:1.2", "-"]
    assert addresses(domain, "rng") == ["0:2.0"]


def test_a_full_conventional_machine_keeps_a_slot_for_a_bridge() -> None:
    domain = completed(NO_BALLOON + RNG * 32, "pc")
    assert controllers(domain) == ["usb 0 piix3-uhci", "pci 0 pci-root", "pci 1 pci-bridge"]
    assert addresses(domain, "controller")[-1] == "0:2.0"
    assert addresses(domain, "rng")[28:] == ["0:1f.0", "1:1.0", "1:2.0", "1:3.0"]


def test_a_gap_in_the_indexes_is_filled() -> None:
    domain = completed(NO_BALLOON + "<controller type='pci' index='3' model='pci-bridge'/>" + RNG, "pc")
    assert controllers(domain) == [
        "pci 3 pci-bridge", "usb 0 piix3-uhci", "pci 0 pci-root", "pci 1 pci-bridge", "pci 2 pci-bridge",
    ]  # fmt: skip
    assert addresses(domain, "rng") == ["0:5.0"]


def test_a_bus_that_only_an_address_names() -> None:
    domain = completed(NO_BALLOON + rng("bus='2' slot='1'"), "pc")
    assert controllers(domain)[2:] == ["pci 1 pci-bridge", "pci 2 pci-bridge"]
    assert addresses(domain, "rng") == ["2:1.0"]


def test_functions_of_one_slot() -> None:
    domain = completed(NO_BALLOON + rng("slot='5' function='1'") + rng("slot='5' function='0'"), "pc")
    assert addresses(domain, "rng") == ["0:5.1", "0:5.0+"]


def test_an_empty_address_is_none() -> None:
    assert addresses(completed(NO_BALLOON + rng(""), "pc"), "rng") == ["0:2.0"]


def test_a_usb2_controller_is_one_slot() -> None:
    parts = "".join(
        f"<controller type='usb' index='0' model='ich9-{m}'/>" for m in ("ehci1", "uhci1", "uhci2", "uhci3")
    )
    assert addresses(completed(NO_BALLOON + parts), "controller")[:4] == ["0:1d.7", "0:1d.0+", "0:1d.1", "0:1d.2"]
    assert addresses(completed(NO_BALLOON + parts, "pc"), "controller")[:4] == ["0:2.7", "0:2.0+", "0:2.1", "0:2.2"]


def test_microvm_has_no_pci() -> None:
    assert controllers(completed(NO_BALLOON, "microvm")) == []
    with pytest.raises(XMLError, match="No PCI buses available"):
        completed(NO_BALLOON + RNG, "microvm")


@pytest.mark.parametrize(
    ("devices", "machine", "error", "sentence"),
    [
        (rng("slot='5'") * 2, "pc", XMLError, "Attempted double use of PCI Address 0000:00:05.0"),
        (rng("slot='0x1f'"), "q35", XMLError, "Attempted double use of PCI Address 0000:00:1f.0"),
        (rng("slot='1'"), "pc", XMLError, "Attempted double use of PCI Address 0000:00:01.0"),
        (rng("slot='0x40'"), "pc", XMLError, "Invalid PCI address slot='0x40', must be <= 0x1F"),
        (rng("bus='1' slot='1'"), "q35", XMLError, "Invalid PCI address 0000:01:01.0. slot must be <= 0"),
        (
            rng("domain='1' slot='1'"), "pc",
            XMLError, "Invalid PCI address 0001:00:01.0. Only PCI domain 0 is available",
        ),
        (
            "<controller type='sata' index='0'><address type='pci' slot='5'/></controller>", "q35",
            InternalError, "Primary SATA controller must have PCI address 0:0:1f.2",
        ),
        (
            "<controller type='usb' index='0' model='piix3-uhci'><address type='pci' slot='5'/></controller>", "pc",
            InternalError, "PIIX3 USB controller at index 0 must have PCI address 0:0:1.2",
        ),
        (
            "<controller type='ide' index='0'><address type='pci' slot='5'/></controller>", "pc",
            InternalError, "Primary IDE controller must have PCI address 0:0:1.1",
        ),
        (
            "<controller type='pci' index='1' model='pci-bridge'><address type='pci' bus='2' slot='1'/></controller>"
            "<controller type='pci' index='2' model='pci-bridge'/>", "pc",
            ConfigUnsupported, "PCI controller at index 1 (0x01) has bus='0x02', but index must be larger than bus",
        ),
        (
            "<controller type='pci' index='0' model='pcie-root'/>"
            "<controller type='pci' model='pcie-switch-downstream-port'/>", "q35",
            InternalError, "a PCI slot is needed to connect a PCI controller model='pcie-switch-downstream-port', "
            "but none is available, and it cannot be automatically added",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be(devices: str, machine: str, error: type[EmbedError], sentence: str) -> None:
    with pytest.raises(error) as caught:
        completed(NO_BALLOON + devices, machine)
    assert caught.value.detail == sentence
