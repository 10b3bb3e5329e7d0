"""What the first bytes of an image say: its format, its disk's size, what it stands on, whether it is encrypted."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pytest_embedvm.errors import InternalError
from pytest_embedvm.qemu.image import MAGIC, Backing, backing_in

_SECTOR: Final = 512
# QEMU: docs/interop/qcow2.txt
_QCOW2: Final = struct.Struct(">4sIQIIQI")
_QCOW2_FEATURES: Final = struct.Struct(">QQ")
_QCOW2_FEATURES_AT: Final = 72
_EXTENDED_L2: Final = 1 << 4
_LAZY_REFCOUNTS: Final = 1 << 0
_CRYPTS: Final[Mapping[int, Literal["qcow", "luks"]]] = {1: "qcow", 2: "luks"}
#: LUKS: the on-disk format, version 1: where the payload begins, in sectors.
_LUKS: Final = b"LUKS\xba\xbe"
_LUKS_PAYLOAD_AT: Final = 104


@dataclass(frozen=True)
class Header:
    """`capacity` is bytes, None where the size of the file is that of the disk. `format` is libvirt's name."""

    format: str = "raw"
    capacity: int | None = None
    backing: Backing | None = None
    encryption: Literal["qcow", "luks"] | None = None
    compat: str | None = None
    cluster_size: int | None = None
    lazy_refcounts: bool = False
    extended_l2: bool = False


@dataclass(frozen=True)
class Image:
    """What there is to read: the first `image.HEAD_BYTES`, the size of the whole file, and where it is."""

    head: bytes
    size: int
    path: Path


def read_header(image: Image) -> Header:
    """What the first bytes of IMAGE say; raw is what says nothing.

    A guest may have written it: nothing in it is opened here.
    """
    # libvirt: fileTypeInfo, virStorageFileProbeGetMetadata
    for offset, magic, read in _FORMATS:
        if image.head[offset : offset + len(magic)] == magic:
            try:
                return read(image)
            except (struct.error, InternalError):  # the magic is there, the rest of it is not
                break
    return Header()


def _qcow(image: Image) -> Header:
    head, path = image.head, image.path
    _, version, _, _, cluster_bits, capacity, crypt = _QCOW2.unpack_from(head)
    if version == 1:
        return Header("qcow", struct.unpack_from(">Q", head, 24)[0], backing_in(head, path))
    compatible = incompatible = 0
    if version > 2:
        incompatible, compatible = _QCOW2_FEATURES.unpack_from(head, _QCOW2_FEATURES_AT)
    return Header(
        format="qcow2",
        capacity=capacity,
        backing=backing_in(head, path),
        encryption=_CRYPTS.get(crypt),
        compat="1.1" if version > 2 else "0.10",
        cluster_size=1 << min(cluster_bits, 31),
        lazy_refcounts=bool(compatible & _LAZY_REFCOUNTS),
        extended_l2=bool(incompatible & _EXTENDED_L2),
    )


def _luks(image: Image) -> Header:
    (payload,) = struct.unpack_from(">I", image.head, _LUKS_PAYLOAD_AT)
    # libvirt: virStorageSourceGetMetadata; what is encrypted is raw
    return Header("raw", max(0, image.size - payload * _SECTOR), encryption="luks")


def _sized(name: str, layout: str, at: int, unit: int = 1) -> Callable[[Image], Header]:
    return lambda image: Header(name, struct.unpack_from(layout, image.head, at)[0] * unit)


#: Where the magic is, what it is, and who reads the rest.
_FORMATS: Final[tuple[tuple[int, bytes, Callable[[Image], Header]], ...]] = (
    (0, MAGIC, _qcow),
    (0, _LUKS, _luks),
    (0, b"QED\0", _sized("qed", "<Q", 48)),
    (0, b"KDMV", _sized("vmdk", "<Q", 12, _SECTOR)),
    (0, b"conectix", _sized("vpc", ">Q", 48)),
    (64, b"\x7f\x10\xda\xbe", _sized("vdi", "<Q", 368)),
)
