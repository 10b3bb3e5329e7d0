"""The private network driver of a root: its networks, each a segment of its own on the loop."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.constants import NetworkEventLifecycleType as Happened
from pytest_embedvm.constants import NetworkUpdateFlags as Flags
from pytest_embedvm.driver.descriptors import connect_unix
from pytest_embedvm.driver.host import EmbedHost, random_mac
from pytest_embedvm.driver.hub import EventHub
from pytest_embedvm.driver.network.events import NetworkLifecycle
from pytest_embedvm.driver.network.live import LiveNetwork
from pytest_embedvm.driver.roots.root import Root, file_name
from pytest_embedvm.errors import EmbedError, InternalError, NoNetwork, OperationFailed, OperationInvalid, SystemFailure
from pytest_embedvm.files import set_aside, write_atomically
from pytest_embedvm.network import definition, dhcp
from pytest_embedvm.network.check import check
from pytest_embedvm.network.definition import Network
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


class PrivateNetworks:
    """Every network of one root; a `Subdriver`. All methods run on the loop thread."""

    name = "network"

    def __init__(self, events: EventHub, host: EmbedHost) -> None:
        self._events = events
        self._host = host
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
                await self._autostart(network)

    async def _autostart(self, network: LiveNetwork) -> None:
        try:
            await self.start(network)
        except EmbedError as error:
            # libvirt: networkAutostartConfig goes on with the next
            self._require_root().log.error("network '%s' cannot be started: %s", network.name, error)

    def _load(self, path: Path) -> None:
        try:
            network = self._add(definition.parse(path.read_text("utf-8")), persistent=True)
        except (EmbedError, OSError, UnicodeError) as error:
            self._require_root().log.error("network definition %s: %s; it is kept as %s", path, error, set_aside(path))
        else:
            network.autostart = (path.parent / AUTOSTART / path.name).exists()

    async def cleanup(self) -> None:
        """Have no network any more."""
        networks = tuple(self)
        self._networks.clear()
        await asyncio.gather(*(network.stop() for network in networks if network.active))

    def forget(self) -> None:
        """In a forked child: close what is the parent's."""
        for network in self:
            network.forget()

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

    async def create(self, xml: str) -> LiveNetwork:
        """Start the network that XML describes; it is gone when it is stopped.

        :raise OperationFailed: when its name or uuid is taken.
        :raise EmbedError: when it cannot be started; see `LiveNetwork.start`.
        """
        network = self._add(definition.parse(xml), persistent=False)
        try:
            await self.start(network)
        except BaseException:
            if not network.persistent:
                self._networks.pop(network.uuid, None)
            raise
        return network

    async def start(self, network: LiveNetwork) -> None:
        """Have NETWORK exist for machines.

        :raise OperationInvalid, EmbedError: as `LiveNetwork.start`.
        """
        await network.start(self._host, self._require_root().log)
        self._tell(network, Happened.STARTED)

    def _tell(self, network: LiveNetwork, what: Happened) -> None:
        self._events.emit(network, NetworkLifecycle(what))

    def _add(self, described: Network, *, persistent: bool) -> LiveNetwork:
        check(described)
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
        network = self.by_name(card.network)
        segment = network.require_segment()
        segment.gateway.call(card.mac, card.guest)
        link = segment.plug(card.mac, card.guest, card.rates or network.rates(card.portgroup))
        stack.callback(segment.unplug, link)
        stack.push_async_callback(network.require_uplink().close, card.mac)
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

    async def destroy(self, network: LiveNetwork) -> None:
        """Stop NETWORK; one that is not defined is gone then."""
        await network.stop()
        if not network.persistent:
            self._networks.pop(network.uuid, None)
        self._tell(network, Happened.STOPPED)

    def update(self, network: LiveNetwork, flags: Flags, change: Callable[[Network], None]) -> None:
        """Have CHANGE made to NETWORK: to what is active, to its definition, or to both.

        :raise OperationInvalid: when FLAGS ask for what is not there.
        :raise EmbedError: what CHANGE raises, and `check` of what comes of it; then nothing has changed.
        """
        # libvirt: networkUpdate, virNetworkObjConfigChangeSetup
        flags = flags or (Flags.LIVE if network.active else Flags.CONFIG)
        if flags & Flags.LIVE and not network.active:
            raise OperationInvalid("network is not running", origin=ErrorDomain.NETWORK)
        if flags & Flags.CONFIG and not network.persistent:
            raise OperationInvalid("cannot change persistent config of a transient network", origin=ErrorDomain.NETWORK)
        changed = [_changed(network.network, change) if flags & Flags.CONFIG else None]
        changed.append(_changed(network.live, change) if flags & Flags.LIVE and network.live else None)
        defined, live = changed
        if defined is not None:
            network.network = defined
            self._save(network)
        if live is not None:
            network.change(live)

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


def _changed(network: Network, change: Callable[[Network], None]) -> Network:
    copy = network.copy()
    change(copy)
    check(copy)
    return copy
