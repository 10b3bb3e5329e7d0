"""Commands to the guest agent, with a deadline and an eye on the guest."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

from pytest_embedvm import libvirt, libvirt_qemu
from pytest_embedvm.guest.errors import AgentAbsent, AgentError, GuestStopped, WaitTimeout
from pytest_embedvm.guest.wait import LONGEST_PAUSE_S, Deadline, Watch

#: pytest shows the line that called, not these.
__tracebackhide__ = True

#: A ping that is not answered in this time was lost with the system that should have: ask again.
PING_TIMEOUT_S: Final = 5.0

#: An agent that goes away is often the first sign of a guest that does; this long more may follow.
AFTERMATH_S: Final = 2.0

#: The domain is not there any more, or it is going: the event that says why is on its way.
_GONE: Final = (
    libvirt.VIR_ERR_AGENT_UNRESPONSIVE,
    libvirt.VIR_ERR_NO_DOMAIN,
    libvirt.VIR_ERR_OPERATION_INVALID,
)


class Agent:
    """The agent of one guest."""

    def __init__(self, domain: libvirt.virDomain, watch: Watch) -> None:
        self._domain = domain
        self._watch = watch

    def call(self, command: str, deadline: Deadline, /, **arguments: Any) -> Any:
        """What the agent returns to COMMAND; an underscore in an argument's name stands for QMP's dash.

        :raise AgentError: when the agent refuses it, or goes away.
        :raise GuestStopped: as soon as the guest is dead or was reset.
        :raise WaitTimeout: at the deadline.
        """
        resets = self._watch.resets
        try:
            return self._send(command, deadline, arguments)
        except AgentAbsent:
            grace = min(AFTERMATH_S, deadline.remaining)
            self._watch.refuse_if_gone(f"the guest agent's answer to {command}", resets, grace)
            raise

    def _send(self, command: str, deadline: Deadline, arguments: Mapping[str, Any]) -> Any:
        message: dict[str, Any] = {"execute": command}
        if arguments:
            message["arguments"] = {name.replace("_", "-"): value for name, value in arguments.items()}
        text = json.dumps(message)
        awaited = f"the guest agent's answer to {command}"
        # libvirt: whole seconds, and 0 would not wait at all
        seconds = max(1, math.ceil(deadline.remaining))
        try:
            answer = self._watch.call(
                awaited, lambda: libvirt_qemu.qemuAgentCommand(self._domain, text, seconds, 0), deadline
            )
        except libvirt.libvirtError as error:
            raise self._meaning(command, awaited, error) from error
        reply = json.loads(answer)
        if "error" in reply:
            raise AgentError(command, str(reply["error"].get("desc", reply["error"])))
        return reply["return"]

    def _meaning(self, command: str, awaited: str, error: libvirt.libvirtError) -> Exception:
        reason = self._watch.reason_of_end() if error.get_error_code() in _GONE else None
        if reason is not None:
            return self._watch.gone(awaited, reason)
        # libvirt: qemuAgentCheckError
        detail = str(error).rpartition(f"unable to execute QEMU agent command '{command}': ")[2]
        absent = error.get_error_code() == libvirt.VIR_ERR_AGENT_UNRESPONSIVE
        return AgentAbsent(command, detail) if absent else AgentError(command, detail)

    def wait_ready(self, deadline: Deadline) -> None:
        """Return once the agent answers a ping.

        :raise AgentError: when the domain has no channel for an agent.
        :raise GuestStopped: as soon as the guest is dead.
        :raise WaitTimeout: at the deadline.
        """
        awaited = "an answer of the guest agent"
        while not self._answers(Deadline(min(PING_TIMEOUT_S, deadline.remaining))):
            if not deadline.remaining:
                raise self._watch.timeout(awaited, deadline.seconds)
            self._watch.pause(awaited, min(LONGEST_PAUSE_S, deadline.remaining))

    def _answers(self, deadline: Deadline) -> bool:
        try:
            self._send("guest-ping", deadline, {})
        except (WaitTimeout, AgentAbsent):
            return False
        except GuestStopped:
            if self._watch.dead() is not None:
                raise
            return False  # it was reset, and boots again
        return True
