"""One domain by what is known of it."""

from __future__ import annotations

import operator

from pytest_embedvm.api import arguments
from pytest_embedvm.api._object import public
from pytest_embedvm.api.connect._base import Base
from pytest_embedvm.api.domain import virDomain
from pytest_embedvm.errors import InvalidCall


class Lookup(Base):
    """lookupBy…: each raises NO_DOMAIN when there is none."""

    @public("virDomainLookupByID")
    def lookupByID(self, id: int) -> virDomain:
        """The running domain with the number ID.

        :raise libvirtError: NO_DOMAIN when none runs with it.
        """
        number = operator.index(id)
        if number < 0:
            raise InvalidCall("id in virDomainLookupByID must be zero or greater")
        return self._found(lambda driver: driver.by_id(number))

    @public("virDomainLookupByName")
    def lookupByName(self, name: str) -> virDomain:
        """The domain with this name.

        :raise libvirtError: NO_DOMAIN when there is none.
        """
        text = arguments.text(name, "name", "virDomainLookupByName")
        return self._found(lambda driver: driver.by_name(text))

    @public("virDomainLookupByUUID")
    def lookupByUUID(self, uuid: bytes) -> virDomain:
        """The domain with these 16 bytes as its uuid.

        :raise libvirtError: NO_DOMAIN when there is none.
        """
        wanted = arguments.uuid_from_bytes(uuid)
        return self._found(lambda driver: driver.by_uuid(wanted))

    @public("virDomainLookupByUUIDString")
    def lookupByUUIDString(self, uuidstr: str) -> virDomain:
        """The domain with this uuid.

        :raise libvirtError: NO_DOMAIN when there is none, INVALID_ARG when this is no uuid.
        """
        wanted = arguments.uuid_from_string(uuidstr)
        return self._found(lambda driver: driver.by_uuid(wanted))
