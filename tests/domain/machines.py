"""Domains in a few words, for the tests of what completing them adds."""

from __future__ import annotations

from lxml import etree

from pytest_embedvm.domain import argv, complete, definition
from pytest_embedvm.domain.model import Completed
from tests.fakes.host import FakeHost


def xml(devices: str, machine: str = "q35") -> str:
    """A domain with these DEVICES."""
    return (
        "<domain type='qemu'><name>a</name><uuid>11111111-1111-1111-1111-111111111111</uuid>"
        f"<memory unit='MiB'>256</memory><os><type arch='x86_64' machine='{machine}'>hvm</type></os>"
        f"<devices>{devices}</devices></domain>"
    )


def completed(devices: str, machine: str = "q35") -> Completed:
    return complete.complete(definition.parse(xml(devices, machine)), FakeHost(kvm_refused=None))


def words(domain: Completed) -> list[str]:
    launch = argv.launch(domain, FakeHost(kvm_refused=None))
    return launch.argv({d.name: 100 + i for i, d in enumerate(launch.descriptors)})


def addresses(domain: Completed, tag: str) -> list[str]:
    """Where the devices of this TAG are: `bus:slot.function`, with a `+` for multifunction; or `-`."""
    root = etree.fromstring(definition.format(domain))
    return [_spell(device.find("address")) for device in root.iterfind(f"devices/{tag}")]


def _spell(address: etree._Element | None) -> str:
    if address is None or address.get("type") != "pci":
        return "-"
    bus, slot, function = (int(address.get(name, ""), 16) for name in ("bus", "slot", "function"))
    return f"{bus}:{slot:x}.{function}" + ("+" if address.get("multifunction") == "on" else "")


def controllers(domain: Completed) -> list[str]:
    """Type, index and model of every controller, in order."""
    root = etree.fromstring(definition.format(domain))
    found = root.iterfind("devices/controller")
    return [" ".join(filter(None, (c.get("type"), c.get("index"), c.get("model")))) for c in found]
