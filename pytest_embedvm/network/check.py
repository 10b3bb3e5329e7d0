"""What a `<network>` cannot be, and what a segment of one's own cannot give."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Address, IPv6Network
from typing import Final

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.errors import ConfigUnsupported, InternalError, XMLError
from pytest_embedvm.network.definition import DhcpHost, DhcpRange, Ip, Network
from pytest_embedvm.xml import document

#: The modes of libvirt that a segment of our own can have; `none` is spelled by leaving the element out.
MODES: Final = ("nat",)
#: The least and the most that an Ethernet segment may carry, in bytes.
SMALLEST_MTU, LARGEST_MTU = 68, 65535
#: libvirt: VIR_SOCKET_ADDR_RANGE's limit, virSocketAddrGetRange
LARGEST_RANGE: Final = 65535


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
    _check_port_groups(network)
    for ip in network.ips:
        _check_ip(ip)
    for version in (4, 6):
        if sum(bool(ip.dhcp) for ip in network.ips if ip.address and ip.address.version == version) > 1:
            # libvirt: networkValidate
            raise XMLError("Multiple IPv4 dhcp sections found -- dhcp is supported only for a single IPv4 address")


def _check_port_groups(network: Network) -> None:
    # libvirt: networkValidate
    names = [group.name for group in network.port_groups]
    for name in names:
        if names.count(name) > 1:
            raise XMLError(f"multiple <portgroup> elements with the same name ({name}) in network '{network.name}'")
    defaults = [group.name for group in network.port_groups if group.default]
    if len(defaults) > 1:
        raise XMLError(
            f"network '{network.name}' has multiple default <portgroup> elements ({defaults[0]} and {defaults[1]}), "
            "but only one default is allowed"
        )
    for bandwidth in (network.bandwidth, *(group.bandwidth for group in network.port_groups)):
        if bandwidth:
            bandwidth.check(ErrorDomain.NETWORK)


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
