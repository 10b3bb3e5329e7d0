"""What there is in a root beside the VMs that are expected: what a test leaves to the next, if both have one root."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from pytest_embedvm import embed, libvirt
from pytest_embedvm.api.evidence import evidence
from pytest_embedvm.driver.uri import parse_uri
from pytest_embedvm.plugin.leaks import leftovers

#: pytest shows the line that called, not these.
__tracebackhide__ = True

#: What a thing is called, and what is to stay as it is of it.
Inventory = Mapping[str, str]


def take(connection: libvirt.virConnect, expected: Collection[str], macs: Collection[str]) -> Inventory:
    """What there is in CONNECTION's root; of the host's, whose networks or pools a connection may have, nothing.

    :param expected: the names of domains that may have run.
    :param macs: their MAC addresses.
    """
    return dict(_everything(connection, expected, macs))


def changes(before: Inventory, now: Inventory) -> list[str]:
    """What became of a root, in words: "left network 'a'"."""
    return [
        *(f"left {thing}" for thing in now if thing not in before),
        *(f"removed {thing}" for thing in before if thing not in now),
        *(f"changed {thing}" for thing, state in now.items() if before.get(thing, state) != state),
    ]


def heal(connection: libvirt.virConnect) -> None:
    """End every partition of the root's own networks."""
    for network in _networks(connection):
        if network.isActive():
            embed.heal(network)


def _everything(
    connection: libvirt.virConnect, expected: Collection[str], macs: Collection[str]
) -> Iterator[tuple[str, str]]:
    uri = parse_uri(connection.getURI())
    there = {*evidence(connection), *(domain.name() for domain in connection.listAllDomains())}
    yield from ((f"domain {name!r}", "") for name in sorted(there.difference(expected)))
    yield from ((f"domain {domain.name()!r}", "") for domain in connection.listAllDomains())
    for network in _networks(connection):
        yield f"network {network.name()!r}", f"{network.XMLDesc()}{network.isActive()}{network.autostart()}"
        yield from _leases(network, macs)
    if uri.secret == "private":  # noqa: S105 - a word of URIs
        yield from ((f"secret {secret.UUIDString()}", secret.XMLDesc()) for secret in connection.listAllSecrets())
    if uri.storage == "private":
        for pool in connection.listAllStoragePools():
            yield from _pool(pool)
    yield from ((thing, "") for thing in leftovers(Path(uri.root)))


def _networks(connection: libvirt.virConnect) -> list[libvirt.virNetwork]:
    own = parse_uri(connection.getURI()).network == "private"
    return connection.listAllNetworks() if own else []


def _leases(network: libvirt.virNetwork, macs: Collection[str]) -> Iterator[tuple[str, str]]:
    for lease in network.DHCPLeases() if network.isActive() else ():
        if lease["mac"] not in macs:
            yield f"a lease of {lease['mac']} in network {network.name()!r}", ""


def _pool(pool: libvirt.virStoragePool) -> Iterator[tuple[str, str]]:
    name = pool.name()
    # S314: our own driver wrote this document.
    target = ET.fromstring(pool.XMLDesc()).findtext("target/path", "")  # noqa: S314
    yield f"pool {name!r}", f"{target}{pool.isActive()}{pool.autostart()}"  # how full it is changes by itself
    for volume in pool.listVolumes() if pool.isActive() else ():
        yield f"volume {volume!r} in pool {name!r}", ""
