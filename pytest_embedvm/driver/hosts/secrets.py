"""The host's secrets, as machines use them."""

from __future__ import annotations

import uuid
from typing import Any

from pytest_embedvm.constants import SecretUsageType
from pytest_embedvm.driver.hosts.connection import HostConnection
from pytest_embedvm.driver.secret.private import require_kind
from pytest_embedvm.qemu.parts import SecretRef


class HostSecrets:
    """The secret driver of the host's libvirt; a `sealing.Source`."""

    def __init__(self, connection: HostConnection) -> None:
        self._connection = connection

    async def find_value(self, wanted: SecretRef) -> bytearray:
        """The value that a machine needs; a copy that the caller wipes.

        :raise HostError: when there is no such secret, it has no value, or it is private: libvirt gives those to its
            own drivers only.
        :raise InvalidArgument: when it is for something else.
        """
        return await self._connection.ask(lambda: _value(self._connection.opened, wanted))


def _value(host: Any, wanted: SecretRef) -> bytearray:
    # libvirt: virSecretGetSecretString
    kind = SecretUsageType[wanted.kind.upper()]
    if wanted.uuid is None:
        return bytearray(host.secretLookupByUsage(int(kind), wanted.usage or "").value())
    secret = host.secretLookupByUUID(uuid.UUID(wanted.uuid).bytes)
    require_kind(secret.usageType(), wanted)
    return bytearray(secret.value())
