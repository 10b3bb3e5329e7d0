"""The network's own host: it answers ARP, neighbour discovery, ping, DHCP and DNS. What it has no answer to it can
hand to a router; it routes nothing itself.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import Final

from pytest_embedvm.network import dhcp, frames, names
from pytest_embedvm.network.frames import Arp, Datagram, Frame, Packet
from pytest_embedvm.network.names import Names

_ECHO_REPLY, _ECHO = 0, 8
_ECHO_V6, _ECHO_REPLY_V6 = 128, 129
_SOLICIT_ROUTER, _ADVERTISE_ROUTER, _SOLICIT, _ADVERTISE = 133, 134, 135, 136
_ALL_NODES: Final = IPv6Address("ff02::1")
_SOLICITED, _OVERRIDE = 0x40, 0x20
#: Options of neighbour discovery (RFC 4861, 8106).
_SOURCE_MAC, _TARGET_MAC, _PREFIX, _MTU, _DNS = 1, 2, 3, 5, 25
_ON_LINK, _AUTONOMOUS = 0x80, 0x40
#: How long an advertised prefix is good, in seconds.
_PREFIX_SECONDS: Final = 86400

#: Asks somebody else what the network's own names do not hold; the reply comes by `Gateway.resolved`.
Ask = Callable[["Question"], None]
#: Takes the IPv4 frames that are for the network's own host, or for somebody behind it.
Route = Callable[[Frame], None]
#: The most guests whose addresses are remembered.
MOST_NEIGHBOURS: Final = 4096


@dataclass(frozen=True)
class Question:
    """A DNS question of a guest's that this network cannot answer, and where the answer has to go."""

    data: bytes
    mac: bytes
    source: frames.Address
    port: int
    server: frames.Address


