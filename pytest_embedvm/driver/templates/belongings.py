"""The files that a guest writes to when it goes on elsewhere: overlays over images, variables of its firmware."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_embedvm.domain import clonable
from pytest_embedvm.domain.model import Completed
from pytest_embedvm.driver import nvram
from pytest_embedvm.driver.roots.root import Root
from pytest_embedvm.driver.templates.template import Template
from pytest_embedvm.errors import SystemFailure
from pytest_embedvm.files import PRIVATE_FILE
from pytest_embedvm.qemu.image import create_overlay

if TYPE_CHECKING:
    from pytest_embedvm.driver.machine import Machine

#: Where a root's clones have their disks, below the directory of its machines' state.
PLACE: Final = ("lib", "qemu", "clones")
#: What is in the directory of one that goes on later.
_KEPT: Final = "kept"


def take(machine: Machine, template: Template, domain: Completed) -> Completed:
    """DOMAIN, which MACHINE is to run, with files of its own that begin as those of TEMPLATE.

    They are below the root, and go with `forget`.

    :raise SystemFailure: when one cannot be made.
    """
    take_variables(machine, template, domain)
    forget(machine.root, machine.uuid)  # a persistent one has kept what it had
    place = folder(machine.root, machine.uuid)
    try:
        return over(domain, template.disk, lambda: machine.root.directory(*PLACE, place.name))
    except BaseException:
        forget(machine.root, machine.uuid)
        raise


def take_variables(machine: Machine, template: Template, domain: Completed) -> None:
    """Give DOMAIN, which MACHINE is to run, the variables of TEMPLATE's UEFI firmware, if it has one.

    They go as those of any other transient machine.

    :raise SystemFailure: when they cannot be copied.
    """
    if domain.os.nvram is not None:
        machine.driver.host.make_places(machine.name)
        nvram.take_along(domain, template.nvram)


def over(domain: Completed, base: Callable[[str], Path], directory: Callable[[], Path]) -> Completed:
    """DOMAIN writing to new overlays over the qcow2 images BASE, by target, in DIRECTORY, which is made if needed.

    :raise SystemFailure: when one cannot be made.
    """
    targets = [image.device for image in clonable.written_images(domain)]
    if not targets:
        return Completed(domain.copy())
    place = directory()
    return Completed(clonable.over(domain, {target: _overlay(base(target), place) for target in targets}))


def _overlay(base: Path, place: Path) -> str:
    overlay = place / base.name
    try:
        create_overlay(base, overlay, "qcow2")
    except OSError as error:
        raise SystemFailure(f"Failed to create file '{overlay}': {error.strerror}") from error
    return str(overlay)


def forget(root: Root, machine: uuid.UUID) -> None:
    """MACHINE has ended for good: remove what it wrote to, if it was a clone, and its checkpoints."""
    shutil.rmtree(folder(root, machine), ignore_errors=True)


def keep(root: Root, machine: uuid.UUID) -> None:
    """MACHINE has stopped and goes on later, or elsewhere: what it writes to stays when nobody knows it any more."""
    place = folder(root, machine)
    if place.is_dir():
        (place / _KEPT).touch(mode=PRIVATE_FILE)


def sweep(root: Root, known: Iterable[uuid.UUID]) -> None:
    """Remove what was left of machines in ROOT that are not KNOWN: the process that had them was killed."""
    names = {str(machine) for machine in known}
    for place in root.path.joinpath(*PLACE).glob("*"):
        if place.name not in names and not (place / _KEPT).exists():
            shutil.rmtree(place, ignore_errors=True)


def folder(root: Root, machine: uuid.UUID) -> Path:
    """Where in ROOT is what MACHINE writes to, if it is a clone, and its checkpoints."""
    return root.path.joinpath(*PLACE, str(machine))
