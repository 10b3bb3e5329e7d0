"""`<network>`: what is refused, and the same XML as libvirt writes."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import pytest

from pytest_embedvm.constants import NetworkUpdateCommand as Command
from pytest_embedvm.constants import NetworkUpdateSection as Section
from pytest_embedvm.errors import ConfigUnsupported, EmbedError, XMLError
from pytest_embedvm.network import definition
from pytest_embedvm.network.check import check
from pytest_embedvm.network.update import update
from pytest_embedvm.units import Rate, Rates

UUID = "11111111-1111-1111-1111-111111111111"
FULL = f"""<network ipv6='yes'>
  <name>full</name><uuid>{UUID}</uuid>
  <forward mode='nat'/>
  <bridge name='virbr7' stp='off' delay='3'/>
  <mtu size='1400'/>
  <mac address='52:54:00:11:22:33'/>
  <domain name='lab' localOnly='yes'/>
  <dns><txt name='a' value='b'/><host ip='10.0.0.5'><hostname>x</hostname><hostname>y</hostname></host>
    <srv service='ldap' protocol='tcp' domain='lab' target='x.lab' port='389' priority='1' weight='2'/></dns>
  <bandwidth><inbound average='100' peak='200' burst='50'/><outbound average='10'/></bandwidth>
  <ip address='10.0.0.1' netmask='255.255.255.0'>
    <dhcp><range start='10.0.0.10' end='10.0.0.20'/><host mac='52:54:00:00:00:01' name='a' ip='10.0.0.9'/></dhcp></ip>
  <ip family='ipv6' address='fd00::1' prefix='64'/>
  <portgroup name='slow' default='yes'><bandwidth><outbound average='5'/></bandwidth></portgroup>
  <portgroup name='fast'/>
</network>"""


def completed(xml: str) -> str:
    network = definition.parse(xml)
    check(network)
    network.complete(lambda: None, lambda: "", "virbr0")  # type: ignore[arg-type, return-value]
    return definition.format(network)


def canonical(xml: str) -> str:
    return ET.canonicalize(xml, strip_text=True)


@pytest.mark.parametrize(
    "xml",
    [
        FULL,
        FULL.replace("<forward mode='nat'/>", ""),
        f"<network><name>a</name><uuid>{UUID}</uuid><bridge name='v'/><mac address='52:54:00:00:00:01'/></network>",
        f"<network><name>a</name><uuid>{UUID}</uuid><bridge name='b'/><mac address='52:54:00:00:00:01'/>"
        "<dns enable='no'/><ip address='10.1.1.1' prefix='30'/></network>",
    ],
)
def test_libvirt_writes_the_same(xml: str) -> None:
    libvirt: Any = pytest.importorskip("libvirt", reason="libvirt-python is not installed")
    connection = libvirt.open("test:///default")
    try:
        assert canonical(completed(xml)) == canonical(connection.networkDefineXML(xml).XMLDesc())
    finally:
        connection.close()


def test_what_limits_a_card_by_its_group() -> None:
    network = definition.parse(FULL)
    assert network.rates(None) == network.rates("slow") == Rates(outbound=Rate(5))
    assert network.rates("fast") == network.rates("unknown") == Rates()
    assert network.bandwidth
    assert network.bandwidth.rates == Rates(Rate(100, 200, 50), Rate(10))


@pytest.mark.parametrize(
    ("inside", "error", "message"),
    [
        ("<bandwidth><inbound peak='5'/></bandwidth>", XMLError, "Missing mandatory average or floor attributes"),
        ("<bandwidth><inbound floor='5' peak='5'/></bandwidth>", XMLError, "'peak' and 'burst' require 'average'"),
        ("<bandwidth><inbound average='9' floor='5'/></bandwidth>", ConfigUnsupported, "floor='5' is not supported"),
        ("<portgroup name='a'/><portgroup name='a'/>", XMLError, r"multiple <portgroup> .* same name \(a\)"),
        ("<portgroup name='a' default='yes'/><portgroup name='b' default='yes'/>", XMLError, "multiple default"),
        ("<portgroup name='a'><vlan><tag id='3'/></vlan></portgroup>", ConfigUnsupported, "vlan"),
    ],
)
def test_what_cannot_be(inside: str, error: type[EmbedError], message: str) -> None:
    with pytest.raises(error, match=message):
        check(definition.parse(f"<network><name>a</name>{inside}</network>"))


HOST = "<host mac='52:54:00:00:00:02' name='b' ip='10.0.0.8'/>"


def updated(command: Command, section: Section, xml: str, parent: int = -1) -> str:
    network = definition.parse(FULL)
    update(network, command, section, parent, xml)
    check(network)
    return definition.format(network)


def same_in_libvirt(command: Command, section: Section, xml: str) -> str:
    """What libvirt's test driver makes of it."""
    libvirt: Any = pytest.importorskip("libvirt", reason="libvirt-python is not installed")
    connection = libvirt.open("test:///default")
    try:
        network = connection.networkDefineXML(FULL)
        network.update(command, section, -1, xml, libvirt.VIR_NETWORK_UPDATE_AFFECT_CONFIG)
        return str(network.XMLDesc())
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("command", "section", "xml"),
    [
        (Command.ADD_LAST, Section.IP_DHCP_HOST, HOST),
        (Command.ADD_FIRST, Section.IP_DHCP_HOST, HOST),
        (Command.MODIFY, Section.IP_DHCP_HOST, "<host mac='52:54:00:00:00:01' name='c' ip='10.0.0.7'/>"),
        (Command.DELETE, Section.IP_DHCP_HOST, "<host mac='52:54:00:00:00:01'/>"),
        (Command.ADD_LAST, Section.IP_DHCP_RANGE, "<range start='10.0.0.30' end='10.0.0.40'/>"),
        (Command.ADD_LAST, Section.PORTGROUP, "<portgroup name='new'/>"),
        (
            Command.MODIFY,
            Section.PORTGROUP,
            "<portgroup name='fast'><bandwidth><inbound average='7'/></bandwidth></portgroup>",
        ),
        (Command.DELETE, Section.PORTGROUP, "<portgroup name='slow'/>"),
        (Command.ADD_LAST, Section.DNS_HOST, "<host ip='10.0.0.6'><hostname>z</hostname></host>"),
        (Command.ADD_FIRST, Section.DNS_TXT, "<txt name='c' value='d'/>"),
        (Command.ADD_LAST, Section.DNS_SRV, "<srv service='kerberos' protocol='udp'/>"),
        (Command.DELETE, Section.DNS_SRV, "<srv service='ldap' protocol='tcp'/>"),
    ],
)
def test_an_entry_is_changed_as_libvirt_does(command: Command, section: Section, xml: str) -> None:
    ours, theirs = canonical(updated(command, section, xml)), canonical(same_in_libvirt(command, section, xml))
    assert ours == theirs
    assert ours != canonical(FULL)


