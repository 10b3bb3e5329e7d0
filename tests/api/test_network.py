"""virNetwork and its kin, against a real root."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_embedvm import libvirt
from pytest_embedvm.embed import make_uri
from tests.api.test_events import Calls

XML = "<network><name>lab</name><uuid>11111111-1111-1111-1111-111111111111</uuid></network>"


@pytest.fixture
def root(tmp_path: Path) -> Iterator[libvirt.virConnect]:
    with libvirt.open(make_uri(tmp_path / "root")) as connection:
        yield connection


def test_the_life_of_a_network(root: libvirt.virConnect) -> None:
    lab = root.networkDefineXML(XML)
    assert (lab.name(), lab.UUIDString(), lab.isActive(), lab.isPersistent()) == (
        "lab", "11111111-1111-1111-1111-111111111111", 0, 1,
    )  # fmt: skip
    assert lab.connect() is root
    assert lab.create() == 0
    assert root.listNetworks() == ["default", "lab"]
    assert lab.bridgeName() == "virbr1"
    assert lab.DHCPLeases() == []
    assert lab.setAutostart(1) == 0
    assert lab.autostart() == 1
    assert lab.destroy() == 0
    assert root.listDefinedNetworks() == ["lab"]
    assert lab.undefine() == 0
    with pytest.raises(libvirt.libvirtError, match=r"no network with matching uuid '1{8}-.*' \(lab\)") as caught:
        lab.isActive()
    assert caught.value.get_error_code() == libvirt.VIR_ERR_NO_NETWORK
    assert caught.value.get_error_domain() == libvirt.VIR_FROM_NETWORK


def test_it_is_found_by_all_its_names(root: libvirt.virConnect) -> None:
    lab = root.networkCreateXML(XML)
    for found in (
        root.networkLookupByName("lab"),
        root.networkLookupByUUID(lab.UUID()),
        root.networkLookupByUUIDString(lab.UUIDString()),
    ):
        assert found.name() == "lab"
    with pytest.raises(libvirt.libvirtError, match="Network not found: no network with matching name 'x'"):
        root.networkLookupByName("x")


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (0, {"default", "lab", "off"}),
        (libvirt.VIR_CONNECT_LIST_NETWORKS_ACTIVE, {"default", "lab"}),
        (libvirt.VIR_CONNECT_LIST_NETWORKS_INACTIVE, {"off"}),
        (libvirt.VIR_CONNECT_LIST_NETWORKS_TRANSIENT, {"lab"}),
        (libvirt.VIR_CONNECT_LIST_NETWORKS_PERSISTENT | libvirt.VIR_CONNECT_LIST_NETWORKS_ACTIVE, {"default"}),
        (libvirt.VIR_CONNECT_LIST_NETWORKS_AUTOSTART, {"default"}),
        (libvirt.VIR_CONNECT_LIST_NETWORKS_NO_AUTOSTART, {"lab", "off"}),
    ],
)
def test_lists_those_that_match(root: libvirt.virConnect, flags: int, names: set[str]) -> None:
    root.networkCreateXML(XML)
    root.networkDefineXMLFlags("<network><name>off</name></network>", libvirt.VIR_NETWORK_DEFINE_VALIDATE)
    assert {network.name() for network in root.listAllNetworks(flags)} == names
    assert (root.numOfNetworks(), root.numOfDefinedNetworks()) == (2, 1)


def test_a_read_only_connection_changes_nothing(tmp_path: Path) -> None:
    with libvirt.openReadOnly(make_uri(tmp_path / "root")) as connection:
        default = connection.networkLookupByName("default")
        assert "<name>default</name>" in default.XMLDesc()
        for call in (default.destroy, default.undefine, lambda: connection.networkDefineXML(XML)):
            with pytest.raises(libvirt.libvirtError, match="read only access prevents virNetwork"):
                call()


def test_flags_that_nobody_knows(root: libvirt.virConnect) -> None:
    default = root.networkLookupByName("default")
    for call in (
        lambda: default.XMLDesc(4), lambda: default.DHCPLeases(None, 1), lambda: root.listAllNetworks(1 << 20)
    ):  # fmt: skip
        with pytest.raises(libvirt.libvirtError, match="unsupported flags"):
            call()


def test_events_are_told_in_order(root: libvirt.virConnect) -> None:
    every, of_lab, of_domains = Calls(), Calls(), Calls()
    lifecycle = libvirt.VIR_NETWORK_EVENT_ID_LIFECYCLE
    number = root.networkEventRegisterAny(None, lifecycle, every, "opaque")
    root.domainEventRegister(of_domains, None)
    lab = root.networkDefineXML(XML)
    root.networkEventRegisterAny(lab, lifecycle, of_lab, None)
    root.networkLookupByName("default").destroy()
    lab.create()
    lab.destroy()
    lab.undefine()
    defined, stopped = (libvirt.VIR_NETWORK_EVENT_DEFINED, 0), (libvirt.VIR_NETWORK_EVENT_STOPPED, 0)
    started, undefined = (libvirt.VIR_NETWORK_EVENT_STARTED, 0), (libvirt.VIR_NETWORK_EVENT_UNDEFINED, 0)
    told = [every.next() for _ in range(5)]
    assert [(net.name(), event, detail) for _, net, event, detail, _ in told] == [
        ("lab", *defined), ("default", *stopped), ("lab", *started), ("lab", *stopped), ("lab", *undefined),
    ]  # fmt: skip
    assert {(conn, opaque) for conn, *_, opaque in told} == {(root, "opaque")}
    assert [of_lab.next()[2:4] for _ in range(3)] == [started, stopped, undefined]
    assert of_domains.empty()
    with pytest.raises(libvirt.libvirtError, match=f"could not find event callback {number} for deletion"):
        root.domainEventDeregisterAny(number)  # it is a network's
    root.networkEventDeregisterAny(number)
    later = Calls()
    root.networkEventRegisterAny(None, lifecycle, later, None)
    root.networkCreateXML(XML).destroy()
    assert [later.next()[2:4] for _ in range(2)] == [started, stopped]
    assert every.empty()
    with pytest.raises(libvirt.libvirtError, match="no network with matching uuid"):
        root.networkEventRegisterAny(lab, lifecycle, print, None)


def test_a_kind_of_event_that_is_none(root: libvirt.virConnect) -> None:
    for number, message in (
        (-1, "eventID in virConnectNetworkEventRegisterAny must be zero or greater"),
        (9, "eventID in virConnectNetworkEventRegisterAny must be less than 1"),
    ):
        with pytest.raises(libvirt.libvirtError, match=message):
            root.networkEventRegisterAny(None, number, print, None)


def test_an_update_of_what_is_active_and_what_is_defined(root: libvirt.virConnect) -> None:
    add, section = libvirt.VIR_NETWORK_UPDATE_COMMAND_ADD_LAST, libvirt.VIR_NETWORK_SECTION_DNS_TXT
    live, config = libvirt.VIR_NETWORK_UPDATE_AFFECT_LIVE, libvirt.VIR_NETWORK_UPDATE_AFFECT_CONFIG
    default = root.networkLookupByName("default")
    for name, flags in (("now", 0), ("live", live), ("later", config), ("both", live | config)):
        assert default.update(add, section, -1, f"<txt name='{name}' value='x'/>", flags) == 0
    active, defined = default.XMLDesc(), default.XMLDesc(libvirt.VIR_NETWORK_XML_INACTIVE)
    assert [name in active for name in ("now", "live", "later", "both")] == [True, True, False, True]
    assert [name in defined for name in ("'now", "live", "later", "both")] == [False, False, True, True]
    with pytest.raises(libvirt.libvirtError, match="there is already a DNS TXT record"):
        default.update(add, section, -1, "<txt name='live' value='x'/>", live | config)
    assert "'live'" not in default.XMLDesc(libvirt.VIR_NETWORK_XML_INACTIVE)  # all or nothing
    default.destroy()
    with pytest.raises(libvirt.libvirtError, match="network is not running"):
        default.update(add, section, -1, "<txt name='a' value='x'/>", live)
    transient = root.networkCreateXML(XML)
    with pytest.raises(libvirt.libvirtError, match="cannot change persistent config of a transient network"):
        transient.update(add, section, -1, "<txt name='a' value='x'/>", config)
