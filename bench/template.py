"""A template of the built-in guest, and clones of it, on the embedded driver itself: no pytest, no cache."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pytest_embedvm import embed, libvirt
from pytest_embedvm.guest import VM, domain_xml
from pytest_embedvm.guest.image.build import build_guest

PAUSED = libvirt.VIR_DOMAIN_START_PAUSED


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


def guest_xml(name: str = "vm", network: str = "private") -> str:
    """The domain of the built-in guest, as the fixtures have it."""
    built = build_guest(embed.default_cache_dir())
    return domain_xml(name, kernel=built.kernel, initrd=built.initrd, cmdline=built.cmdline, network=network)


def make_template(folder: Path) -> None:
    """Boot the built-in guest once, let it run each thing that is measured, and freeze it in FOLDER."""
    with private_root() as (_, connection):
        domain = embed.begin_template(connection, guest_xml(), folder, PAUSED)
        with VM(domain) as vm:
            domain.resume()
            vm.wait_ready()
            for _ in range(3):
                vm.run("true")
        embed.freeze(domain, folder)


def clone(connection: libvirt.virConnect, folder: Path, name: str) -> VM:
    """A clone of the template in FOLDER that runs, and that nobody has spoken to yet."""
    domain = embed.clone(connection, folder, name, PAUSED)
    vm = VM(domain)
    domain.resume()
    return vm


def end(vm: VM) -> None:
    """End a VM as the fixture does."""
    vm.close()
    vm.domain.destroy()


def qemu_pid(root: Path, name: str) -> int:
    return int((root / "run/qemu" / f"{name}.pid").read_text())