@dataclass
class Gateway:
    """One host on the network, made of answers."""

    mac: bytes
    ipv4: IPv4Address | None = None
    ipv6: IPv6Address | None = None
    #: Advertised to guests, which make themselves addresses in it.
    prefix: IPv6Network | None = None
    mtu: int | None = None
    server: dhcp.Server | None = None
    names: names.Names | None = None
    #: None: what is not known here does not exist.
    ask: Ask | None = None
    #: None: nothing is behind it.
    route: Route | None = None
    #: What a card's guest is called if it does not say so itself, by MAC.
    called: dict[str, str] = field(default_factory=dict)
    #: Who was heard to have which address; the last one that was heard is the last.
    neighbours: dict[IPv4Address, bytes] = field(default_factory=dict)
    _leased: dict[IPv4Address, str] = field(default_factory=dict)
    _link_local: IPv6Address = field(init=False)

    def __post_init__(self) -> None:
        self._link_local = frames.link_local(self.mac)

    def forget(self, mac: str) -> None:
        """Know no address of the guest with this MAC: it starts anew, and asks for the one that it had."""
        raw = frames.mac(mac)
        self.neighbours = {address: at for address, at in self.neighbours.items() if at != raw}
        if self.server is not None:
            self.server.end(raw)

    def call(self, mac: str, guest: str) -> None:
        """Have the guest with this MAC be known by its name, where a host can have that name."""
        if frames.is_host_name(guest):
            self.called[mac] = guest.lower()

    def reconfigure(self, server: dhcp.Server | None, known: Names | None) -> None:
        """Answer by SERVER and KNOWN from here on; who has an address keeps it, and its name."""
        if self.server and server:
            self.server.offer, self.server.ranges = server.offer, server.ranges
            self.server.reservations = server.reservations
        else:
            self.server = server
        self.names = known
        if known is not None:
            for address, name in self._leased.items():
                known.add(name, address)

    def concerns(self, data: bytes) -> bool:
        """Whether the frame DATA may be for us."""
        return data[:6] == self.mac or bool(data[0] & 1)

    def receive(self, data: bytes, now: float) -> Iterator[bytes]:
        """The frames that answer the frame DATA."""
        frame = Frame.read(data)
        if frame is None or frame.source[0] & 1:
            return
        if frame.kind == frames.ARP:
            yield from self._arp(frame)
        if self.route and frame.kind == frames.IPV4 and frame.target == self.mac:
            self.route(frame)
        packet = Packet.read(frame.kind, frame.payload)
        if packet is None:
            return
        for answer in self._packet(packet, frame, now):
            target = frame.source if not answer.target.is_multicast else _mac_of(answer.target)
            broadcast = answer.target == IPv4Address(0xFFFFFFFF)
            yield bytes(Frame(frames.BROADCAST if broadcast else target, self.mac, answer.kind, bytes(answer)))

    def _arp(self, frame: Frame) -> Iterator[bytes]:
        arp = Arp.read(frame.payload)
        if arp:
            self.hear(arp.sender, arp.sender_mac)
        if arp and arp.operation == frames.ARP_ASK and arp.target == self.ipv4:
            answer = Arp(frames.ARP_ANSWER, self.mac, arp.target, arp.sender_mac, arp.sender)
            yield bytes(Frame(frame.source, self.mac, frames.ARP, bytes(answer)))

    def hear(self, address: IPv4Address, mac: bytes) -> None:
        """Somebody says that ADDRESS is at MAC."""
        if address in (self.ipv4, IPv4Address(0)):
            return
        self.neighbours.pop(address, None)
        if len(self.neighbours) >= MOST_NEIGHBOURS:
            del self.neighbours[next(iter(self.neighbours))]
        self.neighbours[address] = mac

    def address_of(self, mac: bytes, now: float) -> IPv4Address | None:
        """The address that the card with this MAC was heard to have last, or was given."""
        heard = next((address for address in reversed(self.neighbours) if self.neighbours[address] == mac), None)
        leases = self.server.leases(now) if self.server and heard is None else ()
        return heard or next((lease.ip for lease in leases if lease.mac == frames.spell_mac(mac)), None)

    def _packet(self, packet: Packet, frame: Frame, now: float) -> Iterator[Packet]:
        if packet.protocol == frames.UDP:
            datagram = Datagram.read(packet.payload)
            if datagram:
                yield from self._datagram(packet, datagram, frame, now)
        elif packet.protocol == frames.ICMP and packet.target == self.ipv4:
            if packet.payload[:1] == bytes((_ECHO,)):
                body = frames.icmp(_ECHO_REPLY, packet.payload[4:])
                yield Packet(packet.target, packet.source, frames.ICMP, body)
        elif packet.protocol == frames.ICMPV6 and isinstance(packet.source, IPv6Address):
            yield from self._icmpv6(packet, packet.source)

    def _datagram(self, packet: Packet, datagram: Datagram, frame: Frame, now: float) -> Iterator[Packet]:
        if datagram.target == dhcp.SERVER_PORT and self.server and packet.kind == frames.IPV4:
            answer = self.server.answer(datagram.payload, now)
            if answer:
                self._learn_name(answer, now)
                yield self._lease(answer)
        elif datagram.target == names.PORT and packet.target in (self.ipv4, self.ipv6, self._link_local):
            yield from self._name(packet, datagram, frame)

    def _learn_name(self, answer: dhcp.Message, now: float) -> None:
        """Have the name of whoever was given an address mean that address."""
        leases = self.server.leases(now) if self.server and answer.type == dhcp.ACK else []
        for lease in (entry for entry in leases if entry.ip == answer.yours):
            name = lease.name or self.called.get(lease.mac)
            before = self._leased.pop(lease.ip, None)
            if self.names and before:
                self.names.remove(before, lease.ip)
            if self.names and name:
                self.names.add(name, lease.ip)
                self._leased[lease.ip] = name

    def _lease(self, answer: dhcp.Message) -> Packet:
        source = self.server.offer.server if self.server else IPv4Address(0)
        target = answer.yours if answer.yours != IPv4Address(0) else answer.client
        if dhcp.wants_broadcast(answer) or target == IPv4Address(0):
            target = IPv4Address(0xFFFFFFFF)
        return Datagram(dhcp.SERVER_PORT, dhcp.CLIENT_PORT, bytes(answer)).packet(source, target)

    def _name(self, packet: Packet, datagram: Datagram, frame: Frame) -> Iterator[Packet]:
        answer = self.names.answer(datagram.payload) if self.names else None
        if answer is None:
            return
        question = Question(datagram.payload, frame.source, packet.source, datagram.source, packet.target)
        if self.ask and not answer.known:
            self.ask(question)
        else:
            yield self._reply(question, answer.data)

    def _reply(self, question: Question, data: bytes) -> Packet:
        return Datagram(names.PORT, question.port, data).packet(question.server, question.source)

    def resolved(self, question: Question, data: bytes) -> bytes:
        """The frame with DATA, somebody else's answer to QUESTION."""
        packet = self._reply(question, data)
        return bytes(Frame(question.mac, self.mac, packet.kind, bytes(packet)))

    def _icmpv6(self, packet: Packet, source: IPv6Address) -> Iterator[Packet]:
        kind, body = packet.payload[0] if packet.payload else -1, packet.payload[4:]
        if kind == _ECHO_V6 and packet.target in (self.ipv6, self._link_local):
            yield frames.icmpv6(IPv6Address(packet.target), source, _ECHO_REPLY_V6, body)
        elif kind == _SOLICIT and packet.hop_limit == frames.LINK_HOP_LIMIT and len(body) >= 20:
            yield from self._neighbour(IPv6Address(body[4:20]), source)
        elif kind == _SOLICIT_ROUTER and packet.hop_limit == frames.LINK_HOP_LIMIT and self.prefix:
            yield self.advertisement()

    def _neighbour(self, wanted: IPv6Address, source: IPv6Address) -> Iterator[Packet]:
        if wanted not in (self.ipv6, self._link_local):
            return
        probes = source == IPv6Address(0)  # it only wants to know whether the address is free
        flags = _OVERRIDE if probes else _SOLICITED | _OVERRIDE
        body = bytes((flags, 0, 0, 0)) + wanted.packed + bytes((_TARGET_MAC, 1)) + self.mac
        yield frames.icmpv6(wanted, _ALL_NODES if probes else source, _ADVERTISE, body)

    def advertisement(self) -> Packet:
        """What tells guests the prefix (RFC 4861, section 4.2). No default route: nothing is routed."""
        body = struct.pack("!BBHII", frames.HOP_LIMIT, 0, 0, 0, 0)
        body += bytes((_SOURCE_MAC, 1)) + self.mac
        if self.mtu:
            body += struct.pack("!BBHI", _MTU, 1, 0, self.mtu)
        if self.prefix:
            flags = _ON_LINK | _AUTONOMOUS if self.prefix.prefixlen == 64 else _ON_LINK
            body += struct.pack(
                "!BBBBIII", _PREFIX, 4, self.prefix.prefixlen, flags, _PREFIX_SECONDS, _PREFIX_SECONDS, 0
            )
            body += self.prefix.network_address.packed
        if self.names and self.ipv6:
            body += struct.pack("!BBHI", _DNS, 3, 0, _PREFIX_SECONDS) + self.ipv6.packed
        return frames.icmpv6(self._link_local, _ALL_NODES, _ADVERTISE_ROUTER, body)


def _mac_of(group: frames.Address) -> bytes:
    return frames.multicast_mac(group) if isinstance(group, IPv6Address) else frames.BROADCAST
