"""A template from a domain's XML, and VMs from a template."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeAlias

from pytest_embedvm import embed, libvirt
from pytest_embedvm.guest import network, renewal
from pytest_embedvm.guest.errors import CannotClone, CannotRestore, GuestError
from pytest_embedvm.guest.templates.origin import Origin
from pytest_embedvm.guest.templates.settling import settle
from pytest_embedvm.guest.vm import READY_TIMEOUT_S, VM, Show
from pytest_embedvm.guest.wait import if_connected

#: pytest shows the line that called, not these.
__tracebackhide__ = True

#: What a template's console had shown when it was stopped: in its directory.
CONSOLE: Final = "console.txt"

#: What a template is to blame for: it is not all there, or QEMU does not take it.
_BROKEN: Final = (libvirt.VIR_ERR_OPERATION_FAILED, libvirt.VIR_ERR_INTERNAL_ERROR)

#: Starts a domain that goes on where the template in this directory was stopped, paused.
Start: TypeAlias = Callable[[Path], libvirt.virDomain]

_FLAGS: Final = libvirt.VIR_DOMAIN_START_PAUSED | libvirt.VIR_DOMAIN_START_AUTODESTROY


def build(
    connection: libvirt.virConnect,
    xml: str,
    folder: Path,
    *,
    ready_timeout: float = READY_TIMEOUT_S,
    prepare: Callable[[VM], object] | None = None,
    show: Show | None = None,
) -> None:
    """Boot the domain XML in CONNECTION's root until its guest answers, PREPARE it, and make it the template in FOLDER.

    Where that fails the domain stays as it is, for who wants to look at it, until CONNECTION ends.

    :param ready_timeout: how many seconds the guest may take until it answers.
    :raise CannotClone: when it cannot become a template; with the reason.
    :raise GuestError: when the guest does not answer; and what PREPARE raises.
    """
    with _no_template():
        domain = embed.begin_template(connection, xml, folder, _FLAGS)
    with VM(domain, show=show) as vm:
        domain.resume()
        vm.wait_ready(ready_timeout)
        with _no_template():
            renewal.install(vm)
        if prepare is not None:
            prepare(vm)
        with _no_template():
            _freeze(vm, folder)


def extend(
    connection: libvirt.virConnect,
    base: Path,
    folder: Path,
    name: str,
    *,
    prepare: Callable[[VM], object],
    show: Show | None = None,
) -> None:
    """Make another template, in FOLDER, of the one in BASE, which has to stay: a VM called NAME goes on from there.

    :raise CannotRestore: when it does not go on.
    :raise CannotClone: when it cannot become a template; and what PREPARE raises.
    """
    with _restoring(base):
        domain = embed.template_from(connection, base, folder, name, _FLAGS)
    with VM(domain, show=show, history=_console(base)) as vm:
        with _restoring(base):
            domain.resume()
            renewal.renew(vm)
        prepare(vm)
        with _no_template():
            _freeze(vm, folder)


def _freeze(vm: VM, folder: Path) -> None:
    vm.run("true")  # what a command reads and maps is in the template's memory, then
    settle(vm)
    (folder / CONSOLE).write_bytes(vm.console.data)
    embed.freeze(vm.domain, folder)


@contextlib.contextmanager
def _no_template() -> Iterator[None]:
    try:
        yield
    except (libvirt.libvirtError, GuestError, OSError) as error:
        raise CannotClone(str(error)) from error


def clone_vm(
    connection: libvirt.virConnect,
    folder: Path,
    name: str,
    *,
    origin: Origin,
    show: Show | None = None,
    capture: bool = False,
    start: Start | None = None,
) -> VM:
    """A VM called NAME in CONNECTION's root that goes on where the template in FOLDER was stopped, and answers.

    Its console begins with what the template's had shown. It ends with CONNECTION.

    :param capture: write what passes each network card into a file, from the clone's first frame on.
    :param start: starts its domain, where that is not just a new clone.
    :raise CannotRestore: when the guest does not go on.
    :raise libvirtError: when something else is in the way, such as another domain NAME.
    """
    history = _console(folder)
    with _restoring(folder), contextlib.ExitStack() as undo:
        domain = start(folder) if start else embed.clone(connection, folder, name, _FLAGS)
        undo.callback(_end, domain)
        vm = VM(domain, show=show, history=history, origin=origin)
        undo.callback(vm.close)
        for card in network.cards(domain) if capture else ():
            vm.capture(card.mac)
        domain.resume()
        lacks = renewal.renew(vm).lacks
        vm.origin = dataclasses.replace(origin, reason="; ".join(lacks) or None)
        undo.pop_all()
    return vm


@contextlib.contextmanager
def _restoring(folder: Path) -> Iterator[None]:
    try:
        yield
    except libvirt.libvirtError as error:
        if error.get_error_code() not in _BROKEN:
            raise
        raise CannotRestore(f"the template in {folder} cannot be restored: {error}") from error
    except GuestError as error:
        raise CannotRestore(f"a clone of the template in {folder} does not go on: {error}") from error


def _console(folder: Path) -> bytes:
    try:
        return (folder / CONSOLE).read_bytes()
    except FileNotFoundError:
        return b""


def _end(domain: libvirt.virDomain) -> None:
    """End DOMAIN, if it has not ended by itself."""
    with if_connected(), contextlib.suppress(libvirt.libvirtError):
        domain.destroy()
