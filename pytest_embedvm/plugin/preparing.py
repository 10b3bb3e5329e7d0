"""What a function that prepares an image is given: a place, and VMs to prepare it in."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from pytest_embedvm.errors import OperationFailed
from pytest_embedvm.guest import VM
from pytest_embedvm.plugin.markers import DomainArguments
from pytest_embedvm.plugin.session import Machines
from pytest_embedvm.plugin.settings import Settings
from pytest_embedvm.qemu.image import create_blank, image_format

#: pytest shows the line that called, not these.
__tracebackhide__ = True

GIB: Final = 1024**3
#: A clean end of a full system that was just installed.
SHUTDOWN_TIMEOUT_S: Final = 300.0
COPY_TIMEOUT_S: Final = 1800.0


class Preparation:
    """One image while it is made. `image` is where it has to be in the end, `folder` is for whatever else."""

    def __init__(self, name: str, image: Path, settings: Settings) -> None:
        self.name = name
        self.image = image
        self.folder = Path(tempfile.mkdtemp(prefix="embedvm-prepare-"))
        self._settings = settings

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def require_image(self) -> None:
        """:raise OperationFailed: when no image was made."""
        if not self.image.is_file() or self.image.is_symlink():
            raise OperationFailed(f"the image '{self.name}' was not made: nothing is at {self.image}")

    def create_disk(self, gib: float) -> Path:
        """Make `image` an empty qcow2 disk of so many GiB."""
        create_blank(self.image, int(gib * GIB) // 512 * 512)
        return self.image

    def copy_disk(self, base: str | Path, gib: float | None = None) -> Path:
        """Make `image` a copy of the disk BASE, of any format; larger, if it is to have more GiB.

        BASE is no part of what the image is known by unless it is among the `inputs`.

        :raise OperationFailed: when it cannot be copied; with what qemu-img said.
        """
        source = self._settings.rootpath / Path(base).expanduser()
        _qemu_img("convert", "-O", "qcow2", f"-f{image_format(source)}", str(source), str(self.image))
        if gib is not None:
            _qemu_img("resize", "-q", "-fqcow2", str(self.image), str(int(gib * GIB)))
        return self.image

    @contextlib.contextmanager
    def vm(
        self,
        *,
        disk_gib: float | None = None,
        base: str | Path | None = None,
        xml: str | None = None,
        ready: bool = True,
        **keywords: Any,
    ) -> Iterator[VM]:
        """A VM that writes to `image`; at the end of the block it is shut down, so that all it wrote is there.

        It is the built-in guest with `image` as its disk (`/dev/vda`), or boots from that when BASE is given. An image
        that is not there yet is made: of DISK_GIB, or a copy of BASE.

        :param xml: a domain of the caller's instead, in which `image` is a disk: an installer's.
        :param ready: wait until the guest's agent answers.
        :param keywords: the marker's.
        """
        if not self.image.exists() and (base is not None or disk_gib is not None):
            self.create_disk(disk_gib or 0) if base is None else self.copy_disk(base, disk_gib)
        wanted = DomainArguments(**keywords)
        place = Path(tempfile.mkdtemp(dir=self.folder))
        with Machines(self._settings, [], place) as machines:
            disk = self.image if self.image.exists() else None
            text = xml or machines.prepared_xml(wanted, disk, boots=base is not None)
            vm = machines.start(machines.open(wanted), text)
            if ready:
                vm.wait_ready(timeout=wanted.timeout)
            yield vm
            vm.shutdown(timeout=SHUTDOWN_TIMEOUT_S)


def _qemu_img(*words: str) -> None:
    try:
        done = subprocess.run(["qemu-img", *words], capture_output=True, text=True, timeout=COPY_TIMEOUT_S, check=False)
    except FileNotFoundError:
        raise OperationFailed("a disk is copied by qemu-img, which is not installed") from None
    if done.returncode:
        raise OperationFailed(f"qemu-img {words[0]}: {done.stderr.strip()}")
