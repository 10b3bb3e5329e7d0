"""The kernel of the built-in guest: the host's own, or a package's that is fetched and not installed."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pytest_embedvm.errors import OperationUnsupported
from pytest_embedvm.guest.image.depmod import write_tables
from pytest_embedvm.guest.image.packages import fetch
from pytest_embedvm.guest.image.vmlinux import release_of

KERNEL_VARIABLE: Final = "EMBEDVM_KERNEL"
MODULES_VARIABLE: Final = "EMBEDVM_KERNEL_MODULES"

PACKAGES: Final = {"x86_64": "linux-image-cloud-amd64", "aarch64": "linux-image-cloud-arm64"}


@dataclass(frozen=True)
class KernelFiles:
    """A kernel and the directory of its modules (`/lib/modules/<release>`), None where it has none."""

    image: Path
    modules: Path | None


def find_kernel(
    cache_dir: Path, *, kernel: Path | None = None, modules: Path | None = None, host: Path = Path("/")
) -> KernelFiles:
    """The kernel to use: KERNEL with its MODULES, or the newest readable one of the host with its modules (a
    cloud kernel before others: it boots quickest), or the distribution's cloud kernel fetched into CACHE_DIR.

    :raise OperationUnsupported: when there is none; the detail says why each was refused and what to install.
    """
    if kernel is not None:
        return KernelFiles(kernel, modules or _modules_of(kernel, host))
    refused: list[str] = []
    for image in _candidates(host):
        directory = modules or host / "lib/modules" / _release(image)
        reason = _refusal(image, directory)
        if reason is None:
            return KernelFiles(image, directory)
        refused.append(reason)
    return _fetched(cache_dir, refused)


def kernel_variables(kernel: Path | None, modules: Path | None) -> tuple[Path | None, Path | None]:
    """KERNEL and MODULES, or where they are None what the environment says."""
    return kernel or _variable(KERNEL_VARIABLE), modules or _variable(MODULES_VARIABLE)


def _variable(name: str) -> Path | None:
    value = os.environ.get(name)
    return Path(value) if value else None


def _modules_of(kernel: Path, host: Path) -> Path | None:
    """The modules of a kernel that the user named: beside it in the same tree, or the host's.

    :raise OperationUnsupported: when the kernel cannot be read.
    """
    try:
        release = release_of(kernel.read_bytes())
    except OSError as error:
        raise OperationUnsupported(f"cannot read the kernel {kernel}: {error.strerror}") from error
    if release is None:
        return None
    trees = [kernel.parent.parent, host]
    found = [tree / base / release for tree in trees for base in ("lib/modules", "usr/lib/modules")]
    return next((path for path in found if (path / "modules.dep").exists()), None)


def _candidates(host: Path) -> list[Path]:
    """The host's kernels, best first: /boot has them everywhere, /lib/modules/<release>/ on Fedora, readable."""
    images = [*host.glob("boot/vmlinuz-*"), *host.glob("lib/modules/*/vmlinuz")]
    return sorted(images, key=lambda image: ("cloud" in _release(image), _version(_release(image))), reverse=True)


def _release(image: Path) -> str:
    return image.parent.name if image.name == "vmlinuz" else image.name.removeprefix("vmlinuz-")


def _version(release: str) -> list[tuple[int, str]]:
    """RELEASE so that 6.10 sorts above 6.9."""
    return [(int(number or 0), text) for number, text in re.findall(r"(\d*)(\D*)", release)]


def _refusal(image: Path, modules: Path) -> str | None:
    """Why IMAGE cannot be used, or None."""
    if not os.access(image, os.R_OK):
        return f"{image} is not readable by this user (sudo chmod a+r {image})"
    if not (modules / "modules.dep").exists():
        return f"{image} has no modules in {modules}"
    return None


def _fetched(cache_dir: Path, refused: list[str]) -> KernelFiles:
    package = PACKAGES.get(platform.machine(), "linux-image")
    try:
        tree = fetch(package, cache_dir / "packages")
    except OperationUnsupported as error:
        why = "; ".join([*(refused or ["/boot has no kernel"]), error.detail])
        raise OperationUnsupported(
            f"no kernel for the built-in guest: {why}. "
            f"Install one (apt-get install {package}; dnf install kernel-core), "
            f"or name one in {KERNEL_VARIABLE} and its modules directory in {MODULES_VARIABLE}"
        ) from error
    for image in _candidates(tree):
        for base in ("lib/modules", "usr/lib/modules"):
            directory = tree / base / _release(image)
            if directory.is_dir():
                if not (directory / "modules.dep").exists():
                    write_tables(directory)
                return KernelFiles(image, directory)
    raise OperationUnsupported(f"the package {package} has no kernel with modules: see {tree}")
