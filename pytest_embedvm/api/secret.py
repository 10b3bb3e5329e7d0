"""A secret of a root."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from pytest_embedvm.api import arguments
from pytest_embedvm.api._object import public
from pytest_embedvm.api._part import NumberedPart, Secondary
from pytest_embedvm.api.elsewhere import hosted
from pytest_embedvm.api.unsupported import unsupported
from pytest_embedvm.constants import ErrorDomain, SecretDefineFlags
from pytest_embedvm.driver.driver import Driver
from pytest_embedvm.driver.secret.private import LiveSecret, PrivateSecrets
from pytest_embedvm.errors import InvalidCall

if TYPE_CHECKING:
    from pytest_embedvm.api.connect import virConnect

SECRET = ErrorDomain.SECRET
NO_FLAGS = SecretDefineFlags(0)


@dataclass(frozen=True)
class SecretIdentity:
    """What a virSecret keeps when its secret is gone."""

    uuid: uuid.UUID
    usage_type: int
    usage_id: str


def identify(secret: LiveSecret) -> SecretIdentity:
    return SecretIdentity(secret.uuid, int(secret.secret.usage_type), secret.secret.usage_id)


@hosted
@unsupported
class virSecret(NumberedPart[SecretIdentity], Secondary[PrivateSecrets, LiveSecret]):
    """A secret. Made by a connection; it is looked up anew at each call."""

    @classmethod
    def _of_host(cls, conn: virConnect, theirs: Any) -> Self:
        return cls(conn, SecretIdentity(uuid.UUID(bytes=theirs.UUID()), theirs.usageType(), theirs.usageID()))

    def _at_host(self, host: Any) -> Any:
        return host.secretLookupByUUID(self.UUID())

    @staticmethod
    def _among(driver: Driver) -> PrivateSecrets:
        return driver.secrets

    def _find(self, driver: Driver) -> LiveSecret:
        return driver.secrets.by_uuid(self._identity.uuid)

    def usageType(self) -> int:
        """What it is for: `VIR_SECRET_USAGE_TYPE_*`."""
        return self._identity.usage_type

    def usageID(self) -> str:
        """Which of these it is for; empty for none."""
        return self._identity.usage_id

    @public("virSecretGetXMLDesc", origin=SECRET)
    def XMLDesc(self, flags: int = 0) -> str:
        """The secret as `<secret>`; its value is not in it."""
        arguments.known(flags, NO_FLAGS, "secretGetXMLDesc", SECRET)
        return self._ask(lambda _, secret: secret.xml)

    @public("virSecretSetValue", writes=True, origin=SECRET)
    def setValue(self, value: bytes | str, flags: int = 0) -> int:
        """Give it a value, bytes of any kind; text is encoded as UTF-8.

        :raise libvirtError: NO_SECRET when it is gone.
        """
        if value is None:
            raise InvalidCall("value in virSecretSetValue must not be NULL", origin=SECRET)
        arguments.known(flags, NO_FLAGS, "secretSetValue", SECRET)
        raw = value.encode() if isinstance(value, str) else bytes(memoryview(value))
        self._ask(lambda secrets, secret: secrets.set_value(secret, raw))
        return 0

    @public("virSecretGetValue", writes=True, origin=SECRET)
    def value(self, flags: int = 0) -> bytes:
        """Its value.

        :raise libvirtError: INVALID_SECRET when it is private, NO_SECRET when it has none.
        """
        arguments.known(flags, NO_FLAGS, "secretGetValue", SECRET)
        return self._ask(PrivateSecrets.value)

    @public("virSecretUndefine", writes=True, origin=SECRET)
    def undefine(self) -> int:
        """Forget it and its value.

        :raise libvirtError: NO_SECRET when it is gone.
        """
        self._ask(PrivateSecrets.undefine)
        return 0
