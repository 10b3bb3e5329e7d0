"""Network cards."""

from __future__ import annotations

import pytest

from pytest_embedvm.constants import ErrorDomain, ErrorNumber
from pytest_embedvm.domain.argv import launch
from pytest_embedvm.errors import EmbedError
from pytest_embedvm.qemu.parts import Command
from tests.domain.describing import completed, options, written
from tests.fakes.host import FakeHost

MAC = "<mac address='52:54:00:00:00:01'/>"


def interface(inside: str = "", kind: str = "user") -> str:
    return f"<interface type='{kind}'>{MAC}{inside}</interface>"


def test_defaults() -> None:
    (xml,) = written(completed("<interface/>"), "interface")
    assert xml.startswith("<interface type='user'><mac address='52:54:00:00:00:01'/><model type='rtl8139'/><address")


@pytest.mark.parametrize("mac", ["52:54:0:0:ab:1", "52:54:00:00:AB:01"])
def test_macs_are_written_one_way(mac: str) -> None:
    (xml,) = written(completed(f"<interface><mac address='{mac}'/></interface>"), "interface")
    assert "<mac address='52:54:00:00:ab:01'/>" in xml


@pytest.mark.parametrize(
    ("model", "driver", "bus"),
    [
        ("virtio", "virtio-net-pci", "pcie"),
        ("virtio-transitional", "virtio-net-pci-transitional", "pci"),
        ("e1000", "e1000", "pci"),
        ("e1000e", "e1000e", "pcie"),
        ("bogus", "bogus", "pcie"),
        ("usb-net", "usb-net", "usb"),
    ],
)
def test_models(model: str, driver: str, bus: str) -> None:
    domain = completed(interface(f"<model type='{model}'/>"))
    (device,) = [d for d in options(domain, "-device") if '"net0"' in d]
    assert device.startswith(f'{{"driver":"{driver}","netdev":"hostnet0","id":"net0","mac":"52:54:00:00:00:01"')
    on = {"pcie": '"pci.1","addr":"0x0"', "pci": '"pci.2","addr":"0x1"', "usb": '"usb.0","port":"1"'}
    assert device.endswith(f',"bus":{on[bus]}}}')


def test_a_link_that_is_down_is_cut_before_the_guest_runs() -> None:
    domain = completed(interface("<link state='down'/>") + interface("<link state='up'/>"))
    assert launch(domain, FakeHost()).commands == (Command("set_link", {"name": "net0", "up": False}),)


def test_names_that_a_running_libvirt_gave_are_forgotten() -> None:
    assert "<target" not in written(completed(interface("<target dev='vnet3'/>")), "interface")[0]


XML, CONFIG, ARGUMENT = ErrorNumber.XML_ERROR, ErrorNumber.CONFIG_UNSUPPORTED, ErrorNumber.INVALID_ARG
DOMAIN, QEMU = ErrorDomain.DOMAIN, ErrorDomain.QEMU


