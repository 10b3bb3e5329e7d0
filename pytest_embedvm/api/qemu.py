"""The functions of `libvirt_qemu`."""

from __future__ import annotations

from pytest_embedvm.api.domain import virDomain
from pytest_embedvm.api.unsupported import unsupported_function


def qemuMonitorCommand(domain: virDomain, cmd: str, flags: int = 0) -> str:
    """Send CMD to QEMU's monitor: a QMP command as JSON, or a line for people with `…_MONITOR_COMMAND_HMP`.

    Returns QEMU's reply as JSON, an error reply too, or the text of the line.

    :raise libvirtError: OPERATION_INVALID when the domain does not run; INTERNAL_ERROR when CMD is no JSON.
    """
    return domain._monitor_command(cmd, flags)


def qemuAgentCommand(domain: virDomain, cmd: str, timeout: int, flags: int = 0) -> str:
    """Send CMD, JSON, to the guest agent, and return its reply.

    TIMEOUT is in seconds; `VIR_DOMAIN_QEMU_AGENT_COMMAND_BLOCK`, `_DEFAULT` and `_NOWAIT` are special.

    :raise libvirtError: AGENT_UNRESPONSIVE when no reply comes in time; ARGUMENT_UNSUPPORTED when the
        domain has no channel for it.
    """
    return domain._agent_command(cmd, timeout, flags)


qemuAttach = unsupported_function("qemuAttach")
qemuMonitorCommandWithFiles = unsupported_function("qemuMonitorCommandWithFiles")
