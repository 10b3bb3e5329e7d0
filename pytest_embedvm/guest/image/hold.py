"""Directories of the cache that living processes use: nobody removes these."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

from pytest_embedvm.files import HALF

#: The directories that this process was given, open and locked until it ends.
_held: dict[Path, int] = {}
#: A pool's thread and the test's may want the same.
_changing: Final = threading.Lock()


def hold_directory(directory: Path) -> bool:
    """Keep DIRECTORY from being removed for as long as this process lives; False when it is going, or gone.

    It counts as used now.
    """
    with _changing:
        if directory in _held and _is(_held[directory], directory):
            _touch(_held[directory])
            return True
        descriptor = _open(directory)
        if descriptor is None:
            return False
        if not _lock(descriptor, fcntl.LOCK_SH) or not _is(descriptor, directory):
            os.close(descriptor)
            return False
        _touch(descriptor)
        if directory in _held:  # the cache was removed and made anew
            os.close(_held[directory])
        _held[directory] = descriptor
        return True


def publish_held(new: Path, directory: Path) -> None:
    """Rename NEW to DIRECTORY, which is not there; nobody can remove it in between.

    :raise OSError: when it cannot be renamed.
    """
    with _changing:
        descriptor = os.open(new, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _lock(descriptor, fcntl.LOCK_SH)
            new.rename(directory)
        except BaseException:
            os.close(descriptor)
            raise
        if directory in _held:
            os.close(_held[directory])
        _held[directory] = descriptor


def remove_unheld(directory: Path) -> bool:
    """Remove DIRECTORY with what is in it, unless a process holds it, this one included; whether it is gone.

    It goes at once, under another name: who comes meanwhile finds all of it or nothing.
    """
    descriptor = _open(directory)
    if descriptor is None:
        return not directory.exists()
    try:
        if not _lock(descriptor, fcntl.LOCK_EX) or not _is(descriptor, directory):
            return False
        aside = directory.with_name(f"{HALF}{directory.name}-{secrets.token_hex(4)}")
        directory.rename(aside)
    except OSError:  # another user's cache
        return False
    finally:
        os.close(descriptor)
    shutil.rmtree(aside, ignore_errors=True)
    return True


def _open(directory: Path) -> int | None:
    try:
        return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None


def _touch(descriptor: int) -> None:
    with suppress(OSError):  # another user's cache
        os.utime(descriptor)


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
