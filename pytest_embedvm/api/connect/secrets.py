"""The secrets of a root."""

from __future__ import annotations

import operator
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from pytest_embedvm.api import arguments
from pytest_embedvm.api._object import public
from pytest_embedvm.api.connect.callbacks import Callbacks, event_kind
from pytest_embedvm.api.secret import SECRET, SecretIdentity, identify, virSecret
from pytest_embedvm.constants import ConnectListAllSecretsFlags as List
from pytest_embedvm.constants import SecretDefineFlags, SecretEventID
from pytest_embedvm.driver.filters import meets
from pytest_embedvm.driver.secret.private import LiveSecret, PrivateSecrets
from pytest_embedvm.errors import InvalidCall

if TYPE_CHECKING:
    from pytest_embedvm.api.connect import virConnect

EVERY_FILTER = List.EPHEMERAL | List.NO_EPHEMERAL | List.PRIVATE | List.NO_PRIVATE


class Secrets(Callbacks):
    """secret…, listAllSecrets and its kin."""

    def _secret(self, search: Callable[[PrivateSecrets], LiveSecret]) -> virSecret:
        return self._virsecret(self._ask(lambda driver: identify(search(driver.secrets))))

    def _virsecret(self, identity: SecretIdentity) -> virSecret:
        return virSecret(cast("virConnect", self), identity)

    @public("virSecretDefineXML", writes=True, origin=SECRET)
    def secretDefineXML(self, xml: str, flags: int = 0) -> virSecret:
        """Keep a secret in the root, or change the one with its uuid; `setValue` gives it a value.

        :raise libvirtError: XML_DETAIL, XML_ERROR, INTERNAL_ERROR, CONFIG_UNSUPPORTED for what the XML says;
            INTERNAL_ERROR also when another one has its usage.
        """
        text = arguments.text(xml, "xml", "virSecretDefineXML", SECRET)
        checked = arguments.known(flags, SecretDefineFlags.DEFINE_VALIDATE, "secretDefineXML", SECRET)
        return self._secret(lambda secrets: secrets.define(text, validate=bool(checked)))

    @public("virSecretLookupByUUID", origin=SECRET)
    def secretLookupByUUID(self, uuid: bytes) -> virSecret:
        """The secret with these 16 bytes as its uuid.

        :raise libvirtError: NO_SECRET when there is none.
        """
        return self._secret_by_uuid(arguments.uuid_from_bytes(uuid))

    @public("virSecretLookupByUUIDString", origin=SECRET)
    def secretLookupByUUIDString(self, uuidstr: str) -> virSecret:
        """The secret with this uuid.

        :raise libvirtError: NO_SECRET when there is none, INVALID_ARG when this is no uuid.
        """
        text = arguments.text(uuidstr, "uuidstr", "virSecretLookupByUUIDString", SECRET)
        try:
            wanted = arguments.uuid_from_string(text)
        except InvalidCall:
            # libvirt: virSecretLookupByUUIDString
            raise InvalidCall("uuidstr in virSecretLookupByUUIDString must be a valid UUID", origin=SECRET) from None
        return self._secret_by_uuid(wanted)

    def _secret_by_uuid(self, wanted: uuid.UUID) -> virSecret:
        return self._secret(lambda secrets: secrets.by_uuid(wanted))

    @public("virSecretLookupByUsage", origin=SECRET)
    def secretLookupByUsage(self, usageType: int, usageID: str) -> virSecret:
        """The secret that is for USAGEID, of the kind USAGETYPE (`VIR_SECRET_USAGE_TYPE_*`).

        :raise libvirtError: NO_SECRET when there is none.
        """
        kind, usage = operator.index(usageType), arguments.text(usageID, "usageID", "virSecretLookupByUsage", SECRET)
        return self._secret(lambda secrets: secrets.by_usage(kind, usage))

    @public("virConnectListAllSecrets", origin=SECRET)
    def listAllSecrets(self, flags: int = 0) -> list[virSecret]:
        """All secrets that match each group of the filters in FLAGS (`VIR_CONNECT_LIST_SECRETS_*`)."""
        wanted = arguments.known(flags, EVERY_FILTER, "secretConnectListAllSecrets", SECRET)
        found = self._ask(lambda driver: [identify(secret) for secret in driver.secrets if _matches(secret, wanted)])
        return [self._virsecret(identity) for identity in found]

    @public("virConnectNumOfSecrets", origin=SECRET)
    def listSecrets(self) -> list[str]:
        """The uuids of all secrets."""
        return self._ask(lambda driver: [str(secret.uuid) for secret in driver.secrets])

    @public("virConnectNumOfSecrets", origin=SECRET)
    def numOfSecrets(self) -> int:
        """How many there are."""
        return self._ask(lambda driver: len(list(driver.secrets)))

    @public("virConnectSecretEventRegisterAny", origin=SECRET)
    def secretEventRegisterAny(
        self, secret: virSecret | None, eventID: int, cb: Callable[..., Any], opaque: object
    ) -> int:
        """Have CB called for each event EVENTID (`VIR_SECRET_EVENT_ID_*`) of SECRET, or of all secrets.

        CB takes (conn, secret, event, detail, opaque) for a lifecycle event, (conn, secret, opaque) for a value that
        changed. Returns a number for `secretEventDeregisterAny`.

        :raise libvirtError: NO_SECRET when SECRET is gone.
        """
        kind = event_kind(eventID, SecretEventID, "virConnectSecretEventRegisterAny")
        find = None if secret is None else secret._find
        return self._register_object_event(kind, find, lambda found: self._virsecret(identify(found)), cb, opaque)

    @public("virConnectSecretEventDeregisterAny", origin=SECRET)
    def secretEventDeregisterAny(self, callbackID: int) -> None:
        """Have a callback called no more, from inside it too.

        :raise libvirtError: INVALID_ARG when this connection has none with this number.
        """
        self._require_deregister(callbackID, "virConnectSecretEventDeregisterAny", SecretEventID)


def _matches(secret: LiveSecret, wanted: List) -> bool:
    # libvirt: virSecretObjMatch
    groups = (
        {List.EPHEMERAL: secret.secret.ephemeral, List.NO_EPHEMERAL: not secret.secret.ephemeral},
        {List.PRIVATE: secret.secret.private, List.NO_PRIVATE: not secret.secret.private},
    )
    return meets(wanted, groups)
