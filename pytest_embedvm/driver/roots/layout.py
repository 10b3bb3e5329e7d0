"""Where things lie below a root, and which directories can be none."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypeAlias

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.errors import ConfigUnsupported

Place = Literal[
    "cache", "channel", "checkpoint", "config", "dump", "images", "log", "nvram", "pools", "ram", "run", "save",
    "secret-key", "secrets", "snapshot", "state", "swtpm-log", "swtpm-run", "swtpm-state", "tls",
]  # fmt: skip

# libvirt: virQEMUDriverConfigNew, for an embedded driver
PLACES: Final[dict[Place, tuple[str, ...]]] = {
    "cache": ("cache",),
    "channel": ("lib", "qemu", "channel", "target"),
    "checkpoint": ("lib", "qemu", "checkpoint"),
    "config": ("etc", "qemu"),
    "dump": ("lib", "qemu", "dump"),
    "images": ("lib", "libvirt", "images"),
    "log": ("log", "qemu"),
    "nvram": ("lib", "qemu", "nvram"),
    "pools": ("etc", "storage"),
    "ram": ("lib", "qemu", "ram"),
    "run": ("run", "qemu"),
    "save": ("lib", "qemu", "save"),
    # libvirt: secretStateInitialize; its values are not encrypted
    "secret-key": ("lib", "secrets"),
    "secrets": ("etc", "secrets"),
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
OURS: Final[tuple[Place, ...]] = (
    "config", "pools", "images", "secrets", "secret-key", "log", "swtpm-log", "swtpm-run", "swtpm-state", "run",
    "state",
)  # fmt: skip

#: Where files are written that are whole or not there, and one level below.
WRITTEN: Final[tuple[Place, ...]] = ("config", "nvram", "pools", "run", "secret-key", "secrets", "state")

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


_Mark: TypeAlias = Path | tuple[int, int]


def require_free(root: Path) -> None:
    """See that ROOT, a resolved path, is neither the host's `/` nor where a libvirt daemon has its files.

    Bind mounts are seen through: what counts is the directory.

    :raise ConfigUnsupported: when it is, or is above the system daemon's directories or below any daemon's.
    """
    own, chain = _marks(root), _marks(root, *root.parents)
    if not _marks(Path("/")).isdisjoint(own):
        raise _refusal("must not be '/': it holds the host's own files")
    users = any(Path(place) in (root, *root.parents) for place in _USERS)
    for daemon in _daemons(tuple(_session())):
        if not daemon.directory.isdisjoint(chain) and not users:
            raise _refusal(f"'{root}' belongs to {daemon.name}, which keeps its files in '{daemon.path}'")
        if not daemon.above.isdisjoint(own):
            raise _refusal(f"'{root}' belongs to the host: {daemon.name} keeps its files in '{daemon.path}'")


class _Daemon(NamedTuple):
    """A directory of a libvirt daemon."""

    name: str
    path: str
    directory: frozenset[_Mark]
    above: frozenset[_Mark]


@cache
def _daemons(session: tuple[str, ...]) -> tuple[_Daemon, ...]:
    """Looked up once: a process opens many roots, and the host's directories stay where they are."""
    found = []
    for path in (*_SYSTEM, *session):
        directory = Path(os.path.realpath(path))
        if path in _SYSTEM:
            name, above = "libvirt's daemon (qemu:///system)", _marks(*directory.parents)
        else:
            name, above = "this user's libvirt (qemu:///session)", frozenset[_Mark]()
        found.append(_Daemon(name, path, _marks(directory), above))
    return tuple(found)


def _marks(*paths: Path) -> frozenset[_Mark]:
    """What tells PATHS from others: how they are spelled, and which directories they are."""
    marks: set[_Mark] = set(paths)
    for path in paths:
        with contextlib.suppress(OSError):  # it is not there
            status = path.stat()
            marks.add((status.st_dev, status.st_ino))
    return frozenset(marks)


def _refusal(what: str) -> ConfigUnsupported:
    return ConfigUnsupported(f"root path {what}", origin=ErrorDomain.NONE)
