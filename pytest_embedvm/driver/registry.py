"""The machines of a root, and whose name is whose."""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.errors import NoDomain, OperationFailed, OperationInvalid

if TYPE_CHECKING:
    from pytest_embedvm.driver.machine import Machine

#: How many machines that are gone are remembered, for what they can still tell.
GONE_MACHINES: Final = 32


class Registry:
    """Every machine of one root, active or persistent."""

    def __init__(self) -> None:
        self._machines: dict[uuid.UUID, Machine] = {}
        #: Those that are gone, oldest first: a test may fail because its machine went.
        self.gone: deque[Machine] = deque(maxlen=GONE_MACHINES)

    def __iter__(self) -> Iterator[Machine]:
        return iter(tuple(self._machines.values()))

    def add(self, machine: Machine) -> None:
        self._machines[machine.uuid] = machine

    def remove(self, machine: Machine) -> None:
        """Forget MACHINE; its name and uuid are free again."""
        if self._machines.get(machine.uuid) is machine:
            del self._machines[machine.uuid]
            self.gone.append(machine)

    def __contains__(self, machine: Machine) -> bool:
        return self._machines.get(machine.uuid) is machine

    def by_id(self, domain_id: int) -> Machine:
        """:raise NoDomain: when no running machine has this id."""
        for machine in self:
            if machine.id == domain_id:
                return machine
        # libvirt: qemuDomainLookupByID
        raise NoDomain(f"no domain with matching id {domain_id}")

    def by_name(self, name: str) -> Machine:
        """:raise NoDomain: when no machine has this name."""
        machine = self.find_name(name)
        if machine is None:
            # libvirt: qemuDomainLookupByName
            raise NoDomain(f"no domain with matching name '{name}'")
        return machine

    def by_uuid(self, domain_uuid: uuid.UUID) -> Machine:
        """:raise NoDomain: when no machine has this uuid."""
        try:
            return self._machines[domain_uuid]
        except KeyError:
            # libvirt: qemuDomainLookupByUUID
            raise NoDomain(f"no domain with matching uuid '{domain_uuid}'") from None

    def recall(self, domain_uuid: uuid.UUID) -> Machine:
        """The same, or the last one that had this uuid and is gone.

        :raise NoDomain: when none is remembered, either.
        """
        gone = (machine for machine in reversed(self.gone) if machine.uuid == domain_uuid)
        return self._machines.get(domain_uuid) or next(gone, None) or self.by_uuid(domain_uuid)

    def find_name(self, name: str) -> Machine | None:
        return next((machine for machine in self if machine.name == name), None)

    def claim(self, name: str, domain_uuid: uuid.UUID, *, live: bool) -> Machine | None:
        """The machine that already is NAME and DOMAIN_UUID; None when both are free.

        :param live: it is to be started, so it must not be active.
        :raise OperationFailed: when one of both belongs to another machine.
        :raise OperationInvalid: when LIVE and it is active.
        """
        # libvirt: virDomainObjListAddLocked
        machine = self._machines.get(domain_uuid)
        if machine is None:
            other = self.find_name(name)
            if other is not None:
                raise OperationFailed(
                    f"domain '{name}' already exists with uuid {other.uuid}", origin=ErrorDomain.DOMAIN
                )
            return None
        if machine.name != name:
            raise OperationFailed(
                f"domain '{machine.name}' is already defined with uuid {domain_uuid}", origin=ErrorDomain.DOMAIN
            )
        if live and machine.active:
            raise OperationInvalid(f"domain '{name}' is already active", origin=ErrorDomain.DOMAIN)
        if live and (machine.starting or not machine.persistent):
            raise OperationInvalid(f"domain '{name}' is already being started", origin=ErrorDomain.DOMAIN)
        return machine

    def check_rename(self, machine: Machine, new: str) -> None:
        """:raise OperationInvalid: when NEW is the name of a machine, this one or another."""
        # libvirt: virDomainObjListRename
        if new == machine.name:
            raise OperationInvalid("Can't rename domain to itself", origin=ErrorDomain.DOMAIN)
        if self.find_name(new) is not None:
            raise OperationInvalid(f"domain with name '{new}' already exists", origin=ErrorDomain.DOMAIN)
