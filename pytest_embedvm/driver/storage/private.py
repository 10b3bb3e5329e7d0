"""The private storage driver of a root: its pools, each a directory below the root."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pytest_embedvm.constants import ErrorDomain, StoragePoolBuildFlags
from pytest_embedvm.constants import StoragePoolEventLifecycleType as Happened
from pytest_embedvm.domain.host import Volume as Found
from pytest_embedvm.driver.hub import EventHub
from pytest_embedvm.driver.roots.layout import PLACES
from pytest_embedvm.driver.roots.root import Root, file_name
from pytest_embedvm.driver.secret.private import PrivateSecrets
from pytest_embedvm.driver.storage.events import PoolLifecycle, PoolRefresh
from pytest_embedvm.driver.storage.pool import LivePool
from pytest_embedvm.driver.storage.volumes import Volumes
from pytest_embedvm.errors import (
    ConfigUnsupported,
    EmbedError,
    InternalError,
    NoStoragePool,
    OperationFailed,
    OperationInvalid,
    SystemFailure,
)
from pytest_embedvm.files import set_aside, write_atomically
from pytest_embedvm.storage import pool as pools
from pytest_embedvm.storage.pool import Pool, Target

STORAGE: Final = ErrorDomain.STORAGE

#: Where definitions are below the root, and which of them start when it is opened.
FOLDER: Final = PLACES["pools"]
AUTOSTART: Final = "autostart"
#: The pool that there is in a root that never heard of others. libvirt: its customary path, below the root
DEFAULT: Final = "default"
IMAGES: Final = PLACES["images"]
#: Directories below the root that are its drivers' own.
_DRIVERS: Final = (
    ("etc",), ("run",), ("log",), ("cache",), *(parts for place, parts in PLACES.items() if place != "images"),
)  # fmt: skip


class PrivateStorage:
    """Every pool of one root; a `Subdriver`. All methods run on the loop thread."""

    name = "storage"

    def __init__(self, events: EventHub, secrets: PrivateSecrets) -> None:
        self._events = events
        self._pools: dict[uuid.UUID, LivePool] = {}
        self._at: Root | None = None
        self.volumes = Volumes(secrets, self._refreshed)

    async def initialize(self, *, privileged: bool, root: Root) -> None:
        """Take up the pools that are defined in ROOT; `default` is there and active unless it was undefined."""
        self._at = root
        folder = root.path.joinpath(*FOLDER)
        if not folder.is_dir():
            path = root.directory(*IMAGES)
            default = Pool(type="dir", name=DEFAULT, target=Target(path=str(path)))
            default.capacity = default.allocation = default.available = 0
            self._add(default, persistent=True).autostart = True
        for file in sorted(folder.glob("*.xml")) if folder.is_dir() else ():
            self._load(file)
        for pool in self:
            if pool.autostart:
                await self._autostart(pool)

    def _load(self, file: Path) -> None:
        try:
            pool = self._add(pools.parse(file.read_text("utf-8")), persistent=True)
        except (EmbedError, OSError, UnicodeError) as error:
            self._root.log.error("pool definition %s: %s; it is kept as %s", file, error, set_aside(file))  # noqa: TRY400
        else:
            pool.autostart = (file.parent / AUTOSTART / file.name).exists()

    async def _autostart(self, pool: LivePool) -> None:
        try:
            self._require_place(pool.pool)
            await pool.start()
        except EmbedError as error:  # libvirt: storageDriverAutostartCallback: the others start all the same
            self._root.log.error("Failed to autostart storage pool '%s': %s", pool.name, error)  # noqa: TRY400

    async def cleanup(self) -> None:
        """Have no pool any more; files stay, mounted file systems do not."""
        for pool in self:
            if pool.active:
                try:
                    await pool.stop()
                except EmbedError as error:
                    self._root.log.error("storage pool '%s' does not stop: %s", pool.name, error)  # noqa: TRY400
        self._pools.clear()

    # Which there are

    def __iter__(self) -> Iterator[LivePool]:
        return iter(tuple(self._pools.values()))

    def by_name(self, name: str) -> LivePool:
        """:raise NoStoragePool: when none has this name."""
        for pool in self:
            if pool.name == name:
                return pool
        # libvirt: storagePoolLookupByName
        raise NoStoragePool(f"no storage pool with matching name '{name}'")

    def by_uuid(self, wanted: uuid.UUID) -> LivePool:
        """:raise NoStoragePool: when none has this uuid."""
        try:
            return self._pools[wanted]
        except KeyError:
            # libvirt: storagePoolLookupByUUID
            raise NoStoragePool(f"no storage pool with matching uuid '{wanted}'") from None

    def by_target_path(self, path: str) -> LivePool:
        """:raise NoStoragePool: when none that is active has its volumes there."""
        for pool in self:
            if pool.active and pool.pool.path == pools.clean(path):
                return pool
        # libvirt: storagePoolLookupByTargetPath
        raise NoStoragePool(f"no storage pool with matching target path '{path}'")

    def volume(self, pool: str, volume: str) -> Found:
        """What a `<disk type='volume'>` stands on.

        :raise NoStoragePool, NoStorageVolume: when there is no such pool or volume.
        :raise ConfigUnsupported: when the pool is not active.
        """
        # libvirt: virDomainDiskTranslateSourcePool
        found = self.by_name(pool)
        if not found.active:
            raise ConfigUnsupported(
                f"storage pool '{pool}' containing volume '{volume}' is not active", origin=ErrorDomain.DOMAIN
            )
        there = found.volume(volume)
        return Found(path=there.path, type="dir" if there.type == "dir" else "file")

    # Pools come and go

    def define(self, xml: str, *, validate: bool = False) -> LivePool:
        """Keep the pool that XML describes; what is active goes on as it is until it is started anew.

        :raise XMLError: and others, as `pools.parse`.
        :raise ConfigUnsupported: when its path is not below the root.
        :raise OperationFailed: when its name, its uuid or its path is another one's.
        """
        pool = self._add(pools.parse(xml, validate=validate), persistent=True)
        self._save(pool)
        self._tell(pool, Happened.DEFINED)
        return pool

    async def create(self, xml: str, *, build: bool, overwrite: bool = False, validate: bool = False) -> LivePool:
        """Start the pool that XML describes; unless it is defined, it is gone when it is stopped.

        :param build: make its directory first.
        :param overwrite: format what it stands on, which a directory never is.
        :raise OperationInvalid: when it is active.
        :raise EmbedError: as `define`, `LivePool.build` and `LivePool.start`.
        """
        described = pools.parse(xml, validate=validate)
        known = self._claim(described)
        if known is not None and known.active:
            # libvirt: virStoragePoolObjIsDuplicate
            raise OperationInvalid(f"pool is already active as '{known.name}'", origin=STORAGE)
        pool = self._add(described, persistent=False)
        try:
            if build:
                self.build(pool, StoragePoolBuildFlags.OVERWRITE if overwrite else StoragePoolBuildFlags.NEW)
            await self.start(pool)
        except BaseException:
            if not pool.persistent:
                self._pools.pop(pool.uuid, None)
            raise
        return pool

    def _add(self, described: Pool, *, persistent: bool) -> LivePool:
        self._require_place(described)
        known = self._claim(described)
        if known is None:
            described.uuid = described.uuid or uuid.uuid4()
            known = LivePool(described, persistent=persistent)
            self._pools[known.uuid] = known
        elif known.active:
            known.next = described if described.path != known.pool.path else None
        else:
            known.pool = described
        known.persistent = known.persistent or persistent
        return known

    def _claim(self, described: Pool) -> LivePool | None:
        """The pool that DESCRIBED already is.

        :raise OperationFailed: when its name, its uuid or what it stands on is another one's.
        """
        # libvirt: virStoragePoolObjSourceFindDuplicate, virStoragePoolObjIsDuplicate
        for pool in self:
            clash = pool.pool.path == described.path or (described.device and pool.pool.device == described.device)
            if pool.name != described.name and clash:
                raise OperationFailed(f"Storage source conflict with pool: '{pool.name}'", origin=STORAGE)
        same: LivePool | None = None
        for pool in self:
            if pool.uuid == described.uuid and pool.name != described.name:
                raise OperationFailed(f"pool '{pool.name}' is already defined with uuid {pool.uuid}", origin=STORAGE)
            if pool.name == described.name:
                if pool.uuid != described.uuid:
                    raise OperationFailed(f"pool '{pool.name}' already exists with uuid {pool.uuid}", origin=STORAGE)
                same = pool
        return same

    def _require_place(self, pool: Pool) -> None:
        """:raise ConfigUnsupported: when POOL is not below the root, or where the root's drivers have their files."""
        root, path = self._root.path, Path(os.path.realpath(pool.path))
        below = path.relative_to(root).parts if path.is_relative_to(root) else ()
        if not pool.path.startswith("/") or not below or ".." in Path(pool.path).parts:
            raise ConfigUnsupported(
                f"storage pool '{pool.name}' has its volumes in '{pool.path}', which is not below this connection's "
                f"root '{root}': give it a path there, such as '{root.joinpath(*IMAGES[:2], file_name(pool.name))}', "
                "or open the connection with storage=host",
                origin=STORAGE,
            )
        for own in _DRIVERS:
            if below[: len(own)] == own or own[: len(below)] == below:
                raise ConfigUnsupported(
                    f"storage pool '{pool.name}' cannot have its volumes in '{pool.path}': the root's drivers have "
                    f"their own files in '{root.joinpath(*own)}'",
                    origin=STORAGE,
                )

    def build(self, pool: LivePool, flags: StoragePoolBuildFlags) -> None:
        """Make the directory of POOL.

        :raise OperationInvalid: when it is active, or FLAGS ask for a file system to be made: that is never done.
        """
        pool.require_inactive("already")
        if flags:
            # libvirt: virStorageBackendFileSystemBuild
            raise OperationInvalid(f"No source device specified when formatting pool '{pool.name}'", origin=STORAGE)
        self._require_place(pool.pool)
        pool.build()
        self._require_place(pool.pool)
        self._tell(pool, Happened.CREATED)

    async def start(self, pool: LivePool) -> None:
        """Have its volumes.

        :raise OperationInvalid: when it is active.
        """
        pool.require_inactive("already")
        self._require_place(pool.pool)
        await pool.start()
        self._tell(pool, Happened.STARTED)

    async def destroy(self, pool: LivePool) -> None:
        """Stop POOL; its files stay, and one that is not defined is gone."""
        await pool.stop()
        self._tell(pool, Happened.STOPPED)
        if not pool.persistent:
            self._pools.pop(pool.uuid, None)

    def delete(self, pool: LivePool) -> None:
        """Remove its directory, which is empty."""
        pool.require_inactive("still")
        pool.require_idle()
        pool.delete()
        self._tell(pool, Happened.DELETED)

    def undefine(self, pool: LivePool) -> None:
        """Forget POOL; its files stay."""
        pool.require_inactive("still")
        pool.require_idle()
        self._folder()  # from here on `default` is there only where it is written down
        for path in self._paths(pool):
            path.unlink(missing_ok=True)
        self._pools.pop(pool.uuid, None)
        self._tell(pool, Happened.UNDEFINED)

    async def refresh(self, pool: LivePool) -> None:
        """Look at its directory anew."""
        await pool.refresh()
        self._refreshed(pool)

    def set_autostart(self, pool: LivePool, *, on: bool) -> None:
        """Have POOL active, or not, when the root is opened next.

        :raise InternalError: when it is not defined.
        """
        if not pool.persistent:
            # libvirt: storagePoolSetAutostart
            raise InternalError("pool has no config file", origin=STORAGE)
        pool.autostart = on
        self._save(pool)

    def _tell(self, pool: LivePool, what: Happened) -> None:
        self._events.emit(pool, PoolLifecycle(what))

    def _refreshed(self, pool: LivePool) -> None:
        self._events.emit(pool, PoolRefresh())

    # Where they are written down

    def _save(self, pool: LivePool) -> None:
        written = self._root.path.joinpath(*FOLDER).is_dir()
        for entry in (pool,) if written else self:
            if entry.persistent:
                self._write(entry)

    def _write(self, pool: LivePool) -> None:
        path, link = self._paths(pool)
        try:
            write_atomically(path, pools.format(pool.next or pool.pool).encode())
            if pool.autostart and not link.is_symlink():
                link.symlink_to(Path("..", path.name))
            elif not pool.autostart:
                link.unlink(missing_ok=True)
        except OSError as error:
            raise SystemFailure(f"Failed to create file '{path}': {error.strerror}", origin=STORAGE) from error

    def _paths(self, pool: LivePool) -> tuple[Path, Path]:
        """Where the definition of POOL is, and the link that says that it starts by itself."""
        name = f"{file_name(pool.name)}.xml"
        return self._folder() / name, self._root.directory(*FOLDER, AUTOSTART) / name

    def _folder(self) -> Path:
        return self._root.directory(*FOLDER)

    @property
    def _root(self) -> Root:
        if self._at is None:
            raise InternalError("the storage driver has no root yet", origin=STORAGE)
        return self._at
