"""`<encryption>` of a volume: how its bytes are encrypted, and which secret opens them."""

from __future__ import annotations

import uuid as uuids
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.errors import ConfigUnsupported, InvalidArgument
from pytest_embedvm.storage.scalars import Uuid
from pytest_embedvm.xml.mapping import At
from pytest_embedvm.xml.scalars import Choice, Refusal

STORAGE: Final = ErrorDomain.STORAGE

# libvirt: virStorageEncryptionParseNode
_FORMAT: Final = Choice(
    ("default", "qcow", "luks"),
    Refusal("unknown volume encryption format type {}", error=ConfigUnsupported, origin=STORAGE),
)


@dataclass(kw_only=True)
class Secret:
    """`<secret>`: named by its uuid, or by its usage."""

    type: Literal["passphrase"] = "passphrase"
    usage: str | None = None
    uuid: Annotated[uuids.UUID | None, At("@uuid"), Uuid()] = None


@dataclass(kw_only=True)
class Encryption:
    format: Annotated[str, _FORMAT]
    secrets: Annotated[list[Secret], At("secret")] = field(default_factory=list)

    def require_secret(self) -> Secret:
        """The one secret that it needs to be made or opened.

        :raise InvalidArgument: when there is not exactly one.
        :raise ConfigUnsupported: when it is no LUKS.
        """
        if self.format == "qcow":
            # libvirt: storageBackendCreateQemuImgCheckEncryption
            raise ConfigUnsupported(f"volume encryption unsupported with format {self.format}", origin=STORAGE)
        if len(self.secrets) != 1 or not (self.secrets[0].uuid or self.secrets[0].usage):
            # libvirt: storageBackendCreateQemuImgCheckEncryption
            raise InvalidArgument(
                "A single <secret type='passphrase'...> element is expected in encryption description", origin=STORAGE
            )
        return self.secrets[0]
