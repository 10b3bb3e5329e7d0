"""What `libvirt_qemu` does with a domain: QEMU's own monitor, and the guest agent."""

from __future__ import annotations

from pytest_embedvm.api import arguments
from pytest_embedvm.api._object import public
from pytest_embedvm.api.domain._base import Base
from pytest_embedvm.constants import DomainQemuAgentCommandTimeoutValues, DomainQemuMonitorCommandFlags, ErrorDomain
from pytest_embedvm.errors import InvalidArgument

MONITOR = DomainQemuMonitorCommandFlags.HMP
#: libvirt: qemuDomainQemuMonitorCommand is the one without files of this
MONITOR_FUNCTION = "qemuDomainQemuMonitorCommandWithFiles"
SHORTEST = int(DomainQemuAgentCommandTimeoutValues.BLOCK)


class Passthrough(Base):
    """Commands that are passed on as they are."""

    @public("virDomainQemuMonitorCommand", writes=True, origin=ErrorDomain.NONE)
    def _monitor_command(self, cmd: str, flags: int) -> str:
        text = arguments.text(cmd, "cmd", "virDomainQemuMonitorCommand")
        checked = arguments.known(flags, MONITOR, MONITOR_FUNCTION)
        return self._order(lambda machine: machine.monitor_command(text, checked))

    @public("virDomainQemuAgentCommand", writes=True, origin=ErrorDomain.NONE)
    def _agent_command(self, cmd: str, timeout: int, flags: int) -> str:
        text = arguments.text(cmd, "cmd", "virDomainQemuAgentCommand")
        arguments.none(flags, "qemuDomainQemuAgentCommand")
        if timeout < SHORTEST:
            raise InvalidArgument(f"guest agent timeout '{timeout}' is less than the minimum '{SHORTEST}'")
        return self._order(lambda machine: machine.agent_command(text, timeout, flags))
