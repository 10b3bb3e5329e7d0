"""The machines of a root, ended without waiting for their end: no name of libvirt's."""

from __future__ import annotations

from pytest_embedvm.api._object import answering
from pytest_embedvm.api.connect import virConnect
from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.driver.stop import kill_all

#: pytest shows the line that called, not these.
__tracebackhide__ = True


def kill_machines(connection: virConnect) -> bool:
    """End every QEMU of CONNECTION's root now; its `close`, which is to follow, waits until nothing is left of them.

    False, and nothing is done, when that would take something from somebody: another connection has the root open, or
    callbacks are still to hear of it.

    :raise libvirtError: INVALID_CONN when the connection is closed.
    """
    with answering():
        connection._session.check("kill", ErrorDomain.NONE, writes=True)
        return not connection._session.callbacks and connection._ask(kill_all)
