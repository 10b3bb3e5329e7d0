"""Volumes' files: made under a temporary name, and there under their own only when they are whole."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.errors import ConfigUnsupported, NoSupport, OperationInvalid, SystemFailure
from pytest_embedvm.files import HALF, PRIVATE_FILE
from pytest_embedvm.loop import to_its_end
from pytest_embedvm.qemu import image_tool
from pytest_embedvm.storage.permissions import Permissions
from pytest_embedvm.storage.scalars import NOBODY
from pytest_embedvm.storage.volume import CREATABLE, Volume
from pytest_embedvm.units import KIB

STORAGE: Final = ErrorDomain.STORAGE

# Linux: FICLONE of linux/fs.h
_FICLONE: Final = 0x40049409
#: What has no header of its own.
RAW: Final = ("raw", "iso")
#: What is written at a time.
_PIECE: Final = bytes(4 * 1024 * KIB)


async def make(volume: Volume, *, preallocate: bool, secret: bytes | None) -> None:
    """Make the file, or the directory, of VOLUME.

    :param preallocate: with the metadata of all its clusters.
    :param secret: what it is encrypted with.
    :raise ConfigUnsupported, NoSupport: when its format has no such thing.
    :raise SystemFailure, InternalError, OperationTimeout: when it cannot be made; nothing is left of it.
    """
    _check(volume, preallocate=preallocate)
    async with _half(volume) as half:
        if volume.target.format == "dir":
            half.mkdir()
        elif _is_plain(volume):
            allocation = volume.size if volume.allocation is None else volume.allocation
            await asyncio.to_thread(_allocate, half, max(volume.size, allocation), allocation)
        else:
            options = _options(volume, preallocate=preallocate)
            size = [] if volume.capacity is None else [_kib(volume.size)]
            backing = ["-b", volume.backing.path or "", "-F", volume.backing.format] if volume.backing else []
            command = ["create", "-q", "-f", _qemus(volume), *options, *backing, str(half), *size]
            await image_tool.run(command, secret=secret)


async def copy(
    volume: Volume, source: Volume, *, preallocate: bool, reflink: bool, secret: bytes | None = None
) -> None:
    """Make VOLUME with the content of SOURCE; what it stands on is then in it.

    :param reflink: share its blocks, which only some file systems can.
    :raise ConfigUnsupported: when SOURCE is encrypted, or no image.
    :raise SystemFailure, InternalError, OperationTimeout: when it cannot be made; nothing is left of it.
    """
    _check(volume, preallocate=preallocate)
    if source.target.encryption or source.type == "dir" or volume.target.format == "dir":
        raise ConfigUnsupported(f"volume '{source.name}' cannot be copied: it is no image that is open", origin=STORAGE)
    async with _half(volume) as half:
        if reflink:
            await asyncio.to_thread(_clone, source.path, half)
        else:
            options = _options(volume, preallocate=preallocate)
            formats = ["-f", _qemus(source), "-O", _qemus(volume)]
            command = ["convert", "-q", *formats, *options, str(source.path), str(half)]
            await image_tool.run(command, secret=secret)
        if volume.size > source.size and not volume.target.encryption:
            await image_tool.run(["resize", "-q", "-f", _qemus(volume), str(half), _kib(volume.size)])


async def resize(volume: Volume, capacity: int, *, allocate: bool, secret: bytes | None) -> None:
    """Make the disk in VOLUME CAPACITY bytes large.

    :param allocate: with all blocks there.
    :raise SystemFailure, InternalError, OperationTimeout: when that cannot be.
    """
    # libvirt: virStorageBackendVolResizeLocal
    if _is_plain(volume):
        await asyncio.to_thread(_stretch, volume.path, capacity, allocate)
        return
    options = []
    name = [f"-f{_qemus(volume)}", volume.path]
    if volume.target.encryption:
        quoted = volume.path.replace(",", ",,")
        key = "key-secret" if _qemus(volume) == "luks" else "encrypt.key-secret"
        driver = _qemus(volume)
        options, name = ["--image-opts"], [f"driver={driver},{key}={image_tool.OBJECT_ID},file.filename={quoted}"]
    await image_tool.run(["resize", "-q", "--shrink", *options, *name, str(capacity)], secret=secret)


async def wipe(volume: Volume) -> None:
    """Overwrite all of VOLUME's file with zeros; what it was a header of is gone too.

    :raise SystemFailure: when it cannot be written.
    """
    # libvirt: storageBackendVolWipeLocalFile
    try:
        descriptor = os.open(volume.path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, "r+b", buffering=0) as file:
            status = os.fstat(descriptor)
            if status.st_blocks * 512 < status.st_size:  # sparse stays sparse
                file.truncate(0)
                file.truncate(status.st_size)
                return
            left = status.st_size
            while left > 0:
                left -= await to_its_end(asyncio.to_thread(file.write, _PIECE[:left]))
            await to_its_end(asyncio.to_thread(os.fsync, descriptor))
    except OSError as error:
        raise SystemFailure(
            f"Failed to open storage volume with path '{volume.path}': {error.strerror}", origin=STORAGE
        ) from error


@contextlib.asynccontextmanager
async def _half(volume: Volume) -> AsyncIterator[Path]:
    """A name for VOLUME while the block makes it; then it gets its own."""
    path = Path(volume.path)
    half = path.with_name(f"{HALF}{secrets.token_hex(8)}")
    try:
        yield half
        _own(half, volume.target.permissions or Permissions())
        require_free(volume.path)
        half.rename(path)
    except OSError as error:
        # libvirt: storageBackendCreateRaw
        raise SystemFailure(f"Failed to create file '{path}': {error.strerror}", origin=STORAGE) from error
    finally:
        with contextlib.suppress(OSError):
            (half.rmdir if half.is_dir() else half.unlink)()


def require_free(path: str) -> None:
    """:raise OperationInvalid: when something is at PATH."""
    if os.path.lexists(path):
        # libvirt: virStorageBackendVolCreateLocal
        raise OperationInvalid(f"volume target path '{path}' already exists", origin=STORAGE)


def _own(path: Path, wanted: Permissions) -> None:
    """Give PATH the permissions that are WANTED."""
    path.chmod(PRIVATE_FILE if wanted.mode is None else wanted.mode)
    owner, group = (NOBODY if number is None else number for number in (wanted.owner, wanted.group))
    if (owner, group) != (NOBODY, NOBODY):
        os.chown(path, owner, group)


def _allocate(path: Path, size: int, allocation: int) -> None:
    with path.open("xb") as file:
        file.truncate(size)
        if allocation:
            os.posix_fallocate(file.fileno(), 0, allocation)


def _stretch(path: str, capacity: int, allocate: bool) -> None:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.ftruncate(descriptor, capacity)
            if allocate and capacity:
                os.posix_fallocate(descriptor, 0, capacity)
        finally:
            os.close(descriptor)
    except OSError as error:
        # libvirt: virFileTruncate
        raise SystemFailure(f"Failed to truncate file '{path}': {error.strerror}", origin=ErrorDomain.NONE) from error


def _clone(source: str, half: Path) -> None:
    descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        with half.open("xb") as file:
            fcntl.ioctl(file, _FICLONE, descriptor)
    except OSError as error:
        # libvirt: storageBackendCreateRaw's virFileReflink
        raise SystemFailure(f"failed to clone files from '{source}': {error.strerror}", origin=STORAGE) from error
    finally:
        os.close(descriptor)


def _is_plain(volume: Volume) -> bool:
    return volume.target.format in RAW and volume.target.encryption is None


def _kib(size: int) -> str:
    # libvirt: virStorageBackendCreateQemuImgCmdFromVol
    return f"{-(-size // KIB)}K"


def _qemus(volume: Volume) -> str:
    """What QEMU calls the format of VOLUME."""
    if volume.target.format in RAW:
        return "luks" if volume.target.encryption else "raw"
    return volume.target.format


def _check(volume: Volume, *, preallocate: bool) -> None:
    """:raise ConfigUnsupported, NoSupport, SystemFailure: when the format of VOLUME has no such thing."""
    # libvirt: storageBackendCreateRaw, storageBackendCreateQemuImgSetOptions, …SetBacking
    target = volume.target
    refuse: Callable[[str], ConfigUnsupported] = lambda what: ConfigUnsupported(what, origin=STORAGE)  # noqa: E731
    if target.format not in CREATABLE:
        raise refuse(f"a volume of format '{target.format}' cannot be created")
    if preallocate and target.format != "qcow2":
        raw = "metadata preallocation is not supported for raw volumes"
        raise refuse(raw if target.format in RAW else "metadata preallocation only available with qcow2")
    if target.format != "qcow2" and (target.compat or target.cluster_size or (target.features and target.features.any)):
        raise refuse("format features only available with qcow2")
    if target.encryption and target.format not in (*RAW, "qcow2"):
        raise refuse(f"volume encryption unsupported with format {target.format}")
    if volume.backing is None:
        return
    if target.format in RAW:
        raise NoSupport("backing storage not supported for raw volumes", origin=STORAGE)
    backing = Path(volume.path).parent / (volume.backing.path or "")
    if not os.access(backing, os.R_OK):
        reason = os.strerror(13 if backing.exists() else 2)
        raise SystemFailure(f"inaccessible backing store volume {volume.backing.path}: {reason}", origin=STORAGE)


def _options(volume: Volume, *, preallocate: bool) -> list[str]:
    """What qemu-img is told of VOLUME's format."""
    target, words = volume.target, []
    if preallocate:
        words.append("preallocation=metadata")
    if target.format == "qcow2":
        # libvirt: storageBackendCreateQemuImgOpts: the older version unless something asks for the newer one
        words.append(f"compat={target.compat or '0.10'}")
    if target.cluster_size:
        words.append(f"cluster_size={target.cluster_size}")
    if target.features:
        words += ["lazy_refcounts=on"] * target.features.lazy_refcounts
        words += ["extended_l2=on"] * target.features.extended_l2
    if target.encryption:
        prefix = "encrypt." if target.format == "qcow2" else ""
        words += [f"{prefix}key-secret={image_tool.OBJECT_ID}"]
        words += ["encrypt.format=luks"] if prefix else []
    return ["-o", ",".join(words)] if words else []
