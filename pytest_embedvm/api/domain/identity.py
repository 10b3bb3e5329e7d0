"""Who a domain is."""

from __future__ import annotations

from pytest_embedvm.api._object import public
from pytest_embedvm.api.domain._base import Base
from pytest_embedvm.driver.machine import Machine
from pytest_embedvm.errors import NoDomain


class Identification(Base):
    """What of it may change."""

    @public("virDomainGetID")
    def ID(self) -> int:
        """The number of the running machine; -1 when it does not run, or is gone."""
        try:
            return self._ask(lambda machine: machine.id)
        except NoDomain:
            return -1  # libvirt: virDomainGetID never fails for a domain that is gone

    @public("virDomainGetOSType")
    def OSType(self) -> str:
        """`hvm`, for all that QEMU runs."""
        return self._ask(_os_type)


def _os_type(machine: Machine) -> str:
    return (machine.live or machine.definition).os.type or "hvm"
