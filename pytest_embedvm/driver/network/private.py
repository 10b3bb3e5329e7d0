"""The private network driver of a root: its networks, each a segment of its own on the loop."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Final

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.constants import NetworkEventLifecycleType as Happened
from pytest_embedvm.driver.descriptors import connect_unix
from pytest_embedvm.driver.host import random_mac
from pytest_embedvm.driver.hub import EventHub
from pytest_embedvm.driver.network.events import NetworkLifecycle
from pytest_embedvm.driver.network.segment import Segment
from pytest_embedvm.driver.roots.root import Root, file_name
from pytest_embedvm.errors import EmbedError, InternalError, NoNetwork, OperationFailed, OperationInvalid, SystemFailure
from pytest_embedvm.files import set_aside, write_atomically
from pytest_embedvm.network import definition, dhcp
from pytest_embedvm.network.definition import Dns, Network, Subnet
from pytest_embedvm.network.frames import mac as mac_bytes
from pytest_embedvm.network.gateway import Gateway
from pytest_embedvm.network.names import Names, Service
from pytest_embedvm.qemu.parts import Card

#: What there is in a root that never heard of networks: addresses of its own, and no way out.
DEFAULT: Final = """
<network>
  <name>default</name>
  <ip address='192.168.122.1' prefix='24'>
    <dhcp><range start='192.168.122.2' end='192.168.122.254'/></dhcp>
  </ip>
  <ip family='ipv6' address='fd00:7a:7a:7a::1' prefix='64'/>
