"""Guests on a network of the host's own libvirt. They, and its dnsmasq, confirm it."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_embedvm import libvirt
from pytest_embedvm.embed import make_uri
from pytest_embedvm.guest import VM, domain_xml
from tests.live.host.conftest import TEMPLATE, Daemon, chains
from tests.test_readme import PYTHON


@pytest.fixture
def default(host: Daemon) -> None:
    host.start_default()


@pytest.mark.embedvm(network="host")
@pytest.mark.usefixtures("default")
def test_a_guest_on_the_hosts_default(vm: VM, host: Daemon, embedvm_conn: libvirt.virConnect) -> None:
    network = embedvm_conn.networkLookupByName("default")
    mac = vm.run("cat /sys/class/net/eth0/address").text.strip()
    vm.wait_until(lambda: "inet 192.168.122." in vm.run("ip addr show eth0").text, timeout=90, message="a lease")
    (lease,) = network.DHCPLeases(mac)
    assert f"inet {lease['ipaddr']}/24" in vm.run("ip addr show eth0").text
    assert lease["iface"] == "virbr0"
    (told,) = vm.domain.interfaceAddresses(libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE).values()
    assert (told["hwaddr"], [given["addr"] for given in told["addrs"]]) == (mac, [lease["ipaddr"]])
    assert vm.run("ping -c 1 -W 5 192.168.122.1").returncode == 0

    # The running domain says where its card is; its definition does not.
    card = ET.fromstring(vm.domain.XMLDesc()).find("devices/interface")
    assert card is not None
    source, target = card.find("source"), card.find("target")
    assert source is not None
    assert source.attrib == {"network": "default", "bridge": "virbr0"}
    assert target is not None
    tap = target.attrib["dev"]
    assert Path("/sys/class/net/virbr0/brif", tap).exists()

    # Calls about networks are the host's libvirt's to answer, and its objects are ours.
    assert isinstance(network, libvirt.virNetwork)
    theirs = host.conn.networkLookupByName("default")
    assert (network.name(), network.UUIDString()) == ("default", theirs.UUIDString())
    assert network.XMLDesc() == theirs.XMLDesc()
    assert network.bridgeName() == "virbr0"
    assert [found.name() for found in embedvm_conn.listAllNetworks(libvirt.VIR_CONNECT_LIST_NETWORKS_ACTIVE)] == [
        "default"
    ]
    with pytest.raises(libvirt.libvirtError) as raised:
        embedvm_conn.networkLookupByName("nowhere")
    assert (raised.value.get_error_code(), raised.value.get_error_domain()) == (
        libvirt.VIR_ERR_NO_NETWORK,
        libvirt.VIR_FROM_NETWORK,
    )
    assert str(raised.value) == "Network not found: no network with matching name 'nowhere'"

    # One more card, while it runs.
    vm.domain.attachDevice("<interface type='network'><source network='default'/><model type='virtio'/></interface>")
    (new,) = set(ports()) - {tap}
    assert f"<target dev='{new}'/>" in vm.domain.XMLDesc()
    vm.wait_until(lambda: "eth1" in vm.run("ls /sys/class/net").text, timeout=30, message="a second card")

    vm.domain.destroy()
    assert not Path("/sys/class/net", tap).exists()
    assert ports() == []


def ports() -> list[str]:
    return [path.name for path in Path("/sys/class/net/virbr0/brif").iterdir()]


def state(host: Daemon) -> object:
    """All that the host's libvirt has, and what its network's dnsmasq and bridge know."""
    networks = [(network.XMLDesc(), network.DHCPLeases()) for network in host.conn.listAllNetworks()]
    secrets = [secret.XMLDesc() for secret in host.conn.listAllSecrets()]
    pools = [(pool.XMLDesc(), pool.listVolumes()) for pool in host.conn.listAllStoragePools()]
    domains = [domain.name() for domain in host.conn.listAllDomains()]
    return networks, secrets, pools, domains, ports(), chains()


@pytest.mark.usefixtures("default")
def test_a_private_test_leaves_the_hosts_libvirt_as_it_is(
    host: Daemon, embedvm_conn: libvirt.virConnect, vm_factory: Callable[..., VM]
) -> None:
    usage = "<secret><usage type='volume'><volume>{}</volume></usage></secret>"
    host.conn.secretDefineXML(usage.format("/theirs"))
    before = state(host)
    vm = vm_factory()
    network = embedvm_conn.networkLookupByName("default")
    vm.wait_until(lambda: "inet 192.168.122." in vm.run("ip addr show eth0").text, timeout=90, message="a lease")
    assert [lease["mac"] for lease in network.DHCPLeases()] == [vm.run("cat /sys/class/net/eth0/address").text.strip()]
    assert network.UUIDString() != host.conn.networkLookupByName("default").UUIDString()
    assert embedvm_conn.listAllSecrets() == []
    embedvm_conn.secretDefineXML(usage.format("/ours"))
    embedvm_conn.networkDefineXML("<network><name>ours</name></network>").create()
    assert state(host) == before
    # The gateway answers; it is the root's own, and the host's dnsmasq has not heard of the guest.
    assert vm.run("ping -c 1 -W 5 192.168.122.1").returncode == 0
    vm.domain.destroy()
    assert state(host) == before


@pytest.mark.usefixtures("default")
def test_the_readmes_example(pytester: pytest.Pytester) -> None:
    (example,) = (code for code in PYTHON if 'network="host"' in code)
    pytester.makepyfile(example)
    pytester.runpytest("--embedvm").assert_outcomes(passed=1)


@pytest.mark.parametrize(("word", "outcome"), [("skip", "skipped"), ("fail", "errors")])
def test_a_network_that_is_not_active_is_missing(
    host: Daemon, pytester: pytest.Pytester, word: str, outcome: str
) -> None:
    host.conn.networkDefineXML(TEMPLATE.read_text())
    pytester.makepyfile("import pytest\n@pytest.mark.embedvm(network='host')\ndef test_it(vm): pass")
    result = pytester.runpytest("--embedvm", "-rA", f"--embedvm-missing={word}")
    result.assert_outcomes(**{outcome: 1})
    result.stdout.fnmatch_lines(["*needs the host's libvirt: *network 'default' is not active*"])


@pytest.mark.usefixtures("host")
def test_a_network_that_is_not_there_fails_the_start_in_libvirts_words(tmp_path: Path) -> None:
    conn = libvirt.open(make_uri(tmp_path / "root", network="host"))
    xml = domain_xml("vm", network="host")
    try:
        with pytest.raises(libvirt.libvirtError, match="no network with matching name 'default'") as raised:
            conn.createXML(xml)
        assert raised.value.get_error_code() == libvirt.VIR_ERR_NO_NETWORK
        assert conn.listAllDomains() == []
    finally:
        conn.close()
