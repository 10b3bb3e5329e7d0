"""Ports and devices of the host that its kernel chooses: known only once they are opened."""

from __future__ import annotations

from collections.abc import Mapping

from pytest_embedvm.domain.backends.forwards import read_usernet
from pytest_embedvm.domain.devices.interface import Interface
from pytest_embedvm.domain.model import Completed


def awaits_ports(domain: Completed) -> bool:
    """Whether DOMAIN has a `<range start='0'>` that `learn_ports()` has to be told of."""
    return any(interface.awaits_ports for interface in _interfaces(domain))


def learn_ports(domain: Completed, usernet: str) -> None:
    """Fill in DOMAIN the ports that the human monitor's `info usernet` answers."""
    found = tuple(read_usernet(usernet))
    for interface in _interfaces(domain):
        interface.learn(found)


def learn_taps(domain: Completed, taps: Mapping[str, str]) -> None:
    """Fill in DOMAIN the names of the host's TAPS, by the MAC of the card."""
    for interface in _interfaces(domain):
        interface.target_dev = taps.get(interface.mac or "", interface.target_dev)


def _interfaces(domain: Completed) -> list[Interface]:
    return [device for device in domain.devices.all if isinstance(device, Interface)]
