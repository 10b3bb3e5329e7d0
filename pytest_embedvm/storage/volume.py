"""A `<volume>`: its XML as data, and what it must be."""

from __future__ import annotations

import re
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Annotated, Final

from lxml import etree

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.errors import ConfigUnsupported, OperationInvalid, XMLError, XMLSyntaxError
from pytest_embedvm.files import HALF
from pytest_embedvm.storage.encryption import Encryption
from pytest_embedvm.storage.permissions import Permissions
from pytest_embedvm.storage.reading import judge
from pytest_embedvm.storage.scalars import Bytes, ClusterSize
from pytest_embedvm.xml import document, mapping
from pytest_embedvm.xml.document import Element
from pytest_embedvm.xml.mapping import At, Present
from pytest_embedvm.xml.scalars import Choice, Plain, Refusal

STORAGE: Final = ErrorDomain.STORAGE

#: What a volume can be made as; libvirt's other formats are read-only ones of QEMU's, or nothing to QEMU.
CREATABLE: Final = ("raw", "qcow2", "qcow", "qed", "vmdk", "vdi", "vpc", "iso", "dir")
#: libvirt: VIR_ENUM_IMPL(virStorageFileFormat), those that a volume's XML may have
_FORMAT: Final = Choice(
    (
        "none", "raw", "dir", "bochs", "cloop", "dmg", "iso", "vpc", "vdi", "fat", "vhd", "ploop", "cow", "qcow",
        "qcow2", "qed", "vmdk",
    ),
    Refusal("unknown volume format type {}", error=ConfigUnsupported, origin=STORAGE),
)  # fmt: skip
_TYPE: Final = Choice(
    ("file", "block", "dir", "network", "netdir", "ploop"),
    Refusal("unknown volume type '{}'", error=ConfigUnsupported, origin=STORAGE),
)
_COMPAT: Final = re.compile(r"\d+\.\d+")

#: What libvirt gives and this driver does not.
_REFUSED: Final = ("target/nocow",)


@dataclass(kw_only=True)
class Timestamps:
    """`<timestamps>`: seconds since 1970, with nine digits behind the point."""

    atime: Annotated[str, At("atime"), Plain()] = "0"
    mtime: Annotated[str, At("mtime"), Plain()] = "0"
    ctime: Annotated[str, At("ctime"), Plain()] = "0"
    btime: Annotated[str, At("btime"), Plain()] = "0"


@dataclass(kw_only=True)
class Features:
    """`<features>` of qcow2."""

    lazy_refcounts: Annotated[bool, Present()] = False
    extended_l2: Annotated[bool, Present()] = False

    @property
    def any(self) -> bool:
        return self.lazy_refcounts or self.extended_l2


@dataclass(kw_only=True)
class Target:
    path: Annotated[str | None, At("path"), Plain()] = None
    format: Annotated[str, At("format/@type"), _FORMAT] = "raw"
    permissions: Permissions | None = None
    timestamps: Timestamps | None = None
    encryption: Encryption | None = None
    compat: Annotated[str | None, At("compat"), Plain()] = None
    cluster_size: Annotated[int | None, At("clusterSize"), ClusterSize()] = None
    features: Features | None = None


@dataclass(kw_only=True)
class BackingStore:
    """`<backingStore>`: what it stands on."""

    path: Annotated[str | None, At("path"), Plain()] = None
    format: Annotated[str, At("format/@type"), _FORMAT] = "raw"
    permissions: Permissions | None = None
    timestamps: Timestamps | None = None


@dataclass(kw_only=True)
class Volume:
    """A `<volume>`. The order of the fields is the order of libvirt's XML; sizes are bytes."""

    type: Annotated[str | None, _TYPE] = None
    name: Annotated[str, At("name"), Plain()] = ""
    key: Annotated[str | None, At("key"), Plain()] = None
    capacity: Annotated[int | None, At("capacity"), Bytes()] = None
    allocation: Annotated[int | None, At("allocation"), Bytes()] = None
    physical: Annotated[int | None, At("physical"), Bytes()] = None
    target: Target = field(default_factory=Target)
    backing: Annotated[BackingStore | None, At("backingStore")] = None

    def copy(self) -> Volume:
        return deepcopy(self)

    @property
    def path(self) -> str:
        return self.target.path or ""

    @property
    def size(self) -> int:
        """What a guest sees of it."""
        return self.capacity or 0


def parse(text: str, *, validate: bool = False, may_lack_capacity: bool = False) -> Volume:
    """The volume that TEXT describes.

    :param validate: also refuse what libvirt's schema does not know.
    :param may_lack_capacity: it is made from another one.
    :raise XMLSyntaxError: when TEXT is not well formed.
    :raise XMLError: when a value is not valid, or is missing.
    :raise ConfigUnsupported: when a format is not known, or something is not given by this driver.
    :raise XMLSchemaError: what VALIDATE asks for.
    """
    try:
        root = document.parse(text, root="volume", name="storage_volume_definition")
    except XMLSyntaxError as error:
        raise XMLSyntaxError(error.detail, origin=STORAGE) from None
    seen = mapping.Seen()
    for feature in root.iterfind("target/features/*"):
        if feature.tag not in ("lazy_refcounts", "extended_l2"):
            # libvirt: virStorageVolDefParseXML
            raise ConfigUnsupported(f"unsupported feature {feature.tag!s}", origin=STORAGE)
    volume = mapping.read(Volume, root, seen)
    judge(root, seen, refused=_REFUSED, validate=validate)
    _check(volume, may_lack_capacity=may_lack_capacity)
    return volume


def _check(volume: Volume, *, may_lack_capacity: bool) -> None:
    # libvirt: virStorageVolDefParseXML
    if not volume.name:
        raise XMLError("missing volume name element", origin=STORAGE)
    if volume.backing and not volume.backing.path:
        volume.backing = None
    if volume.capacity is None and not may_lack_capacity and volume.backing is None:
        raise XMLError("missing capacity element", origin=STORAGE)
    target = volume.target
    if target.compat and not _COMPAT.fullmatch(target.compat):
        raise XMLError("forbidden characters in 'compat' attribute", origin=STORAGE)
    if target.features and target.features.any and not target.compat:
        target.compat = "1.1"


def require_name(name: str) -> None:
    """Refuse a NAME that is no file's in the pool's own directory.

    :raise OperationInvalid: naming it.
    """
    if "/" in name:
        # libvirt: storageVolCreateXML
        raise OperationInvalid(f"volume name '{name}' cannot contain '/'", origin=STORAGE)
    if name.startswith(HALF):
        raise OperationInvalid(
            f"volume name '{name}' cannot begin with '{HALF}': so do those that are being made", origin=STORAGE
        )


def format(volume: Volume) -> str:  # noqa: A001 - the pair of words of this project
    """VOLUME as libvirt writes it."""
    root: Element = etree.Element("volume")
    mapping.write(volume, root)
    return document.format(root)
