"""`qemu:///embed?root=/abs/dir`: a root as a connection URI, and back."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote, unquote_to_bytes, urlsplit

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.errors import ConfigUnsupported, InternalError, InvalidArgument, NoConnect

SCHEME: Final = "qemu"
EMBED: Final = "/embed"


@dataclass(frozen=True)
class Uri:
    """What a connection URI says."""

    root: Path

    def __str__(self) -> str:
        return make_uri(self.root)


def make_uri(root: Path) -> str:
    """The URI of ROOT, percent-encoded; `parse_uri` gives ROOT back, whatever bytes its name holds.

    :raise ConfigUnsupported: when ROOT is relative.
    """
    return f"{SCHEME}://{EMBED}?root={quote(os.fsencode(_absolute(os.fspath(root))), safe='/')}"


def parse_uri(uri: str) -> Uri:
    """Read a connection URI.

    :raise NoConnect: when the scheme, or the host in it, belongs to another driver.
    :raise InternalError: when the path is not `/embed`.
    :raise InvalidArgument: when there is no root, two of them, or a parameter nobody knows.
    :raise ConfigUnsupported: when the root is relative, or is the host's own `/`.
    """
    try:
        parts = urlsplit(uri)
    except ValueError:  # an IPv6 bracket that does not close
        raise NoConnect(uri) from None
    if parts.scheme != SCHEME or parts.netloc:
        raise NoConnect(uri)
    if parts.path != EMBED:
        # libvirt: qemuConnectOpen
        raise InternalError(f"URI must be {SCHEME}://{EMBED}")
    return Uri(Path(_absolute(_root_parameter(parts.query))))


def _root_parameter(query: str) -> str:
    # Not parse_qsl: it reads "+" as a space, and libvirt (virURIParseParams) does not.
    roots = []
    for pair in filter(None, query.replace(";", "&").split("&")):
        name, _, value = pair.partition("=")
        if unquote(name) != "root":
            raise InvalidArgument(f"unknown URI parameter '{unquote(name)}'", origin=ErrorDomain.URI)
        roots.append(os.fsdecode(_bytes(value)))
    if not roots:
        # libvirt: virConnectOpenInternal, for an embedded driver
        raise InvalidArgument("Missing URI parameter 'root'", origin=ErrorDomain.URI)
    if len(roots) > 1:
        raise InvalidArgument("URI parameter 'root' is given more than once", origin=ErrorDomain.URI)
    return roots[0]


def _bytes(value: str) -> bytes:
    """VALUE decoded; a file name that is no text may stand in it as Python spells it."""
    try:
        return unquote_to_bytes(value.encode(errors="surrogateescape"))
    except UnicodeEncodeError:
        raise InvalidArgument("root path must be text or bytes of a file name", origin=ErrorDomain.URI) from None


def _absolute(root: str) -> str:
    if "\0" in root:
        raise InvalidArgument("root path must not contain a NUL character", origin=ErrorDomain.URI)
    if not os.path.isabs(root):  # noqa: PTH117 - bytes of a path that need not exist
        raise ConfigUnsupported("root path must be absolute", origin=ErrorDomain.NONE)
    if os.path.realpath(root) == "/":
        raise ConfigUnsupported("root path must not be '/': it holds the host's own files", origin=ErrorDomain.NONE)
    return root
