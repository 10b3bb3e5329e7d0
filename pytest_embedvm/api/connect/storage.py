"""The storage pools of a root, and their volumes."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, cast

from lxml import etree

from pytest_embedvm.api import arguments
from pytest_embedvm.api._object import public
from pytest_embedvm.api.connect.callbacks import Callbacks, event_kind
from pytest_embedvm.api.storage_pool import build_flags, identify, virStoragePool
from pytest_embedvm.api.storage_volume import VolumeIdentity, virStorageVol
from pytest_embedvm.constants import ConnectListAllStoragePoolsFlags as List
from pytest_embedvm.constants import (
    ErrorDomain,
    StoragePoolBuildFlags,
    StoragePoolDefineFlags,
    StoragePoolEventID,
)
from pytest_embedvm.driver.filters import meets
from pytest_embedvm.driver.storage.pool import LivePool
from pytest_embedvm.driver.storage.private import PrivateStorage
from pytest_embedvm.errors import NoStorageVolume
from pytest_embedvm.storage import pool as pools
from pytest_embedvm.storage import volume as volumes
from pytest_embedvm.xml import document

if TYPE_CHECKING:
    from pytest_embedvm.api.connect import virConnect

STORAGE: Final = ErrorDomain.STORAGE
_TYPES: Final = {
    List.DIR: "dir", List.FS: "fs", List.NETFS: "netfs", List.LOGICAL: "logical", List.DISK: "disk",
    List.ISCSI: "iscsi", List.SCSI: "scsi", List.MPATH: "mpath", List.RBD: "rbd", List.SHEEPDOG: "sheepdog",
    List.GLUSTER: "gluster", List.ZFS: "zfs", List.VSTORAGE: "vstorage", List.ISCSI_DIRECT: "iscsi-direct",
}  # fmt: skip
EVERY_FILTER: Final = List(sum(List))


class Storage(Callbacks):
    """storage…, listAllStoragePools and its kin."""

    def _pool(self, search: Callable[[PrivateStorage], LivePool]) -> virStoragePool:
        found = self._ask(lambda driver: identify(search(driver.storage)))
        return virStoragePool(cast("virConnect", self), found)

    def _new_pool(self, order: Callable[[PrivateStorage], Awaitable[LivePool]]) -> virStoragePool:
        async def make(storage: PrivateStorage) -> LivePool:
            return await order(storage)

        found = self._order(lambda driver: make(driver.storage))
        return virStoragePool(cast("virConnect", self), identify(found))

    def _pool_names(self, wanted: List) -> list[str]:
        return self._ask(lambda driver: [pool.name for pool in _matching(driver.storage, wanted)])

    @public("virStoragePoolDefineXML", writes=True, origin=STORAGE)
    def storagePoolDefineXML(self, xml: str, flags: int = 0) -> virStoragePool:
        """Keep a pool in the root, or change the one with its name and uuid; it is not started.

        :raise libvirtError: XML_DETAIL, XML_ERROR, CONFIG_UNSUPPORTED for what the XML says; CONFIG_UNSUPPORTED also
            when its path is not below the root.
        """
        text = arguments.text(xml, "xml", "virStoragePoolDefineXML")
        allowed = StoragePoolDefineFlags.POOL_DEFINE_VALIDATE
        validate = bool(arguments.known(flags, allowed, "storagePoolDefineXML", STORAGE))
        return self._pool(lambda storage: storage.define(text, validate=validate))

    @public("virStoragePoolCreateXML", writes=True, origin=STORAGE)
    def storagePoolCreateXML(self, xmlDesc: str, flags: int = 0) -> virStoragePool:
        """Start a pool that is gone when it is stopped.

        With VIR_STORAGE_POOL_CREATE_WITH_BUILD its directory is made first.

        :raise libvirtError: as `storagePoolDefineXML`; OPERATION_INVALID when it is active.
        """
        text = arguments.text(xmlDesc, "xmlDesc", "virStoragePoolCreateXML")
        build = build_flags(flags, "storagePoolCreateXML")
        overwrite = bool(build)
        return self._new_pool(lambda storage: storage.create(text, build=build is not None, overwrite=overwrite))

    @public("virStoragePoolLookupByName", origin=STORAGE)
    def storagePoolLookupByName(self, name: str) -> virStoragePool:
        """The pool with this name.

        :raise libvirtError: NO_STORAGE_POOL when there is none.
        """
        text = arguments.text(name, "name", "virStoragePoolLookupByName")
        return self._pool(lambda storage: storage.by_name(text))

    @public("virStoragePoolLookupByUUID", origin=STORAGE)
    def storagePoolLookupByUUID(self, uuid: bytes) -> virStoragePool:
        """The pool with these 16 bytes as its uuid.

        :raise libvirtError: NO_STORAGE_POOL when there is none.
        """
        return self._pool_by_uuid(arguments.uuid_from_bytes(uuid))

    @public("virStoragePoolLookupByUUIDString", origin=STORAGE)
    def storagePoolLookupByUUIDString(self, uuidstr: str) -> virStoragePool:
        """The pool with this uuid.

        :raise libvirtError: NO_STORAGE_POOL when there is none, INVALID_ARG when this is no uuid.
        """
        return self._pool_by_uuid(arguments.uuid_from_string(uuidstr))

    def _pool_by_uuid(self, wanted: uuid.UUID) -> virStoragePool:
        return self._pool(lambda storage: storage.by_uuid(wanted))

    @public("virStoragePoolLookupByTargetPath", origin=STORAGE)
    def storagePoolLookupByTargetPath(self, path: str) -> virStoragePool:
        """The active pool that has its volumes in this directory.

        :raise libvirtError: NO_STORAGE_POOL when there is none.
        """
        text = arguments.text(path, "path", "virStoragePoolLookupByTargetPath")
        return self._pool(lambda storage: storage.by_target_path(text))

    @public("virConnectListAllStoragePools", origin=STORAGE)
    def listAllStoragePools(self, flags: int = 0) -> list[virStoragePool]:
        """All pools that match each group of the filters in FLAGS (`VIR_CONNECT_LIST_STORAGE_POOLS_*`)."""
        wanted = arguments.known(flags, EVERY_FILTER, "storageConnectListAllStoragePools", STORAGE)
        found = self._ask(lambda driver: [identify(pool) for pool in _matching(driver.storage, wanted)])
        return [virStoragePool(cast("virConnect", self), identity) for identity in found]

    @public("virConnectNumOfStoragePools", origin=STORAGE)
    def listStoragePools(self) -> list[str]:
        """The names of those that are active."""
        return self._pool_names(List.ACTIVE)

    @public("virConnectNumOfStoragePools", origin=STORAGE)
    def numOfStoragePools(self) -> int:
        """How many are active."""
        return len(self._pool_names(List.ACTIVE))

    @public("virConnectNumOfDefinedStoragePools", origin=STORAGE)
    def listDefinedStoragePools(self) -> list[str]:
        """The names of those that are not active."""
        return self._pool_names(List.INACTIVE)

    @public("virConnectNumOfDefinedStoragePools", origin=STORAGE)
    def numOfDefinedStoragePools(self) -> int:
        """How many are not active."""
        return len(self._pool_names(List.INACTIVE))

    @public("virConnectGetStoragePoolCapabilities", origin=STORAGE)
    def getStoragePoolCapabilities(self, flags: int = 0) -> str:
        """`<storagepoolCapabilities>`: which types of pools there are, and what their volumes can be made as."""
        arguments.known(flags, StoragePoolBuildFlags.NEW, "storageConnectGetStoragePoolCapabilities", STORAGE)
        return _capabilities()

    # Volumes

    def _found_volume(self, path: str, missing: str) -> virStorageVol:
        def search(storage: PrivateStorage) -> VolumeIdentity:
            for pool in storage:
                for volume in pool.volumes.values():
                    if volume.path == path:
                        return VolumeIdentity(pool.name, volume.name, volume.key or "")
            raise NoStorageVolume(missing)

        return virStorageVol(cast("virConnect", self), self._ask(lambda driver: search(driver.storage)))

    @public("virStorageVolLookupByKey", origin=STORAGE)
    def storageVolLookupByKey(self, key: str) -> virStorageVol:
        """The volume with this key.

        :raise libvirtError: NO_STORAGE_VOL when no active pool has it.
        """
        text = arguments.text(key, "key", "virStorageVolLookupByKey")
        # libvirt: storageVolLookupByKey
        return self._found_volume(text, f"no storage vol with matching key {text}")

    @public("virStorageVolLookupByPath", origin=STORAGE)
    def storageVolLookupByPath(self, path: str) -> virStorageVol:
        """The volume whose file is at PATH.

        :raise libvirtError: NO_STORAGE_VOL when no active pool has it.
        """
        text = arguments.text(path, "path", "virStorageVolLookupByPath")
        clean = pools.clean(text)
        also = "" if clean == text else f" ({clean})"
        # libvirt: storageVolLookupByPath
        return self._found_volume(clean, f"no storage vol with matching path '{text}'{also}")

    # Events

    @public("virConnectStoragePoolEventRegisterAny", origin=STORAGE)
    def storagePoolEventRegisterAny(
        self, pool: virStoragePool | None, eventID: int, cb: Callable[..., Any], opaque: object
    ) -> int:
        """Have CB called for each event EVENTID (`VIR_STORAGE_POOL_EVENT_ID_*`) of POOL, or of all.

        CB takes (conn, pool, event, detail, opaque) for a lifecycle event, (conn, pool, opaque) for a refresh.
        Returns a number for `storagePoolEventDeregisterAny`.

        :raise libvirtError: NO_STORAGE_POOL when POOL is gone.
        """
        kind = event_kind(eventID, StoragePoolEventID, "virConnectStoragePoolEventRegisterAny")

        def wrap(found: LivePool) -> virStoragePool:
            return virStoragePool(cast("virConnect", self), identify(found))

        return self._register_object_event(kind, None if pool is None else pool._find, wrap, cb, opaque)

    @public("virConnectStoragePoolEventDeregisterAny", origin=STORAGE)
    def storagePoolEventDeregisterAny(self, callbackID: int) -> None:
        """Have a callback called no more, from inside it too.

        :raise libvirtError: INVALID_ARG when this connection has none with this number.
        """
        self._require_deregister(callbackID, "virConnectStoragePoolEventDeregisterAny", StoragePoolEventID)


def _matching(storage: Iterable[LivePool], wanted: List) -> list[LivePool]:
    return [pool for pool in storage if _matches(pool, wanted)]


def _matches(pool: LivePool, wanted: List) -> bool:
    # libvirt: virStoragePoolObjMatch
    groups = (
        {List.ACTIVE: pool.active, List.INACTIVE: not pool.active},
        {List.PERSISTENT: pool.persistent, List.TRANSIENT: not pool.persistent},
        {List.AUTOSTART: pool.autostart, List.NO_AUTOSTART: not pool.autostart},
        {flag: pool.pool.type == name for flag, name in _TYPES.items()},
    )
    return meets(wanted, groups)


def _capabilities() -> str:
    # libvirt: virStoragePoolCapsFormat
    root = etree.Element("storagepoolCapabilities")
    for kind, formats in (("dir", ()), ("fs", pools.FILE_SYSTEMS)):
        pool = etree.SubElement(root, "pool", type=kind, supported="yes")
        if formats:
            options = etree.SubElement(pool, "poolOptions")
            _enumerate(options, formats[0], "sourceFormatType", formats)
        _enumerate(etree.SubElement(pool, "volOptions"), "raw", "targetFormatType", volumes.CREATABLE)
    return document.format(root)


def _enumerate(parent: document.Element, default: str, name: str, words: Iterable[str]) -> None:
    etree.SubElement(parent, "defaultFormat", type=default)
    enum = etree.SubElement(parent, "enum", name=name)
    for word in words:
        etree.SubElement(enum, "value").text = word
