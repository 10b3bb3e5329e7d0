"""What guests see of their root's networks. They confirm it themselves."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

from pytest_embedvm import libvirt
from pytest_embedvm.embed import make_uri
from pytest_embedvm.guest import VM

ON_DEFAULT = '<source network="default" />'
DB = "52:54:00:00:00:0d"
LAB = f"""<network><name>default</name><domain name='lab'/><mtu size='1400'/>
  <dns><host ip='10.9.0.77'><hostname>printer</hostname></host></dns>
  <ip address='10.9.0.1' prefix='24'><dhcp><range start='10.9.0.10' end='10.9.0.99'/>
    <host mac='{DB}' name='db' ip='10.9.0.200'/></dhcp></ip>
  <ip family='ipv6' address='fd00:9::1' prefix='64'/></network>"""


def reaches(vm: VM, address: str) -> bool:
    return vm.run(["ping", "-c", "1", "-W", "2", address], check=False).returncode == 0


def hosts_own() -> list[str]:
    """The address by which the host reaches others, if it does."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            return []
        return [str(sock.getsockname()[0])]


def address(vm: VM, network: libvirt.virNetwork) -> str:
    """What the network gave the guest, once the guest has it."""

    def configured() -> bool:
        return f"inet {given()}/24" in vm.run("ip addr show eth0").text

    def given() -> str:
        mac = vm.run("cat /sys/class/net/eth0/address").text.strip()
        return next((str(lease["ipaddr"]) for lease in network.DHCPLeases(mac)), "nothing")

    vm.wait_until(configured, timeout=60, message="an address from the network")
    return given()


def test_guests_of_a_root_see_each_other_and_nothing_else(
    embedvm_conn: libvirt.virConnect,
    embedvm_conn_factory: Callable[[], libvirt.virConnect],
    embedvm_domain_xml: str,
    vm_factory: Callable[..., VM],
) -> None:
    elsewhere = embedvm_conn_factory()
    for connection in (embedvm_conn, elsewhere):
        connection.networkLookupByName("default").destroy()
        connection.networkDefineXML(LAB).create()
    assert ON_DEFAULT in embedvm_domain_xml
    db_xml = embedvm_domain_xml.replace(ON_DEFAULT, f'{ON_DEFAULT}<mac address="{DB}"/>').replace(">vm<", ">db<")
    db = vm_factory(xml=db_xml)
    web = vm_factory(xml=embedvm_domain_xml)
    stranger = vm_factory(xml=embedvm_domain_xml, connection=elsewhere)
    network = embedvm_conn.networkLookupByName("default")

    # Addresses, names, and the MTU come from the network.
    assert address(db, network) == "10.9.0.200"
    assert address(web, network).startswith("10.9.0.")
    assert reaches(web, "10.9.0.200")
    assert reaches(web, "10.9.0.1")
    assert "10.9.0.200" in web.run("nslookup db.lab").text
    assert address(web, network) in db.run("nslookup vm.lab").text
    assert "10.9.0.77" in web.run("nslookup printer").text
    web.wait_until(lambda: "inet6 fd00:9:" in web.run("ip addr show eth0").text, timeout=30, message="a prefix")
    assert reaches(web, "fd00:9::1")

    # Neither the host, by any of its addresses, nor what lies beyond it, nor another root with the same addresses.
    assert "default" not in web.run("ip route").text
    web.run("ip route add default via 10.9.0.1")  # not even a guest that tries
    for target in ("10.0.2.2", "192.168.122.1", "8.8.8.8", *hosts_own()):
        assert not reaches(web, target)
    assert address(stranger, elsewhere.networkLookupByName("default")) == "10.9.0.10"
    assert not reaches(stranger, "10.9.0.200")


def test_a_kept_guest_gets_its_network_back(tmp_path: Path, embedvm_domain_xml: str) -> None:
    uri = make_uri(tmp_path / "kept")
    with libvirt.open(uri, keep_running=True) as first:
        default = first.networkDefineXML(LAB)
        default.destroy()
        default.create()
        domain = first.defineXML(embedvm_domain_xml)
        domain.create()
    with libvirt.open(uri) as second:
        try:
            vm = VM(second.lookupByName(domain.name()))
            vm.wait_ready(timeout=120)
            second.networkLookupByName("default").DHCPLeases()
            vm.wait_until(
                lambda: reaches(vm, "192.168.122.1") or reaches(vm, "10.9.0.1"), timeout=60, message="a gateway"
            )
            vm.close()
        finally:
            second.lookupByName(domain.name()).destroy()
