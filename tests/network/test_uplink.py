from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from dnslib import DNSRecord
from hypothesis import given
from hypothesis import strategies as st

from pytest_embedvm.network import frames, uplink
from pytest_embedvm.network.frames import Arp, Datagram, Frame, Packet
from pytest_embedvm.network.gateway import Question
from pytest_embedvm.network.uplink import Far, Uplink

OURS, GUEST, SLIRP = (frames.mac(f"52:54:00:00:00:{end}") for end in ("fe", "01", "99"))
GATEWAY, ADDRESS = IPv4Address("10.1.0.1"), IPv4Address("10.1.0.10")
OUTSIDE = IPv4Address("203.0.113.7")
SYN, SYN_ACK, PLAIN_ACK = 0x02, 0x12, 0x10


class World:
    """What the rules ask of, and tell, the rest."""

    def __init__(self, *, leads_out: bool) -> None:
        self.answers: list[tuple[Question, bytes]] = []
        self.has: IPv4Address | None = ADDRESS
        self.up = Uplink(
            OURS, GATEWAY, (IPv4Network("10.1.0.0/24"),), leads_out, lambda _: self.has,
            lambda *answer: self.answers.append(answer),
        )  # fmt: skip
        self.far = self.up.far

    def out(self, packet: Packet) -> Packet | None:
        """What slirp is given for PACKET."""
        frame = Frame.read(self.up.outward(Frame(OURS, GUEST, packet.kind, bytes(packet))) or b"")
        return Packet.read(frame.kind, frame.payload) if frame else None

    def back(self, packet: Packet) -> list[uplink.Inward]:
        return list(self.up.inward(bytes(Frame(OURS, SLIRP, packet.kind, bytes(packet)))))


@pytest.fixture
def nat() -> World:
    return World(leads_out=True)


@pytest.fixture
def closed() -> World:
    return World(leads_out=False)


def segment(source: IPv4Address, target: IPv4Address, flags: int, body: bytes = b"") -> Packet:
    data = bytes((0x9C, 0x40, 0, 22)) + bytes(8) + bytes((0x50, flags, 0xFF, 0xFF, 0, 0, 0, 0)) + body
    total = frames.transport_checksum(source, target, frames.TCP, data)
    return Packet(source, target, frames.TCP, data[:16] + total.to_bytes(2, "big") + data[18:])


def test_a_guest_of_nat_reaches_what_is_outside(nat: World, closed: World) -> None:
    for packet in (
        segment(ADDRESS, OUTSIDE, SYN),
        Datagram(5000, 123, b"x").packet(ADDRESS, OUTSIDE),
        Packet(ADDRESS, IPv4Address("192.168.0.1"), frames.ICMP, frames.icmp(8, b"ping")),
    ):
        assert nat.out(packet) == packet
        assert closed.out(packet) is None


@pytest.mark.parametrize(
    "target",
    [
        "127.0.0.1", "127.9.9.9", "0.0.0.0", "0.1.2.3", "169.254.169.254", "224.0.0.1", "255.255.255.255", "240.0.0.1",
        "10.1.0.99", "198.18.0.2", "198.18.0.3", "198.18.9.9", "198.19.0.2",
    ],
)  # fmt: skip
def test_the_hosts_loopback_and_what_is_like_it_are_out_of_reach(nat: World, target: str) -> None:
    assert nat.out(segment(ADDRESS, IPv4Address(target), SYN)) is None
    assert nat.out(Datagram(5000, 53, b"x").packet(ADDRESS, IPv4Address(target))) is None


def test_nobody_goes_out_under_an_address_that_is_not_the_networks(nat: World) -> None:
    assert nat.out(segment(IPv4Address("10.2.0.10"), OUTSIDE, SYN)) is None
    assert nat.out(segment(nat.far.ours, OUTSIDE, SYN)) is None


def test_what_comes_back_goes_to_its_guest(nat: World, closed: World) -> None:
    packet = segment(OUTSIDE, ADDRESS, SYN_ACK)
    assert nat.back(packet) == [uplink.Inward(bytes(packet), to=ADDRESS)]
    assert closed.back(packet) == []
    assert nat.back(segment(OUTSIDE, IPv4Address("10.2.0.1"), SYN_ACK)) == []


