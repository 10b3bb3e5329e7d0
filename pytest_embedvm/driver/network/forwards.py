"""Ports of the host's loopback that lead into a running machine, by whatever its cards are connected to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.domain.backends.netdev import netdev_id
from pytest_embedvm.domain.devices.interface import Interface
from pytest_embedvm.driver.network import hostfwd, links
from pytest_embedvm.errors import InvalidArgument, OperationInvalid, OperationUnsupported

if TYPE_CHECKING:
    from pytest_embedvm.driver.machine import Machine
    from pytest_embedvm.driver.running import Running

Protocol = Literal["tcp", "udp"]


async def forward(machine: Machine, mac: str, port: int, protocol: Protocol) -> tuple[str, int]:
    """The host's address and port that lead to PORT of MACHINE's card with this MAC, as long as the machine runs.

    Asked again, the answer is the same.

    :raise InvalidArgument: when there is no such card or port.
    :raise OperationInvalid: when the machine does not run, or its network was stopped.
    :raise OperationUnsupported: when what the card is connected to forwards nothing.
    :raise OperationFailed: when no port can be opened.
    """
    if protocol not in ("tcp", "udp") or not 1 <= port <= 65535:
        raise InvalidArgument(f"there is no {protocol} port {port}", origin=ErrorDomain.NETWORK)
    async with machine.changing("forward") as running:
        card = links.card(machine, mac)
        if running is None:
            raise OperationInvalid("domain is not running")
        if card.type == "network" and not card.bridge and card.source and card.source.network:
            uplink = machine.driver.networks.by_name(card.source.network).require_uplink()
            links.link(machine, mac)  # it is still on it
            return await uplink.forward(str(card.mac), port, protocol)
        if card.type == "user" and not card.uses_passt:
            return await _slirp(running, card, port, protocol)
        return _declared(card, port, protocol)


async def _slirp(running: Running, card: Interface, port: int, protocol: Protocol) -> tuple[str, int]:
    async def ask(line: str) -> str:
        return str(await running.monitor.execute("human-monitor-command", {"command-line": line}))

    return await hostfwd.forward(ask, netdev_id(card.id), protocol, "", port)


def _declared(card: Interface, port: int, protocol: Protocol) -> tuple[str, int]:
    """What passt was told as it was started; it takes no orders later."""
    for entry in card.forwards if card.uses_passt else ():
        for ports in entry.ranges:
            offset = port - ports.target
            if entry.proto == protocol and not ports.exclude and 0 <= offset < len(ports.ports):
                return (entry.address or hostfwd.LOOPBACK, ports.ports[offset])
    how = f"it is in bridge '{card.bridge}' of the host's" if card.bridge else f"its <interface> has type '{card.type}'"
    how = "passt forwards what <portForward> says" if card.uses_passt else how
    raise OperationUnsupported(
        f"{protocol} port {port} of card {card.id} ({card.mac}) cannot be forwarded: {how}", origin=ErrorDomain.NETWORK
    )
