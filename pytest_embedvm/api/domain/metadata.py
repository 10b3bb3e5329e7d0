"""Title, description, and elements of other programs in a domain."""

from __future__ import annotations

import operator

from pytest_embedvm.api import arguments
from pytest_embedvm.api._object import public
from pytest_embedvm.api.domain._base import Base
from pytest_embedvm.constants import DomainMetadataType, DomainModificationImpact, ErrorDomain
from pytest_embedvm.errors import InvalidArgument, InvalidCall

IMPACT = DomainModificationImpact.LIVE | DomainModificationImpact.CONFIG


class Metadata(Base):
    """metadata and setMetadata."""

    @public("virDomainGetMetadata")
    def metadata(self, type: int, uri: str | None, flags: int = 0) -> str:
        """The description, the title, or the element of the namespace URI.

        :raise libvirtError: NO_DOMAIN_METADATA when there is none.
        """
        kind = _kind(type)
        arguments.impact(flags)
        if kind is DomainMetadataType.ELEMENT:
            arguments.text(uri, "uri", "virDomainGetMetadata")
        else:
            arguments.absent(uri, "uri", "virDomainGetMetadata")
        # libvirt: this one check is not the QEMU driver's own
        checked = arguments.known(flags, IMPACT, "virDomainObjGetMetadata", origin=ErrorDomain.DOMAIN)
        return self._ask(lambda machine: machine.metadata(kind, uri, checked))

    @public("virDomainSetMetadata", writes=True)
    def setMetadata(self, type: int, metadata: str | None, key: str | None, uri: str | None, flags: int = 0) -> int:
        """Set the description, the title, or the element of the namespace URI with prefix KEY; None removes it.

        :raise libvirtError: XML_DETAIL when the element is not well formed.
        """
        kind = _kind(type)
        if kind is DomainMetadataType.TITLE and "\n" in (metadata or ""):
            raise InvalidCall("metadata title can't contain newlines")
        if kind is not DomainMetadataType.ELEMENT:
            arguments.absent(uri, "uri", "virDomainSetMetadata")
            arguments.absent(key, "key", "virDomainSetMetadata")
        else:
            arguments.text(uri, "uri", "virDomainSetMetadata")
            if metadata is not None:
                arguments.text(key, "key", "virDomainSetMetadata")
        checked = arguments.known(flags, IMPACT, "qemuDomainSetMetadata")
        self._order(lambda machine: machine.set_metadata(kind, metadata, key, uri, checked))
        return 0


def _kind(number: int) -> DomainMetadataType:
    if operator.index(number) not in tuple(DomainMetadataType):
        raise InvalidArgument(f"unknown metadata type '{number}'", origin=ErrorDomain.DOMAIN)
    return DomainMetadataType(number)
