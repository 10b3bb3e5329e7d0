"""What the first bytes of an image say of it: its format, its disk's size, what it stands on, whether it is encrypted."""

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


def read_header(head: bytes, size: int, path: Path) -> Header:
    """What HEAD, the first `image.HEAD_BYTES` of the image of SIZE bytes at PATH, says; raw is what says nothing.

    A guest may have written it: nothing in it is opened here.
    """
    # libvirt: fileTypeInfo, virStorageFileProbeGetMetadata
    for offset, magic, read in _FORMATS:
        if head[offset : offset + len(magic)] == magic:
            try:
                return read(head, size, path)
            except (struct.error, InternalError):  # the magic is there, the rest of it is not
                break
    return Header()


def _qcow(head: bytes, size: int, path: Path) -> Header:
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


def _luks(head: bytes, size: int, path: Path) -> Header:
    (payload,) = struct.unpack_from(">I", head, _LUKS_PAYLOAD_AT)
    # libvirt: virStorageSourceGetMetadata; what is encrypted is raw
    return Header("raw", max(0, size - payload * _SECTOR), encryption="luks")


def _sized(name: str, layout: str, at: int, unit: int = 1) -> Callable[[bytes, int, Path], Header]:
    return lambda head, size, path: Header(name, struct.unpack_from(layout, head, at)[0] * unit)


#: Where the magic is, what it is, and who reads the rest.
_FORMATS: Final[tuple[tuple[int, bytes, Callable[[bytes, int, Path], Header]], ...]] = (
    (0, MAGIC, _qcow),
    (0, _LUKS, _luks),
    (0, b"QED\0", _sized("qed", "<Q", 48)),
    (0, b"KDMV", _sized("vmdk", "<Q", 12, _SECTOR)),
    (0, b"conectix", _sized("vpc", ">Q", 48)),
    (64, b"\x7f\x10\xda\xbe", _sized("vdi", "<Q", 368)),
)
