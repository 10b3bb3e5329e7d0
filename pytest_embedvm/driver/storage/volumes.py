"""What can be done to the volumes of a pool."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

from pytest_embedvm.constants import (
    ErrorDomain,
    SecretUsageType,
    StorageVolCreateFlags,
    StorageVolResizeFlags,
    StorageVolWipeAlgorithm,
)
from pytest_embedvm.driver.secret.private import PrivateSecrets
from pytest_embedvm.driver.storage import making
from pytest_embedvm.driver.storage.pool import LivePool
from pytest_embedvm.driver.storage.transfer import Download, Upload
from pytest_embedvm.errors import (
    ArgumentUnsupported,
    EmbedError,
    InternalError,
    InvalidArgument,
    NoSecret,
    OperationFailed,
    OperationUnsupported,
    StorageVolumeExists,
    SystemFailure,
)
from pytest_embedvm.storage import volume as volumes
from pytest_embedvm.storage.encryption import Encryption, Secret
from pytest_embedvm.storage.volume import Volume

STORAGE: Final = ErrorDomain.STORAGE
Resize = StorageVolResizeFlags


class Volumes:
    """Of all pools of a root. All methods run on the loop thread."""

    def __init__(self, secrets: PrivateSecrets, refreshed: Callable[[LivePool], object]) -> None:
        self._secrets = secrets
        self._refreshed = refreshed

    async def create(self, pool: LivePool, xml: str, flags: StorageVolCreateFlags) -> Volume:
        """Make the volume that XML describes.

        :raise OperationInvalid: when POOL is not active, or the name is none of a file in it.
        :raise StorageVolumeExists: when it has one of this name.
        :raise EmbedError: as `volumes.parse` and `making.make`.
        """
        pool.require_active()
        wanted = volumes.parse(xml, validate=bool(flags & StorageVolCreateFlags.VALIDATE))
        if wanted.name in pool.volumes or wanted.name in pool.building:
            raise StorageVolumeExists(f"'{wanted.name}'")
        preallocate = bool(flags & StorageVolCreateFlags.PREALLOC_METADATA)
        return await self._build(
            pool, wanted, lambda secret: making.make(wanted, preallocate=preallocate, secret=secret)
        )

    async def create_from(
        self, pool: LivePool, xml: str, source_pool: LivePool, source_name: str, flags: StorageVolCreateFlags
    ) -> Volume:
        """Make the volume that XML describes, with the content of another one.

        :raise EmbedError: as `create` and `making.copy`.
        """
        source = source_pool.look_at(source_name, source_pool.volume(source_name))
        pool.require_active()
        validate = bool(flags & StorageVolCreateFlags.VALIDATE)
        wanted = volumes.parse(xml, validate=validate, may_lack_capacity=True)
        if wanted.name in pool.volumes or wanted.name in pool.building:
            # libvirt: storageVolCreateXMLFrom
            raise InternalError(f"storage volume name '{wanted.name}' already in use.", origin=STORAGE)
        # libvirt: storageVolCreateXMLFrom: it is never smaller
        wanted.capacity = max(wanted.size, source.size)
        preallocate = bool(flags & StorageVolCreateFlags.PREALLOC_METADATA)
        reflink = bool(flags & StorageVolCreateFlags.REFLINK)
        with source_pool.job():
            return await self._build(
                pool,
                wanted,
                lambda secret: making.copy(wanted, source, preallocate=preallocate, reflink=reflink, secret=secret),
            )

    async def _build(self, pool: LivePool, wanted: Volume, work: Callable[[bytes | None], Awaitable[None]]) -> Volume:
        volumes.require_name(wanted.name)
        wanted.target.path = f"{pool.directory}/{wanted.name}"
        making.require_free(wanted.path)
        secret = self._passphrase(wanted)
        pool.building.add(wanted.name)
        try:
            with pool.job():
                await work(secret)
            async with pool.changing:
                pool.require_active()
                return self._looked_at(pool, wanted.name, wanted)
        finally:
            pool.building.discard(wanted.name)

    def _looked_at(self, pool: LivePool, name: str, known: Volume) -> Volume:
        found = pool.look_at(name, known)
        with contextlib.suppress(OSError):  # its directory has gone: the next refresh says so
            pool.measure()
        return found

    def _passphrase(self, volume: Volume) -> bytes | None:
        """What VOLUME is encrypted with.

        :raise NoSecret: when there is no such secret, or it has no value.
        """
        if volume.target.encryption is None:
            return None
        named = volume.target.encryption.require_secret()
        found = (
            self._secrets.by_uuid(named.uuid)
            if named.uuid
            else self._secrets.by_usage(SecretUsageType.VOLUME, named.usage or "")
        )
        return bytes(self._secrets.value_for_machine(found))

    def current(self, pool: LivePool, name: str) -> Volume:
        """The volume NAME of POOL as it is now.

        :raise NoStorageVolume: when it has none of this name, or it has gone.
        """
        # libvirt: storageVolGetInfo, storageVolGetXMLDesc
        found = pool.look_at(name, pool.volume(name))
        encryption = found.target.encryption
        if encryption and not encryption.secrets:
            # libvirt: storageBackendLoadDefaultSecrets
            with contextlib.suppress(NoSecret):
                secret = self._secrets.by_usage(SecretUsageType.VOLUME, found.path)
                found.target.encryption = Encryption(format=encryption.format, secrets=[Secret(uuid=secret.uuid)])
        return found

    async def resize(self, pool: LivePool, name: str, capacity: int, flags: StorageVolResizeFlags) -> None:
        """Make the disk in a volume CAPACITY bytes large, or by CAPACITY larger or smaller.

        :raise InvalidArgument: when it would shrink unasked, or below what it has allocated.
        :raise OperationFailed: when there is no room for all of it.
        :raise OperationUnsupported: when it has no size, or blocks cannot be allocated in its format.
        """
        # libvirt: storageVolResize
        volume = self.current(pool, name)
        size = _wanted(volume, capacity, flags)
        allocate = bool(flags & Resize.ALLOCATE)
        if allocate and size - (volume.allocation or 0) > (pool.pool.available or 0):
            raise OperationFailed("Not enough space left in storage pool", origin=STORAGE)
        if allocate and (volume.target.format not in making.RAW or volume.target.encryption):
            raise OperationUnsupported("preallocate is only supported for raw type volume", origin=STORAGE)
        if volume.type == "dir":
            raise OperationUnsupported(f"volume '{name}' is a directory: it has no size", origin=STORAGE)
        secret = self._passphrase(volume)
        with pool.job():
            await making.resize(volume, size, allocate=allocate, secret=secret)
        self._changed(pool, name, volume)

    async def wipe(self, pool: LivePool, name: str, algorithm: int) -> None:
        """Overwrite a volume's file with zeros.

        :raise ArgumentUnsupported: for a pattern that needs a program, or the device itself.
        """
        # libvirt: storageBackendVolWipeLocal
        volume = self.current(pool, name)
        if algorithm not in tuple(StorageVolWipeAlgorithm):
            raise InvalidArgument(f"wiping algorithm {algorithm} not supported", origin=STORAGE)
        if algorithm != StorageVolWipeAlgorithm.ZERO:
            word = StorageVolWipeAlgorithm(algorithm).name.lower()
            raise ArgumentUnsupported(f"'{word}' algorithm not supported", origin=STORAGE)
        with pool.job():
            await making.wipe(volume)
        self._changed(pool, name, None)

    def _changed(self, pool: LivePool, name: str, known: Volume | None) -> None:
        with contextlib.suppress(EmbedError):  # it was deleted meanwhile
            pool.look_at(name, known)

    async def delete(self, pool: LivePool, name: str) -> None:
        """Remove a volume.

        :raise OperationInvalid: when it is being made.
        :raise OperationFailed: when it is a directory that is not empty.
        """
        # libvirt: storageVolDelete, virStorageBackendVolDeleteLocal
        async with pool.changing:
            volume = pool.volume(name)
            path = pool.directory / name
            with contextlib.suppress(FileNotFoundError):
                try:
                    (path.rmdir if volume.type == "dir" else path.unlink)()
                except OSError as error:
                    how = "remove directory" if volume.type == "dir" else "unlink file"
                    raise SystemFailure(f"cannot {how} '{path}': {error.strerror}", origin=STORAGE) from error
            del pool.volumes[name]
            with contextlib.suppress(OSError):  # its directory has gone: the next refresh says so
                pool.measure()

    # Its bytes

    def download(self, pool: LivePool, name: str, offset: int, length: int, *, sparse: bool) -> Download:
        """Read LENGTH bytes of a volume's file from OFFSET on; 0 is all.

        :raise SystemFailure: when it cannot be opened.
        """
        return Download(pool.volume(name).path, offset, length or None, sparse=sparse)

    def upload(self, pool: LivePool, name: str, offset: int, length: int, *, sparse: bool) -> Upload:
        """Write at most LENGTH bytes into a volume's file from OFFSET on; 0 is no limit.

        :raise SystemFailure: when it cannot be opened.
        """

        async def over() -> None:
            # libvirt: virStorageVolPoolRefreshThread
            with contextlib.suppress(EmbedError):  # the pool is not active any more, or has jobs
                await pool.refresh()
                self._refreshed(pool)

        return Upload(pool.volume(name).path, offset, length or None, over, sparse=sparse)


def _wanted(volume: Volume, capacity: int, flags: StorageVolResizeFlags) -> int:
    """The size that VOLUME is to have.

    :raise InvalidArgument: when that is not what FLAGS let it be.
    """
    size, shrink = capacity, bool(flags & Resize.SHRINK)
    if flags & Resize.DELTA:
        size = volume.size - min(capacity, volume.size) if shrink else volume.size + capacity
    if size < (volume.allocation or 0) and volume.target.format in making.RAW:
        raise InvalidArgument("can't shrink capacity below existing allocation", origin=STORAGE)
    if size < volume.size and not shrink:
        raise InvalidArgument(
            "Can't shrink capacity below current capacity unless shrink flag explicitly specified", origin=STORAGE
        )
    return size
