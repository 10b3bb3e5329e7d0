"""Controllers; the sentences are real libvirt 9.0's."""

from __future__ import annotations

import itertools

import pytest

from pytest_embedvm.errors import ConfigUnsupported, EmbedError, InternalError, XMLError, XMLSyntaxError
from tests.domain.machines import completed, controllers, words

ROOT = "<controller type='pci' index='0' model='pcie-root'/>"
PORT = "<controller type='pci' index='1' model='pcie-root-port'>{}</controller>"


@pytest.mark.parametrize(
    ("devices", "machine", "error", "sentence"),
    [
        ("<controller type='pci' model='bogus'/>", "q35", ConfigUnsupported, "Unknown model type 'bogus'"),
        ("<controller type='usb' model='bogus'/>", "q35", ConfigUnsupported, "Unknown model type 'bogus'"),
        ("<controller type='sata' model='x'/>", "q35", ConfigUnsupported, "Unknown model type 'x'"),
        (
            "<controller type='scsi' model='buslogic'/>", "q35",
            ConfigUnsupported, "Unsupported controller model: buslogic",
        ),
        (
            "<controller type='bogus'/>", "q35",
            XMLError, "Invalid value for attribute 'type' in element 'controller': 'bogus'.",
        ),
        (
            "<controller type='virtio-serial' ports='x'/>", "q35",
            XMLError, "Invalid value for attribute 'ports' in element 'controller': 'x'. Expected integer value",
        ),
        (
            "<controller type='ccid'/>", "q35",
            ConfigUnsupported, "controller type 'ccid' is not supported by this driver",
        ),
        (
            "<controller type='scsi' model='lsilogic'><driver queues='2'/></controller>", "q35",
            ConfigUnsupported, "'queues' is only supported by virtio-scsi controller",
        ),
        (
            "<controller type='usb' model='qemu-xhci' ports='99'/>", "q35",
            ConfigUnsupported, "'qemu-xhci' controller only supports up to '15' ports",
        ),
        (
            "<controller type='usb' model='piix3-uhci' ports='2'/>", "q35",
            ConfigUnsupported, "usb controller type 'piix3-uhci' doesn't support 'ports' with this QEMU binary",
        ),
        (
            "<controller type='usb' model='none'/><controller type='usb' model='qemu-xhci'/>", "q35",
            XMLSyntaxError, "Can't add another USB controller: USB is disabled for this domain",
        ),
        (
            "<controller type='usb' model='ich9-uhci1'/>", "q35",
            XMLSyntaxError, "No master USB controller specified",
        ),
        (
            "<controller type='usb' index='1' model='ich9-uhci1'><master startport='0'/></controller>", "q35",
            InternalError, "masterbus not found",
        ),
        (
            "<controller type='usb' index='0' model='qemu-xhci'/>" * 2, "q35",
            XMLError, "Duplicate USB controllers with index 0",
        ),
        (
            "<controller type='scsi' index='0'/>" * 2, "q35",
            XMLError, "Multiple 'scsi' controllers with index '0'",
        ),
        (
            "<controller type='ide'/>", "q35",
            ConfigUnsupported, "IDE controllers are unsupported for this QEMU binary or machine type",
        ),
        (
            "<controller type='ide' index='1'/>", "pc",
            ConfigUnsupported, "Only a single IDE controller is supported for this machine type",
        ),
        ("<controller type='fdc' index='1'/>", "pc", InternalError, "Only 1 fdc controller is supported"),
        ("<controller type='pci' index='1'/>", "pc", InternalError, "PCI controller model was not set correctly"),
        (
            "<controller type='pci' index='1' model='pci-root'/>", "pc",
            XMLError, "pci-root and pcie-root controllers should have index 0",
        ),
        (
            "<controller type='pci' index='0' model='pcie-root'/>", "pc",
            XMLError, "The PCI controller with index='0' must be model='pci-root' for this machine type, "
            "but model='pcie-root' was found instead",
        ),
        (
            ROOT + PORT.format("<model name='bogus'/>"), "q35",
            XMLError, "Invalid value for attribute 'name' in element 'model': 'bogus'.",
        ),
        (
            ROOT + PORT.format("<model name='pxb'/>"), "q35",
            ConfigUnsupported, "Option 'modelName' has invalid value for PCI controller with index '1', "
            "model 'pcie-root-port' and modelName 'pxb'",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be(devices: str, machine: str, error: type[EmbedError], sentence: str) -> None:
    with pytest.raises(error) as caught:
        completed(devices, machine)
    assert caught.value.detail == sentence


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        ("q35", ["usb 0 qemu-xhci", "sata 0", "pci 0 pcie-root"]),
        ("pc", ["usb 0 piix3-uhci", "pci 0 pci-root"]),
        ("microvm", []),
    ],
)
def test_what_a_domain_has_unasked(machine: str, expected: list[str]) -> None:
    assert controllers(completed("<memballoon model='none'/>", machine))[: len(expected) or None] == expected


def test_usb_can_be_left_out() -> None:
    assert "usb 0 none" in controllers(completed("<controller type='usb' model='none'/>"))


def test_a_model_that_is_left_open() -> None:
    domain = completed("<controller type='usb'/><controller type='scsi'/>")
    assert controllers(domain)[:2] == ["usb 0 piix3-uhci", "scsi 0 lsilogic"]


def test_libvirts_order_and_indexes() -> None:
    scsi = "".join(f"<controller type='scsi'{index}/>" for index in (" index='5'", "", " index='1'", ""))
    found = [c for c in controllers(completed(scsi)) if c.startswith("scsi")]
    assert [c.split()[1] for c in found] == ["1", "5", "0", "2"]


def test_a_bridge_stands_behind_what_it_plugs_into() -> None:
    line = words(completed(ROOT + "<controller type='pci' index='4' model='pcie-to-pci-bridge'/>"))
    devices = [word for option, word in itertools.pairwise(line) if option == "-device"]
    bridge = next(i for i, word in enumerate(devices) if '"id":"pci.4"' in word)
    bus = devices[bridge].split('"bus":"')[1].split('"')[0]
    assert any(f'"id":"{bus}"' in word for word in devices[:bridge])


def test_aliases() -> None:
    everything = (
        "<controller type='usb' index='0' model='ich9-ehci1'/><controller type='usb' index='0' model='ich9-uhci1'/>"
        "<controller type='usb' index='1' model='qemu-xhci'/><controller type='sata' index='1'/>"
        "<controller type='scsi'/><controller type='virtio-serial'/><controller type='fdc'/>"
    )
    found = {d.alias for d in completed(everything).devices.all if d.alias_prefix == "controller"}
    assert found >= {"usb", "usb1", "ide", "sata1", "scsi0", "virtio-serial0", "fdc0", "pcie.0", "pci.1"}
    assert {"ide", "pci.0"} <= {d.alias for d in completed("<controller type='ide'/>", "pc").devices.all}
