"""The addresses by which a guest can be reached."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Literal, TypeAlias, get_args

from pytest_embedvm import libvirt

#: pytest shows the line that called, not these.
__tracebackhide__ = True

Address: TypeAlias = IPv4Address | IPv6Address
Source = Literal["lease", "agent", "arp"]

_SOURCES = {
    "lease": libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE,
    "agent": libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT,
    "arp": libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP,
}


def addresses(domain: libvirt.virDomain, source: Source) -> list[Address]:
    """`VM.addresses`."""
    if source not in get_args(Source):
        raise ValueError(f"source={source!r}: possible is {', '.join(get_args(Source))}")
    return list(dict.fromkeys(_reachable(domain, source)))


def _reachable(domain: libvirt.virDomain, source: Source) -> Iterator[Address]:
    for card in domain.interfaceAddresses(_SOURCES[source]).values():
        for entry in card["addrs"] or ():
            address = ip_address(entry["addr"])
            if not (address.is_loopback or address.is_link_local):
                yield address
