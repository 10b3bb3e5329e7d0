"""The channel to the guest agent: who has opened it, and commands through it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pytest_embedvm.constants import DomainQemuAgentCommandTimeoutValues as Timeout
from pytest_embedvm.driver.descriptors import connect_unix
from pytest_embedvm.errors import AgentUnresponsive
from pytest_embedvm.qemu.agent import COMMAND_TIMEOUT_S, Agent

#: The name of the port on which the agent in the guest listens.
PORT_NAME: Final = "org.qemu.guest_agent.0"

# libvirt: qemuDomainAgentAvailable
NOT_CONNECTED: Final = "QEMU guest agent is not connected"


def seconds(timeout: int) -> float | None:
    """The timeout of an agent command, as libvirt gives it, in seconds; None waits as long as the guest lives."""
    if timeout == Timeout.BLOCK:
        return None
    return COMMAND_TIMEOUT_S if timeout == Timeout.DEFAULT else float(timeout)


class AgentChannel:
    """The agent's channel of a running domain. QEMU tells when the guest opens and closes its end."""

    def __init__(self, alias: str, path: Path) -> None:
        self.alias = alias
        self._path = path
        self._opened = asyncio.Event()
        self._agent: Agent | None = None
        self._connecting = asyncio.Lock()

    @property
    def connected(self) -> bool:
        """Whether the guest has the port open: libvirt's `state='connected'`."""
        return self._opened.is_set()

    def guest_opened(self) -> None:
        self._opened.set()

    def guest_closed(self) -> None:
        """The guest let go of the port: who opens it next knows nothing of what was said."""
        self._opened.clear()
        if self._agent is not None:
            self._agent.forget()

    async def send(self, message: Mapping[str, object], *, timeout: int) -> dict[str, Any]:
        """Send MESSAGE and return the agent's whole reply.

        :param timeout: seconds, or one of libvirt's negative values. With seconds given, waits that
            long for the guest to open the channel too; libvirt gives up at once.
        :raise AgentUnresponsive: when the guest has not opened the channel, or does not reply in time.
        """
        limit = seconds(timeout)
        started = asyncio.get_running_loop().time()
        if not self.connected and timeout <= 0:
            raise AgentUnresponsive(NOT_CONNECTED)
        # Before the guest opens its end: an agent that finds nobody at the other sleeps before it looks again.
        agent = await self._connect()
        if not self.connected:
            await self._wait_opened(timeout)
        if limit is not None:
            limit = max(limit - (asyncio.get_running_loop().time() - started), 0.001)
        return await agent.send(message, timeout=limit)

    async def _wait_opened(self, timeout: int) -> None:
        try:
            async with asyncio.timeout(timeout):
                await self._opened.wait()
        except TimeoutError:
            raise AgentUnresponsive(f"{NOT_CONNECTED}: the guest did not open its channel within {timeout} s") from None

    async def _connect(self) -> Agent:
        async with self._connecting:
            if self._agent is None:
                self._agent = await Agent.connect(connect_unix(self._path))
        return self._agent

    async def close(self) -> None:
        """Hang up."""
        if self._agent is not None:
            await self._agent.close()
            self._agent = None
