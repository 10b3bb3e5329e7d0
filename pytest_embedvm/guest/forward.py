"""How a test reaches what listens in a guest."""

from __future__ import annotations

from typing import Literal

from pytest_embedvm import embed, libvirt
from pytest_embedvm.guest.errors import NoCard
from pytest_embedvm.guest.network import Card, Which, cards, chosen

#: pytest shows the line that called, not these.
__tracebackhide__ = True

Protocol = Literal["tcp", "udp"]

#: What a card can be connected to that forwards ports.
FORWARDING = ("network", "user")


def forward(domain: libvirt.virDomain, port: int, protocol: Protocol, which: Which) -> tuple[str, int]:
    """`VM.forward`."""
    return embed.forward(domain, _card(domain, which).mac, port, protocol)


def _card(domain: libvirt.virDomain, which: Which) -> Card:
    """The card that is meant; without WHICH the first that forwards anything."""
    found = chosen(domain, which)
    wanted = [card for card in found if card.type in FORWARDING] if which is None else found
    if not wanted:
        raise NoCard(domain.name(), "has no card that forwards ports", map(str, cards(domain)))
    return wanted[0]
