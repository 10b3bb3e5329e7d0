"""What one test starts, and its end."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import pytest

from pytest_embedvm import libvirt
from pytest_embedvm.driver.root import Root
from pytest_embedvm.driver.uri import make_uri
from pytest_embedvm.guest import VM, domain_xml
from pytest_embedvm.guest.image.build import build_guest
from pytest_embedvm.plugin import machine
from pytest_embedvm.plugin.artifacts import CONNECTIONS
from pytest_embedvm.plugin.leaks import leftovers
from pytest_embedvm.plugin.markers import KNOWN, DomainArguments
from pytest_embedvm.plugin.settings import SETTINGS
from pytest_embedvm.qemu.cache import default_cache_dir
from pytest_embedvm.qemu.image import create_overlay, image_format

#: The start of the command line of a kernel that the user brings.
OWN_CMDLINE: Final = "console=ttyS0"


class _System(NamedTuple):
    kernel: Path | None
    initrd: Path | None
    cmdline: str | None


class Machines:
    """The connections, roots and VMs of one test."""

    def __init__(self, request: pytest.FixtureRequest, folder: Path) -> None:
        self._settings = request.config.stash[SETTINGS]
        self._folder = folder
        self._connections = request.node.stash.setdefault(CONNECTIONS, [])
        self._roots: list[Path] = []
        self._vms: list[VM] = []
        self._numbers = itertools.count(1)
        self._disks = folder / "embedvm-disks"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End every VM, close every connection, purge every root; one that fails does not keep the others.

        Fails the test when anything stayed.
        """
        with ExitStack() as stack:
            stack.callback(self._check)
            stack.callback(shutil.rmtree, self._disks, ignore_errors=True)
            for root in self._roots:
                stack.callback(Root(root).purge)
            for connection in self._connections:
                stack.callback(_close, connection)
            for vm in self._vms:
                stack.callback(vm.close)
        self._connections.clear()

    def _check(self) -> None:
        stayed = [what for root in self._roots for what in leftovers(root)]
        if stayed:
            pytest.fail("embedvm: teardown left behind: " + "; ".join(stayed), pytrace=False)

    def open(self, root: Path | None = None) -> libvirt.virConnect:
        """Open a connection to ROOT, or to a new root under the test's `tmp_path`."""
        if root is None:
            root = self._folder / f"embedvm-{next(self._numbers)}"
            root.mkdir(mode=0o700)
        if root not in self._roots:
            self._roots.append(root)
        connection = libvirt.open(make_uri(root))
        self._connections.append(connection)
        return connection

    def domain_xml(self, wanted: DomainArguments, name: str = "vm") -> str:
        """The XML of the built-in guest, or of the user's own kernel or image, as WANTED.

        An image gets an overlay of this machine's own under the test's `tmp_path`; it is never written itself.
        """
        system = self._system(wanted)
        return domain_xml(
            name,
            memory_mib=wanted.memory,
            vcpus=wanted.vcpus,
            machine=wanted.machine,
            cpu=wanted.cpu,
            accelerator=machine.accelerator(self._settings.accel),
            kernel=system.kernel,
            initrd=system.initrd,
            cmdline=" ".join(filter(None, (system.cmdline, wanted.cmdline))) if system.kernel else None,
            disk=self._overlay(Path(wanted.image), name) if wanted.image else None,
            network="user" if wanted.network == "user" else "none",
        )

    def _system(self, wanted: DomainArguments) -> _System:
        """What is booted directly; nothing for an image without a kernel beside it."""
        if wanted.kernel:
            return _System(Path(wanted.kernel), Path(wanted.initrd) if wanted.initrd else None, OWN_CMDLINE)
        if wanted.image:
            return _System(None, None, None)
        built = build_guest(default_cache_dir())
        return _System(built.kernel, Path(wanted.initrd) if wanted.initrd else built.initrd, built.cmdline)

    def _overlay(self, base: Path, name: str) -> Path:
        self._disks.mkdir(mode=0o700, exist_ok=True)
        overlay = self._disks / f"{name}-{next(self._numbers)}.qcow2"
        create_overlay(base.absolute(), overlay, image_format(base))
        return overlay

    def start(self, connection: libvirt.virConnect, xml: str) -> VM:
        """A VM that runs; nobody has waited for its guest."""
        vm = VM.boot(connection, xml)
        self._vms.append(vm)
        return vm

    def boot(self, connection: libvirt.virConnect, wanted: DomainArguments, xml: str | None, **keywords: Any) -> VM:
        """One more VM that has booted and answers.

        :raise TypeError: when a keyword is not one of the marker's.
        """
        name = keywords.pop("name", None) or f"vm-{next(self._numbers)}"
        unknown = keywords.keys() - set(KNOWN)
        if unknown:
            raise TypeError(f"vm_factory() knows name, xml, connection, {', '.join(KNOWN)}; not {', '.join(unknown)}")
        wanted = dataclasses.replace(wanted, **keywords)
        vm = self.start(connection, xml or self.domain_xml(wanted, name))
        vm.wait_ready(timeout=wanted.timeout)
        return vm


def _close(connection: libvirt.virConnect) -> None:
    try:
        connection.close()
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_INVALID_CONN:  # the test has closed it itself
            raise
