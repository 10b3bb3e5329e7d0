"""The XML of what a marker wants: the built-in guest, or the user's own kernel or image."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from pytest_embedvm.guest import domain_xml
from pytest_embedvm.guest.image.build import build_guest
from pytest_embedvm.plugin import machine
from pytest_embedvm.plugin.markers import BUILT_IN, DomainArguments
from pytest_embedvm.plugin.settings import Settings
from pytest_embedvm.qemu.cache import default_cache_dir
from pytest_embedvm.qemu.image import Format

if TYPE_CHECKING:
    from pytest_embedvm.plugin.images import Images

#: The start of the command line of a kernel that the user brings; a busy host fails the kernel's check of its timer.
OWN_CMDLINE: Final = "console=ttyS0 no_timer_check"


class System(NamedTuple):
    """What is booted directly."""

    kernel: Path | None
    initrd: Path | None
    cmdline: str | None


#: The disk boots.
NO_SYSTEM: Final = System(None, None, None)


class Disk(NamedTuple):
    """An image that the machine writes to."""

    path: Path
    format: Format


class Domains:
    """What markers say, as XML."""

    def __init__(self, settings: Settings, images: Images | None) -> None:
        """:param images: what `image=` may name."""
        self._settings = settings
        self._images = images

    def xml(
        self, wanted: DomainArguments, name: str, disk: Disk | None, seed: Path | None = None, *, boots: bool = False
    ) -> str:
        """The domain NAME, as WANTED, on DISK.

        :param boots: DISK is what boots, unless a kernel is WANTED.
        :raise EmbedError: when this host has no QEMU, or nothing to make the built-in guest of; says what to install.
        :raise FileNotFoundError: when a file of the user's is not there.
        """
        accelerator = machine.accelerator(self._settings.accel)  # a host without QEMU is told so first
        system = NO_SYSTEM if boots and not wanted.kernel else self._system(wanted)
        return domain_xml(
            name,
            memory_mib=wanted.memory,
            vcpus=wanted.vcpus,
            machine=wanted.machine,
            cpu=wanted.cpu,
            accelerator=accelerator,
            firmware=wanted.firmware,
            kernel=system.kernel,
            initrd=system.initrd,
            cmdline=" ".join(filter(None, (system.cmdline, wanted.cmdline))) if system.kernel else None,
            disk=disk.path if disk else None,
            disk_format=disk.format if disk else "qcow2",
            seed=seed,
            network=wanted.network,
        )

    def _system(self, wanted: DomainArguments) -> System:
        initrd = self._file("initrd", wanted.initrd) if wanted.initrd else None
        if wanted.kernel and wanted.kernel != BUILT_IN:
            return System(self._file("kernel", wanted.kernel), initrd, OWN_CMDLINE)
        built = build_guest(default_cache_dir())
        kernel = built.kernel if wanted.firmware == "bios" else built.packed_kernel
        return System(kernel, initrd or built.initrd, built.cmdline)

    def image(self, image: str | Path) -> Path:
        """What IMAGE names: one of `embedvm_images`, else a file.

        :raise FileNotFoundError: when there is neither.
        """
        if self._images and isinstance(image, str) and image in self._images:
            return self._file("image", self._images[image])
        try:
            return self._file("image", image)
        except FileNotFoundError as error:
            if self._images:
                error.strerror = f"{error.strerror}, and embedvm_images knows only {', '.join(self._images)}"
            raise

    def _file(self, keyword: str, path: str | Path) -> Path:
        """The user's file PATH, from pytest's rootdir on where it is relative."""
        file = self._settings.rootpath / Path(path).expanduser()
        if not file.exists():
            raise FileNotFoundError(errno.ENOENT, f"embedvm's {keyword}={str(path)!r} is not there", str(file))
        return file
