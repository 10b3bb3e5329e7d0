"""A `<network>`: its XML as data, completed and checked."""

from __future__ import annotations

import re
import uuid as uuids
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Annotated, Any, Final, Generic, Literal, TypeVar

from lxml import etree

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.errors import ConfigUnsupported, MissingName, XMLError
from pytest_embedvm.network.frames import Address
from pytest_embedvm.units import Rates
from pytest_embedvm.xml import document, mapping
from pytest_embedvm.xml.bandwidth import Bandwidth
from pytest_embedvm.xml.document import Element
from pytest_embedvm.xml.mapping import At, Kept
from pytest_embedvm.xml.scalars import Plain, Scalar, Unsigned, Where, YesNo

_MAC: Final = re.compile(r"(?:[0-9a-fA-F]{1,2}:){5}[0-9a-fA-F]{1,2}")


class _Mac(Scalar[str]):
    def read(self, text: str, where: Where) -> str:
        if not _MAC.fullmatch(text):
            # libvirt: virNetworkDHCPHostDefParseXML
            raise XMLError(f"Cannot parse MAC address '{text}'", origin=ErrorDomain.NETWORK)
        return ":".join(octet.lower().zfill(2) for octet in text.split(":"))

    def write(self, value: str) -> str:
        return value


class _Address(Scalar[Address]):
    def read(self, text: str, where: Where) -> Address:
        try:
            return ip_address(text)
        except ValueError:
            # libvirt: virNetworkIPDefParseXML
            raise XMLError(f"Bad address '{text}' in element <{where.tag}>", origin=ErrorDomain.NETWORK) from None

    def write(self, value: Address) -> str:
        return str(value)


class _Uuid(Scalar[uuids.UUID]):
    def read(self, text: str, where: Where) -> uuids.UUID:
        try:
            return uuids.UUID(text.strip())
        except ValueError:
            # libvirt: virNetworkDefParseXML
            raise XMLError("malformed uuid element", origin=ErrorDomain.NETWORK) from None

    def write(self, value: uuids.UUID) -> str:
        return str(value)


@dataclass(kw_only=True)
class Forward:
    """`<forward>`: how guests reach what is not on the network."""

    mode: Literal[
        "none", "nat", "route", "open", "bridge", "private", "vepa", "passthrough", "hostdev"
    ] = "nat"  # fmt: skip
    dev: str | None = None


@dataclass(kw_only=True)
class Bridge:
    """`<bridge>`: a name to tell networks apart by. No bridge of this name is on the host."""

    name: str | None = None
    stp: Annotated[bool | None, YesNo("on", "off")] = None
    delay: Annotated[int | None, Unsigned()] = None


@dataclass(kw_only=True)
class Domain:
    """`<domain>`: what guests' names end in."""

    name: str
    local_only: Annotated[bool | None, At("@localOnly"), YesNo()] = None


@dataclass(kw_only=True)
class DnsHost:
    """`<host>` of `<dns>`: an address, and its names."""

    ip: Annotated[Address, _Address()]
    names: Annotated[list[str], At("hostname")] = field(default_factory=list)


@dataclass(kw_only=True)
class DnsText:
    name: str
    value: str


@dataclass(kw_only=True)
class DnsService:
    service: str
    protocol: str
    domain: str | None = None
    target: str | None = None
    port: Annotated[int | None, Unsigned()] = None
    priority: Annotated[int | None, Unsigned()] = None
    weight: Annotated[int | None, Unsigned()] = None


@dataclass(kw_only=True)
class Dns:
    """`<dns>`: what the network's name server answers besides the guests' own names."""

    enable: Annotated[bool | None, YesNo()] = None
    texts: Annotated[list[DnsText], At("txt")] = field(default_factory=list)
    services: Annotated[list[DnsService], At("srv")] = field(default_factory=list)
    hosts: Annotated[list[DnsHost], At("host")] = field(default_factory=list)


@dataclass(kw_only=True)
class DhcpRange:
    start: Annotated[Address, _Address()]
    end: Annotated[Address, _Address()]


@dataclass(kw_only=True)
class DhcpHost:
    """`<host>` of `<dhcp>`: the address, or the name, that one guest is given."""

    mac: Annotated[str | None, _Mac()] = None
    id: str | None = None
    name: str | None = None
    ip: Annotated[Address | None, _Address()] = None


@dataclass(kw_only=True)
class Dhcp:
    ranges: Annotated[list[DhcpRange], At("range")] = field(default_factory=list)
    hosts: Annotated[list[DhcpHost], At("host")] = field(default_factory=list)


@dataclass(kw_only=True)
class Ip:
    """`<ip>`: the address of the network's own host, and the subnet around it."""

    family: Literal["ipv4", "ipv6"] | None = None
    address: Annotated[Address | None, _Address()] = None
    netmask: Annotated[Address | None, _Address()] = None
    prefix: Annotated[int | None, Unsigned()] = None
    dhcp: Dhcp | None = None

    @property
    def network(self) -> IPv4Network | IPv6Network:
        """The subnet.

        :raise XMLError: when address and mask make none.
        """
        # libvirt: virNetworkDefIPCheck; without either, the class of an IPv4 address, or 64
        length = self.prefix if self.prefix is not None else self.netmask
        if length is None:
            length = _class_prefix(self.address) if isinstance(self.address, IPv4Address) else 64
        try:
            return ip_network(f"{self.address}/{length}", strict=False)
        except ValueError:
            raise XMLError(f"Invalid netmask '{length}' in network definition", origin=ErrorDomain.NETWORK) from None


