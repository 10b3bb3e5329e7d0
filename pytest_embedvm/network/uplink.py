"""What passes between a segment and the user-mode network behind it, slirp: a router made of rules.

Guests' packets go out as they are, to slirp alone, which opens sockets for them; what must not be reached is dropped
here, whatever slirp would make of it. Connections from the host come in under an address of slirp's network that
stands for a card, and appear to the guest as the network's own host.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from pytest_embedvm.network import frames, names
from pytest_embedvm.network.frames import Arp, Datagram, Frame, Packet
from pytest_embedvm.network.gateway import Question

#: For slirp's side: addresses that no network uses (RFC 2544, benchmarks between routers).
FAR_NETWORKS: Final = (IPv4Network("198.18.0.0/16"), IPv4Network("198.19.0.0/16"))
#: What no guest reaches through slirp. The host's loopback, which is also what 0.0.0.0 is to Linux; links, whose
#: addresses no router passes on (RFC 3927); groups and what is reserved; slirp's own side, which is the loopback again.
UNREACHABLE: Final = (
    *map(IPv4Network, ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4")),
    *FAR_NETWORKS,
)
#: The most questions that wait for an answer; the oldest gives way.
MOST_QUESTIONS: Final = 256
#: The ports that our own questions come from.
_PORTS: Final = range(49152, 65536)

_SYN, _ACK = 0x02, 0x10
_FRAGMENT: Final = 0x3FFF
_SOURCE, _TARGET = slice(12, 16), slice(16, 20)
#: Where TCP's sum is, from its start.
_SUM_AT: Final = 16


@dataclass(frozen=True)
class Far:
    """The addresses on slirp's side."""

    network: IPv4Network

    @classmethod
    def beside(cls, subnets: Iterable[IPv4Network]) -> Far:
        """A side that is none of SUBNETS."""
        taken = tuple(subnets)
        free = (network for network in FAR_NETWORKS if not any(network.overlaps(subnet) for subnet in taken))
        return cls(next(free, FAR_NETWORKS[0]))

    @property
    def host(self) -> IPv4Address:
        """Slirp itself; who connects from the host appears as this."""
        return self.network[2]

    @property
    def resolver(self) -> IPv4Address:
        """Stands for the host's name server."""
        return self.network[3]

    @property
    def ours(self) -> IPv4Address:
        """The network's own host."""
        return self.network[4]

    def place(self, number: int) -> IPv4Address:
        """Stands for a card."""
        return self.network[256 + number]


