"""The ways to open a connection."""

from __future__ import annotations

from typing import Any

from pytest_embedvm.api import arguments
from pytest_embedvm.api._object import Session, _run, answering
from pytest_embedvm.api.connect import virConnect
from pytest_embedvm.constants import ConnectFlags
from pytest_embedvm.driver.driver import Driver
from pytest_embedvm.errors import NoConnect
from pytest_embedvm.loop import loop_thread

#: pytest shows the line that called, not these.
__tracebackhide__ = True

CONNECT = ConnectFlags.RO | ConnectFlags.NO_ALIASES


def _open(name: str | None, *, readonly: bool) -> virConnect:
    if name is None:
        # libvirt would probe for a hypervisor here; what this opens is always a root somebody named.
        raise NoConnect("a connection without a URI; name a root, as in qemu:///embed?root=/absolute/path")
    if not isinstance(name, str):
        raise TypeError(f"virConnectOpen() argument 'name' must be str or None, not {type(name).__name__}")
    loop = loop_thread()
    return virConnect(Session(name, _run(loop, Driver.open(name)), loop, readonly=readonly))


def open(name: str | None = None) -> virConnect:
    """Open the root that the URI NAME says: `qemu:///embed?root=/absolute/path`.

    No other URI is taken, and none is made up: nothing falls through to a libvirt daemon.

    :raise libvirtError: NO_CONNECT for other URIs, or none; SYSTEM_ERROR when another process has the root.
    """
    with answering():
        return _open(name, readonly=False)


def openReadOnly(name: str | None = None) -> virConnect:
    """Like `open`; what would change or reveal something raises OPERATION_DENIED.

    :raise libvirtError: as `open` does.
    """
    with answering():
        return _open(name, readonly=True)


def openAuth(uri: str | None, auth: list[Any] | None, flags: int = 0) -> virConnect:  # noqa: ARG001
    """Like `open`; AUTH is not needed, and never asked. VIR_CONNECT_RO makes it read-only.

    :raise libvirtError: as `open` does.
    """
    with answering():
        checked = arguments.known(flags, CONNECT, "qemuConnectOpen")
        return _open(uri, readonly=ConnectFlags.RO in checked)
