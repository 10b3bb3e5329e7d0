"""Talking to what is behind a running machine's ports: consoles, channels, and the guest agent."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

from pytest_embedvm.domain.consoles import Console, channels, consoles
from pytest_embedvm.domain.model import Completed
from pytest_embedvm.driver.console import ConsoleLink
from pytest_embedvm.driver.guest_agent import PORT_NAME, AgentChannel
from pytest_embedvm.driver.ports import Port
from pytest_embedvm.driver.running import Running
from pytest_embedvm.errors import InternalError, OperationFailed


def agent_channel(found: Iterable[Port]) -> AgentChannel | None:
    """The channel to the guest agent, if there is one."""
    for port in found:
        if port.name == PORT_NAME and port.socket is not None:
            return AgentChannel(port.alias, port.socket)
    return None


async def open_console(domain: Completed, running: Running, alias: str | None, *, force: bool) -> ConsoleLink:
    """Open the console of DOMAIN with this ALIAS, or its first.

    :param force: hang up who has it open.
    :raise InternalError: when there is none, or nobody can connect to it.
    :raise OperationFailed: when it is open already.
    """
    for console in consoles(domain):
        if alias in (None, console.alias):
            return await _open(console, running, "console session", force=force)
    # libvirt: qemuDomainOpenConsole; a missing name is printed as C prints it
    raise InternalError(f"cannot find character device {_as_c_prints(alias)}")


async def open_channel(domain: Completed, running: Running, name: str | None, *, force: bool) -> ConsoleLink:
    """Open the channel of DOMAIN with this alias, or NAME in the guest, or its first; errors as `open_console`."""
    # libvirt: qemuDomainOpenChannel
    for channel in channels(domain):
        if name in (None, channel.alias, channel.name):
            if channel.type != "unix":
                raise InternalError(f"channel {name or channel.alias} is not using a UNIX socket")
            return await _open(channel, running, "channel stream", force=force)
    raise InternalError(f"cannot find channel {_as_c_prints(name)}")


def _as_c_prints(name: str | None) -> str:
    return "<null>" if name is None else name


async def _open(console: Console, running: Running, what: str, *, force: bool) -> ConsoleLink:
    other = running.consoles.get(console.alias)
    if other is not None:
        if not force:
            # libvirt: virChrdevOpen
            raise OperationFailed(f"Active {what} exists for this domain")
        await other.close()
    link = await _connect(console, running)
    running.consoles[console.alias] = link
    return link


async def _connect(console: Console, running: Running) -> ConsoleLink:
    forget = partial(running.consoles.pop, console.alias, None)
    if console.type == "unix" and console.listens and console.path:
        return await ConsoleLink.open_unix(Path(console.path), forget)
    if console.type == "pty" and console.path:
        return await ConsoleLink.open_terminal(Path(console.path), forget)
    # libvirt: qemuDomainOpenConsole opens a PTY only; a socket of ours is as good
    raise InternalError(f"character device {console.alias} is not using a PTY")
