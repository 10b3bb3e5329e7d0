"""QMP and agent commands that the user wrote (libvirt_qemu's qemuMonitorCommand and qemuAgentCommand)."""

from __future__ import annotations

import json
from typing import Any, Final

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.driver.guest_agent import AgentChannel
from pytest_embedvm.errors import InternalError, SystemFailure
from pytest_embedvm.qemu.agent import check_reply
from pytest_embedvm.qemu.monitor import Monitor, MonitorClosed

#: QEMU's own answer; it is given here, because after it QEMU and a QMP client would be out of step.
_NO_OBJECT: Final = {"error": {"class": "GenericError", "desc": "QMP input must be a JSON object"}}


def parse_json(text: str) -> Any:
    """:raise InternalError: when TEXT is no JSON."""
    try:
        return json.loads(text)
    except ValueError as error:
        # libvirt: virJSONValueFromString
        raise InternalError(f"cannot parse json {text}: {error}", origin=ErrorDomain.NONE) from None


async def qmp(monitor: Monitor, text: str) -> str:
    """QEMU's whole reply to the QMP message TEXT, as JSON; what QEMU refuses is in the reply.

    :raise InternalError: when TEXT is no JSON.
    :raise SystemFailure: when QEMU ends instead.
    """
    message = parse_json(text)
    if not isinstance(message, dict):
        return _dump(_NO_OBJECT)
    try:
        reply = await monitor.execute_raw(message)
    except MonitorClosed as error:
        raise _unreadable() from error
    if "execute" not in message:  # libvirt gives an id to commands only
        reply.pop("id", None)
    return _dump(reply)


async def hmp(monitor: Monitor, text: str) -> str:
    """What QEMU's human monitor prints to TEXT.

    :raise SystemFailure: when QEMU ends instead.
    """
    try:
        return str(await monitor.execute("human-monitor-command", {"command-line": text}))
    except MonitorClosed as error:
        raise _unreadable() from error


async def agent(channel: AgentChannel, text: str, timeout: int) -> str:
    """The guest agent's whole reply to the message TEXT, as JSON.

    :raise InternalError: when TEXT is no JSON object.
    :raise AgentCommandError: when the agent refuses it.
    :raise AgentUnresponsive: when the guest does not have the channel open, or does not answer in time.
    """
    message = parse_json(text)
    if not isinstance(message, dict):
        raise InternalError(f"the guest agent takes JSON objects only, not {text}")
    reply = await channel.send(message, timeout=timeout)
    check_reply(str(message.get("execute", "")), reply)
    return _dump(reply)


def _unreadable() -> SystemFailure:
    # libvirt: qemuMonitorIORead
    return SystemFailure("Unable to read from monitor: Connection reset by peer")


def _dump(reply: dict[str, Any]) -> str:
    return json.dumps(reply, separators=(",", ":"), ensure_ascii=False)
