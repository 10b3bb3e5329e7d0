"""`<encryption>`: how an image's bytes are encrypted, and which secret opens it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.errors import ConfigUnsupported, InternalError, XMLError
from pytest_embedvm.qemu.parts import SecretPart, SecretRef, SecretUse
from pytest_embedvm.xml.mapping import At
from pytest_embedvm.xml.scalars import Choice, Refusal, Scalar, Where

#: The formats of images that QEMU encrypts (libvirt: qemuDomainValidateStorageSource).
WITH_ENCRYPTION: Final = ("raw", "qcow2")

_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}")

_FORMATS: Final = {
    "luks": None,
    "luks2": "luks2 is currently not supported by the qemu encryption engine",
    "qcow": "old qcow/qcow2 encryption is not supported",
    "default": "old qcow/qcow2 encryption is not supported",
}


# libvirt: virStorageEncryptionParseXML
_FORMAT: Final = Choice(
    tuple(_FORMATS), Refusal("unknown volume encryption format type {}", ConfigUnsupported, ErrorDomain.STORAGE)
)
# libvirt: virStorageEncryptionSecretParse
_SECRET_TYPE: Final = Choice(
    ("passphrase",), Refusal("unknown volume encryption secret type {}", ConfigUnsupported, ErrorDomain.STORAGE)
)


class SecretUuid(Scalar[str]):
    """The uuid by which a secret is looked up."""

    def read(self, text: str, where: Where) -> str:
        if not _UUID.fullmatch(text.strip()):
            # libvirt: virSecretLookupParseSecret
            raise XMLError(f"invalid secret uuid '{text}'", origin=ErrorDomain.NONE)
        digits = text.strip().replace("-", "").lower()
        return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))

    def write(self, value: str) -> str:
        return value


def reference(kind: SecretUse, uuid: str | None, usage: str | None) -> SecretRef:
    """The secret that is called by one of both.

    :raise XMLError: when neither is given, or both are.
    """
    # libvirt: virSecretLookupParseSecret
    if uuid is None and usage is None:
        raise XMLError("missing secret uuid or usage attribute", origin=ErrorDomain.NONE)
    if uuid is not None and usage is not None:
        raise XMLError("either secret uuid or usage expected", origin=ErrorDomain.NONE)
    return SecretRef(kind, uuid, usage)


@dataclass(kw_only=True)
class Passphrase:
    """`<secret>` of `<encryption>`: by uuid, or by the volume that it is for."""

    type: Annotated[str | None, _SECRET_TYPE] = None
    uuid: Annotated[str | None, SecretUuid()] = None
    usage: str | None = None


@dataclass(kw_only=True)
class Encryption:
    format: Annotated[str | None, _FORMAT] = None
    engine: Literal["qemu", "librbd"] | None = None
    secrets: Annotated[list[Passphrase], At("secret")] = field(default_factory=list)

    def check(self, image_format: str) -> None:
        """Refuse what QEMU cannot open.

        :raise XMLError, ConfigUnsupported: in libvirt's words.
        """
        if self.format is None:
            raise XMLError("unknown volume encryption format", origin=ErrorDomain.STORAGE)
        for secret in self.secrets:
            if secret.type is None:
                raise XMLError("unknown volume encryption secret type", origin=ErrorDomain.STORAGE)
            reference("volume", secret.uuid, secret.usage)
        # libvirt: qemuDomainValidateStorageSource
        if self.engine == "librbd":
            raise ConfigUnsupported(
                "librbd encryption is supported only with RBD backed disks", origin=ErrorDomain.QEMU
            )
        if refusal := _FORMATS[self.format]:
            raise ConfigUnsupported(refusal, origin=ErrorDomain.QEMU)
        if image_format not in WITH_ENCRYPTION:
            raise ConfigUnsupported(
                "encryption is supported only with 'raw' and 'qcow2' image format", origin=ErrorDomain.QEMU
            )

    def complete(self) -> None:
        self.engine = self.engine or "qemu"  # libvirt: virDomainDiskDefPostParse's virStorageEncryption default

    def part(self, node: str) -> SecretPart:
        """What opens NODE of QEMU's, which is an image.

        :raise InternalError: when no secret is named.
        """
        if not self.secrets:
            # libvirt: qemuBlockStorageSourceGetBlockdevFormatProps
            raise InternalError("missing secret info for 'luks' driver")
        first = self.secrets[0]
        # libvirt: qemuAliasForSecret
        return SecretPart(f"{node}-encryption-secret0", reference("volume", first.uuid, first.usage))
