"""Old guests in the cache: the few most recent stay, and each that a living process has been given."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final

from pytest_embedvm.guest.image.manifest import GuestImage

#: A guest takes some 50 MB; a host rarely has more kernels than this.
KEPT: Final = 3

#: The directories of the guests that this process was given, open and locked until it ends.
_held: dict[Path, int] = {}


def hold(image: GuestImage) -> bool:
    """Keep IMAGE from being pruned for as long as this process lives; False when it is going, or gone."""
    return hold_directory(image.kernel.parent)


def hold_directory(directory: Path) -> bool:
    """The same of whatever lies in DIRECTORY."""
    if directory in _held and _is(_held[directory], directory):
        return True
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    if not _lock(descriptor, fcntl.LOCK_SH) or not _is(descriptor, directory):
        os.close(descriptor)
        return False
    with suppress(OSError):  # another user's cache
        os.utime(descriptor)
    if directory in _held:  # the cache was removed and made anew
        os.close(_held[directory])
    _held[directory] = descriptor
    return True


def prune(cache_dir: Path) -> None:
    """Remove all guests but the most recently used, and what a killed process has half made; under the guests' lock."""
    guests = cache_dir / "guest"
    for half in (*guests.glob(".new-*"), *(cache_dir / "packages").glob(".fetch-*")):
        _discard(half)
    found = sorted((path for path in guests.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime_ns)
    for directory in found[:-KEPT]:
        remove_unheld(directory)
    for manifest in guests.glob("*.json"):
        if not _leads_somewhere(manifest):
            _discard(manifest)


def _discard(path: Path) -> None:
    """Remove PATH, if it can be removed: pruning is no reason to fail."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
        return
    with suppress(OSError):
        path.unlink()


def remove_unheld(directory: Path) -> None:
    """Remove DIRECTORY with what is in it, unless a process holds it."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if _lock(descriptor, fcntl.LOCK_EX):
            _discard(directory)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, kind: int) -> bool:
    """Whether nobody has a lock on it that excludes this one; a file system without locks has no such."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return kind == fcntl.LOCK_SH
    return True


def _is(descriptor: int, directory: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), directory.stat())
    except OSError:
        return False


def _leads_somewhere(manifest: Path) -> bool:
    try:
        return Path(json.loads(manifest.read_bytes())["image"]["kernel"]).exists()
    except (OSError, ValueError, KeyError, TypeError):
        return False
