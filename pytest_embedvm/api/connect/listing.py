"""All domains, or those that match."""

from __future__ import annotations

from pytest_embedvm.api import arguments
from pytest_embedvm.api._object import public
from pytest_embedvm.api.connect._base import Base
from pytest_embedvm.api.domain import virDomain
from pytest_embedvm.api.domain._base import identify
from pytest_embedvm.constants import ConnectListAllDomainsFlags

EVERY_FILTER = ConnectListAllDomainsFlags(0xFFFF)
RUNNING = ConnectListAllDomainsFlags.ACTIVE
DEFINED = ConnectListAllDomainsFlags.INACTIVE


class Listing(Base):
    """list… and numOf…."""

    @public("virConnectListAllDomains")
    def listAllDomains(self, flags: int = 0) -> list[virDomain]:
        """All domains that match each group of the filters in FLAGS (`VIR_CONNECT_LIST_DOMAINS_*`)."""
        checked = arguments.known(flags, EVERY_FILTER, "qemuConnectListAllDomains")
        found = self._ask(lambda driver: [identify(machine) for machine in driver.machines(checked)])
        return [self._domain(identity) for identity in found]

    @public("virConnectListDomains")
    def listDomainsID(self) -> list[int]:
        """The numbers of those that run."""
        return self._ask(lambda driver: [machine.id for machine in driver.machines(RUNNING)])

    @public("virConnectNumOfDomains")
    def numOfDomains(self) -> int:
        """How many run."""
        return self._ask(lambda driver: len(driver.machines(RUNNING)))

    @public("virConnectListDefinedDomains")
    def listDefinedDomains(self) -> list[str]:
        """The names of those that do not run."""
        return self._ask(lambda driver: [machine.name for machine in driver.machines(DEFINED)])

    @public("virConnectNumOfDefinedDomains")
    def numOfDefinedDomains(self) -> int:
        """How many do not run."""
        return self._ask(lambda driver: len(driver.machines(DEFINED)))
