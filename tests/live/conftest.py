"""Roots, domains and what they leave behind, through the public API only."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from pytest_embedvm import libvirt
from pytest_embedvm.errors import ConfigUnsupported, OperationUnsupported
from pytest_embedvm.guest.image.build import build_guest
from pytest_embedvm.guest.image.depmod import write_tables
from pytest_embedvm.guest.image.packages import fetch
from pytest_embedvm.plugin.markers import DomainArguments
from pytest_embedvm.qemu.cache import default_cache_dir

PAUSED = libvirt.VIR_DOMAIN_START_PAUSED
Open = Callable[..., libvirt.virConnect]


@pytest.fixture(scope="session", autouse=True)
def _probe_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One probe for the whole run, out of the user's cache."""
    base = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMBEDVM_CACHE_DIR", str((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "probe"))
        yield


@pytest.fixture(scope="session")
def full_kernel() -> DomainArguments:
    """The built-in guest with the distribution's full kernel: Debian's cloud kernel has no 9p."""
    try:
        tree = fetch("linux-image-amd64", default_cache_dir() / "packages")
    except OperationUnsupported as error:
        pytest.skip(error.message)
    kernel = next(tree.glob("boot/vmlinuz-*"))
    modules = next(tree.glob("**/lib/modules/*"))
    if not (modules / "modules.dep").exists():
        write_tables(modules)
    try:
        guest = build_guest(default_cache_dir(), kernel=kernel, modules=modules)
    except ConfigUnsupported as error:
        pytest.skip(error.message)
    return DomainArguments(kernel=guest.kernel, initrd=guest.initrd, cmdline=guest.cmdline, network="none")


def uri(root: Path) -> str:
    return f"qemu:///embed?root={quote(str(root), safe='/')}"


def xml(name: str = "a", devices: str = "") -> str:
    return f"""<domain type='qemu'><name>{name}</name><memory unit='MiB'>16</memory>
      <os><type arch='x86_64' machine='q35'>hvm</type></os>
      <devices><memballoon model='none'/>{devices}</devices></domain>"""


def qemus(owner: int | None = None) -> set[int]:
    """The processes that OWNER, or this process, has spawned."""
    children = Path(f"/proc/{owner or os.getpid()}/task").glob("*/children")
    return {int(pid) for file in children for pid in file.read_text().split()}


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.fixture
def connect(tmp_path: Path) -> Iterator[Open]:
    """Opens roots below tmp_path, closes them, and checks that no process of theirs stays."""
    before = qemus()
    opened: list[libvirt.virConnect] = []

    def connect(root: Path | str = "root") -> libvirt.virConnect:
        opened.append(libvirt.open(uri(tmp_path / root)))
        return opened[-1]

    yield connect
    for connection in opened:
        with contextlib.suppress(libvirt.libvirtError):  # the test closed it
            connection.close()
    assert qemus() <= before


class Told:
    """The lifecycle events of a connection, in order, by domain."""

    def __init__(self, connection: libvirt.virConnect) -> None:
        self.events: list[tuple[str, int, int]] = []
        self._changed = threading.Condition()
        connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._note, None)

    def _note(self, _connection: object, domain: libvirt.virDomain, event: int, detail: int, _opaque: object) -> None:
        with self._changed:
            self.events.append((domain.name(), event, detail))
            self._changed.notify_all()

    def wait(self, done: Callable[[list[tuple[str, int, int]]], bool]) -> list[tuple[str, int, int]]:
        with self._changed:
            assert self._changed.wait_for(lambda: done(self.events), 30), self.events
            return list(self.events)

    def stopped(self, times: int = 1) -> list[tuple[str, int, int]]:
        """All events, once there are so many STOPPED."""
        return self.wait(lambda events: sum(e[1] == libvirt.VIR_DOMAIN_EVENT_STOPPED for e in events) >= times)
