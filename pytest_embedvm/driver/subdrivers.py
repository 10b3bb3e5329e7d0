"""The drivers of a root: QEMU's and those it calls, on one small protocol."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Protocol

from pytest_embedvm.domain.explain import Need, explain
from pytest_embedvm.driver.roots.root import Root
from pytest_embedvm.driver.uri import Uri
from pytest_embedvm.errors import ConfigUnsupported
from pytest_embedvm.xml import document


class Subdriver(Protocol):
    """One driver of a root, as libvirt's state drivers are (libvirt: virStateDriver)."""

    name: str

    async def initialize(self, *, privileged: bool, root: Root) -> None:
        """Take up ROOT, where all that it knows is.

        :param privileged: whether this process is root's.
        :raise EmbedError: when it cannot; nothing of what it began is left. INVALID_ARG when it cannot honour a root.
        """

    async def cleanup(self) -> None:
        """Give everything back. What fails does not keep it from giving back the rest."""


async def initialize(drivers: Iterable[Subdriver], *, privileged: bool, root: Root) -> contextlib.AsyncExitStack:
    """Initialise DRIVERS in their order; the stack that is returned cleans them up in reverse.

    :raise EmbedError: what the first that fails raises; those before it are cleaned up again.
    """
    # libvirt: virStateInitialize, virStateCleanup
    async with contextlib.AsyncExitStack() as stack:
        for driver in drivers:
            await driver.initialize(privileged=privileged, root=root)
            stack.push_async_callback(driver.cleanup)
        return stack.pop_all()


def require(xml: str, uri: Uri | None) -> None:
    """Check that a connection to URI has the drivers that the start of the domain XML would call.

    :param uri: None: one that says nothing of them.
    :raise ConfigUnsupported: naming each element that calls one which is not there, with the reason.
    :raise XMLSyntaxError, XMLError: when XML is no domain.
    """
    needs = explain(document.parse(xml, root="domain"))
    missing = [f"{need} ({lack})" for need in needs if (lack := _lack(need, uri))]
    if missing:
        raise ConfigUnsupported("; ".join(missing))


def _lack(need: Need, uri: Uri | None) -> str | None:
    """Why the driver is not there; None if it is."""
    if need.driver not in ("network", "secret", "storage"):
        return f"a root has no {need.driver} driver"
    mode = uri.modes[need.driver] if uri else "private"
    if mode == "none":
        return f"this connection was opened with {need.driver}=none"
    return None
