from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest
from dnslib import DNSRecord
from hypothesis import given
from hypothesis import strategies as st

from pytest_embedvm.network import dhcp, frames
from pytest_embedvm.network.frames import Arp, Datagram, Frame, Packet
from pytest_embedvm.network.gateway import Gateway, Question
from pytest_embedvm.network.names import Names

OURS, GUEST = frames.mac("52:54:00:00:00:fe"), frames.mac("52:54:00:00:00:01")
V4, V6 = IPv4Address("10.1.0.1"), IPv6Address("fd00::1")
GUEST_V4, GUEST_V6 = IPv4Address("10.1.0.10"), IPv6Address("fe80::5054:ff:fe00:1")
ALL_ROUTERS = IPv6Address("ff02::2")


@pytest.fixture
def gateway() -> Gateway:
    offer = dhcp.Offer(V4, IPv4Network("10.1.0.0/24"), router=None, dns=V4)
    server = dhcp.Server(offer, [(GUEST_V4, IPv4Address("10.1.0.20"))])
    names = Names()
    names.add("db", GUEST_V4)
    return Gateway(OURS, V4, V6, prefix=IPv6Network("fd00::/64"), server=server, names=names)


def receive(gateway: Gateway, packet: Packet, target: bytes = OURS) -> list[Packet]:
    frame = bytes(Frame(target, GUEST, packet.kind, bytes(packet)))
    assert gateway.concerns(frame)
    answers = [Frame.read(answer) for answer in gateway.receive(frame, 0)]
    packets = [Packet.read(answer.kind, answer.payload) for answer in answers if answer and answer.source == OURS]
    assert len(packets) == len(answers)
    return [packet for packet in packets if packet]


def test_is_found_by_its_address(gateway: Gateway) -> None:
    asks = Arp(1, GUEST, GUEST_V4, bytes(6), V4)
    (answer,) = gateway.receive(bytes(Frame(frames.BROADCAST, GUEST, frames.ARP, bytes(asks))), 0)
    frame = Frame.read(answer)
    assert frame
    assert (frame.target, frame.source) == (GUEST, OURS)
    assert Arp.read(frame.payload) == Arp(2, OURS, V4, GUEST, GUEST_V4)


def test_does_not_answer_for_others(gateway: Gateway) -> None:
    asks = Arp(1, GUEST, GUEST_V4, bytes(6), IPv4Address("10.1.0.2"))
    assert not list(gateway.receive(bytes(Frame(frames.BROADCAST, GUEST, frames.ARP, bytes(asks))), 0))
    assert not gateway.concerns(bytes(Frame(GUEST, OURS, frames.IPV4, b"")))


def test_answers_a_ping(gateway: Gateway) -> None:
    (answer,) = receive(gateway, Packet(GUEST_V4, V4, frames.ICMP, frames.icmp(8, b"\0\1\0\2hello")))
    assert (answer.source, answer.target) == (V4, GUEST_V4)
    assert answer.payload == frames.icmp(0, b"\0\1\0\2hello")


@pytest.mark.parametrize("address", [V6, frames.link_local(OURS)])
def test_answers_a_ping_over_ipv6(gateway: Gateway, address: IPv6Address) -> None:
    (answer,) = receive(gateway, frames.icmpv6(GUEST_V6, address, 128, b"\0\1\0\2hello"))
    assert answer == frames.icmpv6(address, GUEST_V6, 129, b"\0\1\0\2hello")


def test_routes_nothing(gateway: Gateway) -> None:
    for target in ("127.0.0.1", "10.0.2.2", "192.168.1.1", "8.8.8.8"):
        address = IPv4Address(target)
        assert receive(gateway, Packet(GUEST_V4, address, frames.ICMP, frames.icmp(8, b"\0\1\0\2"))) == []
        assert receive(gateway, Datagram(1234, 53, DNSRecord.question("db").pack()).packet(GUEST_V4, address)) == []


def test_is_found_by_its_neighbours(gateway: Gateway) -> None:
    body = bytes(4) + V6.packed
    (answer,) = receive(
        gateway,
        frames.icmpv6(GUEST_V6, frames.solicited(V6), 135, body),
        frames.multicast_mac(frames.solicited(V6)),
    )
    assert (answer.source, answer.target, answer.payload[0]) == (V6, GUEST_V6, 136)
    assert answer.payload[4] == 0x60
    assert answer.payload[8:] == V6.packed + b"\2\1" + OURS


def test_defends_its_address_against_who_probes_it(gateway: Gateway) -> None:
    packet = frames.icmpv6(IPv6Address(0), frames.solicited(V6), 135, bytes(4) + V6.packed)
    (answer,) = receive(gateway, packet, frames.multicast_mac(frames.solicited(V6)))
    assert answer.target == IPv6Address("ff02::1")
    assert answer.payload[4] == 0x20


def test_neighbours_are_on_the_link(gateway: Gateway) -> None:
    packet = frames.icmpv6(GUEST_V6, V6, 135, bytes(4) + V6.packed)
    assert receive(gateway, Packet(packet.source, packet.target, packet.protocol, packet.payload, 64)) == []


