"""Pause, power button and reset of a running machine.

Each of these asks QEMU, or the guest; state and events follow from QEMU's own events, in `react`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from pytest_embedvm.constants import (
    DomainPausedReason,
    DomainRunningReason,
    DomainState,
)
from pytest_embedvm.constants import DomainQemuAgentCommandTimeoutValues as Timeout
from pytest_embedvm.constants import DomainShutdownFlagValues as Flags  # DomainRebootFlagValues are the same
from pytest_embedvm.driver import state
from pytest_embedvm.driver.guest_agent import NOT_CONNECTED, AgentChannel
from pytest_embedvm.driver.running import Running
from pytest_embedvm.errors import AgentUnresponsive, ArgumentUnsupported, EmbedError, OperationInvalid
from pytest_embedvm.qemu.agent import check_reply

if TYPE_CHECKING:
    from pytest_embedvm.driver.machine import Machine

# libvirt: qemuDomainAgentAvailable
NO_AGENT: Final = "QEMU guest agent is not configured"


async def suspend(machine: Machine, running: Running) -> None:
    """Stop the guest's CPUs; a paused machine stays as it is."""
    _refuse_pmsuspended(machine)
    if machine.status.state is not DomainState.PAUSED:
        running.pausing = DomainPausedReason.USER
        await running.monitor.execute("stop")


async def resume(machine: Machine, running: Running) -> None:
    """Let the guest's CPUs run again."""
    _refuse_pmsuspended(machine)
    if machine.status.state is DomainState.RUNNING:
        raise OperationInvalid("domain is already running")
    running.resuming = DomainRunningReason.UNPAUSED
    await running.monitor.execute("cont")


def _refuse_pmsuspended(machine: Machine) -> None:
    if machine.status == state.PMSUSPENDED:
        raise OperationInvalid("domain is pmsuspended")


async def reset(machine: Machine, running: Running) -> None:
    """Press the reset button."""
    await running.monitor.execute("system_reset")
    running.fake_reboot = False
    if machine.status == state.CRASHED:
        machine.status = state.paused(DomainPausedReason.CRASHED)


async def shutdown(machine: Machine, running: Running, flags: int) -> None:
    """Ask the guest to power off (libvirt: qemuDomainShutdownFlags)."""
    require_running(machine)
    await _ask(machine, running, flags, reboot=machine.action("on_poweroff") == "restart")


async def reboot(machine: Machine, running: Running, flags: int) -> None:
    """Ask the guest to reboot (libvirt: qemuDomainReboot)."""
    await _ask(machine, running, flags, reboot=machine.action("on_reboot") != "destroy")


async def _ask(machine: Machine, running: Running, flags: int, *, reboot: bool) -> None:
    """Through the agent if it is asked for or there, through ACPI else, or if the agent alone is not insisted on."""
    agent, acpi = flags & Flags.GUEST_AGENT, flags & Flags.ACPI_POWER_BTN
    either = not agent and not acpi
    if agent or (either and running.agent is not None and running.agent.connected):
        try:
            return await _ask_agent(machine, running, "reboot" if reboot else "powerdown")
        except EmbedError:
            if agent and not acpi:
                raise
    # The power button can only power off: the reset has to be ours.
    running.fake_reboot = reboot
    await running.monitor.execute("system_powerdown")
    return None


def require_running(machine: Machine) -> None:
    """:raise OperationInvalid: when the guest's CPUs do not run."""
    if machine.status.state is not DomainState.RUNNING:
        raise OperationInvalid("domain is not running")


def require_agent(machine: Machine, running: Running) -> AgentChannel:
    """The channel to the guest's agent, open or not.

    :raise OperationInvalid: when the guest's CPUs do not run.
    :raise ArgumentUnsupported: when the domain has no such channel.
    """
    require_running(machine)
    if running.agent is None:
        raise ArgumentUnsupported(NO_AGENT)
    return running.agent


async def _ask_agent(machine: Machine, running: Running, mode: str) -> None:
    channel = require_agent(machine, running)
    if not channel.connected:
        raise AgentUnresponsive(NOT_CONNECTED)
    running.fake_reboot = False
    running.guest_left.clear()
    # The agent answers only to say no: success is the guest's own SHUTDOWN or RESET (libvirt: qemuAgentShutdown).
    message: dict[str, object] = {"execute": "guest-shutdown", "arguments": {"mode": mode}}
    reply = asyncio.ensure_future(channel.send(message, timeout=Timeout.SHUTDOWN))
    left = asyncio.ensure_future(running.guest_left.wait())
    try:
        await asyncio.wait((reply, left), return_when=asyncio.FIRST_COMPLETED)
        if not left.done():
            check_reply("guest-shutdown", await reply)
    finally:
        for future in (reply, left):
            future.cancel()
        await asyncio.gather(reply, left, return_exceptions=True)
