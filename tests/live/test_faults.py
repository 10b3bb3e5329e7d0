"""What goes wrong with a network on purpose. The guests say that it does, and that it ends."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from pytest_embedvm.embed import Capture
from pytest_embedvm.guest import VM
from pytest_embedvm.network.frames import ICMP, UDP, Datagram, Frame, Packet
from tests.pcap import read

UNTIL_TIMEOUT_S = 60
#: The networks' own.
DHCP = (68, 67)
HOST, NAT = "192.168.122.1", "10.0.2.2"


def reaches(vm: VM, address: str, patience: int = 20) -> bool:
    """Whether ADDRESS answers within PATIENCE seconds; a busy host may need some."""
    return vm.run(["ping", "-c", "1", "-W", str(patience), address], check=False).returncode == 0


def round_trip(vm: VM, address: str) -> float:
    """The shortest of three, in seconds, as the guest saw it."""
    text = vm.run(["ping", "-c", "3", "-W", "10", address]).text
    found = re.search(r"min/avg/max = ([\d.]+)/", text)
    assert found, text
    return float(found[1]) / 1000


def pings(capture: Capture) -> set[tuple[str, str]]:
    """From whom to whom echo requests and replies went."""
    found = (Frame.read(data) for data in read(capture.path))
    packets = (Packet.read(frame.kind, frame.payload) for frame in found if frame)
    return {(str(p.source), str(p.target)) for p in packets if p and p.protocol == ICMP}


def carrier(vm: VM) -> str:
    return vm.run("cat /sys/class/net/eth0/carrier", check=False).text.strip()


def address(vm: VM) -> str:
    """What its network gave the guest, once the guest has it."""
    mac = vm.run("cat /sys/class/net/eth0/address").text.strip()

    def given() -> str | None:
        found = [str(lease["ipaddr"]) for lease in vm.network.network.DHCPLeases(mac)]
        return found[0] if found and f"inet {found[0]}/" in vm.run("ip addr show eth0").text else None

    return vm.wait_until(given, timeout=UNTIL_TIMEOUT_S, message="an address") or ""


@pytest.mark.embedvm(network="private", memory=128)
def test_guests_that_are_torn_apart(vm_factory: Callable[..., VM], embedvm_domain_xml: str) -> None:
    unplugged = embedvm_domain_xml.replace("<source network", "<link state='down'/><source network", 1)
    c = vm_factory(xml=unplugged.replace(">vm<", ">c<"))
    a, b = vm_factory(name="a"), vm_factory(name="b")

    # A cable that is not in yet, is put in, and pulled.
    c.wait_until(lambda: carrier(c) == "0", timeout=UNTIL_TIMEOUT_S, message="a card without a carrier")
    c.link(up=True)
    c.wait_until(lambda: carrier(c) == "1", timeout=UNTIL_TIMEOUT_S, message="a carrier")
    at_a, at_b, at_c = map(address, (a, b, c))
    assert reaches(a, at_c)
    with c.link(up=False):
        c.wait_until(lambda: carrier(c) == "0", timeout=UNTIL_TIMEOUT_S, message="the carrier's end")
        assert not reaches(a, at_c, 2)
    c.wait_until(lambda: reaches(a, at_c, 2), timeout=UNTIL_TIMEOUT_S, message="c, plugged in again")

    # A partition stops those it parts, and no others; the network's own host is on both sides.
    assert reaches(a, at_b)
    with a.capture() as sent, b.capture() as got, a.network.partition([a], [b, c]):
        assert not reaches(a, at_b, 2)
        assert not reaches(b, at_a, 2)
        assert reaches(b, at_c)
        assert reaches(a, HOST)
        assert reaches(b, HOST)
    assert reaches(a, at_b)

    # What a sent is in its capture, though it never arrived: what b got is not.
    assert {(at_a, at_b), (at_a, HOST), (HOST, at_a)} <= pings(sent)
    assert (at_b, at_a) not in pings(sent)
    assert {(at_b, at_a), (at_b, at_c), (at_c, at_b)} <= pings(got)
    assert (at_a, at_b) not in pings(got)

    # One way only: b gets the questions, its answers are lost.
    a.network.drop(b, to=a)
    received = "cat /sys/class/net/eth0/statistics/rx_packets"
    before = int(b.run(received).text)
    assert not reaches(a, at_b, 2)
    assert int(b.run(received).text) > before
    a.network.heal()
    assert reaches(a, at_b)

    # Late, and not at all.
    with b.link(delay=0.2):
        assert round_trip(a, at_b) >= 0.39  # there and back; a guest's clock is not the host's
        assert reaches(a, at_c)
    with b.link(loss=1, direction="in"):
        assert not reaches(a, at_b, 2)
    with b.link(loss=0.5, seed=1):
        text = a.run(["ping", "-c", "20", "-i", "0.2", "-W", "1", at_b], check=False).text
        received = int(re.search(r"(\d+) packets received", text)[1])  # type: ignore[index]
        assert 0 < received < 20
    assert round_trip(a, at_b) > 0


@pytest.mark.embedvm(network="user", boot="cold", capture=True, memory=128)
def test_all_that_passes_a_card_on_qemus_own_network(vm: VM) -> None:
    [whole] = vm.captures
    with vm.capture() as later:
        vm.wait_until(lambda: reaches(vm, NAT, 2), timeout=UNTIL_TIMEOUT_S, message="QEMU's own network")
    own = vm.run("ip -4 -o addr show eth0").text.split()[3].partition("/")[0]
    assert {(own, NAT), (NAT, own)} <= pings(later)
    vm.run("poweroff")
    vm.wait_until(lambda: not vm.is_running, timeout=UNTIL_TIMEOUT_S, message="the guest's end")
    # The file is whole now, and has the guest's first words: it asked for an address.
    assert {(own, NAT), (NAT, own)} <= pings(whole)
    frames = [Frame.read(data) for data in read(whole.path)]
    packets = [Packet.read(frame.kind, frame.payload) for frame in frames if frame]
    asked = [Datagram.read(packet.payload) for packet in packets if packet and packet.protocol == UDP]
    assert DHCP in [(datagram.source, datagram.target) for datagram in asked if datagram]
    assert whole.frames == len(frames) >= later.frames > 0
