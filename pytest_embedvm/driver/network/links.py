"""What can be done to the cards of a machine that runs, and to their links."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, TypeAlias

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.domain.devices.interface import Interface
from pytest_embedvm.driver.network.segment import Link
from pytest_embedvm.errors import InvalidArgument, OperationInvalid, OperationUnsupported

#: What a cable can be; libvirt: virDomainNetInterfaceLinkState
State: TypeAlias = Literal["up", "down"]

if TYPE_CHECKING:
    from pytest_embedvm.domain.model import Domain
    from pytest_embedvm.driver.machine import Machine
    from pytest_embedvm.driver.running import Running
    from pytest_embedvm.network.impairment import Impairment


def macs(domain: Domain) -> list[str]:
    """The MAC addresses of DOMAIN's cards, in its order."""
    return [found.mac or "" for found in _cards(domain)]


def _cards(domain: Domain) -> list[Interface]:
    return [device for device in domain.devices.all if isinstance(device, Interface)]


def card(machine: Machine, mac: str) -> Interface:
    """The card of running MACHINE with this MAC.

    :raise OperationInvalid: when it does not run.
    :raise InvalidArgument: when it has none.
    """
    if machine.live is None:
        raise OperationInvalid("domain is not running")
    cards = _cards(machine.live)
    for found in cards:
        if found.mac == mac.lower():
            return found
    there = ", ".join(f"{found.id} ({found.mac})" for found in cards) or "none"
    raise InvalidArgument(f"domain '{machine.name}' has no card with MAC address {mac}; it has {there}")


async def set_link(running: Running, interface: Interface, state: State) -> None:
    """Have the guest see a carrier at INTERFACE, or none; while there is none, nothing passes.

    :raise CommandError: when QEMU refuses.
    """
    # libvirt: qemuDomainChangeNetLinkState
    await running.monitor.execute("set_link", {"name": interface.id, "up": state == "up"})
    interface.link = state


async def set_link_of(machine: Machine, mac: str, state: State) -> None:
    """`set_link` for the card with this MAC.

    :raise OperationInvalid, InvalidArgument: as `card`.
    """
    async with machine.changing("set_link") as running:
        interface = card(machine, mac)
        if running is None:
            raise OperationInvalid("domain is not running")
        await set_link(running, interface, state)
        machine.driver.recordings.mark(machine.name)


def link(machine: Machine, mac: str) -> Link:
    """The place on its network of the card with this MAC.

    :raise OperationInvalid, InvalidArgument: as `card`.
    :raise OperationUnsupported: when it is not on a network of the root's, or that was stopped under it.
    """
    interface = card(machine, mac)
    name = _private_network(interface)
    if name is None:
        where = (
            f"is in bridge '{interface.bridge}' of the host's" if interface.bridge else f"has type '{interface.type}'"
        )
        raise OperationUnsupported(
            f"card {interface.id} ({mac}) of domain '{machine.name}' is on no network of the root's: "
            f"its <interface> {where}",
            origin=ErrorDomain.NETWORK,
        )
    found = _place(machine, interface, name)
    if found is not None:
        return found
    raise OperationUnsupported(
        f"card {interface.id} ({mac}) of domain '{machine.name}' has lost network '{name}', which was stopped",
        origin=ErrorDomain.NETWORK,
    )


def _private_network(interface: Interface) -> str | None:
    return (
        interface.source.network if interface.type == "network" and interface.source and not interface.bridge else None
    )


def _place(machine: Machine, interface: Interface, network: str) -> Link | None:
    segment = next((found.segment for found in machine.driver.networks if found.name == network), None)
    links = segment.links.values() if segment else ()
    return next((link for link in links if (link.port.name, link.guest) == (interface.mac, machine.name)), None)


def silence(machine: Machine, former: Mapping[str, str]) -> None:
    """Have nobody hear what the cards of MACHINE say with the addresses FORMER, by their own, on the root's networks.

    A guest that goes on from a template says it before it is told that it is another, and others may be the same.
    """
    for interface in _cards(machine.live) if machine.live else ():
        name, mac = _private_network(interface), former.get(interface.mac or "")
        place = _place(machine, interface, name) if name else None
        if place is not None and mac:
            place.unheard = bytes.fromhex(mac.replace(":", ""))


def impairments(machine: Machine, mac: str) -> tuple[Impairment, Impairment]:
    """What is wrong with the link of the card with this MAC: with what comes in, and with what goes out.

    :raise: as `link`.
    """
    found = link(machine, mac)
    return found.inward.impairment, found.outward.impairment


def impair(machine: Machine, mac: str, inward: Impairment, outward: Impairment) -> None:
    """Let this be wrong with the link of the card with this MAC, and nothing else.

    :raise InvalidArgument: also when a value cannot be one.
    :raise: as `link`.
    """
    for impairment in (inward, outward):
        impairment.check()
    found = link(machine, mac)
    found.inward.impairment, found.outward.impairment = inward, outward