def test_a_connection_from_the_host_comes_from_the_networks_own_host(closed: World) -> None:
    place = closed.up.place(GUEST)
    assert closed.up.place(GUEST) == place
    assert closed.up.place(OURS) != place
    (inward,) = closed.back(segment(closed.far.host, place, SYN, b"odd"))
    assert (Packet.read(frames.IPV4, inward.data), inward.mac) == (segment(GATEWAY, ADDRESS, SYN, b"odd"), GUEST)
    assert closed.out(segment(ADDRESS, GATEWAY, SYN_ACK, b"x")) == segment(place, closed.far.host, SYN_ACK, b"x")
    assert frames.checksum(inward.data[:20]) == 0

    closed.has = IPv4Address("10.1.0.77")  # it has another address now
    (inward,) = closed.back(segment(closed.far.host, place, PLAIN_ACK))
    assert Packet.read(frames.IPV4, inward.data) == segment(GATEWAY, closed.has, PLAIN_ACK)
    closed.has = None
    assert closed.back(segment(closed.far.host, place, SYN)) == []
    assert closed.back(segment(OUTSIDE, place, SYN)) == []


@pytest.mark.parametrize("leads_out", [True, False])
@pytest.mark.parametrize("placed", [True, False])
def test_a_guest_begins_no_connection_to_the_host(leads_out: bool, placed: bool) -> None:
    world = World(leads_out=leads_out)
    if placed:
        world.up.place(GUEST)
    for flags in (SYN, SYN | 0x20, SYN | 0x01, SYN | 0x04):
        assert world.out(segment(ADDRESS, GATEWAY, flags)) is None
    assert world.out(Datagram(5000, 5000, b"x").packet(ADDRESS, GATEWAY)) is None
    assert world.out(Packet(ADDRESS, GATEWAY, frames.TCP, bytes(19))) is None
    fragment = bytearray(bytes(segment(ADDRESS, GATEWAY, PLAIN_ACK)))
    fragment[6] = 0x20  # more of it comes
    assert world.up.outward(Frame(OURS, GUEST, frames.IPV4, bytes(fragment))) is None


def test_slirp_is_told_that_all_guests_are_behind_us(nat: World) -> None:
    def ask(target: IPv4Address) -> list[uplink.Inward]:
        asks = Arp(frames.ARP_ASK, SLIRP, nat.far.host, bytes(6), target)
        return list(nat.up.inward(bytes(Frame(frames.BROADCAST, SLIRP, frames.ARP, bytes(asks)))))

    (answer,) = ask(ADDRESS)
    frame = Frame.read(answer.data)
    assert frame
    assert answer.back
    assert Arp.read(frame.payload) == Arp(frames.ARP_ANSWER, OURS, ADDRESS, SLIRP, nat.far.host)
    assert ask(nat.far.host) == ask(nat.far.resolver) == []


def question(number: int = 0) -> Question:
    asks = DNSRecord.question("example.org")
    asks.header.id = number
    return Question(asks.pack(), GUEST, ADDRESS, 5353, GATEWAY)


def test_names_are_asked_of_the_hosts_name_server(nat: World) -> None:
    asked = question(7)
    frame = Frame.read(nat.up.ask(asked))
    packet = Packet.read(frames.IPV4, frame.payload) if frame else None
    datagram = Datagram.read(packet.payload) if packet else None
    assert packet
    assert datagram
    assert (packet.source, packet.target, datagram.target) == (nat.far.ours, nat.far.resolver, 53)
    assert datagram.payload == asked.data
    said = DNSRecord.parse(asked.data).reply().pack()
    wrong = DNSRecord.parse(question(8).data).reply().pack()
    for source, reply in ((nat.far.host, said), (nat.far.resolver, wrong)):
        assert nat.back(Datagram(53, datagram.source, reply).packet(source, nat.far.ours)) == []
    assert nat.answers == []
    for _ in range(2):  # the second one was not asked for
        assert nat.back(Datagram(53, datagram.source, said).packet(nat.far.resolver, nat.far.ours)) == []
    assert nat.answers == [(asked, said)]


def test_questions_do_not_pile_up(nat: World) -> None:
    for number in range(uplink.MOST_QUESTIONS * 2):
        nat.up.ask(question(number))
    assert len(nat.up._questions) == uplink.MOST_QUESTIONS


def test_the_far_side_is_beside_the_guests() -> None:
    assert Far.beside([IPv4Network("10.0.0.0/8")]).network == IPv4Network("198.18.0.0/16")
    assert Far.beside([IPv4Network("198.18.7.0/24")]).network == IPv4Network("198.19.0.0/16")


@given(st.binary(max_size=100), st.booleans())
def test_nothing_that_comes_breaks_it(data: bytes, ip: bool) -> None:
    nat = World(leads_out=True)
    nat.up.place(GUEST)
    if ip:
        data = bytes((0x45, *data))
    nat.up.outward(Frame(OURS, GUEST, frames.IPV4, data))
    list(nat.up.inward(data))
    list(nat.up.inward(bytes(Frame(OURS, SLIRP, frames.IPV4, data))))
