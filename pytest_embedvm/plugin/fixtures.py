"""The fixtures, a ladder: root, connection, domain XML, running domain, answering VM.

Each rung can be used alone and overridden alone. Nothing heavy is imported before a fixture asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_embedvm.plugin.declared import Declarations
from pytest_embedvm.plugin.definitions import definitions
from pytest_embedvm.plugin.markers import DomainArguments, arguments
from pytest_embedvm.plugin.settings import AHEAD, HANDED, MADE, ORIGIN, SETTINGS, SKIP_REASON, VM_FIXTURE

#: pytest shows the line that called, not these.
__tracebackhide__ = True

if TYPE_CHECKING:
    from pytest_embedvm.guest import VM
    from pytest_embedvm.libvirt import virConnect, virDomain
    from pytest_embedvm.plugin.ahead import Ahead
    from pytest_embedvm.plugin.images import Images
    from pytest_embedvm.plugin.scope import Kept
    from pytest_embedvm.plugin.session import Machines


@pytest.fixture
def embedvm_root(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    embedvm_template: Declarations,
) -> Iterator[Path]:
    """A private directory (0700) under `tmp_path` for one driver: the root of `embedvm_conn`.

    It is purged at teardown by whoever opened it. With `scope=` it is one that several tests have; where the VM was
    made ahead, it is a link to that one's.
    """
    kept = _kept(request, tmp_path_factory, embedvm_template)
    if kept is not None:
        yield kept.root
        return
    root = tmp_path / "embedvm"
    ahead = request.config.stash.get(AHEAD, None)
    handed = ahead.take(request.node) if ahead else None
    if ahead is None or handed is None:
        root.mkdir(mode=0o700)
        yield root
        return
    root.symlink_to(handed.made.root)
    request.node.stash[HANDED] = handed
    yield root
    root.unlink()
    if HANDED in request.node.stash:  # nobody came to open it
        del request.node.stash[HANDED]
        ahead.give_back(handed)


def _kept(request: pytest.FixtureRequest, factory: pytest.TempPathFactory, declarations: Declarations) -> Kept | None:
    """What is kept for this test and others: if it wants that, and has a VM of the plugin's."""
    wanted = arguments(request.node, declarations)
    if wanted.scope == "function" or "embedvm_vm" not in request.fixturenames:
        return None
    from pytest_embedvm.plugin.scope import kept_for

    return kept_for(request.node, wanted, lambda: factory.mktemp(f"embedvm-{wanted.scope}"))


