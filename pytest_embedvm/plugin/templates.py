"""The templates of a run: which one a domain's clones are made of, and that it is there."""

from __future__ import annotations

import json
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar, cast

import pytest

from pytest_embedvm import libvirt
from pytest_embedvm.errors import EmbedError, SystemFailure
from pytest_embedvm.files import PRIVATE_DIRECTORY, make_private_directory, write_atomically
from pytest_embedvm.guest import VM, CannotClone, CannotRestore, GuestError, Origin
from pytest_embedvm.guest.templates.building import Start, build, clone_vm, extend
from pytest_embedvm.guest.templates.key import named_files, qemu_identity, template_key
from pytest_embedvm.guest.templates.store import Store
from pytest_embedvm.guest.vm import Show
from pytest_embedvm.plugin import machine
from pytest_embedvm.plugin.declared import Declarations, Declared, Prepare
from pytest_embedvm.plugin.domains import Disk
from pytest_embedvm.plugin.markers import DomainArguments
from pytest_embedvm.plugin.settings import SETTINGS, Settings
from pytest_embedvm.plugin.terminal import teller
from pytest_embedvm.qemu.binary import find_binary
from pytest_embedvm.qemu.cache import default_cache_dir
from pytest_embedvm.xml import document
from pytest_embedvm.xml.document import Element

if TYPE_CHECKING:
    from pytest_embedvm.plugin.images import Images

#: pytest shows the line that called, not these.
__tracebackhide__ = True

T = TypeVar("T")

#: Those that the tests of this process have, once one of them has asked.
TEMPLATES: Final = pytest.StashKey["Templates"]()

#: Gives a connection to a root of its own, in which a template is made.
Workshop: TypeAlias = "Callable[[], AbstractContextManager[libvirt.virConnect]]"


class TemplateFailed(GuestError):
    """The guest of a template did not come up earlier in this run, and is not tried again; with what it said then."""


@dataclass(frozen=True)
class Blueprint:
    """What a template is made of."""

    key: str
    #: What it is called where people read it.
    title: str
    xml: str = field(compare=False)
    #: The name of its domain.
    name: str = field(compare=False)
    #: Seconds until its guest must answer.
    timeout: float = field(compare=False)
    #: What is done in its guest, which goes on from `parent` if there is one, and boots else.
    prepare: Prepare | None = field(default=None, compare=False)
    parent: Blueprint | None = field(default=None, compare=False)


