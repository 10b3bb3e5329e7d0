"""A template of the built-in guest and clones of it, as the fixtures have them, without pytest and its cache."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pytest_embedvm import embed, libvirt
from pytest_embedvm.guest import VM, domain_xml
from pytest_embedvm.guest.image.build import build_guest
from pytest_embedvm.guest.templates import building
from pytest_embedvm.guest.templates.origin import Origin

PAUSED = libvirt.VIR_DOMAIN_START_PAUSED
ORIGIN = Origin("clone", None, "bench")


@contextmanager
def private_root() -> Iterator[tuple[Path, libvirt.virConnect]]:
    """A new root and a connection to it, both gone when the block is left."""
    root = Path(tempfile.mkdtemp(prefix="embedvm-bench-"))
    try:
        connection = libvirt.open(embed.make_uri(root))
        try:
            yield root, connection
        finally:
            connection.close()
    finally:
        shutil.rmtree(root, ignore_errors=True)


def guest_xml(name: str = "vm", network: Literal["private", "none"] = "private") -> str:
    """The domain of the built-in guest."""
    built = build_guest(embed.default_cache_dir())
    return domain_xml(name, kernel=built.kernel, initrd=built.initrd, cmdline=built.cmdline, network=network)


def make_template(folder: Path) -> None:
    """Boot the built-in guest once and freeze it in FOLDER."""
    with private_root() as (_, connection):
        building.build(connection, guest_xml(), folder)


def clone(connection: libvirt.virConnect, folder: Path, name: str) -> VM:
    """A clone of the template in FOLDER that is a machine of its own, as the fixture has it."""
    return building.clone_vm(connection, folder, name, origin=ORIGIN)


def bare_clone(connection: libvirt.virConnect, folder: Path, name: str) -> VM:
    """A clone that goes on and answers a ping, and that nobody has told who it is."""
    domain = embed.clone(connection, folder, name, PAUSED)
    vm = VM(domain)
    domain.resume()
    vm.wait_ready()
    return vm


def end(vm: VM) -> None:
    """End a VM as the fixture does."""
    vm.close()
    vm.domain.destroy()


def qemu_pid(root: Path, name: str) -> int:
    return int((root / "run/qemu" / f"{name}.pid").read_text())
