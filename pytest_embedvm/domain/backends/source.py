"""Where a disk's bytes come from: `<source>`, `<backingStore>`, and the files a domain needs when it starts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.domain.backends.encryption import Encryption
from pytest_embedvm.domain.host import Volume
from pytest_embedvm.errors import ConfigUnsupported, XMLError
from pytest_embedvm.xml.mapping import At
from pytest_embedvm.xml.scalars import Offered, Scalar, Where

StartupPolicy = Literal["mandatory", "requisite", "optional"]

#: libvirt's name of a format to QEMU's (libvirt: qemuBlockStorageSourceGetFormatProps).
FORMATS: Final = {
    "raw": "raw", "qcow2": "qcow2", "qcow": "qcow", "qed": "qed", "vmdk": "vmdk", "vdi": "vdi", "vpc": "vpc",
    "bochs": "bochs", "cloop": "cloop", "dmg": "dmg", "ploop": "parallels",
}  # fmt: skip

#: Those an image of which may stand on another one (libvirt: qemuBlockStorageSourceGetBlockdevFormatProps).
WITH_BACKING: Final = frozenset({"qcow2", "qcow", "qed", "vmdk"})

#: What libvirt itself says of formats it knows and QEMU has no driver for (libvirt: qemuDomainValidateStorageSource).
_REFUSED_FORMATS: Final = {
    "iso": "storage format 'iso' is not directly supported by QEMU, use 'raw' instead",
    "dir": "'directory' storage format is not directly supported by QEMU, use 'dir' disk type instead",
    "fat": "storage format 'fat' is supported only with 'dir' storage type",
}

#: Where bytes come from. Those that are neither a file nor a block device are libvirt's, and not yet ours.
SOURCE_TYPE: Final = Offered(
    ("file", "block", "volume"),
    {kind: f"disk type '{kind}' is not supported by this driver" for kind in ("dir", "network", "nvme", "vhostuser")},
)


class Format(Scalar[str]):
    """The format of an image."""

    def read(self, text: str, where: Where) -> str:
        if text in FORMATS:
            return text
        if text in _REFUSED_FORMATS:
            raise ConfigUnsupported(_REFUSED_FORMATS[text], origin=ErrorDomain.QEMU)
        # libvirt: virDomainDiskDefDriverParseXML
        raise ConfigUnsupported(f"unknown driver format value '{text}'")

    def write(self, value: str) -> str:
        return value


@dataclass(kw_only=True)
class Source:
    """`<source file='…'/>`, `<source dev='…'/>` or `<source pool='…' volume='…'/>`.

    `index` is the number in QEMU's names of its nodes, when live.
    """

    file: str | None = None
    dev: str | None = None
    pool: str | None = None
    volume: str | None = None
    mode: Literal["host", "direct"] | None = None
    startup_policy: Annotated[StartupPolicy | None, At("@startupPolicy")] = None
    index: int | None = None
    encryption: Encryption | None = None
    #: What the volume is, once a host was asked.
    found: Volume | None = field(default=None, metadata={"xml": False})

    def path(self, kind: str) -> str | None:
        """The path, for a source of this KIND: `file` or `block`, or `volume` once that is found."""
        if kind == "volume":
            return self.found.path if self.found else None
        return (self.dev if kind == "block" else self.file) or None

    def is_given(self, kind: str) -> bool:
        """Whether it says anything that a source of this KIND does."""
        return bool(self.pool or self.volume) if kind == "volume" else self.path(kind) is not None

    def find(self, found: Volume) -> None:
        """Note what the volume is that it names.

        :raise ConfigUnsupported: when it is a directory.
        """
        # libvirt: virDomainStorageSourceTranslateSourcePool
        self.found = found
        if found.type == "dir":
            raise ConfigUnsupported(f"volume '{self.volume}' of storage pool '{self.pool}' is a directory")

    def check(self, kind: str) -> None:
        """Refuse what names a volume and not its pool, or more than that.

        :raise XMLError: for these.
        """
        # libvirt: virDomainDiskSourcePoolDefParse, virDomainStorageSourceTranslateSourcePool
        if kind == "volume" and not (self.pool and self.volume):
            raise XMLError(
                "'pool' and 'volume' must be specified together for 'pool' type source", origin=ErrorDomain.DOMAIN
            )
        if kind == "volume" and self.mode:
            raise XMLError(
                "disk source mode is only valid when storage pool is of iscsi type", origin=ErrorDomain.DOMAIN
            )

    def kind(self, kind: str) -> str:
        """What the bytes of a source of this KIND are in: `file` or `block`."""
        return self.found.type if kind == "volume" and self.found else kind


@dataclass(kw_only=True)
class BackingStore:
    """`<backingStore>`: what an image stands on; an empty one ends the chain."""

    type: Annotated[str | None, SOURCE_TYPE] = None
    index: int | None = None
    format: Annotated[str | None, At("format/@type"), Format()] = None
    source: Source | None = None
    below: Annotated[BackingStore | None, At("backingStore")] = None
    #: Whether an image's header said so, and not the domain's XML.
    detected: bool = field(default=False, metadata={"xml": False})

    def check(self) -> None:
        """Refuse a link of the chain that says only half of what it is.

        :raise XMLError: when the format or the source is missing.
        :raise ConfigUnsupported: when an image stands on another one, and its format has no such thing.
        """
        if self.type is None:
            return
        # libvirt: virDomainDiskBackingStoreParse
        if self.format is None:
            raise XMLError("missing disk backing store format", origin=ErrorDomain.DOMAIN)
        if self.source is None or not self.source.is_given(self.type):
            raise XMLError("missing disk backing store source", origin=ErrorDomain.DOMAIN)
        self.source.check(self.type)
        if self.source.encryption:
            self.source.encryption.check(self.format)
        check_backing(self.format, self.below)


def check_backing(image_format: str, below: BackingStore | None) -> None:
    """Refuse what an image of a format without backing files is said to stand on, and check the chain below.

    :raise ConfigUnsupported: naming the format.
    :raise XMLError: when a link of the chain is incomplete.
    """
    if below is None:
        return
    if below.type is not None and image_format not in WITH_BACKING:
        # libvirt: qemuDomainValidateStorageSource
        raise ConfigUnsupported(
            f"storage format '{image_format}' does not support backing store", origin=ErrorDomain.QEMU
        )
    below.check()


@dataclass(frozen=True)
class Image:
    """One image of a disk's chain. `index` is its number in the names of QEMU's nodes."""

    kind: str
    path: str
    format: str
    index: int
    encryption: Encryption | None = None

    @property
    def storage_node(self) -> str:
        """QEMU's node of the bytes."""
        return f"libvirt-{self.index}-storage"

    @property
    def format_node(self) -> str:
        """QEMU's node of what the bytes mean."""
        return f"libvirt-{self.index}-format"


