"""What a domain is doing, and how large it is."""

from __future__ import annotations

import operator
from typing import NoReturn

from pytest_embedvm.api import arguments
from pytest_embedvm.api._object import public
from pytest_embedvm.api.domain._base import Base
from pytest_embedvm.constants import DomainVcpuFlags, ErrorDomain
from pytest_embedvm.driver.machine import Machine
from pytest_embedvm.errors import OperationInvalid, OperationUnsupported

VCPUS = DomainVcpuFlags.LIVE | DomainVcpuFlags.CONFIG | DomainVcpuFlags.MAXIMUM


class Information(Base):
    """State, sizes, and yes-or-no questions."""

    @public("virDomainGetInfo")
    def info(self) -> list[int]:
        """State, maximal and current memory in KiB, number of virtual CPUs, CPU time in nanoseconds."""
        return list(self._ask(lambda machine: machine.info()))

    @public("virDomainGetState")
    def state(self, flags: int = 0) -> list[int]:
        """A `VIR_DOMAIN_*` state and the reason that belongs to it."""
        arguments.none(flags, "qemuDomainGetState")
        return list(self._ask(lambda machine: machine.state))

    @public("virDomainIsActive")
    def isActive(self) -> int:
        """1 when it runs, paused or not."""
        return int(self._ask(lambda machine: machine.id != -1))

    @public("virDomainIsPersistent")
    def isPersistent(self) -> int:
        """1 when it is defined, and not only running."""
        return int(self._ask(lambda machine: machine.persistent))

    @public("virDomainIsUpdated")
    def isUpdated(self) -> int:
        """1 when the running machine was changed after its start."""
        return int(self._ask(lambda machine: machine.updated))

    @public("virDomainGetMaxMemory")
    def maxMemory(self) -> int:
        """The most memory it can have, in KiB."""
        return self._ask(lambda machine: machine.info()[1])

    @public("virDomainGetMaxVcpus")
    def maxVcpus(self) -> int:
        """The most virtual CPUs the running machine can have.

        :raise libvirtError: OPERATION_INVALID when it does not run.
        """
        # libvirt: virDomainGetMaxVcpus in the QEMU driver asks for LIVE and MAXIMUM
        return self._ask(lambda machine: _vcpus(machine, DomainVcpuFlags.LIVE | DomainVcpuFlags.MAXIMUM))

    @public("virDomainGetVcpusFlags")
    def vcpusFlags(self, flags: int = 0) -> int:
        """The number of virtual CPUs: of the running machine or of its definition, now or at most.

        :raise libvirtError: OPERATION_INVALID when the running machine is asked about and it does not run.
        """
        arguments.impact(flags)
        checked = arguments.known(flags, VCPUS, "qemuDomainGetVcpusFlags")
        return self._ask(lambda machine: _vcpus(machine, checked))

    @public("virDomainGetAutostart")
    def autostart(self) -> int:
        """0: nothing starts by itself in an embedded driver."""
        return self._ask(lambda _machine: 0)

    @public("virDomainSetAutostart", writes=True)
    def setAutostart(self, autostart: int) -> int:
        """Never possible: nobody is there to start a domain while no application has its root open.

        :raise libvirtError: OPERATION_UNSUPPORTED; OPERATION_INVALID for a transient domain, as in libvirt.
        """
        operator.index(autostart)
        return self._ask(_refuse_autostart)

    @public("virDomainHasCurrentSnapshot")
    def hasCurrentSnapshot(self, flags: int = 0) -> int:
        """0: there are no snapshots yet."""
        arguments.none(flags, "qemuDomainHasCurrentSnapshot")
        return self._ask(lambda _machine: 0)


def _refuse_autostart(machine: Machine) -> NoReturn:
    if not machine.persistent:
        # libvirt: qemuDomainSetAutostart
        raise OperationInvalid("cannot set autostart for transient domain")
    raise OperationUnsupported(
        f"domain '{machine.name}' cannot be started automatically: an embedded driver is there only while an "
        "application has the root open; start the domain when you have opened it"
    )


def _vcpus(machine: Machine, flags: DomainVcpuFlags) -> int:
    # libvirt: virDomainObjGetOneDef
    if DomainVcpuFlags.LIVE in flags and machine.live is None:
        raise OperationInvalid("domain is not running", origin=ErrorDomain.DOMAIN)
    if DomainVcpuFlags.CONFIG in flags and not machine.persistent:
        detail = "transient domains do not have any persistent config"
        raise OperationInvalid(detail, origin=ErrorDomain.DOMAIN)
    subject = machine.definition if DomainVcpuFlags.CONFIG in flags or machine.live is None else machine.live
    vcpu = subject.vcpu
    return vcpu.maximum if DomainVcpuFlags.MAXIMUM in flags or vcpu.current is None else vcpu.current