@pytest.fixture(scope="session")
def embedvm_images(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Images:
    """What `image=` can name. `embedvm_images.register(name, …)` adds a file, or a function that prepares one.

    Override it to register; or return a mapping of names to files or functions.
    """
    if not request.config.stash[SETTINGS].enabled:
        pytest.skip(SKIP_REASON)
    from pytest_embedvm.plugin.images import Images

    return Images(request.config, _shared(request.config, tmp_path_factory, "embedvm-images"))


@pytest.fixture(scope="session")
def embedvm_template(request: pytest.FixtureRequest) -> Declarations:
    """What `template=` can name. `@embedvm_template(name, …)` declares the function below it a template.

    Override it to declare templates for the tests of a directory; those of `@embedvm.template` are there anyway.
    """
    if not request.config.stash[SETTINGS].enabled:
        pytest.skip(SKIP_REASON)
    return Declarations()


def _shared(config: pytest.Config, factory: pytest.TempPathFactory, name: str) -> Path:
    """The directory NAME of this run, the same in all workers of pytest-xdist."""
    base = factory.getbasetemp()
    return (base.parent if hasattr(config, "workerinput") else base) / name


@pytest.fixture
def embedvm_machines(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    embedvm_images: Mapping[str, Any],
    embedvm_template: Declarations,
) -> Iterator[Machines]:
    """Everything that one test starts; ends it, purges the roots, and checks that nothing stayed."""
    settings = request.config.stash[SETTINGS]
    if not settings.enabled:
        pytest.skip(SKIP_REASON)  # asked for at run time, where the collection could not see it
    from pytest_embedvm.plugin.artifacts import CONNECTIONS
    from pytest_embedvm.plugin.images import Images
    from pytest_embedvm.plugin.session import Machines
    from pytest_embedvm.plugin.templates import TEMPLATES, Templates

    run = _shared(request.config, tmp_path_factory, "embedvm-templates")
    images = Images.of(embedvm_images, request.config, _shared(request.config, tmp_path_factory, "embedvm-images"))
    templates = request.config.stash.setdefault(TEMPLATES, Templates(request.config, run))
    found = definitions(request.node)
    templates.images = images
    templates.images_of = found.get("embedvm_images")
    templates.declarations = embedvm_template
    templates.declarations_of = found.get("embedvm_template")
    connections = request.node.stash.setdefault(CONNECTIONS, [])
    properties = request.node.user_properties

    def announce(vm: VM) -> None:
        properties.append((ORIGIN, str(vm.origin)))

    with Machines(
        settings,
        connections,
        tmp_path,
        images=images,
        templates=templates,
        announce=announce,
        ahead=_ahead(request.config, tmp_path_factory),
        owner=request.node.nodeid,
        kept=_kept(request, tmp_path_factory, embedvm_template),
    ) as machines:
        yield machines
    properties.extend((MADE, made) for made in templates.take_made())


def _ahead(config: pytest.Config, factory: pytest.TempPathFactory) -> Ahead | None:
    """What is made ahead in this process; None where VMs cannot be counted."""
    from pytest_embedvm.plugin.ahead import Ahead
    from pytest_embedvm.plugin.slots import slots_of

    settings = config.stash[SETTINGS]
    slots = slots_of(settings)
    if AHEAD not in config.stash and slots is not None:
        # What a console shows while nobody has its VM would come in the wrong test.
        size = 0 if settings.show_console else settings.pool
        config.stash[AHEAD] = Ahead(factory.getbasetemp().resolve() / "embedvm-pool", slots, size)
    return config.stash.get(AHEAD, None)


@pytest.fixture
def embedvm_conn_factory(embedvm_machines: Machines, embedvm_domain_args: DomainArguments) -> Callable[..., virConnect]:
    """`embedvm_conn_factory(root=None)` opens a connection to a root of its own, as often as it is called.

    `root` is a directory of the caller's choice; without one a new one is made under `tmp_path`. Whose networks,
    secrets and storage pools it has is what the marker says.
    """

    def open_connection(root: str | Path | None = None) -> virConnect:
        return embedvm_machines.open(embedvm_domain_args, root)

    return open_connection


@pytest.fixture
def embedvm_conn(
    request: pytest.FixtureRequest,
    embedvm_machines: Machines,
    embedvm_conn_factory: Callable[..., virConnect],
    embedvm_root: Path,
) -> virConnect:
    """A connection to `embedvm_root`: libvirt-python's `virConnect`."""
    handed = request.node.stash.get(HANDED, None)
    if handed is not None:
        del request.node.stash[HANDED]
        return embedvm_machines.adopt(handed)
    return embedvm_conn_factory(embedvm_root)


@pytest.fixture
def embedvm_domain_args(request: pytest.FixtureRequest, embedvm_template: Declarations) -> DomainArguments:
    """What the marker says; override it to say more, with `dataclasses.replace`."""
    return arguments(request.node, embedvm_template)


@pytest.fixture
def embedvm_domain_xml(embedvm_domain_args: DomainArguments, embedvm_machines: Machines) -> str:
    """The XML of the domain that `embedvm_domain` and `vm` start: the built-in guest, unless it is overridden."""
    return embedvm_machines.domain_xml(embedvm_domain_args)


@pytest.fixture
def embedvm_domain(embedvm_vm: VM) -> virDomain:
    """A running domain, made from `embedvm_domain_xml`; whether its guest answers nobody has asked yet."""
    return embedvm_vm.domain


@pytest.fixture
def embedvm_vm(
    request: pytest.FixtureRequest,
    embedvm_machines: Machines,
    embedvm_conn: virConnect,
    embedvm_domain_xml: str,
    embedvm_domain_args: DomainArguments,
) -> VM:
    """The VM behind `embedvm_domain` and `vm`: started, its console recorded from the first byte.

    It may be a clone if the test has `vm`, too; alone it boots, unless `boot="clone"` or a template is said.
    """
    ready = embedvm_machines.receive()
    if ready is not None:
        return ready
    wanted = embedvm_domain_args
    if VM_FIXTURE in request.fixturenames or wanted.boot == "clone" or wanted.template is not None:
        return embedvm_machines.provide(embedvm_conn, embedvm_domain_xml, wanted, keep=True)
    return embedvm_machines.start(embedvm_conn, embedvm_domain_xml, capture=wanted.capture)


@pytest.fixture
def vm(embedvm_vm: VM, embedvm_domain_args: DomainArguments) -> VM:
    """A virtual machine that answers, cloned or booted: `vm.run("uname -r").stdout`."""
    from pytest_embedvm.plugin.session import wait_booted

    wait_booted(embedvm_vm, embedvm_domain_args)
    return embedvm_vm


@pytest.fixture
def vm_factory(
    embedvm_machines: Machines, embedvm_conn: virConnect, embedvm_domain_args: DomainArguments
) -> Callable[..., VM]:
    """`vm_factory(**keywords)` gives one more VM, which answers, in the root of `embedvm_conn`.

    The keywords are the marker's, and replace what the marker says; `name=` names the domain, `xml=` replaces
    the built-in XML, `connection=` puts the VM into another root.
    """

    def boot(*, connection: virConnect | None = None, xml: str | None = None, **keywords: object) -> VM:
        return embedvm_machines.boot(connection or embedvm_conn, embedvm_domain_args, xml, **keywords)

    return boot
