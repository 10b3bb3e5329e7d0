"""A domain as XML."""

from __future__ import annotations

import operator

from pytest_embedvm.api import arguments
from pytest_embedvm.api._object import public
from pytest_embedvm.api.domain._base import Base
from pytest_embedvm.constants import DomainXMLFlags
from pytest_embedvm.errors import OperationDenied

XML = DomainXMLFlags.SECURE | DomainXMLFlags.INACTIVE | DomainXMLFlags.UPDATE_CPU | DomainXMLFlags.MIGRATABLE

#: libvirt: virDomainGetXMLDesc
REVEALING = DomainXMLFlags.SECURE | DomainXMLFlags.MIGRATABLE


class Definition(Base):
    """XMLDesc."""

    @public("virDomainGetXMLDesc")
    def XMLDesc(self, flags: int = 0) -> str:
        """The XML of the running machine; of its definition when it does not run, or with VIR_DOMAIN_XML_INACTIVE.

        :raise libvirtError: OPERATION_DENIED when passwords are asked for on a read-only connection.
        """
        if self._session.readonly and operator.index(flags) & REVEALING:
            raise OperationDenied("virDomainGetXMLDesc with secure flag")
        checked = arguments.known(flags, XML, "qemuDomainGetXMLDesc")
        return self._ask(lambda machine: machine.xml(checked))
