"""The guest's two programs, busybox and the QEMU guest agent: the host's own, or out of a package."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pytest_embedvm.errors import OperationUnsupported
from pytest_embedvm.guest.image.closure import MissingLibrary, Search, library_closure
from pytest_embedvm.guest.image.elf import NotELF
from pytest_embedvm.guest.image.packages import fetch

BUSYBOX: Final = ("busybox", "busybox-static")
AGENT: Final = ("qemu-ga", "qemu-guest-agent")

#: What /init and its scripts call; a busybox without one of them makes a guest that lacks something.
APPLETS: Final = frozenset((
    "sh", "mount", "umount", "modprobe", "ip", "ln", "mkdir", "usleep", "udhcpc", "setsid", "start-stop-daemon",
    "uevent", "acpid", "ifconfig", "poweroff", "reboot", "halt", "renice", "head", "pidof",
))  # fmt: skip

LIST_TIMEOUT_S: Final = 30.0


@dataclass(frozen=True)
class Program:
    """A binary and its libraries: the path (loader) or bare name (library) it asks for, and the file on the host."""

    path: Path
    libraries: dict[str, Path]


def which(name: str) -> Path | None:
    """The host's program NAME; the system's directories count also where they are not in an ordinary user's PATH."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin")
    return Path(found) if found else None


def find_busybox(arch: str, cache_dir: Path) -> Program:
    """Busybox; a static one brings no libraries.

    :raise OperationUnsupported: when there is none and none can be fetched; the detail says what to install.
    """
    return find_program(*BUSYBOX, arch, cache_dir)


def find_agent(arch: str, cache_dir: Path) -> Program:
    """The QEMU guest agent with its libraries.

    :raise OperationUnsupported: when there is none and none can be fetched; the detail says what to install.
    """
    return find_program(*AGENT, arch, cache_dir)


def applets(busybox: Program) -> list[str]:
    """The names busybox answers to.

    :raise OperationUnsupported: when it does not run.
    """
    try:
        done = subprocess.run(
            [busybox.path, "--list"], capture_output=True, text=True, timeout=LIST_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise OperationUnsupported(f"{busybox.path} does not say which commands it has: {error}") from error
    return done.stdout.split()


def find_program(name: str, package: str, arch: str, cache_dir: Path) -> Program:
    """The host's program NAME, or the one in PACKAGE, which is fetched into CACHE_DIR; with its libraries.

    :raise OperationUnsupported: when there is none and none can be fetched; the detail says what to install.
    """
    refused: list[str] = []
    for path, search in _places(name, package, arch, cache_dir, refused):
        try:
            return Program(path, library_closure(path, search))
        except (MissingLibrary, NotELF, OSError) as error:
            refused.append(f"{path}: {error}")
    raise OperationUnsupported(f"no {name} for the guest: {'; '.join(refused)}. Install it: apt-get install {package}")


def _places(name: str, package: str, arch: str, cache_dir: Path, refused: list[str]) -> Iterator[tuple[Path, Search]]:
    """Where NAME may be, the cheapest place first; a place is made only when those before it would not do."""
    host = which(name)
    if host is not None:
        yield host, Search(arch)
    for libraries in (False, True):
        try:
            tree = fetch(package, cache_dir / "packages", libraries=libraries)
        except OperationUnsupported as error:
            refused.append(error.detail)
            return
        for path in sorted(tree.glob(f"**/*bin/{name}")):
            yield path, Search(arch, (tree,) if libraries else (tree, Path("/")))
