"""One entry of a `<network>` added, changed or taken away: virNetworkUpdate's sections."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from lxml import etree

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.constants import NetworkUpdateCommand as Command
from pytest_embedvm.constants import NetworkUpdateSection as Section
from pytest_embedvm.errors import InternalError, OperationInvalid, OperationUnsupported
from pytest_embedvm.network.definition import (
    Dhcp,
    DhcpHost,
    DhcpRange,
    Dns,
    DnsHost,
    DnsService,
    DnsText,
    Ip,
    Network,
    PortGroup,
    refuse_unread,
)
from pytest_embedvm.xml import document, mapping


@dataclass(frozen=True)
class _Entries:
    """What a section is a list of, and libvirt's sentences for it; `{n}` is the network, `{e}` the entry."""

    tag: str
    kind: type
    of: Callable[[Network, int], list[Any]]
    #: Whether an entry is the one that is meant.
    same: Callable[[Any, Any], bool]
    there: str
    missing: str
    #: Why one cannot be modified; None: it can.
    fixed: str | None = None
    many: str | None = None


def update(network: Network, command: int, section: int, parent_index: int, xml: str) -> None:
    """Change NETWORK as virNetworkUpdate is told.

    :param parent_index: the number of the `<ip>` that is meant; -1: the one with DHCP, or the first.
    :raise XMLSyntaxError, XMLError, ConfigUnsupported: when XML is no entry of SECTION.
    :raise OperationInvalid: when what is to be there is not, or what is not to be there is.
    :raise OperationUnsupported: when SECTION cannot be updated.
    """
    entries = _SECTIONS.get(section)
    if entries is None:
        # libvirt: virNetworkDefUpdateNoSupport
        known = section in set(Section)
        what = f"'{Section(section).name.lower().replace('_', '-')}' section" if known else "unrecognized section"
        raise OperationUnsupported(f"can't update {what} of network '{network.name}'", origin=ErrorDomain.NETWORK)
    entry = _read(entries, xml)
    there = entries.of(network, parent_index)
    found = [number for number, other in enumerate(there) if entries.same(entry, other)]
    words = {"n": network.name, "e": _spell(entry, entries.tag)}
    match command:
        case Command.ADD_FIRST | Command.ADD_LAST:
            if found:
                raise _invalid(entries.there.format(**words))
            there.insert(0 if command == Command.ADD_FIRST else len(there), entry)
        case Command.MODIFY if entries.fixed:
            raise _invalid(entries.fixed)
        case Command.MODIFY | Command.DELETE:
            _change(entries, there, found, entry if command == Command.MODIFY else None, words)
        case _:
            # libvirt: virNetworkDefUpdateUnknownCommand
            raise InternalError(f"unrecognized network update command code {command}", origin=ErrorDomain.NETWORK)


def _change(entries: _Entries, there: list[Any], found: list[int], entry: object | None, words: dict[str, str]) -> None:
    if not found:
        raise _invalid(entries.missing.format(**words))
    if entries.many and len(found) > 1:
        raise _invalid(entries.many.format(**words))
    there[found[0] : found[0] + 1] = [] if entry is None else [entry]


def _read(entries: _Entries, xml: str) -> Any:
    root = document.parse(xml, root=entries.tag, name="network_update_xml")
    seen = mapping.Seen()
    entry: Any = mapping.read(entries.kind, root, seen)
    refuse_unread(root, seen)
    return entry


def _spell(entry: object, tag: str) -> str:
    root: document.Element = etree.Element(tag)
    mapping.write(entry, root)
    return document.format(root).strip()


def _invalid(detail: str) -> OperationInvalid:
    return OperationInvalid(detail, origin=ErrorDomain.NETWORK)


def _dhcp(network: Network, index: int) -> Dhcp:
    # libvirt: virNetworkIPDefByIndex
    if index >= 0:
        found: Ip | None = network.ips[index] if index < len(network.ips) else None
    else:
        found = min(network.ips, key=lambda ip: (ip.dhcp is None, _is_v6(ip)), default=None)
    if found is None:
        raise _invalid(
            "couldn't update dhcp host entry - no <ip> element found "
            + (f"at index {index} in network '{network.name}'" if index >= 0 else f"in network '{network.name}'")
        )
    found.dhcp = found.dhcp or Dhcp()
    return found.dhcp


def _is_v6(ip: Ip) -> bool:
    return ip.address is not None and ip.address.version == 6


def _dns(network: Network) -> Dns:
    network.dns = network.dns or Dns()
    return network.dns


def _same_host(one: DhcpHost, other: DhcpHost) -> bool:
    # libvirt: virNetworkDefUpdateIPDHCPHost
    pairs = ((one.mac, other.mac), (one.name, other.name), (one.ip, other.ip))
    return any(mine is not None and mine == theirs for mine, theirs in pairs)


def _same_dns_host(one: DnsHost, other: DnsHost) -> bool:
    # libvirt: virNetworkDefUpdateDNSHost
    return one.ip == other.ip or bool(set(one.names) & set(other.names))


def _same_service(one: DnsService, other: DnsService) -> bool:
    # libvirt: virNetworkDefUpdateDNSSrv
    return all(value in (None, getattr(other, name)) for name, value in vars(one).items())


_SECTIONS: Final[dict[int, _Entries]] = {
    Section.IP_DHCP_HOST: _Entries(
        "host", DhcpHost, lambda n, i: _dhcp(n, i).hosts, _same_host,
        "there is an existing dhcp host entry in network '{n}' that matches \"{e}\"",
        "couldn't locate an existing dhcp host entry with \"{e}\" in network '{n}'",
    ),
    Section.IP_DHCP_RANGE: _Entries(
        "range", DhcpRange, lambda n, i: _dhcp(n, i).ranges, lambda one, other: bool(one == other),
        "there is an existing dhcp range entry in network '{n}' that matches \"{e}\"",
        "couldn't locate a matching dhcp range entry in network '{n}'",
        fixed="dhcp ranges cannot be modified, only added or deleted",
    ),
    Section.PORTGROUP: _Entries(
        "portgroup", PortGroup, lambda n, _: n.port_groups, lambda one, other: bool(one.name == other.name),
        "there is an existing portgroup entry in network '{n}' that matches \"{e}\"",
        "couldn't find a portgroup entry in network '{n}' matching {e}",
    ),
    Section.DNS_HOST: _Entries(
        "host", DnsHost, lambda n, _: _dns(n).hosts, _same_dns_host,
        "there is already at least one DNS HOST record with a matching field in network {n}",
        "couldn't locate a matching DNS HOST record in network {n}",
        fixed="DNS HOST records cannot be modified, only added or deleted",
        many="multiple matching DNS HOST records were found in network {n}",
    ),
    Section.DNS_TXT: _Entries(
        "txt", DnsText, lambda n, _: _dns(n).texts, lambda one, other: bool(one.name == other.name),
        "there is already a DNS TXT record with a matching name in network {n}",
        "couldn't locate a matching DNS TXT record in network {n}",
        fixed="DNS TXT records cannot be modified, only added or deleted",
    ),
    Section.DNS_SRV: _Entries(
        "srv", DnsService, lambda n, _: _dns(n).services, _same_service,
        "there is already at least one DNS SRV record matching all specified fields in network {n}",
        "couldn't locate a matching DNS SRV record in network {n}",
        fixed="DNS SRV records cannot be modified, only added or deleted",
        many="multiple DNS SRV records matching all specified fields were found in network {n}",
    ),
}  # fmt: skip
