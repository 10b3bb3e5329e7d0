"""Which drivers a connection has, and what it cannot be used for."""

from __future__ import annotations

from pathlib import Path

from pytest_embedvm import libvirt
from pytest_embedvm.driver.uri import make_uri, parse_uri
from pytest_embedvm.plugin.markers import DomainArguments

#: pytest shows the line that called, not these.
__tracebackhide__ = True


def root_uri(root: Path, wanted: DomainArguments) -> str:
    """The URI of ROOT, with the drivers that are WANTED; a card behind QEMU's own NAT needs none."""
    network = "private" if wanted.network == "user" else wanted.network
    return make_uri(root, network=network, secret=wanted.secrets, storage=wanted.storage)


def require_drivers(connection: libvirt.virConnect, wanted: DomainArguments) -> None:
    """:raise ValueError: when WANTED is the host's where CONNECTION has the test's own, or the other way round."""
    uri = parse_uri(connection.getURI())
    for keyword, mode, asked in (
        ("network", uri.network, wanted.network),
        ("secrets", uri.secret, wanted.secrets),
        ("storage", uri.storage, wanted.storage),
    ):
        if "host" in (mode, asked) and asked in ("private", "host") and mode != asked:
            raise ValueError(
                f"vm_factory({keyword}={asked!r}): its connection was opened with {mode!r}, and all of its VMs have "
                f"the same; say it in the marker, or pass the connection= of another root"
            )
