"""Talking to what is behind a running machine's ports: consoles, and the guest agent."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final

from pytest_embedvm.driver.console import ConsoleLink
from pytest_embedvm.driver.guest_agent import PORT_NAME, AgentChannel
from pytest_embedvm.driver.ports import Port
from pytest_embedvm.driver.running import Running
from pytest_embedvm.errors import InternalError, OperationFailed
from pytest_embedvm.qemu.monitor import Monitor

#: What QEMU puts before the path in query-chardev's `filename`.
_PTY: Final = "pty:"


def agent_channel(found: Mapping[str, Port]) -> AgentChannel | None:
    """The channel to the guest agent, if there is one."""
    for port in found.values():
        if port.name == PORT_NAME and port.socket is not None:
            return AgentChannel(port.alias, port.socket)
    return None


async def open_console(running: Running, alias: str | None, *, force: bool) -> ConsoleLink:
    """Open the port with this ALIAS, or the first serial port or console.

    :param force: hang up who has it open.
    :raise InternalError: when there is none, or nobody can connect to it.
    :raise OperationFailed: when it is open already.
    """
    port = _choose(running.ports, alias)
    other = running.consoles.get(port.alias)
    if other is not None:
        if not force:
            # libvirt: virChrdevOpen
            raise OperationFailed("Active console session exists for this domain")
        await other.close()

    link = await _open(running, port)
    running.consoles[port.alias] = link
    return link


async def _open(running: Running, port: Port) -> ConsoleLink:
    forget = partial(running.consoles.pop, port.alias, None)
    if port.socket is not None:
        return await ConsoleLink.open_unix(port.socket, forget)
    if port.backend == "pty":
        return await ConsoleLink.open_terminal(await _terminal(running.monitor, port), forget)
    # libvirt: qemuDomainOpenConsole opens a PTY only; a socket of ours is as good
    raise InternalError(f"character device {port.alias} is not using a PTY")


async def _terminal(monitor: Monitor, port: Port) -> Path:
    for chardev in await monitor.execute("query-chardev"):
        if chardev["label"] == port.chardev and chardev["filename"].startswith(_PTY):
            return Path(chardev["filename"].removeprefix(_PTY))
    raise InternalError(f"QEMU does not name the PTY of character device {port.alias}")


def _choose(found: Mapping[str, Port], alias: str | None) -> Port:
    for port in found.values():
        if port.alias == alias or (alias is None and port.alias.startswith(("console", "serial"))):
            return port
    # libvirt: qemuDomainOpenConsole; a missing name is printed as C prints it
    raise InternalError(f"cannot find character device {'<null>' if alias is None else alias}")
