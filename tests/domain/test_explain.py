"""Which other drivers a domain XML would call, element by element."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from lxml import etree

from pytest_embedvm.domain import explain as subject
from pytest_embedvm.domain import vocabulary
from pytest_embedvm.domain.explain import Need, explain
from pytest_embedvm.xml import document

GOLDEN = Path(__file__).parent.parent / "golden"
UUID = "9f2a3d04-1111-2222-3333-444455556666"


def needs(inner: str) -> list[tuple[str, str, str]]:
    root = document.parse(f"<domain type='qemu'><name>a</name>{inner}</domain>", root="domain")
    return [(need.driver, need.element, need.reason) for need in explain(root)]


def devices(inner: str) -> list[tuple[str, str, str]]:
    return needs(f"<devices>{inner}</devices>")


CALLS = {
    "interface": (
        "<interface type='user'/><interface type='network'><source network='default'/></interface>",
        ("network", "/domain/devices/interface[2]", "an interface of type 'network' is a port of network 'default'"),
    ),
    "portgroup": (
        "<interface type='network'><source network='n' portgroup='fast'/></interface>",
        (
            "network",
            "/domain/devices/interface",
            "an interface of type 'network' is a port of network 'n' (portgroup 'fast')",
        ),
    ),
    "listen": (
        "<graphics type='vnc'><listen type='network' network='default'/></graphics>",
        (
            "network",
            "/domain/devices/graphics/listen",
            "the display listens on the host's address in network 'default'",
        ),
    ),
    "volume": (
        "<disk type='volume'><source pool='p' volume='v.img'/></disk>",
        ("storage", "/domain/devices/disk", "a source of type 'volume' is volume 'v.img' of storage pool 'p'"),
    ),
    "backing volume": (
        "<disk type='file'><source file='/a'/><backingStore type='file'><source file='/b'/>"
        "<backingStore type='volume'><source pool='p' volume='v'/></backingStore></backingStore></disk>",
        (
            "storage",
            "/domain/devices/disk/backingStore/backingStore",
            "a source of type 'volume' is volume 'v' of storage pool 'p'",
        ),
    ),
    "mirror": (
        "<disk type='file'><mirror type='volume'><source pool='p' volume='v'/></mirror></disk>",
        ("storage", "/domain/devices/disk/mirror", "a source of type 'volume' is volume 'v' of storage pool 'p'"),
    ),
    "filesystem": (
        "<filesystem type='volume'><source pool='p' volume='v'/></filesystem>",
        ("storage", "/domain/devices/filesystem", "a source of type 'volume' is volume 'v' of storage pool 'p'"),
    ),
    "auth": (
        f"<disk type='network'><source protocol='rbd'><auth username='u'><secret type='ceph' uuid='{UUID}'/></auth>"
        "</source></disk>",
        ("secret", "/domain/devices/disk/source/auth/secret", f"the password is that of the secret with uuid '{UUID}'"),
    ),
    "auth of the disk": (
        "<disk type='network'><auth username='u'><secret type='iscsi' usage='target'/></auth></disk>",
        ("secret", "/domain/devices/disk/auth/secret", "the password is that of the secret with usage 'target'"),
    ),
    "encryption": (
        f"<disk type='file'><source file='/a'><encryption format='luks'><secret type='passphrase' uuid='{UUID}'/>"
        "</encryption></source></disk>",
        (
            "secret",
            "/domain/devices/disk/source/encryption/secret",
            f"the password is that of the secret with uuid '{UUID}'",
        ),
    ),
    "tpm": (
        f"<tpm><backend type='emulator'><encryption secret='{UUID}'/></backend></tpm>",
        (
            "secret",
            "/domain/devices/tpm/backend/encryption",
            f"the TPM's state is encrypted with the secret with uuid '{UUID}'",
        ),
    ),
    "iscsi": (
        "<hostdev mode='subsystem' type='scsi'><source protocol='iscsi' name='iqn'><auth username='u'>"
        "<secret type='iscsi' usage='t'/></auth></source></hostdev>",
        ("secret", "/domain/devices/hostdev/source/auth/secret", "the password is that of the secret with usage 't'"),
    ),
    "filterref": (
        "<interface type='bridge'><source bridge='br0'/><filterref filter='clean-traffic'/></interface>",
        (
            "nwfilter",
            "/domain/devices/interface/filterref",
            "the interface's traffic passes through filter 'clean-traffic'",
        ),
    ),
    "hostdev": (
        "<hostdev mode='subsystem' type='pci'><source><address bus='1'/></source></hostdev>",
        ("nodedev", "/domain/devices/hostdev", "a hostdev of type 'pci' takes a device of the host's"),
    ),
    "mdev": (
        "<hostdev mode='subsystem' type='mdev' model='vfio-pci'/>",
        ("nodedev", "/domain/devices/hostdev", "a hostdev of type 'mdev' takes a device of the host's"),
    ),
    "interface of the host": (
        "<interface type='hostdev'><source><address type='pci' bus='1'/></source></interface>",
        ("nodedev", "/domain/devices/interface", "an interface of type 'hostdev' takes a device of the host's"),
    ),
    "nvme": (
        "<disk type='nvme'><source type='pci' namespace='1'/></disk>",
        ("nodedev", "/domain/devices/disk", "a source of type 'nvme' takes a device of the host's"),
    ),
}


@pytest.mark.parametrize("case", CALLS)
def test_each_element_that_calls_a_driver_is_named_with_the_reason(case: str) -> None:
    inner, expected = CALLS[case]
    assert devices(inner) == [expected]


def test_the_variable_store_may_be_a_volume_and_encrypted() -> None:
    found = needs(
        "<os><nvram type='volume'><source pool='p' volume='v'><encryption format='luks'>"
        "<secret type='passphrase' usage='s'/></encryption></source></nvram></os>"
    )
    assert [(driver, element) for driver, element, _ in found] == [
        ("storage", "/domain/os/nvram"),
        ("secret", "/domain/os/nvram/source/encryption/secret"),
    ]


def test_one_element_may_call_two_and_the_order_is_the_documents() -> None:
    found = devices(
        "<interface type='network'><source network='n'/><filterref filter='f'/></interface>"
        "<hostdev mode='subsystem' type='usb'/>"
    )
    assert [driver for driver, _, _ in found] == ["network", "nwfilter", "nodedev"]


@pytest.mark.parametrize(
    "inner",
    [
        "<metadata><x xmlns='urn:x'><devices><hostdev/></devices></x></metadata>",
        "<hostdev/>",  # not where libvirt reads it
        "<devices><nosuch><auth><secret usage='x'/></auth></nosuch></devices>",
        "<devices><x:hostdev xmlns:x='urn:x'/></devices>",
        "<devices><!-- <hostdev/> --><?pi hostdev?></devices>",
        "<devices><disk type='volume' device='cdrom'/></devices>",
        "<devices><disk type='file'><source file='/a'/><encryption format='luks'/></disk></devices>",
        "<devices><tpm><backend type='emulator'/></tpm></devices>",
        "<devices><graphics type='vnc' passwd='x'><listen type='address'/></graphics></devices>",
    ],
)
def test_what_calls_nobody(inner: str) -> None:
    assert needs(inner) == []


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.xml")), ids=lambda path: path.stem)
def test_what_this_driver_starts_calls_only_those_that_are_there(path: Path) -> None:
    called = {need.driver for need in explain(document.parse(path.read_text(), root="domain"))}
    expected = {"interface-network": "network", "disk-luks": "secret"}
    assert called == {driver for name, driver in expected.items() if path.stem.startswith(name)}


def test_as_text_it_is_a_sentence() -> None:
    need = Need("network", "/domain/devices/interface", "an interface of type 'network' is a port of network 'n'")
    assert str(need) == (
        "/domain/devices/interface calls the network driver: an interface of type 'network' is a port of network 'n'"
    )


def _elements(node: str = "start", path: tuple[str, ...] = (), seen: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every path of elements that libvirt's schema has, each way into a recursion once."""
    for name, target in vocabulary._nodes()[node].items():
        if name.startswith(("@", "*", "{")) or seen.count(target) > 1 or path[:2] == ("domain", "metadata"):
            continue
        yield (*path, name)
        if target:
            yield from _elements(target, (*path, name), (*seen, target))


