"""A storage pool of a root."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, Final, Self

from pytest_embedvm.api import arguments
from pytest_embedvm.api._object import public
from pytest_embedvm.api._part import Identity, NamedPart, Secondary
from pytest_embedvm.api.elsewhere import hosted
from pytest_embedvm.api.storage_volume import VolumeIdentity, virStorageVol
from pytest_embedvm.api.unsupported import unsupported
from pytest_embedvm.constants import (
    ErrorDomain,
    StoragePoolBuildFlags,
    StoragePoolCreateFlags,
    StorageVolCreateFlags,
    StorageXMLFlags,
)
from pytest_embedvm.driver.driver import Driver
from pytest_embedvm.driver.storage.pool import LivePool
from pytest_embedvm.driver.storage.private import PrivateStorage
from pytest_embedvm.errors import InvalidCall, NoStoragePool
from pytest_embedvm.storage.volume import Volume

if TYPE_CHECKING:
    from pytest_embedvm.api.connect import virConnect


STORAGE: Final = ErrorDomain.STORAGE
Build = StoragePoolBuildFlags
Start = StoragePoolCreateFlags
Create = StorageVolCreateFlags


def identify(pool: LivePool) -> Identity:
    return Identity(pool.name, pool.uuid)


@hosted
@unsupported
class virStoragePool(NamedPart, Secondary[PrivateStorage, LivePool]):
    """A storage pool. Made by a connection; it is looked up anew at each call."""

    @classmethod
    def _of_host(cls, conn: virConnect, theirs: Any) -> Self:
        return cls(conn, Identity(theirs.name(), uuid.UUID(bytes=theirs.UUID())))

    def _at_host(self, host: Any) -> Any:
        return host.storagePoolLookupByUUID(self.UUID())

    @staticmethod
    def _among(driver: Driver) -> PrivateStorage:
        return driver.storage

    def _find(self, driver: Driver) -> LivePool:
        try:
            return driver.storage.by_uuid(self._identity.uuid)
        except NoStoragePool:
            number, name = self._identity.uuid, self._identity.name
            # libvirt: virStoragePoolObjFromStoragePool
            raise NoStoragePool(f"no storage pool with matching uuid '{number}' ({name})") from None

    def _volume(self, volume: Volume) -> virStorageVol:
        return virStorageVol(self._conn, VolumeIdentity(self._identity.name, volume.name, volume.key or ""))

    @public("virStoragePoolGetXMLDesc", origin=STORAGE)
    def XMLDesc(self, flags: int = 0) -> str:
        """The pool as `<pool>`; with VIR_STORAGE_XML_INACTIVE as it will be started next."""
        checked = arguments.known(flags, StorageXMLFlags.XML_INACTIVE, "storagePoolGetXMLDesc", STORAGE)
        return self._ask(lambda _, pool: pool.xml(inactive=bool(checked)))

    @public("virStoragePoolGetInfo", origin=STORAGE)
    def info(self) -> list[int]:
        """State, and capacity, allocation and what is available of its file system in bytes."""
        return [int(number) for number in self._ask(lambda _, pool: pool.info)]

    @public("virStoragePoolIsActive", origin=STORAGE)
    def isActive(self) -> int:
        """1 when its volumes can be used."""
        return self._ask(lambda _, pool: int(pool.active))

    @public("virStoragePoolIsPersistent", origin=STORAGE)
    def isPersistent(self) -> int:
        """1 when it is defined."""
        return self._ask(lambda _, pool: int(pool.persistent))

    @public("virStoragePoolGetAutostart", origin=STORAGE)
    def autostart(self) -> int:
        """1 when it becomes active as its root is opened."""
        return self._ask(lambda _, pool: int(pool.autostart))

    @public("virStoragePoolSetAutostart", writes=True, origin=STORAGE)
    def setAutostart(self, autostart: int) -> int:
        """Say whether it becomes active as its root is opened.

        :raise libvirtError: INTERNAL_ERROR when it is transient.
        """
        self._ask(lambda storage, pool: storage.set_autostart(pool, on=bool(autostart)))
        return 0

    @public("virStoragePoolBuild", writes=True, origin=STORAGE)
    def build(self, flags: int = 0) -> int:
        """Make its directory.

        :raise libvirtError: OPERATION_INVALID when it is active, or FLAGS ask for a file system to be made.
        """
        checked = arguments.known(
            flags, Build.OVERWRITE | Build.NO_OVERWRITE, "virStorageBackendFileSystemBuild", STORAGE
        )
        if checked == Build.OVERWRITE | Build.NO_OVERWRITE:
            raise InvalidCall(
                "Flags 'VIR_STORAGE_POOL_BUILD_OVERWRITE' and 'VIR_STORAGE_POOL_BUILD_NO_OVERWRITE' "
                "are mutually exclusive",
                origin=STORAGE,
            )
        self._ask(lambda storage, pool: storage.build(pool, checked))
        return 0

    @public("virStoragePoolCreate", writes=True, origin=STORAGE)
    def create(self, flags: int = 0) -> int:
        """Start it: its directory is looked at. With VIR_STORAGE_POOL_CREATE_WITH_BUILD that is made first.

        :raise libvirtError: OPERATION_INVALID when it is active, SYSTEM_ERROR when its directory is not there.
        """
        build = build_flags(flags, "storagePoolCreate")

        async def start(storage: PrivateStorage, pool: LivePool) -> None:
            pool.require_inactive("already")
            if build is not None:
                storage.build(pool, build)
            await storage.start(pool)

        self._order(start)
        return 0

    @public("virStoragePoolDestroy", writes=True, origin=STORAGE)
    def destroy(self) -> int:
        """Stop it; its files stay.

        :raise libvirtError: OPERATION_INVALID when it is not active.
        """
        self._order(PrivateStorage.destroy)
        return 0

    @public("virStoragePoolDelete", writes=True, origin=STORAGE)
    def delete(self, flags: int = 0) -> int:
        """Remove its directory.

        :raise libvirtError: OPERATION_INVALID when it is active, SYSTEM_ERROR when there are files in it.
        """
        arguments.known(flags, Build.NEW, "virStorageBackendDeleteLocal", STORAGE)
        self._ask(PrivateStorage.delete)
        return 0

    @public("virStoragePoolUndefine", writes=True, origin=STORAGE)
    def undefine(self) -> int:
        """Forget it; its files stay.

        :raise libvirtError: OPERATION_INVALID when it is active.
        """
        self._ask(PrivateStorage.undefine)
        return 0

    @public("virStoragePoolRefresh", writes=True, origin=STORAGE)
    def refresh(self, flags: int = 0) -> int:
        """Look at its directory anew: who put files there by other ways finds them then.

        :raise libvirtError: OPERATION_INVALID when it is not active.
        """
        arguments.known(flags, Build.NEW, "storagePoolRefresh", STORAGE)
        self._order(PrivateStorage.refresh)
        return 0

    # Volumes

    def _known_volumes(self) -> list[Volume]:
        def volumes(_: PrivateStorage, pool: LivePool) -> list[Volume]:
            pool.require_active()
            return list(pool.volumes.values())

        return self._ask(volumes)

    @public("virStoragePoolListAllVolumes", origin=STORAGE)
    def listAllVolumes(self, flags: int = 0) -> list[virStorageVol]:
        """Its volumes.

        :raise libvirtError: OPERATION_INVALID when it is not active.
        """
        arguments.known(flags, Build.NEW, "storagePoolListAllVolumes", STORAGE)
        return [self._volume(volume) for volume in self._known_volumes()]

    @public("virStoragePoolNumOfVolumes", origin=STORAGE)
    def listVolumes(self) -> list[str]:
        """The names of its volumes.

        :raise libvirtError: OPERATION_INVALID when it is not active.
        """
        return [volume.name for volume in self._known_volumes()]

    @public("virStoragePoolNumOfVolumes", origin=STORAGE)
    def numOfVolumes(self) -> int:
        """How many volumes it has.

        :raise libvirtError: OPERATION_INVALID when it is not active.
        """
        return len(self._known_volumes())

    @public("virStorageVolLookupByName", origin=STORAGE)
    def storageVolLookupByName(self, name: str) -> virStorageVol:
        """The volume with this name.

        :raise libvirtError: NO_STORAGE_VOL when there is none, OPERATION_INVALID when the pool is not active.
        """
        text = arguments.text(name, "name", "virStorageVolLookupByName")
        return self._volume(self._ask(lambda _, pool: pool.volume(text)))

    @public("virStorageVolCreateXML", writes=True, origin=STORAGE)
    def createXML(self, xmlDesc: str, flags: int = 0) -> virStorageVol:
        """Make the volume that XMLDESC describes; it is whole when this returns, or not there.

        :raise libvirtError: STORAGE_VOL_EXIST when there is one of its name; XML_DETAIL, XML_ERROR,
            CONFIG_UNSUPPORTED for what the XML says.
        """
        text = arguments.text(xmlDesc, "xmlDesc", "virStorageVolCreateXML")
        checked = arguments.known(flags, Create.PREALLOC_METADATA | Create.VALIDATE, "storageVolCreateXML", STORAGE)
        return self._volume(self._order(lambda storage, pool: storage.volumes.create(pool, text, checked)))

    @public("virStorageVolCreateXMLFrom", writes=True, origin=STORAGE)
    def createXMLFrom(self, xmlDesc: str, clonevol: virStorageVol, flags: int = 0) -> virStorageVol:
        """Make the volume that XMLDESC describes, with the content of CLONEVOL, which may be in another pool.

        :raise libvirtError: as `createXML`.
        """
        text = arguments.text(xmlDesc, "xmlDesc", "virStorageVolCreateXMLFrom")
        allowed = Create.PREALLOC_METADATA | Create.REFLINK | Create.VALIDATE
        checked = arguments.known(flags, allowed, "storageVolCreateXMLFrom", STORAGE)
        source = clonevol._identity

        async def make(storage: PrivateStorage, pool: LivePool) -> Volume:
            there = storage.by_name(source.pool)
            return await storage.volumes.create_from(pool, text, there, source.name, checked)

        return self._volume(self._order(make))


def build_flags(flags: int, function: str) -> StoragePoolBuildFlags | None:
    """What the flags of a start say of building; None is not to build.

    :raise InvalidCall: when FUNCTION does not know one.
    """
    # libvirt: storagePoolCreateXML: WITH_BUILD, WITH_BUILD_OVERWRITE, WITH_BUILD_NO_OVERWRITE
    checked = arguments.known(
        flags, Start.WITH_BUILD | Start.WITH_BUILD_OVERWRITE | Start.WITH_BUILD_NO_OVERWRITE, function, STORAGE
    )
    if not checked:
        return None
    build = Build.NEW
    if checked & Start.WITH_BUILD_OVERWRITE:
        build |= Build.OVERWRITE
    if checked & Start.WITH_BUILD_NO_OVERWRITE:
        build |= Build.NO_OVERWRITE
    return build
