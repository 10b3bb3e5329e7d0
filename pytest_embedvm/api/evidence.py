"""What is known of a connection's machines, for reports: no name of libvirt's."""

from __future__ import annotations

from pytest_embedvm.api._object import answering
from pytest_embedvm.api.connect import virConnect
from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.driver.evidence import Evidence, of_all

#: pytest shows the line that called, not these.
__tracebackhide__ = True


def evidence(connection: virConnect) -> dict[str, Evidence]:
    """What is known of each machine of CONNECTION's root by its name, those that are gone included.

    :raise libvirtError: INVALID_CONN when the connection is closed.
    """
    with answering():
        connection._session.check("evidence", ErrorDomain.NONE, writes=False)
        return connection._order(of_all)
