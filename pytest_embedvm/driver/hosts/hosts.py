"""What a root's connections use of the host's libvirt; nothing, unless one was opened for it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from pytest_embedvm.domain import definition
from pytest_embedvm.domain.model import Domain
from pytest_embedvm.driver import subdrivers
from pytest_embedvm.driver.hosts.connection import HostConnection
from pytest_embedvm.driver.hosts.networks import HostNetworks
from pytest_embedvm.driver.hosts.secrets import HostSecrets
from pytest_embedvm.driver.hosts.storage import HostStorage
from pytest_embedvm.driver.roots.root import Root
from pytest_embedvm.driver.uri import DriverName, Uri


class Hosts:
    """The host's drivers; a `Subdriver`. They know no root: what is theirs is the host's."""

    name = "host"

    def __init__(self, wanted: Iterable[DriverName] = ()) -> None:
        self._wanted = tuple(wanted)
        self._connections: dict[DriverName, HostConnection] = {}

    async def initialize(self, *, privileged: bool, root: Root) -> None:
        """Connect to those that the first connection wants.

        :raise HostMissing: when the host does not have one; with the reason.
        :raise HostError, OperationTimeout: when it does not let us in, or does not answer.
        """
        try:
            await self.open(self._wanted)
        except BaseException:
            await self.cleanup()
            raise

    async def open(self, wanted: Iterable[DriverName]) -> None:
        """Connect to those that are WANTED.

        :raise HostMissing, HostError, OperationTimeout: as `initialize`.
        """
        for kind in wanted:
            await self[kind].open()

    def __getitem__(self, kind: DriverName) -> HostConnection:
        """The host's driver of this KIND; it is connected to when it is asked for the first time."""
        return self._connections.setdefault(kind, HostConnection(kind))

    async def cleanup(self) -> None:
        """Hang up on all."""
        connections, self._connections = self._connections, {}
        await asyncio.gather(*(connection.close() for connection in connections.values()))

    async def allocate(self, domain: Domain, uri: Uri | None) -> None:
        """Have DOMAIN use what a connection to URI, which is to start it, has of the host's.

        :raise HostMissing, HostError, OperationTimeout: when the host does not have it.
        :raise ConfigUnsupported: when the start would call a driver that the connection does not have.
        """
        if uri is None:
            return
        if "none" in uri.modes.values():
            subdrivers.require(definition.format(domain), uri)
        if uri.network == "host":
            await HostNetworks(self["network"]).allocate(domain)
        if uri.storage == "host":
            await HostStorage(self["storage"]).find(domain)

    def secrets(self, uri: Uri | None) -> HostSecrets | None:
        """Who knows the values of secrets for a connection to URI; None: the root's own driver."""
        return HostSecrets(self["secret"]) if uri and "secret" in uri.of_the_host else None
