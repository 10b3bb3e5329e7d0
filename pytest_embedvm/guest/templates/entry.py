"""One directory of the cache that was made once, and is used until it is no longer what was made."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self, cast

from pytest_embedvm.files import HALF, PRIVATE_DIRECTORY, lock_holders, write_atomically
from pytest_embedvm.guest.image.hold import hold_directory
from pytest_embedvm.guest.templates.contents import backing_file

#: What is kept in a cache, by the name of its directory there.
KINDS: Final = {"templates": "template", "images": "image"}

_MANIFEST: Final = "entry.json"
#: A block of st_blocks, whatever the file system's are.
_BLOCK_BYTES: Final = 512

#: What reading something else than a manifest raises.
_DAMAGED: Final = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


@dataclass(frozen=True)
class Entry:
    """A template or an image in a cache, as it was when it was looked at."""

    directory: Path
    key: str
    #: A word of `KINDS`.
    kind: str
    title: str
    #: Bytes on the disk: holes take none.
    size: int
    #: In seconds since 1970.
    last_used: float
    #: The processes that were given it, as far as the kernel shows them.
    holders: tuple[int, ...]
    #: The directories of what it cannot do without.
    stands_on: frozenset[Path]
    #: Whether it is as it was made, and what it stands on is there.
    whole: bool

    @property
    def held(self) -> bool:
        return bool(self.holders)

    @classmethod
    def of(cls, directory: Path) -> Self:
        """:raise OSError: when it is gone."""
        manifest = _Manifest.of(directory)
        return cls(
            directory=directory,
            key=directory.name.partition(".")[0],
            kind=KINDS.get(directory.parent.name, directory.parent.name),
            title=manifest.title if manifest else "",
            size=disk_bytes(directory),
            last_used=directory.stat().st_mtime,
            holders=lock_holders(directory),
            stands_on=frozenset(manifest.stands_on if manifest else ()),
            whole=is_whole(directory),
        )


@dataclass(frozen=True)
class _Manifest:
    title: str
    #: The run that made it anew, if one did.
    run: str | None
    files: dict[str, list[int]]
    stands_on: tuple[Path, ...]

    @classmethod
    def of(cls, directory: Path) -> Self | None:
        try:
            noted = cast("dict[str, Any]", json.loads((directory / _MANIFEST).read_bytes()))
            # Relative to the cache: that may have been moved.
            above = tuple(directory.parent.parent / str(name) for name in noted["stands_on"])
            return cls(str(noted["title"]), noted["run"], dict(noted["files"]), above)
        except _DAMAGED:
            return None


def entries(cache_dir: Path) -> list[Entry]:
    """All templates and images in CACHE_DIR, the one used last first; what is half made or half removed is none."""
    found = []
    for name in KINDS:
        for directory in _directories(cache_dir / name):
            with suppress(OSError):  # removed by another process
                found.append(Entry.of(directory))
    return sorted(found, key=lambda entry: entry.last_used, reverse=True)


def _directories(folder: Path) -> Iterator[Path]:
    with suppress(OSError):
        yield from (path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(HALF))


def seal(directory: Path, title: str, run: str | None, cache_dir: Path) -> None:
    """Note what everything in DIRECTORY looks like, once it is on the disk.

    :raise OSError: when it cannot be written.
    """
    files = list(_files(directory))
    for path in files:
        _sync(path)
    looks = {str(path.relative_to(directory)): _looks(path) for path in files}
    above = sorted(str(path.relative_to(cache_dir)) for path in _stands_on(files, cache_dir))
    noted = {"title": title, "run": run, "files": looks, "stands_on": above}
    write_atomically(directory / _MANIFEST, json.dumps(noted).encode())
    directory.chmod(PRIVATE_DIRECTORY)


def unseal(directory: Path) -> None:
    """Let nobody take DIRECTORY any more, if it can be written; who has it already keeps it."""
    with suppress(OSError):
        (directory / _MANIFEST).unlink()


def take(directory: Path, *, run: str | None = None) -> bool:
    """Hold DIRECTORY, and what it stands on, until this process ends; False when it is not there, or not whole.

    :param run: take only what was made anew in this run.
    """
    manifest = _Manifest.of(directory)
    if manifest is None or not _is_as_noted(directory, manifest) or (run is not None and manifest.run != run):
        return False  # and not held: it is to go
    return hold_directory(directory) and all(take(below) for below in manifest.stands_on)


def is_whole(directory: Path) -> bool:
    """Whether DIRECTORY, and what it stands on, is as it was made."""
    manifest = _Manifest.of(directory)
    return manifest is not None and _is_as_noted(directory, manifest) and all(map(is_whole, manifest.stands_on))


def disk_bytes(directory: Path) -> int:
    """What DIRECTORY takes of the disk, in bytes."""
    seen: dict[tuple[int, int], int] = {}
    for path in (directory, *directory.rglob("*")):
        with suppress(OSError):
            status = path.lstat()
            seen[status.st_dev, status.st_ino] = status.st_blocks * _BLOCK_BYTES
    return sum(seen.values())


def _is_as_noted(directory: Path, manifest: _Manifest) -> bool:
    try:
        return all(_looks(directory / name) == looks for name, looks in manifest.files.items())
    except OSError:
        return False


def _files(directory: Path) -> Iterator[Path]:
    return (path for path in sorted(directory.rglob("*")) if path.is_file() and not path.is_symlink())


def _looks(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _stands_on(files: Iterable[Path], cache_dir: Path) -> set[Path]:
    """The directories of the cache that have images in them which FILES stand on."""
    found = set()
    for file in files:
        below, seen = backing_file(file), {file}
        while below is not None and below not in seen:
            seen.add(below)
            if (directory := _entry_of(below, cache_dir)) and directory not in file.parents:
                found.add(directory)
            below = backing_file(below)
    return found


def _entry_of(path: Path, cache_dir: Path) -> Path | None:
    """The directory in CACHE_DIR that PATH is in."""
    for name in KINDS:
        folder = (cache_dir / name).resolve()
        if path.resolve().is_relative_to(folder):
            return cache_dir / name / path.resolve().relative_to(folder).parts[0]
    return None
