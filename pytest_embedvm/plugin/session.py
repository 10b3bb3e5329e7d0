"""What one test starts, and its end."""

from __future__ import annotations

import dataclasses
import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import pytest

from pytest_embedvm import libvirt
from pytest_embedvm.driver.roots import index
from pytest_embedvm.driver.uri import parse_uri
from pytest_embedvm.errors import EmbedError, HostMissing
from pytest_embedvm.guest import VM, CannotClone, Origin
from pytest_embedvm.guest.vm import Show
from pytest_embedvm.guest.wait import if_connected
from pytest_embedvm.plugin import machine
from pytest_embedvm.plugin.bases import Bases
from pytest_embedvm.plugin.connecting import require_drivers, root_uri
from pytest_embedvm.plugin.declared import Declarations
from pytest_embedvm.plugin.domains import Disk, Domains
from pytest_embedvm.plugin.markers import KNOWN, DomainArguments, with_template
from pytest_embedvm.plugin.removal import close, complain, remove
from pytest_embedvm.plugin.settings import Settings
from pytest_embedvm.plugin.slots import Slot, slots_of
from pytest_embedvm.qemu.image import create_overlay, image_format
from pytest_embedvm.xml import document

if TYPE_CHECKING:
    from pytest_embedvm.plugin.ahead import Ahead, Handed
    from pytest_embedvm.plugin.images import Images
    from pytest_embedvm.plugin.scope import Kept
    from pytest_embedvm.plugin.templates import Templates

#: pytest shows the line that called, not these.
__tracebackhide__ = True

#: The directory of `embedvm_root` under `tmp_path`; further ones have a number behind it.
ROOT: Final = "embedvm"


