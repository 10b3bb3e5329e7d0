"""A `<pool>`: its XML as data, and what it must be."""

from __future__ import annotations

import uuid as uuids
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Annotated, Final

from lxml import etree

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.errors import ConfigUnsupported, XMLError, XMLSyntaxError
from pytest_embedvm.storage.permissions import Permissions
from pytest_embedvm.storage.reading import judge
from pytest_embedvm.storage.scalars import Bytes, Uuid
from pytest_embedvm.xml import document, mapping
from pytest_embedvm.xml.document import Element
from pytest_embedvm.xml.mapping import At, Kept
from pytest_embedvm.xml.scalars import Choice, Offered, Plain, Refusal

STORAGE: Final = ErrorDomain.STORAGE

#: libvirt: VIR_ENUM_IMPL(virStoragePool); those that need the host's storage.
_HOSTS: Final = (
    "netfs", "logical", "disk", "iscsi", "iscsi-direct", "scsi", "mpath", "rbd", "sheepdog", "gluster", "zfs",
    "vstorage",
)  # fmt: skip
_TYPE: Final = Offered(
    ("dir", "fs"),
    {
        kind: f"a pool of type '{kind}' is the host's storage: private ones have dir and fs; "
        "open the connection with storage=host for others"
        for kind in _HOSTS
    },
)

#: libvirt: VIR_ENUM_IMPL(virStoragePoolFormatFileSystem)
FILE_SYSTEMS: Final = (
    "auto", "ext2", "ext3", "ext4", "ufs", "iso9660", "udf", "gfs", "gfs2", "vfat", "hfs+", "xfs", "ocfs2", "vmfs",
)  # fmt: skip
_FILE_SYSTEM: Final = Choice(
    FILE_SYSTEMS, Refusal("unknown pool format type {}", error=ConfigUnsupported, origin=STORAGE)
)

#: What libvirt gives and this driver does not.
_REFUSED: Final = ("refresh", "features")


@dataclass(kw_only=True)
class SourceDevice:
    """`<device>`: the block device, or the image of one, that a pool of type fs mounts."""

    path: str


@dataclass(kw_only=True)
class Source:
    """`<source>`: of a pool of type fs; libvirt ignores that of a directory."""

    device: SourceDevice | None = None
    format: Annotated[str | None, At("format/@type"), _FILE_SYSTEM] = None


@dataclass(kw_only=True)
class Target:
    path: Annotated[str | None, At("path"), Plain()] = None
    permissions: Permissions | None = None


@dataclass(kw_only=True)
class Pool:
    """A `<pool>`. The order of the fields is the order of libvirt's XML."""

    type: Annotated[str, _TYPE]
    name: Annotated[str, At("name"), Plain()] = ""
    uuid: Annotated[uuids.UUID | None, At("uuid"), Uuid()] = None
    metadata: Annotated[object, At("metadata"), Kept()] = None
    capacity: Annotated[int | None, At("capacity"), Bytes()] = None
    allocation: Annotated[int | None, At("allocation"), Bytes()] = None
    available: Annotated[int | None, At("available"), Bytes()] = None
    source: Source = field(default_factory=Source)
    target: Target = field(default_factory=Target)

    def copy(self) -> Pool:
        return deepcopy(self)

    @property
    def path(self) -> str:
        """Where its volumes are."""
        return self.target.path or ""

    @property
    def device(self) -> str:
        """What a pool of type fs mounts."""
        return self.source.device.path if self.source.device else ""


def parse(text: str, *, validate: bool = False) -> Pool:
    """The pool that TEXT describes.

    :param validate: also refuse what libvirt's schema does not know.
    :raise XMLSyntaxError: when TEXT is not well formed, or a name is not one.
    :raise XMLError: when a value is not valid, or is missing.
    :raise ConfigUnsupported: when it is a kind of pool that a private driver does not have.
    :raise XMLSchemaError: what VALIDATE asks for.
    """
    try:
        root = document.parse(text, root="pool", name="storage_pool_definition")
    except XMLSyntaxError as error:
        raise XMLSyntaxError(error.detail, origin=STORAGE) from None
    seen = mapping.Seen()
    pool = mapping.read(Pool, root, seen)
    judge(root, seen, refused=_REFUSED, validate=validate)
    if pool.type == "dir":
        pool.source = Source()
    elif pool.source.format is None:
        pool.source.format = FILE_SYSTEMS[0]
    pool.capacity = pool.allocation = pool.available = 0
    check(pool)
    if pool.target.path:
        pool.target.path = clean(pool.target.path)
    return pool


def check(pool: Pool) -> None:
    """Refuse what cannot be.

    :raise XMLError: when something is missing, or cannot be a name.
    """
    # libvirt: virStoragePoolDefParseXML
    if not pool.name:
        raise XMLError("missing pool source name element", origin=STORAGE)
    if "/" in pool.name:
        raise XMLError(f"name {pool.name} cannot contain '/'", origin=STORAGE)
    if "\n" in pool.name:
        # libvirt: virXMLCheckIllegalChars
        raise XMLSyntaxError(f"invalid char in name: {chr(10)}", origin=ErrorDomain.XML)
    if pool.type == "fs" and not pool.device:
        raise XMLError("missing storage pool source device name", origin=STORAGE)
    if not pool.target.path:
        raise XMLError("missing storage pool target path", origin=STORAGE)


def clean(path: str) -> str:
    """PATH without what names the same directory twice."""
    # libvirt: virFileSanitizePath
    start = "//" if path.startswith("//") and not path.startswith("///") else "/" if path.startswith("/") else ""
    return start + "/".join(filter(None, path.split("/")))


def format(pool: Pool) -> str:  # noqa: A001 - the pair of words of this project
    """POOL as libvirt writes it."""
    root: Element = etree.Element("pool")
    mapping.write(pool, root)
    return document.format(root)
