"""A `<secret>`: what a value is for, and who may see it. The value itself is never in it."""

from __future__ import annotations

import uuid as uuids
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final

from lxml import etree

from pytest_embedvm.constants import ErrorDomain, SecretUsageType
from pytest_embedvm.errors import ConfigUnsupported, InternalError, XMLError, XMLSchemaError, XMLSyntaxError
from pytest_embedvm.xml import document, mapping
from pytest_embedvm.xml.document import Element
from pytest_embedvm.xml.mapping import At
from pytest_embedvm.xml.scalars import Refusal, Scalar, Where, YesNo

UUID_DIGITS: Final = 32

#: Which element says what a secret of this kind is for, and what libvirt says where it is missing.
_NAMES: Final[dict[str, tuple[str, str]]] = {
    # libvirt: virSecretDefParseUsage
    "volume": ("volume", "volume usage specified, but volume path is missing"),
    "ceph": ("name", "Ceph usage specified, but name is missing"),
    "iscsi": ("target", "iSCSI usage specified, but target is missing"),
    "tls": ("name", "TLS usage specified, but name is missing"),
    "vtpm": ("name", "vTPM usage specified, but name is missing"),
}


class _Uuid(Scalar[uuids.UUID]):
    def read(self, text: str, where: Where) -> uuids.UUID:
        digits = text.strip().replace("-", "")  # libvirt: virUUIDParse
        if len(digits) != UUID_DIGITS or not all(c in "0123456789abcdefABCDEF" for c in digits):
            # libvirt: virSecretParseXML
            raise InternalError("malformed uuid element", origin=ErrorDomain.SECRET)
        return uuids.UUID(digits)

    def write(self, value: uuids.UUID) -> str:
        return str(value)


class _Flag(YesNo):
    """`yes` or `no`; an empty one says nothing."""

    def __init__(self, name: str) -> None:
        super().__init__(refusal=Refusal(f"invalid value of '{name}'", XMLError, ErrorDomain.SECRET))

    def read(self, text: str, where: Where) -> bool:
        return super().read(text or "no", where)


class _Kind(Scalar[str]):
    def read(self, text: str, where: Where) -> str:
        if text not in ("", "none", *_NAMES):
            # libvirt: virSecretDefParseUsage
            raise ConfigUnsupported(f"unknown secret usage type {text}", origin=ErrorDomain.SECRET)
        return text

    def write(self, value: str) -> str:
        return value


@dataclass(kw_only=True)
class Usage:
    """`<usage>`: one of the three names says which volume, cluster, target or other object it belongs to."""

    type: Annotated[str | None, _Kind()] = None
    volume: Annotated[str | None, At("volume")] = None
    name: Annotated[str | None, At("name")] = None
    target: Annotated[str | None, At("target")] = None

    def named(self) -> Usage | None:
        """The same without what another kind of usage would say; None when it is for nothing in particular.

        :raise XMLError: without a kind.
        :raise InternalError: when the name is missing.
        """
        if not self.type:
            raise XMLError("unknown secret usage type", origin=ErrorDomain.SECRET)
        if self.type == "none":
            return None
        name, refusal = _NAMES[self.type]
        if not getattr(self, name):
            raise InternalError(refusal, origin=ErrorDomain.SECRET)
        return Usage(**{"type": self.type, name: getattr(self, name)})

    @property
    def id(self) -> str:
        """What it is called, whatever its kind."""
        return self.volume or self.name or self.target or ""


@dataclass(kw_only=True)
class Secret:
    """A `<secret>`. The order of the fields is the order of libvirt's XML."""

    #: Kept in memory only.
    ephemeral: Annotated[bool, _Flag("ephemeral")] = False
    #: Its value is for machines, and shown to no caller.
    private: Annotated[bool, _Flag("private")] = False
    uuid: Annotated[uuids.UUID | None, At("uuid"), _Uuid()] = None
    description: Annotated[str | None, At("description")] = None
    usage: Usage | None = None

    @property
    def usage_type(self) -> SecretUsageType:
        """What it is for."""
        return SecretUsageType[(self.usage.type if self.usage and self.usage.type else "none").upper()]

    @property
    def usage_id(self) -> str:
        """Which of these it is for; empty for none."""
        return self.usage.id if self.usage else ""


def parse(text: str, *, validate: bool = False) -> Secret:
    """The secret that TEXT describes, with nothing filled in.

    :raise XMLSyntaxError: when TEXT is not well formed.
    :raise XMLError, InternalError, ConfigUnsupported: when a value is not valid; in libvirt's words.
    :raise XMLSchemaError: with VALIDATE, when TEXT holds what libvirt does not know; it is ignored otherwise.
    """
    try:
        root = document.parse(text, root="secret", name="definition_of_secret")
    except XMLSyntaxError as error:
        raise XMLSyntaxError(error.detail, origin=ErrorDomain.SECRET) from None
    seen = mapping.Seen()
    secret = mapping.read(Secret, root, seen)
    if validate:
        _require_known(root, seen)
    return replace(secret, usage=secret.usage.named() if secret.usage else None)


def _require_known(root: Element, seen: mapping.Seen) -> None:
    for path, value in mapping.unread(root, seen):
        what = "/".join(path) + (f" ({value})" if value else "")
        raise XMLSchemaError(f"unexpected {what}")


def format(secret: Secret) -> str:  # noqa: A001 - the pair of words of this project
    """SECRET as libvirt writes it."""
    root: Any = etree.Element("secret")
    mapping.write(secret, root)
    return document.format(root)
