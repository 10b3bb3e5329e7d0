"""The addresses of a running machine's cards, by whom one asks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Any

from pytest_embedvm.constants import DomainInterfaceAddressesSource as Source
from pytest_embedvm.constants import DomainQemuAgentCommandTimeoutValues as Timeout
from pytest_embedvm.domain.devices.interface import Interface
from pytest_embedvm.driver import power
from pytest_embedvm.driver.hosts.networks import HostNetworks
from pytest_embedvm.errors import InternalError, OperationInvalid
from pytest_embedvm.network import frames
from pytest_embedvm.qemu.agent import check_reply

if TYPE_CHECKING:
    from pytest_embedvm.domain.model import Domain
    from pytest_embedvm.driver.machine import Machine
    from pytest_embedvm.driver.network.live import LiveNetwork
    from pytest_embedvm.driver.running import Running

_COMMAND = "guest-network-get-interfaces"


@dataclass(frozen=True)
class Addressed:
    """A card and its addresses, each with the length of its prefix; 0 where that is not known."""

    name: str
    mac: str | None
    addresses: tuple[tuple[IPv4Address | IPv6Address, int], ...]


async def addresses(machine: Machine, source: Source) -> list[Addressed]:
    """The cards of MACHINE that have addresses: which its networks gave, or heard of; or all that the agent tells.

    A card is called by its alias, which the guest does not know; the agent calls it as the guest does.

    :raise OperationInvalid: when it does not run.
    :raise AgentUnresponsive, ArgumentUnsupported, InternalError: when the agent is to be asked and cannot be.
    """
    running, live = machine.running, machine.live
    if running is None or live is None:
        raise OperationInvalid("domain is not running")
    if source is Source.AGENT:
        return await _agent(machine, running)
    cards = [device for device in live.devices.all if isinstance(device, Interface)]
    by_name = {network.name: network for network in machine.driver.networks}
    private = [card for card in cards if not card.bridge]
    told = [found for card in private for found in _on_network(card, by_name, heard=source is Source.ARP)]
    if source is Source.LEASE:
        told += [found for card in cards if card.bridge for found in await _on_the_hosts(machine, card)]
    return told


def forget(domain: Domain, networks: Iterable[LiveNetwork]) -> None:
    """Have NETWORKS know no address of the guest of DOMAIN, which starts anew; it is given the same again."""
    macs = [str(device.mac) for device in domain.devices.all if isinstance(device, Interface) and device.mac]
    for segment in filter(None, (network.segment for network in networks)):
        for mac in macs:
            segment.gateway.forget(mac)


def _on_network(card: Interface, networks: Mapping[str, LiveNetwork], *, heard: bool) -> Iterator[Addressed]:
    # libvirt: qemuGetDHCPInterfaces, qemuARPGetInterfaces
    name = card.source.network if card.type == "network" and card.source else None
    network = networks.get(name or "")
    mac = str(card.mac)
    if network is None or network.segment is None:
        return
    gateway = network.segment.gateway
    found: list[tuple[IPv4Address | IPv6Address, int]]
    if heard:
        found = [(address, 0) for address, at in gateway.neighbours.items() if at == frames.mac(mac)]
    else:
        leases = gateway.server.leases(asyncio.get_running_loop().time()) if gateway.server else []
        length = gateway.server.offer.network.prefixlen if gateway.server else 0
        found = [(lease.ip, length) for lease in leases if lease.mac == mac]
    if found:
        yield Addressed(card.id, mac, tuple(found))


async def _on_the_hosts(machine: Machine, card: Interface) -> list[Addressed]:
    if card.type != "network" or card.source is None:
        return []
    networks = HostNetworks(machine.driver.hosts["network"])
    found = await networks.leases(card.source.network or "", str(card.mac))
    return [Addressed(card.id, card.mac, found)] if found else []


async def _agent(machine: Machine, running: Running) -> list[Addressed]:
    channel = power.require_agent(machine, running)
    reply = await channel.send({"execute": _COMMAND}, timeout=Timeout.DEFAULT)
    check_reply(_COMMAND, reply)
    return [_told(entry) for entry in reply["return"]]


def _told(entry: Mapping[str, Any]) -> Addressed:
    """What the agent, which may say anything, tells of one card.

    :raise InternalError: when that makes no sense.
    """
    try:
        found = tuple((ip_address(ip["ip-address"]), int(ip["prefix"])) for ip in entry.get("ip-addresses", ()))
        mac = entry.get("hardware-address")
        return Addressed(str(entry["name"]), None if mac is None else str(mac), found)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        # libvirt: qemuAgentGetInterfaces
        raise InternalError(f"qemu agent reply to '{_COMMAND}' makes no sense: {error!r}") from None
