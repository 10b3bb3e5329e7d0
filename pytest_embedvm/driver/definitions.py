"""What becomes of a machine's definition."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_embedvm.constants import (
    DomainEventDefinedDetailType,
    DomainEventType,
    DomainEventUndefinedDetailType,
    DomainModificationImpact,
    ErrorDomain,
)
from pytest_embedvm.domain.model import Domain
from pytest_embedvm.driver import nvram, persist
from pytest_embedvm.driver.registry import Registry
from pytest_embedvm.errors import OperationInvalid, XMLError
from pytest_embedvm.xml import document

if TYPE_CHECKING:
    from pytest_embedvm.driver.machine import Machine


def affected(machine: Machine, flags: int) -> list[Domain]:
    """Which of definition and live XML of MACHINE a change with FLAGS means.

    :raise OperationInvalid: when one of those that are meant is not there.
    """
    # libvirt: virDomainObjUpdateModificationImpact
    live = bool(flags & DomainModificationImpact.LIVE)
    config = bool(flags & DomainModificationImpact.CONFIG)
    if not live and not config:
        live, config = machine.active, not machine.active
    found: list[Domain] = [machine.require_live()] if live else []
    if config and not machine.persistent:
        raise OperationInvalid("transient domains do not have any persistent config", origin=ErrorDomain.DOMAIN)
    return found + ([machine.definition] if config else [])


def undefine(machine: Machine, registry: Registry, flags: int) -> None:
    """Forget the definition of MACHINE; a running one runs on as a transient one.

    :raise OperationInvalid: when it is transient, or has a variable store and FLAGS do not say what to do with it.
    """
    if not machine.persistent:
        raise OperationInvalid("cannot undefine transient domain")
    nvram.undefine(machine.definition, flags)
    persist.remove(machine.root, machine.name)
    machine.persistent = False
    machine.emit_lifecycle(DomainEventType.UNDEFINED, DomainEventUndefinedDetailType.REMOVED)
    if not machine.active:
        registry.remove(machine)


def rename(machine: Machine, registry: Registry, new: str) -> None:
    """Call MACHINE, one of REGISTRY, NEW from here on.

    :raise OperationInvalid: when it runs, is transient, or has that name.
    :raise XMLError: when the name cannot be one.
    """
    # libvirt: qemuDomainRename, virDomainObjListRename
    if "/" in new:
        raise XMLError(f"name {new} cannot contain '/'", origin=ErrorDomain.QEMU)
    document.require_text(new, "name")
    if machine.active:
        raise OperationInvalid("cannot rename active domain")
    if not machine.persistent:
        raise OperationInvalid("cannot rename a transient domain")
    registry.check_rename(machine, new)
    renamed = machine.definition.copy()
    renamed.name = new
    persist.save(machine.root, renamed)
    persist.remove(machine.root, machine.name)
    machine.emit_lifecycle(DomainEventType.UNDEFINED, DomainEventUndefinedDetailType.RENAMED)
    machine.definition = renamed
    machine.emit_lifecycle(DomainEventType.DEFINED, DomainEventDefinedDetailType.RENAMED)
