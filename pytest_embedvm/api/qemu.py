"""The functions of `libvirt_qemu`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from pytest_embedvm.api.connect import virConnect
from pytest_embedvm.api.domain import virDomain
from pytest_embedvm.api.unsupported import unsupported_function

T = TypeVar("T")
MonitorCallback = Callable[[virConnect, virDomain, str, int, int, str | None, T], Any]


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


def qemuMonitorEventRegister(
    conn: virConnect, dom: virDomain | None, event: str | None, cb: MonitorCallback[T], opaque: T, flags: int = 0
) -> int:
    """Have CB called with (conn, dom, event, seconds, micros, details, opaque) for QEMU's events named EVENT.

    None is every event, of DOM or of all domains; `VIR_CONNECT_DOMAIN_QEMU_MONITOR_EVENT_REGISTER_REGEX` and
    `_NOCASE` change how EVENT is compared. The details are JSON, or None.

    :raise libvirtError: INVALID_ARG when EVENT is to be a regular expression, and is none.
    """
    return conn._register_monitor_event(dom, event, cb, opaque, flags)


def qemuMonitorEventDeregister(conn: virConnect, callbackID: int) -> None:
    """Have a callback of `qemuMonitorEventRegister` called no more.

    :raise libvirtError: INVALID_ARG when this connection has none with this number.
    """
    conn._deregister_monitor_event(callbackID)


qemuAttach = unsupported_function("qemuAttach")
qemuMonitorCommandWithFiles = unsupported_function("qemuMonitorCommandWithFiles")