</network>
"""


#: Where definitions are below the root, and which of them start when it is opened.
FOLDER: Final = ("etc", "qemu", "networks")
AUTOSTART: Final = "autostart"


@dataclass(frozen=True)
class Leased:
    """An address of a network that a guest has."""

    lease: dhcp.Lease
    prefix: int
    #: How long it is its own yet.
    seconds: float


class LiveNetwork:
    """One network of a root, active or not: `network` is what the next start will have, `live` what is active."""

    def __init__(self, network: Network, *, persistent: bool) -> None:
        self.network = network
        self.live: Network | None = None
        self.persistent = persistent
        self.autostart = False
        self.segment: Segment | None = None

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

    def start(self) -> None:
        """Have it exist for machines.

        :raise OperationInvalid: when it does.
        """
        if self.active:
            # libvirt: networkStartNetwork
            raise OperationInvalid("network is already active", origin=ErrorDomain.NETWORK)
        self.live = self.network
        self.segment = Segment(_gateway(self.network))

    def stop(self) -> None:
        """Take it from its machines, whose cards then have no carrier on our side.

        :raise OperationInvalid: when it is not active.
        """
        segment = self.require_segment()
        self.segment = self.live = None
        segment.close()

    def require_segment(self) -> Segment:
        """:raise OperationInvalid: when it is not active."""
        if self.segment is None:
            # libvirt: networkDestroy
            raise OperationInvalid(f"network '{self.name}' is not active", origin=ErrorDomain.NETWORK)
        return self.segment

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


class PrivateNetworks:
    """Every network of one root; a `Subdriver`. All methods run on the loop thread."""

    name = "network"

    def __init__(self, events: EventHub) -> None:
        self._events = events
        self._networks: dict[uuid.UUID, LiveNetwork] = {}
        self._root: Root | None = None

    async def initialize(self, *, privileged: bool, root: Root) -> None:
        """Take up the networks that are defined in ROOT; `default` is there and active unless it was undefined."""
        self._root = root
        folder = root.path.joinpath(*FOLDER)
        if not folder.is_dir():
            self._add(definition.parse(DEFAULT), persistent=True).autostart = True
        for path in sorted(folder.glob("*.xml")) if folder.is_dir() else ():
            self._load(path)
        for network in self:
            if network.autostart:
                self.start(network)

    def _load(self, path: Path) -> None:
        try:
            network = self._add(definition.parse(path.read_text("utf-8")), persistent=True)
        except (EmbedError, OSError, UnicodeError) as error:
            self._require_root().log.error("network definition %s: %s; it is kept as %s", path, error, set_aside(path))
        else:
            network.autostart = (path.parent / AUTOSTART / path.name).exists()

    async def cleanup(self) -> None:
        """Have no network any more."""
        for network in self:
            if network.active:
                network.stop()
        self._networks.clear()

    def __iter__(self) -> Iterator[LiveNetwork]:
        return iter(tuple(self._networks.values()))

    def by_name(self, name: str) -> LiveNetwork:
        """:raise NoNetwork: when none has this name."""
        for network in self:
            if network.name == name:
                return network
        # libvirt: networkLookupByName
        raise NoNetwork(f"no network with matching name '{name}'")

    def by_uuid(self, wanted: uuid.UUID) -> LiveNetwork:
        """:raise NoNetwork: when none has this uuid."""
        try:
            return self._networks[wanted]
        except KeyError:
            # libvirt: networkLookupByUUID
            raise NoNetwork(f"no network with matching uuid '{wanted}'") from None

    def define(self, xml: str) -> LiveNetwork:
        """Keep the network that XML describes; what is active goes on as it is until it is started anew.

        :raise XMLError: and others, as `definition.parse` and `check`.
        """
        network = self._add(definition.parse(xml), persistent=True)
        self._save(network)
        self._tell(network, Happened.DEFINED)
        return network

    def create(self, xml: str) -> LiveNetwork:
        """Start the network that XML describes; it is gone when it is stopped.

        :raise OperationFailed: when its name or uuid is taken.
        """
        network = self._add(definition.parse(xml), persistent=False)
        self.start(network)
        return network

    def start(self, network: LiveNetwork) -> None:
        """Have NETWORK exist for machines.

        :raise OperationInvalid: when it does.
        """
        network.start()
        self._tell(network, Happened.STARTED)

    def _tell(self, network: LiveNetwork, what: Happened) -> None:
        self._events.emit(network, NetworkLifecycle(what))

    def _add(self, described: Network, *, persistent: bool) -> LiveNetwork:
        definition.check(described)
        known = self._claim(described)
        taken = {network.network.bridge.name for network in self if network.network.bridge}
        free = next(name for number in itertools.count() if (name := f"virbr{number}") not in taken)
        if known is not None:
            described.uuid = known.uuid
            described.mac = described.mac or known.network.mac
        described.complete(uuid.uuid4, random_mac, free)
        if known is None:
            known = LiveNetwork(described, persistent=persistent)
            self._networks[known.uuid] = known
        elif known.active and not persistent:
            raise OperationFailed(f"network is already active as '{known.name}'", origin=ErrorDomain.NETWORK)
        known.network, known.persistent = described, known.persistent or persistent
        return known

    def _claim(self, described: Network) -> LiveNetwork | None:
        """The network that DESCRIBED already is.

        :raise OperationFailed: when its name or uuid is another one's.
        """
        # libvirt: virNetworkObjIsDuplicate
        for network in self:
            if network.uuid == described.uuid and network.name != described.name:
                raise OperationFailed(
                    f"network '{network.name}' is already defined with uuid {network.uuid}", origin=ErrorDomain.NETWORK
                )
            if network.name == described.name:
                if described.uuid not in (None, network.uuid):
                    raise OperationFailed(
                        f"network '{network.name}' already exists with uuid {network.uuid}", origin=ErrorDomain.NETWORK
                    )
                return network
        return None

    def plug(self, card: Card, stack: contextlib.AsyncExitStack) -> None:
        """Connect CARD, which listens, to its network until STACK is unwound.

        :raise NoNetwork, OperationInvalid: when there is no such network, or it is not active.
        :raise SystemFailure: when nobody listens there.
        """
        segment = self.by_name(card.network).require_segment()
        segment.gateway.call(card.mac, card.guest)
        link = segment.plug(card.mac, card.guest)
        stack.callback(segment.unplug, link)
        link.connect(connect_unix(Path(card.path)), link.disconnect)

    def leases(self, network: LiveNetwork, mac: str | None = None) -> list[Leased]:
        """The addresses that guests have; of the one with this MAC, or of all."""
        server = network.require_segment().gateway.server
        if server is None:
            return []
        now = asyncio.get_running_loop().time()
        found = [lease for lease in server.leases(now) if mac is None or lease.mac == mac.lower()]
        return [Leased(lease, server.offer.network.prefixlen, lease.expires - now) for lease in found]

    def undefine(self, network: LiveNetwork) -> None:
        """Forget the definition of NETWORK; an active one goes on until it is stopped.

        :raise OperationInvalid: when it has none.
        """
        if not network.persistent:
            # libvirt: networkUndefine
            raise OperationInvalid("can't undefine transient network", origin=ErrorDomain.NETWORK)
        self._folder()  # from here on `default` is there only where it is written down
        for path in self._paths(network):
            path.unlink(missing_ok=True)
        network.persistent = network.autostart = False
        if not network.active:
            del self._networks[network.uuid]
        self._tell(network, Happened.UNDEFINED)

    def destroy(self, network: LiveNetwork) -> None:
        """Stop NETWORK; one that is not defined is gone then."""
        network.stop()
        if not network.persistent:
            del self._networks[network.uuid]
        self._tell(network, Happened.STOPPED)

    def set_autostart(self, network: LiveNetwork, *, on: bool) -> None:
        """Have NETWORK active, or not, when the root is opened next.

        :raise OperationInvalid: when it is not defined.
        """
        if not network.persistent:
            # libvirt: networkSetAutostart
            raise OperationInvalid("cannot set autostart for transient network", origin=ErrorDomain.NETWORK)
        network.autostart = on
        self._save(network)

    def _save(self, network: LiveNetwork) -> None:
        for entry in self if not self._written else (network,):
            if entry.persistent:
                self._write(entry)

    @property
    def _written(self) -> bool:
        """Whether the networks of this root are written down; `default` is not before something else is."""
        return self._require_root().path.joinpath(*FOLDER).is_dir()

    def _write(self, network: LiveNetwork) -> None:
        path, link = self._paths(network)
        try:
            write_atomically(path, definition.format(network.network).encode())
            if network.autostart and not link.is_symlink():
                link.symlink_to(Path("..", path.name))
            elif not network.autostart:
                link.unlink(missing_ok=True)
        except OSError as error:
            raise SystemFailure(f"Failed to create file '{path}': {error.strerror}") from error

    def _paths(self, network: LiveNetwork) -> tuple[Path, Path]:
        """Where the definition of NETWORK is, and the link that says that it starts by itself."""
        name = f"{file_name(network.name)}.xml"
        return self._folder() / name, self._require_root().directory(*FOLDER, AUTOSTART) / name

    def _folder(self) -> Path:
        return self._require_root().directory(*FOLDER)

    def _require_root(self) -> Root:
        if self._root is None:
            raise InternalError("the network driver has no root yet", origin=ErrorDomain.NETWORK)
        return self._root
