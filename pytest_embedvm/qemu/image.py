"""Disk images: what one is, and a qcow2 overlay over it, written here because qemu-img takes 25 times as long."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Literal

from pytest_embedvm.errors import InternalError, InvalidArgument
from pytest_embedvm.files import PRIVATE_FILE

Format = Literal["raw", "qcow2"]

# QEMU: docs/interop/qcow2.txt; all numbers are big-endian.
MAGIC: Final = b"QFI\xfb"
_HEADER: Final = struct.Struct(">4sIQIIQIIQQIIQQQQII")
#: The size of version 2's header; version 3 writes its own size in the 4 bytes that are 28 behind that.
_HEADER_2: Final = 72
_EXTENSION: Final = struct.Struct(">II")
_BACKING_FORMAT: Final = 0xE2792ACA
_VERSION: Final = 3
_CLUSTER_BITS: Final = 16
_CLUSTER: Final = 1 << _CLUSTER_BITS
#: How much of an image holds all that its header says.
HEAD_BYTES: Final = _CLUSTER
#: The bit of the incompatible features.
_DATA_FILE: Final = 1 << 2
_REFCOUNT_ORDER: Final = 4  # 16 bits each
_ENTRY: Final = 8
_SECTOR: Final = 512
#: QEMU: the longest name of a backing file.
_NAME_BYTES: Final = 1023
#: What one entry of the first-level table maps: a cluster of second-level entries.
_L1_SPAN: Final = _CLUSTER // _ENTRY * _CLUSTER
#: QEMU: QCOW_MAX_L1_SIZE
_L1_BYTES: Final = 32 * 1024 * 1024
#: Clusters before the first-level table: header, table of refcount blocks, refcount block.
_BEFORE_L1: Final = 3


def image_format(path: Path) -> Format:
    """What the image at PATH is: qcow2 by its magic, else raw.

    :raise OSError: when it cannot be read.
    """
    with path.open("rb") as file:
        return "qcow2" if file.read(len(MAGIC)) == MAGIC else "raw"


def virtual_size(path: Path, image: Format) -> int:
    """The size in bytes of the disk that a guest sees in the image at PATH.

    :raise InternalError: when it is no such image.
    :raise OSError: when it cannot be read.
    """
    with path.open("rb") as file:
        if image == "raw":
            # QEMU: a raw image's last, short sector counts. seek, not stat: it may be a block device.
            return -(-file.seek(0, os.SEEK_END) // _SECTOR) * _SECTOR
        return _qcow2_size(path, file)


def _qcow2_size(path: Path, file: BinaryIO) -> int:
    head = file.read(32)
    if head[:4] != MAGIC or len(head) < 32:
        raise InternalError(f"{path} is no qcow2 image")
    (size,) = struct.unpack_from(">Q", head, 24)
    return int(size)


@dataclass(frozen=True)
class Backing:
    """What an image stands on, as its header says it: a name as it is written there, and a format if one is."""

    name: str
    format: str | None


def backing(path: Path) -> Backing | None:
    """What the header of the qcow2 image at PATH names as its backing file; None if nothing, or if it is no qcow2.

    :raise InternalError: when the header is broken.
    :raise OSError: when it cannot be read.
    """
    with path.open("rb") as file:
        return backing_in(file.read(HEAD_BYTES), path)


def has_data_file(path: Path) -> bool:
    """Whether the disk's content is not in the qcow2 image at PATH, but in another file that its header names.

    :raise OSError: when it cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(_HEADER_2 + _ENTRY)
    version, features = head[4:8], int.from_bytes(head[_HEADER_2:], "big")
    return head[:4] == MAGIC and version >= _VERSION.to_bytes(4, "big") and bool(features & _DATA_FILE)


def backing_in(head: bytes, path: Path) -> Backing | None:
    """The same, from the first `HEAD_BYTES` of the image at PATH.

    :raise InternalError: when the header is broken.
    """
    if head[:4] != MAGIC or len(head) < _HEADER_2:
        return None
    version, offset, length = struct.unpack_from(">IQI", head, 4)
    if not offset or not length:
        return None
    # QEMU: the name lies in the first cluster.
    name = head[offset : offset + length] if length <= _NAME_BYTES else b""
    if len(name) != length:
        raise InternalError(f"the name of the backing file in the qcow2 header of {path} is broken")
    start = _HEADER_2 if version < _VERSION else int.from_bytes(head[_HEADER_2 + 28 : _HEADER_2 + 32], "big")
    return Backing(os.fsdecode(name), _extensions(head, start).get(_BACKING_FORMAT))


def _extensions(head: bytes, start: int) -> dict[int, str]:
    """The header's extensions by their magic; they end at the first that is zero, or with the header."""
    found: dict[int, str] = {}
    while start + _EXTENSION.size <= len(head):
        magic, length = _EXTENSION.unpack_from(head, start)
        if magic == 0:
            break
        start += _EXTENSION.size
        found[magic] = head[start : start + length].decode(errors="replace")
        start += -(-length // _ENTRY) * _ENTRY
    return found


def create_overlay(base: Path, overlay: Path, base_format: Format) -> None:
    """Make at OVERLAY a qcow2 image, 0600, that reads as BASE does and keeps what is written; BASE stays as it is.

    :param base_format: what BASE is; it is not guessed, because a raw disk's guest can write any header into it.
    :raise InvalidArgument: when BASE's path is too long for a qcow2 header, or its disk too large.
    :raise InternalError: when BASE is not of this format.
    :raise OSError: when BASE cannot be read or OVERLAY exists or cannot be written.
    """
    name = os.fsencode(base.absolute())
    if len(name) > _NAME_BYTES:
        raise InvalidArgument(f"the path of a base image may have {_NAME_BYTES} bytes: {base}")
    _create(overlay, virtual_size(base, base_format), name, base_format)


def create_blank(path: Path, size: int) -> None:
    """Make at PATH a qcow2 image, 0600, of a disk of SIZE bytes, a multiple of 512, that holds zeros.

    :raise InvalidArgument: when that is too large.
    :raise OSError: when PATH exists or cannot be written.
    """
    _create(path, size)


def _create(path: Path, size: int, base: bytes = b"", base_format: Format = "raw") -> None:
    entries = -(-size // _L1_SPAN)
    if entries * _ENTRY > _L1_BYTES:
        raise InvalidArgument(f"{size} bytes are too large a disk for the qcow2 image {path}")
    clusters = _BEFORE_L1 + max(1, -(-entries * _ENTRY // _CLUSTER))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_FILE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(_header(base, base_format, size, entries))
        file.seek(_CLUSTER)
        file.write(struct.pack(">Q", 2 * _CLUSTER))
        file.seek(2 * _CLUSTER)
        file.write(struct.pack(">H", 1) * clusters)
        file.truncate(clusters * _CLUSTER)


def _header(name: bytes, base_format: Format, size: int, entries: int) -> bytes:
    word = base_format.encode()
    padded = word.ljust(-(-len(word) // _ENTRY) * _ENTRY, b"\0")
    backing_format = _EXTENSION.pack(_BACKING_FORMAT, len(word)) + padded if name else b""
    extensions = backing_format + _EXTENSION.pack(0, 0)
    fields = (
        *(MAGIC, _VERSION, _HEADER.size + len(extensions) if name else 0, len(name), _CLUSTER_BITS, size, 0),
        *(entries, _BEFORE_L1 * _CLUSTER, _CLUSTER, 1, 0, 0, 0, 0, 0, _REFCOUNT_ORDER, _HEADER.size),
    )
    return _HEADER.pack(*fields) + extensions + name
