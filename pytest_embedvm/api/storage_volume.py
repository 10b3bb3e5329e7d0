"""A volume of a storage pool."""

from __future__ import annotations

import operator
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from pytest_embedvm.api import arguments
from pytest_embedvm.api._object import public
from pytest_embedvm.api._part import Part
from pytest_embedvm.api.elsewhere import hosted
from pytest_embedvm.api.stream import Link, Pipe, virStream
from pytest_embedvm.api.unsupported import unsupported
from pytest_embedvm.constants import (
    ErrorDomain,
    StorageVolDownloadFlags,
    StorageVolInfoFlags,
    StorageVolResizeFlags,
    StorageVolType,
    StorageVolUploadFlags,
    StorageVolWipeAlgorithm,
)
from pytest_embedvm.driver.storage.pool import LivePool
from pytest_embedvm.driver.storage.private import PrivateStorage
from pytest_embedvm.errors import InvalidCall, InvalidStream
from pytest_embedvm.storage import volume as volumes
from pytest_embedvm.storage.volume import Volume

if TYPE_CHECKING:
    from pytest_embedvm.api.connect import virConnect
    from pytest_embedvm.api.storage_pool import virStoragePool

T = TypeVar("T")

STORAGE: Final = ErrorDomain.STORAGE
Resize = StorageVolResizeFlags
#: As the binding reads a size.
UNSIGNED_LONG_LONG: Final = 0xFFFFFFFFFFFFFFFF


@dataclass(frozen=True)
class VolumeIdentity:
    """What a virStorageVol keeps when its volume is gone: the name of its pool, its own, its key, which is its path."""

    pool: str
    name: str
    key: str