@pytest.mark.parametrize(
    ("command", "section", "xml", "message"),
    [
        (
            Command.ADD_LAST,
            Section.IP_DHCP_HOST,
            "<host name='a' ip='10.0.0.8'/>",
            "there is an existing dhcp host entry",
        ),
        (Command.DELETE, Section.IP_DHCP_HOST, HOST, "couldn't locate an existing dhcp host entry"),
        (Command.MODIFY, Section.IP_DHCP_RANGE, "<range start='10.0.0.10' end='10.0.0.20'/>", "cannot be modified"),
        (Command.ADD_LAST, Section.IP_DHCP_RANGE, "<range start='10.9.0.1' end='10.9.0.2'/>", "not entirely within"),
        (Command.DELETE, Section.DNS_HOST, "<host ip='1.2.3.4'><hostname>q</hostname></host>", "couldn't locate"),
        (Command.ADD_LAST, Section.DNS_TXT, "<txt name='a' value='x'/>", "there is already a DNS TXT record"),
        (Command.ADD_LAST, Section.PORTGROUP, "<portgroup name='n' default='yes'/>", "multiple default"),
        (Command.ADD_LAST, Section.BRIDGE, "<bridge name='x'/>", "can't update 'bridge' section of network 'full'"),
        (Command.ADD_LAST, 99, "<x/>", "can't update unrecognized section of network 'full'"),
        (77, Section.DNS_TXT, "<txt name='q' value='x'/>", "unrecognized network update command code 77"),
        (Command.ADD_LAST, Section.DNS_TXT, "<host/>", "expecting root element of 'txt'"),
        (Command.ADD_LAST, Section.DNS_TXT, "<txt", "network_update_xml"),
    ],
)
def test_an_entry_that_cannot_be_changed(command: Command, section: Section, xml: str, message: str) -> None:
    with pytest.raises(EmbedError, match=message):
        updated(command, section, xml)
    if section == Section.IP_DHCP_HOST:
        with pytest.raises(EmbedError, match="no <ip> element found at index 9"):
            updated(command, section, xml, parent=9)
