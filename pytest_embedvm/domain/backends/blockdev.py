"""Images as QEMU's block nodes: one for the bytes, one for what they mean, from the bottom of the chain up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pytest_embedvm.domain.backends.source import FORMATS, WITH_BACKING, Chain, Image
from pytest_embedvm.domain.backends.virtio import given
from pytest_embedvm.qemu.parts import BlockdevPart, Json, SecretPart

_STORAGE_DRIVERS: Final = {"file": "file", "block": "host_device"}


@dataclass(frozen=True)
class CacheMode:
    """What a word for `cache` means: past the host's cache, no flushes, a write cache in the guest's sight."""

    direct: bool
    no_flush: bool
    write_cache: bool

    @property
    def props(self) -> dict[str, Json]:
        """QEMU's properties of a node."""
        return {"direct": self.direct, "no-flush": self.no_flush}


#: libvirt: qemuDomainDiskCachemodeFlags
CACHE_MODES: Final = {
    "none": CacheMode(direct=True, no_flush=False, write_cache=True),
    "writethrough": CacheMode(direct=False, no_flush=False, write_cache=False),
    "writeback": CacheMode(direct=False, no_flush=False, write_cache=True),
    "directsync": CacheMode(direct=True, no_flush=False, write_cache=False),
    "unsafe": CacheMode(direct=False, no_flush=True, write_cache=True),
}


@dataclass(frozen=True)
class NodeOptions:
    """How QEMU treats the nodes of a disk; None leaves it to QEMU."""

    cache: CacheMode | None = None
    io: str | None = None
    discard: str | None = None
    detect_zeroes: str | None = None


def nodes(chain: Chain, options: NodeOptions, *, read_only: bool) -> Iterator[BlockdevPart | SecretPart]:
    """The nodes of CHAIN, what is below before what stands on it; only the topmost image is ever written.

    What opens an encrypted image comes before its nodes.
    """
    backing: Json = None
    known = chain.ends
    for image in reversed(chain.images):
        top = image is chain.images[0]
        if image.encryption:
            yield image.encryption.part(image.format_node)
        yield _storage(image, options)
        yield _format(image, options, read_only=read_only or not top, top=top, backing=_backing(image, backing, known))
        backing, known = image.format_node, True


def _backing(image: Image, below: Json, known: bool) -> dict[str, Json]:
    # Where the chain is known to end QEMU is told so: it must not follow a name in a header that a guest can write.
    return {"backing": below} if known and image.format in WITH_BACKING else {}


def _storage(image: Image, options: NodeOptions) -> BlockdevPart:
    # libvirt: qemuBlockStorageSourceGetBackendProps
    props: dict[str, Json] = {"driver": _STORAGE_DRIVERS[image.kind], "filename": image.path}
    if options.io:
        props["aio"] = options.io
    props["node-name"] = image.storage_node
    if options.cache:
        props["cache"] = options.cache.props
    return BlockdevPart(props | {"auto-read-only": True, "discard": "unmap"})


def _format(
    image: Image, options: NodeOptions, *, read_only: bool, top: bool, backing: dict[str, Json]
) -> BlockdevPart:
    # libvirt: qemuBlockStorageSourceGetBlockdevProps
    props: dict[str, Json] = {"node-name": image.format_node, "read-only": read_only}
    props |= given(
        {
            "discard": options.discard,
            "detect-zeroes": options.detect_zeroes if top else None,
            "cache": options.cache.props if options.cache else None,
        }
    )
    return BlockdevPart(props | _format_driver(image) | {"file": image.storage_node} | backing)


def _format_driver(image: Image) -> dict[str, Json]:
    # libvirt: qemuBlockStorageSourceGetBlockdevFormatProps
    if image.encryption is None:
        return {"driver": FORMATS[image.format]}
    secret = image.encryption.part(image.format_node).id
    if image.format == "raw":
        return {"driver": "luks", "key-secret": secret}
    return {"driver": image.format, "encrypt": {"format": "luks", "key-secret": secret}}
