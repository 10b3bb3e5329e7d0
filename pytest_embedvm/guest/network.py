"""What goes wrong with a VM's network, on purpose: cables, partitions, delay and loss."""

from __future__ import annotations

import contextlib
import dataclasses
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, Self, TypeAlias, get_args

from pytest_embedvm import embed, libvirt
from pytest_embedvm.guest.errors import NoCard

if TYPE_CHECKING:
    from pytest_embedvm.guest.vm import VM

#: pytest shows the line that called, not these.
__tracebackhide__ = True

P = ParamSpec("P")

#: A card's MAC, or its number in the domain's XML, from 0.
Which: TypeAlias = str | int | None
Direction = Literal["both", "in", "out"]


@dataclass(frozen=True)
class Card:
    """A network card of a running domain."""

    mac: str
    alias: str
    type: str
    #: The network it is on; None where that has no name.
    network: str | None
    up: bool

    def __str__(self) -> str:
        where = f"on network {self.network!r}" if self.network else f"of type {self.type!r}"
        return f"{self.alias} ({self.mac}, {where})"


def cards(domain: libvirt.virDomain) -> list[Card]:
    """The cards of DOMAIN, in the order of its XML."""
    found = []
    for element in ET.fromstring(domain.XMLDesc()).iterfind("devices/interface"):  # noqa: S314 - the driver wrote it
        parts = {child.tag: child.attrib for child in element}
        found.append(
            Card(
                parts.get("mac", {}).get("address", ""),
                parts.get("alias", {}).get("name", ""),
                element.get("type", ""),
                parts.get("source", {}).get("network"),
                parts.get("link", {}).get("state") != "down",
            )
        )
    return found


def chosen(domain: libvirt.virDomain, which: Which) -> list[Card]:
    """The card of DOMAIN that is meant; without WHICH all.

    :raise NoCard: when there is none.
    """
    there = cards(domain)
    if isinstance(which, int):
        found = there[which : which + 1] if which >= 0 else []
    else:
        found = [card for card in there if which is None or card.mac == which.lower()]
    if not found:
        raise NoCard(domain.name(), f"has no card{'' if which is None else f' {which}'}", map(str, there))
    return found


def the_card(domain: libvirt.virDomain, which: Which) -> Card:
    """The card of DOMAIN that is meant; without WHICH the only one.

    :raise NoCard: when there is none, or several.
    """
    found = chosen(domain, which)
    if len(found) > 1:
        raise NoCard(domain.name(), "has several cards, say which is meant", map(str, found))
    return found[0]


class Undo:
    """Something that is in effect, until the end of a `with` block on it; without one, until it is changed again."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()


def change_link(
    domain: libvirt.virDomain, which: Which, up: bool | None, direction: Direction, wrong: dict[str, Any]
) -> Undo:
    """`VM.link`."""
    if direction not in get_args(Direction):
        raise ValueError(f"direction={direction!r}: possible is {', '.join(get_args(Direction))}")
    wanted = {name: value for name, value in wrong.items() if value is not None}
    with contextlib.ExitStack() as stack:
        for card in chosen(domain, which):
            if wanted:
                _impair(domain, card, direction, wanted, stack)
            if up is not None:
                embed.set_link(domain, card.mac, up=up)
                stack.callback(_while_it_runs, embed.set_link, domain, card.mac, up=card.up)
        return Undo(stack.pop_all())


def _impair(
    domain: libvirt.virDomain, card: Card, direction: Direction, wanted: dict[str, Any], stack: contextlib.ExitStack
) -> None:
    before = embed.impairments(domain, card.mac)
    inward, outward = (
        dataclasses.replace(old, **wanted) if direction in ("both", here) else old
        for old, here in zip(before, ("in", "out"), strict=True)
    )
    embed.impair(domain, card.mac, inward, outward)
    stack.callback(_while_it_runs, embed.impair, domain, card.mac, before[0], before[1])


def _while_it_runs(step: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
    """Do STEP, which has nothing to do when the machine, and with it its cards, is gone."""
    gone = (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_INVALID_CONN)
    try:
        step(*args, **kwargs)
    except libvirt.libvirtError as error:
        if error.get_error_code() not in gone:
            raise


Side: TypeAlias = "VM | Iterable[VM]"


class Network:
    """A network of a root, to be torn and healed. `network` is the libvirt object beneath."""

    def __init__(self, connection: libvirt.virConnect, name: str = "default") -> None:
        """Take the network NAME of CONNECTION's root.

        :raise libvirtError: NO_NETWORK when there is none.
        """
        self.connection = connection
        self.name = name
        self.network = connection.networkLookupByName(name)

    def __repr__(self) -> str:
        return f"<Network {self.name!r}>"

    def partition(self, *sides: Side) -> Undo:
        """Have only VMs of one side hear each other; a side is a VM or several, the VMs not named are one side, too.

        `with network.partition([a, b], [c]):` ends with the block; without `with` it lasts until `heal`. Addresses and
        names of the network are still given to all. Partitions add up.

        :raise NoCard: when a VM is not on this network.
        :raise ValueError: when a VM is on two sides, or there is no side.
        """
        macs = [self._macs(side) for side in sides]
        named = [mac for side in macs for mac in side]
        if not named:
            raise ValueError("partition() wants a side at least: a VM, or several")
        if len(named) != len(set(named)):
            raise ValueError(f"a VM cannot be on two sides of a partition: {sides!r}")
        return _mended(embed.partition(self.network, macs))

    def drop(self, sources: Side, *, to: Side) -> Undo:
        """Lose what SOURCES send to the VMs TO; what these send to SOURCES arrives.

        With `with` it ends with the block, without it lasts until `heal`.

        :raise NoCard: when a VM is not on this network.
        """
        return _mended(embed.deafen(self.network, self._macs(sources), self._macs(to)))

    def heal(self) -> None:
        """End every partition and every drop. Cables, delay and loss are the VMs' own: see `VM.link`."""
        embed.heal(self.network)

    def _macs(self, side: Side) -> list[str]:
        vms = list(side) if isinstance(side, Iterable) else [side]
        return [mac for vm in vms for mac in self._macs_of(vm)]

    def _macs_of(self, vm: VM) -> list[str]:
        there = cards(vm.domain)
        found = [card.mac for card in there if card.network == self.name]
        if not found or vm.connection.getURI() != self.connection.getURI():
            where = f"network {self.name!r} of {self.connection.getURI()}"
            raise NoCard(vm.name, f"has no card on {where}", map(str, there))
        return found


def _mended(fault: embed.NetworkFault) -> Undo:
    stack = contextlib.ExitStack()
    stack.callback(fault.mend)
    return Undo(stack)


def network_of(domain: libvirt.virDomain) -> Network:
    """`VM.network`."""
    there = cards(domain)
    names = sorted({card.network for card in there if card.network})
    if len(names) != 1:
        what = "is on several networks, take Network(vm.connection, name)" if names else "is on no network"
        raise NoCard(domain.name(), what, map(str, there))
    return Network(domain.connect(), names[0])