@dataclass
class Uplink:
    """The rules of one network. Takes and gives whole frames.

    :param gateway: the address of the network's own host among the guests.
    :param subnets: the guests'; only from these anything goes out.
    :param leads_out: whether guests reach what is beyond slirp, or only answer who connects to them.
    :param where: the address that the card with a MAC has now.
    :param answered: called with a question, and what the host's name server says to it.
    """

    mac: bytes
    gateway: IPv4Address
    subnets: tuple[IPv4Network, ...]
    leads_out: bool
    where: Callable[[bytes], IPv4Address | None]
    answered: Callable[[Question, bytes], None]
    far: Far = field(init=False)
    _places: dict[bytes, IPv4Address] = field(default_factory=dict)
    _cards: dict[IPv4Address, bytes] = field(default_factory=dict)
    _questions: dict[int, Question] = field(default_factory=dict)
    _asked: int = 0

    def __post_init__(self) -> None:
        self.far = Far.beside(self.subnets)

    def place(self, mac: bytes) -> IPv4Address:
        """The address on slirp's side that stands for the card with this MAC."""
        if mac not in self._places:
            self._places[mac] = address = self.far.place(len(self._places))
            self._cards[address] = mac
        return self._places[mac]

    def ask(self, question: Question) -> bytes:
        """The frame that asks the host's name server QUESTION."""
        port = _PORTS[self._asked % len(_PORTS)]
        self._asked += 1
        self._questions[port] = question
        if len(self._questions) > MOST_QUESTIONS:
            del self._questions[next(iter(self._questions))]
        packet = Datagram(port, names.PORT, question.data).packet(self.far.ours, self.far.resolver)
        return self._frame(bytes(packet))

    def outward(self, frame: Frame) -> bytes | None:
        """What slirp is given for FRAME, which a guest sent to the network's own host; None: nothing."""
        head = _Head.read(frame.payload) if frame.kind == frames.IPV4 else None
        if head is None or not any(head.source in subnet for subnet in self.subnets):
            return None
        if head.target == self.gateway:
            return self._reply(frame, head)
        if not self.leads_out or any(head.target in network for network in (*UNREACHABLE, *self.subnets)):
            return None
        return self._frame(frame.payload)

    def _reply(self, frame: Frame, head: _Head) -> bytes | None:
        """A guest's part of a connection from the host. It cannot begin one: slirp would connect to the host's own."""
        place = self._places.get(frame.source)
        if place is None or head.protocol != frames.TCP or head.is_fragment or _begins(frame.payload[head.length :]):
            return None
        return self._frame(_readdressed(frame.payload, head, place, self.far.host))

    def inward(self, data: bytes) -> Iterator[Inward]:
        """What becomes of the frame DATA, which slirp sent."""
        frame = Frame.read(data)
        if frame is None:
            return
        if frame.kind == frames.ARP:
            yield from self._arp(frame)
        head = _Head.read(frame.payload) if frame.kind == frames.IPV4 else None
        if head is None:
            return
        if head.target == self.far.ours:
            self._hear(frame)
        elif head.target in self._cards:
            yield from self._connected(frame, head)
        elif self.leads_out and any(head.target in subnet for subnet in self.subnets):
            yield Inward(frame.payload, to=head.target)

    def _arp(self, frame: Frame) -> Iterator[Inward]:
        """Slirp asks who has a guest's address: all of them are behind us."""
        asked = Arp.read(frame.payload)
        if asked and asked.operation == frames.ARP_ASK and asked.target not in (self.far.host, self.far.resolver):
            answer = Arp(frames.ARP_ANSWER, self.mac, asked.target, asked.sender_mac, asked.sender)
            yield Inward(bytes(Frame(frame.source, self.mac, frames.ARP, bytes(answer))), back=True)

    def _hear(self, frame: Frame) -> None:
        packet = Packet.read(frame.kind, frame.payload)
        datagram = Datagram.read(packet.payload) if packet and packet.protocol == frames.UDP else None
        if packet is None or datagram is None or (packet.source, datagram.source) != (self.far.resolver, names.PORT):
            return
        question = self._questions.get(datagram.target)
        if question is not None and question.data[:2] == datagram.payload[:2]:
            del self._questions[datagram.target]
            self.answered(question, datagram.payload)

    def _connected(self, frame: Frame, head: _Head) -> Iterator[Inward]:
        mac = self._cards[head.target]
        guest = self.where(mac)
        if guest is not None and head.protocol == frames.TCP and head.source == self.far.host and not head.is_fragment:
            yield Inward(_readdressed(frame.payload, head, self.gateway, guest), mac=mac)

    def _frame(self, payload: bytes) -> bytes:
        # libslirp: special_ethaddr and the host's address; it takes what comes, whoever it is for
        return bytes(Frame(b"\x52\x55" + self.far.host.packed, self.mac, frames.IPV4, payload))


@dataclass(frozen=True)
class Inward:
    """Something of slirp's: the packet DATA for a card by its MAC or its address, or a whole frame that goes back."""

    data: bytes
    to: IPv4Address | None = None
    mac: bytes | None = None
    back: bool = False


@dataclass(frozen=True)
class _Head:
    """The head of an IPv4 packet."""

    source: IPv4Address
    target: IPv4Address
    protocol: int
    length: int
    is_fragment: bool

    @classmethod
    def read(cls, data: bytes) -> _Head | None:
        if len(data) < 20 or data[0] >> 4 != 4 or not 20 <= (length := (data[0] & 15) * 4) <= len(data):
            return None
        fragment = bool(int.from_bytes(data[6:8], "big") & _FRAGMENT)
        return cls(IPv4Address(data[_SOURCE]), IPv4Address(data[_TARGET]), data[9], length, fragment)


def _begins(segment: bytes) -> bool:
    """Whether a TCP segment begins a connection, or is none."""
    return len(segment) < 20 or segment[13] & (_SYN | _ACK) == _SYN


def _readdressed(packet: bytes, head: _Head, source: IPv4Address, target: IPv4Address) -> bytes:
    """PACKET, which is TCP's and no fragment, with other ends and its sums set right (RFC 1624)."""
    before, after = packet[12:20], source.packed + target.packed
    changed = bytearray(packet)
    changed[12:20] = after
    for at in (10, head.length + _SUM_AT):
        changed[at : at + 2] = _amended(packet[at : at + 2], before, after)
    return bytes(changed)


def _sum(ends: bytes) -> int:
    words: tuple[int, ...] = struct.unpack("!4H", ends)
    return sum(words)


def _amended(total: bytes, before: bytes, after: bytes) -> bytes:
    value = (int.from_bytes(total, "big") ^ 0xFFFF) + _sum(after) + 4 * 0xFFFF - _sum(before)
    while value >> 16:
        value = (value & 0xFFFF) + (value >> 16)
    return (value ^ 0xFFFF).to_bytes(2, "big")