@dataclass(frozen=True)
class Chain:
    """A disk's images, the topmost first. `ends`: that nothing stands below the last is known, not to be found out."""

    images: tuple[Image, ...]
    ends: bool


def chain(
    kind: str, image_format: str, source: Source, below: BackingStore | None, encryption: Encryption | None = None
) -> Chain:
    """The chain from SOURCE down to where the domain's XML says no more.

    :param encryption: of SOURCE, where it is not SOURCE that says so.
    """
    own = source.encryption or encryption
    images = [Image(source.kind(kind), source.path(kind) or "", image_format, source.index or 0, own)]
    for link in links(below):
        if link.type is None:
            return Chain(tuple(images), ends=True)
        lower = link.source or Source()
        path = lower.path(link.type) or ""
        images.append(Image(lower.kind(link.type), path, link.format or "", link.index or 0, lower.encryption))
    return Chain(tuple(images), ends=images[-1].format not in WITH_BACKING)


def links(below: BackingStore | None) -> Iterator[BackingStore]:
    """BELOW and everything below it."""
    while below is not None:
        yield below
        below = below.below


def complete_encryption(own: Encryption | None, source: Source | None, below: BackingStore | None) -> None:
    """Fill in what is left open of a disk's encryption: its OWN, its SOURCE's and that of what is BELOW."""
    sources = (source, *(link.source for link in links(below)))
    for encryption in (own, *(found.encryption for found in sources if found)):
        if encryption:
            encryption.complete()


@dataclass(frozen=True)
class NeededFile:
    """A file or block device that has to be there when the domain starts.

    `device` is the target's name. `policy` says what becomes of a disk whose medium is not there; the disk's
    own image has one, what it stands on has none. `open_ended`: its header may name a backing file that the
    domain's XML does not.
    """

    path: str
    kind: str
    format: str
    device: str
    writable: bool
    policy: StartupPolicy | None
    open_ended: bool
