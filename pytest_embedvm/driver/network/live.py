"""A network of a root as it is: defined, active, or both; and its definition made into what answers guests."""

from __future__ import annotations

import uuid
from ipaddress import IPv4Address, IPv4Network

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.driver.host import EmbedHost
from pytest_embedvm.driver.network.segment import Segment
from pytest_embedvm.driver.network.uplink import Uplink
from pytest_embedvm.errors import InternalError, NoNetwork, OperationInvalid
from pytest_embedvm.logs import Log
from pytest_embedvm.network import definition, dhcp
from pytest_embedvm.network.definition import Dns, Network, Subnet
from pytest_embedvm.network.frames import mac as mac_bytes
from pytest_embedvm.network.gateway import Gateway
from pytest_embedvm.network.names import Names, Service
from pytest_embedvm.units import Rates


class LiveNetwork:
    """One network of a root, active or not: `network` is what the next start will have, `live` what is active."""

    def __init__(self, network: Network, *, persistent: bool) -> None:
        self.network = network
        self.live: Network | None = None
        self.persistent = persistent
        self.autostart = False
        self.segment: Segment | None = None
        self.uplink: Uplink | None = None

    @property
    def name(self) -> str:
        return self.network.name

    @property
    def uuid(self) -> uuid.UUID:
        if self.network.uuid is None:  # complete() gives every network one
            raise NoNetwork(f"network '{self.name}' has no uuid")
        return self.network.uuid

    @property
    def active(self) -> bool:
        return self.segment is not None

    async def start(self, host: EmbedHost, log: Log) -> None:
        """Have it exist for machines.

        :raise OperationInvalid: when it does.
        :raise EmbedError: when its guests are to reach out and cannot; see `Uplink.require`.
        """
        if self.active:
            # libvirt: networkStartNetwork
            raise OperationInvalid("network is already active", origin=ErrorDomain.NETWORK)
        self.live = self.network
        self.segment = Segment(_gateway(self.network))
        self.uplink = Uplink(self.live, self.segment, host, log)
        if self.live.reaches_out:
            try:
                await self.uplink.require()
            except BaseException:
                if self.active:
                    await self.stop()
                raise

    async def stop(self) -> None:
        """Take it from its machines, whose cards then have no carrier on our side.

        :raise OperationInvalid: when it is not active.
        """
        segment, uplink = self.require_segment(), self.uplink
        self.segment = self.uplink = self.live = None
        segment.close()
        if uplink is not None:
            await uplink.end()

    def change(self, network: Network) -> None:
        """Be NETWORK from now on, which differs in what is offered to guests; who is there stays."""
        gateway = self.require_segment().gateway
        self.live, made = network, _gateway(network)
        gateway.reconfigure(made.server, made.names)

    def forget(self) -> None:
        """In a forked child: close what is the parent's."""
        if self.segment is not None:
            self.segment.forget()
        if self.uplink is not None:
            self.uplink.forget()

    def require_segment(self) -> Segment:
        """:raise OperationInvalid: when it is not active."""
        if self.segment is None:
            # libvirt: networkDestroy
            raise OperationInvalid(f"network '{self.name}' is not active", origin=ErrorDomain.NETWORK)
        return self.segment

    def rates(self, group: str | None) -> Rates:
        """What limits a card of port group GROUP that has no limits of its own."""
        return (self.live or self.network).rates(group)

    def require_uplink(self) -> Uplink:
        """:raise OperationInvalid: when it is not active."""
        self.require_segment()
        if self.uplink is None:
            raise InternalError(f"network '{self.name}' has no uplink", origin=ErrorDomain.NETWORK)
        return self.uplink

    @property
    def bridge_name(self) -> str:
        return (self.network.bridge.name if self.network.bridge else None) or ""

    def xml(self, *, inactive: bool) -> str:
        if inactive or self.live is None or self.segment is None:
            return definition.format(self.network)
        return definition.format(self.live, connections=len(self.segment.links))


def _gateway(network: Network) -> Gateway:
    names = None if network.dns and network.dns.enable is False else _names(network)
    v4, v6 = network.ipv4, network.ipv6
    return Gateway(
        mac=mac_bytes(network.mac or ""),
        ipv4=v4.address if v4 else None,
        ipv6=v6.address if v6 else None,
        prefix=v6.network if v6 else None,
        mtu=network.mtu,
        server=_server(network, v4, serves_names=names is not None) if v4 else None,
        names=names,
    )


def _server(network: Network, subnet: Subnet[IPv4Address, IPv4Network], *, serves_names: bool) -> dhcp.Server | None:
    if subnet.dhcp is None:
        return None
    offer = dhcp.Offer(
        server=subnet.address,
        network=subnet.network,
        router=subnet.address if network.reaches_out else None,
        dns=subnet.address if serves_names else None,
        domain=network.domain.name if network.domain else None,
        mtu=network.mtu,
    )
    ranges = [(IPv4Address(str(span.start)), IPv4Address(str(span.end))) for span in subnet.dhcp.ranges]
    kept = [
        dhcp.Reservation(host.mac, host.name, IPv4Address(str(host.ip)) if host.ip else None, host.id)
        for host in subnet.dhcp.hosts
    ]
    return dhcp.Server(offer, ranges, kept)


def _names(network: Network) -> Names:
    names = Names(domain=network.domain.name.lower() if network.domain else None)
    dns = network.dns or Dns()
    for host in dns.hosts:
        for name in host.names:
            names.add(name, host.ip)
    for text in dns.texts:
        names.texts[text.name.lower()] = text.value
    for entry in dns.services:
        where = ".".join(filter(None, (f"_{entry.service}", f"_{entry.protocol}", entry.domain or names.domain)))
        names.services.append(
            Service(where.lower(), entry.target or ".", entry.port or 0, entry.priority or 0, entry.weight or 0)
        )
    return names
