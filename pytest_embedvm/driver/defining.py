"""A domain's definition: made, changed, renamed, forgotten. Whoever calls has the machine's job."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_embedvm.constants import (
    DomainEventDefinedDetailType,
    DomainEventType,
    DomainEventUndefinedDetailType,
    DomainModificationImpact,
    DomainUndefineFlagsValues,
    DomainXMLFlags,
    ErrorDomain,
)
from pytest_embedvm.domain import definition as xml
from pytest_embedvm.domain.migratable import migratable
from pytest_embedvm.domain.model import Completed, Domain
from pytest_embedvm.domain.sections.firmware import STORE
from pytest_embedvm.driver import nvram, persist, tpm
from pytest_embedvm.driver.saving import image as save_image
from pytest_embedvm.driver.saving import save as saving
from pytest_embedvm.driver.state import MIGRATED, REVERTED, SAVED, shutoff
from pytest_embedvm.driver.templates import belongings
from pytest_embedvm.errors import OperationInvalid, XMLError
from pytest_embedvm.xml import document

#: How a guest stops that goes on later, or elsewhere.
GOES_ON: Final = tuple(shutoff(ending.reason) for ending in (SAVED, MIGRATED))

if TYPE_CHECKING:
    from pytest_embedvm.driver.machine import Machine


def define(machine: Machine, domain: Domain) -> None:
    """Make MACHINE persistent, with DOMAIN for the next start."""
    persist.save(machine.root, domain)
    known = machine.persistent or machine.redefined
    machine.definition, machine.persistent, machine.redefined = domain, True, True
    detail = DomainEventDefinedDetailType.UPDATED if known else DomainEventDefinedDetailType.ADDED
    machine.emit_lifecycle(DomainEventType.DEFINED, detail)


def undefine(machine: Machine, flags: int) -> None:
    """Forget the definition of MACHINE, which is gone unless it runs.

    :raise OperationInvalid: when it is transient, or has a variable store and FLAGS do not say what to do with it.
    """
    if not machine.persistent:
        raise OperationInvalid("cannot undefine transient domain")
    tpm.check_flags(flags)
    _remove_managed_image(machine, flags)
    nvram.undefine(machine.definition, flags)
    persist.remove(machine.root, machine.name)
    machine.persistent = False
    machine.emit_lifecycle(DomainEventType.UNDEFINED, DomainEventUndefinedDetailType.REMOVED)
    if not machine.active:
        tpm.forget(machine.root, machine.definition, flags)
        machine.driver.registry.remove(machine)


def forget(machine: Machine) -> None:
    """The transient MACHINE has ended: remove what only its next start would need."""
    if not machine.redefined:
        # libvirt lets it lie; here the next machine of this name begins with variables of its own
        nvram.forget(machine.definition, Path(machine.driver.host.path("nvram", machine.name, STORE)))
    tpm.forget(machine.root, machine.definition)
    if machine.status in GOES_ON:
        belongings.keep(machine.root, machine.uuid)
    elif machine.status != shutoff(REVERTED.reason):  # else it is about to be there again
        belongings.forget(machine.root, machine.uuid)


def _remove_managed_image(machine: Machine, flags: int) -> None:
    # libvirt: qemuDomainUndefineFlags
    if saving.has_managed(machine):
        if not flags & DomainUndefineFlagsValues.MANAGED_SAVE:
            raise OperationInvalid("Refusing to undefine while domain managed save image exists")
        save_image.remove(saving.managed_path(machine))


def rename(machine: Machine, new: str) -> None:
    """Give MACHINE another name.

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
    if saving.has_managed(machine):
        raise OperationInvalid("domain with a managed saved state can't be renamed")
    machine.driver.registry.check_rename(machine, new)
    renamed = machine.definition.copy()
    renamed.name = new
    persist.save(machine.root, renamed)
    persist.remove(machine.root, machine.name)
    machine.emit_lifecycle(DomainEventType.UNDEFINED, DomainEventUndefinedDetailType.RENAMED)
    machine.definition = renamed
    machine.emit_lifecycle(DomainEventType.DEFINED, DomainEventDefinedDetailType.RENAMED)


def affected(machine: Machine, flags: int) -> list[Domain]:
    """Which of definition and live FLAGS mean."""
    return [domain for domain in impact(machine, flags) if domain is not None]


def impact(machine: Machine, flags: int) -> tuple[Completed | None, Domain | None]:
    """What runs and the definition, each if FLAGS mean it.

    :raise OperationInvalid: when they mean what is not there.
    """
    # libvirt: virDomainObjUpdateModificationImpact
    live = bool(flags & DomainModificationImpact.LIVE)
    config = bool(flags & DomainModificationImpact.CONFIG)
    if not live and not config:
        live, config = machine.active, not machine.active
    if live and not machine.active:
        raise OperationInvalid("domain is not running", origin=ErrorDomain.DOMAIN)
    if config and not machine.persistent:
        raise OperationInvalid("transient domains do not have any persistent config", origin=ErrorDomain.DOMAIN)
    return machine.live if live else None, machine.definition if config else None


def text(machine: Machine, flags: int) -> str:
    """MACHINE as XML: what runs, or with INACTIVE what the next start will have; with MIGRATABLE for another root.

    Passwords are in it with SECURE only.
    """
    inactive = bool(flags & DomainXMLFlags.INACTIVE)
    domain, inactive = _chosen(machine, flags, inactive=inactive)
    if not flags & DomainXMLFlags.SECURE:
        domain = xml.spelled(domain, lambda _password: None)
    return xml.format(domain, inactive=inactive)


def _chosen(machine: Machine, flags: int, *, inactive: bool) -> tuple[Domain, bool]:
    """What FLAGS ask for, and whether it is without what only a running domain has."""
    if flags & DomainXMLFlags.MIGRATABLE:
        chosen = machine.definition if inactive else machine.live or machine.definition
        return migratable(chosen, machine.driver.host), True
    if machine.live is None or (inactive and machine.redefined):
        return machine.definition, True
    return machine.live, inactive
