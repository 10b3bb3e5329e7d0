"""The host's networks, as domains use them."""

from __future__ import annotations

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
