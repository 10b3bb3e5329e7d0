"""A DHCP server for one IPv4 subnet (RFC 2131, 2132): requests to answers, leases in memory."""

from __future__ import annotations

import dataclasses
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from pytest_embedvm.network.frames import is_host_name, spell_mac

SERVER_PORT, CLIENT_PORT = 67, 68
#: How long a lease lasts, in seconds; dnsmasq's default.
LEASE_SECONDS: Final = 3600
#: How long an address that somebody else was found to use is not given away.
DECLINED_SECONDS: Final = 600

_HEAD: Final = struct.Struct("!BBBBIHH4s4s4s4s16s64s128s4s")
_COOKIE: Final = b"\x63\x82\x53\x63"
_REQUEST, _REPLY, _ETHERNET, _BROADCAST = 1, 2, 1, 0x8000

_NETMASK, _ROUTER, _DNS, _HOST_NAME, _DOMAIN, _MTU = 1, 3, 6, 12, 15, 26
_REQUESTED, _LEASE, _TYPE, _SERVER, _RENEWAL, _REBINDING, _CLIENT, _FQDN = 50, 51, 53, 54, 58, 59, 61, 81
_PAD, _END = 0, 255
_DISCOVER, _OFFER, _ASK, _DECLINE, ACK, _NAK, _RELEASE, _INFORM = range(1, 9)
#: The shortest BOOTP message that all clients take.
_SHORTEST: Final = 300
#: The flags and the two result codes before the name in option 81 (RFC 4702), and "the name is in DNS encoding".
_FQDN_HEAD, _FQDN_ENCODED = 3, 4


@dataclass(frozen=True)
class Reservation:
    """`<host mac= name= ip=>`: what one guest is given; it is known by MAC, by client id or by the name it says."""

    mac: str | None = None
    name: str | None = None
    ip: IPv4Address | None = None
    client_id: str | None = None


@dataclass(frozen=True)
class Lease:
    """An address that somebody has, until `expires` in seconds of the caller's clock."""

    mac: str
    ip: IPv4Address
    name: str | None
    client_id: str | None
    expires: float


@dataclass(frozen=True)
class Offer:
    """What every client is told."""

    server: IPv4Address
    network: IPv4Network
    #: None on a network that leads nowhere.
    router: IPv4Address | None
    dns: IPv4Address | None
    domain: str | None = None
    mtu: int | None = None


@dataclass(frozen=True)
class Message:
    """A DHCP message."""

    operation: int
    transaction: int
    flags: int
    client: IPv4Address
    yours: IPv4Address
    mac: bytes
    options: Mapping[int, bytes]

    @classmethod
    def read(cls, data: bytes) -> Message | None:
        """DATA as a message from Ethernet; None if it is none."""
        if len(data) < _HEAD.size:
            return None
        operation, hardware, length, _, transaction, _, flags, client, yours, _, _, mac, _, _, cookie = (
            _HEAD.unpack_from(data)
        )
        if (hardware, length, cookie) != (_ETHERNET, 6, _COOKIE):
            return None
        options = _read_options(data[_HEAD.size :])
        return cls(operation, transaction, flags, IPv4Address(client), IPv4Address(yours), mac[:6], options)

    def __bytes__(self) -> bytes:
        none = b"\0" * 4
        head = _HEAD.pack(
            self.operation, _ETHERNET, 6, 0, self.transaction, 0, self.flags,
            self.client.packed, self.yours.packed, none, none, self.mac, b"", b"", _COOKIE,
        )  # fmt: skip
        options = b"".join(bytes((code, len(value))) + value for code, value in self.options.items())
        return (head + options + bytes((_END,))).ljust(_SHORTEST, b"\0")

    @property
    def type(self) -> int:
        """What it says: DISCOVER, REQUEST and so on; 0 if it does not say."""
        return self.options.get(_TYPE, b"\0")[0]

    @property
    def requested(self) -> IPv4Address | None:
        """The address that the client wants, or has."""
        wanted = self.options.get(_REQUESTED, b"")
        return IPv4Address(wanted) if len(wanted) == 4 else (None if self.client == IPv4Address(0) else self.client)

    @property
    def name(self) -> str | None:
        """The name that the client gives itself, without its domain; None if it is no host name."""
        text = self.options.get(_HOST_NAME) or _from_fqdn(self.options.get(_FQDN, b""))
        label = text.decode("ascii", errors="replace").rstrip("\0").partition(".")[0].lower()
        return label if is_host_name(label) else None

    @property
    def client_id(self) -> str | None:
        identity = self.options.get(_CLIENT)
        return identity.hex(":") if identity else None


def _read_options(data: bytes) -> dict[int, bytes]:
    """Options by code; what comes after one that is cut off is ignored."""
    found: dict[int, bytes] = {}
    at = 0
    while at < len(data) and data[at] != _END:
        if data[at] == _PAD:
            at += 1
            continue
        value = data[at + 2 : at + 2 + data[at + 1]] if at + 1 < len(data) else b""
        if at + 1 >= len(data) or len(value) < data[at + 1]:
            break
        if value:  # an empty one says nothing, and its readers look at the first byte
            found[data[at]] = found.get(data[at], b"") + value  # RFC 3396: a long one may come in pieces
        at += 2 + data[at + 1]
    return found


def _from_fqdn(option: bytes) -> bytes:
    name = option[_FQDN_HEAD:]
    if not option or not option[0] & _FQDN_ENCODED:
        return name
    return name[1 : 1 + name[0]] if name else b""


