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
from pytest_embedvm.errors import ConfigUnsupported, InternalError, MissingName, XMLError
from pytest_embedvm.network.frames import Address
from pytest_embedvm.xml import document, mapping
from pytest_embedvm.xml.document import Element
from pytest_embedvm.xml.mapping import At, Kept
from pytest_embedvm.xml.scalars import Plain, Scalar, Unsigned, Where, YesNo

#: The modes of libvirt that a segment of our own can have; `none` is spelled by leaving the element out.
MODES: Final = ("nat",)
#: The least and the most that an Ethernet segment may carry, in bytes.
SMALLEST_MTU, LARGEST_MTU = 68, 65535
#: libvirt: VIR_SOCKET_ADDR_RANGE's limit, virSocketAddrGetRange
LARGEST_RANGE: Final = 65535

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
    hosts: Annotated[list[DnsHost], At("host")] = field(default_factory=list)
    services: Annotated[list[DnsService], At("srv")] = field(default_factory=list)


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
class Flow:
    """One direction of `<bandwidth>`: KiB/s on average and at most, KiB in a burst."""

    average: Annotated[int, Unsigned()]
    peak: Annotated[int | None, Unsigned()] = None
    burst: Annotated[int | None, Unsigned()] = None
    floor: Annotated[int | None, Unsigned()] = None


@dataclass(kw_only=True)
class Bandwidth:
    inbound: Flow | None = None
    outbound: Flow | None = None


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
        if self.forward and self.forward.mode == "none":
            self.forward = None

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
    for path, value in mapping.unread(root, seen):
        what = "/".join(path) + (f" ({value})" if value else "")
        raise ConfigUnsupported(f"{what} is not supported by this driver", origin=ErrorDomain.NETWORK)
    return network


def format(network: Network, *, connections: int = 0) -> str:  # noqa: A001 - the pair of words of this project
    """NETWORK as libvirt writes it; CONNECTIONS is how many interfaces of running domains are on it."""
    root: Element = etree.Element("network")
    mapping.write(network, root)
    if connections:
        root.set("connections", str(connections))
    return document.format(root)


def check(network: Network) -> None:
    """Refuse what cannot be.

    :raise XMLError: when a value contradicts another.
    :raise ConfigUnsupported: when it asks for what a segment of one's own cannot give.
    """
    # libvirt: virNetworkDefParseXML
    if "/" in network.name:
        raise XMLError(f"name {network.name} cannot contain '/'")
    document.require_text(network.name, "name")
    if network.forward and network.forward.mode not in ("none", *MODES):
        raise ConfigUnsupported(
            f"forward mode '{network.forward.mode}' needs the host's network; a private one has none or nat",
            origin=ErrorDomain.NETWORK,
        )
    if network.forward and network.forward.dev:
        raise ConfigUnsupported(
            f"forward dev='{network.forward.dev}' needs the host's network", origin=ErrorDomain.NETWORK
        )
    if network.mtu is not None and not SMALLEST_MTU <= network.mtu <= LARGEST_MTU:
        raise XMLError(f"mtu size {network.mtu} must be from {SMALLEST_MTU} to {LARGEST_MTU}")
    for ip in network.ips:
        _check_ip(ip)
    for version in (4, 6):
        if sum(bool(ip.dhcp) for ip in network.ips if ip.address and ip.address.version == version) > 1:
            # libvirt: networkValidate
            raise XMLError("Multiple IPv4 dhcp sections found -- dhcp is supported only for a single IPv4 address")


def _check_ip(ip: Ip) -> None:
    if ip.address is None:
        raise XMLError("Missing address in <ip>", origin=ErrorDomain.NETWORK)
    family = "ipv6" if isinstance(ip.address, IPv6Address) else "ipv4"
    if (ip.family or "ipv4") != family:
        # libvirt: virNetworkIPDefParseXML
        raise XMLError(f"{family} address '{ip.address}' in <ip family='{ip.family or 'ipv4'}'>")
    if ip.netmask is not None and ip.prefix is not None:
        raise XMLError(f"ip address '{ip.address}' has both netmask and prefix", origin=ErrorDomain.NETWORK)
    subnet = ip.network
    if ip.dhcp and family == "ipv6":
        raise ConfigUnsupported(
            "DHCP for IPv6 is not supported: guests make their addresses from the prefix", origin=ErrorDomain.NETWORK
        )
    for span in ip.dhcp.ranges if ip.dhcp else ():
        _check_range(span, subnet)
    for host in ip.dhcp.hosts if ip.dhcp else ():
        _check_host(host, subnet)


def _check_range(span: DhcpRange, subnet: IPv4Network | IPv6Network) -> None:
    # libvirt: virSocketAddrGetRange
    for address in (span.start, span.end):
        if address not in subnet:
            raise InternalError(
                f"DHCP range {span.start} - {span.end} is not entirely within network {subnet}",
                origin=ErrorDomain.NETWORK,
            )
    if int(span.start) > int(span.end):
        raise InternalError(f"start {span.start} of DHCP range is above its end {span.end}", origin=ErrorDomain.NETWORK)
    if int(span.end) - int(span.start) > LARGEST_RANGE:
        raise InternalError(f"DHCP range {span.start} - {span.end} is too large", origin=ErrorDomain.NETWORK)


def _check_host(host: DhcpHost, subnet: IPv4Network | IPv6Network) -> None:
    # libvirt: virNetworkDHCPHostDefParseXML
    if not host.mac and not host.name and not host.id:
        raise XMLError("Missing mac, name or id in static host definition", origin=ErrorDomain.NETWORK)
    if not host.ip and not host.name:
        raise XMLError("Missing IP address or name in static host definition", origin=ErrorDomain.NETWORK)
    if host.ip and host.ip not in subnet:
        raise XMLError(
            f"IP address '{host.ip}' of a static host is not in network {subnet}", origin=ErrorDomain.NETWORK
        )
