"""What takes long to make is made once, by one process while the others wait, and kept for all that come later."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Final

from pytest_embedvm.errors import SystemFailure
from pytest_embedvm.files import HALF, make_private_directory
from pytest_embedvm.guest.image.hold import publish_held, remove_unheld
from pytest_embedvm.guest.image.lock import locked
from pytest_embedvm.guest.templates import pruning
from pytest_embedvm.guest.templates.entry import Entry, disk_bytes, entries, seal, take, unseal

#: pytest shows the line that called, not these.
__tracebackhide__ = True

#: Another worker may be running an installer.
LOCK_TIMEOUT_S: Final = 3600.0

#: Less is left of a file system that is full.
FULL_BYTES: Final = 1 << 20
_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT)


class Store:
    """The directories in FOLDER, each known by the key of what it was made of, and never changed.

    FOLDER is one of a cache's, such as `templates`. `limit` is how many bytes of disk all that such folders of the
    cache hold may take; what was used least recently goes first.
    """

    def __init__(self, folder: Path, *, what: str, limit: int | None, instead: Path | None = None) -> None:
        """:param what: what each of them is, in one word.
        :param instead: where they are made if FOLDER cannot be written: a directory of this run and all its workers.
        """
        self._folder = folder
        self._what = what
        self._limit = limit
        self._instead = instead
        self._pruned = False

    def get(
        self,
        key: str,
        make: Callable[[Path], None],
        *,
        title: str,
        anew: str | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> Path:
        """The directory KEY, which is there, whole, and stays until this process ends; MAKE fills it if it must.

        One process makes it, while others that want it wait. MAKE is given an empty private directory, which takes
        its final name when MAKE has returned; if it raises, or the process is killed, nothing stays. What images in it
        stand on, if that is in this cache, stays as long as it does.

        :param title: what it is, for people.
        :param anew: the name of a run for which it is to be made anew, by the first of its processes that comes.
        :param progress: told for whom is waited, more and more seldom; when it is made here, MAKE can tell.
        :raise SystemFailure: when the disk is full, or the cache cannot be written and there is nothing `instead`.
        :raise OperationTimeout: when another process has been making it for an hour.
        """
        folder = self._folder
        directory = self._take(folder, key, anew)
        if directory is None:
            folder = self._writable()
            doing = f"making the {self._what} '{title}'"
            with locked(folder / f"{key}.lock", doing, LOCK_TIMEOUT_S, progress):
                directory = self._take(folder, key, anew)
                if directory is None:
                    directory = self._make(folder, key, make, title, anew)
                    self._pruned = False
        if folder == self._folder and not self._pruned:
            self._pruned = True
            self.prune()
        return directory

    def drop(self, key: str, directory: Path | None = None) -> None:
        """Let nobody be given KEY any more as it is: it is no good. Who has it keeps it until he ends.

        :param directory: what `get` returned; nothing happens if another process has made another one since.
        """
        for folder in filter(None, (self._folder, self._instead)):
            for found in self._generations(folder, key):
                if directory is None or found == directory:
                    unseal(found)
                    remove_unheld(found)

    def entries(self) -> list[Entry]:
        """All that is there, the one used last first."""
        return [entry for entry in entries(self._cache_dir) if entry.directory.parent == self._folder]

    def remove(self, keys: Iterable[str]) -> list[Entry]:
        """Remove those with KEYS; returns the ones that stay, because a process holds them or others stand on them."""
        wanted = set(keys)
        return pruning.remove([entry for entry in self.entries() if entry.key in wanted], self._cache_dir)

    def prune(self) -> None:
        """Remove what is too old or too much, as `pruning.prune` says."""
        pruning.prune(self._cache_dir, self._limit)

    @property
    def _cache_dir(self) -> Path:
        return self._folder.parent

    def _take(self, folder: Path, key: str, run: str | None) -> Path | None:
        return next((path for path in self._generations(folder, key) if take(path, run=run)), None)

    def _generations(self, folder: Path, key: str) -> list[Path]:
        """The directories that are, or were, KEY, the newest first: old ones stay while processes hold them."""
        found = [path for path in (folder / key, *folder.glob(f"{key}.[0-9]*")) if path.is_dir()]
        return sorted(found, key=_generation, reverse=True)

    def _make(self, folder: Path, key: str, make: Callable[[Path], None], title: str, run: str | None) -> Path:
        """Make it and publish it: whole, or not at all. Under its lock."""
        for half in folder.glob(f"{HALF}{key}-*"):
            shutil.rmtree(half, ignore_errors=True)
        new = Path(tempfile.mkdtemp(prefix=f"{HALF}{key}-", dir=folder))
        try:
            with _SpaceLeft(new, f"{self._what} '{title}'"):
                make(new)
                seal(new, title, run, self._cache_dir)
            left = [path for path in self._generations(folder, key) if not remove_unheld(path)]
            directory = folder / (f"{key}.{_generation(left[0]) + 1}" if left else key)
            publish_held(new, directory)
        finally:
            shutil.rmtree(new, ignore_errors=True)
        return directory

    def _writable(self) -> Path:
        try:
            make_private_directory(self._folder)
            with tempfile.TemporaryFile(dir=self._folder):
                return self._folder
        except OSError as error:
            if self._instead is None or error.errno in _NO_SPACE:
                raise SystemFailure(f"the cache {self._folder} cannot be written: {error.strerror}") from error
            _warn(self._folder, f"({error.strerror}): {self._what}s are made for this run only")
            return make_private_directory(self._instead)


class _SpaceLeft:
    """Says that the disk is full, whatever others make of it: QEMU is killed when its guest's memory has no room."""

    def __init__(self, new: Path, what: str) -> None:
        self._new = new
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """:raise SystemFailure: when there was an error, and no space is left."""
        said = isinstance(error, OSError) and error.errno in _NO_SPACE
        if said or (isinstance(error, Exception) and _free_bytes(self._new) < FULL_BYTES):
            there = f"{disk_bytes(self._new) >> 20} MiB"
            seen = next(iter(str(error).splitlines()), repr(error))
            raise SystemFailure(
                f"no space is left in {self._new.parent} for the {self._what}, of which {there} were there: "
                f"'embedvm cache rm' makes room, --embedvm-cache-dir chooses another place ({seen})"
            ) from error


def _generation(directory: Path) -> int:
    number = directory.name.partition(".")[2]
    return int(number) if number.isdecimal() else 1


def _free_bytes(folder: Path) -> int:
    status = os.statvfs(folder)
    free = status.f_bfree if os.geteuid() == 0 else status.f_bavail
    return free * status.f_frsize


_warned: set[Path] = set()


def _warn(folder: Path, why: str) -> None:
    """Say so, once in the life of this process."""
    if folder not in _warned:
        _warned.add(folder)
        warnings.warn(f"the cache {folder} cannot be written {why}", stacklevel=4)