def _described(path: tuple[str, ...], **attributes: str) -> etree._Element:
    root = element = etree.Element(path[0])
    for name in path[1:]:
        element = etree.SubElement(element, name)
    element.attrib.update(attributes)
    etree.SubElement(element, "source", network="n", pool="p", volume="v")
    return root


#: What of libvirt's schema may call a driver: an element's name, or an attribute and the value that makes it call.
CALLERS = {
    "secret": ({}, "secret"),
    "filterref": ({}, "nwfilter"),
    "hostdev": ({"type": "pci"}, "nodedev"),
}
TYPES = {"network": "network", "volume": "storage", "nvme": "nodedev"}


def test_each_place_of_the_schema_that_names_a_secret_a_filter_or_a_host_device_is_known() -> None:
    places = [path for path in _elements() if path[-1] in CALLERS]
    assert len(places) > 10
    for path in places:
        attributes, driver = CALLERS[path[-1]]
        found = {need.element: need.driver for need in explain(_described(path, **attributes))}
        assert found["/" + "/".join(path)] == driver


def test_each_place_of_the_schema_that_names_a_network_or_a_volume_is_known() -> None:
    """Those that hold a <source> with a network or a pool, and those that name one themselves."""
    for attribute, kind in (("@network", "network"), ("@pool", "volume")):
        holders = {
            path[:-1] if path[-1] == "source" else path for path in _elements() if vocabulary.knows((*path, attribute))
        }
        assert holders
        for path in holders:
            found = explain(_described(path, type=kind, network="n"))
            assert [need.driver for need in found] == [TYPES[kind]], path


def test_every_rule_is_for_an_element_of_the_schema() -> None:
    pairs = {path[-2:] for path in _elements() if len(path) > 1}
    assert set(subject._RULES) <= pairs
