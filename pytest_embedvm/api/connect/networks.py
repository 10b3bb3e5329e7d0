"""The networks of a root."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, cast

from pytest_embedvm.api import arguments
from pytest_embedvm.api._object import public
from pytest_embedvm.api._part import Identity
from pytest_embedvm.api.connect.callbacks import Callbacks, event_kind
from pytest_embedvm.api.network import identify, virNetwork
from pytest_embedvm.constants import ConnectListAllNetworksFlags as List
from pytest_embedvm.constants import ErrorDomain, NetworkCreateFlags, NetworkDefineFlags, NetworkEventID
from pytest_embedvm.driver.driver import Driver
from pytest_embedvm.driver.filters import meets
from pytest_embedvm.driver.network.live import LiveNetwork
from pytest_embedvm.driver.network.private import PrivateNetworks

if TYPE_CHECKING:
    from pytest_embedvm.api.connect import virConnect

EVERY_FILTER = List.ACTIVE | List.INACTIVE | List.PERSISTENT | List.TRANSIENT | List.AUTOSTART | List.NO_AUTOSTART
NETWORK = ErrorDomain.NETWORK


class Networks(Callbacks):
    """network…, listAllNetworks and its kin."""

    def _network(self, search: Callable[[PrivateNetworks], LiveNetwork]) -> virNetwork:
        found = self._ask(lambda driver: identify(search(driver.networks)))
        return virNetwork(cast("virConnect", self), found)

    def _created(self, xml: str) -> virNetwork:
        async def create(driver: Driver) -> Identity:
            return identify(await driver.networks.create(xml))

        return virNetwork(cast("virConnect", self), self._order(create))

    def _names(self, wanted: List) -> list[str]:
        return self._ask(lambda driver: [network.name for network in _matching(driver.networks, wanted)])

    @public("virNetworkDefineXML", writes=True, origin=NETWORK)
    def networkDefineXML(self, xml: str) -> virNetwork:
        """Keep a network in the root, or change the one with its name; it is not started.

        :raise libvirtError: XML_DETAIL, XML_ERROR, CONFIG_UNSUPPORTED for what the XML says.
        """
        text = arguments.text(xml, "xml", "virNetworkDefineXML")
        return self._network(lambda networks: networks.define(text))

    @public("virNetworkDefineXMLFlags", writes=True, origin=NETWORK)
    def networkDefineXMLFlags(self, xml: str, flags: int = 0) -> virNetwork:
        """Like `networkDefineXML`; what this driver does not know is always refused, with VALIDATE and without."""
        text = arguments.text(xml, "xml", "virNetworkDefineXMLFlags")
        arguments.known(flags, NetworkDefineFlags.DEFINE_VALIDATE, "networkDefineXMLFlags")
        return self._network(lambda networks: networks.define(text))

    @public("virNetworkCreateXML", writes=True, origin=NETWORK)
    def networkCreateXML(self, xmlDesc: str) -> virNetwork:
        """Start a network that is gone when it is stopped.

        :raise libvirtError: as `networkDefineXML`; OPERATION_FAILED when it is there.
        """
        text = arguments.text(xmlDesc, "xmlDesc", "virNetworkCreateXML")
        return self._created(text)

    @public("virNetworkCreateXMLFlags", writes=True, origin=NETWORK)
    def networkCreateXMLFlags(self, xmlDesc: str, flags: int = 0) -> virNetwork:
        """Like `networkCreateXML`; what this driver does not know is always refused, with VALIDATE and without."""
        text = arguments.text(xmlDesc, "xmlDesc", "virNetworkCreateXMLFlags")
        arguments.known(flags, NetworkCreateFlags.CREATE_VALIDATE, "networkCreateXMLFlags")
        return self._created(text)

    @public("virNetworkLookupByName", origin=NETWORK)
    def networkLookupByName(self, name: str) -> virNetwork:
        """The network with this name.

        :raise libvirtError: NO_NETWORK when there is none.
        """
        text = arguments.text(name, "name", "virNetworkLookupByName")
        return self._network(lambda networks: networks.by_name(text))

    @public("virNetworkLookupByUUID", origin=NETWORK)
    def networkLookupByUUID(self, uuid: bytes) -> virNetwork:
        """The network with these 16 bytes as its uuid.

        :raise libvirtError: NO_NETWORK when there is none.
        """
        return self._by_uuid(arguments.uuid_from_bytes(uuid))

    @public("virNetworkLookupByUUIDString", origin=NETWORK)
    def networkLookupByUUIDString(self, uuidstr: str) -> virNetwork:
        """The network with this uuid.

        :raise libvirtError: NO_NETWORK when there is none, INVALID_ARG when this is no uuid.
        """
        return self._by_uuid(arguments.uuid_from_string(uuidstr))

    def _by_uuid(self, wanted: uuid.UUID) -> virNetwork:
        return self._network(lambda networks: networks.by_uuid(wanted))

    @public("virConnectListAllNetworks", origin=NETWORK)
    def listAllNetworks(self, flags: int = 0) -> list[virNetwork]:
        """All networks that match each group of the filters in FLAGS (`VIR_CONNECT_LIST_NETWORKS_*`)."""
        wanted = arguments.known(flags, EVERY_FILTER, "networkConnectListAllNetworks")
        found = self._ask(lambda driver: [identify(network) for network in _matching(driver.networks, wanted)])
        return [virNetwork(cast("virConnect", self), identity) for identity in found]

    @public("virConnectNumOfNetworks", origin=NETWORK)
    def listNetworks(self) -> list[str]:
        """The names of those that are active."""
        return self._names(List.ACTIVE)

    @public("virConnectNumOfNetworks", origin=NETWORK)
    def numOfNetworks(self) -> int:
        """How many are active."""
        return len(self._names(List.ACTIVE))

    @public("virConnectNumOfDefinedNetworks", origin=NETWORK)
    def listDefinedNetworks(self) -> list[str]:
        """The names of those that are not active."""
        return self._names(List.INACTIVE)

    @public("virConnectNumOfDefinedNetworks", origin=NETWORK)
    def numOfDefinedNetworks(self) -> int:
        """How many are not active."""
        return len(self._names(List.INACTIVE))

    @public("virConnectNetworkEventRegisterAny", origin=NETWORK)
    def networkEventRegisterAny(
        self, net: virNetwork | None, eventID: int, cb: Callable[..., Any], opaque: object
    ) -> int:
        """Have CB called for each event EVENTID (`VIR_NETWORK_EVENT_ID_*`) of NET, or of all networks.

        CB takes (conn, net, event, detail, opaque) for a lifecycle event. Returns a number for
        `networkEventDeregisterAny`.

        :raise libvirtError: NO_NETWORK when NET is gone.
        """
        kind = event_kind(eventID, NetworkEventID, "virConnectNetworkEventRegisterAny")
        find = None if net is None else net._find
        return self._register_object_event(kind, find, self._wrap, cb, opaque)

    @public("virConnectNetworkEventDeregisterAny", origin=NETWORK)
    def networkEventDeregisterAny(self, callbackID: int) -> None:
        """Have a callback called no more, from inside it too.

        :raise libvirtError: INVALID_ARG when this connection has none with this number.
        """
        self._require_deregister(callbackID, "virConnectNetworkEventDeregisterAny", NetworkEventID)

    def _wrap(self, network: LiveNetwork) -> virNetwork:
        return virNetwork(cast("virConnect", self), identify(network))


def _matching(networks: Iterable[LiveNetwork], wanted: List) -> list[LiveNetwork]:
    return [network for network in networks if _matches(network, wanted)]


def _matches(network: LiveNetwork, wanted: List) -> bool:
    # libvirt: virNetworkObjMatch
    groups = (
        {List.ACTIVE: network.active, List.INACTIVE: not network.active},
        {List.PERSISTENT: network.persistent, List.TRANSIENT: not network.persistent},
        {List.AUTOSTART: network.autostart, List.NO_AUTOSTART: not network.autostart},
    )
    return meets(wanted, groups)
