"""The host's networks, as domains use them."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from pytest_embedvm.constants import ErrorDomain, ErrorNumber
from pytest_embedvm.domain.devices.interface import Interface
from pytest_embedvm.domain.model import Domain
from pytest_embedvm.driver.hosts.connection import HostConnection
from pytest_embedvm.errors import HostMissing


class HostNetworks:
    """The network driver of the host's libvirt."""

    def __init__(self, connection: HostConnection) -> None:
        self._connection = connection

    async def allocate(self, domain: Domain) -> None:
        """Have each interface of DOMAIN that is on a network in that network's bridge.

        :raise HostMissing: when the network is not active.
        :raise HostError: when there is no such network, or it has no bridge.
        """
        for device in domain.devices.all:
            if isinstance(device, Interface) and device.type == "network" and device.source:
                device.allocate(await self._bridge(device.source.network or ""))

    async def leases(self, name: str, mac: str) -> tuple[tuple[IPv4Address | IPv6Address, int], ...]:
        """The addresses, with the length of their prefix, that network NAME gave the card with this MAC.

        :raise HostError: when there is no such network.
        """

        def ask() -> tuple[tuple[IPv4Address | IPv6Address, int], ...]:
            found = self._connection.opened.networkLookupByName(name).DHCPLeases(mac)
            return tuple((ip_address(lease["ipaddr"]), int(lease["prefix"])) for lease in found)

        return await self._connection.ask(ask)

    async def _bridge(self, name: str) -> str:
        return await self._connection.ask(lambda: _bridge(self._connection.opened.networkLookupByName(name)))


def _bridge(network: Any) -> str:
    if not network.isActive():
        # libvirt: networkAllocatePort
        raise HostMissing(
            f"Requested operation is not valid: network '{network.name()}' is not active",
            code=ErrorNumber.OPERATION_INVALID,
            origin=ErrorDomain.NETWORK,
        )
    return str(network.bridgeName())
