"""Where things lie below a root, and which directories can be none."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.errors import ConfigUnsupported

Place = Literal[
    "cache", "channel", "checkpoint", "config", "dump", "log", "nvram", "ram", "run", "save", "snapshot", "state",
    "swtpm-log", "swtpm-run", "swtpm-state", "tls",
]  # fmt: skip

# libvirt: virQEMUDriverConfigNew, for an embedded driver
PLACES: Final[dict[Place, tuple[str, ...]]] = {
    "cache": ("cache",),
    "channel": ("lib", "qemu", "channel", "target"),
    "checkpoint": ("lib", "qemu", "checkpoint"),
    "config": ("etc", "qemu"),
    "dump": ("lib", "qemu", "dump"),
    "log": ("log", "qemu"),
    "nvram": ("lib", "qemu", "nvram"),
    "ram": ("lib", "qemu", "ram"),
    "run": ("run", "qemu"),
    "save": ("lib", "qemu", "save"),
    "snapshot": ("lib", "qemu", "snapshot"),
    "state": ("lib", "qemu"),
    "swtpm-log": ("log", "swtpm"),
    "swtpm-run": ("run", "swtpm"),
    "swtpm-state": ("lib", "swtpm"),
    "tls": ("etc", "pki", "qemu"),
}

#: Those that are there as soon as a root is open. libvirt: qemuStateInitialize
FROM_THE_START: Final[tuple[Place, ...]] = (
    "run", "channel", "checkpoint", "dump", "nvram", "ram", "save", "snapshot",
)  # fmt: skip

#: A link to the cache that all roots share.
CACHE_LINK: Final = "cache/qemu"

#: What only the driver writes, and a purge removes; the lock's directory is emptied last but for the record's.
OURS: Final[tuple[Place, ...]] = ("config", "log", "swtpm-log", "swtpm-run", "swtpm-state", "run", "state")

#: Where files are written that are whole or not there, and one level below.
WRITTEN: Final[tuple[Place, ...]] = ("config", "nvram", "run", "state")

# libvirt: virQEMUDriverConfigNew, for a privileged driver
_SYSTEM: Final = ("/etc/libvirt", "/run/libvirt", "/var/lib/libvirt", "/var/log/libvirt", "/var/cache/libvirt")
#: Below the system's directories, what is not libvirt's own state but its users'.
_USERS: Final = ("/var/lib/libvirt/images", "/var/lib/libvirt/filesystems", "/var/lib/libvirt/boot")


def _session() -> Iterator[str]:
    """The directories of this user's own libvirt daemon."""
    # libvirt: virGetUserConfigDirectory, virGetUserCacheDirectory, virGetUserRuntimeDirectory, virGetUserDataDirectory
    home = os.path.expanduser("~")  # noqa: PTH111 - unlike Path.expanduser it never raises
    for variable, default in (
        ("XDG_CONFIG_HOME", f"{home}/.config"),
        ("XDG_CACHE_HOME", f"{home}/.cache"),
        ("XDG_DATA_HOME", f"{home}/.local/share"),
        ("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}"),
    ):
        yield f"{os.environ.get(variable) or default}/libvirt"


def require_free(root: Path) -> None:
    """See that ROOT, a resolved path, is neither the host's `/` nor where a libvirt daemon has its files.

    Bind mounts are seen through: what counts is the directory.

    :raise ConfigUnsupported: when it is, or is above the system daemon's directories or below any daemon's.
    """
    chain = _marks(root, *root.parents)
    if not _marks(Path("/")).isdisjoint(_marks(root)):
        raise _refusal("must not be '/': it holds the host's own files")
    for name in (*_SYSTEM, *_session()):
        directory = Path(os.path.realpath(name))
        daemon = "libvirt's daemon (qemu:///system)" if name in _SYSTEM else "this user's libvirt (qemu:///session)"
        if not _marks(directory).isdisjoint(chain) and not any(
            Path(users) in (root, *root.parents) for users in _USERS
        ):
            raise _refusal(f"'{root}' belongs to {daemon}, which keeps its files in '{name}'")
        if name in _SYSTEM and not _marks(*directory.parents).isdisjoint(_marks(root)):
            raise _refusal(f"'{root}' belongs to the host: {daemon} keeps its files in '{name}'")


def _marks(*paths: Path) -> set[Path | tuple[int, int]]:
    """What tells PATHS from others: how they are spelled, and which directories they are."""
    marks: set[Path | tuple[int, int]] = set(paths)
    for path in paths:
        with contextlib.suppress(OSError):  # it is not there
            status = path.stat()
            marks.add((status.st_dev, status.st_ino))
    return marks


def _refusal(what: str) -> ConfigUnsupported:
    return ConfigUnsupported(f"root path {what}", origin=ErrorDomain.NONE)
