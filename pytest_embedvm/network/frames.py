"""Ethernet frames and what is in them: the few headers that a network's own services read and write.

Sources: RFC 826 (ARP), 791 and 8200 (IP), 768 (UDP), 792 and 4443 (ICMP).
"""

from __future__ import annotations

import ipaddress
import re
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final, TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address

ARP, IPV4, IPV6 = 0x0806, 0x0800, 0x86DD
ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
#: What an ARP packet does.
ARP_ASK, ARP_ANSWER = 1, 2
BROADCAST: Final = b"\xff" * 6
HEADER_BYTES: Final = 14
HOP_LIMIT: Final = 64
#: Neighbour discovery is for the link alone (RFC 4861, section 7.1).
LINK_HOP_LIMIT: Final = 255

_ETHERNET: Final = struct.Struct("!6s6sH")
_ARP: Final = struct.Struct("!HHBBH6s4s6s4s")
_IPV4: Final = struct.Struct("!BBHHHBBH4s4s")
_IPV6: Final = struct.Struct("!IHBB16s16s")
_UDP: Final = struct.Struct("!HHHH")
_PSEUDO_V4: Final = struct.Struct("!4s4sBBH")
_PSEUDO_V6: Final = struct.Struct("!16s16sIxxxB")

_LABEL: Final = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)")
#: Neither "more fragments" nor an offset.
_FRAGMENT: Final = 0x3FFF


@dataclass(frozen=True)
class Frame:
    """An Ethernet frame."""

    target: bytes
    source: bytes
    kind: int
    payload: bytes

    @classmethod
    def read(cls, data: bytes) -> Frame | None:
        """DATA as a frame; None if it is too short to be one."""
        if len(data) < HEADER_BYTES:
            return None
        target, source, kind = _ETHERNET.unpack_from(data)
        return cls(target, source, kind, data[HEADER_BYTES:])

    def __bytes__(self) -> bytes:
        return _ETHERNET.pack(self.target, self.source, self.kind) + self.payload


@dataclass(frozen=True)
class Arp:
    """An ARP packet for IPv4 over Ethernet; `operation` 1 asks, 2 answers."""

    operation: int
    sender_mac: bytes
    sender: IPv4Address
    target_mac: bytes
    target: IPv4Address

    @classmethod
    def read(cls, data: bytes) -> Arp | None:
        if len(data) < _ARP.size:
            return None
        hardware, protocol, *lengths, operation, sender_mac, sender, target_mac, target = _ARP.unpack_from(data)
        if (hardware, protocol, lengths) != (1, IPV4, [6, 4]):
            return None
        return cls(operation, sender_mac, IPv4Address(sender), target_mac, IPv4Address(target))

    def __bytes__(self) -> bytes:
        ends = (self.sender_mac, self.sender.packed, self.target_mac, self.target.packed)
        return _ARP.pack(1, IPV4, 6, 4, self.operation, *ends)


@dataclass(frozen=True)
class Packet:
    """An IP packet that is whole: no fragment, and no extension header of IPv6 before its content."""

    source: Address
    target: Address
    protocol: int
    payload: bytes
    hop_limit: int = HOP_LIMIT

    @classmethod
    def read(cls, kind: int, data: bytes) -> Packet | None:
        """DATA, which a frame of KIND carries; None if it is none of these."""
        if kind == IPV4:
            return cls._read_v4(data)
        return cls._read_v6(data) if kind == IPV6 else None

    @classmethod
    def _read_v4(cls, data: bytes) -> Packet | None:
        if len(data) < _IPV4.size:
            return None
        first, _, length, _, fragment, hops, protocol, _, source, target = _IPV4.unpack_from(data)
        start = (first & 15) * 4
        if first >> 4 != 4 or start < _IPV4.size or not start <= length <= len(data) or fragment & _FRAGMENT:
            return None
        return cls(IPv4Address(source), IPv4Address(target), protocol, data[start:length], hops)

    @classmethod
    def _read_v6(cls, data: bytes) -> Packet | None:
        if len(data) < _IPV6.size:
            return None
        first, length, protocol, hops, source, target = _IPV6.unpack_from(data)
        if first >> 28 != 6 or _IPV6.size + length > len(data):
            return None
        payload = data[_IPV6.size : _IPV6.size + length]
        return cls(IPv6Address(source), IPv6Address(target), protocol, payload, hops)

    @property
    def kind(self) -> int:
        """What the frame that carries it says."""
        return IPV4 if self.source.version == 4 else IPV6

    def __bytes__(self) -> bytes:
        ends = (self.source.packed, self.target.packed)
        if self.source.version == 6:
            return _IPV6.pack(6 << 28, len(self.payload), self.protocol, self.hop_limit, *ends) + self.payload
        length = _IPV4.size + len(self.payload)
        head = _IPV4.pack(0x45, 0, length, 0, 0, self.hop_limit, self.protocol, 0, *ends)
        return head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + self.payload


