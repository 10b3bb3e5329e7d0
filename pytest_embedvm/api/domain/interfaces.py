"""The network cards of a domain, and their addresses."""

from __future__ import annotations

import operator
from typing import Any

from pytest_embedvm.api import arguments
from pytest_embedvm.api._object import public
from pytest_embedvm.api.domain._base import Base
from pytest_embedvm.constants import DomainInterfaceAddressesSource, IPAddrType
from pytest_embedvm.driver.network.addresses import Addressed, addresses
from pytest_embedvm.errors import ArgumentUnsupported


class Interfaces(Base):
    """What can be asked of its cards."""

    @public("virDomainInterfaceAddresses")
    def interfaceAddresses(self, source: int, flags: int = 0) -> dict[str, dict[str, Any]]:
        """The addresses of its cards, by card: `addrs`, a list of `addr`, `prefix` and `type`, and `hwaddr`.

        From the leases of its networks (`VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE`) or from whom they heard of (ARP),
        with the cards' aliases as their names, since none is a device of the host's; or from the guest agent (AGENT),
        which tells all that the guest has.

        :raise libvirtError: OPERATION_INVALID when it does not run; ARGUMENT_UNSUPPORTED, AGENT_UNRESPONSIVE when the
            agent is asked and is not there.
        """
        arguments.none(flags, "qemuDomainInterfaceAddresses")
        number = operator.index(source)
        if number not in set(DomainInterfaceAddressesSource):
            # libvirt: qemuDomainInterfaceAddresses
            raise ArgumentUnsupported(f"Unknown IP address data source {number}")
        wanted = DomainInterfaceAddressesSource(number)
        found = self._order(lambda machine: addresses(machine, wanted))
        return {card.name: _spelled(card) for card in found}


def _spelled(card: Addressed) -> dict[str, Any]:
    # libvirt-python: what has no address has None instead of a list
    listed = [
        {"addr": str(address), "prefix": prefix, "type": int(_TYPES[address.version])}
        for address, prefix in card.addresses
    ]
    return {"addrs": listed or None, "hwaddr": card.mac}


_TYPES = {4: IPAddrType.IPV4, 6: IPAddrType.IPV6}
