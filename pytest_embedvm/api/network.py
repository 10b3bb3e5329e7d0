"""A network of a root."""

from __future__ import annotations

import time
import uuid
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from pytest_embedvm.api import arguments
from pytest_embedvm.api._object import public
from pytest_embedvm.api._part import Identity, NamedPart, Secondary
from pytest_embedvm.api.elsewhere import hosted
from pytest_embedvm.api.unsupported import unsupported
from pytest_embedvm.constants import ErrorDomain, IPAddrType, NetworkUpdateFlags, NetworkXMLFlags
from pytest_embedvm.driver.driver import Driver
from pytest_embedvm.driver.network.live import LiveNetwork
from pytest_embedvm.driver.network.private import Leased, PrivateNetworks
from pytest_embedvm.errors import NoNetwork
from pytest_embedvm.network.update import update

if TYPE_CHECKING:
    from pytest_embedvm.api.connect import virConnect


def identify(network: LiveNetwork) -> Identity:
    return Identity(network.name, network.uuid)


@hosted
@unsupported
class virNetwork(NamedPart, Secondary[PrivateNetworks, LiveNetwork]):
    """A network. Made by a connection; it is looked up anew at each call."""

    @classmethod
    def _of_host(cls, conn: virConnect, theirs: Any) -> Self:
        return cls(conn, Identity(theirs.name(), uuid.UUID(bytes=theirs.UUID())))

    def _at_host(self, host: Any) -> Any:
        return host.networkLookupByUUID(self.UUID())

    @staticmethod
    def _among(driver: Driver) -> PrivateNetworks:
        return driver.networks

    def _find(self, driver: Driver) -> LiveNetwork:
        try:
            return driver.networks.by_uuid(self._identity.uuid)
        except NoNetwork:
            number, name = self._identity.uuid, self._identity.name
            # libvirt: networkObjFromNetwork
            raise NoNetwork(f"no network with matching uuid '{number}' ({name})") from None

    @public("virNetworkGetXMLDesc", origin=ErrorDomain.NETWORK)
    def XMLDesc(self, flags: int = 0) -> str:
        """The network as `<network>`; with VIR_NETWORK_XML_INACTIVE as it will be started next."""
        checked = arguments.known(flags, NetworkXMLFlags.XML_INACTIVE, "networkGetXMLDesc")
        return self._ask(lambda _, network: network.xml(inactive=bool(checked)))

    @public("virNetworkCreate", writes=True, origin=ErrorDomain.NETWORK)
    def create(self) -> int:
        """Start a defined network.

        :raise libvirtError: OPERATION_INVALID when it is active.
        """
        self._order(PrivateNetworks.start)
        return 0

    @public("virNetworkDestroy", writes=True, origin=ErrorDomain.NETWORK)
    def destroy(self) -> int:
        """Stop it: its machines lose it at once, and do not get it back when it is started anew.

        :raise libvirtError: OPERATION_INVALID when it is not active.
        """
        self._order(PrivateNetworks.destroy)
        return 0

    @public("virNetworkUndefine", writes=True, origin=ErrorDomain.NETWORK)
    def undefine(self) -> int:
        """Forget its definition; an active one goes on until it is stopped.

        :raise libvirtError: OPERATION_INVALID when it is transient.
        """
        self._ask(PrivateNetworks.undefine)
        return 0

    @public("virNetworkUpdate", writes=True, origin=ErrorDomain.NETWORK)
    def update(self, command: int, section: int, parentIndex: int, xml: str, flags: int = 0) -> int:
        """Add, modify or delete (`VIR_NETWORK_UPDATE_COMMAND_*`) the entry XML of SECTION (`VIR_NETWORK_SECTION_*`).

        Sections are a subnet's DHCP hosts and ranges, its number PARENTINDEX or -1, port groups, and hosts, texts and
        services of DNS. FLAGS (`VIR_NETWORK_UPDATE_AFFECT_*`) say whether what is active changes, what is defined, or
        both. Machines that have an address keep it.

        :raise libvirtError: OPERATION_INVALID when the entry is there already, or is not, or nothing is active;
            OPERATION_UNSUPPORTED for other sections; XML_ERROR for what XML says.
        """
        text = arguments.text(xml, "xml", "virNetworkUpdate")
        affected = arguments.known(flags, NetworkUpdateFlags.LIVE | NetworkUpdateFlags.CONFIG, "networkUpdate")
        change = partial(update, command=command, section=section, parent_index=parentIndex, xml=text)
        self._ask(lambda networks, network: networks.update(network, affected, change))
        return 0

    @public("virNetworkIsActive", origin=ErrorDomain.NETWORK)
    def isActive(self) -> int:
        """1 when machines can be on it."""
        return self._ask(lambda _, network: int(network.active))

    @public("virNetworkIsPersistent", origin=ErrorDomain.NETWORK)
    def isPersistent(self) -> int:
        """1 when it is defined."""
        return self._ask(lambda _, network: int(network.persistent))

    @public("virNetworkGetAutostart", origin=ErrorDomain.NETWORK)
    def autostart(self) -> int:
        """1 when it becomes active as its root is opened."""
        return self._ask(lambda _, network: int(network.autostart))

    @public("virNetworkSetAutostart", writes=True, origin=ErrorDomain.NETWORK)
    def setAutostart(self, autostart: int) -> int:
        """Say whether it becomes active as its root is opened.

        :raise libvirtError: OPERATION_INVALID when it is transient.
        """
        self._ask(lambda networks, network: networks.set_autostart(network, on=bool(autostart)))
        return 0

    @public("virNetworkGetBridgeName", origin=ErrorDomain.NETWORK)
    def bridgeName(self) -> str:
        """The name in `<bridge>`; the host has no device of this name."""
        return self._ask(lambda _, network: network.bridge_name)

    @public("virNetworkGetDHCPLeases", origin=ErrorDomain.NETWORK)
    def DHCPLeases(self, mac: str | None = None, flags: int = 0) -> list[dict[str, Any]]:
        """The addresses that its machines have from it; of the card with this MAC, or of all."""
        arguments.none(flags, "networkGetDHCPLeases")
        bridge = self.bridgeName()
        found = self._ask(lambda networks, network: networks.leases(network, mac))
        return [_lease(leased, bridge) for leased in found]


def _lease(leased: Leased, bridge: str) -> dict[str, Any]:
    return {
        "iface": bridge,
        "expirytime": int(time.time() + leased.seconds),
        "type": int(IPAddrType.IPV4),
        "mac": leased.lease.mac,
        "iaid": None,
        "ipaddr": str(leased.lease.ip),
        "prefix": leased.prefix,
        "hostname": leased.lease.name,
        "clientid": leased.lease.client_id,
    }
