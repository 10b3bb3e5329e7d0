"""Ports of the host that lead into a guest: no name of libvirt's."""

from __future__ import annotations

from typing import Literal

from pytest_embedvm.api.domain import virDomain
from pytest_embedvm.api.faults import checked
from pytest_embedvm.driver.network import forwards

__all__ = ["forward"]

#: pytest shows the line that called, not these.
__tracebackhide__ = True


def forward(domain: virDomain, mac: str, port: int, protocol: Literal["tcp", "udp"] = "tcp") -> tuple[str, int]:
    """The address and port of the host's loopback that lead to PORT of DOMAIN's card with this MAC.

    They are there as long as the domain runs, and are the same when asked for again. The host's kernel chooses the
    port. Nothing need listen in the guest yet, nor the guest have an address.

    :raise libvirtError: OPERATION_INVALID when the domain does not run, INVALID_ARG when it has no such card or there
        is no such port, OPERATION_UNSUPPORTED when nothing can be forwarded to the card, OPERATION_FAILED when the host
        has no port left.
    """
    return checked(
        domain, "forward", lambda: domain._order(lambda machine: forwards.forward(machine, mac, port, protocol))
    )