def _class_prefix(address: IPv4Address) -> int:
    # libvirt: virSocketAddrGetIPPrefix
    first = address.packed[0]
    return 8 if first < 128 else 16 if first < 192 else 24


A = TypeVar("A", IPv4Address, IPv6Address)
N = TypeVar("N", IPv4Network, IPv6Network)


@dataclass(frozen=True)
class Subnet(Generic[A, N]):
    """An `<ip>` by its family: the address of the network's own host, and what is around it."""

    address: A
    network: N
    dhcp: Dhcp | None


@dataclass(kw_only=True)
class PortGroup:
    """`<portgroup>`: what the cards that name it have in common; those that name none are of the default one."""

    name: str
    default: Annotated[bool | None, YesNo()] = None
    bandwidth: Bandwidth | None = None


@dataclass(kw_only=True)
class Network:
    """A `<network>`. The order of the fields is the order of libvirt's XML."""

    allows_ipv6: Annotated[bool | None, At("@ipv6"), YesNo()] = None
    name: Annotated[str, At("name"), Plain()] = ""
    uuid: Annotated[uuids.UUID | None, At("uuid"), _Uuid()] = None
    title: Annotated[str | None, At("title")] = None
    description: Annotated[str | None, At("description")] = None
    metadata: Annotated[Any, At("metadata"), Kept()] = None
    forward: Forward | None = None
    bridge: Bridge | None = None
    mtu: Annotated[int | None, At("mtu/@size"), Unsigned()] = None
    mac: Annotated[str | None, At("mac/@address"), _Mac()] = None
    domain: Domain | None = None
    dns: Dns | None = None
    bandwidth: Bandwidth | None = None
    ips: Annotated[list[Ip], At("ip")] = field(default_factory=list)
    port_groups: Annotated[list[PortGroup], At("portgroup")] = field(default_factory=list)

    def copy(self) -> Network:
        return deepcopy(self)

    def complete(self, new_uuid: Callable[[], uuids.UUID], new_mac: Callable[[], str], bridge: str) -> None:
        """Fill in what the user left open.

        :param bridge: a name that no other network of the root has.
        """
        # libvirt: networkDefineXML, virNetworkSetBridgeMacAddr
        self.uuid = self.uuid or new_uuid()
        self.mac = self.mac or new_mac()
        self.bridge = self.bridge or Bridge()
        self.bridge.name = self.bridge.name or bridge
        if self.bridge.stp is None:
            self.bridge.stp = True
        self.bridge.delay = self.bridge.delay or 0
        for group in self.port_groups:
            group.default = group.default or None
        if self.forward and self.forward.mode == "none":
            self.forward = None

    def rates(self, group: str | None) -> Rates:
        """What limits a card of port group GROUP that has no limits of its own."""
        # libvirt: virPortGroupFindByName, and a group that is not there is none
        for known in self.port_groups:
            if known.bandwidth and (known.name == group if group else known.default):
                return known.bandwidth.rates
        return Rates()

    @property
    def reaches_out(self) -> bool:
        """Whether guests reach more than each other."""
        return self.forward is not None and self.forward.mode == "nat"

    @property
    def ipv4(self) -> Subnet[IPv4Address, IPv4Network] | None:
        """The subnet that has DHCP, or the first."""
        ips = sorted((ip for ip in self.ips if isinstance(ip.address, IPv4Address)), key=lambda ip: ip.dhcp is None)
        for ip in ips:
            if isinstance(ip.address, IPv4Address) and isinstance(ip.network, IPv4Network):
                return Subnet(ip.address, ip.network, ip.dhcp)
        return None

    @property
    def ipv6(self) -> Subnet[IPv6Address, IPv6Network] | None:
        """The first subnet of IPv6."""
        for ip in self.ips:
            if isinstance(ip.address, IPv6Address) and isinstance(ip.network, IPv6Network):
                return Subnet(ip.address, ip.network, ip.dhcp)
        return None


def parse(text: str) -> Network:
    """The network that TEXT describes, with nothing filled in.

    :raise XMLSyntaxError: when TEXT is not well formed.
    :raise XMLError: when a value is not valid.
    :raise MissingName: when there is no name.
    :raise ConfigUnsupported: naming an element that this driver cannot give.
    """
    root = document.parse(text, root="network", name="network_definition")
    seen = mapping.Seen()
    network = mapping.read(Network, root, seen)
    seen.attributes.add((root, "connections"))  # libvirt prints how many use it
    if not network.name:
        raise MissingName("", origin=ErrorDomain.NETWORK)
    refuse_unread(root, seen)
    return network


def refuse_unread(root: Element, seen: mapping.Seen) -> None:
    """:raise ConfigUnsupported: naming the first thing in ROOT that no field took."""
    for path, value in mapping.unread(root, seen):
        what = "/".join(path) + (f" ({value})" if value else "")
        raise ConfigUnsupported(f"{what} is not supported by this driver", origin=ErrorDomain.NETWORK)


def format(network: Network, *, connections: int = 0) -> str:  # noqa: A001 - the pair of words of this project
    """NETWORK as libvirt writes it; CONNECTIONS is how many interfaces of running domains are on it."""
    root: Element = etree.Element("network")
    mapping.write(network, root)
    if connections:
        root.set("connections", str(connections))
    return document.format(root)