@hosted
@unsupported
class virStorageVol(Part[VolumeIdentity]):
    """A volume. Made by a connection or a pool; it is looked up anew at each call."""

    @classmethod
    def _of_host(cls, conn: virConnect, theirs: Any) -> Self:
        return cls(conn, VolumeIdentity(theirs.storagePoolLookupByVolume().name(), theirs.name(), theirs.key()))

    def _at_host(self, host: Any) -> Any:
        return host.storagePoolLookupByName(self._identity.pool).storageVolLookupByName(self._identity.name)

    def _order(self, order: Callable[[PrivateStorage, LivePool, str], Awaitable[T]]) -> T:
        async def carry_out() -> T:
            storage = self._session.driver.storage
            # libvirt: virStorageVolObjFromStorageVol
            pool = storage.by_name(self._identity.pool)
            pool.volume(self._identity.name)
            return await order(storage, pool, self._identity.name)

        return self._run(carry_out())

    def _current(self) -> Volume:
        async def current(storage: PrivateStorage, pool: LivePool, name: str) -> Volume:
            return storage.volumes.current(pool, name)

        return self._order(current)

    def name(self) -> str:
        """Its name."""
        return self._identity.name

    def key(self) -> str:
        """What no other volume of the host has: its path."""
        return self._identity.key

    @public("virStorageVolGetPath", origin=STORAGE)
    def path(self) -> str:
        """Where its file is."""
        return self._current().path

    @public("virStoragePoolLookupByVolume", origin=STORAGE)
    def storagePoolLookupByVolume(self) -> virStoragePool:
        """Its pool.

        :raise libvirtError: NO_STORAGE_POOL when that is gone.
        """
        return self._conn._pool(lambda storage: storage.by_name(self._identity.pool))

    @public("virStorageVolGetXMLDesc", origin=STORAGE)
    def XMLDesc(self, flags: int = 0) -> str:
        """The volume as `<volume>`, as it is now."""
        arguments.known(flags, StorageVolInfoFlags.USE_ALLOCATION, "storageVolGetXMLDesc", STORAGE)
        return volumes.format(self._current())

    @public("virStorageVolGetInfo", origin=STORAGE)
    def info(self) -> list[int]:
        """Its type (`VIR_STORAGE_VOL_*`), and capacity and allocation in bytes."""
        return self._info(self._current(), StorageVolInfoFlags.USE_ALLOCATION)

    @public("virStorageVolGetInfoFlags", origin=STORAGE)
    def infoFlags(self, flags: int = 0) -> list[int]:
        """Like `info`; with VIR_STORAGE_VOL_GET_PHYSICAL the size of its file instead of the allocation."""
        checked = arguments.known(flags, StorageVolInfoFlags.GET_PHYSICAL, "storageVolGetInfoFlags", STORAGE)
        return self._info(self._current(), checked)

    def _info(self, volume: Volume, flags: StorageVolInfoFlags) -> list[int]:
        kind = StorageVolType.DIR if volume.type == "dir" else StorageVolType.FILE
        taken = volume.physical if flags & StorageVolInfoFlags.GET_PHYSICAL else volume.allocation
        return [int(kind), volume.size, taken or 0]

    @public("virStorageVolResize", writes=True, origin=STORAGE)
    def resize(self, capacity: int, flags: int = 0) -> int:
        """Make its disk CAPACITY bytes large; with VIR_STORAGE_VOL_RESIZE_DELTA by so many larger.

        VIR_STORAGE_VOL_RESIZE_SHRINK lets it become smaller, VIR_STORAGE_VOL_RESIZE_ALLOCATE makes all blocks be there.

        :raise libvirtError: INVALID_ARG when it would shrink unasked, or below what it has allocated.
        """
        size = operator.index(capacity) & UNSIGNED_LONG_LONG
        # libvirt: virStorageVolResize
        if size == 0 and not flags & (Resize.DELTA | Resize.SHRINK):
            raise InvalidCall(
                "capacity in virStorageVolResize cannot be zero without 'delta' or 'shrink' flags set", origin=STORAGE
            )
        checked = arguments.known(flags, Resize.ALLOCATE | Resize.DELTA | Resize.SHRINK, "storageVolResize", STORAGE)
        self._order(lambda storage, pool, name: storage.volumes.resize(pool, name, size, checked))
        return 0

    @public("virStorageVolWipe", writes=True, origin=STORAGE)
    def wipe(self, flags: int = 0) -> int:
        """Overwrite its file with zeros; an image is none any more."""
        arguments.known(flags, StorageVolInfoFlags.USE_ALLOCATION, "storageVolWipe", STORAGE)
        zero = StorageVolWipeAlgorithm.ZERO
        self._order(lambda storage, pool, name: storage.volumes.wipe(pool, name, zero))
        return 0

    @public("virStorageVolWipePattern", writes=True, origin=STORAGE)
    def wipePattern(self, algorithm: int, flags: int = 0) -> int:
        """Like `wipe`, with VIR_STORAGE_VOL_WIPE_ALG_ZERO.

        :raise libvirtError: ARGUMENT_UNSUPPORTED for the other algorithms.
        """
        arguments.known(flags, StorageVolInfoFlags.USE_ALLOCATION, "storageVolWipePattern", STORAGE)
        wanted = operator.index(algorithm)
        self._order(lambda storage, pool, name: storage.volumes.wipe(pool, name, wanted))
        return 0

    @public("virStorageVolDelete", writes=True, origin=STORAGE)
    def delete(self, flags: int = 0) -> int:
        """Remove it, and its file.

        :raise libvirtError: SYSTEM_ERROR when it is a directory that is not empty.
        """
        arguments.known(flags, StorageVolInfoFlags.USE_ALLOCATION, "virStorageBackendVolDeleteLocal", STORAGE)
        self._order(lambda storage, pool, name: storage.volumes.delete(pool, name))
        return 0

    # Its bytes

    @public("virStorageVolDownload", writes=True, origin=STORAGE)
    def download(self, stream: virStream, offset: int, length: int, flags: int = 0) -> int:
        """Have STREAM receive LENGTH bytes of its file from OFFSET on; 0 is all.

        With VIR_STORAGE_VOL_DOWNLOAD_SPARSE_STREAM the stream tells holes.

        :raise libvirtError: SYSTEM_ERROR when the file cannot be opened.
        """
        allowed = StorageVolDownloadFlags.VOL_DOWNLOAD_SPARSE_STREAM
        sparse = bool(arguments.known(flags, allowed, "storageVolDownload", STORAGE))
        where, size = operator.index(offset), operator.index(length)
        return self._attach(
            stream,
            "virStorageVolDownload",
            lambda storage, pool, name: storage.volumes.download(pool, name, where, size, sparse=sparse),
        )

    @public("virStorageVolUpload", writes=True, origin=STORAGE)
    def upload(self, stream: virStream, offset: int, length: int, flags: int = 0) -> int:
        """Have what is sent to STREAM written into its file from OFFSET on, at most LENGTH bytes; 0 is no limit.

        With VIR_STORAGE_VOL_UPLOAD_SPARSE_STREAM the stream takes holes. The pool is refreshed when the stream ends.

        :raise libvirtError: SYSTEM_ERROR when the file cannot be opened.
        """
        allowed = StorageVolUploadFlags.VOL_UPLOAD_SPARSE_STREAM
        sparse = bool(arguments.known(flags, allowed, "storageVolUpload", STORAGE))
        where, size = operator.index(offset), operator.index(length)
        return self._attach(
            stream,
            "virStorageVolUpload",
            lambda storage, pool, name: storage.volumes.upload(pool, name, where, size, sparse=sparse),
        )

    def _attach(self, stream: virStream, function: str, opened: Callable[[PrivateStorage, LivePool, str], Link]) -> int:
        if not isinstance(stream, virStream):
            raise InvalidStream(function)

        async def attach(storage: PrivateStorage, pool: LivePool, name: str) -> None:
            stream._attach(await self._session.keep(Pipe(opened(storage, pool, name))))

        self._order(attach)
        return 0
