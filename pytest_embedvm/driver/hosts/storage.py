"""The host's storage pools, as domains use them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from pytest_embedvm.constants import ErrorDomain, StorageVolType
from pytest_embedvm.domain.host import Volume
from pytest_embedvm.domain.media import find_volumes
from pytest_embedvm.domain.model import Domain
from pytest_embedvm.driver.hosts.connection import HostConnection
from pytest_embedvm.errors import ConfigUnsupported
from pytest_embedvm.xml import document

_TYPES: Final[Mapping[int, Literal["file", "block", "dir"]]] = {
    StorageVolType.FILE: "file",
    StorageVolType.BLOCK: "block",
    StorageVolType.DIR: "dir",
}


class FoundVolumes:
    """What the host told of volumes; `find_volumes` asks it. Without answers it notes what is asked."""

    def __init__(self, answers: Mapping[tuple[str, str], Volume] | None = None) -> None:
        self._answers = answers
        self.asked: list[tuple[str, str]] = []

    def volume(self, pool: str, volume: str) -> Volume:
        """The VOLUME of the host's POOL."""
        if self._answers is None:
            self.asked.append((pool, volume))
            return Volume(path="", type="file", format="raw")
        return self._answers[pool, volume]


class HostStorage:
    """The storage driver of the host's libvirt."""

    def __init__(self, connection: HostConnection) -> None:
        self._connection = connection

    async def find(self, domain: Domain) -> FoundVolumes:
        """The volumes that DOMAIN stands on.

        :raise HostError: when a pool or a volume is not there.
        :raise ConfigUnsupported: when a pool is not active.
        """
        wanted = FoundVolumes()
        find_volumes(domain, wanted)
        return FoundVolumes({(pool, name): await self._find(pool, name) for pool, name in wanted.asked})

    async def _find(self, pool: str, name: str) -> Volume:
        return await self._connection.ask(lambda: _volume(self._connection.opened, pool, name))


def _volume(host: Any, pool_name: str, name: str) -> Volume:
    # libvirt: virDomainDiskTranslateSourcePool
    pool = host.storagePoolLookupByName(pool_name)
    if not pool.isActive():
        raise ConfigUnsupported(
            f"storage pool '{pool_name}' containing volume '{name}' is not active", origin=ErrorDomain.DOMAIN
        )
    volume = pool.storageVolLookupByName(name)
    kind = _TYPES.get(volume.info()[0])
    if kind is None:
        raise ConfigUnsupported(f"volume '{name}' of storage pool '{pool_name}' is on the network")
    image = document.parse(volume.XMLDesc(), root="volume").find("target/format")
    return Volume(path=volume.path(), type=kind, format=(image.get("type") if image is not None else None) or "raw")
