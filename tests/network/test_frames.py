from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_embedvm.network import frames
from pytest_embedvm.network.frames import Arp, Datagram, Frame, Packet

MAC = b"RT\0\x124V"


def test_a_frame_goes_there_and_back() -> None:
    frame = Frame(frames.BROADCAST, MAC, frames.ARP, b"payload")
    assert Frame.read(bytes(frame)) == frame
    assert Frame.read(bytes(13)) is None


def test_an_arp_packet_goes_there_and_back() -> None:
    arp = Arp(1, MAC, IPv4Address("10.0.0.1"), bytes(6), IPv4Address("10.0.0.2"))
    assert bytes(arp).hex() == "00010800060400015254001234560a0000010000000000000a000002"
    assert Arp.read(bytes(arp)) == arp


@pytest.mark.parametrize("data", [b"", bytes(28), bytes.fromhex("0001080006050001") + bytes(20)])
def test_what_is_no_arp_is_none(data: bytes) -> None:
    assert Arp.read(data) is None


def test_the_checksum_of_the_rfc() -> None:
    assert frames.checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xFFFF ^ 0xDDF2


def test_a_header_sums_up_to_nothing() -> None:
    packet = bytes(Packet(IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2"), frames.ICMP, b"x" * 9))
    assert frames.checksum(packet[:20]) == 0
    assert len(packet) == 29


addresses = st.one_of(
    st.tuples(st.ip_addresses(v=4), st.ip_addresses(v=4)), st.tuples(st.ip_addresses(v=6), st.ip_addresses(v=6))
)


@given(addresses, st.binary(max_size=1400), st.integers(0, 65535), st.integers(0, 65535))
def test_a_datagram_goes_there_and_back(
    ends: tuple[frames.Address, frames.Address], payload: bytes, source: int, target: int
) -> None:
    packet = Datagram(source, target, payload).packet(*ends)
    read = Packet.read(packet.kind, bytes(packet) + b"padding")
    assert read == packet
    assert Datagram.read(packet.payload) == Datagram(source, target, payload)
    # Whoever sums up a datagram with its checksum in it gets zero.
    assert frames.transport_checksum(*ends, frames.UDP, packet.payload) == 0


@given(st.sampled_from([frames.IPV4, frames.IPV6, frames.ARP]), st.binary(max_size=80))
def test_nothing_a_guest_sends_breaks_the_readers(kind: int, data: bytes) -> None:
    Frame.read(data)
    Arp.read(data)
    Datagram.read(data)
    packet = Packet.read(kind, data)
    assert packet is None or len(packet.payload) <= len(data)


@pytest.mark.parametrize("flags", [0x2000, 0x0001, 0x3FFF])
def test_a_fragment_is_not_read(flags: int) -> None:
    packet = bytearray(bytes(Packet(IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2"), frames.UDP, b"12345678")))
    packet[6:8] = flags.to_bytes(2, "big")
    assert Packet.read(frames.IPV4, bytes(packet)) is None


def test_addresses_that_follow_from_a_mac() -> None:
    assert frames.mac("52:54:00:12:34:56") == MAC
    assert frames.spell_mac(MAC) == "52:54:00:12:34:56"
    assert frames.link_local(MAC) == IPv6Address("fe80::5054:ff:fe12:3456")
    assert frames.solicited(IPv6Address("fd00::1:2:3")) == IPv6Address("ff02::1:ff02:3")
    assert frames.multicast_mac(IPv6Address("ff02::1:ff02:3")).hex(":") == "33:33:ff:02:00:03"


def test_an_echo_request_sums_up() -> None:
    assert frames.checksum(frames.icmp(8, b"\0\1\0\1hello")) == 0
    packet = frames.icmpv6(IPv6Address("fe80::1"), IPv6Address("fe80::2"), 128, b"hello")
    assert frames.transport_checksum(packet.source, packet.target, frames.ICMPV6, packet.payload) == 0
