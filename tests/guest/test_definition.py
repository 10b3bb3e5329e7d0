from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from pytest_embedvm.domain import complete, definition
from pytest_embedvm.domain.addresses.shapes import PciAddress
from pytest_embedvm.domain.devices.controller import Controller
from pytest_embedvm.guest import domain_xml
from tests.fakes.host import FakeHost

HOSTILE = "a</name><devices>&\"']]>é"


def test_the_built_in_guest() -> None:
    text = domain_xml("g", kernel=Path("/k"), initrd=Path("/i"), cmdline="console=ttyS0", disk=Path("/d"))
    root = ET.fromstring(text)
    assert root.get("type") == "qemu"
    assert [root.findtext(path) for path in ("name", "memory", "vcpu")] == ["g", "256", "1"]
    assert [root.findtext(f"os/{tag}") for tag in ("type", "kernel", "initrd", "cmdline")] == [
        *("hvm", "/k", "/i", "console=ttyS0")
    ]
    kinds = [device.tag for device in root.findall("devices/*")]
    assert kinds == [
        *("disk", "interface", "controller", "serial", *["channel"] * 2, "memballoon", "rng", *["controller"] * 3)
    ]


def test_without_the_rest() -> None:
    root = ET.fromstring(domain_xml("g", network="none"))
    kinds = [device.tag for device in root.findall("devices/*")]
    assert kinds == ["controller", "serial", "channel", "channel", "memballoon", "rng", *["controller"] * 3]
    assert root.find("cpu") is None
    assert root.find("os/kernel") is None


@pytest.mark.parametrize("machine", ["q35", "pc", "pc-q35-7.2", "pc-i440fx-7.2"])
def test_everything_sits_on_the_root_bus(machine: str) -> None:
    domain = complete.complete(definition.parse(domain_xml("g", machine=machine, disk=Path("/d"))), FakeHost())
    on_pci = [device for device in domain.devices.all if isinstance(device.address, PciAddress)]
    beside = [device for device in on_pci if not (isinstance(device, Controller) and device.type == "pci")]
    assert {device.address.bus for device in beside if isinstance(device.address, PciAddress)} == {0}
    ports = [c.model for c in domain.devices.all if isinstance(c, Controller) and c.type == "pci" and c.index]
    assert ports == (["pcie-root-port", "pcie-to-pci-bridge"] if "q35" in machine else [])


def test_a_machine_without_pci_gets_no_pci_addresses() -> None:
    assert "<address" not in domain_xml("g", machine="microvm")


@pytest.mark.parametrize(("cpu", "mode"), [("maximum", "maximum"), ("host-passthrough", "host-passthrough")])
def test_a_cpu_by_mode(cpu: str, mode: str) -> None:
    found = ET.fromstring(domain_xml("g", cpu=cpu)).find("cpu")
    assert found is not None
    assert found.attrib == {"mode": mode}


def test_what_the_user_says_stays_in_its_place() -> None:
    text = domain_xml(
        HOSTILE, cmdline=HOSTILE, kernel=Path(HOSTILE), machine=HOSTILE, cpu=HOSTILE, disk=Path(f"/{HOSTILE}")
    )
    root = ET.fromstring(text)
    assert [element.tag for element in root] == [*("name", "memory", "vcpu", "os", "features", "cpu", "devices")]
    assert root.findtext("name") == root.findtext("os/cmdline") == root.findtext("cpu/model") == HOSTILE
    source = root.find("devices/disk/source")
    assert source is not None
    assert source.get("file") == f"/{HOSTILE}"


def test_the_driver_reads_it() -> None:
    domain = definition.parse(domain_xml("g", memory_mib=100, accelerator="kvm", network="none"))
    assert (domain.type, domain.name, domain.memory) == ("kvm", "g", 102400)