class Machines:
    """The connections, roots and VMs of one test."""

    def __init__(
        self,
        settings: Settings,
        connections: list[libvirt.virConnect],
        folder: Path,
        *,
        images: Images | None = None,
        templates: Templates | None = None,
        announce: Callable[[VM], None] | None = None,
        ahead: Ahead | None = None,
        owner: str = "a disk that is being prepared",
        kept: Kept | None = None,
    ) -> None:
        """:param connections: told of each that is opened, and emptied in the end.
        :param images: what `image=` may name.
        :param templates: what VMs are cloned from; without them all boot.
        :param announce: told of each VM that is there.
        :param ahead: takes away what was made ahead.
        :param owner: for whom slots are taken.
        :param kept: a root that this test does not end.
        """
        self._settings = settings
        self._folder = folder.resolve()
        self._connections = connections
        self._domains = Domains(settings, images)
        self._templates = templates
        self._declarations = templates.declarations if templates else Declarations()
        self._announce = announce
        self._ahead = ahead
        self._owner = owner
        self._slots = slots_of(settings)
        #: Which VM lives in which slot.
        self._places: list[tuple[VM, Slot]] = []
        self._handed: Handed | None = None
        self._kept = kept
        self._bases = Bases()
        #: Those that were opened, and whether they are the plugin's own.
        self._roots: dict[Path, bool] = {}
        self._vms: list[VM] = []
        self._numbers = itertools.count(1)
        self._disks = folder / "embedvm-disks"
        #: What each machine's own disk stands on.
        self._overlays: dict[Path, Disk] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End every VM, close every connection, purge every root; one that fails does not keep the others.

        Fails the test when anything stayed.
        """
        stayed: list[str] = []
        with ExitStack() as stack:
            stack.callback(complain, stayed)
            stack.callback(self._hear, stayed)
            stack.callback(self._check_bases)
            stack.callback(shutil.rmtree, self._disks, ignore_errors=True)
            ending = stack.enter_context(ExitStack())
            self._push_ends(ending, stayed)
            if self._left():
                ending.pop_all()
        self._connections.clear()

    def _push_ends(self, stack: ExitStack, stayed: list[str]) -> None:
        """Put the end of all that there is on STACK, the last first."""
        for _, slot in self._places:
            stack.callback(slot.release)
        for root, ours in self._roots.items():
            stack.callback(remove, root, stayed, ours=ours)
        if self._kept is not None:
            stack.callback(self._kept.tidy, stayed)
        for connection in self._connections:
            stack.callback(close, connection)
        for vm in self._vms:
            stack.callback(vm.close)

    def _left(self) -> bool:
        """Whether there was nothing but what was made ahead, and that is taken away behind the test's back."""
        handed, ahead = self._handed, self._ahead
        if handed is None or ahead is None:
            return False
        made = handed.made
        alone = (self._vms, self._connections, list(self._roots)) == ([made.vm], [made.connection], [made.root])
        return alone and handed.leave(partial(ahead.take_away, handed, self._owner))

    def _hear(self, stayed: list[str]) -> None:
        """What was found only after earlier tests is told now."""
        if self._ahead is not None:
            self._ahead.settle()
            stayed += self._ahead.complaints()

    def adopt(self, handed: Handed) -> libvirt.virConnect:
        """The connection of a VM that was made ahead; both are this test's from now on."""
        self._handed = handed
        made = handed.made
        self._roots[made.root] = True
        self._connections.append(made.connection)
        self._vms.append(made.vm)
        self._places.append((made.vm, handed.slot))
        return made.connection

    def receive(self) -> VM | None:
        """The VM that was made ahead, which runs; None if there is none."""
        if self._handed is None:
            return None
        vm = self._handed.made.vm
        vm.origin = dataclasses.replace(vm.origin, pooled=True)
        if self._announce is not None:
            self._announce(vm)
        return vm

    def open(self, wanted: DomainArguments, root: str | Path | None = None) -> libvirt.virConnect:
        """Open a connection to ROOT, or to a new root under the test's `tmp_path`, with the drivers that are WANTED.

        In the end a root that the plugin made is removed, another one keeps what is not the driver's.
        """
        if root is None:
            root = self._folder / f"{ROOT}-{next(self._numbers)}"
            root.mkdir(mode=0o700)
            self._roots[root] = True
        path = Path(os.path.realpath(root))
        kept = self._keeper(path)
        if kept is None:
            self._roots.setdefault(path, path == self._folder / ROOT)
            if self._roots[path]:
                index.dispose(path)
        with self._if_the_host_has_it():
            if kept is not None:
                kept.open(wanted)
            connection = libvirt.open(root_uri(path, wanted))
        self._connections.append(connection)
        return connection

    @contextmanager
    def _if_the_host_has_it(self) -> Iterator[None]:
        """Skip the test, or fail it, as was chosen, when what it wants of the host's is not there."""
        try:
            yield
        except libvirt.libvirtError as error:
            if not isinstance(error.__context__, HostMissing):
                raise
            why = f"needs the host's libvirt: {error}"
        else:
            return
        if self._settings.missing == "fail":
            pytest.fail(f"{why} (--embedvm-missing fail)", pytrace=False)
        pytest.skip(why)

    def domain_xml(self, wanted: DomainArguments, name: str = "vm") -> str:
        """The XML of the built-in guest, or of the user's own kernel or image, as WANTED.

        An image gets an overlay of this machine's own under the test's `tmp_path`; it is never written itself.

        :raise EmbedError: when this host has no QEMU, or nothing to make the built-in guest of; says what to install.
        :raise FileNotFoundError: when a file of the user's is not there.
        """
        try:
            return self._domain_xml(wanted, name)
        except EmbedError as error:
            raise error.with_traceback(None) from None  # how it was found out is of no interest to the test

    def prepared_xml(self, wanted: DomainArguments, disk: Path | None, *, boots: bool) -> str:
        """The same of a machine that writes to DISK, a qcow2 image, itself; without BOOTS the built-in guest boots."""
        return self._domains.xml(wanted, "prepare", Disk(disk, "qcow2") if disk else None, boots=boots)

    def _domain_xml(self, wanted: DomainArguments, name: str) -> str:
        machine.accelerator(self._settings.accel)  # a host without QEMU is told so first
        disk = self._overlay(self._domains.image(wanted.image), name) if wanted.image else None
        return self._domains.xml(wanted, name, disk, self._seed(wanted, name), boots=disk is not None)

    def _overlay(self, base: Path, name: str) -> Disk:
        self._disks.mkdir(mode=0o700, exist_ok=True)
        overlay = self._disks / f"{name}-{next(self._numbers)}.qcow2"
        self._bases.use(base, name)
        below = self._overlays[overlay] = Disk(base, image_format(base))
        create_overlay(base, overlay, below.format)
        return Disk(overlay, "qcow2")

    def _seed(self, wanted: DomainArguments, name: str) -> Path | None:
        if wanted.cloud_init is None:
            return None
        self._disks.mkdir(mode=0o700, exist_ok=True)
        return wanted.cloud_init.write(self._disks / f"{name}-{next(self._numbers)}.iso")

    def _check_bases(self) -> None:
        changed = list(self._bases.changes())
        if changed:
            pytest.fail("embedvm: " + "; ".join(changed), pytrace=False)

    def start(
        self, connection: libvirt.virConnect, xml: str, *, capture: bool = False, reason: str | None = None
    ) -> VM:
        """A VM that boots; nobody has waited for its guest.

        :param reason: why it is no clone.
        """

        def boot() -> VM:
            return VM.boot(connection, xml, show=self._show, capture=capture, origin=Origin("cold", reason))

        with self._if_the_host_has_it():
            return self._keep(boot)

    def provide(self, connection: libvirt.virConnect, xml: str, wanted: DomainArguments, *, keep: bool = False) -> VM:
        """A clone, which answers, of a template of the domain XML; or where it can be none a VM that boots.

        Fails the test when it is WANTED to be a clone, and cannot be.

        :param keep: a clone is one that is kept for several tests, where CONNECTION has a root that is.
        :raise GuestError: when the guest of the template does not come up.
        """
        kept = self._keeper(Path(parse_uri(connection.getURI()).root)) if keep else None
        reason = "boot='cold'"
        try:
            if wanted.boot != "cold":
                return self._keep(partial(self._clone, connection, xml, wanted, kept))
        except CannotClone as error:
            reason = str(error)
        if wanted.boot == "clone":
            pytest.fail(f"embedvm: boot='clone', and it cannot be cloned: {reason}", pytrace=False)
        if kept is not None:
            reason += f"; what boots is not reset, each test of its {wanted.scope} boots"
        return self._boot(connection, xml, wanted, reason)

    def _boot(self, connection: libvirt.virConnect, xml: str, wanted: DomainArguments, reason: str) -> VM:
        vm = self.start(connection, xml, capture=wanted.capture, reason=reason)
        if wanted.template is not None:
            wait_booted(vm, wanted)
            for declared in self._declarations.chain(wanted.template):
                declared.prepare(vm)
        return vm

    def _keeper(self, root: Path) -> Kept | None:
        """Who keeps ROOT, if it is not this test's alone."""
        return self._kept if self._kept is not None and self._kept.has(root) else None

    def _clone(self, connection: libvirt.virConnect, xml: str, wanted: DomainArguments, kept: Kept | None) -> VM:
        if self._templates is None:
            raise CannotClone("there are no templates here")
        chain = self._declarations.chain(wanted.template) if wanted.template else []
        blueprint = self._templates.blueprints.of(xml, wanted, chain, overlays=self._overlays, private=self._folder)
        name = document.parse(xml).findtext("name", "")
        start = partial(kept.start, blueprint.key, connection, name) if kept else None
        vm = self._templates.clone(
            blueprint,
            connection,
            name,
            partial(self._workshop, wanted),
            show=self._show,
            capture=wanted.capture,
            start=start,
        )
        if kept is not None:
            vm.origin = kept.origin(vm.origin)
        return vm

    @contextmanager
    def _workshop(self, wanted: DomainArguments) -> Iterator[libvirt.virConnect]:
        """A connection to a root that is gone at the end of the block; after an error it stays as evidence."""
        connection = self.open(wanted)
        yield connection
        self._connections.remove(connection)
        root = Path(parse_uri(connection.getURI()).root)
        stayed: list[str] = []
        close(connection)
        remove(root, stayed, ours=self._roots.pop(root))
        complain(stayed)

    @property
    def _show(self) -> Show | None:
        return show_line if self._settings.show_console else None

    def _keep(self, make: Callable[[], VM]) -> VM:
        """Account for the VM that MAKE starts, once one more may live; it ends with the test."""
        slot = self._take_slot()
        with ExitStack() as undo:
            if slot is not None:
                undo.callback(slot.release)
            vm = make()
            undo.pop_all()
        if slot is not None:
            self._places.append((vm, slot))
        self._vms.append(vm)
        if self._announce is not None:
            self._announce(vm)
        return vm

    def _take_slot(self) -> Slot | None:
        if self._slots is None:
            return None
        for vm, slot in self._places:
            if not _runs(vm):
                slot.release()
        return self._slots.take(owner=self._owner)

    def boot(self, connection: libvirt.virConnect, wanted: DomainArguments, xml: str | None, **keywords: Any) -> VM:
        """One more VM that answers.

        :raise TypeError: when a keyword is not one of the marker's.
        :raise ValueError: when its value cannot be one, or CONNECTION was not opened for it.
        """
        name = keywords.pop("name", None) or f"vm-{next(self._numbers)}"
        unknown = keywords.keys() - set(KNOWN)
        if unknown:
            raise TypeError(f"vm_factory() knows name, xml, connection, {', '.join(KNOWN)}; not {', '.join(unknown)}")
        if "scope" in keywords:
            raise ValueError(f"vm_factory(scope={keywords['scope']!r}): its VMs end with the test")
        try:
            wanted = dataclasses.replace(wanted, **with_template(keywords, self._declarations, None))
        except ValueError as error:
            raise ValueError(f"vm_factory(): {error}") from None
        require_drivers(connection, wanted)
        vm = self.provide(connection, xml or self.domain_xml(wanted, name), wanted)
        wait_booted(vm, wanted)
        return vm


def wait_booted(vm: VM, wanted: DomainArguments) -> None:
    """Return when VM answers; a clone did so before."""
    if vm.origin.kind == "cold":
        vm.wait_ready(timeout=wanted.timeout)


def _runs(vm: VM) -> bool:
    with if_connected():
        return vm.is_running
    return False


def show_line(name: str, line: str) -> None:
    """One line of a console; where pytest captures, it goes to the test's captured output."""
    print(f"{name}| {line}", flush=True)  # noqa: T201 - asked for by --embedvm-show-console