@dataclass
class Server:
    """The leases of one subnet, and what it answers."""

    offer: Offer
    #: First and last address of each range.
    ranges: list[tuple[IPv4Address, IPv4Address]]
    reservations: list[Reservation] = field(default_factory=list)
    _leases: dict[bytes, Lease] = field(default_factory=dict)
    _declined: dict[IPv4Address, float] = field(default_factory=dict)

    def leases(self, now: float) -> list[Lease]:
        """Those that have not ended."""
        return [lease for lease in self._leases.values() if lease.expires > now]

    def end(self, mac: bytes) -> None:
        """End the lease of who has this MAC; who asks again gets the same, if nobody else has it by then."""
        lease = self._leases.get(mac)
        if lease is not None:
            self._leases[mac] = dataclasses.replace(lease, expires=-math.inf)

    def answer(self, data: bytes, now: float) -> Message | None:
        """What is sent back for the request DATA; None if nothing is."""
        message = Message.read(data)
        if message is None or message.operation != _REQUEST:
            return None
        match message.type:
            case kind if kind == _DISCOVER:
                address = self._choose(message, now)
                return self._reply(message, _OFFER, address) if address else None
            case kind if kind == _ASK:
                return self._asked(message, now)
            case kind if kind == _DECLINE:
                self._decline(message, now)
            case kind if kind == _RELEASE:
                self._leases.pop(message.mac, None)
            case kind if kind == _INFORM:
                return self._reply(message, ACK, None)
        return None

    def _asked(self, message: Message, now: float) -> Message | None:
        server = message.options.get(_SERVER)
        if server is not None and server != self.offer.server.packed:
            return None  # it has taken another server's offer
        wanted = message.requested
        if wanted is None or wanted != self._choose(message, now, wanted):
            return self._reply(message, _NAK, None)
        self._leases[message.mac] = Lease(
            spell_mac(message.mac), wanted, self._name(message), message.client_id, now + LEASE_SECONDS
        )
        return self._reply(message, ACK, wanted)

    def _decline(self, message: Message, now: float) -> None:
        self._leases.pop(message.mac, None)
        if message.requested is not None:
            self._declined[message.requested] = now + DECLINED_SECONDS

    def _reservation(self, message: Message) -> Reservation | None:
        mac, identity = spell_mac(message.mac), message.client_id
        for kept in self.reservations:
            if kept.mac == mac or (kept.client_id is not None and kept.client_id == identity):
                return kept
        named = (r for r in self.reservations if r.mac is None and r.client_id is None)
        return next((r for r in named if r.name is not None and r.name == message.name), None)

    def _name(self, message: Message) -> str | None:
        kept = self._reservation(message)
        return kept.name if kept and kept.name else message.name

    def _choose(self, message: Message, now: float, wanted: IPv4Address | None = None) -> IPv4Address | None:
        """The address that the client gets: its reserved one, the one it has, the one it wants, the next free one."""
        kept = self._reservation(message)
        if kept and kept.ip:
            return kept.ip
        lease = self._leases.get(message.mac)
        mine = [lease.ip] if lease else []
        candidates = (*mine, *filter(None, [wanted or message.requested]))
        taken = self._taken(message.mac, now)
        for address in candidates:
            if address not in taken and any(first <= address <= last for first, last in self.ranges):
                return address
        return next((address for address in self._all() if address not in taken), None)

    def _taken(self, mac: bytes, now: float) -> set[IPv4Address]:
        leased = {lease.ip for other, lease in self._leases.items() if other != mac and lease.expires > now}
        reserved = {kept.ip for kept in self.reservations if kept.ip}
        declined = {address for address, until in self._declined.items() if until > now}
        return leased | reserved | declined | {self.offer.server}

    def _all(self) -> Iterator[IPv4Address]:
        for first, last in self.ranges:
            yield from (IPv4Address(number) for number in range(int(first), int(last) + 1))

    def _reply(self, message: Message, kind: int, address: IPv4Address | None) -> Message:
        options = {_TYPE: bytes((kind,)), _SERVER: self.offer.server.packed}
        if kind != _NAK:
            options |= self._told(message)
        if address is not None:
            for code, seconds in (
                (_LEASE, LEASE_SECONDS),
                (_RENEWAL, LEASE_SECONDS // 2),
                (_REBINDING, LEASE_SECONDS * 7 // 8),
            ):
                options[code] = seconds.to_bytes(4, "big")
        none = IPv4Address(0)
        client = none if kind == _NAK else message.client
        return Message(_REPLY, message.transaction, message.flags, client, address or none, message.mac, options)

    def _told(self, message: Message) -> dict[int, bytes]:
        offer = self.offer
        told = {
            _NETMASK: offer.network.netmask.packed,
            _ROUTER: offer.router.packed if offer.router else b"",
            _DNS: offer.dns.packed if offer.dns else b"",
            _DOMAIN: (offer.domain or "").encode(),
            _MTU: offer.mtu.to_bytes(2, "big") if offer.mtu else b"",
            _HOST_NAME: (self._name(message) or "").encode(),
        }
        return {code: value for code, value in told.items() if value}


def wants_broadcast(answer: Message) -> bool:
    """Whether the client cannot hear ANSWER at the address that it is about to get (RFC 2131, section 4.1)."""
    return bool(answer.flags & _BROADCAST) or answer.type == _NAK
