"""New domains, and streams for them."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, cast

from pytest_embedvm.api import arguments
from pytest_embedvm.api._object import public
from pytest_embedvm.api.connect._base import Base
from pytest_embedvm.api.domain import virDomain
from pytest_embedvm.api.stream import virStream
from pytest_embedvm.constants import DomainCreateFlags, DomainDefineFlags, StreamFlags

if TYPE_CHECKING:
    from pytest_embedvm.api.connect import virConnect

CREATE = (
    DomainCreateFlags.START_PAUSED
    | DomainCreateFlags.START_AUTODESTROY
    | DomainCreateFlags.START_VALIDATE
    | DomainCreateFlags.START_RESET_NVRAM
)


class Creation(Base):
    """createXML, defineXML, newStream."""

    @public("virDomainCreateXML", writes=True)
    def createXML(self, xmlDesc: str, flags: int = 0) -> virDomain:
        """Start a transient domain; it is gone when it stops.

        :raise libvirtError: XML_DETAIL, XML_ERROR, CONFIG_UNSUPPORTED for what the XML says.
        """
        return self._create(xmlDesc, flags, "virDomainCreateXML")

    @public("virDomainCreateLinux", writes=True)
    def createLinux(self, xmlDesc: str, flags: int = 0) -> virDomain:
        """The old name of `createXML`."""
        return self._create(xmlDesc, flags, "virDomainCreateLinux")

    def _create(self, xml: str, flags: int, function: str) -> virDomain:
        text = arguments.text(xml, "xmlDesc", function)
        checked = arguments.known(flags, CREATE, "qemuDomainCreateXML")
        return self._made(lambda driver: driver.create_xml(text, checked, self._session.client))

    @public("virDomainDefineXML", writes=True)
    def defineXML(self, xml: str) -> virDomain:
        """Keep a domain in the root, or change the one with its uuid; it does not start.

        :raise libvirtError: XML_DETAIL, XML_ERROR, CONFIG_UNSUPPORTED for what the XML says.
        """
        text = arguments.text(xml, "xml", "virDomainDefineXML")
        return self._made(lambda driver: driver.define_xml(text, DomainDefineFlags(0)))

    @public("virDomainDefineXMLFlags", writes=True)
    def defineXMLFlags(self, xml: str, flags: int = 0) -> virDomain:
        """Like `defineXML`; VIR_DOMAIN_DEFINE_VALIDATE refuses what libvirt's schema does not know.

        :raise libvirtError: also XML_INVALID_SCHEMA.
        """
        text = arguments.text(xml, "xml", "virDomainDefineXMLFlags")
        checked = arguments.known(flags, DomainDefineFlags.DEFINE_VALIDATE, "qemuDomainDefineXMLFlags")
        return self._made(lambda driver: driver.define_xml(text, checked))

    @public("virStreamNew")
    def newStream(self, flags: int = 0) -> virStream:
        """A stream with nothing behind it yet. With VIR_STREAM_NONBLOCK it never waits for bytes."""
        # libvirt: virStreamNew passes flags it does not know on, and nobody looks
        return virStream(cast("virConnect", self), StreamFlags(operator.index(flags) & StreamFlags.NONBLOCK))
