"""Which QEMU: finding the emulator, and everything about it that can change what it answers."""

from __future__ import annotations

import errno
import os
import platform
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pytest_embedvm.errors import SystemFailure

#: Where Fedora and RHEL keep the emulator of the host's own architecture, out of PATH.
RHEL_BINARY: Final = Path("/usr/libexec/qemu-kvm")

#: The package that holds the emulator, Debian's and Fedora's; others are in `qemu-system-misc` and `qemu-system-ARCH`.
_PACKAGES: Final = {
    "x86_64": ("qemu-system-x86", "qemu-system-x86"),
    "i386": ("qemu-system-x86", "qemu-system-x86"),
    "aarch64": ("qemu-system-arm", "qemu-system-aarch64"),
    "arm": ("qemu-system-arm", "qemu-system-arm"),
    "ppc64": ("qemu-system-ppc", "qemu-system-ppc"),
}


def find_binary(arch: str = "x86_64") -> Path:
    """The emulator for guests of ARCH: the first in PATH, or RHEL's for the host's own architecture.

    :raise SystemFailure: when there is none; names the package to install.
    """
    name = f"qemu-system-{arch}"
    found = shutil.which(name)
    if found:
        return Path(found)
    if arch == platform.machine() and os.access(RHEL_BINARY, os.X_OK):
        return RHEL_BINARY
    debian, fedora = _PACKAGES.get(arch, ("qemu-system-misc", name))
    raise SystemFailure(
        f"Cannot find QEMU binary {name} in PATH; it is in the package {debian} (Debian) or {fedora} (Fedora)"
    )


def _status(binary: Path) -> os.stat_result:
    """Stat BINARY, with libvirt's words when it is no program."""
    # libvirt: virQEMUCapsNewForBinaryInternal
    try:
        status = binary.stat()
    except OSError as error:
        raise SystemFailure(f"Cannot check QEMU binary {binary}: {error.strerror}") from error
    if stat.S_ISREG(status.st_mode) and os.access(binary, os.X_OK):
        return status
    reason = os.strerror(errno.EISDIR if stat.S_ISDIR(status.st_mode) else errno.EACCES)
    raise SystemFailure(f"QEMU binary {binary} is not executable: {reason}")


def _module_directories(resolved: Path) -> tuple[tuple[str, int], ...]:
    """The directories QEMU may load modules from, each with the time its listing last changed."""
    # QEMU: module_load() looks in $QEMU_MODULE_DIR and in the CONFIG_QEMU_MODDIR it was built with.
    prefix = resolved.parent.parent
    candidates = [prefix / lib / "qemu" for lib in ("lib", "lib64", f"lib/{platform.machine()}-linux-gnu")]
    if asked := os.environ.get("QEMU_MODULE_DIR"):
        candidates.append(Path(asked))
    found = []
    for candidate in candidates:
        try:
            found.append((str(candidate), candidate.stat().st_mtime_ns))
        except OSError:  # not there, or not for us: then QEMU does not load from it either
            continue
    return tuple(found)


@dataclass(frozen=True)
class BinaryIdentity:
    """Equal as long as the emulator gives the same answers; a few stat() calls to take."""

    path: str
    resolved: str
    device: int
    inode: int
    size: int
    mtime_ns: int
    modules: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, binary: Path) -> BinaryIdentity:
        """Identify BINARY as it is on disk now.

        :raise SystemFailure: when it is missing, not executable or a directory, in libvirt's words.
        """
        status = _status(binary)
        resolved = binary.resolve()
        return cls(
            path=str(binary),
            resolved=str(resolved),
            device=status.st_dev,
            inode=status.st_ino,
            size=status.st_size,
            mtime_ns=status.st_mtime_ns,
            modules=_module_directories(resolved),
        )
