"""What is in a pool's directory: each file or directory is a volume; a symbolic link is not followed, and is none."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pytest_embedvm.errors import NoStorageVolume
from pytest_embedvm.files import HALF
from pytest_embedvm.qemu import image
from pytest_embedvm.qemu.image import Backing
from pytest_embedvm.qemu.image_header import Header, Image, read_header
from pytest_embedvm.storage.encryption import Encryption
from pytest_embedvm.storage.permissions import Permissions
from pytest_embedvm.storage.volume import BackingStore, Features, Target, Timestamps, Volume

_NANO: Final = 1_000_000_000
#: A block as st_blocks counts them.
_BLOCK: Final = 512
#: A name that QEMU would not take for a path (QEMU: path_has_protocol).
_PROTOCOL: Final = re.compile(r"[^/]*:")


async def scan(directory: Path) -> dict[str, Volume]:
    """The volumes in DIRECTORY by their names; the loop turns between two of them.

    :raise OSError: when it cannot be read.
    """
    # libvirt: virStorageBackendRefreshLocal
    volumes = {}
    for name in sorted(os.listdir(directory)):  # noqa: PTH208 - names, not paths
        if is_name(name):
            with contextlib.suppress(OSError, NoStorageVolume):  # it has gone, or may not be read
                volumes[name] = look(directory, name)
        await asyncio.sleep(0)
    return volumes


def is_name(name: str) -> bool:
    """Whether a file called NAME is a volume: XML can hold it, and it is not half made."""
    return name.isprintable() and not name.startswith(HALF) and name not in (".", "..")


def sweep(directory: Path) -> None:
    """Remove what a killed process was making in DIRECTORY.

    :raise OSError: when it cannot be read.
    """
    for half in directory.glob(f"{HALF}*"):
        with contextlib.suppress(OSError):
            half.unlink()


def look(directory: Path, name: str, known: Volume | None = None) -> Volume:
    """The volume NAME of DIRECTORY as it is now.

    :param known: what it was known as: its format is not guessed again, because its guest can write any header.
    :raise NoStorageVolume: when it is neither a file nor a directory.
    :raise OSError: when it cannot be read.
    """
    path = directory / name
    with _opened(path) as descriptor:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            header, size = Header("dir"), 0
        elif stat.S_ISREG(status.st_mode):
            header, size = _header(descriptor, status, path, known), status.st_size
        else:
            raise NoStorageVolume(f"'{path}' is neither a file nor a directory")
    return Volume(
        type="dir" if header.format == "dir" else "file",
        name=name,
        key=str(path),
        capacity=size if header.capacity is None else header.capacity,
        allocation=0 if header.format == "dir" else status.st_blocks * _BLOCK,
        physical=size or None,  # libvirt: virStorageVolDefFormat leaves a zero out
        target=_target(path, status, header, known),
        backing=_backing(directory, header.backing),
    )


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _header(descriptor: int, status: os.stat_result, path: Path, known: Volume | None) -> Header:
    found = read_header(Image(os.pread(descriptor, image.HEAD_BYTES, 0), status.st_size, path))
    if known is None or known.target.format == found.format:
        return found
    return Header(known.target.format)


def _target(path: Path, status: os.stat_result, header: Header, known: Volume | None) -> Target:
    features = Features(lazy_refcounts=header.lazy_refcounts, extended_l2=header.extended_l2)
    encryption = Encryption(format=header.encryption) if header.encryption else None
    if known and known.target.encryption and encryption:
        encryption = known.target.encryption
    return Target(
        path=str(path),
        format=header.format,
        permissions=_permissions(status),
        timestamps=_timestamps(status),
        encryption=encryption,
        compat=header.compat if header.compat != "0.10" else None,
        cluster_size=header.cluster_size,
        features=features if header.compat == "1.1" else None,
    )


def _backing(directory: Path, backing: Backing | None) -> BackingStore | None:
    if backing is None:
        return None
    path = backing.name if _PROTOCOL.match(backing.name) else str(directory / backing.name)
    store = BackingStore(path=path, format=backing.format or "raw")
    with contextlib.suppress(OSError, ValueError):  # it is not there, or nothing that a path could be
        status = Path(path).stat()
        store.permissions, store.timestamps = _permissions(status), _timestamps(status)
    return store


def _permissions(status: os.stat_result) -> Permissions:
    return Permissions(mode=stat.S_IMODE(status.st_mode), owner=status.st_uid, group=status.st_gid)


def _timestamps(status: os.stat_result) -> Timestamps:
    return Timestamps(
        atime=_seconds(status.st_atime_ns), mtime=_seconds(status.st_mtime_ns), ctime=_seconds(status.st_ctime_ns)
    )


def _seconds(nanoseconds: int) -> str:
    # libvirt: virStorageVolTimestampFormat
    seconds, rest = divmod(nanoseconds, _NANO)
    return f"{seconds}.{rest:09}" if rest else str(seconds)
