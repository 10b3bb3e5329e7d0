"""Start and stop."""

from __future__ import annotations

from pytest_embedvm.api import arguments
from pytest_embedvm.api._object import public
from pytest_embedvm.api.domain._base import Base
from pytest_embedvm.constants import (
    DomainCreateFlags,
    DomainDestroyFlagsValues,
    DomainRebootFlagValues,
    DomainShutdownFlagValues,
    DomainUndefineFlagsValues,
)
from pytest_embedvm.errors import InvalidCall

START = (
    DomainCreateFlags.START_PAUSED
    | DomainCreateFlags.START_AUTODESTROY
    | DomainCreateFlags.START_BYPASS_CACHE
    | DomainCreateFlags.START_FORCE_BOOT
    | DomainCreateFlags.START_RESET_NVRAM
)
DESTROY = DomainDestroyFlagsValues.GRACEFUL | DomainDestroyFlagsValues.REMOVE_LOGS
SHUTDOWN = DomainShutdownFlagValues.ACPI_POWER_BTN | DomainShutdownFlagValues.GUEST_AGENT
REBOOT = DomainRebootFlagValues.ACPI_POWER_BTN | DomainRebootFlagValues.GUEST_AGENT
UNDEFINE = (
    DomainUndefineFlagsValues.MANAGED_SAVE
    | DomainUndefineFlagsValues.SNAPSHOTS_METADATA
    | DomainUndefineFlagsValues.NVRAM
    | DomainUndefineFlagsValues.KEEP_NVRAM
    | DomainUndefineFlagsValues.CHECKPOINTS_METADATA
    | DomainUndefineFlagsValues.TPM
    | DomainUndefineFlagsValues.KEEP_TPM
)


class Lifecycle(Base):
    """create, destroy, shutdown, reboot, reset, suspend, resume, undefine, rename."""

    @public("virDomainCreate", writes=True)
    def create(self) -> int:
        """Start a defined domain.

        :raise libvirtError: OPERATION_INVALID when it runs.
        """
        self._order(lambda machine: machine.create(DomainCreateFlags.NONE, self._session.client))
        return 0

    @public("virDomainCreateWithFlags", writes=True)
    def createWithFlags(self, flags: int = 0) -> int:
        """Start a defined domain; `VIR_DOMAIN_START_PAUSED`, `_AUTODESTROY` and so on.

        :raise libvirtError: OPERATION_INVALID when it runs.
        """
        checked = arguments.known(flags, START, "qemuDomainCreateWithFlags")
        self._order(lambda machine: machine.create(checked, self._session.client))
        return 0

    @public("virDomainDestroy", writes=True)
    def destroy(self) -> int:
        """Kill the machine; a transient domain is gone afterwards.

        :raise libvirtError: OPERATION_INVALID when it does not run.
        """
        self._order(lambda machine: machine.destroy(DomainDestroyFlagsValues.DEFAULT))
        return 0

    @public("virDomainDestroyFlags", writes=True)
    def destroyFlags(self, flags: int = 0) -> int:
        """Like `destroy`; `VIR_DOMAIN_DESTROY_*` says how.

        :raise libvirtError: OPERATION_INVALID when it does not run.
        """
        checked = arguments.known(flags, DESTROY, "qemuDomainDestroyFlags")
        self._order(lambda machine: machine.destroy(checked))
        return 0

    @public("virDomainShutdown", writes=True)
    def shutdown(self) -> int:
        """Ask the guest to power off; returns when it was asked.

        :raise libvirtError: OPERATION_INVALID when it does not run.
        """
        self._order(lambda machine: machine.shutdown(DomainShutdownFlagValues.DEFAULT))
        return 0

    @public("virDomainShutdownFlags", writes=True)
    def shutdownFlags(self, flags: int = 0) -> int:
        """Like `shutdown`; `VIR_DOMAIN_SHUTDOWN_*` says by which way.

        :raise libvirtError: OPERATION_INVALID when it does not run.
        """
        checked = arguments.known(flags, SHUTDOWN, "qemuDomainShutdownFlags")
        self._order(lambda machine: machine.shutdown(checked))
        return 0

    @public("virDomainReboot", writes=True)
    def reboot(self, flags: int = 0) -> int:
        """Ask the guest to reboot; returns when it was asked.

        :raise libvirtError: OPERATION_INVALID when it does not run.
        """
        checked = arguments.known(flags, REBOOT, "qemuDomainReboot")
        self._order(lambda machine: machine.reboot(checked))
        return 0

    @public("virDomainReset", writes=True)
    def reset(self, flags: int = 0) -> int:
        """Reset the machine at once, as its reset button would.

        :raise libvirtError: OPERATION_INVALID when it does not run.
        """
        arguments.none(flags, "qemuDomainReset")
        self._order(lambda machine: machine.reset())
        return 0

    @public("virDomainSuspend", writes=True)
    def suspend(self) -> int:
        """Stop the guest's CPUs; nothing happens when they are stopped.

        :raise libvirtError: OPERATION_INVALID when it does not run.
        """
        self._order(lambda machine: machine.suspend())
        return 0

    @public("virDomainResume", writes=True)
    def resume(self) -> int:
        """Let the guest's CPUs go on.

        :raise libvirtError: OPERATION_INVALID when they do.
        """
        self._order(lambda machine: machine.resume())
        return 0

    @public("virDomainUndefine", writes=True)
    def undefine(self) -> int:
        """Remove the definition; a running machine goes on as a transient one.

        :raise libvirtError: OPERATION_INVALID when it is transient.
        """
        self._order(lambda machine: machine.undefine(DomainUndefineFlagsValues(0)))
        return 0

    @public("virDomainUndefineFlags", writes=True)
    def undefineFlags(self, flags: int = 0) -> int:
        """Like `undefine`; `VIR_DOMAIN_UNDEFINE_*` says what else goes, or stays.

        :raise libvirtError: OPERATION_INVALID when it is transient.
        """
        checked = arguments.known(flags, UNDEFINE, "qemuDomainUndefineFlags")
        self._order(lambda machine: machine.undefine(checked))
        return 0

    @public("virDomainRename", writes=True)
    def rename(self, new_name: str, flags: int = 0) -> int:
        """Give a defined domain that does not run another name.

        :raise libvirtError: OPERATION_INVALID when it runs, OPERATION_FAILED when the name is taken.
        """
        name = arguments.text(new_name, "new_name", "virDomainRename")
        if not name:
            raise InvalidCall("string new_name in virDomainRename must not be empty")
        arguments.none(flags, "qemuDomainRename")
        self._order(lambda machine: machine.rename(name))
        return 0