@dataclass(frozen=True)
class Datagram:
    """A UDP datagram."""

    source: int
    target: int
    payload: bytes

    @classmethod
    def read(cls, data: bytes) -> Datagram | None:
        if len(data) < _UDP.size:
            return None
        source, target, length, _ = _UDP.unpack_from(data)
        return cls(source, target, data[_UDP.size : length]) if _UDP.size <= length <= len(data) else None

    def packet(self, source: Address, target: Address) -> Packet:
        """The packet that carries it from SOURCE to TARGET."""
        data = _UDP.pack(self.source, self.target, _UDP.size + len(self.payload), 0) + self.payload
        # 0 would say that there is no sum (RFC 768)
        total = transport_checksum(source, target, UDP, data) or 0xFFFF
        return Packet(source, target, UDP, data[:6] + total.to_bytes(2, "big") + data[8:])


def checksum(data: bytes) -> int:
    """The sum of the Internet's protocols (RFC 1071), with the field itself as 0."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def transport_checksum(source: Address, target: Address, protocol: int, data: bytes) -> int:
    """The sum over DATA and the addresses that carry it."""
    ends = (source.packed, target.packed)
    if source.version == 4:
        return checksum(_PSEUDO_V4.pack(*ends, 0, protocol, len(data)) + data)
    return checksum(_PSEUDO_V6.pack(*ends, len(data), protocol) + data)


def icmp(kind: int, body: bytes, code: int = 0) -> bytes:
    """An ICMP message."""
    data = bytes((kind, code, 0, 0)) + body
    return data[:2] + checksum(data).to_bytes(2, "big") + body


def icmpv6(source: IPv6Address, target: IPv6Address, kind: int, body: bytes, code: int = 0) -> Packet:
    """The packet with an ICMPv6 message."""
    data = bytes((kind, code, 0, 0)) + body
    total = transport_checksum(source, target, ICMPV6, data)
    return Packet(source, target, ICMPV6, data[:2] + total.to_bytes(2, "big") + body, LINK_HOP_LIMIT)


def mac(text: str) -> bytes:
    """`52:54:00:12:34:56` as six bytes."""
    return bytes.fromhex(text.replace(":", ""))


def is_host_name(text: str) -> bool:
    """Whether TEXT is one label of a host's name (RFC 1123)."""
    return bool(_LABEL.fullmatch(text))


def spell_mac(address: bytes) -> str:
    return address.hex(":")


def multicast_mac(group: IPv6Address) -> bytes:
    """Where frames to GROUP go (RFC 2464)."""
    return b"\x33\x33" + group.packed[12:]


def link_local(address: bytes) -> IPv6Address:
    """The link-local address of a card with this MAC (RFC 4291, appendix A)."""
    identifier = bytes((address[0] ^ 2, *address[1:3], 0xFF, 0xFE, *address[3:]))
    return IPv6Address(b"\xfe\x80" + b"\0" * 6 + identifier)


def solicited(address: IPv6Address) -> IPv6Address:
    """The group in which the owner of ADDRESS is asked for (RFC 4291, section 2.7.1)."""
    return IPv6Address(ipaddress.ip_address("ff02::1:ff00:0").packed[:13] + address.packed[13:])