def test_advertises_its_prefix_and_no_way_out(gateway: Gateway) -> None:
    (answer,) = receive(gateway, frames.icmpv6(GUEST_V6, ALL_ROUTERS, 133, bytes(4)), frames.multicast_mac(ALL_ROUTERS))
    assert answer.source == frames.link_local(OURS)
    assert answer.payload[6:8] == bytes(2)  # for how many seconds it is a router
    assert IPv6Address("fd00::").packed in answer.payload
    assert V6.packed in answer.payload


def test_gives_leases(gateway: Gateway) -> None:
    message = dhcp.Message(1, 7, 0, IPv4Address(0), IPv4Address(0), GUEST, {53: b"\1"})
    packet = Datagram(68, 67, bytes(message)).packet(IPv4Address(0), IPv4Address("255.255.255.255"))
    (answer,) = receive(gateway, packet, frames.BROADCAST)
    assert (answer.source, answer.target) == (V4, GUEST_V4)
    datagram = Datagram.read(answer.payload)
    assert datagram
    assert (datagram.source, datagram.target) == (67, 68)
    offered = dhcp.Message.read(datagram.payload)
    assert offered
    assert offered.yours == GUEST_V4


@pytest.mark.parametrize("address", [(GUEST_V4, V4), (GUEST_V6, V6)])
def test_answers_questions_for_names(gateway: Gateway, address: tuple[frames.Address, frames.Address]) -> None:
    (answer,) = receive(gateway, Datagram(1234, 53, DNSRecord.question("db").pack()).packet(*address))
    datagram = Datagram.read(answer.payload)
    assert datagram
    assert (answer.source, answer.target, datagram.source, datagram.target) == (*address[::-1], 53, 1234)
    assert str(DNSRecord.parse(datagram.payload).short()) == str(GUEST_V4)


def test_asks_somebody_else_for_what_it_cannot_know(gateway: Gateway) -> None:
    asked: list[Question] = []
    gateway.ask = asked.append
    question = DNSRecord.question("example.org")
    assert receive(gateway, Datagram(1234, 53, question.pack()).packet(GUEST_V4, V4)) == []
    assert receive(gateway, Datagram(1234, 53, DNSRecord.question("nobody").pack()).packet(GUEST_V4, V4)) != []
    assert [entry.data for entry in asked] == [question.pack()]
    frame = Frame.read(gateway.resolved(asked[0], b"an answer"))
    assert frame
    assert (frame.target, frame.source) == (GUEST, OURS)
    packet = Packet.read(frame.kind, frame.payload)
    assert packet == Datagram(53, 1234, b"an answer").packet(V4, GUEST_V4)


@given(st.sampled_from([frames.ARP, frames.IPV4, frames.IPV6]), st.binary(max_size=200))
def test_nothing_a_guest_sends_breaks_it(kind: int, data: bytes) -> None:
    gateway = Gateway(OURS, V4, V6, prefix=IPv6Network("fd00::/64"), names=Names())
    list(gateway.receive(bytes(Frame(OURS, GUEST, kind, data)), 0))


@given(st.sampled_from([frames.UDP, frames.ICMP, frames.ICMPV6]), st.binary(max_size=200))
def test_nothing_in_a_packet_breaks_it(protocol: int, data: bytes) -> None:
    gateway = Gateway(OURS, V4, V6, prefix=IPv6Network("fd00::/64"), names=Names())
    for packet in (Packet(GUEST_V4, V4, protocol, data), Packet(GUEST_V6, V6, protocol, data, 255)):
        list(gateway.receive(bytes(Frame(OURS, GUEST, packet.kind, bytes(packet))), 0))


def lease(gateway: Gateway, name: bytes | None = None) -> None:
    for kind in (b"\1", b"\3"):
        options = {53: kind, 50: GUEST_V4.packed} | ({12: name} if name else {})
        message = dhcp.Message(1, 7, 0, IPv4Address(0), IPv4Address(0), GUEST, options)
        packet = Datagram(68, 67, bytes(message)).packet(IPv4Address(0), IPv4Address("255.255.255.255"))
        assert receive(gateway, packet, frames.BROADCAST)


@pytest.mark.parametrize(
    ("called", "said", "name"),
    [("web", None, "web"), ("web", b"other", "other"), ("Web-1", None, "web-1"), ("not a name", None, None)],
)
def test_a_guest_is_found_by_its_name(gateway: Gateway, called: str, said: bytes | None, name: str | None) -> None:
    assert gateway.names
    gateway.names.hosts.clear()
    gateway.call(frames.spell_mac(GUEST), called)
    lease(gateway, said)
    assert gateway.names.hosts == ({name: [GUEST_V4]} if name else {})


def test_an_address_has_the_name_of_who_has_it_now(gateway: Gateway) -> None:
    assert gateway.names
    lease(gateway, name=b"old")
    lease(gateway, name=b"new")
    assert "old" not in gateway.names.hosts
    assert gateway.names.hosts["new"] == [GUEST_V4]
