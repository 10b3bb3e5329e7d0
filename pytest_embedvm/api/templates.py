"""Guests that are stopped once and go on many times: no names of libvirt's."""

from __future__ import annotations

from collections.abc import Awaitable
from pathlib import Path
from typing import Final

from pytest_embedvm.api import arguments
from pytest_embedvm.api.connect import virConnect
from pytest_embedvm.api.domain import virDomain
from pytest_embedvm.api.faults import checked
from pytest_embedvm.constants import DomainCreateFlags
from pytest_embedvm.driver.driver import Driver
from pytest_embedvm.driver.machine import Machine
from pytest_embedvm.driver.templates import checkpoints, cloning, freezing
from pytest_embedvm.driver.templates.template import Template

__all__ = [
    "begin_template",
    "checkpoint",
    "clone",
    "freeze",
    "obstacles",
    "reset_to_template",
    "restore",
    "template_from",
]

#: pytest shows the line that called, not these.
__tracebackhide__ = True


#: How a template or a clone may be started.
START: Final = DomainCreateFlags.START_PAUSED | DomainCreateFlags.START_AUTODESTROY


def obstacles(connection: virConnect, xml: str) -> list[str]:
    """Why a guest of the domain XML cannot be cloned: half a sentence each, none where it can. Nothing is started.

    What only its QEMU can say, that a shared directory is mounted, say, `freeze` does.

    :raise libvirtError: as `createXML`, as far as the XML alone shows that it cannot be started.
    """

    def ask(driver: Driver) -> Awaitable[list[str]]:
        return freezing.obstacles(driver, xml)

    return checked(connection, "obstacles", lambda: connection._order(ask), writes=False)


def begin_template(connection: virConnect, xml: str, folder: str | Path, flags: int = 0) -> virDomain:
    """Start the domain XML so that it can become the template in FOLDER, which must not be there yet.

    It is a transient domain; what it writes to its disks goes into FOLDER. Prepare its guest, then `freeze` it.

    :param flags: VIR_DOMAIN_START_PAUSED, VIR_DOMAIN_START_AUTODESTROY.
    :raise libvirtError: CONFIG_UNSUPPORTED when a guest of this domain cannot be cloned, with the reason; SYSTEM_ERROR
        when FOLDER cannot be made; else as `createXML`.
    """

    def begin(driver: Driver) -> Awaitable[Machine]:
        known = arguments.known(flags, START, "begin_template")
        return freezing.begin(driver, connection._session.client, xml, Path(folder), known)

    return checked(connection, "begin_template", lambda: connection._made(begin))


def freeze(domain: virDomain, folder: str | Path) -> None:
    """Make DOMAIN, which `begin_template` started for FOLDER, a template: it stops where it is, and ends.

    When this raises, it goes on as before, and there is no template.

    :raise libvirtError: OPERATION_INVALID when it does not run, or was not started for FOLDER; CONFIG_UNSUPPORTED when
        it was given a device with which it cannot be cloned; OPERATION_FAILED when QEMU cannot save the state of its
        devices, with QEMU's reason; SYSTEM_ERROR when FOLDER cannot be written.
    """
    checked(domain, "freeze", lambda: domain._order(lambda machine: freezing.freeze(machine, Path(folder))))


def clone(connection: virConnect, folder: str | Path, name: str, flags: int = 0) -> virDomain:
    """Start a transient domain NAME whose guest goes on where the template in FOLDER was stopped.

    Its uuid and the MAC addresses of its cards are new; the guest still has the template's, its host name, the time at
    which it was stopped, and all that its kernel knows of randomness, until somebody tells it. What it
    says with a MAC address of the template's, nobody on a network of the root's hears.

    :param flags: VIR_DOMAIN_START_PAUSED, VIR_DOMAIN_START_AUTODESTROY.
    :raise libvirtError: OPERATION_FAILED when FOLDER has no template; INTERNAL_ERROR when QEMU ends instead, with its
        own words; OPERATION_INVALID when there is an active domain NAME.
    """

    def start(driver: Driver) -> Awaitable[Machine]:
        known = arguments.known(flags, START, "clone")
        return cloning.clone(driver, connection._session.client, Template(Path(folder)), name, known)

    return checked(connection, "clone", lambda: connection._made(start))


def reset_to_template(domain: virDomain, flags: int = 0) -> virDomain:
    """End DOMAIN, a clone, and start it anew from its template; one that has ended is started again.

    Name, uuid and MAC addresses stay; what was plugged in, set or written goes.

    :param flags: VIR_DOMAIN_START_PAUSED, VIR_DOMAIN_START_AUTODESTROY, which also stays.
    :raise libvirtError: OPERATION_INVALID when it is no clone; NO_DOMAIN when nobody remembers it; else as `clone`.
    """

    def start(driver: Driver) -> Awaitable[Machine]:
        known = arguments.known(flags, START, "reset_to_template")
        return cloning.reset(driver, connection._session.client, domain._identity.uuid, known)

    connection = domain.connect()
    return checked(connection, "reset_to_template", lambda: connection._made(start))


def checkpoint(domain: virDomain, name: str = "checkpoint") -> None:
    """Keep what the guest of DOMAIN is now, its memory, devices and disks, under NAME; it goes on as it did.

    One that had this name is replaced. It takes up what the guest uses of its memory, below the root, until the domain
    has ended, or was reset to its template.

    :raise libvirtError: OPERATION_INVALID when it does not run, or is paused, or writes to an image that is not a
        clone's own; OPERATION_FAILED when QEMU cannot save it, with QEMU's reason; SYSTEM_ERROR when a file cannot be
        written.
    """
    checked(domain, "checkpoint", lambda: domain._order(lambda machine: checkpoints.checkpoint(machine, name)))


def restore(domain: virDomain, name: str = "checkpoint", flags: int = 0) -> virDomain:
    """End DOMAIN, and start it anew as it was at its checkpoint NAME, any number of times.

    Name, uuid, MAC addresses and all checkpoints stay.

    :param flags: VIR_DOMAIN_START_PAUSED.
    :raise libvirtError: OPERATION_FAILED when it has no such checkpoint, with the names of those that it has; NO_DOMAIN
        when it has ended, and its checkpoints with it.
    """

    def start(driver: Driver) -> Awaitable[Machine]:
        paused = bool(arguments.known(flags, DomainCreateFlags.START_PAUSED, "restore"))
        client, identity = connection._session.client, domain._identity.uuid
        return checkpoints.restore(driver, client, identity, name, paused=paused)

    connection = domain.connect()
    return checked(connection, "restore", lambda: connection._made(start))


def template_from(connection: virConnect, base: str | Path, folder: str | Path, name: str, flags: int = 0) -> virDomain:
    """Start a clone NAME of the template in BASE so that it can become the one in FOLDER, which must not be there yet.

    What it writes goes into FOLDER. Prepare its guest, then `freeze` it. BASE must stay where it is as long as FOLDER
    is used: the images there stand on those of BASE.

    :param flags: VIR_DOMAIN_START_PAUSED, VIR_DOMAIN_START_AUTODESTROY.
    :raise libvirtError: as `clone`; SYSTEM_ERROR when FOLDER cannot be made.
    """

    def start(driver: Driver) -> Awaitable[Machine]:
        known = arguments.known(flags, START, "template_from")
        client, stands_on = connection._session.client, Template(Path(base))
        return cloning.template_from(driver, client, stands_on, Path(folder), name=name, flags=known)

    return checked(connection, "template_from", lambda: connection._made(start))
