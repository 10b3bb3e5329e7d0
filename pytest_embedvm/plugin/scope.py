"""What a class, a module or the session keeps for its tests: a root, and in it one VM of each kind, anew for each test.

The VM is the same to who looks from outside: name, uuid, MAC and IP addresses. Each test has a connection of its own,
which takes its callbacks, streams and captures along. Between tests nothing of it runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from pytest_embedvm import embed, libvirt
from pytest_embedvm.driver.roots import index
from pytest_embedvm.guest import Origin
from pytest_embedvm.guest.network import cards
from pytest_embedvm.plugin import inventory
from pytest_embedvm.plugin.connecting import root_uri
from pytest_embedvm.plugin.removal import close, complain, remove

if TYPE_CHECKING:
    from pytest_embedvm.plugin.inventory import Inventory
    from pytest_embedvm.plugin.markers import DomainArguments

#: pytest shows the line that called, not these.
__tracebackhide__ = True

#: What a node keeps, by whose networks, secrets and storage pools its connections have.
KEPT: Final = pytest.StashKey["dict[tuple[str, ...], Kept]"]()

#: The node of pytest's for each scope; `function` has none, for nothing is kept.
_NODES: Final[dict[str, type[pytest.Collector]]] = {
    "class": pytest.Class,
    "module": pytest.Module,
    "session": pytest.Session,
}

_FLAGS: Final = libvirt.VIR_DOMAIN_START_PAUSED | libvirt.VIR_DOMAIN_START_AUTODESTROY


def kept_for(item: pytest.Item, wanted: DomainArguments, new_root: Callable[[], Path]) -> Kept | None:
    """What is kept for ITEM and others; None when it has all for itself.

    :param new_root: makes a private directory.
    """
    kind = _NODES.get(wanted.scope)
    node = item.getparent(kind) if kind is not None else None
    if node is None:  # pytest: a class-scoped fixture of a test in no class is its own, too
        return None
    there = node.stash.setdefault(KEPT, {})
    drivers = (wanted.network, wanted.secrets, wanted.storage)
    if drivers not in there:
        kept = there[drivers] = Kept(wanted.scope, new_root)
        node.addfinalizer(kept.end)
    return there[drivers]


class Kept:
    """A root that is kept, and its VMs."""

    def __init__(self, scope: str, new_root: Callable[[], Path]) -> None:
        self._scope = scope
        self._new_root = new_root
        self._root: Path | None = None
        #: It has the root open between tests, and owns the VMs.
        self._connection: libvirt.virConnect | None = None
        self._before: Inventory = {}
        #: By the key of their template; active or not.
        self._domains: dict[str, libvirt.virDomain] = {}
        self._macs: set[str] = set()
        #: Why the last VM is not a reset one.
        self._reason: str | None = None

    @property
    def root(self) -> Path:
        """Where its VMs are; there is a new one when a test has left something in the last."""
        if self._root is None:
            self._root = self._new_root()
            index.dispose(self._root)
        return self._root

    def has(self, root: Path) -> bool:
        """Whether ROOT is what is kept."""
        return root == self._root

    def open(self, wanted: DomainArguments) -> None:
        """Have the root open from now on."""
        if self._connection is None:
            self._connection = libvirt.open(root_uri(self.root, wanted))
            self._before = inventory.take(self._connection, (), ())

    def start(self, key: str, connection: libvirt.virConnect, name: str, folder: Path) -> libvirt.virDomain:
        """The VM NAME that goes on from the template KEY in FOLDER, paused, as a domain of CONNECTION's.

        :raise libvirtError: when it cannot be started.
        """
        domain = self._reset(key) or self._cloned(key, folder, name)
        self._macs.update(card.mac for card in cards(domain))
        return connection.lookupByUUID(domain.UUID())

    def _reset(self, key: str) -> libvirt.virDomain | None:
        domain = self._domains.pop(key, None)
        if domain is None:
            return None
        try:
            again = self._domains[key] = embed.reset_to_template(domain, _FLAGS)
        except libvirt.libvirtError as error:
            self._reason = f"it could not be reset: {error}"
            return None
        self._reason = f"reset, for its {self._scope} keeps it"
        return again

    def _cloned(self, key: str, folder: Path, name: str) -> libvirt.virDomain:
        if self._connection is None:
            raise RuntimeError("there is no root before it is opened")
        domain = self._domains[key] = embed.clone(self._connection, folder, name, _FLAGS)
        return domain

    def origin(self, origin: Origin) -> Origin:
        """ORIGIN of a VM that was just started, and what its being kept had to do with it."""
        said, self._reason = self._reason, None
        return dataclasses.replace(origin, reason=said)

    def tidy(self, stayed: list[str]) -> None:
        """End what runs, after a test; where that has left anything else, the next has another root.

        :param stayed: told what is still there of a root that is closed.
        """
        if self._connection is None:
            self.end_root(stayed)  # whatever was done there was done without this
            return
        try:
            left = self._left(self._connection)
        except (libvirt.libvirtError, OSError) as error:
            left = [f"spoilt it: {error}"]
        for log in self.root.joinpath("log").rglob("*"):
            if log.is_file():  # what they said is of one test
                log.unlink()
        if left:
            self._reason = f"its {self._scope} has a new root, for the test before {', '.join(left)}"
            self.end_root(stayed)

    def _left(self, connection: libvirt.virConnect) -> list[str]:
        for domain in self._domains.values():
            _destroy(domain)
        inventory.heal(connection)
        names = {domain.name() for domain in self._domains.values()}
        return inventory.changes(self._before, inventory.take(connection, names, self._macs))

    def end_root(self, stayed: list[str]) -> None:
        """Close and remove the root; what is still in use goes to STAYED."""
        root, connection, self._root, self._connection = self._root, self._connection, None, None
        self._domains.clear()
        self._macs.clear()
        if connection is not None:
            close(connection)
        if root is not None:
            remove(root, stayed, ours=True)

    def end(self) -> None:
        """End all that is kept; fails when anything stayed."""
        stayed: list[str] = []
        self.end_root(stayed)
        complain(stayed, f"the {self._scope}")


def _destroy(domain: libvirt.virDomain) -> None:
    """End DOMAIN, if it has not ended by itself."""
    try:
        domain.destroy()
    except libvirt.libvirtError as error:
        if error.get_error_code() not in (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID):
            raise
