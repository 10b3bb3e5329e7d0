"""What goes wrong with a network on purpose: no names of libvirt's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeVar

from pytest_embedvm.api._object import LibvirtObject, Session, answering
from pytest_embedvm.api.domain import virDomain
from pytest_embedvm.api.network import virNetwork
from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.driver.network import links
from pytest_embedvm.network.impairment import Impairment
from pytest_embedvm.network.partition import Deaf, Fault, Partition
from pytest_embedvm.network.switch import Switch

__all__ = ["Impairment", "NetworkFault", "deafen", "heal", "impair", "impairments", "partition", "set_link"]

#: pytest shows the line that called, not these.
__tracebackhide__ = True

T = TypeVar("T")


def checked(target: LibvirtObject, function: str, call: Callable[[], T], *, writes: bool = True) -> T:
    """What CALL returns, as a call of FUNCTION on TARGET's connection that WRITES."""
    with answering():
        target._session.check(function, ErrorDomain.NETWORK, writes=writes)
        return call()


def set_link(domain: virDomain, mac: str, *, up: bool) -> None:
    """Plug or pull the cable of DOMAIN's card with this MAC: the guest sees its carrier come or go.

    :raise libvirtError: OPERATION_INVALID when the domain does not run, INVALID_ARG when it has no such card.
    """
    state: links.State = "up" if up else "down"
    checked(domain, "set_link", lambda: domain._order(lambda machine: links.set_link_of(machine, mac, state)))


def impairments(domain: virDomain, mac: str) -> tuple[Impairment, Impairment]:
    """What is wrong with the link of DOMAIN's card with this MAC: with what comes in, and with what goes out.

    :raise libvirtError: as `impair`.
    """
    ask = partial(domain._ask, lambda machine: links.impairments(machine, mac))
    return checked(domain, "impairments", ask, writes=False)


def impair(domain: virDomain, mac: str, inward: Impairment, outward: Impairment) -> None:
    """Let this be wrong with the link of DOMAIN's card with this MAC, and nothing else, as long as the card is there.

    :raise libvirtError: OPERATION_INVALID when the domain does not run, INVALID_ARG when it has no such card or a value
        cannot be one, OPERATION_UNSUPPORTED when the card is not on a network of the root's.
    """
    ask = partial(domain._ask, lambda machine: links.impair(machine, mac, inward, outward))
    checked(domain, "impair", ask)


class NetworkFault:
    """What was torn in a network, until it is mended."""

    def __init__(self, session: Session, switch: Switch, fault: Fault) -> None:
        self._session = session
        self._switch = switch
        self._fault = fault

    def mend(self) -> None:
        """End it; nothing to do when it was healed, or the network or its connection is gone."""
        if not self._session.closed:
            self._session.loop.run(self._mend())

    async def _mend(self) -> None:
        if self._fault in self._switch.faults:
            self._switch.faults.remove(self._fault)


def partition(network: virNetwork, sides: Iterable[Iterable[str]]) -> NetworkFault:
    """Have only the cards of one side, by their MACs, hear each other; those that no side names are one side, too.

    Cards that come later with these MACs count. The network's own host, which has the addresses and names, is heard by
    all. It ends with `mend()` or `heal()`, and when the network is stopped.

    :raise libvirtError: OPERATION_INVALID when NETWORK is not active.
    """
    return _torn(network, "partition", Partition(map(_lower, sides)))


def deafen(network: virNetwork, sources: Iterable[str], targets: Iterable[str]) -> NetworkFault:
    """Lose what cards SOURCES send to cards TARGETS, by their MACs; the other way round nothing changes.

    :raise libvirtError: OPERATION_INVALID when NETWORK is not active.
    """
    return _torn(network, "deafen", Deaf(_lower(sources), _lower(targets)))


def _lower(macs: Iterable[str]) -> list[str]:
    return [mac.lower() for mac in macs]


def _torn(network: virNetwork, function: str, fault: Fault) -> NetworkFault:
    def tear() -> NetworkFault:
        return network._ask(lambda _, live: _add(network._session, live.require_segment().switch, fault))

    return checked(network, function, tear)


def _add(session: Session, switch: Switch, fault: Fault) -> NetworkFault:
    switch.faults.append(fault)
    return NetworkFault(session, switch, fault)


def heal(network: virNetwork) -> None:
    """End every `partition` and `deafen` of NETWORK.

    :raise libvirtError: OPERATION_INVALID when it is not active.
    """
    checked(network, "heal", lambda: network._ask(lambda _, live: live.require_segment().switch.faults.clear()))