class Blueprints:
    """Which template the clones of a domain are made of."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def of(
        self,
        xml: str,
        wanted: DomainArguments,
        chain: Sequence[Declared],
        *,
        overlays: Mapping[Path, Disk],
        private: Path | None = None,
    ) -> Blueprint:
        """The template for the domain XML.

        :param chain: what is declared to be done in its guest, each a template that the next goes on from.

        :param overlays: disks that are one machine's own, and what they stand on; its template stands on that.
        :param private: what is below this directory is one test's own, and ends with it.
        :raise CannotClone: when no template can stand for it; with the reason.
        """
        if wanted.cloud_init is not None:
            raise CannotClone("cloud-init reads its seed at the first boot, and each machine has one of its own")
        try:
            domain = document.parse(xml, root="domain")
        except EmbedError:
            raise CannotClone("its XML cannot be read") from None
        if wanted.network == "host" and domain.find("devices/interface") is not None:
            raise CannotClone("the host's network would hear it as its template, until it is told its own MAC address")
        _refuse_identity(domain)
        disks = list(_stand_on_bases(domain, overlays))
        text = document.format(domain)
        if private is not None and str(private) in text:
            raise CannotClone(f"its XML names a file of this test, below {private}")
        name = domain.findtext("name", "")
        blueprint: Blueprint | None = None
        steps: Sequence[Declared | None] = chain or [None]
        for declared in steps:
            key = self._key(text, wanted, disks, declared, blueprint)
            title = declared.name if declared else _title(domain, wanted)
            prepare = declared.prepare if declared else None
            blueprint = Blueprint(key, title, text, name, wanted.timeout, prepare, blueprint)
        return cast("Blueprint", blueprint)

    def _key(
        self,
        text: str,
        wanted: DomainArguments,
        disks: Sequence[Path],
        declared: Declared | None,
        parent: Blueprint | None,
    ) -> str:
        accelerator = machine.accelerator(self._settings.accel)
        return template_key(
            domain=text,
            files=named_files(text),
            capabilities=qemu_identity(find_binary(), accelerator),
            accelerator=accelerator,
            cpu=wanted.cpu,
            prepare=declared.prepare if declared else None,
            inputs=declared.files(self._settings.rootpath) if declared else (),
            # In a template's disk is written where what it stands on is.
            version="\n".join([declared.version if declared else "", *map(str, disks)]),
            parent=parent.key if parent else None,
            rootpath=self._settings.rootpath,
        )


def _title(domain: Element, wanted: DomainArguments) -> str:
    memory = f"{wanted.memory} MiB"
    if Path(domain.findtext("os/initrd", "")).is_relative_to(default_cache_dir()) and wanted.image is None:
        return f"the built-in guest, {memory}"
    system = wanted.image or wanted.kernel
    return f"{system}, {memory}" if system else f"the domain '{domain.findtext('name', '')}'"


def _refuse_identity(domain: Element) -> None:
    """:raise CannotClone: when DOMAIN says what each clone must have of its own."""
    if domain.find("uuid") is not None:
        raise CannotClone("its XML says which uuid it has")
    if domain.find("devices/interface/mac") is not None:
        raise CannotClone("its XML says which MAC address it has")


def _stand_on_bases(domain: Element, overlays: Mapping[Path, Disk]) -> Iterator[Path]:
    """Put what they stand on into the place of OVERLAYS, and tell which images DOMAIN has then."""
    for disk in domain.iterfind("devices/disk"):
        source, driver = disk.find("source"), disk.find("driver")
        if source is not None and source.get("volume") is not None:
            raise CannotClone(f"nobody can tell when its volume '{source.get('volume')}' changes")
        path = (source.get("file") or source.get("dev")) if source is not None else None
        if source is None or path is None:
            continue
        below = overlays.get(Path(str(path)))
        if below is not None and driver is not None:
            source.set("file", str(below.path))
            driver.set("type", below.format)
        yield below.path if below else Path(path)


class Templates:
    """The templates of one run, which all its workers share; they stay for later runs."""

    def __init__(self, config: pytest.Config, run: Path) -> None:
        """:param run: a directory of this run, the same in all its workers."""
        settings = config.stash[SETTINGS]
        #: What `image=` may name in the test that runs, and whose fixture said so.
        self.images: Images | None = None
        self.images_of: object = None
        #: And what `template=` may name.
        self.declarations = Declarations()
        self.declarations_of: object = None
        self._run = run
        self._anew = _name_of(config) if settings.create_templates else None
        self._tell = teller(config)
        self._made: list[str] = []
        #: The keys of those that tests of this process have had.
        self.had: set[str] = set()
        self._limit = settings.cache_size
        self._stores: dict[Path, Store] = {}
        self.blueprints = Blueprints(settings)

    @property
    def _store(self) -> Store:
        """Beside the built-in guests, whose files its templates name: where the cache is now."""
        folder = default_cache_dir() / "templates"
        if folder not in self._stores:
            store = Store(folder, what="template", limit=self._limit, instead=self._run / "templates")
            self._stores[folder] = store
        return self._stores[folder]

    def clone(
        self,
        blueprint: Blueprint,
        connection: libvirt.virConnect,
        name: str,
        workshop: Workshop,
        *,
        show: Show | None = None,
        capture: bool = False,
        start: Start | None = None,
    ) -> VM:
        """A VM called NAME in CONNECTION's root, cloned from the template of BLUEPRINT, made unless it is there.

        One that does not restore is dropped and made anew, once.

        :param start: starts its domain, as in `clone_vm`.
        :raise CannotClone: when there can be no template, or none that restores.
        :raise TemplateFailed: when its guest has not come up before in this run.
        :raise GuestError: when its guest does not come up.
        """
        origin = Origin("clone", template=blueprint.title if blueprint.prepare else blueprint.key)
        use = partial(clone_vm, connection, name=name, origin=origin, show=show, capture=capture, start=start)
        return self._restored(blueprint, workshop, use, show)

    def _restored(self, blueprint: Blueprint, workshop: Workshop, use: Callable[[Path], T], show: Show | None) -> T:
        """What USE makes of the template of BLUEPRINT; of another one if that does not restore."""
        folder = self._get(blueprint, workshop, show)
        try:
            return use(folder)
        except CannotRestore as error:
            self._tell(f"{error}; it is dropped, and made anew")
        self._store.drop(blueprint.key, folder)
        folder = self._get(blueprint, workshop, show)
        try:
            return use(folder)
        except CannotRestore as error:
            self._note(blueprint, error)
            raise CannotClone(f"{error} (it was made anew)") from error

    def _get(self, blueprint: Blueprint, workshop: Workshop, show: Show | None) -> Path:
        """The directory of the template, which is made unless it is there; by one process while the others wait."""

        def make(folder: Path) -> None:
            self._refuse_tried(blueprint)
            self._tell(f"making the template '{blueprint.title}'")
            begun = time.monotonic()
            with _Attempt(lambda error: self._note(blueprint, error)):
                self._make(blueprint, folder, workshop, show)
            took = time.monotonic() - begun
            self._made.append(f"the template '{blueprint.title}' ({blueprint.key}) was made in {took:.1f} s")

        self._refuse_tried(blueprint)
        try:
            folder = self._store.get(blueprint.key, make, title=blueprint.title, anew=self._anew, progress=self._tell)
        except SystemFailure as error:  # the disk is full, whatever the guest said to that
            refused = CannotClone(error.message)
            self._note(blueprint, refused)
            raise refused from error
        self.had.add(blueprint.key)
        return folder

    def _make(self, blueprint: Blueprint, folder: Path, workshop: Workshop, show: Show | None) -> None:
        prepare, parent = blueprint.prepare, blueprint.parent
        if parent is None or prepare is None:
            with workshop() as connection:
                build(
                    connection,
                    blueprint.xml,
                    folder,
                    ready_timeout=blueprint.timeout,
                    prepare=prepare,
                    show=show,
                )
            return

        def go_on(base: Path) -> None:
            shutil.rmtree(folder)  # where the last attempt came to nothing
            folder.mkdir(PRIVATE_DIRECTORY)
            with workshop() as connection:
                extend(connection, base, folder, blueprint.name, prepare=prepare, show=show)

        self._restored(parent, workshop, go_on, show)

    def take_made(self) -> list[str]:
        """A sentence for each template that was made since this was asked last."""
        made, self._made = self._made, []
        return made

    def _noted(self, blueprint: Blueprint) -> Path:
        return self._run / f"{blueprint.key}.json"

    def _note(self, blueprint: Blueprint, error: BaseException) -> None:
        """Remember for all workers that the template cannot be had."""
        note = {
            "refused": isinstance(error, CannotClone | CannotRestore),
            "words": str(error),
            "timeout": blueprint.timeout,
        }
        make_private_directory(self._run)
        write_atomically(self._noted(blueprint), json.dumps(note).encode(), sync=False)

    def _refuse_tried(self, blueprint: Blueprint) -> None:
        """:raise CannotClone: or TemplateFailed, when this run has tried already, and for as long as would be now."""
        try:
            note = json.loads(self._noted(blueprint).read_bytes())
        except FileNotFoundError:
            return
        if note["refused"]:
            raise CannotClone(note["words"])
        if blueprint.timeout <= note["timeout"]:
            raise TemplateFailed(f"{blueprint.title} did not come up earlier in this run: {note['words']}")


def _name_of(config: pytest.Config) -> str:
    """A name for this run, the same in all its workers, and another one in each run."""
    worker = getattr(config, "workerinput", {})
    return str(worker.get("testrunuid") or uuid.uuid4())


class _Attempt:
    """Tells what went wrong; an interrupt, or a test's time-out, is nothing of the attempt's."""

    def __init__(self, note: Callable[[BaseException], None]) -> None:
        self._note = note

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, Exception):
            self._note(error)
