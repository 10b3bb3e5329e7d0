"""The file that a domain is saved in: a header of ours, the domain's XML, and what QEMU wrote, perhaps compressed."""

from __future__ import annotations

import dataclasses
import json
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pytest_embedvm.errors import OperationFailed, SystemFailure
from pytest_embedvm.files import PRIVATE_FILE

#: The first bytes; those of a file that is not complete are others. libvirt's images begin otherwise.
MAGIC: Final = b"EmbedVMSaveImage"
PARTIAL: Final = b"EmbedVMSavePart."
VERSION: Final = 1
#: Magic; version, where the data begins, how long the text is.
_FIXED: Final = struct.Struct("<16sIII")
#: The header ends at a multiple of this, so that a longer XML has room.
_ALIGNMENT: Final = 64 * 1024
_LARGEST: Final = 16 * 1024 * 1024


@dataclass(frozen=True)
class Header:
    """What is known of a saved domain."""

    xml: str
    #: Whether it is to run when it is restored.
    running: bool
    #: How the data is compressed; a name of `compression.FORMATS`.
    format: str


@dataclass(frozen=True)
class Image:
    """A complete image, opened; its descriptor stands at the data."""

    descriptor: int
    header: Header


@contextmanager
def created(path: Path, header: Header, *, sync: bool = True) -> Iterator[int]:
    """A descriptor that stands where the data of a new image at PATH goes; the image is complete when the block ends.

    What is there is overwritten. A failure leaves no file.

    :param sync: False for what need not survive a power failure.
    :raise SystemFailure: when it cannot be written.
    """
    text = _spell(header)
    begin = -(-(_FIXED.size + len(text)) // _ALIGNMENT) * _ALIGNMENT
    descriptor = _open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, "create")
    try:
        os.fchmod(descriptor, PRIVATE_FILE)
        os.write(descriptor, _FIXED.pack(PARTIAL, VERSION, begin, len(text)) + text)
        os.lseek(descriptor, begin, os.SEEK_SET)
        yield descriptor
        if sync:
            os.fsync(descriptor)
        os.pwrite(descriptor, MAGIC, 0)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


@contextmanager
def opened(path: Path) -> Iterator[Image]:
    """The image at PATH.

    :raise SystemFailure: when it cannot be read.
    :raise Incomplete: when whoever wrote it did not come to the end.
    :raise OperationFailed: when it is no image, or of another version.
    """
    descriptor = _open(path, os.O_RDONLY, "open")
    try:
        header, begin = _read(descriptor)
        os.lseek(descriptor, begin, os.SEEK_SET)
        yield Image(descriptor, header)
    finally:
        os.close(descriptor)


def change(path: Path, *, xml: str | None = None, running: bool | None = None) -> None:
    """Put another XML into the image at PATH, or another word on whether it is to run.

    :raise OperationFailed: when the XML does not fit.
    """
    descriptor = _open(path, os.O_RDWR, "open")
    try:
        header, begin = _read(descriptor)
        changes = {"xml": xml, "running": running}
        text = _spell(dataclasses.replace(header, **{k: v for k, v in changes.items() if v is not None}))  # type: ignore[arg-type]
        if _FIXED.size + len(text) > begin:
            # libvirt: virQEMUSaveDataWrite
            raise OperationFailed("new xml too large to fit in file")
        os.pwrite(descriptor, _FIXED.pack(MAGIC, VERSION, begin, len(text)) + text, 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove the managed image at PATH.

    :raise SystemFailure: when it cannot be removed.
    """
    try:
        path.unlink()
    except OSError as error:
        # libvirt: qemuDomainManagedSaveRemove
        raise SystemFailure(f"Failed to remove managed save file '{path}': {error.strerror}") from error


class Incomplete(OperationFailed):
    """The process that wrote the image, or its machine, ended before it was complete."""


def _open(path: Path, flags: int, verb: str) -> int:
    try:
        return os.open(path, flags | os.O_CLOEXEC, PRIVATE_FILE)
    except OSError as error:
        # libvirt: virQEMUFileOpenAs, qemuSaveImageOpen
        raise SystemFailure(f"Failed to {verb} file '{path}': {error.strerror}") from error


def _spell(header: Header) -> bytes:
    return json.dumps(dataclasses.asdict(header)).encode()


def _read(descriptor: int) -> tuple[Header, int]:
    # libvirt: qemuSaveImageOpen, whose sentences these are
    fixed = os.pread(descriptor, _FIXED.size, 0)
    if len(fixed) < _FIXED.size:
        raise OperationFailed("failed to read qemu header")
    magic, version, begin, length = _FIXED.unpack(fixed)
    if magic == PARTIAL:
        raise Incomplete("save image is incomplete")
    if magic != MAGIC:
        raise OperationFailed("image magic is incorrect")
    if version > VERSION:
        raise OperationFailed(f"image version is not supported ({version} > {VERSION})")
    text = os.pread(descriptor, min(length, _LARGEST), _FIXED.size)
    try:
        header = Header(**json.loads(text))
    except (ValueError, TypeError):
        raise OperationFailed("failed to read domain XML") from None
    if len(text) < length or not isinstance(header.xml, str) or not isinstance(header.format, str):
        raise OperationFailed("failed to read domain XML")
    return header, begin