@pytest.mark.parametrize(
    ("xml", "code", "origin", "sentence"),
    [
        (
            "<interface type='bogus'/>",
            XML, ErrorDomain.XML, "Invalid value for attribute 'type' in element 'interface': 'bogus'.",
        ),
        ("<interface><mac address='zz'/></interface>", XML, DOMAIN, "unable to parse mac address 'zz'"),
        ("<interface><mac address=''/></interface>", XML, DOMAIN, "unable to parse mac address ''"),
        (
            "<interface><mac address='01:00:5e:00:00:01'/></interface>",
            XML, DOMAIN, "expected unicast mac address, found multicast '01:00:5e:00:00:01'",
        ),
        (interface("<model type='a b'/>"), ARGUMENT, DOMAIN, "Model name contains invalid characters"),
        (interface("<link state='zz'/>"), CONFIG, DOMAIN, "unknown interface link state 'zz'"),
        (
            interface("<boot order='0'/>"),
            XML, ErrorDomain.XML, "Invalid value for attribute 'order' in element 'boot': Zero is not permitted",
        ),
        (
            interface("<acpi index='0'/>"),
            XML, ErrorDomain.XML, "Invalid value for attribute 'index' in element 'acpi': Zero is not permitted",
        ),
        (interface("<mtu size='9000'/>"), CONFIG, QEMU, "setting MTU on interface type user is not supported yet"),
        (
            interface("<model type='virtio'/><driver queues='4'/>"),
            CONFIG, QEMU,
            "interface 52:54:00:00:00:01 - multiqueue is not supported for network interfaces of type user",
        ),
        (
            interface("<model type='e1000'/><driver iommu='on'/>"),
            CONFIG, DOMAIN, "iommu driver option is only supported for virtio devices",
        ),
        (
            interface("<model type='virtio'/><driver rx_queue_size='7'/>"),
            CONFIG, QEMU, "rx_queue_size has to be a power of two",
        ),
        (
            interface("<rom enabled='no' file='/x'/>"),
            CONFIG, DOMAIN, "ROM tuning is not supported when ROM is disabled",
        ),
        (interface("<ip/>"), XML, DOMAIN, "Missing required address in <ip>"),
        (interface("<ip address='zz'/>"), XML, DOMAIN, "Invalid address 'zz' in <ip>"),
        (interface("<ip family='ipv6' address='10.0.0.0'/>"), XML, DOMAIN, "Invalid address '10.0.0.0' in <ip>"),
        (interface("<ip address='10.0.0.0' prefix='33'/>"), XML, DOMAIN, "Invalid prefix value '33' in <ip>"),
        (interface("<ip address='10.0.0.0' prefix='30'/>"), XML, QEMU, "invalid prefix, must be in range of 4-27"),
        (
            interface("<ip family='ipv6' address='fd00::' prefix='124'/>"),
            CONFIG, QEMU, "unsupported IPv6 address prefix='124' - must be 64",
        ),
        (
            interface("<ip address='10.0.0.0' peer='10.0.0.1'/>"),
            CONFIG, QEMU, "Invalid attempt to set peer IP for guest",
        ),
        (
            interface("<ip address='10.0.0.0'/><ip address='10.1.0.0'/>"),
            CONFIG, QEMU, "Only one IPv4 address per interface is allowed",
        ),
        (interface(kind="mcast"), XML, DOMAIN, "interface type='mcast' requires a 'source' element"),
        (
            interface("<source address='230.0.0.1'/>", kind="mcast"),
            XML, ErrorDomain.XML, "Missing required attribute 'port' in element 'source'",
        ),
        (
            interface(kind="bridge"),
            XML, ErrorDomain.XML, "Missing required attribute 'bridge' in element 'source'",
        ),
        (
            interface("<source port='1'/>", kind="client"),
            XML, ErrorDomain.XML, "Missing required attribute 'address' in element 'source'",
        ),
        (
            interface("<source address='127.0.0.1' port='1'/>", kind="udp"),
            XML, DOMAIN, "'<local>' element missing for 'udp' socket interface",
        ),
    ],
)  # fmt: skip
def test_refuses_in_libvirts_words(xml: str, code: ErrorNumber, origin: ErrorDomain, sentence: str) -> None:
    with pytest.raises(EmbedError) as caught:
        completed(xml)
    assert (caught.value.code, caught.value.origin, caught.value.detail) == (code, origin, sentence)


@pytest.mark.parametrize(
    ("xml", "named"),
    [
        (interface("<source network='default' dev='g'/>", kind="network"), "'dev' of element <source>"),
        (interface("<source bridge='br0' dev='eth0'/>", kind="bridge"), "'dev' of element <source>"),
        (interface("<source dev='eth0' mode='bridge'/>", kind="direct"), "<interface type='direct'>"),
        (interface(kind="ethernet"), "<interface type='ethernet'>"),
        (interface(kind="null"), "<interface type='null'>"),
        (interface("<target dev='tap9'/>"), "target dev='tap9'"),
        (interface("<source dev='eth0'/>"), "'dev' of element <source>"),
        (interface("<model type='virtio'/><driver name='vhost'/>"), "driver name='vhost'"),
        (interface("<backend logFile='/l'/>"), "logFile='/l'"),
        (interface("<bandwidth><inbound average='1'/></bandwidth>"), "bandwidth"),
        (interface("<vlan><tag id='42'/></vlan>"), "vlan"),
        (
            interface("<source address='230.0.0.1' port='1'/><backend type='passt'/>", kind="mcast"),
            "<interface type='mcast'>",
        ),
        (
            interface("<source bridge='br0'/><model type='virtio'/><driver queues='2'/>", kind="bridge"),
            "multiqueue is not supported",
        ),
    ],
)
def test_refuses_by_name_what_cannot_be_given(xml: str, named: str) -> None:
    with pytest.raises(EmbedError, match=named) as caught:
        completed(xml)
    assert caught.value.code == CONFIG
