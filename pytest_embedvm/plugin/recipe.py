"""How a VM that a test will want is made, before there is the test that asks for it."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from pytest_embedvm import libvirt
from pytest_embedvm.errors import EmbedError
from pytest_embedvm.guest import VM, CannotClone
from pytest_embedvm.guest.templates.key import named_files
from pytest_embedvm.plugin.connecting import root_uri
from pytest_embedvm.plugin.definitions import definitions, is_ours
from pytest_embedvm.plugin.domains import Disk, Domains
from pytest_embedvm.plugin.markers import DomainArguments, arguments
from pytest_embedvm.plugin.session import show_line
from pytest_embedvm.plugin.settings import VM_FIXTURE, Settings
from pytest_embedvm.plugin.templates import TEMPLATES, Blueprint, Templates
from pytest_embedvm.qemu.image import image_format

#: A test that has one of its own gets what that makes, and nothing that was made before.
_LADDER: Final = (
    "embedvm_root",
    "embedvm_machines",
    "embedvm_conn_factory",
    "embedvm_conn",
    "embedvm_domain_args",
    "embedvm_domain_xml",
    "embedvm_vm",
    VM_FIXTURE,
)


#: What a VM stands on, and what gives one.
_FOUNDATIONS: Final = {"embedvm_root", "embedvm_machines", "embedvm_conn_factory", "embedvm_conn"}
_MACHINES: Final = {"embedvm_vm", "embedvm_domain", VM_FIXTURE}


@dataclass(frozen=True)
class Made:
    """A clone that answers, in a root of its own. Whoever has it closes them: `vm`, then `connection`."""

    root: Path
    connection: libvirt.virConnect
    vm: VM


@dataclass(frozen=True)
class Recipe:
    """What makes a VM that a test wants; equal for tests that can have each other's."""

    key: str
    _wanted: DomainArguments = field(compare=False, repr=False)
    _blueprint: Blueprint = field(compare=False, repr=False)
    _templates: Templates = field(compare=False, repr=False)
    _show_console: bool = field(compare=False, repr=False)

    @property
    def files(self) -> list[Path]:
        """What clones are made of: another content makes other clones."""
        return named_files(self._blueprint.xml)

    def make(self, root: Path, *, name: str = "vm") -> Made:
        """A clone called NAME in ROOT, a new private directory; its template is made unless it is there.

        :raise libvirtError: when no connection to ROOT can be had.
        :raise CannotClone: when it cannot be cloned.
        :raise GuestError: when its guest does not come up.
        """
        connection = libvirt.open(root_uri(root, self._wanted))
        with contextlib.ExitStack() as undo:
            undo.callback(connection.close)
            show = show_line if self._show_console else None
            vm = self._templates.clone(self._blueprint, connection, name, self._workshop, show=show)
            undo.pop_all()
        return Made(root, connection, vm)

    @contextlib.contextmanager
    def _workshop(self) -> Iterator[libvirt.virConnect]:
        root = Path(tempfile.mkdtemp(prefix="embedvm-template-"))
        connection = libvirt.open(root_uri(root, self._wanted))
        try:
            yield connection
        finally:
            connection.close()
            shutil.rmtree(root, ignore_errors=True)


def recipe_of(item: pytest.Item, settings: Settings) -> Recipe | None:
    """What makes the VM of the fixture `vm` of ITEM.

    None where that cannot be known before: it boots, it has fixtures of its own, nobody asks for it; or where it would
    be known too late: what a card's first frames are.
    """
    templates = item.config.stash.get(TEMPLATES, None)
    if templates is None or not _uses_only_ours(item):
        return None
    try:
        wanted = arguments(item, templates.declarations)
        chain = templates.declarations.chain(wanted.template, item) if wanted.template else []
    except (LookupError, ValueError):
        return None  # the test will say it
    found = definitions(item)
    if chain and found.get("embedvm_template") is not templates.declarations_of:
        return None
    if wanted.scope != "function" or wanted.boot == "cold" or wanted.capture:
        return None
    if isinstance(wanted.image, str) and found.get("embedvm_images") is not templates.images_of:
        return None  # what the name stands for nobody has said yet
    if isinstance(wanted.image, str) and _is_to_be_prepared(templates, wanted.image):
        return None
    domains = Domains(settings, templates.images)
    try:
        disk = _disk(domains, wanted)
        xml = domains.xml(wanted, "vm", disk, boots=disk is not None)
        blueprint = templates.blueprints.of(xml, wanted, chain, overlays={})
    except (CannotClone, EmbedError, OSError):
        return None  # the test will say it
    if blueprint.key not in templates.had:  # what makes it may be the user's: the test that wants it sees to that
        return None
    drivers = f"{wanted.network}-{wanted.secrets}-{wanted.storage}"
    return Recipe(f"{blueprint.key}-{drivers}", wanted, blueprint, templates, settings.show_console)


def _is_to_be_prepared(templates: Templates, image: str) -> bool:
    images = templates.images
    return images is not None and image in images and not images.was_given(image)


def _disk(domains: Domains, wanted: DomainArguments) -> Disk | None:
    if wanted.image is None:
        return None
    path = domains.image(wanted.image)
    return Disk(path, image_format(path))


def _uses_only_ours(item: pytest.Item) -> bool:
    """Whether ITEM asks for `vm`, and all that leads to it is this plugin's own."""
    found = definitions(item)
    leading = [found[name] for name in _LADDER if name in found]
    return VM_FIXTURE in found and all(map(is_ours, leading)) and not any(map(_comes_before, found.values()))


def _comes_before(definition: Any) -> bool:
    """Whether a fixture of the user's may do something to the root, or define something in it, before `vm` is there."""
    asked = set(definition.argnames)
    return not is_ours(definition) and bool(asked & _FOUNDATIONS) and not asked & _MACHINES
