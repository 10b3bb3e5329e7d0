"""A storage pool of a root, active or not, and the volumes that are known of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pytest_embedvm.constants import ErrorDomain, StoragePoolState
from pytest_embedvm.driver.storage import looking, mounting
from pytest_embedvm.errors import (
    InternalError,
    NoStoragePool,
    NoStorageVolume,
    OperationInvalid,
    SystemFailure,
)
from pytest_embedvm.storage import pool as pools
from pytest_embedvm.storage.permissions import Permissions
from pytest_embedvm.storage.pool import Pool
from pytest_embedvm.storage.scalars import NOBODY
from pytest_embedvm.storage.volume import Volume

STORAGE: Final = ErrorDomain.STORAGE

#: libvirt: VIR_STORAGE_DEFAULT_POOL_PERM_MODE
POOL_MODE: Final = 0o711


class LivePool:
    """`pool` is what it is, `next` what it will be when it is started anew, if that is something else."""

    def __init__(self, pool: Pool, *, persistent: bool) -> None:
        self.pool = pool
        self.next: Pool | None = None
        self.persistent = persistent
        self.autostart = False
        self.active = False
        self.volumes: dict[str, Volume] = {}
        #: Those that are being made.
        self.building: set[str] = set()
        #: How many of its volumes something is being done to that takes long.
        self.jobs = 0
        #: Held by whoever looks at its directory, or changes what is in it.
        self.changing = asyncio.Lock()

    @property
    def name(self) -> str:
        return self.pool.name

    @property
    def uuid(self) -> uuid.UUID:
        if self.pool.uuid is None:  # every pool is given one
            raise NoStoragePool(f"pool '{self.name}' has no uuid")
        return self.pool.uuid

    @property
    def directory(self) -> Path:
        return Path(self.pool.path)

    @property
    def info(self) -> tuple[StoragePoolState, int, int, int]:
        """State, and capacity, allocation and what is available in bytes."""
        pool = self.pool
        state = StoragePoolState.RUNNING if self.active else StoragePoolState.INACTIVE
        return state, pool.capacity or 0, pool.allocation or 0, pool.available or 0

    def xml(self, *, inactive: bool) -> str:
        return pools.format(self.next if inactive and self.next else self.pool)

    # What must be so

    def require_active(self) -> None:
        """:raise OperationInvalid: when it is not."""
        if not self.active:
            raise OperationInvalid(f"storage pool '{self.name}' is not active", origin=STORAGE)

    def require_inactive(self, how: str) -> None:
        """:raise OperationInvalid: when it is active; HOW is the word for that."""
        if self.active:
            raise OperationInvalid(f"storage pool '{self.name}' is {how} active", origin=STORAGE)

    def require_idle(self) -> None:
        """:raise InternalError: when something is being done to its volumes."""
        if self.jobs:
            # libvirt: storagePoolDestroy
            raise InternalError(f"pool '{self.name}' has asynchronous jobs running.", origin=STORAGE)

    def volume(self, name: str) -> Volume:
        """The volume NAME, as it was when it was looked at last.

        :raise OperationInvalid: when the pool is not active.
        :raise NoStorageVolume: when it has none of this name.
        """
        self.require_active()
        try:
            return self.volumes[name]
        except KeyError:
            # libvirt: storageVolLookupByName
            raise NoStorageVolume(f"no storage vol with matching name '{name}'") from None

    @contextlib.contextmanager
    def job(self) -> Iterator[None]:
        """Something is done to a volume while the block runs."""
        self.jobs += 1
        try:
            yield
        finally:
            self.jobs -= 1

    # Its directory

    def build(self) -> None:
        """Make its directory.

        :raise SystemFailure: when that cannot be.
        """
        # libvirt: virStorageBackendBuildLocal, which leaves what is there as it is, but for permissions that are given
        wanted = self.pool.target.permissions or Permissions()
        there = self.directory.is_dir()
        try:
            self.directory.mkdir(mode=POOL_MODE, parents=True, exist_ok=True)
            if wanted.mode is not None or not there:
                self.directory.chmod(POOL_MODE if wanted.mode is None else wanted.mode)
            owner, group = (NOBODY if number is None else number for number in (wanted.owner, wanted.group))
            if (owner, group) != (NOBODY, NOBODY):
                os.chown(self.directory, owner, group)
        except OSError as error:
            # libvirt: virDirCreate
            raise SystemFailure(
                f"failed to create directory '{self.directory}': {error.strerror}", origin=STORAGE
            ) from error

    async def start(self) -> None:
        """Have its volumes.

        :raise SystemFailure: when its directory is not there, or cannot be read.
        :raise InternalError: when its file system cannot be mounted.
        """
        async with self.changing:
            self.require_inactive("already")
            if self.pool.type == "fs":
                await mounting.mount(self.pool)
            try:
                with self._reading():
                    looking.sweep(self.directory)
                await self._look()
            except BaseException:
                if self.pool.type == "fs":
                    await mounting.unmount(self.pool)
                raise
            self.active = True

    async def stop(self) -> None:
        """Have no volumes any more; their files stay.

        :raise OperationInvalid: when it is not active.
        :raise InternalError: when something is being done to a volume, or its file system cannot be unmounted.
        """
        async with self.changing:
            self.require_active()
            self.require_idle()
            if self.pool.type == "fs":
                await mounting.unmount(self.pool)
            self.active = False
            self.volumes = {}
            if self.next:
                self.pool, self.next = self.next, None

    async def refresh(self) -> None:
        """Look at its directory anew.

        :raise OperationInvalid, InternalError, SystemFailure: as `start` and `stop`.
        """
        async with self.changing:
            self.require_active()
            self.require_idle()
            await self._look()

    async def _look(self) -> None:
        with self._reading():
            self.volumes = await looking.scan(self.directory)
            self.measure()

    def look_at(self, name: str, known: Volume | None = None) -> Volume:
        """Look at its volume NAME anew, which it has, or will have.

        :raise NoStorageVolume: when it has gone.
        """
        try:
            found = looking.look(self.directory, name, known)
        except OSError as error:
            path = self.directory / name
            # libvirt: virStorageBackendVolOpen
            raise NoStorageVolume(f"no storage vol with matching path '{path}': {error.strerror}") from error
        self.volumes[name] = found
        return found

    def measure(self) -> None:
        """Note how full its file system is.

        :raise OSError: when its directory has gone.
        """
        # libvirt: virStorageBackendRefreshLocal
        file_system, status = os.statvfs(self.directory), self.directory.stat()
        pool = self.pool
        pool.capacity = file_system.f_frsize * file_system.f_blocks
        pool.available = file_system.f_frsize * file_system.f_bavail
        pool.allocation = pool.capacity - pool.available
        label = pool.target.permissions.label if pool.target.permissions else None
        pool.target.permissions = Permissions(
            mode=status.st_mode & 0o7777, owner=status.st_uid, group=status.st_gid, label=label
        )

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            # libvirt: virDirOpen
            raise SystemFailure(
                f"cannot open directory '{self.directory}': {error.strerror}", origin=ErrorDomain.NONE
            ) from error

    def delete(self) -> None:
        """Remove its directory.

        :raise SystemFailure: when it is not empty.
        """
        try:
            self.directory.rmdir()
        except OSError as error:
            # libvirt: virStorageBackendDeleteLocal
            raise SystemFailure(
                f"failed to remove pool '{self.directory}': {error.strerror}", origin=STORAGE
            ) from error
