"""The host's storage pools, as domains use them."""

from __future__ import annotations

from typing import Any, Final, Literal

from pytest_embedvm.constants import StorageVolType
from pytest_embedvm.domain.host import Volume
from pytest_embedvm.domain.media import missing_volumes
from pytest_embedvm.domain.model import Domain
from pytest_embedvm.driver.hosts.connection import HostConnection
from pytest_embedvm.errors import ConfigUnsupported

_TYPES: Final[dict[int, Literal["file", "block"]]] = {StorageVolType.FILE: "file", StorageVolType.BLOCK: "block"}


class HostStorage:
    """The storage driver of the host's libvirt."""

    def __init__(self, connection: HostConnection) -> None:
        self._connection = connection

    async def find(self, domain: Domain) -> None:
        """Find the volumes that DOMAIN's disks stand on.

        :raise HostError: when there is no such pool or volume.
        :raise ConfigUnsupported: when the pool is not active, or the volume no file and no block device.
        """
        for source in missing_volumes(domain):
            source.find(await self._volume(source.pool or "", source.volume or ""))

    async def _volume(self, pool: str, volume: str) -> Volume:
        path, number = await self._connection.ask(lambda: _look(self._connection.opened, pool, volume))
        if path is None:
            # libvirt: virDomainStorageSourceTranslateSourcePool
            raise ConfigUnsupported(f"storage pool '{pool}' containing volume '{volume}' is not active")
        if number not in _TYPES:
            raise ConfigUnsupported(f"volume '{volume}' of the host's storage pool '{pool}' is no file or block device")
        return Volume(path=path, type=_TYPES[number])


def _look(host: Any, pool: str, volume: str) -> tuple[str | None, int]:
    """Where the volume is, and its type; nowhere if its pool is not active."""
    found = host.storagePoolLookupByName(pool)
    if not found.isActive():
        return None, 0
    there = found.storageVolLookupByName(volume)
    return there.path(), there.info()[0]
